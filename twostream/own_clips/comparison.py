"""A trained stream beside its linear head, on training videos that neither has seen."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twostream.counts import counted
from twostream.fusion.consensus import Consensus
from twostream.scores.npz import read_scores
from twostream.scores.table import ScoreTable


@dataclass(frozen=True)
class Comparison:
    """Which of N held-out videos each of two classifiers got right."""

    num_videos: int
    linear: int
    """right by the linear head"""
    trained: int
    """right by the trained network"""
    num_different: int
    """right by one of the two"""

    @property
    def trained_wins(self) -> bool:
        """Is the trained network better by a standard error of the difference, as in McNemar's test?"""
        gain = self.trained - self.linear
        return gain > 0 and gain >= math.sqrt(self.num_different)

    def __str__(self) -> str:
        verdict = "it is used" if self.trained_wins else "the linear head stays"
        return (
            f"of {counted(self.num_videos, 'training video')} that neither has seen, the trained network has {self.trained} right, the linear "
            f"head {self.linear}: {verdict}"
        )


def compare(linear: Path, trained: Path) -> Comparison:
    """Compare two score files on the videos that both have scored; see `Comparison`."""
    (ids, right), (other_ids, other_right) = (_right(read_scores(path)) for path in (linear, trained))
    _, ours, theirs = np.intersect1d(ids, other_ids, return_indices=True)
    first, second = right[ours], other_right[theirs]
    return Comparison(len(ours), int(first.sum()), int(second.sum()), int((first != second).sum()))


def _right(table: ScoreTable) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the videos with scores, and whether their best class is the true one."""
    scores = Consensus.parse("softmax-mean").video_scores(table)
    scored = ~np.isnan(scores).any(axis=1)
    return table.video_ids[scored], scores[scored].argmax(axis=1) == table.labels[scored]
