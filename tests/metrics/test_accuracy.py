"""Accuracies against tables computed by hand, against sorting whole rows, and against scikit-learn."""

import doctest
import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

from twostream.metrics import accuracy

NAN = float("nan")


@pytest.mark.parametrize(
    ("row", "label", "k", "is_correct"),
    [
        ([0.1, 0.7, 0.2], 1, 1, True),
        ([0.1, 0.7, 0.2], 2, 1, False),
        ([0.1, 0.7, 0.2], 2, 2, True),
        ([0.1, 0.7, 0.2], 0, 2, False),
        ([0.1, 0.7, 0.2], 0, 3, True),  # k = K: every finite row is correct
        ([0.1, 0.7, 0.2], 0, 5, True),  # k > K
        ([0.5, 0.5, 0.0], 0, 1, False),  # a tie is an error ...
        ([0.5, 0.5, 0.0], 1, 1, False),  # ... whichever class comes first
        ([0.5, 0.5, 0.0], 0, 2, True),  # both tied classes are among the two best
        ([0.0, 0.0, 0.0], 1, 2, False),  # a network that predicts nothing is not correct
        ([0.0, 0.0, 0.0], 1, 3, True),
        ([NAN, NAN, NAN], 1, 1, False),
        ([NAN, NAN, NAN], 1, 5, False),  # no score is wrong, however large k
        ([9.0], 0, 1, True),  # a single class
    ],
)
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_in_top_k_by_hand(kind, row, label, k, is_correct):
    make = np.array if kind == "numpy" else torch.tensor
    assert accuracy.in_top_k(make([row]), make([label]), k).tolist() == [is_correct]


@pytest.mark.parametrize("k", [1, 3, 5, 7, 10])
@pytest.mark.parametrize("seed", range(3))
def test_in_top_k_agrees_with_sorting(k, seed):
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.tile(np.arange(7.0), (50, 1)), axis=1)  # no ties: one truth
    labels = rng.integers(0, 7, 50)
    truth = [label in sorted(range(7), key=lambda c: -row[c])[:k] for row, label in zip(scores, labels, strict=True)]
    assert accuracy.in_top_k(scores, labels, k).tolist() == truth
    assert accuracy.in_top_k(torch.from_numpy(scores), torch.from_numpy(labels), k).tolist() == truth
    assert accuracy.top_k_accuracy(scores, labels, k) == pytest.approx(np.mean(truth))


def test_numpy_and_torch_agree_with_ties_and_missing_rows():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 3, (100, 5)).astype(np.float64)
    scores[::7] = NAN
    labels = rng.integers(0, 5, 100)
    for k in range(1, 7):
        from_torch = accuracy.in_top_k(torch.from_numpy(scores), torch.from_numpy(labels), k)
        assert accuracy.in_top_k(scores, labels, k).tolist() == from_torch.tolist()
        assert not from_torch[::7].any()


def test_accuracy_does_not_fall_with_k():
    rng = np.random.default_rng(1)
    scores, labels = rng.integers(0, 4, (60, 6)).astype(float), rng.integers(0, 6, 60)
    rates = [accuracy.top_k_accuracy(scores, labels, k) for k in range(1, 7)]
    assert rates == sorted(rates) and rates[-1] == 1


def test_mean_class_accuracy_weighs_classes_equally():
    # Class 0: 3 of 4 correct; class 1: its only row wrong; class 2 does not occur, so it does not count.
    scores = np.array([[2, 1, 0], [2, 1, 0], [2, 1, 0], [1, 2, 0], [2, 1, 0]])
    labels = np.array([0, 0, 0, 0, 1])
    assert accuracy.mean_class_accuracy(scores, labels) == pytest.approx((3 / 4 + 0) / 2)
    assert accuracy.top_k_accuracy(scores, labels, 1) == pytest.approx(3 / 5)


def test_mean_error_of_the_challenge():
    # 2D-kinectics' README: accuracies 66.9 and 85.7 have the mean 76.3.
    assert 1 - accuracy.mean_error(0.669, 0.857) == pytest.approx(0.763)
    assert accuracy.mean_error(1.0, 1.0) == 0 and accuracy.mean_error(0.0, 0.0) == 1


def test_no_rows_give_nan():
    scores, labels = np.zeros((0, 4)), np.zeros(0, int)
    assert accuracy.in_top_k(scores, labels, 1).shape == (0,)
    assert math.isnan(accuracy.top_k_accuracy(scores, labels, 1))
    assert math.isnan(accuracy.mean_class_accuracy(scores, labels))


def test_examples_of_the_docstrings():
    result = doctest.testmod(accuracy)
    assert result.attempted >= 2 and result.failed == 0


# --------------------------------------------------------- agreement with scikit-learn and the official evaluator, to 1e-9


def random_scores(seed, *, num_videos=60, num_classes=7, several=False):
    """Scores without ties that are better than chance, labels, and truth (V, K); every class occurs.

    `several`: videos may have more than one true class.
    """
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(num_classes), rng.integers(0, num_classes, num_videos - num_classes)])
    truth = accuracy.one_hot(labels, num_classes)
    if several:
        truth |= rng.random(truth.shape) < 0.2
    scores = rng.normal(size=truth.shape) + truth
    return scores, labels, truth


@pytest.mark.parametrize("seed", range(5))
def test_accuracies_equal_scikit_learn(seed):
    scores, labels, _ = random_scores(seed)
    for k in (1, 3, 5):
        expected = sklearn_metrics.top_k_accuracy_score(labels, scores, k=k)
        assert accuracy.top_k_accuracy(scores, labels, k) == pytest.approx(expected, abs=1e-9)
        assert accuracy.share_in_top_k(accuracy.rank_of_truth(scores, labels), k) == pytest.approx(expected, abs=1e-9)
    # MMAction2 computes the same if every class occurs; a class that is predicted but does not occur counts as 0 there.
    recall = sklearn_metrics.recall_score(labels, scores.argmax(axis=1), average="macro")
    assert accuracy.mean_class_accuracy(scores, labels) == pytest.approx(recall, abs=1e-9)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_average_precision_equals_scikit_learn(seed, rounded, several):
    """Also with equal scores. MMAction2's mean_average_precision has the same definition."""
    scores, _, truth = random_scores(seed, several=several)
    scores = np.round(scores) if rounded else scores
    expected = sklearn_metrics.average_precision_score(truth, scores, average=None)
    for label, precision in enumerate(expected):
        assert accuracy.average_precision(scores[:, label], truth[:, label]) == pytest.approx(precision, abs=1e-9)
    assert accuracy.mean_average_precision(scores, truth) == pytest.approx(expected.mean(), abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rounded", [False, True])
def test_multi_label_measures_equal_scikit_learn(seed, rounded):
    """Also with equal scores, and with classes and videos without truth, which do not count."""
    scores, _, truth = random_scores(seed, several=True)
    scores = np.round(scores) if rounded else scores
    truth[:, :2] = False
    truth[::5] = False
    has_class = truth.any(axis=1)
    expected = sklearn_metrics.label_ranking_average_precision_score(truth[has_class], scores[has_class])
    assert accuracy.mmit_mean_average_precision(scores, truth) == pytest.approx(expected, abs=1e-9)
    by_class = accuracy.class_average_precisions(scores, truth)
    assert np.isnan(by_class).tolist() == (~truth.any(axis=0)).tolist()
    for label in np.flatnonzero(truth.any(axis=0)):
        expected = sklearn_metrics.average_precision_score(truth[:, label], scores[:, label])
        assert by_class[label] == pytest.approx(expected, abs=1e-9)
    assert accuracy.mean_average_precision(scores, truth) == pytest.approx(np.nanmean(by_class), abs=1e-9)


def test_videos_without_scores_are_never_found():
    scores, truth = np.array([[2.0, 1.0], [NAN, NAN]]), np.array([[True, False], [True, True]])
    assert accuracy.mmit_mean_average_precision(scores, truth) == pytest.approx(1 / 2)
    assert math.isnan(accuracy.mmit_mean_average_precision(scores, np.zeros_like(truth)))


def test_which_labels_are_known():
    assert accuracy.has_label(np.array([2, -1, 0])).tolist() == [True, False, True]
    assert accuracy.has_label(torch.tensor([[0, 1], [-1, -1], [0, 0]])).tolist() == [True, False, True]


def evaluator(scores, truth, k):
    """The Kinetics/ActivityNet evaluator step by step, on listed predictions, with VOC 2011's interpolated precision."""
    precisions = []
    for label in np.flatnonzero(truth.any(axis=0)):
        entries = [(scores[v, label], v) for v in range(len(scores)) if not math.isnan(scores[v, label])]
        entries.sort(reverse=True)
        points, found = [(0.0, 0.0)], 0
        for number, (_, video) in enumerate(entries, 1):
            found += truth[video, label]
            points.append((found / truth[:, label].sum(), found / number))
        points.append((1.0, 0.0))
        area = 0.0
        for index in range(1, len(points)):
            best = max(precision for _, precision in points[index:])
            area += (points[index][0] - points[index - 1][0]) * best
        precisions.append(area)
    shares = []
    for row, true in zip(scores, truth, strict=True):
        best = sorted((c for c in range(len(row)) if not math.isnan(row[c])), key=lambda c: -row[c])[:k]
        if true.any():
            shares.append(sum(c in best for c in np.flatnonzero(true)) / true.sum())
    return np.mean(precisions), np.mean(np.ceil(shares)), np.mean(shares)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_measures_equal_the_official_evaluator(seed, k, several):
    """With five listed classes for each video, some videos without predictions, and one class that is never true."""
    scores, _, truth = random_scores(seed, several=several)
    truth[:, 3] = False
    scores[seed::9] = np.nan
    listed = accuracy.keep_top(scores)
    assert {int(n) for n in (~np.isnan(listed)).sum(axis=1)} == {0, 5}
    precision, hit, average = evaluator(listed, truth, k)
    assert accuracy.mean_average_precision(listed, truth, interpolated=True) == pytest.approx(precision, abs=1e-9)
    assert accuracy.hit_at_k(listed, truth, k) == pytest.approx(hit, abs=1e-9)
    assert accuracy.hit_at_k(listed, truth, k, average=True) == pytest.approx(average, abs=1e-9)


def test_hit_at_k_with_one_label_is_top_k_accuracy():
    scores, labels, truth = random_scores(1)
    scores[::7] = np.nan
    for k in (1, 5):
        assert accuracy.hit_at_k(scores, truth, k) == pytest.approx(accuracy.top_k_accuracy(scores, labels, k))


@pytest.mark.parametrize("bins", [5, 15])
@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_equals_scikit_learn(seed, bins):
    scores, labels, _ = random_scores(seed, num_videos=300)
    probabilities = np.exp(2 * scores)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    confidence, is_correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    accurate, confident = calibration_curve(is_correct, confidence, n_bins=bins)
    counts, _ = np.histogram(confidence, bins=bins, range=(0, 1))
    expected = np.sum(counts[counts > 0] * np.abs(accurate - confident)) / len(labels)
    assert accuracy.calibration_error(probabilities, labels, num_bins=bins) == pytest.approx(expected, abs=1e-9)


def test_calibration_by_hand():
    """Four predictions with 80 % confidence of which one is correct: an error of 0.55. Rows without scores do not count."""
    probabilities = np.array([[0.8, 0.2]] * 4 + [[NAN, NAN]])
    assert accuracy.calibration_error(probabilities, np.array([0, 1, 1, 1, 0])) == pytest.approx(0.55)
    assert accuracy.calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0
    assert math.isnan(accuracy.calibration_error(np.full((2, 2), NAN), np.array([0, 1])))


def test_average_precision_without_truth_or_scores():
    assert math.isnan(accuracy.average_precision(np.array([1.0, 2.0]), np.array([False, False])))
    assert accuracy.average_precision(np.array([NAN, NAN]), np.array([True, False])) == 0
    # The second true video has no score, so half of the truth is never found.
    assert accuracy.average_precision(np.array([3.0, NAN, 1.0]), np.array([True, True, False])) == pytest.approx(1 / 2)
    assert math.isnan(accuracy.mean_average_precision(np.zeros((0, 3)), np.zeros((0, 3), bool)))
    assert math.isnan(accuracy.hit_at_k(np.zeros((0, 3)), np.zeros((0, 3), bool), 1))


@pytest.mark.parametrize("seed", range(3))
def test_keep_top_keeps_the_first_of_equal_scores(seed):
    """As a stable sort does, with which the challenge's file is written."""
    scores = np.random.default_rng(seed).integers(0, 4, (50, 8)).astype(float)
    scores[::5] = NAN
    scores[3, 2:] = NAN  # fewer than five
    for top in (1, 5, 8, 20):
        best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        expected = np.full(scores.shape, NAN)
        np.put_along_axis(expected, best, np.take_along_axis(scores, best, axis=1), axis=1)
        np.testing.assert_array_equal(accuracy.keep_top(scores, top), expected)
