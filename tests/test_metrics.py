"""Accuracies against hand tables, and against sorting whole rows."""

import doctest
import math

import numpy as np
import pytest
import torch

from twostream import metrics

NAN = float("nan")


@pytest.mark.parametrize(
    ("row", "label", "k", "right"),
    [
        ([0.1, 0.7, 0.2], 1, 1, True),
        ([0.1, 0.7, 0.2], 2, 1, False),
        ([0.1, 0.7, 0.2], 2, 2, True),
        ([0.1, 0.7, 0.2], 0, 2, False),
        ([0.1, 0.7, 0.2], 0, 3, True),  # k = K: every finite row is right
        ([0.1, 0.7, 0.2], 0, 5, True),  # k > K
        ([0.5, 0.5, 0.0], 0, 1, False),  # a tie is an error ...
        ([0.5, 0.5, 0.0], 1, 1, False),  # ... whichever class comes first
        ([0.5, 0.5, 0.0], 0, 2, True),  # both of the tied are among the two best
        ([0.0, 0.0, 0.0], 1, 2, False),  # a network that says nothing is not right
        ([0.0, 0.0, 0.0], 1, 3, True),
        ([NAN, NAN, NAN], 1, 1, False),
        ([NAN, NAN, NAN], 1, 5, False),  # no score is wrong, however large k
        ([9.0], 0, 1, True),  # a single class
    ],
)
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_in_top_k_by_hand(kind, row, label, k, right):
    make = np.array if kind == "numpy" else torch.tensor
    assert metrics.in_top_k(make([row]), make([label]), k).tolist() == [right]


@pytest.mark.parametrize("k", [1, 3, 5, 7, 10])
@pytest.mark.parametrize("seed", range(3))
def test_in_top_k_is_what_sorting_says(k, seed):
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.tile(np.arange(7.0), (50, 1)), axis=1)  # no ties: one truth
    labels = rng.integers(0, 7, 50)
    truth = [label in sorted(range(7), key=lambda c: -row[c])[:k] for row, label in zip(scores, labels, strict=True)]
    assert metrics.in_top_k(scores, labels, k).tolist() == truth
    assert metrics.in_top_k(torch.from_numpy(scores), torch.from_numpy(labels), k).tolist() == truth
    assert metrics.top_k_accuracy(scores, labels, k) == pytest.approx(np.mean(truth))


def test_numpy_and_torch_agree_with_ties_and_missing_rows():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 3, (100, 5)).astype(np.float64)
    scores[::7] = NAN
    labels = rng.integers(0, 5, 100)
    for k in range(1, 7):
        from_torch = metrics.in_top_k(torch.from_numpy(scores), torch.from_numpy(labels), k)
        assert metrics.in_top_k(scores, labels, k).tolist() == from_torch.tolist()
        assert not from_torch[::7].any()


def test_more_guesses_never_hurt():
    rng = np.random.default_rng(1)
    scores, labels = rng.integers(0, 4, (60, 6)).astype(float), rng.integers(0, 6, 60)
    rates = [metrics.top_k_accuracy(scores, labels, k) for k in range(1, 7)]
    assert rates == sorted(rates) and rates[-1] == 1


def test_mean_class_accuracy_weighs_classes_equally():
    # Class 0: 3 of 4 right; class 1: its only row wrong; class 2 does not occur and does not count.
    scores = np.array([[2, 1, 0], [2, 1, 0], [2, 1, 0], [1, 2, 0], [2, 1, 0]])
    labels = np.array([0, 0, 0, 0, 1])
    assert metrics.mean_class_accuracy(scores, labels) == pytest.approx((3 / 4 + 0) / 2)
    assert metrics.top_k_accuracy(scores, labels, 1) == pytest.approx(3 / 5)


def test_mean_error_of_the_challenge():
    # 2D-kinectics' README: accuracies 66.9 and 85.7 have the mean 76.3.
    assert 1 - metrics.mean_error(0.669, 0.857) == pytest.approx(0.763)
    assert metrics.mean_error(1.0, 1.0) == 0 and metrics.mean_error(0.0, 0.0) == 1


def test_nothing_has_no_accuracy():
    scores, labels = np.zeros((0, 4)), np.zeros(0, int)
    assert metrics.in_top_k(scores, labels, 1).shape == (0,)
    assert math.isnan(metrics.top_k_accuracy(scores, labels, 1))
    assert math.isnan(metrics.mean_class_accuracy(scores, labels))


def test_examples_of_the_docstrings():
    result = doctest.testmod(metrics)
    assert result.attempted >= 2 and result.failed == 0


def test_confusion_counts_true_classes_down_and_guesses_across():
    """The table that scikit-learn's confusion_matrix gives for true [2, 0, 2, 2, 0, 1], guessed [0, 0, 2, 2, 0, 2]."""
    guessed, labels = np.array([0, 0, 2, 2, 0, 2]), np.array([2, 0, 2, 2, 0, 1])
    matrix = metrics.confusion(np.eye(3)[guessed], labels)
    assert matrix.tolist() == [[2, 0, 0], [0, 0, 1], [1, 0, 2]]
    # A class that neither occurs nor is guessed has its row and column; of equal scores the first counts.
    assert metrics.confusion(np.array([[1.0, 1.0, 0.0]]), np.array([1])).tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert metrics.confusion(np.zeros((0, 2)), np.zeros(0, int)).tolist() == [[0, 0], [0, 0]]
    assert metrics.most_confused(matrix) == [(1, 2, 1), (2, 0, 1)]
    assert metrics.most_confused(matrix, count=1) == [(1, 2, 1)]
    assert metrics.most_confused(np.array([[5, 1, 7], [0, 5, 0], [3, 0, 5]])) == [(0, 2, 7), (2, 0, 3), (0, 1, 1)]
    assert metrics.most_confused(np.diag([3, 4])) == []
