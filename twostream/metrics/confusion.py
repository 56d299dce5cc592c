"""Confusion matrices: counts, row shares, the most frequent mistakes, an order of classes."""

import numpy as np


def confusion_matrix(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
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


def row_shares(matrix: np.ndarray) -> np.ndarray:
    """Each row of a confusion matrix (K, K) as shares of its clips; 0 for a class without any."""
    return matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)


def order_by_likeness(matrix: np.ndarray) -> list[int]:
    """The classes in an order in which those that are taken for each other stand together.

    Average linkage over the shares by which two classes are confused; joined groups are turned so that the classes
    where they meet are alike.
    """
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    alike = shares + shares.T
    np.fill_diagonal(alike, 0)
    between = alike.copy()
    np.fill_diagonal(between, -1)
    groups = [[place] for place in range(len(matrix))]
    sizes = np.ones(len(matrix))
    for _ in range(len(matrix) - 1):
        one, other = sorted(np.unravel_index(between.argmax(), between.shape))
        a, b = groups[one], groups[other]
        ends = {(turn_a, turn_b): alike[a[0 if turn_a else -1], b[-1 if turn_b else 0]]
                for turn_a in (False, True) for turn_b in (False, True)}  # fmt: skip
        turn_a, turn_b = max(ends, key=ends.get)
        groups[one] = (a[::-1] if turn_a else a) + (b[::-1] if turn_b else b)
        mean = (sizes[one] * between[one] + sizes[other] * between[other]) / (sizes[one] + sizes[other])
        mean[between[one] < 0] = -1  # itself, and those that were joined before
        between[one], between[:, one] = mean, mean
        between[other], between[:, other] = -1, -1
        between[one, one] = -1
        sizes[one] += sizes[other]
    return groups[0] if groups else []
