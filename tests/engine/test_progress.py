"""Means over the steps of a training, and what a resumed one restores."""

import math

import pytest
import torch

from tests.engine.samples import batches, plain_network, train
from twostream.engine.progress import Meter, Progress


def test_meter():
    meter = Meter()
    assert meter.mean == 0.0
    meter.update(1.0, 3)
    meter.update(torch.tensor(5.0), 1)
    assert (float(meter.last), meter.mean) == (5.0, 2.0)
    resumed = Meter()
    resumed.load_state(meter.state())
    for m in (meter, resumed):
        m.update(torch.tensor(0.1), 7)
    assert resumed.mean == meter.mean and resumed.state() == meter.state()
    meter.reset()
    assert meter.state() == {"last": 0.0, "sum": 0.0, "count": 0}


def test_meter_does_not_count_skipped_values():
    meter, reference = Meter(), Meter()
    for value, skipped in [(1.5, False), (math.nan, True), (4.0, False), (math.inf, True)]:
        meter.update(torch.tensor(value), 2, skipped=torch.tensor(skipped))
        if not skipped:
            reference.update(torch.tensor(value), 2)
    assert meter.state() == reference.state() == {"last": 4.0, "sum": 11.0, "count": 4}
    assert meter.mean == 2.75 and type(meter.state()["count"]) is int


def test_progress_counts_applied_steps_only():
    data = batches(6)
    data[3].clips[0, 0] = math.nan
    steps, _ = train(plain_network(), data)
    progress, resumed = Progress(), Progress()
    assert progress.take_skipped() == []
    for step in steps[:2]:
        progress.add(step)
    assert progress.take_skipped() == []
    progress.unreadable, progress.best = 3, 0.25
    resumed.load_state(progress.state())
    for step in steps[2:]:
        progress.add(step)
        resumed.add(step)
    for name in ("loss", "top1"):
        applied = [float(getattr(step, name)) for step in (steps[2], *steps[4:])]
        assert progress.values()[f"recent_{name}"] == pytest.approx(sum(applied) / 3)
    assert resumed.state() == progress.state() and resumed.values() == pytest.approx(progress.values())
    for one in (progress, resumed):
        assert [step.iteration for step in one.take_skipped()] == [4] and one.take_skipped() == []
    assert resumed.state() == progress.state() and (resumed.unreadable, resumed.best) == (3, 0.25)
    assert not [name for name in progress.values() if name.startswith("recent")], "no step since"
    counted = [float(step.loss) for step in steps if not step.skipped]
    values = progress.values()
    assert values["mean_loss"] == pytest.approx(sum(counted) / 5, rel=1e-5) and values["loss"] == counted[-1]
    assert values["mean_seconds"] == pytest.approx(sum(step.seconds for step in steps) / 6)
    progress.reset()
    assert progress.values()["mean_loss"] == 0 and progress.unreadable == 3


def test_the_state_of_an_older_version_has_no_unreadable_images():
    progress = Progress()
    state = progress.state()
    del state["unreadable"]
    progress.load_state(state)
    assert progress.unreadable == 0
