"""The result table: rates with their denominators, computed by hand; comparisons; report.json."""

import dataclasses
import json
import re

import numpy as np
import pytest

from tests.report.small_reports import SIX, build, make_streams
from tests.tables import make_table
from twostream.errors import BadInputError
from twostream.metrics.accuracy import calibration_error
from twostream.report.results import COLUMNS, MORE_COLUMNS, write_json
from twostream.report.text import to_text


def test_rates_and_denominators_by_hand():
    rgb, flow, both = build(*make_streams()).rows
    assert [row.name for row in (rgb, flow, both)] == ["RGB", "Flow", "RGB+Flow"]

    # Frames: 1 of 5 in top-1, 4 of 5 in top-3. Videos: a is right; b and c are second; d has no score and is wrong.
    assert (rgb.num_frames, rgb.num_videos, rgb.num_unscored) == (5, 4, 1)
    assert (rgb.frame_top1, rgb.frame_top3) == pytest.approx((1 / 5, 4 / 5))
    assert (rgb.video_top1, rgb.video_top5) == pytest.approx((1 / 4, 3 / 4))
    assert rgb.mean_error == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert rgb.mean_class_accuracy == pytest.approx((1 / 2 + 0 + 0) / 3)  # classes 0, 1 and 5 occur

    # All four frames and three videos are right; c has no score and is wrong.
    assert (flow.num_frames, flow.num_videos, flow.num_unscored) == (4, 4, 1)
    assert (flow.frame_top1, flow.frame_top3, flow.video_top1, flow.video_top5) == pytest.approx((1, 1, 3 / 4, 3 / 4))
    assert flow.mean_class_accuracy == pytest.approx((1 + 0 + 1) / 3)

    # Common frames: a2 (scores 1 5 0 0 0 1: classes 0 and 5 tie behind class 1, so class 0 is wrong in top-1 and right in
    # top-3) and b2 (13 5 0 0 0 0: right). Common videos: a and b, both right; c and d lack a stream and are wrong.
    assert (both.num_frames, both.num_videos, both.num_unscored) == (2, 4, 2)
    assert (both.frame_top1, both.frame_top3) == pytest.approx((1 / 2, 1))
    assert (both.video_top1, both.video_top5) == pytest.approx((2 / 4, 2 / 4))
    assert both.mean_error == pytest.approx(1 / 2)
    assert both.mean_class_accuracy == pytest.approx((1 + 0 + 0) / 3)


def test_unscored_videos_are_listed_by_row():
    report = build(*make_streams())
    assert report.unscored == {"RGB": ["d"], "Flow": ["c"], "RGB+Flow": ["c", "d"]}
    text = to_text(report)
    assert "RGB: 5 frames; 3 of 4 videos scored\n  counted as wrong: d\n" in text
    assert "  top-1 33.33, top-5 100.00 of the 3 that it scored\n" in text
    assert "  top-1 50.00, top-5 100.00 of the 2 that all streams scored\n" in text
    assert "RGB+Flow: 2 frames; 2 of 4 videos scored\n  counted as wrong: c, d" in text


def test_videos_without_label_do_not_count():
    table = make_table(labels=(1, -1, 3))  # "a" has no label
    (row,) = build(table).rows
    assert (row.num_frames, row.num_videos, row.num_unscored) == (6, 2, 0)
    assert build(make_table(labels=(1, -1, 3), video_index=[0, 2])).unscored == {"RGB": []}


def test_split_without_labels_is_refused():
    with pytest.raises(BadInputError, match="RGB: split 'test' has no labels"):
        build(make_table(labels=(-1, -1, -1), split="test"))


def test_one_stream_is_not_fused():
    report = build(make_table())
    assert [row.name for row in report.rows] == ["RGB"]
    assert len(report.sources) == 1


def test_three_streams():
    tables = [make_table(seed=seed, input_type=t) for seed, t in enumerate(("rgb", "farneback", "dis"))]
    report = build(*tables, weights=(1.0, 2.0, 0.5))
    assert [row.name for row in report.rows] == ["RGB", "Flow", "DIS", "RGB+Flow+DIS", "RGB+Flow+DIS 1:1"]
    logits = sum(w * t.logits.astype(float) for w, t in zip((1, 2, 0.5), tables, strict=True))
    right = logits.argmax(axis=1) == tables[0].row_labels
    assert report.rows[3].frame_top1 == pytest.approx(right.mean())
    equal = build(*tables).rows[3]
    assert dataclasses.replace(report.rows[4], name=equal.name) == equal


def test_the_third_stream_must_have_the_same_labels_too():
    with pytest.raises(BadInputError, match="RGB and DIS cannot be fused"):
        build(make_table(), make_table(), make_table(labels=(0, 0, 0)))


def test_json_has_all_measures_and_the_sources(tmp_path):
    report = build(*make_streams(), weights=(1.0, 1.5))
    write_json(tmp_path / "report.json", report)
    content = json.loads((tmp_path / "report.json").read_text())
    keys = {"version", "rows", "consensus", "weights", "split", "num_classes", "unscored", "sources"}
    assert content.keys() == keys | {"differences", "comparisons", "fitted", "sweep"}
    assert content["version"] == 1 and content["weights"] == [1.0, 1.5] and content["consensus"] == "mean"
    counts = {"num_frames", "num_videos", "num_unscored"}
    intervals = {"video_top1_interval", "video_top5_interval"}
    assert all(
        row.keys() == {"name", "denominators", *COLUMNS, *MORE_COLUMNS, *counts, *intervals} for row in content["rows"]
    )
    assert [row["video_top1"] for row in content["rows"]] == [row.video_top1 for row in report.rows]
    assert [source["stream"]["input_type"] for source in content["sources"]] == ["rgb", "farneback"]
    assert all(source["provenance"]["checkpoint"] for source in content["sources"])


# ------------------------------------------------------------------------------------------- three denominators, null


def test_three_denominators_by_hand():
    """RGB did not score d, flow did not score c, both scored a and b."""
    rgb, flow, both = build(*make_streams()).rows
    assert {name: rates.num_videos for name, rates in rgb.denominators.items()} == {
        "official": 4, "scored": 3, "intersection": 2,
    }  # fmt: skip
    assert [rates.video_top1 for rates in rgb.denominators.values()] == pytest.approx([1 / 4, 1 / 3, 1 / 2])
    assert [rates.video_top1 for rates in flow.denominators.values()] == pytest.approx([3 / 4, 1, 1])
    assert [rates.video_top1 for rates in both.denominators.values()] == pytest.approx([2 / 4, 1, 1])
    assert [rates.mean_error for rates in rgb.denominators.values()] == pytest.approx([1 / 2, 1 / 3, 1 / 4])
    for row in (rgb, flow, both):
        assert row.denominators["official"].video_top5 == row.video_top5


def refuse_constant(name):
    raise AssertionError(f"{name} in JSON")


def test_rates_of_nothing_are_null(tmp_path):
    """The only video with clips has no label, so no frame counts; and no video that counts is scored."""
    table = make_table(video_index=[1, 1], labels=(1, -1, 3), video_ids=("a", "b", "c"))
    write_json(tmp_path / "report.json", build(table))
    (row,) = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse_constant)["rows"]
    assert row["frame_top1"] is None and row["num_frames"] == 0
    assert row["video_top1"] == 0 and row["num_unscored"] == 2
    assert row["denominators"]["scored"]["video_top1"] is None
    assert "RGB |           - |" in to_text(build(table))


def test_streams_without_a_common_video_are_refused(tmp_path):
    rgb, flow = make_table(video_index=[0, 0]), make_table(video_index=[1, 1])
    with pytest.raises(BadInputError, match="have scored no video in common"):
        build(rgb, flow)


# ----------------------------------------------------------------------------------------------------- what it claims


def half_right(num_videos=200):
    """Two streams that are each right for half of the videos, and together for all of them."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, num_videos)
    truth = 6.0 * (labels[:, None] == np.arange(6))
    knows = np.arange(num_videos)[:, None] % 2 == 0
    common = {"video_ids": [f"v{n:04d}" for n in range(num_videos)], "labels": labels, "classes": SIX, "frames": 1}
    noise = rng.normal(size=(2, num_videos, 6))
    return make_table(truth * knows + noise[0], **common), make_table(truth * ~knows + noise[1], **common)


def test_the_report_says_that_fusion_helps_if_it_does():
    report = build(*half_right())
    (comparison,) = report.comparisons
    streams = {row.name: row.video_top1 for row in report.rows[:2]}
    assert comparison.name == "RGB+Flow" and comparison.against == max(streams, key=streams.get)
    assert comparison.difference == pytest.approx(report.rows[2].video_top1 - max(streams.values()))
    assert re.search(r"p = \S+: fusion helps$", to_text(report).splitlines()[-1])


def test_the_report_does_not_say_so_of_equal_streams_noise_or_few_videos():
    rgb, flow = half_right()
    assert [c.verdict for c in build(rgb, rgb).comparisons] == ["undecided"]
    noise = dataclasses.replace(flow, logits=np.random.default_rng(3).normal(size=flow.logits.shape).astype(np.float32))
    (comparison,) = build(rgb, noise, weights=(1.0, 20.0)).comparisons[:1]
    assert comparison.verdict == "worse"
    few = build(*half_right(6))
    assert "undecided whether fusion helps" in to_text(few) and ": fusion helps\n" not in to_text(few)


def test_fitted_weights_have_rows_of_their_own():
    methods = ("global", "class", "temperature")
    report = build(*half_right(), consensus="softmax-mean", fit=methods)
    assert [row.name for row in report.rows[2:]] == ["RGB+Flow", *(f"RGB+Flow fitted: {m}" for m in methods)]
    assert report.rows[3].num_frames == 0 and np.isnan(report.rows[3].frame_top1)
    pairs = {(c.name, c.against) for c in report.comparisons}
    assert {(f"RGB+Flow fitted: {m}", "RGB+Flow") for m in methods} <= pairs
    weights = np.array(report.fitted["RGB+Flow fitted: global"]["of_all_videos"]["weights"])
    assert weights.sum() == pytest.approx(1) and np.abs(weights - 0.5).max() < 0.1  # both are right equally often
    assert "each video is fused by weights fitted on the other 4 of 5 folds" in to_text(report)
    assert report.predictions.main == "RGB+Flow", "what --write writes is fitted on no label, unless asked for"


@pytest.mark.parametrize("consensus", ["mean", "softmax-mean"])
def test_calibration_of_mixtures_is_that_of_their_probabilities(consensus):
    """Mixtures are probabilities, whether the streams' scores are logits or softmax."""
    report = build(*half_right(2000), consensus=consensus, fit=("global",))
    name = "RGB+Flow fitted: global"
    assert report.rows[-1].calibration_error == pytest.approx(
        calibration_error(report.predictions.scores[name], report.predictions.labels)
    )
