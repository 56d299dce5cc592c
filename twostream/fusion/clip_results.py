"""Accuracy and loss of single clips, for one stream or for fused streams."""

from dataclasses import dataclass
from functools import reduce

import numpy as np

from twostream.errors import BadInputError
from twostream.fusion.consensus import CLIPS_AT_ONCE, Consensus, softmax
from twostream.fusion.streams import are_joined_by_video, common_rows, fuse
from twostream.metrics import accuracy
from twostream.scores.table import ROWS_AT_ONCE, ScoreTable
from twostream.threads import Progress, map_in_threads, no_progress

CLASSES_AT_ONCE = 32


@dataclass(frozen=True)
class FrameResult:
    """Means over the rows that have a label; NaN if there are none."""

    num_rows: int
    loss: float
    """cross-entropy"""
    top1: float
    """accuracy in 0 ... 1"""
    top3: float
    """accuracy in 0 ... 1"""


def frame_result(table: ScoreTable) -> FrameResult:
    """Cross-entropy and accuracies of the rows of a table whose level is not "video". The file is read in chunks."""
    ranks = clip_ranks(table)
    losses = []
    row_labels = table.row_labels
    for chunk in table.chunks():
        has_label = row_labels[chunk] >= 0
        logits, labels = table.logits[chunk][has_label], row_labels[chunk][has_label]
        probabilities = softmax(logits)[np.arange(len(labels)), labels]
        losses.append(-np.log(np.maximum(probabilities, np.finfo(float).tiny)))
    return FrameResult(
        num_rows=len(ranks),
        loss=float(np.concatenate(losses).mean()) if len(ranks) else float("nan"),
        top1=accuracy.share_in_top_k(ranks, 1),
        top3=accuracy.share_in_top_k(ranks, 3),
    )


@dataclass(frozen=True)
class MultiLabelFrameResult:
    """Measures of the rows of multi-label videos that have a label; NaN if there are none."""

    loss: float
    """binary cross-entropy, the mean over rows and classes"""
    mean_average_precision: float
    """0 ... 1, as is the next one; see metrics.accuracy"""
    mmit_mean_average_precision: float


def multi_label_frame_result(table: ScoreTable) -> MultiLabelFrameResult:
    """Loss and average precisions of the rows of a table. Classes are read in blocks, because files may be large."""
    known = table.has_label[table.video_index]
    rows, num_classes = np.flatnonzero(known), table.logits.shape[1]
    total_loss, precisions, of_rows = 0.0, [], []
    for chunk in np.array_split(rows, max(-(-len(rows) // ROWS_AT_ONCE), 1)):
        logits, truth = np.asarray(table.logits[chunk], np.float64), table.labels[table.video_index[chunk]] > 0
        total_loss += float(np.logaddexp(0, np.where(truth, -logits, logits)).sum())
        of_rows += [accuracy.average_precision(*pair) for pair in zip(logits, truth, strict=True)]
    for first in range(0, num_classes, CLASSES_AT_ONCE):
        block = slice(first, first + CLASSES_AT_ONCE)
        truth = table.labels[:, block][table.video_index[rows]] > 0
        precisions.append(accuracy.class_average_precisions(np.asarray(table.logits[:, block])[rows], truth))
    return MultiLabelFrameResult(
        total_loss / (len(rows) * num_classes) if len(rows) else float("nan"),
        accuracy.mean_of_numbers(np.concatenate(precisions)),
        accuracy.mean_of_numbers(np.array(of_rows)),
    )


def clip_ranks(table: ScoreTable) -> np.ndarray:
    """Ranks of the true classes, (n,) integers, of all clips that have a label; empty if the rows are whole videos, or if
    videos are multi-label."""
    if table.level == "video" or table.is_multi_label:
        return np.array([], int)
    labels = table.row_labels
    ranks = np.concatenate([accuracy.rank_of_truth(table.logits[chunk], labels[chunk]) for chunk in table.chunks()])
    return np.asarray(ranks[labels >= 0])


def fused_clip_ranks(
    tables: list[ScoreTable],
    names: list[str],
    consensus: Consensus,
    weights: tuple[float, ...],
    *,
    progress: Progress = no_progress,
) -> np.ndarray:
    """Ranks as `clip_ranks`, of the fused scores of the clips that all tables have; empty also if rows are not frames, if the
    streams have other clips on purpose, see `are_joined_by_video`, or if they share videos, but no clip.

    `names` are the streams' names for messages. BadInputError if the tables have scored no video in common.
    """
    if any(table.level != "frames" or table.is_multi_label for table in tables):
        return np.array([], int)
    rows_of_tables = common_rows(tables)
    if are_joined_by_video(tables) and any(
        len(rows) < len(table.start) for rows, table in zip(rows_of_tables, tables, strict=True)
    ):
        return np.array([], int)  # the clips in common are few, and no fair choice
    if not len(rows_of_tables[0]):
        if not len(reduce(np.intersect1d, [table.video_index for table in tables])):
            raise BadInputError(
                f"{' and '.join(names)} have scored no video in common: score them with the same annotations"
            )
        return np.array([], int)
    labels = tables[0].row_labels[rows_of_tables[0]]
    ranks = np.empty(len(labels), int)

    def rank_chunk(chunk: slice) -> None:
        clips = [consensus.clip_scores(t.logits[rows[chunk]]) for t, rows in zip(tables, rows_of_tables, strict=True)]
        ranks[chunk] = accuracy.rank_of_truth(fuse(clips, weights), labels[chunk])

    chunks = (slice(first, first + CLIPS_AT_ONCE) for first in range(0, len(labels), CLIPS_AT_ONCE))
    map_in_threads(rank_chunk, chunks, progress=progress, name="fuse clips")
    return np.asarray(ranks[labels >= 0])
