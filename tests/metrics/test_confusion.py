"""Confusion matrices against tables computed by hand."""

import numpy as np
import pytest

from twostream.metrics.confusion import (
    confusion_matrix,
    confusion_order,
    count_confusion,
    exchanged_classes,
    most_confused,
    row_shares,
)

# What scikit-learn's confusion_matrix gives for these labels and predictions.
LABELS = np.array([2, 0, 2, 2, 0, 1])
PREDICTED = np.array([0, 0, 2, 2, 0, 2])
MATRIX = np.array([[2, 0, 0], [0, 0, 1], [1, 0, 2]])


def test_rows_are_true_classes_and_columns_predictions():
    assert count_confusion(LABELS, PREDICTED, 3).tolist() == MATRIX.tolist()
    assert count_confusion(LABELS.astype(np.int32), PREDICTED, 3).dtype == np.int64
    assert confusion_matrix(np.eye(3)[PREDICTED], LABELS).tolist() == MATRIX.tolist()


def test_the_first_of_equal_scores_is_the_prediction():
    matrix = confusion_matrix(np.array([[1.0, 1.0, 0.0]]), np.array([1]))
    assert matrix.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_a_matrix_without_videos_is_zero():
    assert confusion_matrix(np.zeros((0, 2)), np.zeros(0, int)).tolist() == [[0, 0], [0, 0]]


def test_most_frequent_mistakes_come_first():
    assert most_confused(MATRIX) == [(1, 2, 1), (2, 0, 1)]
    assert most_confused(MATRIX, count=1) == [(1, 2, 1)]
    assert most_confused(np.array([[5, 1, 7], [0, 5, 0], [3, 0, 5]])) == [(0, 2, 7), (2, 0, 3), (0, 1, 1)]
    assert most_confused(np.diag([3, 4])) == []


def test_row_shares_sum_to_1_or_0():
    assert row_shares(np.array([[1, 3], [0, 0]])).tolist() == [[0.25, 0.75], [0, 0]]


@pytest.mark.parametrize("seed", range(3))
def test_confused_classes_are_neighbours(seed):
    """Six groups of four classes that are confused with each other, shuffled: each group comes in one piece."""
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.repeat(np.arange(6), 4))
    matrix = 90 * np.eye(24, dtype=int) + rng.integers(1, 5, (24, 24)) * (group[:, None] == group)
    order = confusion_order(matrix)
    assert sorted(order) == list(range(24))
    assert (np.diff(group[order]) != 0).sum() == 5


def test_order_of_few_classes():
    assert confusion_order(np.zeros((3, 3), int)) == [0, 1, 2]
    assert confusion_order(np.ones((1, 1), int)) == [0]
    assert confusion_order(np.zeros((0, 0), int)) == []


def test_exchanged_classes():
    """0 -> 2 -> 3 -> 0 is a circle; most videos of 4 look like 1, but 1 is recognised: an error of the network."""
    matrix = np.diag([1, 8, 0, 2, 1]) + 0
    matrix[0, 2], matrix[2, 3], matrix[3, 0], matrix[4, 1] = 9, 7, 6, 5
    assert exchanged_classes(matrix) == [(0, 2), (2, 3), (3, 0)]
    assert exchanged_classes(np.diag([3, 4, 5])) == []
    assert exchanged_classes(np.array([[5, 5], [5, 5]])) == []
    assert exchanged_classes(np.zeros((3, 3), int)) == []
