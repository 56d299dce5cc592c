"""Results of single clips: ranks and loss, for one stream or for fused streams."""

from dataclasses import dataclass

import numpy as np

from twostream.errors import BadInputError
from twostream.fusion.consensus import CLIPS_AT_ONCE, Consensus, in_threads, softmax
from twostream.fusion.streams import common_rows, fuse
from twostream.metrics import accuracy
from twostream.scores.table import ScoreTable


@dataclass(frozen=True)
class FrameResult:
    """Of the rows with a label: means; accuracies in 0 ... 1."""

    num_rows: int
    loss: float
    top1: float
    top3: float


def frame_result(table: ScoreTable) -> FrameResult:
    """Cross-entropy and accuracies of single rows, read in chunks."""
    losses, ranks = [], []
    labels = table.row_labels
    for chunk in table.chunks():
        known = labels[chunk] >= 0
        logits, truth = table.logits[chunk][known], labels[chunk][known]
        ranks.append(accuracy.rank_of_truth(logits, truth))
        losses.append(-np.log(np.maximum(softmax(logits)[np.arange(len(truth)), truth], np.finfo(float).tiny)))
    losses, ranks = np.concatenate(losses), np.concatenate(ranks)
    loss = float(losses.mean()) if len(losses) else float("nan")
    return FrameResult(len(ranks), loss, *(accuracy.share_in_top_k(ranks, k) for k in (1, 3)))


def clip_ranks(table: ScoreTable) -> np.ndarray:
    """Ranks of the true classes of all clips that have a label; none where a row is a whole video."""
    if table.level == "video":
        return np.array([], int)
    labels = table.row_labels
    ranks = [accuracy.rank_of_truth(table.logits[chunk], labels[chunk]) for chunk in table.chunks()]
    return np.concatenate(ranks)[labels >= 0]


def fused_clip_ranks(
    tables: list[ScoreTable], names: list[str], consensus: Consensus, weights: tuple[float, ...]
) -> np.ndarray:
    """The same of the clips that all tables have, fused; none where a table's rows are no frames."""
    if any(table.level != "frames" for table in tables):
        return np.array([], int)
    chosen = common_rows(tables)
    if not len(chosen[0]):
        raise BadInputError(
            f"{' and '.join(names)} have no frame in common: score them with the same --frame_step "
            "or --num_clips, and --views"
        )
    labels = tables[0].row_labels[chosen[0]]
    ranks = np.empty(len(labels), int)

    def judge(chunk: slice) -> None:
        clips = [consensus.clip_scores(t.logits[rows[chunk]]) for t, rows in zip(tables, chosen, strict=True)]
        ranks[chunk] = accuracy.rank_of_truth(fuse(clips, weights), labels[chunk])

    in_threads(judge, (slice(first, first + CLIPS_AT_ONCE) for first in range(0, len(labels), CLIPS_AT_ONCE)))
    return ranks[labels >= 0]
