"""Accuracies from scores and labels. Rates are in 0 ... 1. Works on NumPy arrays and torch tensors alike."""

import numpy as np


def in_top_k(scores, labels, k: int):
    """Is the true class among the k best? Scores (M, K), label indices (M,) -> booleans (M,).

    A class counts as better than the true one when its score is higher or equal, so a tie is an error, and so is a
    row of NaN (no score). With k >= K every finite row is right.

    >>> in_top_k(np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]]), np.array([2, 0]), k=2)
    array([ True,  True])
    >>> in_top_k(np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]]), np.array([1, 0]), k=1)
    array([ True, False])
    """
    rows = (labels == labels).cumsum(0) - 1  # 0 ... M - 1 where the labels are: a range would be copied to the GPU
    true = scores[rows, labels]
    not_worse = (scores >= true[:, None]).sum(1)  # counts the true class itself, unless it is NaN
    return (not_worse >= 1) & (not_worse <= k)


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of rows whose true class is among the k best; NaN for no rows."""
    return float(in_top_k(scores, labels, k).mean()) if len(labels) else float("nan")


def mean_class_accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that occur of the share of their rows that is right; NaN for no rows."""
    right = in_top_k(scores, labels, 1)
    recalls = [right[labels == label].mean() for label in np.unique(labels)]
    return float(np.mean(recalls)) if recalls else float("nan")


def confusion(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How often class i was taken for class j: scores (M, K), label indices (M,) -> int64 (K, K), i down, j across.

    What a row is taken for is its best class, the first of several alike.
    """
    num_classes = scores.shape[1]
    pairs = np.asarray(labels) * num_classes + np.asarray(scores).argmax(axis=1)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def most_confused(matrix: np.ndarray, count: int = 20) -> list[tuple[int, int, int]]:
    """The commonest mistakes of a confusion matrix: (true class, taken for, times), the commonest first."""
    mistakes = matrix - np.diag(np.diag(matrix))
    places = np.argsort(-mistakes, axis=None, kind="stable")[:count]
    pairs = zip(*np.unravel_index(places, matrix.shape), strict=True)
    return [(int(i), int(j), int(mistakes[i, j])) for i, j in pairs if mistakes[i, j]]


def mean_error(top1: float, top5: float) -> float:
    """Mean of the top-1 and top-5 errors, the Kinetics challenge's measure."""
    return ((1 - top1) + (1 - top5)) / 2
