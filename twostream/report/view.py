"""What the sections of the page have in common: the rows' outcomes, colours and example videos."""

import math
from pathlib import Path
from typing import NamedTuple

from twostream.counts import counted
from twostream.fusion.consensus import Consensus
from twostream.metrics import confusion
from twostream.metrics.accuracy import has_label
from twostream.pages.page import escape
from twostream.report.example_videos import Example, choose, make_example
from twostream.report.outcomes import Outcomes, Quadrant, quadrants
from twostream.report.results import Report

EXAMPLES = 4
"""of a quadrant"""
PAIRS = 20
"""of confused classes that are listed, with one example each"""
STYLES = ("first", "second-stream", "third", "fourth")
"""CSS classes (colours) of the streams, then of further fusions; the main fusion is "fused", any more rows are "other"."""


class ShownVideos(NamedTuple):
    """The example videos of the page, by their indices in the split."""

    quadrants: list[tuple[Quadrant, list[int]]]
    """with their examples"""
    pairs: dict[tuple[int, int, int], list[int]]
    """the most confused classes (true class, predicted class, videos), with their example"""
    examples: dict[int, Example]
    """all of these examples"""


class View:
    """A report as the sections need it."""

    def __init__(self, report: Report, root: Path | None):
        self.report = report
        self.root = root
        """data root with the images"""
        self.classes = report.predictions.classes
        self.labels = report.predictions.labels
        """as `ScoreTable.labels`"""
        self.is_multi_label = report.predictions.is_multi_label
        self.num_labelled = int(has_label(self.labels).sum())
        self.consensus = Consensus.parse(report.consensus)
        names = [row.name for row in report.rows]
        self.streams = names[: len(report.sources)]
        self.fusions = names[len(self.streams) :]
        self.main = self.fusions[0] if self.fusions else names[0]
        """the row for what is shown of one row only: the fusion with the given weights, or the only stream"""
        self.styles = row_styles(self.streams, self.fusions)
        """CSS class of each row"""
        predictions = report.predictions
        self.outcomes: dict[str, Outcomes] = {}
        """of each row; of multi-label videos there are none, nor what follows here"""
        if self.is_multi_label:
            return
        for name in names:
            part = name, predictions.scores[name], predictions.probabilities(name), self.labels
            self.outcomes[name] = Outcomes.from_scores(*part)
        self.example_rows = [self.outcomes[name] for name in [*self.streams, *self.fusions[:1]]]
        """rows that are shown for each example: the streams, and the main fusion if there is one"""
        self.matrix = self.outcomes[self.main].confusion(len(self.classes))
        """confusion matrix (K, K) of the main row"""

    def row_name(self, name: str) -> str:
        """A row's name as HTML, with a dot in its colour."""
        return f'<span class="dot {self.styles[name]}"></span>{escape(name)}'

    def choose_examples(self) -> ShownVideos:
        """Examples for each quadrant, and one for each of the most confused pairs of classes."""
        main = self.outcomes[self.main]
        streams = [self.outcomes[name] for name in self.streams]
        parts = [(quadrant, choose(quadrant.videos, main, EXAMPLES)) for quadrant in quadrants(streams)]
        pairs = {
            (truth, predicted, times): choose((self.labels == truth) & (main.predicted == predicted), main, 1)
            for truth, predicted, times in confusion.most_confused(self.matrix, PAIRS)
        }
        indices = [index for _, chosen in parts for index in chosen]
        indices += [index for chosen in pairs.values() for index in chosen]
        examples = {
            index: make_example(
                index, self.report.tables, self.example_rows, self.consensus, self.report.weights, self.root
            )
            for index in dict.fromkeys(indices)
        }  # fmt: skip
        return ShownVideos(parts, pairs, examples)


def row_styles(streams: list[str], fusions: list[str]) -> dict[str, str]:
    """CSS class of each row."""
    names = [*streams, *fusions[1:]]
    styles = {name: STYLES[number] if number < len(STYLES) else "other" for number, name in enumerate(names)}
    return styles | dict.fromkeys(fusions[:1], "fused")


def one_digit(rate: float) -> str:
    """A rate in 0 ... 1 in percent with one digit; "-" for NaN."""
    return "-" if math.isnan(rate) else f"{100 * rate:.1f}"


def count_videos(number: int) -> str:
    """A number of videos in words: 1 video, 2,000 videos."""
    return counted(number, "video", spec=",")
