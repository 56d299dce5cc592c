"""Fitted weights: they are the most likely ones, and no video is fused by weights that were fitted to its label."""

import numpy as np
import pytest
import scipy.optimize

from twostream.errors import BadInputError
from twostream.fusion import fitting
from twostream.fusion.consensus import softmax

METHODS = sorted(fitting.METHODS)


def streams(num_videos=300, num_classes=5, *, strengths=(3.0, 1.0), seed=0):
    """Probabilities of streams and the labels; the greater a stream's strength, the more often it is right."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num_videos)
    truth = labels[:, None] == np.arange(num_classes)
    return [softmax(strength * truth + rng.normal(size=truth.shape)) for strength in strengths], labels


def loss(weights, probabilities, labels):
    rows = np.arange(len(labels))
    return -np.mean(np.log(sum(w * p[rows, labels] for w, p in zip(weights, probabilities, strict=True))))


@pytest.mark.parametrize("seed", range(5))
def test_global_weights_are_the_most_likely_ones(seed):
    """Against SciPy's search; two weights that sum to 1 are one number."""
    probabilities, labels = streams(seed=seed)
    best = scipy.optimize.minimize_scalar(
        lambda w: loss((w, 1 - w), probabilities, labels), bounds=(0, 1), method="bounded", options={"xatol": 1e-9}
    )
    weights = fitting.fit_weights("global", probabilities, labels).weights
    assert weights.sum() == pytest.approx(1)
    assert weights[0] == pytest.approx(best.x, abs=1e-4)


@pytest.mark.parametrize("probability", [0.55, 0.9])
def test_accuracy_finds_streams_that_are_right_only_together(probability):
    """One stream says which half of four classes, the other which of a half; alone, each is right by luck half of the time."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 200)
    halves = [(np.arange(4) // 2)[None] == labels[:, None] // 2, (np.arange(4) % 2)[None] == labels[:, None] % 2]
    probabilities = [np.where(half, probability / 2, (1 - probability) / 2) for half in halves]
    fitted = fitting.fit_weights("accuracy", probabilities, labels)
    assert (fitted.fuse(probabilities).argmax(axis=1) == labels).all()
    assert fitted.weights == pytest.approx([0.5, 0.5], abs=0.1)


def test_accuracy_leaves_a_stream_of_noise_out():
    probabilities, labels = streams(strengths=(3.0, 3.0, 0.0))
    weights = fitting.fit_weights("accuracy", probabilities, labels).weights
    assert weights[2] < 0.1 and weights.sum() == pytest.approx(1)


def test_a_stream_of_noise_gets_little_weight():
    probabilities, labels = streams(strengths=(3.0, 3.0, 0.0))
    weights = fitting.fit_weights("global", probabilities, labels).weights
    assert weights[2] < 0.05 and weights[:2].min() > 0.2


@pytest.mark.parametrize("factor", [0.25, 1.0, 4.0])
def test_temperature_is_the_most_likely_one(factor):
    """If logits were multiplied by a factor, the temperature is that factor."""
    rng = np.random.default_rng(0)
    true = softmax(rng.normal(size=(5000, 4)) * 2)
    labels = (true.cumsum(axis=1) < rng.random((5000, 1))).sum(axis=1)  # drawn with these probabilities
    sharpened = softmax(factor * np.log(true))
    fitted = fitting.fit_weights("temperature", [sharpened, sharpened], labels).temperatures
    assert fitted == pytest.approx([factor, factor], rel=0.1)

    def by_scipy(exponent):
        powers = sharpened**exponent
        return -np.mean(np.log(powers[np.arange(5000), labels] / powers.sum(axis=1)))

    best = scipy.optimize.minimize_scalar(by_scipy, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9})
    assert 1 / fitted[0] == pytest.approx(best.x, rel=1e-4)


@pytest.mark.parametrize("factor", [1.0, 4.0])
def test_product_is_the_rule_of_bayes_for_streams_that_are_independent(factor):
    """Two noisy views of the truth, whose posteriors multiply to that of both; one is over-confident by a factor."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 4000)
    views = [(labels[:, None] == np.arange(4)) * 1.5 + rng.normal(size=(4000, 4)) for _ in range(2)]
    probabilities = [softmax(1.5 * views[0]), softmax(factor * 1.5 * views[1])]
    fitted = fitting.fit_weights("product", probabilities, labels)
    assert fitted.weights == pytest.approx([1, 1 / factor], rel=0.1)
    np.testing.assert_allclose(fitted.fuse(probabilities), softmax(1.5 * (views[0] + views[1])), atol=0.05)


def test_product_gives_little_say_to_a_stream_of_noise():
    probabilities, labels = streams(strengths=(3.0, 3.0, 0.0))
    weights = fitting.fit_weights("product", probabilities, labels).weights
    assert weights[2] < 0.15 and weights[:2].min() > 0.5


def test_product_of_many_streams_is_fitted_to_few_of_all_powers():
    probabilities, labels = streams(30, strengths=(2.0,) * 12)
    weights = fitting.fit_weights("product", probabilities, labels).weights
    assert weights.shape == (12,) and weights.min() > 0


def test_class_weights_follow_the_stream_that_knows_the_class():
    """The first stream knows classes 0 and 1, the second 2 and 3; a single weight per stream could not express that."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 800)
    truth = labels[:, None] == np.arange(4)
    knows = labels[:, None] < 2
    probabilities = [softmax(4 * truth * k + rng.normal(size=truth.shape)) for k in (knows, ~knows)]
    weights = fitting.fit_weights("class", probabilities, labels).weights
    assert weights.shape == (2, 4) and np.allclose(weights.sum(axis=0), 1)
    assert weights[0, :2].min() > 0.7 and weights[0, 2:].max() < 0.3


def test_a_class_without_videos_has_the_overall_weights():
    probabilities, labels = streams(num_classes=5)
    kept = labels != 4
    by_class = fitting.fit_weights("class", [p[kept] for p in probabilities], labels[kept]).weights
    overall = fitting.fit_weights("global", [p[kept] for p in probabilities], labels[kept]).weights
    np.testing.assert_allclose(by_class[:, 4], overall, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_video_is_not_fused_by_weights_fitted_to_its_label(method, monkeypatch):
    """If its label changes, its own fused scores stay the same to the last bit; those of other folds change."""
    monkeypatch.setattr(fitting, "NUM_STEPS", 500)  # so that a single label moves the weights of method accuracy
    probabilities, labels = streams(60, strengths=(1.0, 1.0))
    truth = fitting.cross_fit(method, probabilities, labels).scores
    moved = np.zeros(60, bool)
    for video in range(0, 60, 7):
        changed = labels.copy()
        changed[video] = (changed[video] + 2) % 5
        result = fitting.cross_fit(method, probabilities, changed).scores
        np.testing.assert_array_equal(result[video], truth[video])
        moved |= (result != truth).any(axis=1)
    assert moved.mean() > (0.5 if method == "accuracy" else 0.9)


@pytest.mark.parametrize("method", METHODS)
def test_with_many_videos_cross_fit_is_near_the_overall_fit(method):
    probabilities, labels = streams(2000)
    crossed = fitting.cross_fit(method, probabilities, labels)
    assert len(crossed.by_fold) == 5
    np.testing.assert_allclose(crossed.scores, crossed.overall.fuse(probabilities), atol=0.1)
    for fitted in crossed.by_fold:
        np.testing.assert_allclose(fitted.temperatures, crossed.overall.temperatures, rtol=0.2)


@pytest.mark.parametrize("method", METHODS)
def test_videos_without_scores_or_label(method):
    probabilities, labels = streams(50)
    probabilities[1][7] = np.nan
    labels[9] = -1
    scores = fitting.cross_fit(method, probabilities, labels).scores
    assert np.isnan(scores).all(axis=1).nonzero()[0].tolist() == [7]  # a video without a label still gets scores


def test_too_few_videos_are_refused():
    probabilities, labels = streams(3)
    assert len(fitting.cross_fit("global", probabilities, labels).by_fold) == 3
    labels[1:] = -1
    with pytest.raises(BadInputError, match="1 video has a label and scores of all streams, expected at least 2"):
        fitting.cross_fit("global", probabilities, labels)


def test_probabilities_of_exactly_0_and_1_give_finite_weights():
    """Both streams are wrong and give the true class probability 0."""
    sure = np.eye(3)[[0, 1, 2, 0]]
    for method in METHODS:
        fitted = fitting.fit_weights(method, [sure, sure[:, [1, 2, 0]]], np.array([2, 2, 2, 2]))
        assert np.isfinite(fitted.weights).all() and np.isfinite(fitted.temperatures).all()
        assert np.isfinite(fitted.fuse([sure, sure])).all()


@pytest.mark.parametrize("seed", range(3))
def test_weights_of_multi_label_videos_are_the_most_likely_ones(seed):
    """Each class of each video occurs or not; against SciPy's search. And a class takes the stream that knows it."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((400, 4)) < 0.3).astype(np.int8)
    knows = np.array([True, True, False, False])
    streams = [
        1 / (1 + np.exp(-(3 * (2 * truth - 1) * known + rng.normal(size=truth.shape)))) for known in (knows, ~knows)
    ]

    def loss(w):
        mixed = w * streams[0] + (1 - w) * streams[1]
        return -np.log(np.where(truth == 1, mixed, 1 - mixed)).sum()

    best = scipy.optimize.minimize_scalar(loss, bounds=(0, 1), method="bounded", options={"xatol": 1e-9})
    assert fitting.fit_weights("global", streams, truth).weights[0] == pytest.approx(best.x, abs=1e-4)
    crossed = fitting.cross_fit("class", streams, np.where(np.arange(400)[:, None] == 7, -1, truth))
    assert ((crossed.overall.weights[0] > 0.7) == knows).all() and np.isfinite(crossed.scores).all()
