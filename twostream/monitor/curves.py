"""The figures of a training and their curves, from the values that monitors are given."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

Point = tuple[int, float]
"""iteration, value"""


@dataclass(frozen=True)
class Figure:
    """Curves over the iterations, drawn in one diagram."""

    title: str
    curves: dict[str, tuple[str, Callable[[dict[str, Any]], float]]]
    """name -> the event it comes from ("train" or "validation"), and the function from its values to the curve's"""
    is_share: bool = False
    """are the values shares, 0 ... 1?"""

    def new_points(self, event: str, values: dict[str, Any]) -> Iterator[tuple[str, Point]]:
        """The name of each curve that comes from this event, and its point; not of curves whose values are missing.

        A training has accuracies or average precisions, and the log of an older version does not have all values.
        """
        for name, (source, value_of) in self.curves.items():
            if source == event:
                with suppress(KeyError):
                    yield name, (values["iteration"], value_of(values))


def images_per_second(values: dict[str, Any]) -> float:
    """Speed of the training, from the mean duration of an iteration."""
    return float(values["images"] / values["mean_seconds"])


def data_share(values: dict[str, Any]) -> float:
    """Share of the time in which the network waits for data."""
    return float(values["mean_data_seconds"] / values["mean_seconds"])


# The first two have the titles and names of 2D-kinectics.
FIGURES = {
    "loss": Figure(
        "Train & Val Losses",
        {"Train-Loss": ("train", itemgetter("mean_loss")), "Val-Loss": ("validation", itemgetter("loss"))},
    ),
    "accuracy": Figure(
        "Train & Val Accuracies",
        {
            "trainTop3": ("train", itemgetter("mean_top3")),
            "valTop3": ("validation", itemgetter("top3")),
            "trainTop1": ("train", itemgetter("mean_top1")),
            "valTop1": ("validation", itemgetter("top1")),
        },
        is_share=True,
    ),
    "average_precision": Figure(  # of multi-label videos, in place of the accuracies
        "Val average precision",
        {
            "mAP": ("validation", itemgetter("mean_average_precision")),
            "mmit mAP": ("validation", itemgetter("mmit_mean_average_precision")),
        },
        is_share=True,
    ),
    "learning_rate": Figure("Learning rate", {"learning rate": ("train", itemgetter("learning_rate"))}),
    "speed": Figure("Images per second", {"images/s": ("train", images_per_second)}),
    "time": Figure(
        "Where the time goes",
        {"waiting for data": ("train", data_share), "computing": ("train", lambda values: 1 - data_share(values))},
        is_share=True,
    ),
}


class Curve:
    """Points in order of time. If there are too many, every second, fourth ... one is kept, and always the last one."""

    MAX_POINTS = 1000

    def __init__(self) -> None:
        self.kept: list[Point] = []
        self.last: Point | None = None
        self.count, self.step = 0, 1

    def add(self, point: Point) -> None:
        """Append a point, later than all before."""
        if self.count % self.step == 0:
            self.kept.append(point)
        self.count, self.last = self.count + 1, point
        if len(self.kept) == self.MAX_POINTS:  # `points` may add the last one to these
            self.kept, self.step = self.kept[::2], 2 * self.step

    def points(self) -> list[Point]:
        """At most MAX_POINTS points, the first and the last one among them; callers must not change the list."""
        return self.kept if self.last is None or self.kept[-1] is self.last else [*self.kept, self.last]


class Curves:
    """All curves of a training so far; takes memory for MAX_POINTS points of each, however long the training is."""

    def __init__(self, history: Iterable[dict[str, Any]] = ()):
        """`history`: the entries of log.jsonl so far."""
        self.curves: dict[str, Curve] = {}
        self.compared: tuple[str, float] | None = None
        for entry in history:
            self.add(entry["event"], entry)

    def add(self, event: str, values: dict[str, Any]) -> None:
        """Add the values of an event ("train" or "validation") to the curves that come from it."""
        for figure in FIGURES.values():
            for name, point in figure.new_points(event, values):
                self.curves.setdefault(name, Curve()).add(point)

    def compare_with(self, name: str, top1: float) -> None:
        """Draw the accuracy of another run as a horizontal line in the diagram of accuracies."""
        self.compared = (name, top1)

    def figures(self) -> dict[str, dict[str, list[Point]]]:
        """key of FIGURES -> name -> points, at most MAX_POINTS; of figures and curves that have any points.

        The last of the accuracies is the line of another run, if there is one: it is no curve of its `Figure`. Callers must
        not change the lists.
        """
        shown = {
            key: {name: self.curves[name].points() for name in figure.curves if name in self.curves}
            for key, figure in FIGURES.items()
        }
        if self.compared and shown["accuracy"]:
            name, top1 = self.compared
            iterations = [x for points in shown["accuracy"].values() for x, _ in (points[0], points[-1])]
            shown["accuracy"][name] = [(x, top1) for x in sorted({min(iterations), max(iterations)})]
        return {key: curves for key, curves in shown.items() if curves}
