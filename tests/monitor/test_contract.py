"""The contract of all monitors: values in order, and nothing that stops a training."""

import doctest
import math
import re

import pytest

from tests.monitor.samples import CLASSES, MATRIX, picture, train_values, validation_values
from tests.monitor.test_page import points_of_page
from tests.monitor.visdom_server import drawn
from twostream.monitor import console, page
from twostream.monitor.console import ConsoleMonitor
from twostream.monitor.contract import Monitor, Monitors
from twostream.monitor.log import JsonMonitor, read_log
from twostream.monitor.page import PageMonitor
from twostream.monitor.tensorboard import TensorBoardMonitor
from twostream.monitor.visdom import VisdomMonitor


def console_losses(run_dir, port):
    text = (run_dir / "train.log").read_text()
    trained = re.findall(r"\[(\d+)/50\] .*Loss \S+ \((\S+)\)", text)
    validated = re.findall(r"Validation @ (\d+): .* Loss (\S+)", text)
    return trained, validated


def json_losses(run_dir, port):
    entries = read_log(run_dir)
    return (
        [(e["iteration"], e["mean_loss"]) for e in entries if e["event"] == "train"],
        [(e["iteration"], e["loss"]) for e in entries if e["event"] == "validation"],
    )


def visdom_losses(run_dir, port):
    curves = drawn(port, run_dir.name)["loss"]
    return curves["Train-Loss"], curves["Val-Loss"]


def tensorboard_losses(run_dir, port):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accumulator = events.EventAccumulator(str(run_dir / "tensorboard"))
    accumulator.Reload()
    return [[(e.step, e.value) for e in accumulator.Scalars(f"loss/{name}")] for name in ("Train-Loss", "Val-Loss")]


def page_losses(run_dir, port):
    curves = points_of_page((run_dir / "curves.html").read_text())["Train & Val Losses"]
    return [[(round(x), y) for x, y in curves[name]] for name in ("Train-Loss", "Val-Loss")]


def make_tensorboard(run_dir, port):
    pytest.importorskip("tensorboard")
    return TensorBoardMonitor(run_dir, first=0)


MONITORS = {
    "console": (lambda run_dir, port: ConsoleMonitor(run_dir), console_losses),
    "json": (lambda run_dir, port: JsonMonitor(run_dir, resumed_at=None), json_losses),
    "page": (lambda run_dir, port: PageMonitor(run_dir), page_losses),
    "tensorboard": (make_tensorboard, tensorboard_losses),
    "visdom": (
        lambda run_dir, port: VisdomMonitor(server="http://localhost", port=port, env=run_dir.name), visdom_losses
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MONITORS)
def test_all_values_arrive_in_order(name, tmp_path, port):
    make, read = MONITORS[name]
    monitor = Monitors([make(tmp_path, port)])
    monitor.message("what is trained")
    monitor.grid(20, picture(0))
    for iteration in range(20, 201, 20):
        monitor.train(train_values(iteration))
        if iteration % 100 == 0:
            monitor.validation(validation_values(iteration))
            monitor.confusion(iteration, MATRIX, CLASSES)
            monitor.grid(iteration, picture(iteration))
    monitor.close()
    trained, validated = read(tmp_path, port)
    trained, validated = ([(int(i), float(v)) for i, v in curve] for curve in (trained, validated))
    assert [i for i, _ in trained] == list(range(20, 201, 20))
    # Values of the page are read from its drawing, to a hundredth of these losses.
    assert [v for _, v in trained] == pytest.approx([3 - i / 100 for i in range(20, 201, 20)], abs=0.01)
    assert validated == [(100, pytest.approx(1.5, abs=0.01)), (200, pytest.approx(0.5, abs=0.01))]


@pytest.mark.parametrize("name", MONITORS)
def test_values_that_are_not_finite_stop_no_monitor(name, tmp_path, port):
    make, read = MONITORS[name]
    monitor = make(tmp_path, port)
    for iteration, loss in ((20, math.nan), (40, math.inf), (60, 2.0)):
        monitor.train(train_values(iteration) | {"loss": loss, "mean_loss": loss})
        monitor.validation(validation_values(iteration) | {"loss": loss})
    monitor.close()
    for curve in read(tmp_path, port):
        assert (int(curve[-1][0]), float(curve[-1][1])) == (60, pytest.approx(2.0))


def test_a_full_disk_is_reported_once_for_each_monitor(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(PageMonitor, "PAUSE_SECONDS", 0.0)
    monitors = Monitors([PageMonitor(tmp_path), JsonMonitor(tmp_path, resumed_at=None), ConsoleMonitor(tmp_path)])
    for name in ("curves.html", "confusion.json"):
        (tmp_path / name).mkdir()  # a file cannot replace it
    for iteration in (20, 40):
        monitors.train(train_values(iteration))
        monitors.validation(validation_values(iteration))
        monitors.confusion(iteration, MATRIX, CLASSES)
    monitors.close()
    warnings = [line for line in capfd.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 2 and "PageMonitor" in warnings[0] and "JsonMonitor" in warnings[1]
    assert [entry["iteration"] for entry in read_log(tmp_path)] == [20, 20, 40, 40]


def test_a_failing_monitor_does_not_stop_the_others(tmp_path, capfd):
    class Broken(Monitor):
        def train(self, values):
            raise KeyError("no such number")

    monitors = Monitors([Broken(), JsonMonitor(tmp_path, resumed_at=None)])
    for iteration in (20, 40):
        monitors.train(train_values(iteration))
    monitors.close()
    assert len(read_log(tmp_path)) == 2
    errors = capfd.readouterr().err
    assert errors.count("\n") == 1 and "Broken" in errors and "KeyError: 'no such number'" in errors


def test_examples_of_the_docstrings():
    for module in (console, page):
        result = doctest.testmod(module)
        assert result.attempted and not result.failed
