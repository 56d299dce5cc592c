"""Which linear heads are fused: those that help in cross-validation over the training videos."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from twostream.fusion.consensus import Consensus, softmax
from twostream.fusion.fitting import SMALLEST, cross_fit
from twostream.fusion.streams import align_tables
from twostream.scores.npz import read_scores

NUM_DRAWS = 3
"""of the folds of the cross-fitting, over which a video's losses are averaged, as they differ from draw to draw"""


def select(scores: Mapping[str, Path], first: Sequence[str]) -> list[tuple[str, float]]:
    """Runs in the order in which they join the product of streams, with the loss of all until then; `first` are in it anyway.

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
        gain = before - found[best]
        if gain.mean() <= gain.std() / np.sqrt(len(gain)):
            break
        before = found[best]
        chosen.append((best, float(before.mean())))
    return chosen
