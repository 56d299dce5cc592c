"""The figures of a training, and their curves, from the numbers that monitors are told."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import itemgetter

Point = tuple[int, float]
"""iteration, value"""


@dataclass(frozen=True)
class Figure:
    """Curves over the iterations that belong together."""

    title: str
    curves: dict[str, tuple[str, Callable[[dict], float]]]
    """name -> the event whose numbers it comes from, and how"""
    is_share: bool = False
    """values are in 0 ... 1"""


def images_per_second(numbers: dict) -> float:
    return numbers["images"] / numbers["mean_seconds"]


def data_share(numbers: dict) -> float:
    """Of the time, how much the network waited for data."""
    return numbers["mean_data_seconds"] / numbers["mean_seconds"]


# Titles and names of the first two are those of 2D-kinectics.
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
    "learning_rate": Figure("Learning rate", {"learning rate": ("train", itemgetter("learning_rate"))}),
    "speed": Figure("Images per second", {"images/s": ("train", images_per_second)}),
    "time": Figure(
        "Where the time goes",
        {"waiting for data": ("train", data_share), "computing": ("train", lambda numbers: 1 - data_share(numbers))},
        is_share=True,
    ),
}


class Curve:
    """Points in the order of time; of many, every second, fourth ... is kept, and the last one."""

    MAX_POINTS = 1000

    def __init__(self):
        self.kept: list[Point] = []
        self.last: Point | None = None
        self.count, self.step = 0, 1

    def add(self, point: Point) -> None:
        if self.count % self.step == 0:
            self.kept.append(point)
        self.count, self.last = self.count + 1, point
        if len(self.kept) == self.MAX_POINTS:  # with the last one there would be one more
            self.kept, self.step = self.kept[::2], 2 * self.step

    def points(self) -> list[Point]:
        return self.kept if self.kept[-1] is self.last else [*self.kept, self.last]


class Curves:
    """All curves of a training so far; memory for MAX_POINTS of each, however long it takes."""

    def __init__(self, history: Iterable[dict] = ()):
        """`history`: entries of log.jsonl."""
        self.curves: dict[str, Curve] = {}
        for entry in history:
            self.add(entry["event"], entry)

    def add(self, event: str, numbers: dict) -> None:
        for figure in FIGURES.values():
            for name, (source, value) in figure.curves.items():
                if source == event:
                    try:
                        point = (numbers["iteration"], value(numbers))
                    except KeyError:  # a log of an earlier version does not have all of them
                        continue
                    self.curves.setdefault(name, Curve()).add(point)

    def points(self) -> dict[str, list[Point]]:
        """Of each curve that has any, at most MAX_POINTS; not to be changed."""
        return {name: curve.points() for name, curve in self.curves.items()}
