"""What is used of all that was fitted and trained: by training videos that it has not seen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twostream.counts import counted
from twostream.fusion.consensus import Consensus, softmax
from twostream.fusion.fitting import SMALLEST, cross_fit
from twostream.fusion.streams import align_tables
from twostream.metrics.significance import is_clearly_smaller
from twostream.scores.npz import read_scores
from twostream.scores.table import ScoreTable

NUM_DRAWS = 3
"""of the folds of the cross-fitting, over which a video's losses are averaged, as they differ from draw to draw"""
CHANCE = 0.16
"""level of the sign test: how often a normal variable is above its mean by one standard error or more"""


def select(scores: Mapping[str, Path], first: Sequence[str]) -> list[tuple[str, float]]:
    """Linear heads in the order in which they join the product of streams, with the loss of all until then; `first` are in it anyway.

    `scores` are score files by run: one row of logits for each training video, of a head that has not seen it. Of the runs
    that are left, the one whose product with the others has the smallest loss joins, as long as the gain is larger than its
    standard error over the videos: each head costs time in prediction, and smaller gains are chance. Losses are those of
    powers that were fitted to other videos.
    """
    tables, _ = align_tables([read_scores(path) for path in scores.values()], list(scores), intersect=True)
    labels = tables[0].labels
    count, mean = np.arange(len(labels)), Consensus.parse("mean")
    probabilities = dict(zip(scores, (softmax(mean.video_scores(table)) for table in tables), strict=True))

    def losses(runs: Sequence[str]) -> np.ndarray:
        """Of each video (V,)."""
        parts = [probabilities[run] for run in runs]
        draws = (
            [cross_fit("product", parts, labels, seed=seed).scores for seed in range(NUM_DRAWS)] if parts[1:] else parts
        )
        return np.asarray(-np.log(np.maximum(np.stack(draws)[:, count, labels], SMALLEST)).mean(axis=0))

    chosen = [(run, float(losses(first[: number + 1]).mean())) for number, run in enumerate(first)]
    before = losses(first)
    while left := [run for run in scores if run not in dict(chosen)]:
        found = {run: losses([*dict(chosen), run]) for run in left}
        best = min(left, key=lambda run: float(found[run].mean()))
        if not is_clearly_smaller(found[best], before):
            break
        before = found[best]
        chosen.append((best, float(before.mean())))
    return chosen


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
