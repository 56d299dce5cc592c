"""Fusion aligns streams by video and frame, never by position, and refuses streams that do not belong together."""

import dataclasses

import numpy as np
import pytest

from tests.tables import CLASSES, make_table
from twostream.errors import BadInputError
from twostream.fusion import streams
from twostream.fusion.consensus import Consensus
from twostream.report.results import build_report

SOFTMAX_MEAN = Consensus.parse("softmax-mean")


def test_fuse_is_a_weighted_mean():
    rgb, flow = np.array([[1.0, 0.0]]), np.array([[0.0, 4.0]])
    np.testing.assert_allclose(streams.fuse([rgb, flow], (1.0, 1.0)), [[0.5, 2.0]])
    np.testing.assert_allclose(streams.fuse([rgb, flow], (1.0, 3.0)), [[0.25, 3.0]])
    np.testing.assert_array_equal(streams.fuse([rgb, flow], (2.0, 0.0)), rgb)
    np.testing.assert_array_equal(streams.fuse([rgb, np.full((1, 2), np.nan)], (1.0, 1.0)), [[np.nan, np.nan]])


def report_of(*tables, weights=(1.0, 1.0), consensus=SOFTMAX_MEAN, **options):
    return build_report(list(tables), ["RGB", "Flow"][: len(tables)], consensus=consensus, weights=weights, **options)


def test_rows_are_joined_by_video_and_frame():
    """Shuffled rows, and videos listed in another order, change nothing."""
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
    """Frames 0 2 4 6 8 10 and frames 0 3 6 9 have 0 and 6 in common."""
    rgb = make_table(frames=6, clip_step=2)
    flow = make_table(frames=4, clip_step=3, input_type="farneback")
    rows = streams.common_rows([rgb, flow])
    for table, chosen in zip((rgb, flow), rows, strict=True):
        assert table.start[chosen].tolist() == [0, 6] * 3
        assert table.video_index[chosen].tolist() == [0, 0, 1, 1, 2, 2]
    assert report_of(rgb, flow, intersect=True).rows[-1].num_frames == 6
    with pytest.raises(
        BadInputError, match="3 videos of which RGB and Flow scored different frames .*'a'.*--intersect"
    ):
        report_of(rgb, flow)


def test_evenly_spaced_clips_of_different_lengths_are_fused_by_video():
    """As the papers test: 25 frames for RGB, 25 stacks for flow. They begin at other frames, so no frame is fused."""
    rgb = make_table(frames=3, clip_step=9)
    flow = make_table(frames=3, clip_step=8, input_type="farneback")
    with_clips = [
        dataclasses.replace(table, provenance=table.provenance | {"num_clips": 3, "views": "centre"})
        for table in (rgb, flow)
    ]
    report = report_of(*with_clips)
    assert report.differences == {} and report.rows[-1].num_frames == 0 and report.rows[-1].num_videos == 3
    scores = [Consensus.parse("softmax-mean").video_scores(table) for table in (rgb, flow)]
    np.testing.assert_allclose(report.predictions.scores["RGB+Flow"], (scores[0] + scores[1]) / 2)
    with pytest.raises(BadInputError, match="scored different frames"):
        report_of(with_clips[0], flow)
    other_views = dataclasses.replace(with_clips[1], view=with_clips[1].view + 5)
    with pytest.raises(BadInputError, match="scored different frames"):
        report_of(with_clips[0], other_views)


def test_streams_without_a_common_frame_are_fused_by_video_on_request():
    rgb = make_table(frames=1)
    flow = make_table(video_index=[0, 1, 2], start=[1, 1, 1])
    with pytest.raises(BadInputError, match="scored different frames .*--intersect"):
        report_of(rgb, flow)
    report = report_of(rgb, flow, intersect=True)
    assert report.rows[-1].num_frames == 0 and report.rows[-1].num_videos == 3
    scores = [Consensus.parse("softmax-mean").video_scores(table) for table in (rgb, flow)]
    np.testing.assert_allclose(report.predictions.scores["RGB+Flow"], (scores[0] + scores[1]) / 2)


def test_all_weight_on_one_stream_is_that_stream():
    """Also for the frames, because softmax keeps the order of the logits."""
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
        ({"video_ids": ("b", "a", "other")}, r"1 video listed by RGB .*'c'.*1 video listed by Flow .*'other'"),
        ({"video_ids": ("b", "a", "c", "d"), "labels": (1, 0, 2, 2)}, r"1 video .*'d'"),
    ],
)
def test_tables_that_do_not_belong_together_are_refused(change, difference):
    labels = {"labels": (1, 0, 2)}  # valid with 3 classes too
    with pytest.raises(BadInputError, match=f"RGB and Flow cannot be fused.*{difference}"):
        report_of(make_table(**labels), make_table(input_type="farneback", **(labels | change)))


def test_fusion_is_right_where_each_stream_alone_is_half_right():
    """The toy videos in miniature: one stream sees the colour, the other one the direction."""
    classes = ("blue_left", "blue_right", "red_left", "red_right")
    ids, labels = list(classes), [0, 1, 2, 3]
    # Each stream knows the half, and within that half prefers the first class for every video.
    rgb = make_table([[3, 2, 0, 0], [3, 2, 0, 0], [0, 0, 3, 2], [0, 0, 3, 2]],
        video_ids=ids, labels=labels, classes=classes, frames=1)  # fmt: skip
    flow = make_table([[3, 0, 2, 0], [0, 3, 0, 2], [3, 0, 2, 0], [0, 3, 0, 2]],
        video_ids=ids, labels=labels, classes=classes, frames=1, input_type="farneback")  # fmt: skip
    report = report_of(rgb, flow, consensus=Consensus.parse("mean"))
    assert [row.video_top1 for row in report.rows] == [0.5, 0.5, 1.0]
    assert [row.mean_class_accuracy for row in report.rows] == [0.5, 0.5, 1.0]


def drop(table, videos):
    """Without these videos, which are not listed either."""
    return table.only(np.setdiff1d(table.video_ids, videos))


def test_intersect_uses_what_both_have():
    rgb, flow = make_table(seed=1, labels=(1, 0, 2)), make_table(seed=2, labels=(1, 0, 2))
    report = report_of(drop(rgb, ["a"]), drop(flow, ["c"]), intersect=True)
    assert report == dataclasses.replace(
        report_of(drop(rgb, ["a", "c"]), drop(flow, ["a", "c"])), differences=report.differences
    )
    assert report.differences == {
        "videos listed by RGB and not by all": ["c"], "videos listed by Flow and not by all": ["a"]
    }  # fmt: skip
    with pytest.raises(BadInputError, match="cannot be fused"):  # no video in common
        report_of(drop(rgb, ["a", "b"]), drop(flow, ["c"]), intersect=True)


@pytest.mark.parametrize(("clip_len", "stride", "missing", "fits"), [
    (5, 1, [4, 5], True),  # the last of the 6 starts of each video
    (2, 4, [5], True),
    (1, 1, [5], False),  # equally long clips: the last frames were lost
    (5, 1, [0], False),
    (5, 1, [2, 5], False),
])  # fmt: skip
def test_longer_clips_may_lack_the_last_starts(clip_len, stride, missing, fits):
    """RGB on single frames and flow on stacked frames, as in the papers, belong together."""
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
    rgb, flow = make_table(video_index=[0, 0, 1, 1]), make_table(video_index=[1, 1, 2, 2])
    assert report_of(rgb, flow).rows[-1].num_unscored == 2


def mismatched(seed):
    """A pair of tables that differ in one way, which is drawn at random: (the way, the video, RGB, flow)."""
    rng = np.random.default_rng(seed)
    ids = [f"v{n:02d}" for n in range(12)]
    labels = rng.integers(0, 4, 12).astype(np.int32)
    rgb, flow = (make_table(video_ids=ids, labels=labels, seed=seed + k) for k in range(2))
    way = ("drop", "add", "rename", "label", "classes", "split", "start", "frames", "view")[seed % 9]
    video = rng.integers(12)
    if way == "drop":
        flow = drop(flow, [ids[video]])
    if way == "add":
        rgb = drop(rgb, [ids[video]])
    if way == "rename":
        names = flow.video_ids.astype("U8")
        names[video] += "x"
        flow = dataclasses.replace(flow, video_ids=names)
    if way == "label":
        changed = labels.copy()
        changed[video] = (changed[video] + 1) % 4
        flow = dataclasses.replace(flow, labels=changed)
    if way == "classes":
        flow = dataclasses.replace(flow, stream=flow.stream | {"classes": [*np.roll(CLASSES, 1 + seed % 3)]})
    if way == "split":
        flow = dataclasses.replace(flow, split="test")
    if way in ("start", "view"):
        array = getattr(flow, way).copy()
        array[3 * video + 2] += 1
        flow = dataclasses.replace(flow, **{way: array})
    if way == "frames":
        kept = np.arange(36) != 3 * video + rng.integers(3)
        flow = dataclasses.replace(
            flow, **{name: getattr(flow, name)[kept] for name in ("video_index", "start", "view", "logits")}
        )
    return way, ids[video], rgb, flow


@pytest.mark.parametrize("seed", range(100))
def test_mismatched_pairs_are_refused_by_name(seed):
    way, video, rgb, flow = mismatched(seed)
    with pytest.raises(BadInputError, match="RGB and Flow cannot be fused") as caught:
        report_of(rgb, flow)
    message = str(caught.value)
    assert "\n" not in message
    if way not in ("classes", "split"):
        assert f"'{video}" in message
    if way in ("classes", "split", "label"):
        with pytest.raises(BadInputError, match="cannot be fused"):
            report_of(rgb, flow, intersect=True)
    else:
        assert "--intersect" in message
        assert video in str(report_of(rgb, flow, intersect=True).differences)
