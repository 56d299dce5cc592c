"""Accuracies from scores and labels. Rates are in 0 ... 1.

`rank_of_truth` and `in_top_k` take one label for each row; they work on NumPy arrays and on torch tensors. Average
precision and hits take any number of labels, as booleans (V, K), and follow the ActivityNet evaluator. A score of NaN
means "no score": the video was not scored, or the class is not listed for it.
"""

from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any
"""a NumPy array or a torch tensor"""


def has_label(labels: Array) -> Array:
    """Which of n labels are known: booleans (n,).

    `labels` are label indices (n,), -1 if unknown, or multi-label truth (n, K): 1, 0, and rows of -1 if unknown.
    """
    return (labels if labels.ndim == 1 else labels[:, 0]) >= 0


def labels_differ(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Which of n labels, as in `has_label`, differ: booleans (n,)."""
    differs = np.asarray(first != second)
    return differs if differs.ndim == 1 else np.asarray(differs.any(axis=1))


def rank_of_truth(scores: Array, labels: Array) -> Array:
    """Number of classes whose score is at least that of the true class: 1 is best, 0 means that the row has no score.

    Scores (M, K) and label indices (M,) -> integers (M,). The true class itself counts, so a tie is an error whichever
    class comes first.
    """
    rows = (labels == labels).cumsum(0) - 1  # 0 ... M - 1 on the labels' device; arange would be copied to the GPU
    return (scores >= scores[rows, labels][:, None]).sum(1)


def in_top_k(scores: Array, labels: Array, k: int) -> Array:
    """Is the true class among the k best? Scores (M, K) and label indices (M,) -> booleans (M,).

    A tie is an error, and so is a row of NaN (no score). If k >= K, every row of finite scores is correct.

    >>> in_top_k(np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]]), np.array([2, 0]), k=2)
    array([ True,  True])
    >>> in_top_k(np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]]), np.array([1, 0]), k=1)
    array([ True, False])
    """
    rank = rank_of_truth(scores, labels)
    return (rank >= 1) & (rank <= k)


def share_in_top_k(ranks: np.ndarray, k: int) -> float:
    """Share of the ranks (M,), as `rank_of_truth` gives them, that are among the k best; NaN if there are no ranks."""
    return float(((ranks >= 1) & (ranks <= k)).mean()) if len(ranks) else float("nan")


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of rows whose true class is among the k best; NaN without rows. Scores (M, K), label indices (M,)."""
    return float(in_top_k(scores, labels, k).mean()) if len(labels) else float("nan")


def mean_class_accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean of the top-1 accuracies of the classes that occur; NaN without rows. Scores (M, K), label indices (M,)."""
    is_correct = in_top_k(scores, labels, 1)
    recalls = [is_correct[labels == label].mean() for label in np.unique(labels)]
    return float(np.mean(recalls)) if recalls else float("nan")


def mean_error(top1: float, top5: float) -> float:
    """Mean of the top-1 and top-5 errors, the measure of the Kinetics challenge, from the two accuracies."""
    return ((1 - top1) + (1 - top5)) / 2


def one_hot(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Label indices (V,) as booleans (V, K); a row of False for the label -1."""
    truth: np.ndarray = labels[:, None] == np.arange(num_classes)
    return truth


def keep_top(scores: np.ndarray, k: int = 5) -> np.ndarray:
    """The k best scores of each row of (V, K), as a result file of the challenge lists them; NaN elsewhere.

    Of equal scores, those of the first classes are kept.
    """
    k = min(k, scores.shape[1])
    filled = np.where(np.isnan(scores), -np.inf, scores)
    kth_best = -np.partition(-filled, k - 1, axis=1)[:, [k - 1]]
    is_better, is_equal = filled > kth_best, filled == kth_best
    num_free = k - is_better.sum(axis=1, keepdims=True)
    is_kept = is_better | (is_equal & (is_equal.cumsum(axis=1, dtype=np.int32) <= num_free))
    return np.where(is_kept, scores, np.nan)


def hit_at_k(scores: np.ndarray, truth: np.ndarray, k: int, *, average: bool = False) -> float:
    """Share of videos that have a true class among their k best.

    With `average`: the share of a video's true classes that are among its k best, averaged over the videos. Scores
    and truth (V, K). Videos without a true class do not count; NaN if no video has one.
    """
    found = truth & ~np.isnan(keep_top(scores, k))
    hits, classes = found.sum(axis=1), truth.sum(axis=1)
    hits, classes = hits[classes > 0], classes[classes > 0]
    return float(np.mean(hits / classes if average else hits > 0)) if len(classes) else float("nan")


def average_precision(scores: np.ndarray, truth: np.ndarray, *, interpolated: bool = False) -> float:
    """Area under precision over recall of one class; scores and truth (V,). Equal scores share one point of the curve.

    `interpolated`: precision at a recall is the best one at that recall or above (VOC 2011, the ActivityNet evaluator).
    True videos without a score count as never found. NaN if no video is true.
    """
    num_true = truth.sum()
    if not num_true:
        return float("nan")
    is_scored = ~np.isnan(scores)
    order = np.argsort(-scores[is_scored])
    ranked, hits = scores[is_scored][order], np.cumsum(truth[is_scored][order])
    if not len(ranked):
        return 0.0
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # the last of each run of equal scores
    precision, recall = hits[ends] / (ends + 1), hits[ends] / num_true
    if interpolated:
        precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0) * precision))


def class_average_precisions(scores: np.ndarray, truth: np.ndarray, *, interpolated: bool = False) -> np.ndarray:
    """`average_precision` of each class, (K,); NaN for classes that do not occur in the truth. Scores and truth (V, K)."""
    columns = zip(np.ascontiguousarray(scores.T), np.ascontiguousarray(truth.T), strict=True)
    return np.array([average_precision(*column, interpolated=interpolated) for column in columns])


def mean_average_precision(scores: np.ndarray, truth: np.ndarray, *, interpolated: bool = False) -> float:
    """Mean of `average_precision` over the classes that occur in the truth; scores and truth (V, K).

    Without `interpolated`, MMAction2's measure of this name for multi-label recognition.
    """
    return mean_of_numbers(class_average_precisions(scores, truth, interpolated=interpolated))


def mmit_mean_average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """How well the classes of each video are ranked: `average_precision` over classes, averaged over the videos.

    The measure of Multi-Moments in Time (Monfort et al. 2019), as MMAction2 computes it. Videos with none of the classes
    do not count. Scores and truth (V, K); videos without scores count as 0.
    """
    rows = zip(np.ascontiguousarray(scores), np.ascontiguousarray(truth), strict=True)
    return mean_of_numbers([average_precision(*row) for row in rows])


def mean_of_numbers(values: np.ndarray | list[float]) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    numbers = [value for value in values if value == value]
    return float(np.mean(numbers)) if numbers else float("nan")


def reliability(
    confidence: np.ndarray, is_correct: np.ndarray, *, num_bins: int = 15
) -> list[tuple[int, float, float]]:
    """For each of `num_bins` equal bins of confidence: number of rows, mean confidence, share of correct rows.

    `confidence` (M,) is the probability of the best class, `is_correct` (M,) whether that class is the true one. An
    empty bin is (0, 0.0, 0.0).
    """
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    sums = (np.bincount(bins, weights=values, minlength=num_bins) for values in (confidence, is_correct))
    means = ((part / np.maximum(counts, 1)).tolist() for part in sums)
    return list(zip(counts.tolist(), *means, strict=True))


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, *, num_bins: int = 15) -> float:
    """Expected calibration error: |accuracy - confidence| averaged over the bins of `reliability`, weighted by size.

    Probabilities (M, K), label indices (M,). Rows of NaN do not count; NaN if no row has scores. 0 means: of the
    predictions made with 80 % confidence, 80 % are correct.
    """
    is_scored = ~np.isnan(probabilities).any(axis=1)
    probabilities, labels = probabilities[is_scored], labels[is_scored]
    if not len(labels):
        return float("nan")
    bins = reliability(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, num_bins=num_bins)
    return sum(count * abs(accuracy - confidence) for count, confidence, accuracy in bins) / len(labels)
