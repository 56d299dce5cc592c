"""How the way of reducing a video's clips matters: every rule at every stride, and accuracy over number of frames.

All from the scores of one pass of the network; each stream, and their fusion.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twostream.fusion.consensus import SWEPT, Clips, Consensus, Group, alike, in_segments, in_threads, softmax
from twostream.fusion.streams import fuse
from twostream.metrics import accuracy
from twostream.scores.table import ScoreTable

STRIDES = (1, 2, 4)
"""of the scored frames every 1st, 2nd, ... is taken"""
RULES = tuple(Consensus.parse(prefix + rule) for prefix in ("", "softmax-") for rule in SWEPT)


@dataclass(frozen=True)
class Point:
    """Video accuracies of one stream, or of the fusion, reduced in one way."""

    name: str
    consensus: str
    frame_stride: int
    num_frames: int
    """at most so many frames of a video, evenly spread; 0: all"""
    video_top1: float
    video_top5: float


def sweep(
    tables: list[ScoreTable], names: list[str], weights: tuple[float, ...], *, consensus: Consensus,
    rules: Sequence[Consensus] = RULES, strides: Sequence[int] = STRIDES,
) -> list[Point]:  # fmt: skip
    """Rules times strides, then the rule `consensus` on 1, 2, 4 ... frames; tables of the same videos.

    Videos that a stream has no scores of are wrong. `names` are those of the streams, and of the fusion where there are
    several.
    """
    most = max(int(np.bincount(table.video_index).max()) for table in tables)
    counts = [2**power for power in range(most.bit_length()) if 2**power < most] + [most]
    ways = [(rule, stride, 0) for rule in rules for stride in strides]
    ways += [(consensus, 1, count) for count in counts]
    # What needs the same clips comes together: the rules of a selection share its sorting.
    selections: dict[tuple[bool, int, int], list[int]] = {}
    for number, (rule, stride, count) in enumerate(ways):
        selections.setdefault((rule.on_softmax, stride, count), []).append(number)
    labels = tables[0].labels
    ranks = np.zeros((len(ways), len(names), len(labels)), np.int32)

    def judge(group: Group) -> None:
        logits = [table.logits[rows] for table, rows in zip(tables, group.rows, strict=True)]
        scores = {False: logits, True: [softmax(part) for part in logits]}
        for (on_softmax, stride, count), numbers in selections.items():
            clips = [
                _selected(part, ordinals, stride, count)
                for part, ordinals in zip(scores[on_softmax], group.ordinals, strict=True)
            ]
            for number in numbers:
                videos = [ways[number][0].of_clips(part) if part.number else None for part in clips]
                if len(videos) > 1:
                    videos.append(None if any(part is None for part in videos) else fuse(videos, weights))
                for place, of_videos in enumerate(videos):
                    if of_videos is not None:
                        ranks[number, place, group.videos] = accuracy.rank_of_truth(of_videos, labels[group.videos])

    in_threads(judge, alike(tables))
    ranks = ranks[:, :, labels >= 0]
    return [
        Point(name, str(rule), stride, count, *(accuracy.share_in_top_k(ranks[number, place], k) for k in (1, 5)))
        for number, (rule, stride, count) in enumerate(ways)
        for place, name in enumerate(names)
    ]


def _selected(scores: np.ndarray, ordinals: np.ndarray, stride: int, count: int) -> Clips:
    """Every stride-th time of the videos (n, T, K), or `count` times evenly spread."""
    if not len(ordinals):
        return Clips(scores, ordinals)
    chosen = in_segments(ordinals, count) if count else ordinals % stride == 0
    _, renumbered = np.unique(ordinals[chosen], return_inverse=True)
    return Clips(scores if chosen.all() else scores[:, chosen], renumbered)
