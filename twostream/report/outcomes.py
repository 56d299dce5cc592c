"""What each row of the result table predicted for each video: the class, whether it is correct, and how confident."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twostream.metrics import accuracy
from twostream.metrics.confusion import count_confusion


@dataclass(frozen=True)
class Outcomes:
    """Predictions of one row of the result table; arrays (V,)."""

    name: str
    labels: np.ndarray
    """label indices; -1 without a label"""
    is_scored: np.ndarray
    """booleans"""
    is_correct: np.ndarray
    """booleans, as video top-1 counts: scored, and the true class is better than all others"""
    predicted: np.ndarray
    """label indices: the true class if correct, otherwise the best other class; -1 if not scored"""
    runner_up: np.ndarray
    """label indices: the best class other than `predicted`; `predicted` itself if there is only one class"""
    confidence: np.ndarray
    """probability of the best class; NaN if not scored"""
    argmax_is_correct: np.ndarray
    """booleans, as the calibration error counts: the first of the best classes is the true one"""

    @classmethod
    def from_scores(cls, name: str, scores: np.ndarray, probabilities: np.ndarray, labels: np.ndarray) -> "Outcomes":
        """From scores and probabilities (V, K), rows of NaN if not scored, and labels (V,)."""
        rows, is_scored = np.arange(len(labels)), ~np.isnan(scores).any(axis=1)
        filled = np.where(is_scored[:, None], scores, 0.0)
        is_correct = is_scored & (labels >= 0) & (accuracy.rank_of_truth(filled, labels) == 1)
        best = filled.argmax(axis=1)
        argmax_is_correct = is_scored & (np.nan_to_num(probabilities).argmax(axis=1) == labels)
        is_tied = ~is_correct & (best == labels)  # a tie is an error, so the other class is the prediction
        filled[rows[is_tied], best[is_tied]] = -np.inf
        predicted = filled.argmax(axis=1)
        filled[rows, predicted] = -np.inf
        filled[rows[is_tied], best[is_tied]] = np.inf
        runner_up = filled.argmax(axis=1) if scores.shape[1] > 1 else predicted
        confidence = np.where(is_scored, np.nan_to_num(probabilities).max(axis=1), np.nan)
        predicted = np.where(is_scored, predicted, -1)
        return cls(name, labels, is_scored, is_correct, predicted, runner_up, confidence, argmax_is_correct)

    def class_accuracy(self, num_classes: int) -> np.ndarray:
        """(K,) share of each class's videos that are correct; unscored videos are wrong; NaN for a class without videos."""
        counts = np.bincount(self.labels[self.labels >= 0], minlength=num_classes)
        hits = np.bincount(self.labels[self.is_correct], minlength=num_classes)
        return np.asarray(np.divide(hits, counts, out=np.full(num_classes, np.nan), where=counts > 0))

    def confusion(self, num_classes: int) -> np.ndarray:
        """Confusion matrix (K, K) of the scored videos with a label; its diagonal has the correct ones."""
        is_counted = self.is_scored & (self.labels >= 0)
        return count_confusion(self.labels[is_counted], self.predicted[is_counted], num_classes)

    def reliability(self) -> list[tuple[int, float, float]]:
        """Number of videos, mean confidence and share of correct ones for each bin, see `metrics.accuracy.reliability`."""
        is_counted = self.is_scored & (self.labels >= 0)
        return accuracy.reliability(self.confidence[is_counted], self.argmax_is_correct[is_counted])


@dataclass(frozen=True)
class Quadrant:
    """Videos for which each of the first two streams is right, or is wrong."""

    title: str
    videos: np.ndarray
    """(V,) booleans"""


def quadrants(streams: Sequence[Outcomes]) -> list[Quadrant]:
    """The labelled videos that all streams scored, by whether the first two are right: four parts, or two of one stream."""
    is_counted = np.all([stream.is_scored for stream in streams], axis=0) & (streams[0].labels >= 0)
    parts: list[tuple[list[str], np.ndarray]] = [([], is_counted)]  # parts of the title, videos
    for stream in streams[:2]:
        parts = [
            ([*titles, f"{stream.name} {word}"], videos & (stream.is_correct == is_correct))
            for titles, videos in parts
            for word, is_correct in (("right", True), ("wrong", False))
        ]
    return [Quadrant(", ".join(titles), videos) for titles, videos in parts]
