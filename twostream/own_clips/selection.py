"""Which linear heads are fused: those that help in cross-validation over the training videos."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from twostream.fusion.consensus import Consensus, softmax
from twostream.fusion.fitting import SMALLEST, cross_fit
from twostream.fusion.streams import align_tables
from twostream.scores.npz import read_scores

MIN_GAIN = 0.01
"""share of the loss that another head must take away, as each costs time in prediction, and small gains are chance"""
NUM_DRAWS = 3
"""of the folds of the cross-fitting, as losses differ by more than MIN_GAIN from draw to draw"""


def select(scores: Mapping[str, Path], first: Sequence[str]) -> list[tuple[str, float]]:
    """Runs in the order in which they join the product of streams, with the loss of all until then; `first` are in it anyway.

    `scores` are score files by run: one row of logits for each training video, of a head that has not seen it. Of the runs
    that are left, the one whose product with the others has the smallest loss joins, as long as that is clearly smaller. Losses
    are those of powers that were fitted to other videos.
    """
    tables, _ = align_tables([read_scores(path) for path in scores.values()], list(scores), intersect=True)
    labels = tables[0].labels
    count, mean = np.arange(len(labels)), Consensus.parse("mean")
    probabilities = dict(zip(scores, (softmax(mean.video_scores(table)) for table in tables), strict=True))

    def loss(runs: Sequence[str]) -> float:
        parts = [probabilities[run] for run in runs]
        draws = (
            [cross_fit("product", parts, labels, seed=seed).scores for seed in range(NUM_DRAWS)] if parts[1:] else parts
        )
        return float(np.mean([-np.log(np.maximum(fused[count, labels], SMALLEST)) for fused in draws]))

    chosen = [(run, loss(first[: number + 1])) for number, run in enumerate(first)]
    while left := [run for run in scores if run not in dict(chosen)]:
        losses = {run: loss([*dict(chosen), run]) for run in left}
        best = min(losses, key=losses.__getitem__)
        if losses[best] > (1 - MIN_GAIN) * chosen[-1][1]:
            break
        chosen.append((best, losses[best]))
    return chosen
