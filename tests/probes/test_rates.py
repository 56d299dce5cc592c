"""The range test of the learning rate: what it suggests for known curves, and that it changes nothing."""

import json
import math

import numpy as np
import pytest
import torch

from tests.conftest import call
from twostream.engine.progress import Step
from twostream.probes.rates import HIGHEST, LOWEST, growing_rate, measure


def steps(loss_at, num: int = 100, *, noise: float = 0.0):
    """Steps of a growing rate whose loss is `loss_at(rate)`."""
    rng = np.random.default_rng(0)
    for iteration in range(1, num + 1):
        rate = growing_rate(num, iteration)
        loss = torch.tensor(loss_at(rate) * (1 + noise * rng.normal()))
        yield Step(iteration, loss, loss, loss, ~torch.isfinite(loss), loss, (), 8, rate, 0.0, 0.0)


def test_rates_grow_by_the_same_factor():
    rates = [growing_rate(50, iteration) for iteration in range(1, 51)]
    assert rates[0] == pytest.approx(LOWEST) and rates[-1] == pytest.approx(HIGHEST)
    np.testing.assert_allclose(np.diff(np.log(rates)), np.log(HIGHEST / LOWEST) / 49)


@pytest.mark.parametrize("best", [0.001, 0.03, 1.0])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_tenth_of_the_best_rate(best, noise):
    """A valley with its floor at `best`, beyond which the loss explodes; the running mean lags by a few steps, a factor of 3."""
    curve = measure(steps(lambda rate: 1.6 - min(rate / best, 1) + 0.5 * max(rate / best - 1, 0) ** 2, noise=noise))
    assert best / 10 / 1.5 <= curve.suggestion <= 3.5 * best / 10
    assert max(curve.rates) < HIGHEST  # it stopped where the loss had diverged
    assert f"suggested: --lr={curve.suggestion:g}" in str(curve) and len(str(curve).splitlines()) < 16


@pytest.mark.parametrize("loss_at", [lambda rate: 1.6, lambda rate: 1.6 + rate])
def test_a_loss_that_never_falls_suggests_nothing(loss_at):
    curve = measure(steps(loss_at))
    assert curve.suggestion is None and "no rate lowers the loss" in str(curve)


def test_it_ends_where_the_loss_is_not_finite():
    curve = measure(steps(lambda rate: math.inf if rate > 0.1 else 1.6 - rate))
    assert max(curve.rates) < 0.11


def test_train_find_lr_writes_a_report_only(toy_root, tmp_path):
    words = [
        f"--root={toy_root}",
        f"--save_root={tmp_path}",
        "--arch=squeezenet1_1",
        "--input_size=32",
        "--batch_size=4",
    ]
    words += ["--pretrained=False", "--workers=0", "--device=cpu", "--run=mine", "--dropout=0"]
    result = call("train.py", *words, "--find_lr=30")
    assert result.returncode == 0 and "rate  loss" in result.stdout, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine-find_lr.json"]
    report = json.loads((tmp_path / "mine-find_lr.json").read_text())
    assert len(report["rates"]) == len(report["losses"]) > 5 and report["rates"][0] == LOWEST
    assert f"wrote {tmp_path / 'mine-find_lr.json'}" in result.stdout
