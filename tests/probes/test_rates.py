"""The range test of the learning rate: what it suggests for known curves, and that it changes nothing."""

import json
import math
import shutil

import numpy as np
import pytest
import torch

from tests.conftest import call
from twostream.engine.progress import Step
from twostream.errors import BadInputError
from twostream.probes.rates import HIGHEST, LOWEST, growing_rate, measure


def steps(loss_at, num: int = 100, *, noise: float = 0.0, skipped=()):
    """Steps of a growing rate whose loss is `loss_at(rate)`; those of the iterations `skipped` overflow."""
    rng = np.random.default_rng(0)
    for iteration in range(1, num + 1):
        rate = growing_rate(num, iteration)
        loss = torch.tensor(loss_at(rate) * (1 + noise * rng.normal()))
        is_skipped = ~torch.isfinite(loss) | (iteration in skipped)
        yield Step(iteration, loss, loss, loss, is_skipped, loss, (), 8, rate, 0.0, 0.0)


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


def valley(rate: float) -> float:
    """A loss that is lowest at .03."""
    return 1.6 - min(rate / 0.03, 1) + 0.5 * max(rate / 0.03 - 1, 0) ** 2


@pytest.mark.parametrize("skipped", [{1}, {1, 2, 3}, set(range(1, 10)), {40, 41}])
def test_gradients_that_overflow_are_no_end(skipped):
    """Those of fp16 do, until its scale fits. Nine of a hundred rates are a factor of 4.3, and the running mean lags as without them."""
    whole, curve = measure(steps(valley)), measure(steps(valley, skipped=skipped))
    assert len(curve.rates) >= len(whole.rates) - len(skipped) and max(curve.rates) == max(whole.rates)
    assert whole.suggestion / 1.5 <= curve.suggestion <= 1.5 * whole.suggestion


@pytest.mark.parametrize("words", [{"loss_at": lambda rate: math.nan}, {"loss_at": valley, "skipped": range(1, 200)}])
def test_no_step_at_all(words):
    with pytest.raises(BadInputError, match="no step has a finite loss and gradient: check the images") as error:
        measure(steps(**words))
    assert "\n" not in str(error.value)


def test_gradients_that_never_fit_are_the_end():
    curve = measure(steps(valley, skipped=range(50, 200)))
    assert len(curve.rates) == 49


def test_losses_of_zero_suggest_nothing():
    """Those of a single class."""
    curve = measure(steps(lambda rate: 0.0, 20))
    assert curve.suggestion is None and "no rate lowers the loss" in str(curve)


def test_rates_are_values_of_the_flag():
    """A training of 8 times --lr_batch_size multiplies --lr by 8, so the same real rates are of an eighth of it."""
    whole, curve = measure(steps(valley)), measure(steps(valley), rate_factor=8)
    assert curve.rates == tuple(rate / 8 for rate in whole.rates) and curve.losses == whole.losses
    assert curve.suggestion == pytest.approx(whole.suggestion / 8, rel=0.5)  # of one digit


WORDS = (
    "--arch=squeezenet1_1", "--input_size=32", "--batch_size=4", "--pretrained=False", "--workers=0", "--device=cpu",
)  # fmt: skip


def test_train_find_lr_writes_a_report_only(toy_root, tmp_path):
    words = [f"--root={toy_root}", f"--save_root={tmp_path}", *WORDS, "--run=mine", "--dropout=0"]
    result = call("train.py", *words, "--find_lr=30")
    assert result.returncode == 0 and "rate  loss" in result.stdout, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine-find_lr.json"]
    report = json.loads((tmp_path / "mine-find_lr.json").read_text())
    assert len(report["rates"]) == len(report["losses"]) > 5 and report["rates"][0] == LOWEST
    assert f"wrote {tmp_path / 'mine-find_lr.json'}" in result.stdout
    assert call("train.py", *words, "--find_lr=30", "--lr_batch_size=2").returncode == 0
    scaled = json.loads((tmp_path / "mine-find_lr.json").read_text())
    assert scaled["losses"] == report["losses"] and scaled["rates"] == [rate / 2 for rate in report["rates"]]


def test_train_find_lr_with_one_class(toy_root, tmp_path):
    """Whose loss is 0 at every rate."""
    root = shutil.copytree(toy_root, tmp_path / "data", symlinks=True)
    content = json.loads((root / "annotations.json").read_text())
    content["videos"] = {name: entry | {"label": "red_left"} for name, entry in content["videos"].items()}
    (root / "annotations.json").write_text(json.dumps(content | {"classes": ["red_left"]}))
    result = call("train.py", f"--root={root}", f"--save_root={tmp_path / 'runs'}", *WORDS, "--find_lr=10")
    assert result.returncode == 0 and "no rate lowers the loss clearly" in result.stdout, result.stderr
