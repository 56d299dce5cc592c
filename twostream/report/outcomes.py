"""What a row of the report made of each video: right or wrong, taken for which class, and how sure it was."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twostream.metrics import accuracy


@dataclass(frozen=True)
class Judgement:
    """Of one row of the report; arrays (V,)."""

    name: str
    labels: np.ndarray
    """label indices; -1 where there is none"""
    scored: np.ndarray
    right: np.ndarray
    """as video top-1 counts it: scored, and better than all other classes"""
    taken: np.ndarray
    """the class it was taken for: its own where it is right, else the best other one; -1 where it was not scored"""
    runner_up: np.ndarray
    """the best class other than `taken`; `taken` itself where there is only one"""
    confidence: np.ndarray
    """probability of the best class"""
    is_best: np.ndarray
    """is the first of the best classes the true one, as the calibration error counts it?"""

    @classmethod
    def of(cls, name: str, scores: np.ndarray, probabilities: np.ndarray, labels: np.ndarray) -> "Judgement":
        """Scores and probabilities (V, K), rows of NaN where there are none."""
        rows, scored = np.arange(len(labels)), ~np.isnan(scores).any(axis=1)
        filled = np.where(scored[:, None], scores, 0.0)
        right = scored & (labels >= 0) & (accuracy.rank_of_truth(filled, labels) == 1)
        best = filled.argmax(axis=1)
        is_best = scored & (np.nan_to_num(probabilities).argmax(axis=1) == labels)
        tied = ~right & (best == labels)  # a tie is an error, so the other one counts
        filled[rows[tied], best[tied]] = -np.inf
        taken = filled.argmax(axis=1)
        filled[rows, taken] = -np.inf
        filled[rows[tied], best[tied]] = np.inf
        runner_up = filled.argmax(axis=1) if scores.shape[1] > 1 else taken
        confidence = np.where(scored, np.nan_to_num(probabilities).max(axis=1), np.nan)
        return cls(name, labels, scored, right, np.where(scored, taken, -1), runner_up, confidence, is_best)

    def class_accuracy(self, num_classes: int) -> np.ndarray:
        """(K,) share of each class's videos that is right, the unscored being wrong; NaN for a class without videos."""
        known = self.labels >= 0
        counts = np.bincount(self.labels[known], minlength=num_classes)
        hits = np.bincount(self.labels[self.right], minlength=num_classes)
        return np.divide(hits, counts, out=np.full(num_classes, np.nan), where=counts > 0)

    def confusion(self, num_classes: int) -> np.ndarray:
        """How often class i was taken for class j: int64 (K, K); its diagonal holds what is right."""
        judged = self.scored & (self.labels >= 0)
        pairs = self.labels[judged].astype(np.int64) * num_classes + self.taken[judged]
        return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)

    def reliability(self) -> list[tuple[int, float, float]]:
        """Of each bin of confidence: videos, their mean confidence, and the share of them that is right."""
        judged = self.scored & (self.labels >= 0)
        return accuracy.reliability(self.confidence[judged], self.is_best[judged])


@dataclass(frozen=True)
class Group:
    """Videos that the first streams judged alike."""

    title: str
    videos: np.ndarray
    """(V,) booleans"""


def quadrants(streams: Sequence[Judgement]) -> list[Group]:
    """The labelled videos that all streams scored, by whether the first two were right: four groups, or two of one."""
    judged = np.all([stream.scored for stream in streams], axis=0) & (streams[0].labels >= 0)
    groups = [Group("", judged)]
    for stream in streams[:2]:
        groups = [
            Group(f"{group.title}{group.title and ', '}{stream.name} {word}", group.videos & (stream.right == is_right))
            for group in groups
            for word, is_right in (("right", True), ("wrong", False))
        ]
    return groups
