"""Segments in time compared with the truth: average precision and average recall, as ActivityNet's evaluators count.

Caba Heilbron et al., ActivityNet, CVPR 2015; the measures of its challenges from 2016 on. A segment overlaps another by
tIoU: the length of what they share, divided by the length of what they cover together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

TIOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
RECALL_AT = (1, 5, 10, 100)
RECALL_POINTS = 100
"""numbers of segments a video at which recall is measured, evenly spaced up to the largest"""


@dataclass(frozen=True)
class Segments:
    """n segments, of the truth or of a prediction."""

    video_ids: np.ndarray
    """(n,) str"""
    times: np.ndarray
    """(n, 2) float64: start and end, seconds"""
    scores: np.ndarray
    """(n,) float64: the higher, the surer; without meaning for the truth"""

    def of(self, chosen: np.ndarray) -> "Segments":
        """The segments that a mask or indices choose."""
        return Segments(self.video_ids[chosen], self.times[chosen], self.scores[chosen])

    def by_score(self) -> "Segments":
        """The surest first; of equal ones the last first, as the official evaluator sorts them."""
        return self.of(np.argsort(self.scores)[::-1])


def overlap(segments: np.ndarray, others: np.ndarray) -> np.ndarray:
    """tIoU (n, m) of n and m segments, (n, 2) and (m, 2)."""
    first, second = segments[:, None], others[None]
    shared = np.minimum(first[..., 1], second[..., 1]) - np.maximum(first[..., 0], second[..., 0])
    shared = np.maximum(shared, 0.0)
    lengths = (first[..., 1] - first[..., 0]) + (second[..., 1] - second[..., 0])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(shared / (lengths - shared))


def average_precision(
    truth: Segments, predicted: Segments, thresholds: Sequence[float] = TIOU_THRESHOLDS
) -> np.ndarray:
    """Interpolated average precision of one class at each tIoU threshold, (number of thresholds,).

    A true segment is found once, by the surest prediction that overlaps it enough; other predictions of it are wrong.
    """
    if not len(predicted.scores) or not len(truth.scores):
        return np.zeros(len(thresholds))
    predicted = predicted.by_score()
    of_video = {video_id: np.flatnonzero(truth.video_ids == video_id) for video_id in np.unique(truth.video_ids)}
    is_found = np.zeros((len(thresholds), len(truth.scores)), bool)
    is_right = np.zeros((len(thresholds), len(predicted.scores)), bool)
    for number, (video_id, times) in enumerate(zip(predicted.video_ids, predicted.times, strict=True)):
        candidates = of_video.get(video_id)
        if candidates is None:
            continue
        tiou = overlap(times[None], truth.times[candidates])[0]
        in_order = np.argsort(tiou)[::-1]
        for row, threshold in enumerate(thresholds):
            free = [k for k in in_order if tiou[k] >= threshold and not is_found[row, candidates[k]]]
            if free:
                is_found[row, candidates[free[0]]] = is_right[row, number] = True
    return np.array([_interpolated(right, len(truth.scores)) for right in is_right])


def _interpolated(is_right: np.ndarray, num_true: int) -> float:
    """Area below the precision-recall curve, where precision is the best at that recall or a higher one."""
    num_right = np.cumsum(is_right)
    precision = num_right / np.arange(1, len(is_right) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    gains = np.diff(num_right, prepend=0) / num_true
    return float((gains * best_from_here).sum())


@dataclass(frozen=True)
class Detection:
    """How well segments were found, over all classes of the truth."""

    mean_average_precision: tuple[float, ...]
    """at each of TIOU_THRESHOLDS, 0 ... 1; the mean of these is the challenge's measure"""
    recall_at: dict[int, float]
    """AR@AN: mean over the thresholds, with this many segments of each video on average, whatever their class"""
    num_classes: int
    num_true: int
    num_predicted: int

    def to_json(self) -> dict[str, Any]:
        """The measures, as JSON can hold them."""
        return {
            "tiou": list(TIOU_THRESHOLDS),
            "mean_average_precision": list(self.mean_average_precision),
            "average_mean_average_precision": float(np.mean(self.mean_average_precision)),
            "average_recall": {str(number): value for number, value in self.recall_at.items()},
            "num_classes": self.num_classes,
            "num_true": self.num_true,
            "num_predicted": self.num_predicted,
        }


def judge(truth: dict[str, Segments], predicted: dict[str, Segments]) -> Detection:
    """Segments by class, compared with the truth; classes without a true segment do not count for precision."""
    nothing = Segments(np.array([], str), np.empty((0, 2)), np.array([]))
    precisions = [average_precision(parts, predicted.get(label, nothing)) for label, parts in truth.items()]
    all_true, all_predicted = (_together([nothing, *parts.values()]) for parts in (truth, predicted))
    recall_at = {}
    for number in RECALL_AT:
        _, recalls = average_recall(all_true, all_predicted, per_video=number)
        recall_at[number] = float(recalls[-1])
    means = tuple(np.mean(precisions, axis=0).tolist())
    return Detection(means, recall_at, len(truth), len(all_true.scores), len(all_predicted.scores))


def _together(parts: Sequence[Segments]) -> Segments:
    return Segments(
        np.concatenate([part.video_ids for part in parts]),
        np.concatenate([part.times for part in parts]),
        np.concatenate([part.scores for part in parts]),
    )


def average_recall(
    truth: Segments, predicted: Segments, *, per_video: float = RECALL_POINTS,
    thresholds: Sequence[float] = TIOU_THRESHOLDS,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """AR@AN: numbers of segments a video on average (100,), and the recall with that many, averaged over thresholds (100,).

    Classes do not count. Of each video the same share of its segments is taken, the surest first, so that there are at
    most `per_video` a video on average.
    """
    videos = np.unique(truth.video_ids)
    ratio = per_video * len(videos) / max(len(predicted.scores), 1)
    overlaps = []
    for video_id in videos:
        mine = predicted.of(predicted.video_ids == video_id).by_score()
        kept = mine.times[: min(int(len(mine.scores) * ratio), len(mine.scores))]
        overlaps.append(overlap(truth.times[truth.video_ids == video_id], kept))
    num_kept = sum(part.shape[1] for part in overlaps)
    shares = np.arange(1, RECALL_POINTS + 1) / RECALL_POINTS * (per_video * len(videos) / max(num_kept, 1))
    found = np.zeros((len(thresholds), RECALL_POINTS))
    for part in overlaps:
        # A true segment is found from the first kept segment on that overlaps it enough.
        counts = np.minimum((part.shape[1] * shares).astype(int), part.shape[1])
        for row, threshold in enumerate(thresholds):
            enough = part >= threshold
            firsts = np.where(enough.any(axis=1), enough.argmax(axis=1) if part.shape[1] else 0, np.iinfo(int).max)
            found[row] += (firsts[:, None] < counts).sum(axis=0)
    return shares * (num_kept / len(videos)), found.mean(axis=0) / len(truth.scores)
