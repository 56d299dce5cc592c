"""Small score tables for tests: three videos (their ids not sorted), four classes, random logits."""

import numpy as np

from twostream.scores.table import ScoreTable
from twostream.stream import StreamConfig

CLASSES = ("jump", "run", "sit", "walk")


def make_table(
    logits=None, *, video_ids=("b", "a", "c"), labels=(1, 0, 3), video_index=None, start=None, classes=CLASSES,
    input_type="rgb", split="val", seed=0, frames=3, clip_step=2, multi_label=False,
) -> ScoreTable:  # fmt: skip
    """`frames` clips of each video unless `video_index` is given; random `logits` (M, K) unless given.

    `labels` are label indices (V,) or, with `multi_label`, rows (V, K).
    """
    if video_index is None:
        video_index = np.repeat(np.arange(len(video_ids)), frames)
    video_index = np.asarray(video_index, np.int32)
    if start is None:
        start = clip_step * np.array([np.sum(video_index[:i] == video_index[i]) for i in range(len(video_index))])
    if logits is None:
        logits = np.random.default_rng(seed).normal(size=(len(video_index), len(classes)))
    stream = StreamConfig(
        input_type=input_type, backbone="vgg16", classes=tuple(classes), input_size=64, multi_label=multi_label
    )
    return ScoreTable(
        stream=stream.to_json(),
        split=split,
        video_ids=np.array(video_ids),
        labels=np.array(labels, np.int8 if multi_label else np.int32),
        video_index=video_index,
        start=np.array(start, np.int32),
        view=np.zeros(len(video_index), np.int16),
        logits=np.array(logits, np.float32),
        provenance={"checkpoint": "checkpoint_000001.pth", "frame_step": clip_step},
    ).sorted()


def assert_same_table(table: ScoreTable, expected: ScoreTable) -> None:
    assert (table.stream, table.split, table.provenance) == (expected.stream, expected.split, expected.provenance)
    for name in ("video_ids", "labels", "video_index", "start", "view", "logits"):
        np.testing.assert_array_equal(getattr(table, name), getattr(expected, name), err_msg=name)
    assert (table.extents is None) == (expected.extents is None)
    np.testing.assert_array_equal(table.clip_extents, expected.clip_extents)
