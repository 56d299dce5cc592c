"""What the page's sections have in common: the rows' judgements, colours and example videos."""

import math
from pathlib import Path
from typing import NamedTuple

from twostream.fusion.consensus import Consensus
from twostream.metrics import confusion
from twostream.pages.page import escape
from twostream.report.example_videos import Example, choose, make_example
from twostream.report.outcomes import Group, Judgement, quadrants
from twostream.report.results import Report

EXAMPLES = 4
"""of a quadrant"""
PAIRS = 20
"""most confused ones that are listed, with an example each"""
STREAM_LOOKS = ("first", "second-stream", "third", "fourth", "other")
"""style classes of the streams; the fusion is "fused" """


class Shown(NamedTuple):
    """The videos of the page; they are numbered by their places in the split."""

    groups: list[tuple[Group, list[int]]]
    """quadrants, with examples"""
    pairs: dict[tuple[int, int, int], list[int]]
    """most confused classes (true, taken for, times), with an example"""
    videos: dict[int, Example]
    """all these examples"""


class View:
    """A report as the sections need it."""

    def __init__(self, report: Report, root: Path | None):
        self.report = report
        self.root = root
        self.classes = report.predictions.classes
        self.labels = report.predictions.labels
        self.count = int((self.labels >= 0).sum())
        self.has_labels = self.count > 0
        self.consensus = Consensus.parse(report.consensus)
        names = [row.name for row in report.rows]
        self.streams = names[: len(report.sources)]
        self.fusions = names[len(self.streams) :]
        self.main = self.fusions[0] if self.fusions else names[0]
        """the row that is meant where there is one only: the fusion by the weights that were asked for"""
        looks = [*STREAM_LOOKS[: len(self.streams)], *("other",) * (len(self.streams) - len(STREAM_LOOKS))]
        looks += ["fused", "third", "fourth", *("other",) * len(self.fusions)][: len(self.fusions)]
        if len(self.streams) > 2:  # their colours are taken
            looks[len(self.streams) + 1 :] = ["other"] * (len(self.fusions) - 1)
        self.looks = dict(zip(names, looks, strict=True))
        predictions = report.predictions
        self.judged = {
            name: Judgement.of(name, predictions.scores[name], predictions.probabilities(name), self.labels)
            for name in names
        }
        self.chain = [self.judged[name] for name in [*self.streams, *self.fusions[:1]]]
        """the streams, and their fusion if there are several"""
        self.matrix = self.judged[self.main].confusion(len(self.classes))

    def row_name(self, name: str) -> str:
        return f'<span class="dot {self.looks[name]}"></span>{escape(name)}'

    def examples(self) -> Shown:
        main = self.judged[self.main]
        groups = [(group, choose(group.videos, main, EXAMPLES)) for group in quadrants(self.chain[: len(self.streams)])]
        pairs = {}
        for truth, taken, times in confusion.most_confused(self.matrix, PAIRS):
            these = (self.labels == truth) & (main.taken == taken)
            pairs[truth, taken, times] = choose(these, main, 1)
        places = dict.fromkeys(place for _, chosen in groups for place in chosen)
        places |= dict.fromkeys(place for chosen in pairs.values() for place in chosen)
        videos = {
            place: make_example(
                place, self.report.tables, self.chain, self.consensus, self.report.weights, self.root
            )
            for place in places
        }  # fmt: skip
        return Shown(groups, pairs, videos)


def one_digit(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def videos(number: int) -> str:
    return f"{number:,} video{'s' * (number != 1)}"
