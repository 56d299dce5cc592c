"""Rules that turn the scores of a video's clips into one score for each class."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from twostream.scores.table import ScoreTable
from twostream.threads import Progress, map_in_threads, no_progress

CLIPS_AT_ONCE = 4096
"""clips that are reduced together: few enough for the memory, enough to need few calls"""


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, as float64."""
    if not logits.size:
        return logits.astype(np.float64)
    exponentials: np.ndarray = logits - logits.max(axis=-1, keepdims=True).astype(np.float64)
    np.exp(exponentials, out=exponentials)
    exponentials /= exponentials.sum(axis=-1, keepdims=True)
    return exponentials


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Logistic function of each element, as float64."""
    return 0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))  # so that exp cannot overflow


def class_probabilities(logits: np.ndarray, *, multi_label: bool) -> np.ndarray:
    """Probabilities of the classes, along the last axis, as float64: sigmoid if videos are multi-label, else softmax."""
    return sigmoid(logits) if multi_label else softmax(logits)


def probabilities(scores: np.ndarray, *, on_probabilities: bool, multi_label: bool = False) -> np.ndarray:
    """Video scores (V, K) as class probabilities; rows of NaN stay.

    `on_probabilities`: they are probabilities already, up to a factor if they sum to 1; otherwise logits.
    """
    if not on_probabilities:
        return class_probabilities(scores, multi_label=multi_label)
    return scores if multi_label else np.asarray(scores / scores.sum(axis=1, keepdims=True))


class Clips:
    """Scores (n, T, K), float32 or float64, of n videos with T clips each. Several rules share its sorted scores."""

    def __init__(self, scores: np.ndarray, ordinals: np.ndarray):
        self.scores = scores
        self.ordinals = ordinals
        """(T,) number of each clip's start within its video, from 0; the views of one start share a number"""

    @property
    def num_clips(self) -> int:
        """T, clips of each video."""
        return int(self.scores.shape[1])

    @cached_property
    def sums_of_best(self) -> np.ndarray:
        """(n, T, K) float64: entry t is the sum of each class's best t + 1 scores."""
        sums: np.ndarray = np.sort(self.scores, axis=1)[:, ::-1].astype(np.float64)
        for clip in range(1, self.num_clips):  # cumsum along this axis is much slower
            sums[:, clip] += sums[:, clip - 1]
        return sums


def mean(clips: Clips, _: int) -> np.ndarray:
    """Mean over the clips: (n, K) float64."""
    average: np.ndarray = clips.scores.mean(axis=1, dtype=np.float64)
    return average


def maximum(clips: Clips, _: int) -> np.ndarray:
    """The best score of each class: (n, K) float64."""
    return clips.sums_of_best[:, 0]


def class_wise_top_k(clips: Clips, k: int) -> np.ndarray:
    """Mean of each class's best min(k, T) scores: (n, K) float64. The rule of 2D-kinectics, which applies it to logits."""
    k = min(k, clips.num_clips)
    return clips.sums_of_best[:, k - 1] / k


def trimmed_mean(clips: Clips, percent: int) -> np.ndarray:
    """Mean of each class's scores without the best and the worst `percent`, rounded down to clips: (n, K) float64."""
    num_cut = clips.num_clips * percent // 100
    sums = clips.sums_of_best[:, clips.num_clips - 1 - num_cut]
    return (sums - clips.sums_of_best[:, num_cut - 1] if num_cut else sums) / (clips.num_clips - 2 * num_cut)


def segment_mean(clips: Clips, segments: int) -> np.ndarray:
    """Mean over the middle clips of `segments` equal parts (TSN), of all clips if there are fewer: (n, K) float64."""
    average: np.ndarray = clips.scores[:, is_middle(clips.ordinals, segments)].mean(axis=1, dtype=np.float64)
    return average


def is_middle(ordinals: np.ndarray, segments: int) -> np.ndarray:
    """(T,) booleans: does the clip start in the middle of one of `segments` equal parts of its video?"""
    num_starts = int(ordinals[-1]) + 1
    segments = min(segments, num_starts)
    return np.isin(ordinals, (2 * np.arange(segments) + 1) * num_starts // (2 * segments))


RULES: dict[str, Callable[[Clips, int], np.ndarray]] = {
    "mean": mean,
    "max": maximum,
    "clstk": class_wise_top_k,
    "trimmed": trimmed_mean,
    "segment": segment_mean,
}
"""functions of the clips of n videos and the rule's number; they return (n, K) float64"""

SWEPT = ("mean", "max", "clstk-1", "clstk-5", "clstk-10", "clstk-20", "clstk-30", "clstk-50", "trimmed-10", "trimmed-25",
         "segment-3", "segment-8")  # fmt: skip
"""rules that `twostream eval --sweep` compares"""


@dataclass(frozen=True)
class Consensus:
    """How a video's clips become one row of scores: a rule, applied to logits or to class probabilities."""

    rule: str
    """a name of RULES"""
    number: int = 0
    """K of clstk-K, percent of trimmed-P, segments of segment-S; 0 for mean and max"""
    on_probabilities: bool = False
    multi_label: bool = False
    """are the probabilities sigmoids, because a video has any number of classes? Otherwise they are softmax"""

    @classmethod
    def parse(cls, text: str) -> "Consensus":
        """`mean`, `max`, `clstk-30`, `trimmed-10`, `segment-3` on logits; with `softmax-` before it, on softmax, and with
        `sigmoid-`, on the sigmoids of multi-label videos.

        Raises ValueError for anything else.
        """
        match = re.fullmatch(r"(softmax-|sigmoid-)?(?:(mean|max)|(clstk|segment|trimmed)-0*([1-9]\d{0,5}))", text)
        if not match or (match[3] == "trimmed" and int(match[4]) >= 50):
            raise ValueError(
                f"consensus {text!r}, expected mean, max, clstk-K (best K clips of each class), segment-S or trimmed-P "
                "(without P percent at each end, P below 50), or softmax- before one of these"
            )
        return cls(match[2] or match[3], int(match[4] or 0), bool(match[1]), match[1] == "sigmoid-")

    def for_labels(self, *, multi_label: bool) -> "Consensus":
        """The same rule for multi-label videos, or others: where it is applied to probabilities, it is to theirs.

        Raises ValueError for a rule on sigmoids if videos have one label.
        """
        if self.on_probabilities and self.multi_label and not multi_label:
            raise ValueError(f"consensus {self} is for multi-label videos; use softmax-{str(self).partition('-')[2]}")
        return replace(self, multi_label=multi_label)

    def __str__(self) -> str:
        prefix = ("sigmoid-" if self.multi_label else "softmax-") if self.on_probabilities else ""
        if self.rule in ("mean", "max"):
            return f"{prefix}{self.rule}"
        digits = 3 if self.rule == "clstk" else 1  # clstk-030, as 2D-kinectics names its files
        return f"{prefix}{self.rule}-{self.number:0{digits}d}"

    def clip_scores(self, logits: np.ndarray) -> np.ndarray:
        """What the rule is applied to: logits (..., K) or class probabilities, as float64."""
        if not self.on_probabilities:
            return logits.astype(np.float64)
        return class_probabilities(logits, multi_label=self.multi_label)

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Video scores (V, K) as the rule makes them -> class probabilities (V, K)."""
        return probabilities(scores, on_probabilities=self.on_probabilities, multi_label=self.multi_label)

    def reduce(self, clips: Clips) -> np.ndarray:
        """Clips, whose scores are already logits or probabilities as the rule needs them, -> (n, K) float64."""
        return RULES[self.rule](clips, self.number)

    def video_scores(self, table: ScoreTable, *, progress: Progress = no_progress) -> np.ndarray:
        """(V, K) float64; rows of NaN for videos without clips. The rule is applied `for_labels` of the table's kind."""
        rule = self.for_labels(multi_label=table.is_multi_label)
        result = np.full((len(table.video_ids), table.logits.shape[1]), np.nan)

        def reduce_group(group: VideoGroup) -> None:
            logits = table.logits[group.rows[0]]
            clips = Clips(rule.clip_scores(logits) if rule.on_probabilities else logits, group.ordinals[0])
            result[group.videos] = rule.reduce(clips)

        map_in_threads(reduce_group, group_by_clips([table]), progress=progress, name="clips to videos")
        return result


@dataclass(frozen=True)
class VideoGroup:
    """Videos with the same pattern of clips in each of several tables, so that they can be reduced together."""

    videos: np.ndarray
    """(n,) indices of the videos in the split"""
    rows: list[np.ndarray]
    """for each table (n, T): the rows of each video's clips; T may be 0"""
    ordinals: list[np.ndarray]
    """for each table (T,), see Clips"""


def group_by_clips(tables: Sequence[ScoreTable]) -> Iterator[VideoGroup]:
    """All videos of the split that have clips in at least one table, in groups of at most CLIPS_AT_ONCE clips."""
    ends, ordinals = [], []
    for table in tables:
        ends.append(np.searchsorted(table.video_index, np.arange(len(tables[0].video_ids) + 1)))
        is_new_video = np.diff(table.video_index, prepend=-1) > 0
        starts = np.cumsum(is_new_video | (np.diff(table.start, prepend=-1) != 0))
        first_rows = np.maximum.accumulate(np.where(is_new_video, np.arange(len(starts)), 0))
        ordinals.append(starts - starts[first_rows])
    groups: dict[tuple[bytes, ...], list[int]] = {}
    for video in np.flatnonzero(np.sum([np.diff(end) for end in ends], axis=0)).tolist():
        pattern = tuple(o[e[video] : e[video + 1]].tobytes() for o, e in zip(ordinals, ends, strict=True))
        groups.setdefault(pattern, []).append(video)
    for pattern, members in groups.items():
        group_ordinals = [np.frombuffer(part, ordinals[0].dtype) for part in pattern]
        num_at_once = max(1, CLIPS_AT_ONCE // sum(map(len, group_ordinals)))
        for first in range(0, len(members), num_at_once):
            videos = np.array(members[first : first + num_at_once])
            rows = [e[videos][:, None] + np.arange(len(o)) for e, o in zip(ends, group_ordinals, strict=True)]
            yield VideoGroup(videos, rows, group_ordinals)
