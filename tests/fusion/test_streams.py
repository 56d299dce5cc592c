"""Consensus against literal rules on small tables; fusion joins by video and frame, never by position."""

import dataclasses
from math import exp

import numpy as np
import pytest
import scipy.stats

from tests.tables import CLASSES, make_table
from twostream.errors import BadInputError
from twostream.fusion import streams
from twostream.fusion.consensus import Consensus, group_by_clips, softmax
from twostream.report.results import build_report

SOFTMAX_MEAN = Consensus.parse("softmax-mean")

# One video, three clips, two classes. Softmax of (0, ln 3) is (1/4, 3/4); of (0, 0) is (1/2, 1/2).
LN3 = float(np.log(3))
CLIPS = [[0.0, LN3], [0.0, 0.0], [LN3, 0.0]]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("mean", [LN3 / 3, LN3 / 3]),
        ("max", [LN3, LN3]),
        ("clstk-1", [LN3, LN3]),
        ("clstk-2", [LN3 / 2, LN3 / 2]),  # class 0: ln 3 and 0; the better two differ by class
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
def test_class_wise_top_k_is_sort_and_take_the_best(k, on_softmax):
    """FORMATS 1.9: per class, sort over frames, mean of the best min(k, T); here the number of frames T varies."""
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
    one, other = (Consensus.parse(rule).video_scores(make_table(part)) for part in (logits, logits[order]))
    np.testing.assert_allclose(one, other, rtol=1e-12)  # sums in another order


@pytest.mark.parametrize("rule", ["mean", "max", "clstk-1", "clstk-30"])
def test_one_frame_is_its_own_consensus(rule):
    table = make_table(frames=1)
    np.testing.assert_array_equal(Consensus.parse(rule).video_scores(table), table.logits)


def test_videos_without_clips_have_no_score():
    table = make_table(video_index=[0, 0, 2])  # "b", "b", "c": nothing of "a"
    result = SOFTMAX_MEAN.video_scores(table)
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
def test_consensus_is_read_as_it_is_written(text, written):
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


def test_fuse_is_a_weighted_mean():
    one, other = np.array([[1.0, 0.0]]), np.array([[0.0, 4.0]])
    np.testing.assert_allclose(streams.fuse([one, other], (1.0, 1.0)), [[0.5, 2.0]])
    np.testing.assert_allclose(streams.fuse([one, other], (1.0, 3.0)), [[0.25, 3.0]])
    np.testing.assert_array_equal(streams.fuse([one, other], (2.0, 0.0)), one)
    np.testing.assert_array_equal(streams.fuse([one, np.full((1, 2), np.nan)], (1.0, 1.0)), [[np.nan, np.nan]])


def report_of(*tables, weights=(1.0, 1.0), consensus=SOFTMAX_MEAN, **options):
    return build_report(list(tables), ["RGB", "Flow"][: len(tables)], consensus=consensus, weights=weights, **options)


def test_rows_are_joined_by_video_and_frame():
    """Shuffled rows, and videos listed in another order, change nothing at all."""
    rgb, flow = make_table(seed=1), make_table(seed=2, input_type="farneback")
    truth = report_of(rgb, flow)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        rows, videos = rng.permutation(9), rng.permutation(3)
        shuffled = dataclasses.replace(
            flow,
            video_ids=flow.video_ids[videos],
            labels=flow.labels[videos],
            video_index=np.argsort(videos)[flow.video_index][rows],
            **{name: getattr(flow, name)[rows] for name in ("start", "view", "logits")},
        ).sorted()
        assert report_of(rgb, shuffled) == truth


def test_common_rows_of_different_clip_steps():
    """Frames 0 2 4 6 8 10 against 0 3 6 9: both have 0 and 6."""
    one = make_table(frames=6, clip_step=2)
    other = make_table(frames=4, clip_step=3, input_type="farneback")
    rows = streams.common_rows([one, other])
    for table, chosen in zip((one, other), rows, strict=True):
        assert table.start[chosen].tolist() == [0, 6] * 3
        assert table.video_index[chosen].tolist() == [0, 0, 1, 1, 2, 2]
    assert report_of(one, other, intersect=True).rows[-1].num_frames == 6
    with pytest.raises(
        BadInputError, match="3 videos of which RGB and Flow scored different frames .*'a'.*--intersect"
    ):
        report_of(one, other)


def test_streams_without_a_common_frame_are_refused():
    one = make_table(frames=1)
    other = make_table(video_index=[0, 1, 2], start=[1, 1, 1])
    with pytest.raises(BadInputError, match="RGB and Flow have no frame in common"):
        report_of(one, other, intersect=True)


def test_all_weight_on_one_stream_is_that_stream():
    """Of the frames too: softmax keeps the order of the logits."""
    rgb, flow = make_table(seed=1), make_table(seed=2, input_type="farneback")
    for position, weights in enumerate([(1.0, 0.0), (0.0, 2.5)]):
        rows = report_of(rgb, flow, weights=weights).rows
        assert dataclasses.replace(rows[2], name="") == dataclasses.replace(rows[position], name="")


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"classes": ("jump", "run", "sit")}, "4 and 3 classes"),
        ({"classes": ("jump", "run", "sleep", "walk")}, "'sit' and 'sleep'"),
        ({"classes": ("run", "jump", "sit", "walk")}, "'jump' and 'run'"),  # the same ones in another order
        ({"split": "test"}, "'val' and 'test'"),
        ({"labels": (1, 2, 1)}, r"2 videos have different labels .*'a', 'c'"),
        ({"video_ids": ("b", "a", "other")}, r"1 videos listed by RGB .*'c'.*1 videos listed by Flow .*'other'"),
        ({"video_ids": ("b", "a", "c", "d"), "labels": (1, 0, 2, 2)}, r"1 videos .*'d'"),
    ],
)
def test_tables_that_do_not_belong_together(change, difference):
    labels = {"labels": (1, 0, 2)}  # within 3 classes too
    with pytest.raises(BadInputError, match=f"RGB and Flow cannot be fused.*{difference}"):
        report_of(make_table(**labels), make_table(input_type="farneback", **(labels | change)))


def test_fusion_knows_what_neither_stream_knows():
    """The toy world in miniature: one stream sees the colour, the other the direction, both are half right."""
    classes = ("blue_left", "blue_right", "red_left", "red_right")
    ids, labels = list(classes), [0, 1, 2, 3]
    # Each is sure of its half; within it, it leans to the first class for every video.
    rgb = make_table([[3, 2, 0, 0], [3, 2, 0, 0], [0, 0, 3, 2], [0, 0, 3, 2]],
        video_ids=ids, labels=labels, classes=classes, frames=1)  # fmt: skip
    flow = make_table([[3, 0, 2, 0], [0, 3, 0, 2], [3, 0, 2, 0], [0, 3, 0, 2]],
        video_ids=ids, labels=labels, classes=classes, frames=1, input_type="farneback")  # fmt: skip
    report = report_of(rgb, flow, consensus=Consensus.parse("mean"))
    assert [row.video_top1 for row in report.rows] == [0.5, 0.5, 1.0]
    assert [row.mean_class_accuracy for row in report.rows] == [0.5, 0.5, 1.0]


@pytest.mark.parametrize("percent", [1, 10, 25, 34, 49])
def test_trimmed_mean_is_scipys(percent):
    video_index = [0] * 1 + [1] * 7 + [2] * 20
    table = make_table(video_index=video_index, seed=percent)
    result = Consensus.parse(f"trimmed-{percent}").video_scores(table)
    for video in range(3):
        rows = table.logits[table.video_index == video].astype(float)
        # The rows are summed in another order, and what is trimmed is subtracted from the sum.
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


def test_views_of_a_time_stay_together():
    """Two crops of each of three times: the middle segment is both crops of the second time."""
    table = make_table(video_ids=["v"], labels=[0], frames=6)
    table = dataclasses.replace(
        table, start=np.repeat([0, 5, 10], 2).astype(np.int32), view=np.tile([0, 1], 3).astype(np.int16)
    )
    np.testing.assert_allclose(
        Consensus.parse("segment-1").video_scores(table), [table.logits[2:4].astype(float).mean(0)]
    )


def test_groups_hold_each_video_once_whatever_the_clips():
    """Videos of 0 to 7 clips in two tables: the rows of a group are those of its videos, in order."""
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
            for video, of_video in zip(group.videos, rows, strict=True):
                assert of_video.tolist() == np.flatnonzero(table.video_index == video).tolist()
    scored = set(tables[0].video_index.tolist()) | set(tables[1].video_index.tolist())
    assert sorted(seen) == sorted(scored)


def drop(table, videos):
    """Without some videos, in the list too."""
    return table.only(np.setdiff1d(table.video_ids, videos))


def test_intersect_takes_what_both_have():
    one, other = make_table(seed=1, labels=(1, 0, 2)), make_table(seed=2, labels=(1, 0, 2))
    report = report_of(drop(one, ["a"]), drop(other, ["c"]), intersect=True)
    assert report == dataclasses.replace(
        report_of(drop(one, ["a", "c"]), drop(other, ["a", "c"])), differences=report.differences
    )
    assert report.differences == {
        "videos listed by RGB and not by all": ["c"], "videos listed by Flow and not by all": ["a"]
    }  # fmt: skip
    with pytest.raises(BadInputError, match="cannot be fused"):  # nothing in common is no intersection
        report_of(drop(one, ["a", "b"]), drop(other, ["c"]), intersect=True)


@pytest.mark.parametrize(("clip_len", "stride", "missing", "fits"), [
    (5, 1, [4, 5], True),  # the last starts of each video, of 6
    (2, 4, [5], True),
    (1, 1, [5], False),  # as long: the last frames were lost
    (5, 1, [0], False),
    (5, 1, [2, 5], False),
])  # fmt: skip
def test_longer_clips_start_less_late(clip_len, stride, missing, fits):
    """RGB of single frames with flow of stacked ones, as the papers have it, is no mismatch."""
    rgb, flow = make_table(frames=6), make_table(frames=6, input_type="farneback")
    kept = ~np.isin(np.arange(18) % 6, missing)
    flow = dataclasses.replace(
        flow, stream=flow.stream | {"clip_len": clip_len, "frame_stride": stride},
        **{name: getattr(flow, name)[kept] for name in ("video_index", "start", "view", "logits")},
    )  # fmt: skip
    if fits:
        assert report_of(rgb, flow).rows[-1].num_frames == 3 * (6 - len(missing))
        assert report_of(flow, rgb).differences == {}
    else:
        with pytest.raises(BadInputError, match="3 videos of which RGB and Flow scored different frames"):
            report_of(rgb, flow)


def test_unscored_videos_of_the_split_are_no_mismatch():
    one, other = make_table(video_index=[0, 0, 1, 1]), make_table(video_index=[1, 1, 2, 2])
    assert report_of(one, other).rows[-1].num_unscored == 2


def mismatched(seed):
    """A pair of tables that do not belong together in one way, drawn at random."""
    rng = np.random.default_rng(seed)
    ids = [f"v{n:02d}" for n in range(12)]
    labels = rng.integers(0, 4, 12).astype(np.int32)
    one, other = (make_table(video_ids=ids, labels=labels, seed=seed + k) for k in range(2))
    way = ("drop", "add", "rename", "label", "classes", "split", "start", "frames", "view")[seed % 9]
    video = rng.integers(12)
    if way == "drop":
        other = drop(other, [ids[video]])
    if way == "add":
        one = drop(one, [ids[video]])
    if way == "rename":
        names = other.video_ids.astype("U8")
        names[video] += "x"
        other = dataclasses.replace(other, video_ids=names)
    if way == "label":
        changed = labels.copy()
        changed[video] = (changed[video] + 1) % 4
        other = dataclasses.replace(other, labels=changed)
    if way == "classes":
        other = dataclasses.replace(other, stream=other.stream | {"classes": [*np.roll(CLASSES, 1 + seed % 3)]})
    if way == "split":
        other = dataclasses.replace(other, split="test")
    if way in ("start", "view"):
        array = getattr(other, way).copy()
        array[3 * video + 2] += 1
        other = dataclasses.replace(other, **{way: array})
    if way == "frames":
        kept = np.arange(36) != 3 * video + rng.integers(3)
        other = dataclasses.replace(
            other, **{name: getattr(other, name)[kept] for name in ("video_index", "start", "view", "logits")}
        )
    return way, ids[video], one, other


@pytest.mark.parametrize("seed", range(100))
def test_mismatched_pairs_are_refused_by_name(seed):
    way, video, one, other = mismatched(seed)
    with pytest.raises(BadInputError, match="RGB and Flow cannot be fused") as caught:
        report_of(one, other)
    message = str(caught.value)
    assert "\n" not in message
    if way not in ("classes", "split"):
        assert f"'{video}" in message
    if way in ("classes", "split", "label"):
        with pytest.raises(BadInputError, match="cannot be fused"):
            report_of(one, other, intersect=True)
    else:
        assert "--intersect" in message
        assert video in str(report_of(one, other, intersect=True).differences)
