"""The rules that turn the clip scores of a video into one score for each class."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from twostream.scores.table import ScoreTable

CLIPS_AT_ONCE = 4096
"""that are reduced together: little memory, and few calls"""


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, in float64."""
    if not logits.size:
        return logits.astype(np.float64)
    exponentials = logits - logits.max(axis=-1, keepdims=True).astype(np.float64)
    np.exp(exponentials, out=exponentials)
    exponentials /= exponentials.sum(axis=-1, keepdims=True)
    return exponentials


class Clips:
    """Scores of n videos that have T clips each, (n, T, K), float32 or float64, which several rules reduce."""

    def __init__(self, scores: np.ndarray, ordinals: np.ndarray):
        self.scores = scores
        self.ordinals = ordinals
        """(T,) which of a video's times a clip is of, from 0; the views of one time have the same"""

    @property
    def number(self) -> int:
        return self.scores.shape[1]

    @cached_property
    def sums_of_best(self) -> np.ndarray:
        """(n, T, K): the sum of each class's best 1, 2, ... T scores."""
        sums = np.sort(self.scores, axis=1)[:, ::-1].astype(np.float64)
        for place in range(1, self.number):  # cumsum along this axis is much slower
            sums[:, place] += sums[:, place - 1]
        return sums


def class_wise_top_k(clips: Clips, k: int) -> np.ndarray:
    """Per class the mean of its best min(k, T) scores, whatever the clips: the rule of 2D-kinectics, on logits there."""
    k = min(k, clips.number)
    return clips.sums_of_best[:, k - 1] / k


def trimmed_mean(clips: Clips, percent: int) -> np.ndarray:
    """Per class the mean without the best and without the worst `percent` of its scores, rounded down to clips."""
    cut = clips.number * percent // 100
    sums = clips.sums_of_best[:, clips.number - 1 - cut]
    return (sums - clips.sums_of_best[:, cut - 1] if cut else sums) / (clips.number - 2 * cut)


def segment_mean(clips: Clips, segments: int) -> np.ndarray:
    """Mean of the clips in the middle of each of `segments` equal parts (TSN); of all where there are fewer."""
    return clips.scores[:, in_segments(clips.ordinals, segments)].mean(axis=1, dtype=np.float64)


def in_segments(ordinals: np.ndarray, segments: int) -> np.ndarray:
    """(T,) booleans: is the clip the middle one of one of `segments` equal parts of its video?"""
    times = int(ordinals[-1]) + 1
    segments = min(segments, times)
    return np.isin(ordinals, (2 * np.arange(segments) + 1) * times // (2 * segments))


RULES: dict[str, Callable[[Clips, int], np.ndarray]] = {
    "mean": lambda clips, _: clips.scores.mean(axis=1, dtype=np.float64),
    "max": lambda clips, _: clips.sums_of_best[:, 0],
    "clstk": class_wise_top_k,
    "trimmed": trimmed_mean,
    "segment": segment_mean,
}
"""the clips of n videos, and the rule's number -> (n, K)"""

SWEPT = ("mean", "max", "clstk-1", "clstk-5", "clstk-10", "clstk-20", "clstk-30", "clstk-50", "trimmed-10", "trimmed-25",
         "segment-3", "segment-8")  # fmt: skip
"""rules that are compared when all are asked for"""


@dataclass(frozen=True)
class Consensus:
    """How a video's clips become one row: a rule, on logits or on their softmax."""

    rule: str
    number: int = 0
    """K of clstk-K, percent of trimmed-P, segments of segment-S"""
    on_softmax: bool = False

    @classmethod
    def parse(cls, text: str) -> "Consensus":
        """`mean`, `max`, `clstk-30`, `trimmed-10`, `segment-3` on logits; `softmax-mean` and so on, on softmax.

        Raises ValueError.
        """
        match = re.fullmatch(r"(softmax-)?(?:(mean|max)|(clstk|segment|trimmed)-0*([1-9]\d{0,5}))", text)
        if not match or (match[3] == "trimmed" and int(match[4]) >= 50):
            raise ValueError(
                f"consensus {text!r}, expected mean, max, clstk-K (best K clips of each class), segment-S or trimmed-P "
                "(P percent off each end, below 50), or softmax- before one of these"
            )
        return cls(match[2] or match[3], int(match[4] or 0), bool(match[1]))

    def __str__(self) -> str:
        number = {"clstk": f"-{self.number:03d}", "segment": f"-{self.number}", "trimmed": f"-{self.number}"}
        return "softmax-" * self.on_softmax + self.rule + number.get(self.rule, "")

    def clip_scores(self, logits: np.ndarray) -> np.ndarray:
        """What the rule works on, of each clip: (..., K) float64."""
        return softmax(logits) if self.on_softmax else logits.astype(np.float64)

    def of_clips(self, clips: Clips) -> np.ndarray:
        """The rule on logits or their softmax: (n, K) float64."""
        return RULES[self.rule](clips, self.number)

    def video_scores(self, table: ScoreTable) -> np.ndarray:
        """(V, K) float64; rows of NaN for videos without clips."""
        result = np.full((len(table.video_ids), table.logits.shape[1]), np.nan)

        def reduce_group(group: Group) -> None:
            logits = table.logits[group.rows[0]]
            clips = Clips(softmax(logits) if self.on_softmax else logits, group.ordinals[0])
            result[group.videos] = self.of_clips(clips)

        in_threads(reduce_group, alike([table]))
        return result


@dataclass(frozen=True)
class Group:
    """Videos whose clips lie alike in each of several tables, so that they can be reduced at once."""

    videos: np.ndarray
    """(n,) places in the split"""
    rows: list[np.ndarray]
    """of each table (n, T): the rows of each video's clips; T may be 0"""
    ordinals: list[np.ndarray]
    """of each table (T,), see Clips"""


def alike(tables: Sequence[ScoreTable]) -> Iterator[Group]:
    """All videos of the split of which a table has clips, in groups of limited size."""
    ends, ordinals = [], []
    for table in tables:
        ends.append(np.searchsorted(table.video_index, np.arange(len(tables[0].video_ids) + 1)))
        new_video = np.diff(table.video_index, prepend=-1) > 0
        times = np.cumsum(new_video | (np.diff(table.start, prepend=-1) != 0))
        ordinals.append(times - times[np.maximum.accumulate(np.where(new_video, np.arange(len(times)), 0))])
    groups: dict[tuple[bytes, ...], list[int]] = {}
    for video in np.flatnonzero(np.sum([np.diff(end) for end in ends], axis=0)).tolist():
        pattern = tuple(o[e[video] : e[video + 1]].tobytes() for o, e in zip(ordinals, ends, strict=True))
        groups.setdefault(pattern, []).append(video)
    for pattern, places in groups.items():
        of_tables = [np.frombuffer(part, ordinals[0].dtype) for part in pattern]
        at_once = max(1, CLIPS_AT_ONCE // sum(map(len, of_tables)))
        for first in range(0, len(places), at_once):
            videos = np.array(places[first : first + at_once])
            rows = [e[videos][:, None] + np.arange(len(o)) for e, o in zip(ends, of_tables, strict=True)]
            yield Group(videos, rows, of_tables)


def in_threads(function: Callable, parts: Iterable) -> list:
    """What the function makes of each part, on all cores: NumPy computes without holding the others up."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(8, os.cpu_count())) as pool:
        return list(pool.map(function, parts))
