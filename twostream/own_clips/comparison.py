"""Two ways to make a stream, compared on training videos that neither has seen."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twostream.counts import counted
from twostream.fusion.consensus import Consensus
from twostream.scores.npz import read_scores
from twostream.scores.table import ScoreTable

CHANCE = 0.16
"""beyond one standard error, on one side"""


@dataclass(frozen=True)
class Comparison:
    """Which of N held-out videos each of two classifiers got right."""

    num_videos: int
    first: int
    """right by the first"""
    second: int
    """right by the second"""
    num_different: int
    """right by one of the two"""

    @property
    def second_is_clearly_better(self) -> bool:
        """Is the second better by a one-sided sign test over the videos that only one of them gets right, at a level of CHANCE?

        With many videos, that is a gain of one standard error; with few, at least three of three.
        """
        wins = (self.num_different + self.second - self.first) // 2
        cases = sum(math.comb(self.num_different, k) for k in range(wins, self.num_different + 1))
        return cases < CHANCE * 2**self.num_different

    def sentence(self, first: str, second: str) -> str:
        """How many videos the two, who are named, have right."""
        return f"of {counted(self.num_videos, 'training video')} that neither has seen, {self.second} are right by {second}, {self.first} by {first}"


def compare(first_scores: Path, second_scores: Path) -> Comparison:
    """Compare two score files on the videos that both have scored; see `Comparison`."""
    (ids, right), (other_ids, other_right) = (_right(read_scores(path)) for path in (first_scores, second_scores))
    _, ours, theirs = np.intersect1d(ids, other_ids, return_indices=True)
    first, second = right[ours], other_right[theirs]
    return Comparison(len(ours), int(first.sum()), int(second.sum()), int((first != second).sum()))


def _right(table: ScoreTable) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the videos with scores, and whether their best class is the true one."""
    scores = Consensus.parse("softmax-mean").video_scores(table)
    scored = ~np.isnan(scores).any(axis=1)
    return table.video_ids[scored], scores[scored].argmax(axis=1) == table.labels[scored]
