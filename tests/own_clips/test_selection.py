"""Which heads are fused, by made-up logits of training videos; and when a training replaces a head."""

import numpy as np
import pytest

from tests.tables import make_table
from twostream.own_clips.selection import Comparison, select
from twostream.scores.npz import write_scores

NUM_VIDEOS, NUM_CLASSES = 60, 3


@pytest.fixture
def scores(tmp_path):
    """Files of heads that see the class through noise of their own, of a copy of the first one, and of one that guesses."""
    rng = np.random.default_rng(0)
    labels = np.arange(NUM_VIDEOS) % NUM_CLASSES
    signal = np.eye(NUM_CLASSES)[labels]
    logits = {name: signal + rng.standard_normal(signal.shape) for name in ("rgb", "flow", "other")}
    logits |= {"copy": logits["rgb"] + 1e-3, "guess": rng.standard_normal(signal.shape)}
    for name, part in logits.items():
        ids = [f"{number:02}" for number in range(NUM_VIDEOS)]
        write_scores(
            tmp_path / f"{name}.npz", make_table(part, video_ids=ids, labels=labels, frames=1, classes=("a", "b", "c"))
        )
    return lambda *names: {name: tmp_path / f"{name}.npz" for name in names}


def test_what_adds_something_joins_and_the_loss_falls(scores):
    found = select(scores("rgb", "copy", "guess", "flow", "other"), ["rgb", "flow"])
    assert [run for run, _ in found] == ["rgb", "flow", "other"]
    losses = [loss for _, loss in found]
    assert losses == sorted(losses, reverse=True)


def test_the_best_heads_stay_whatever_they_add(scores):
    found = select(scores("rgb", "guess"), ["rgb", "guess"])
    assert [run for run, _ in found] == ["rgb", "guess"]
    assert [run for run, _ in select(scores("rgb"), ["rgb"])] == ["rgb"]


@pytest.mark.parametrize(
    "first, second, different, wins",
    [(10, 10, 0, False), (10, 11, 1, False), (10, 12, 2, False), (10, 13, 3, True), (10, 11, 5, False), (10, 8, 2, False),
     (8, 14, 18, True), (8, 13, 17, False)],
)  # fmt: skip
def test_a_training_wins_only_by_more_than_the_chance_of_a_draw(first, second, different, wins):
    """Of a fair coin: 2 heads of 2 in 25 % of cases, 3 of 3 in 12.5 %; 12 or more of 18 in 11.9 %, 11 or more of 17 in 16.6 %."""
    assert Comparison(20, first, second, different).second_is_clearly_better == wins
