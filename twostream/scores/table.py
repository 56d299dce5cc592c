"""ScoreTable: one row of logits for each scored clip."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from twostream.annotations.videos import fingerprint
from twostream.metrics.accuracy import has_label

ROWS_AT_ONCE = 16384
"""of a chunk, so that what is computed from all rows of a large file needs little memory"""


@dataclass(frozen=True)
class ScoreTable:
    """Scores of a split by one stream.

    `video_ids` lists the whole split, sorted, so that videos without scores are known too. The M rows are in order of
    video, start and view.
    """

    stream: dict[str, Any]
    """the stream's settings, see StreamConfig.to_json"""
    split: str
    video_ids: np.ndarray
    """(V,) str: all videos of the split, sorted"""
    labels: np.ndarray
    """(V,) label indices from 0; -1 where the split has no label. Multi-label: int8 (V, K), see `VideoTable.labels`"""
    video_index: np.ndarray
    """(M,) index of each row's video in `video_ids`"""
    start: np.ndarray
    """(M,) first frame index of the clip"""
    view: np.ndarray
    """(M,) number of the view (crop); 0 is the centre"""
    logits: np.ndarray
    """(M, K) float32; the logits of a file are mapped into memory, and read when they are used"""
    provenance: dict[str, Any]
    """where the scores come from: checkpoint, iteration, settings of the scoring, versions"""
    extents: np.ndarray | None = None
    """(V,) distance from the first frame of a clip to its last, in frames; None if that is the same in all videos, as
    `stream` says"""

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the label indices."""
        classes: list[str] = self.stream["classes"]
        return classes

    @property
    def is_multi_label(self) -> bool:
        """Has a video any number of classes? Then a sigmoid makes a probability from each logit, otherwise softmax."""
        return bool(self.stream.get("multi_label"))

    @property
    def has_label(self) -> np.ndarray:
        """(V,) booleans: is the label of the video known?"""
        known: np.ndarray = has_label(self.labels)
        return known

    @property
    def level(self) -> str:
        """What a row is.

        "frames": a clip named by its first frame; such rows of different streams can be joined. Files of other toolkits
        may also have "clips" in order, without frame numbers, or one row for a whole "video".
        """
        level: str = self.provenance.get("level", "frames")
        return level

    @property
    def clip_extents(self) -> np.ndarray:
        """(V,) distance from the first frame of a clip to its last in each video, in frames."""
        if self.extents is not None:
            return self.extents
        extent = (self.stream.get("clip_len", 1) - 1) * self.stream.get("frame_stride", 1)
        return np.full(len(self.video_ids), extent)

    @property
    def row_labels(self) -> np.ndarray:
        """(M,) label index of each row; -1 without a label. Multi-label: (M, K)."""
        labels: np.ndarray = self.labels[self.video_index]
        return labels

    @property
    def unscored_ids(self) -> list[str]:
        """Videos of the split that have a label, but no row."""
        is_scored = np.zeros(len(self.video_ids), bool)
        is_scored[self.video_index] = True
        unscored: list[str] = self.video_ids[~is_scored & self.has_label].tolist()
        return unscored

    @property
    def split_fingerprint(self) -> str:
        """Equal for two tables exactly when their classes, videos and labels are."""
        return fingerprint(tuple(self.classes), self.video_ids.tolist(), self.labels)

    def sorted(self) -> "ScoreTable":
        """The same table with videos and rows in the order that the class promises."""
        if is_ascending(self.video_ids) and is_ascending(self.video_index, self.start, self.view):
            return self  # without copying the logits
        order = np.argsort(self.video_ids, kind="stable")
        new_index = np.empty(len(order), np.int32)
        new_index[order] = np.arange(len(order))
        video_index = new_index[self.video_index]
        rows = np.lexsort((self.view, self.start, video_index))
        return ScoreTable(
            self.stream, self.split, self.video_ids[order], self.labels[order],
            video_index[rows], self.start[rows], self.view[rows], self.logits[rows], self.provenance,
            None if self.extents is None else self.extents[order],
        )  # fmt: skip

    def only(self, video_ids: np.ndarray) -> "ScoreTable":
        """The table restricted to the videos with these ids; ids that it does not list are ignored."""
        is_kept = np.isin(self.video_ids, video_ids)
        if is_kept.all():
            return self
        rows = is_kept[self.video_index]
        return ScoreTable(
            self.stream, self.split, self.video_ids[is_kept], self.labels[is_kept],
            (np.cumsum(is_kept, dtype=np.int32) - 1)[self.video_index[rows]],
            self.start[rows], self.view[rows], self.logits[rows], self.provenance,
            None if self.extents is None else self.extents[is_kept],
        )  # fmt: skip

    def chunks(self) -> Iterator[slice]:
        """Slices that cover all rows in order, at most ROWS_AT_ONCE rows each."""
        for first in range(0, len(self.logits), ROWS_AT_ONCE):
            yield slice(first, min(first + ROWS_AT_ONCE, len(self.logits)))


def is_ascending(*keys: np.ndarray) -> bool:
    """Are the rows of the keys (M,) strictly ascending? The first key counts most."""
    is_later = np.zeros(len(keys[0]) - 1, bool)
    is_same = ~is_later
    for key in keys:
        is_later = is_later | (is_same & (key[1:] > key[:-1]))
        is_same = is_same & (key[1:] == key[:-1])
    return bool(np.all(is_later))
