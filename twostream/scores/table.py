"""ScoreTable: one row of logits for each scored clip."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from twostream.annotations.videos import fingerprint

ROWS_AT_ONCE = 16384


@dataclass(frozen=True)
class ScoreTable:
    """Scores of a split by one stream.

    The split is listed whole, so that videos without scores are known too; in order of id. Rows are in order of
    video, start and view.
    """

    stream: dict
    """the stream's settings, see StreamConfig.to_json"""
    split: str
    video_ids: np.ndarray
    """(V,) str: all videos of the split, sorted"""
    labels: np.ndarray
    """(V,) label indices from 0; -1 where the split has no label"""
    video_index: np.ndarray
    """(M,) place of each row's video in `video_ids`"""
    start: np.ndarray
    """(M,) first frame index of the clip"""
    view: np.ndarray
    """(M,) number of the crop; 0 is the centre"""
    logits: np.ndarray
    """(M, K) float32; of a file, mapped: read where it is looked at"""
    provenance: dict
    """which checkpoint, at which step, by which version"""

    @property
    def classes(self) -> list[str]:
        return self.stream["classes"]

    @property
    def level(self) -> str:
        """What a row is: "frames", a clip named by its first frame; of other toolkits also "clips" in their order, or
        the whole "video". Rows of different streams can be joined when they are frames."""
        return self.provenance.get("level", "frames")

    @property
    def clip_extent(self) -> int:
        """From the first frame of a clip to its last."""
        return (self.stream.get("clip_len", 1) - 1) * self.stream.get("frame_stride", 1)

    @property
    def row_labels(self) -> np.ndarray:
        """(M,) label index of each row."""
        return self.labels[self.video_index]

    @property
    def unscored_ids(self) -> list[str]:
        """Videos of the split that have a label, but no row."""
        scored = np.zeros(len(self.video_ids), bool)
        scored[self.video_index] = True
        return self.video_ids[~scored & (self.labels >= 0)].tolist()

    @property
    def split_fingerprint(self) -> str:
        """Equal for two tables exactly when their classes, videos and labels are."""
        return fingerprint(tuple(self.classes), self.video_ids.tolist(), self.labels.tolist())

    def sorted(self) -> "ScoreTable":
        """The same table in the order that the class promises."""
        if ascending(self.video_ids) and ascending(self.video_index, self.start, self.view):
            return self  # and the logits are not copied
        order = np.argsort(self.video_ids, kind="stable")
        place = np.empty(len(order), np.int32)
        place[order] = np.arange(len(order))
        video_index = place[self.video_index]
        rows = np.lexsort((self.view, self.start, video_index))
        return ScoreTable(
            self.stream, self.split, self.video_ids[order], self.labels[order],
            video_index[rows], self.start[rows], self.view[rows], self.logits[rows], self.provenance,
        )  # fmt: skip

    def only(self, video_ids: np.ndarray) -> "ScoreTable":
        """The table of some of its videos, sorted ids."""
        kept = np.isin(self.video_ids, video_ids)
        if kept.all():
            return self
        rows = kept[self.video_index]
        return ScoreTable(
            self.stream, self.split, self.video_ids[kept], self.labels[kept],
            (np.cumsum(kept, dtype=np.int32) - 1)[self.video_index[rows]],
            self.start[rows], self.view[rows], self.logits[rows], self.provenance,
        )  # fmt: skip

    def chunks(self) -> Iterator[slice]:
        """Slices of the rows, in order, none of them large."""
        for first in range(0, len(self.logits), ROWS_AT_ONCE):
            yield slice(first, min(first + ROWS_AT_ONCE, len(self.logits)))


def ascending(*keys: np.ndarray) -> bool:
    """Does each row of keys come after the one before? The first key counts most."""
    later, same = False, True
    for key in keys:
        later = later | (same & (key[1:] > key[:-1]))
        same = same & (key[1:] == key[:-1])
    return bool(np.all(later))
