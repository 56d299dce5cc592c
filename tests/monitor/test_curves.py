"""The curves of a training, thinned."""

import pytest

from tests.monitor.samples import train_values
from twostream.monitor.curves import Curve, Curves


@pytest.mark.parametrize("count", [1, 2, 999, 1000, 1001, 2500, 300_000])
def test_long_curves_are_thinned_and_keep_their_ends(count):
    curve = Curve()
    for iteration in range(count):
        curve.add((iteration, -iteration))
        assert len(curve.kept) <= Curve.MAX_POINTS  # memory is bounded too
    iterations = [iteration for iteration, _ in curve.points()]
    assert [value for _, value in curve.points()] == [-iteration for iteration in iterations]
    assert min(count, 500) <= len(iterations) <= 1000
    assert (iterations[0], iterations[-1]) == (0, count - 1)
    steps = {later - earlier for earlier, later in zip(iterations[:-2], iterations[1:-1], strict=True)}
    assert len(steps) <= 1, "evenly spaced"


def test_speed_and_split_of_time():
    """16 clips in 0.5 s, a fifth of it waiting. An older log, which lacks the number of images, has the other curves."""
    values = train_values(20)
    figures = Curves([{"event": "train"} | values]).figures()
    assert figures["speed"] == {"images/s": [(20, 32.0)]}
    assert figures["time"] == {
        "waiting for data": [(20, pytest.approx(0.2))],
        "computing": [(20, pytest.approx(0.8))],
    }
    del values["images"]
    older = Curves([{"event": "train"} | values]).figures()
    assert figures.keys() - older.keys() == {"speed"}


def test_the_line_of_another_run_is_as_long_as_the_accuracies():
    curves = Curves()
    curves.compare_with("linear head x", 0.58)
    curves.add("validation", {"iteration": 0, "loss": 2.0})  # of multi-label videos, which have no accuracies
    assert curves.figures() == {"loss": {"Val-Loss": [(0, 2.0)]}}
    curves.add("validation", {"iteration": 20, "loss": 1.0, "top1": 0.25, "top3": 0.5})
    assert curves.figures()["accuracy"]["linear head x"] == [(20, 0.58)]
    for iteration in (30, 40, 50):
        curves.add("train", train_values(iteration))
    curves.add("validation", {"iteration": 40, "loss": 1.0, "top1": 0.25, "top3": 0.5})
    assert curves.figures()["accuracy"]["linear head x"] == [(20, 0.58), (50, 0.58)]
    assert [key for key, shown in curves.figures().items() if "linear head x" in shown] == ["accuracy"]
