"""Warnings about a training, on made-up curves: those that must be said, and those that must not."""

import math

import numpy as np
import pytest

from tests.conftest import assert_commands_work
from twostream.monitor.warnings import WINDOW, WarningMonitor

CLASSES = ("run", "jump", "walk", "sit", "wave")


def watched(history=()) -> tuple[WarningMonitor, list[str]]:
    said: list[str] = []
    return WarningMonitor(said.append, len(CLASSES), history=history), said


def train(monitor: WarningMonitor, losses, *, top1: float = 0.5, first: int = 0) -> None:
    for k, loss in enumerate(losses, first + 1):
        monitor.train({"iteration": 20 * k, "loss": float(loss), "mean_top1": top1, "learning_rate": 0.01})


def noisy(curve: np.ndarray, share: float = 0.25, seed: int = 0) -> np.ndarray:
    """With the noise of batches: a quarter of the loss, and every 30th batch three times as large."""
    rng = np.random.default_rng(seed)
    noise = 1 + share * rng.normal(size=len(curve))
    return np.abs(curve * noise) * np.where(rng.random(len(curve)) < 1 / 30, 3, 1)


STEPS = np.arange(300)
FALLING = 1.6 * np.exp(-STEPS / 80)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "curve",
    [
        FALLING,
        np.full(300, 1.6),  # learns nothing: the loss of equal probabilities
        np.full(300, 1.2),
        0.9 + 0.1 * np.sin(STEPS / 15) + FALLING,
        np.where(STEPS < 150, 1.2, 0.4),  # a drop of the rate
        np.maximum(FALLING, 0.002),  # all training clips are right
        np.where(STEPS < 10, 2.5, FALLING),  # the first steps of a random head
    ],
)
def test_a_training_that_goes_well_is_left_alone(curve, seed):
    monitor, said = watched()
    train(monitor, noisy(curve, seed=seed))
    assert said == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("curve", "words"),
    [
        (np.concatenate([FALLING[:150], np.linspace(0.25, 2.5, 150)]), "has risen from"),
        (np.concatenate([FALLING[:100], np.full(60, 1.6)]), "has risen from"),
        (np.full(100, 4.0), f"above the {math.log(5):.3g} of equal probabilities"),
        (np.linspace(1.6, 30, 100), "the training loss"),
    ],
)
def test_a_loss_that_rises_is_named_once(curve, words, seed):
    monitor, said = watched()
    train(monitor, noisy(curve, seed=seed))
    assert len(said) == 1 and words in said[0] and "--lr (now 0.01)" in said[0] and said[0].startswith("WARNING: ")
    assert_commands_work(said[0])


def test_no_window_no_warning():
    monitor, said = watched()
    train(monitor, [9.0] * (3 * WINDOW - 1))
    assert said == []
    train(monitor, [9.0], first=3 * WINDOW - 1)
    assert len(said) == 1


def matrix(predicted, true=(20, 20, 20, 20, 20)) -> np.ndarray:
    """A confusion matrix with these sums of columns and rows, rounded."""
    return np.round(np.outer(true, predicted) / 100).astype(int)


@pytest.mark.parametrize(
    ("predicted", "true", "warns"),
    [
        ((100, 0, 0, 0, 0), (20,) * 5, True),
        ((2, 96, 2, 0, 0), (20,) * 5, True),
        ((20,) * 5, (20,) * 5, False),
        ((80, 5, 5, 5, 5), (20,) * 5, False),
        ((96, 1, 1, 1, 1), (90, 4, 2, 2, 2), False),  # most videos are of that class
        ((0, 100, 0, 0, 0), (0, 100, 0, 0, 0), False),  # all are
        ((0,) * 5, (0,) * 5, False),  # no labels
    ],
)
def test_predictions_that_collapse_to_one_class(predicted, true, warns):
    monitor, said = watched()
    monitor.confusion(100, matrix(predicted, true), CLASSES)
    assert said == []  # the first validation of a long training may well look like this
    for iteration in (200, 300, 400):
        monitor.confusion(iteration, matrix(predicted, true), CLASSES)
    assert len(said) == warns
    if warns:
        assert repr(CLASSES[int(np.argmax(predicted))]) in said[0] and "iteration 200" in said[0]


def validate(monitor: WarningMonitor, losses, accuracies, train_accuracies) -> None:
    for k, (loss, top1, train_top1) in enumerate(zip(losses, accuracies, train_accuracies, strict=True), 1):
        train(monitor, [1.0], top1=train_top1)
        monitor.validation({"iteration": 100 * k, "loss": loss, "top1": top1})


@pytest.mark.parametrize(
    ("losses", "accuracies", "train_accuracies", "warns"),
    [
        ([1.0, 0.9, 1.1, 1.2, 1.5], [0.5, 0.6, 0.58, 0.57, 0.55], [0.5, 0.7, 0.9, 0.98, 1.0], True),
        (
            [1.0, 0.9, 0.8, 0.7, 0.7],
            [0.5, 0.6, 0.7, 0.7, 0.7],
            [0.6, 0.8, 0.9, 0.98, 1.0],
            False,
        ),  # a gap, and still better
        (
            [1.0, 0.9, 1.1, 1.3, 1.5],
            [0.5, 0.6, 0.65, 0.7, 0.72],
            [0.5, 0.7, 0.9, 0.98, 1.0],
            False,
        ),  # only over-confident
        (
            [1.0, 0.9, 1.3, 0.9, 1.3],
            [0.5, 0.6, 0.5, 0.6, 0.5],
            [0.5, 0.7, 0.9, 0.98, 1.0],
            False,
        ),  # never twice in a row
        ([1.0, 0.9, 1.3, 1.3, 1.3], [0.5, 0.6, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5, 0.5], False),  # no gap
    ],
)
def test_training_and_validation_that_part(losses, accuracies, train_accuracies, warns):
    monitor, said = watched()
    validate(monitor, losses, accuracies, train_accuracies)
    assert len(said) == warns
    if warns:
        assert (
            "have parted by 41 points: 98% of the training clips are right, and 57% of the validation clips" in said[0]
        )
        assert "risen from 0.9 (iteration 200) to 1.2" in said[0]


def test_a_resumed_training_does_not_repeat_itself():
    """What the log shows was said before; what comes after it is compared with it."""
    curve = [*np.full(40, 0.5), *np.full(60, 2.0)]
    entries = [
        {"event": "train", "iteration": k, "loss": loss, "mean_top1": 0.5, "learning_rate": 0.01}
        for k, loss in enumerate(curve, 1)
    ]
    monitor, said = watched(history=[*entries, {"event": "other", "iteration": 1}])
    train(monitor, [2.0] * 3 * WINDOW)
    assert said == []
    monitor, said = watched(history=entries[:40])
    train(monitor, [2.0] * 3 * WINDOW)
    assert len(said) == 1 and "from 0.5" in said[0]
