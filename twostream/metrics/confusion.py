"""Confusion matrices: counts, row shares, the most frequent mistakes, and an order of the classes.

A matrix is int64 (K, K): rows are true classes, columns are predicted classes.
"""

import numpy as np


def count_confusion(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """The matrix of true and predicted label indices, both (M,): how often class i was predicted as class j."""
    pairs = labels.astype(np.int64) * num_classes + predicted
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def confusion_matrix(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The matrix of scores (M, K) and label indices (M,). The prediction is the best class, the first of equal ones."""
    return count_confusion(labels, scores.argmax(axis=1), scores.shape[1])


def most_confused(matrix: np.ndarray, count: int = 20) -> list[tuple[int, int, int]]:
    """The most frequent mistakes as (true class, predicted class, times), the most frequent first."""
    mistakes = matrix - np.diag(np.diag(matrix))
    best = np.argsort(-mistakes, axis=None, kind="stable")[:count]
    pairs = zip(*np.unravel_index(best, matrix.shape), strict=True)
    return [(int(i), int(j), int(mistakes[i, j])) for i, j in pairs if mistakes[i, j]]


def exchanged_classes(matrix: np.ndarray) -> list[tuple[int, int]]:
    """Classes that look exchanged: most videos of each are predicted as another one of them.

    As pairs (true class, predicted class); empty if no columns of the scores seem to have changed places.
    """
    best = matrix.argmax(axis=1)
    is_other = (2 * matrix.max(axis=1) > matrix.sum(axis=1)) & (best != np.arange(len(best)))
    exchanged = set(np.flatnonzero(is_other).tolist())
    while others := {label for label in exchanged if int(best[label]) not in exchanged}:
        exchanged -= others
    pairs = [(label, int(best[label])) for label in sorted(exchanged)]
    return pairs if {predicted for _, predicted in pairs} == exchanged else []


def row_shares(matrix: np.ndarray) -> np.ndarray:
    """Each row as shares of its sum, float64 in 0 ... 1; a class without rows has zeros."""
    shares: np.ndarray = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    return shares


def confusion_order(matrix: np.ndarray) -> list[int]:
    """The K classes in an order that puts confused ones next to each other.

    It starts with the first class; the next is, of the remaining classes, the one most often confused with the last.
    """
    confused = row_shares(matrix) + row_shares(matrix).T
    remaining = list(range(len(matrix)))
    order = [remaining.pop(0)] if remaining else []
    while remaining:
        order.append(remaining.pop(int(confused[order[-1], remaining].argmax())))
    return order
