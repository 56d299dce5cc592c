"""Accuracies from scores and labels. Rates are in 0 ... 1.

Of one label a video: `rank_of_truth` and what follows from it, on NumPy arrays and torch tensors alike. Of any number of
labels, as booleans (V, K): average precision and hits, by the definitions of the ActivityNet evaluator. A score of NaN
is none: the video was not scored, or the class not listed for it.
"""

import numpy as np


def rank_of_truth(scores, labels):
    """How many classes are as good as the true one or better, itself included: 1 is best; 0 where it has no score.

    Scores (M, K), label indices (M,) -> (M,). So a tie is an error, whichever class comes first.
    """
    rows = (labels == labels).cumsum(0) - 1  # 0 ... M - 1 where the labels are: a range would be copied to the GPU
    return (scores >= scores[rows, labels][:, None]).sum(1)


def in_top_k(scores, labels, k: int):
    """Is the true class among the k best? Scores (M, K), label indices (M,) -> booleans (M,).

    A tie is an error, and so is a row of NaN (no score). With k >= K every finite row is right.

    >>> in_top_k(np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]]), np.array([2, 0]), k=2)
    array([ True,  True])
    >>> in_top_k(np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]]), np.array([1, 0]), k=1)
    array([ True, False])
    """
    rank = rank_of_truth(scores, labels)
    return (rank >= 1) & (rank <= k)


def share_in_top_k(ranks: np.ndarray, k: int) -> float:
    """Share of ranks of `rank_of_truth` that are among the k best; NaN for none."""
    return float(((ranks >= 1) & (ranks <= k)).mean()) if len(ranks) else float("nan")


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of rows whose true class is among the k best; NaN for no rows."""
    return float(in_top_k(scores, labels, k).mean()) if len(labels) else float("nan")


def mean_class_accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that occur of the share of their rows that is right; NaN for no rows."""
    right = in_top_k(scores, labels, 1)
    recalls = [right[labels == label].mean() for label in np.unique(labels)]
    return float(np.mean(recalls)) if recalls else float("nan")


def mean_error(top1: float, top5: float) -> float:
    """Mean of the top-1 and top-5 errors, the Kinetics challenge's measure."""
    return ((1 - top1) + (1 - top5)) / 2


def one_hot(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Label indices (V,) as booleans (V, K)."""
    return labels[:, None] == np.arange(num_classes)


def listed(scores: np.ndarray, top: int = 5) -> np.ndarray:
    """Only the best `top` scores of each row, as a challenge's result file lists them; NaN elsewhere."""
    filled = np.where(np.isnan(scores), -np.inf, scores)
    last = -np.partition(-filled, min(top, scores.shape[1]) - 1, axis=1)[:, [min(top, scores.shape[1]) - 1]]
    better, equal = filled > last, filled == last
    # Of equal ones the first classes, as many as there is room for.
    kept = better | (equal & (equal.cumsum(axis=1, dtype=np.int32) <= top - better.sum(axis=1, keepdims=True)))
    return np.where(kept, scores, np.nan)


def hit_at_k(scores: np.ndarray, truth: np.ndarray, k: int, *, average: bool = False) -> float:
    """Share of videos with a true class among their k best; or, on average, the share of their true classes there.

    Scores and truth (V, K). Videos without a true class do not count; NaN when there are none.
    """
    found = truth & ~np.isnan(listed(scores, k))
    hits, classes = found.sum(axis=1), truth.sum(axis=1)
    hits, classes = hits[classes > 0], classes[classes > 0]
    return float(np.mean(hits / classes if average else hits > 0)) if len(classes) else float("nan")


def average_precision(scores: np.ndarray, truth: np.ndarray, *, interpolated: bool = False) -> float:
    """Area below precision over recall of one class, scores and truth (V,); equal scores come at once.

    `interpolated`: precision is the best at that recall or more (VOC 2011, the ActivityNet evaluator). True videos
    without score are never found. NaN where there are no true ones.
    """
    total = truth.sum()
    scored = ~np.isnan(scores)
    order = np.argsort(-scores[scored])
    ranked, hits = scores[scored][order], np.cumsum(truth[scored][order])
    if not total or not len(ranked):
        return 0.0 if total else float("nan")
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # of each run of equal scores
    precision, recall = hits[last] / (last + 1), hits[last] / total
    if interpolated:
        precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0) * precision))


def mean_average_precision(scores: np.ndarray, truth: np.ndarray, *, interpolated: bool = False) -> float:
    """Mean of `average_precision` over the classes that occur in the truth; scores and truth (V, K)."""
    columns = zip(np.ascontiguousarray(scores.T), np.ascontiguousarray(truth.T), strict=True)
    precisions = [average_precision(*column, interpolated=interpolated) for column in columns if column[1].any()]
    return float(np.mean(precisions)) if precisions else float("nan")


def reliability(confidence: np.ndarray, right: np.ndarray, *, num_bins: int = 15) -> list[tuple[int, float, float]]:
    """Of each of equal bins of confidence, that is the best class's probability: rows, their mean confidence, and the
    share of them that is right. 0 in empty bins.
    """
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    sums = (np.bincount(bins, weights=part, minlength=num_bins) for part in (confidence, right))
    return list(zip(counts.tolist(), *((part / np.maximum(counts, 1)).tolist() for part in sums), strict=True))


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, *, num_bins: int = 15) -> float:
    """Expected calibration error: |accuracy - confidence| in the bins of `reliability`, by size.

    Of the rows that have scores; NaN for none. 0: of what is said with 80 %, 80 % is right.
    """
    scored = ~np.isnan(probabilities).any(axis=1)
    probabilities, labels = probabilities[scored], labels[scored]
    if not len(labels):
        return float("nan")
    bins = reliability(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, num_bins=num_bins)
    return sum(count * abs(accuracy - confidence) for count, confidence, accuracy in bins) / len(labels)
