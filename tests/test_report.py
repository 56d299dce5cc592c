"""The result table: hand-computed rates with their denominators, as data, text and JSON."""

import json

import pytest

from tests.tables import make_table
from twostream.errors import BadInputError
from twostream.fusion import Consensus
from twostream.report import COLUMNS, build_report, to_text, write_json

SIX = ("climb", "jump", "lie", "run", "sit", "walk")


def build(*tables, weights=None):
    names = ["RGB", "Flow", "DIS"][: len(tables)]
    return build_report(list(tables), names, consensus=Consensus.parse("mean"), weights=weights or (1.0,) * len(tables))


def world():
    """Videos a b c d of classes 0 0 1 5; RGB has no clip of d, flow none of c. Rates below are by hand."""
    videos = {"video_ids": ("a", "b", "c", "d"), "labels": (0, 0, 1, 5), "classes": SIX}
    rgb = make_table(
        [
            [9, 0, 0, 0, 0, 1],  # a: right
            [0, 5, 0, 0, 0, 1],  # a: 0 ties with three others behind two: wrong, also among three
            [4, 5, 0, 0, 0, 0],  # b: wrong, second
            [4, 5, 0, 0, 0, 0],  # b: the same
            [3, 2, 1, 0, 0, 0],  # c: second
        ],
        video_index=[0, 0, 1, 1, 2], start=[0, 2, 0, 2, 0], **videos,
    )  # fmt: skip
    flow = make_table(
        [
            [1, 0, 0, 0, 0, 0],  # a, frame 2: right
            [9, 0, 0, 0, 0, 0],  # b, frame 2: right
            [9, 0, 0, 0, 0, 0],  # b, frame 4: right
            [0, 0, 0, 0, 0, 7],  # d, frame 0: right
        ],
        video_index=[0, 1, 1, 3], start=[2, 2, 4, 0], input_type="farneback", **videos,
    )  # fmt: skip
    return rgb, flow


def test_rates_and_denominators_by_hand():
    rgb, flow, both = build(*world()).rows
    assert [row.name for row in (rgb, flow, both)] == ["RGB", "Flow", "RGB+Flow"]

    # Frames: 1 of 5 first, 4 of 5 among three. Videos: a right; b and c second; d has no score and is wrong.
    assert (rgb.num_frames, rgb.num_videos, rgb.num_unscored) == (5, 4, 1)
    assert (rgb.frame_top1, rgb.frame_top3) == pytest.approx((1 / 5, 4 / 5))
    assert (rgb.video_top1, rgb.video_top5) == pytest.approx((1 / 4, 3 / 4))
    assert rgb.mean_error == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert rgb.mean_class_accuracy == pytest.approx((1 / 2 + 0 + 0) / 3)  # classes 0, 1 and 5 occur

    # All four frames and three videos right; c has no score and is wrong.
    assert (flow.num_frames, flow.num_videos, flow.num_unscored) == (4, 4, 1)
    assert (flow.frame_top1, flow.frame_top3, flow.video_top1, flow.video_top5) == pytest.approx((1, 1, 3 / 4, 3 / 4))
    assert flow.mean_class_accuracy == pytest.approx((1 + 0 + 1) / 3)

    # Common frames: a2 (1 5 0 0 0 1: 1 and 5 tie for the second place, so class 0 is third: wrong first, right among
    # three) and b2 (13 5 0 0 0 0: right). Common videos: a and b, both right; c and d lack a stream and are wrong.
    assert (both.num_frames, both.num_videos, both.num_unscored) == (2, 4, 2)
    assert (both.frame_top1, both.frame_top3) == pytest.approx((1 / 2, 1))
    assert (both.video_top1, both.video_top5) == pytest.approx((2 / 4, 2 / 4))
    assert both.mean_error == pytest.approx(1 / 2)
    assert both.mean_class_accuracy == pytest.approx((1 + 0 + 0) / 3)


def test_unscored_videos_are_listed_by_row():
    report = build(*world())
    assert report.unscored == {"RGB": ["d"], "Flow": ["c"], "RGB+Flow": ["c", "d"]}
    text = to_text(report)
    assert "RGB: 5 frames; 3 of 4 videos scored\n  counted as wrong: d\n" in text
    assert "RGB+Flow: 2 frames; 2 of 4 videos scored\n  counted as wrong: c, d" in text


def test_long_lists_of_unscored_videos_are_cut_in_the_text_only():
    ids = tuple("abcdefgh")
    report = build(make_table(video_ids=ids, labels=(0,) * 8, video_index=[0, 1], classes=SIX))
    assert report.unscored["RGB"] == list("cdefgh")
    assert "counted as wrong: c, d, e, f, g ..." in to_text(report)


def test_videos_without_label_do_not_count():
    table = make_table(labels=(1, -1, 3))  # "a" has none
    (row,) = build(table).rows
    assert (row.num_frames, row.num_videos, row.num_unscored) == (6, 2, 0)
    assert build(make_table(labels=(1, -1, 3), video_index=[0, 2])).unscored == {"RGB": []}


def test_split_without_labels_is_refused():
    with pytest.raises(BadInputError, match="RGB: split 'test' has no labels"):
        build(make_table(labels=(-1, -1, -1), split="test"))


def test_text_has_all_columns_and_rows():
    lines = to_text(build(*world())).splitlines()
    header = [part.strip() for part in lines[0].split("|")]
    assert header == ["", *COLUMNS.values()]
    cells = {line.split("|")[0].strip(): [c.strip() for c in line.split("|")[1:]] for line in lines[2:5]}
    assert cells == {
        "RGB": ["20.00", "80.00", "25.00", "75.00", "50.00", "16.67"],
        "Flow": ["100.00", "100.00", "75.00", "75.00", "25.00", "66.67"],
        "RGB+Flow": ["50.00", "100.00", "50.00", "50.00", "50.00", "33.33"],
    }
    assert len({len(line) for line in lines[:5]}) == 1  # the columns stand below each other
    assert "split 'val', 6 classes; consensus mean, weights 1, 1" in lines[5]


@pytest.mark.parametrize(("num_classes", "said"), [(2, True), (5, True), (6, False)])
def test_top5_of_few_classes_is_explained(num_classes, said):
    text = to_text(build(make_table(classes=SIX[:num_classes], labels=(0, 1, 1))))
    assert (f"with {num_classes} classes, top-5 is right for every scored video" in text) == said


def test_one_stream_is_not_fused():
    report = build(make_table())
    assert [row.name for row in report.rows] == ["RGB"]
    assert len(report.sources) == 1


def test_three_streams():
    tables = [make_table(seed=seed, input_type=t) for seed, t in enumerate(("rgb", "farneback", "dis"))]
    report = build(*tables, weights=(1.0, 2.0, 0.5))
    assert [row.name for row in report.rows] == ["RGB", "Flow", "DIS", "RGB+Flow+DIS"]
    logits = sum(w * t.logits.astype(float) for w, t in zip((1, 2, 0.5), tables, strict=True))
    right = logits.argmax(axis=1) == tables[0].row_labels
    assert report.rows[-1].frame_top1 == pytest.approx(right.mean())


def test_third_stream_must_fit_too():
    with pytest.raises(BadInputError, match="RGB and DIS cannot be fused"):
        build(make_table(), make_table(), make_table(labels=(0, 0, 0)))


def test_json_says_all_that_the_text_says_and_its_sources(tmp_path):
    report = build(*world(), weights=(1.0, 1.5))
    write_json(tmp_path / "report.json", report)
    content = json.loads((tmp_path / "report.json").read_text())
    assert content.keys() == {
        "version", "rows", "consensus", "weights", "split", "num_classes", "unscored", "sources",
    }  # fmt: skip
    assert content["version"] == 1 and content["weights"] == [1.0, 1.5] and content["consensus"] == "mean"
    counts = {"num_frames", "num_videos", "num_unscored"}
    assert all(row.keys() == {"name", *COLUMNS, *counts} for row in content["rows"])
    assert [row["video_top1"] for row in content["rows"]] == [row.video_top1 for row in report.rows]
    assert [source["stream"]["input_type"] for source in content["sources"]] == ["rgb", "farneback"]
    assert all(source["provenance"]["checkpoint"] for source in content["sources"])
