"""Linear heads: what they learn, that their cross-validation is honest, and that their confidence is."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from twostream.annotations.splits import choose_folds, draw_folds
from twostream.annotations.videos import NO_GROUP
from twostream.errors import BadInputError
from twostream.metrics.accuracy import calibration_error
from twostream.probes import linear
from twostream.probes.linear import STRENGTHS, LinearHead, fit_linear_head

NAMES = tuple(f"class {k}" for k in range(5))


def world(num_videos: int, *, num_classes: int = 3, size: int = 40, spread: float = 1.0, seed: int = 0):
    """Features (V, 2, D) of noisy videos around the centre of their class, in two views; and labels (V,)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num_videos) % num_classes
    centres = np.random.default_rng(99).normal(size=(num_classes, size))
    videos = centres[labels] + spread * rng.normal(size=(num_videos, size))
    features = videos[:, None] + 0.1 * rng.normal(size=(num_videos, 2, size))
    return 100 * features.astype(np.float32) + 7, labels  # of any scale


def alone(labels: np.ndarray, num_folds: int = 5) -> np.ndarray:
    return choose_folds(labels, np.full(len(labels), NO_GROUP), num_folds=num_folds)


def fitted(features: np.ndarray, *arguments, **settings) -> LinearHead:
    """A head for features whose first view is the video as it is, and any other its mirror image."""
    return fit_linear_head(features, *arguments, mirrored=[k > 0 for k in range(features.shape[1])], **settings)


def test_it_predicts_unseen_videos_as_cross_validation_says():
    features, labels = world(90, spread=3)
    head = fitted(features, labels, alone(labels), classes=NAMES[:3])
    unseen, truth = world(3000, spread=3, seed=1)
    share = ((unseen[:, 0] @ head.weight.T + head.bias).argmax(axis=1) == truth).mean()
    assert 0.6 < head.accuracy < 0.99 and abs(share - head.accuracy) < 3 * head.standard_error
    assert head.strength in STRENGTHS and head.tried[head.strength] == head.accuracy


@pytest.mark.parametrize("num_draws", [1, 3])
@pytest.mark.parametrize("num_videos", [24, 300])
def test_confidence_is_honest(num_videos, num_draws):
    """Of unseen videos: where few were seen, and where many were."""
    features, labels = world(num_videos, spread=4)
    folds = draw_folds(labels, np.full(num_videos, NO_GROUP), num_folds=5, num_draws=num_draws, seed=0)
    head = fitted(features, labels, folds, classes=NAMES[:3])
    unseen, truth = world(3000, spread=4, seed=1)
    logits = unseen[:, 0] @ head.weight.T + head.bias
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert calibration_error(p / p.sum(axis=1, keepdims=True), truth) < 0.1


def test_logits_are_means_over_the_draws_of_the_folds(monkeypatch):
    monkeypatch.setattr(linear, "STRENGTHS", (0.01,))
    features, labels = world(60, spread=4)
    draws = draw_folds(labels, np.full(60, NO_GROUP), num_folds=5, num_draws=3, seed=0)
    heads = [fitted(features, labels, draw, classes=NAMES[:3]) for draw in draws]
    together = fitted(features, labels, draws, classes=NAMES[:3])
    truth = np.mean([head.logits * head.temperature for head in heads], axis=0)
    assert np.allclose(together.logits * together.temperature, truth, atol=0.01)
    assert not np.allclose(heads[0].logits * heads[0].temperature, truth, atol=0.1)
    assert min(head.loss for head in heads) <= together.loss <= max(head.loss for head in heads)
    assert together.num_draws == 3 and "(5 folds, 3 draws)" in str(together)
    assert np.allclose(together.weight * together.temperature, heads[0].weight * heads[0].temperature)


@pytest.mark.parametrize("swapped", [False, True])
def test_mirror_images_are_used_unless_they_are_of_other_classes(swapped):
    """A mirror image is a video of the same class, or of another one, as right is of left."""
    features, labels = world(60, spread=4)
    others, _ = world(60, spread=4, seed=1)
    mirrored = others[:, 0][(np.arange(60) + (1 if swapped else 3)) % 60]
    both = np.stack([features[:, 0], mirrored], axis=1)
    head = fitted(both, labels, alone(labels), classes=NAMES[:3], choose_mirroring=True)
    with_them = fitted(both, labels, alone(labels), classes=NAMES[:3])
    without = fitted(both[:, :1], labels, alone(labels), classes=NAMES[:3])
    assert head.mirrored is not swapped and with_them.mirrored and not without.mirrored
    best, other = (without, with_them) if swapped else (with_them, without)
    assert (head.loss, head.other_loss) == (best.loss, other.losses.mean()) and (head.weight == best.weight).all()
    assert ("mirror images left out" in str(head)) is swapped and "mirror" not in str(without)


def test_noise_is_not_learned():
    """Labels that say nothing about the features: at chance in cross-validation, and hardly any confidence."""
    features, labels = world(60, spread=1)
    labels = np.random.default_rng(5).permutation(labels)
    head = fitted(features, labels, alone(labels), classes=NAMES[:3])
    assert head.accuracy < 0.55
    logits = features[:, 0] @ head.weight.T + head.bias
    assert np.ptp(logits, axis=1).mean() < 1.5


def test_no_video_is_judged_by_a_head_that_saw_its_group():
    """Each person has a look and does one class: the look says the class of people that were seen, and nothing of others."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(12), 5)
    labels = person % 3
    features = rng.normal(size=(12, 1, 60))[person] + 0.05 * rng.normal(size=(60, 1, 60))
    by_video = fitted(features, labels, alone(labels), classes=NAMES[:3])
    by_person = fitted(features, labels, choose_folds(labels, person, num_folds=4), classes=NAMES[:3])
    assert by_video.accuracy == 1 and by_person.accuracy < 0.7


def test_it_is_the_logistic_regression_of_the_library():
    """On standardised features with all rows at once, in the space of the features; it is fitted in that of the rows here."""
    features, labels = world(30)
    head = fitted(features, labels, alone(labels), classes=NAMES[:3])
    rows, rows_labels = features.reshape(60, -1).astype(float), labels.repeat(2)
    deviation = rows.std(axis=0) + 0.01 * rows.std(axis=0).mean()
    solver = LogisticRegression(C=1 / head.strength, max_iter=5000, tol=1e-8)
    solver.fit((rows - rows.mean(axis=0)) / deviation / np.sqrt(40), rows_labels, np.full(60, 1 / 60))
    expected = solver.decision_function((rows - rows.mean(axis=0)) / deviation / np.sqrt(40))
    found = head.temperature * (rows @ head.weight.T + head.bias)
    np.testing.assert_allclose(
        found - found.mean(1, keepdims=True), expected - expected.mean(1, keepdims=True), atol=0.05
    )


def test_classes_without_videos_are_never_chosen():
    """One is absent everywhere, and one from all folds but its own."""
    features, labels = world(21)
    labels = np.where(labels == 2, 0, labels)
    labels[2] = 3
    head = fitted(features, labels, alone(labels), classes=NAMES)
    logits = features[:, 0] @ head.weight.T + head.bias
    assert head.weight.shape == (5, 40) and np.isfinite(head.logits).all()
    assert (logits[:, [2, 4]].max(axis=1) < logits[:, [0, 1, 3]].min(axis=1)).all()


def test_two_classes():
    features, labels = world(40, num_classes=2, spread=2)
    head = fitted(features, labels, alone(labels), classes=NAMES[:2])
    unseen, truth = world(500, num_classes=2, spread=2, seed=1)
    assert ((unseen[:, 0] @ head.weight.T + head.bias).argmax(axis=1) == truth).mean() > 0.9


def test_balance_gives_small_classes_the_same_weight():
    """Nine of ten videos are of the first class, and overlap with the second."""
    rng = np.random.default_rng(0)
    labels = (np.arange(200) % 10 == 0).astype(int)
    features = (labels[:, None] + rng.normal(size=(200, 4)))[:, None]
    predicted = {
        balance: (features[:, 0] @ head.weight.T + head.bias).argmax(axis=1)
        for balance in (False, True)
        for head in [fitted(features, labels, alone(labels), classes=NAMES[:2], balance=balance)]
    }
    recall = {balance: found[labels == 1].mean() for balance, found in predicted.items()}
    assert recall[True] > recall[False] + 0.1


def test_a_single_class_is_refused():
    features, labels = world(10, num_classes=1)
    with pytest.raises(BadInputError, match="all training videos are of class 'class 0', expected at least two"):
        fitted(features, labels, np.arange(10) % 2, classes=NAMES)
