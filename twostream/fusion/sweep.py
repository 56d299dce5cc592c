"""How much the consensus matters: every rule at every stride, and accuracy over the number of frames.

Computed from the scores of one pass of the network, for each stream and for their fusion.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twostream.fusion.consensus import SWEPT, Clips, Consensus, VideoGroup, group_by_clips, is_middle, softmax
from twostream.fusion.streams import fuse
from twostream.metrics import accuracy
from twostream.scores.table import ScoreTable
from twostream.threads import Progress, map_in_threads, no_progress

STRIDES = (1, 2, 4)
"""2: every second of the scored frames is used"""
RULES = tuple(Consensus.parse(prefix + rule) for prefix in ("", "softmax-") for rule in SWEPT)


@dataclass(frozen=True)
class SweepPoint:
    """Video accuracies of one stream, or of the fusion, for one way to reduce the clips."""

    name: str
    consensus: str
    frame_stride: int
    num_frames: int
    """of each video, evenly spaced, or all frames of a shorter video; 0: no limit"""
    video_top1: float
    """0 ... 1"""
    video_top5: float
    """0 ... 1"""


def sweep(
    tables: list[ScoreTable], names: list[str], weights: tuple[float, ...], *, consensus: Consensus,
    rules: Sequence[Consensus] = RULES, strides: Sequence[int] = STRIDES, progress: Progress = no_progress,
) -> list[SweepPoint]:  # fmt: skip
    """All combinations of rules and strides, then the rule `consensus` on 1, 2, 4 ... frames.

    `tables` list the same videos. `names` are those of the streams, and of the fusion if there are several streams.
    Videos that a stream has no scores of count as wrong.
    """
    most = max(map(_most_frames, tables))
    counts = [2**power for power in range(most.bit_length()) if 2**power < most] + [most]
    variants = [(rule, stride, 0) for rule in rules for stride in strides]
    variants += [(consensus, 1, count) for count in counts]
    # Variants that need the same clips are computed together, so that their rules sort the scores once.
    selections: dict[tuple[bool, int, int], list[int]] = {}
    for variant, (rule, stride, count) in enumerate(variants):
        selections.setdefault((rule.on_probabilities, stride, count), []).append(variant)
    labels = tables[0].labels
    ranks = np.zeros((len(variants), len(names), len(labels)), np.int32)

    def rank_group(group: VideoGroup) -> None:
        logits = [table.logits[rows] for table, rows in zip(tables, group.rows, strict=True)]
        scores = {False: logits, True: [softmax(part) for part in logits]}
        for (on_probabilities, stride, count), members in selections.items():
            clips = [
                _select(part, ordinals, stride, count)
                for part, ordinals in zip(scores[on_probabilities], group.ordinals, strict=True)
            ]
            for variant in members:
                rule, _, _ = variants[variant]
                stream_scores = [rule.reduce(part) if part.num_clips else None for part in clips]
                row_scores = stream_scores + ([_fuse_if_complete(stream_scores, weights)] if len(clips) > 1 else [])
                for row, video_scores in enumerate(row_scores):
                    if video_scores is not None:
                        ranks[variant, row, group.videos] = accuracy.rank_of_truth(video_scores, labels[group.videos])

    map_in_threads(rank_group, group_by_clips(tables), progress=progress, name="sweep")
    ranks = ranks[:, :, labels >= 0]
    return [
        SweepPoint(
            name, str(rule), stride, count,
            video_top1=accuracy.share_in_top_k(ranks[variant, row], 1),
            video_top5=accuracy.share_in_top_k(ranks[variant, row], 5),
        )
        for variant, (rule, stride, count) in enumerate(variants)
        for row, name in enumerate(names)
    ]  # fmt: skip


def _most_frames(table: ScoreTable) -> int:
    """Frames of the video that has the most, however many views of each were scored."""
    is_first_view = (np.diff(table.video_index, prepend=-1) != 0) | (np.diff(table.start, prepend=-1) != 0)
    return int(np.bincount(table.video_index[is_first_view]).max())


def _fuse_if_complete(scores: Sequence[np.ndarray | None], weights: tuple[float, ...]) -> np.ndarray | None:
    """The streams' video scores (n, K) fused; None if a stream has none."""
    complete = [part for part in scores if part is not None]
    return fuse(complete, weights) if len(complete) == len(scores) else None


def _select(scores: np.ndarray, ordinals: np.ndarray, stride: int, count: int) -> Clips:
    """Clips of videos (n, T, K): those of every `stride`-th start, or of `count` evenly spaced starts."""
    if not len(ordinals):
        return Clips(scores, ordinals)
    chosen = is_middle(ordinals, count) if count else ordinals % stride == 0
    _, renumbered = np.unique(ordinals[chosen], return_inverse=True)
    return Clips(scores if chosen.all() else scores[:, chosen], renumbered)
