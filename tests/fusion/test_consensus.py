"""Consensus rules against literal implementations on small tables, and groups of videos with equal clips."""

import dataclasses
from math import exp

import numpy as np
import pytest
import scipy.stats

from tests.tables import CLASSES, make_table
from twostream.fusion.consensus import Consensus, group_by_clips, sigmoid, softmax

# One video, three clips, two classes. Softmax of (0, ln 3) is (1/4, 3/4); of (0, 0) is (1/2, 1/2).
LN3 = float(np.log(3))
CLIPS = [[0.0, LN3], [0.0, 0.0], [LN3, 0.0]]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("mean", [LN3 / 3, LN3 / 3]),
        ("max", [LN3, LN3]),
        ("clstk-1", [LN3, LN3]),
        ("clstk-2", [LN3 / 2, LN3 / 2]),  # class 0: ln 3 and 0; the best two clips differ by class
        ("clstk-3", [LN3 / 3, LN3 / 3]),
        ("clstk-50", [LN3 / 3, LN3 / 3]),  # more than there are: all of them
        ("softmax-mean", [1 / 2, 1 / 2]),
        ("softmax-max", [3 / 4, 3 / 4]),
        ("softmax-clstk-2", [5 / 8, 5 / 8]),
        ("trimmed-34", [0, 0]),
        ("segment-1", [0, 0]),
        ("segment-9", [LN3 / 3, LN3 / 3]),
    ],
)
def test_consensus_by_hand(rule, expected):
    table = make_table(CLIPS, video_ids=["v"], labels=[0], classes=("no", "yes"))
    # Logits are stored as float32, whose rounding is 6e-8 of the value.
    np.testing.assert_allclose(Consensus.parse(rule).video_scores(table), [expected], rtol=1e-6)


@pytest.mark.parametrize("on_softmax", [False, True])
@pytest.mark.parametrize("k", [1, 2, 5, 10, 30])
def test_class_wise_top_k_is_the_mean_of_the_best_k(k, on_softmax):
    """2D-kinectics' rule: for each class, sort the frames, mean of the best min(k, T); the number of frames T varies."""
    video_index = [0] * 1 + [1] * 4 + [2] * 12
    table = make_table(video_index=video_index, seed=k)
    result = Consensus("clstk", k, on_softmax).video_scores(table)
    for video in range(3):
        rows = table.logits[table.video_index == video].astype(float).tolist()
        if on_softmax:
            rows = [[exp(x) / sum(map(exp, row)) for x in row] for row in rows]
        for label in range(len(CLASSES)):
            best = sorted((row[label] for row in rows), reverse=True)[:k]
            # float64 sums in another order: a few units in the last place.
            assert result[video, label] == pytest.approx(sum(best) / len(best), rel=1e-12)


@pytest.mark.parametrize("rule", ["mean", "max", "clstk-2", "softmax-mean", "softmax-max", "softmax-clstk-2"])
def test_order_of_frames_does_not_matter(rule):
    logits = np.random.default_rng(0).normal(size=(9, 4))
    order = np.concatenate([3 * v + np.random.default_rng(v).permutation(3) for v in range(3)])
    ordered, shuffled = (Consensus.parse(rule).video_scores(make_table(part)) for part in (logits, logits[order]))
    np.testing.assert_allclose(ordered, shuffled, rtol=1e-12)  # sums in another order


@pytest.mark.parametrize("rule", ["mean", "max", "clstk-1", "clstk-30"])
def test_one_frame_is_its_own_consensus(rule):
    table = make_table(frames=1)
    np.testing.assert_array_equal(Consensus.parse(rule).video_scores(table), table.logits)


def test_videos_without_clips_have_no_score():
    table = make_table(video_index=[0, 0, 2])  # "b", "b", "c", but no clip of "a"
    result = Consensus.parse("softmax-mean").video_scores(table)
    assert table.video_ids.tolist() == ["a", "b", "c"]
    assert np.isnan(result).all(axis=1).tolist() == [True, False, False]
    assert table.unscored_ids == ["a"]


def test_softmax_does_not_overflow():
    np.testing.assert_allclose(softmax(np.array([[1000.0, 1000.0], [-1000.0, 0.0]])), [[0.5, 0.5], [0, 1]])


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("mean", "mean"),
        ("max", "max"),
        ("clstk-30", "clstk-030"),
        ("clstk-030", "clstk-030"),  # 2D-kinectics' file names
        ("softmax-clstk-1000", "softmax-clstk-1000"),
        ("softmax-mean", "softmax-mean"),
        ("trimmed-05", "trimmed-5"),
        ("softmax-segment-3", "softmax-segment-3"),
    ],
)
def test_a_consensus_is_read_as_it_is_written(text, written):
    rule = Consensus.parse(text)
    assert str(rule) == written
    assert Consensus.parse(written) == rule


@pytest.mark.parametrize(
    "text",
    [
        "",
        "median",
        "clstk",
        "clstk-",
        "clstk-0",
        "clstk--1",
        "clstk-1.5",
        "mean-3",
        "softmax",
        "Mean",
        "mean ",
        "trimmed-50",
        "trimmed",
        "segment-0",
    ],
)
def test_unknown_consensus_is_refused(text):
    with pytest.raises(ValueError, match="expected mean, max, clstk-K"):
        Consensus.parse(text)


@pytest.mark.parametrize("percent", [1, 10, 25, 34, 49])
def test_trimmed_mean_equals_scipy(percent):
    video_index = [0] * 1 + [1] * 7 + [2] * 20
    table = make_table(video_index=video_index, seed=percent)
    result = Consensus.parse(f"trimmed-{percent}").video_scores(table)
    for video in range(3):
        rows = table.logits[table.video_index == video].astype(float)
        # The rows are summed in another order, and the trimmed scores are subtracted from the sum.
        np.testing.assert_allclose(
            result[video], scipy.stats.trim_mean(rows, percent / 100, axis=0), rtol=1e-12, atol=1e-13
        )


@pytest.mark.parametrize(
    ("frames", "segments", "middle"), [(9, 3, [1, 4, 7]), (10, 2, [2, 7]), (5, 1, [2]), (3, 8, [0, 1, 2])]
)
def test_segments_are_the_middles_of_equal_parts(frames, segments, middle):
    table = make_table(frames=frames)
    result = Consensus.parse(f"segment-{segments}").video_scores(table)
    expected = table.logits.reshape(3, frames, 4)[:, middle].astype(float).mean(axis=1)
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_views_of_a_start_stay_together():
    """Two crops at each of three starts: the middle segment is both crops of the second start."""
    table = make_table(video_ids=["v"], labels=[0], frames=6)
    table = dataclasses.replace(
        table, start=np.repeat([0, 5, 10], 2).astype(np.int32), view=np.tile([0, 1], 3).astype(np.int16)
    )
    np.testing.assert_allclose(
        Consensus.parse("segment-1").video_scores(table), [table.logits[2:4].astype(float).mean(0)]
    )


def test_groups_have_each_video_once():
    """Videos with 0 to 7 clips in two tables: the rows of a group are those of its videos, in order."""
    rng = np.random.default_rng(0)
    ids, labels = [f"v{n}" for n in range(40)], [0] * 40
    tables = [
        make_table(video_ids=ids, labels=labels, video_index=np.repeat(np.arange(40), rng.integers(0, 8, 40)))
        for _ in range(2)
    ]
    seen = []
    for group in group_by_clips(tables):
        seen += group.videos.tolist()
        for table, rows, ordinals in zip(tables, group.rows, group.ordinals, strict=True):
            assert ordinals.tolist() == list(range(rows.shape[1]))
            for video, video_rows in zip(group.videos, rows, strict=True):
                assert video_rows.tolist() == np.flatnonzero(table.video_index == video).tolist()
    scored = set(tables[0].video_index.tolist()) | set(tables[1].video_index.tolist())
    assert sorted(seen) == sorted(scored)


# -------------------------------------------------------------------------------------------------------- multi-label


@pytest.mark.parametrize("text", ["mean", "softmax-mean", "sigmoid-mean", "softmax-max"])
def test_rules_of_multi_label_tables_use_sigmoids(text):
    """Against NumPy; a rule on probabilities is called sigmoid-, whatever it was called before."""
    table = make_table(labels=((0, 1, 0, 1), (0, 0, 0, 0), (-1, -1, -1, -1)), multi_label=True, frames=5)
    rule = Consensus.parse(text)
    logits = table.logits.reshape(3, 5, 4).astype(np.float64)
    clips = logits if text == "mean" else 1 / (1 + np.exp(-logits))
    expected = clips.max(axis=1) if text.endswith("max") else clips.mean(axis=1)
    np.testing.assert_allclose(rule.video_scores(table), expected, rtol=1e-12)
    rule = rule.for_labels(multi_label=True)
    assert str(rule) == text.replace("softmax", "sigmoid") and Consensus.parse(str(rule)).video_scores(table).shape == (
        3,
        4,
    )
    shares = 1 / (1 + np.exp(-expected)) if text == "mean" else expected
    np.testing.assert_allclose(rule.probabilities(expected), shares, rtol=1e-12)


def test_sigmoids_are_for_multi_label_videos():
    with pytest.raises(
        ValueError, match="consensus sigmoid-clstk-003 is for multi-label videos; use softmax-clstk-003"
    ):
        Consensus.parse("sigmoid-clstk-3").video_scores(make_table())
    assert str(Consensus.parse("softmax-mean").for_labels(multi_label=False)) == "softmax-mean"
    np.testing.assert_allclose(sigmoid(np.array([-1000.0, 0.0, 1000.0])), [0, 0.5, 1])
