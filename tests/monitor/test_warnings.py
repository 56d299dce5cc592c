"""Warnings about a training, on made-up curves: those that must be said, and those that must not."""

import math

import numpy as np
import pytest

from tests.conftest import assert_commands_work
from twostream.monitor.warnings import HIGH_IN_A_ROW, NUM_LOSSES, WarningMonitor

CLASSES = ("run", "jump", "walk", "sit", "wave")


def watched(history=()) -> tuple[WarningMonitor, list[str]]:
    said: list[str] = []
    return WarningMonitor(said.append, len(CLASSES), history=history), said


def entry(iteration: int, loss: float, top1: float = 0.5) -> dict:
    return {"iteration": iteration, "recent_loss": float(loss), "recent_top1": top1, "learning_rate": 0.01}


def train(monitor: WarningMonitor, losses, *, top1: float = 0.5, first: int = 0) -> None:
    """A loss for each 20 iterations, as --print_freq=20 logs them."""
    for k, loss in enumerate(losses, first + 1):
        monitor.train(entry(20 * k, loss, top1))


def noisy(curve: np.ndarray, num_batches: int = 20, share: float = 0.25, seed: int = 0) -> np.ndarray:
    """Means of batches with noise: a quarter of the loss, and every 30th batch three times as large."""
    rng = np.random.default_rng(seed)
    noise = 1 + share * rng.normal(size=(num_batches, len(curve)))
    return (np.abs(curve * noise) * np.where(rng.random(noise.shape) < 1 / 30, 3, 1)).mean(axis=0)


STEPS = np.arange(300)
FALLING = 1.6 * np.exp(-STEPS / 20)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "curve",
    [
        FALLING,
        np.full(300, 1.6),  # learns nothing: the loss of equal probabilities
        np.full(300, 1.2),
        0.9 + 0.1 * np.sin(STEPS / 15) + FALLING / 2,
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
def test_a_long_training_and_every_single_batch_are_left_alone(seed):
    """500,000 iterations with a loss that stays, and a log of single batches."""
    for num_batches, stride in ((20, 20), (1, 1)):
        monitor, said = watched()
        for k, loss in enumerate(noisy(np.full(25_000, 1.0), num_batches, seed=seed), 1):
            monitor.train(entry(stride * k, loss))
        assert said == []


ABOVE = f"above the {math.log(5):.3g} of equal probabilities"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("curve", "words"),
    [
        (np.concatenate([FALLING[:150], np.linspace(0.25, 2.5, 150)]), "has risen from"),
        (np.concatenate([FALLING[:100], np.full(60, 1.6)]), "has risen from"),
        (np.concatenate([np.linspace(1.6, 0.8, 10), np.linspace(0.8, 4, 25)]), "has risen from"),  # 700 iterations
        (np.full(100, 2.5), ABOVE),
        (np.linspace(400, 2000, 5), ABOVE),  # 100 iterations
        (np.linspace(1.6, 30, 100), "the training loss"),
    ],
)
def test_a_loss_that_rises_is_named_once(curve, words, seed):
    monitor, said = watched()
    train(monitor, noisy(curve, seed=seed))
    assert len(said) == 1 and words in said[0] and "--lr (now 0.01)" in said[0] and said[0].startswith("WARNING: ")
    assert_commands_work(said[0])


@pytest.mark.parametrize(("loss", "num_windows"), [(2.5, HIGH_IN_A_ROW), (9.0, 1)])
def test_no_window_no_warning(loss, num_windows):
    monitor, said = watched()
    count = num_windows * NUM_LOSSES
    train(monitor, [loss] * (count - 1))
    assert said == []
    train(monitor, [loss], first=count - 1)
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
        ((96, 1, 1, 1, 1), (90, 4, 2, 2, 2), True),  # right for most videos, and for no others
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


def test_a_common_class_that_is_told_from_rare_ones_is_no_collapse():
    monitor, said = watched()
    for iteration in (100, 200, 300):
        monitor.confusion(iteration, np.array([[96, 0], [1, 3]]), CLASSES[:2])
    assert said == []
    for iteration in (400, 500):
        monitor.confusion(iteration, np.array([[95, 0], [5, 0]]), CLASSES[:2])
    assert len(said) == 1 and "100% of the predictions" in said[0] and "'run', which is right for 95%" in said[0]
    assert "of the clips of other classes, 0% are right" in said[0] and "--class_balance" in said[0]


def validate(monitor: WarningMonitor, losses, accuracies, train_accuracies) -> None:
    for k, (loss, top1, train_top1) in enumerate(zip(losses, accuracies, train_accuracies, strict=True), 1):
        for offset in (-0.02, 0.02):  # means of some batches each
            train(monitor, [1.0], top1=train_top1 + offset)
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
    entries = [{"event": "train"} | entry(20 * k, loss) for k, loss in enumerate(curve, 1)]
    monitor, said = watched(history=[*entries, {"event": "other", "iteration": 1}])
    train(monitor, [2.0] * 30, first=100)
    assert said == []
    monitor, said = watched(history=entries[:40])
    train(monitor, [2.0] * 30, first=40)
    assert len(said) == 1 and "from 0.5" in said[0]


def test_single_batches_in_the_log_of_an_older_version_say_nothing():
    old = [{"event": "train", "iteration": 20 * k, "loss": 0.1, "mean_top1": 0.5} for k in range(1, 101)]
    monitor, said = watched(history=old)
    train(monitor, [1.0] * 100, first=100)
    assert said == []
