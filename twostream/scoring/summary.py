"""What a score file says: accuracies of clips and videos, and the best classes of each video in a file."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from twostream.fusion.clip_results import frame_result
from twostream.fusion.consensus import Consensus
from twostream.metrics import accuracy
from twostream.scores.npz import read_scores, write_challenge_json
from twostream.scores.table import ScoreTable

DEFAULT_RULES = ("clstk-10", "clstk-20", "clstk-30", "clstk-50", "softmax-mean")
"""from clips to a video"""


def summarise(path: Path, rules: Sequence[Consensus], log: Callable[[str], object]) -> None:
    """Log the accuracies of a score file, and write the best classes of each video by each rule."""
    table = read_scores(path)
    has_label = table.labels >= 0
    if has_label.any():
        result = frame_result(table)
        log(f"frames: Top1 {100 * result.top1:.2f} Top3 {100 * result.top3:.2f} Loss {result.loss:.3f}")
    for rule in rules:
        scores = rule.video_scores(table)
        if has_label.any():
            ranks = accuracy.rank_of_truth(scores[has_label], table.labels[has_label])
            top1, top5 = (100 * accuracy.share_in_top_k(ranks, k) for k in (1, 5))
            num_unscored = len(table.unscored_ids)
            note = f", {num_unscored} without scores counted as wrong" if num_unscored else ""
            log(f"videos by {rule}: Top1 {top1:.2f} Top5 {top5:.2f} of {has_label.sum()}{note}")
            if rule == Consensus("mean"):
                log(line_of_resnet3d(table, scores))
        results = path.with_name(f"results_{path.stem.removeprefix('scores_')}-{rule}.json")
        details = f"{table.stream['backbone']}, {table.stream['input_type']}"
        write_challenge_json(results, table.video_ids, scores, table.classes, details=details)
        log(f"wrote {results}")


def line_of_resnet3d(table: ScoreTable, scores: np.ndarray) -> str:
    """What the eval.py of Tushar-N/pytorch-resnet3d prints, of the mean logits of each video's clips, (V, K).

    A is the share of videos whose class is right, and clf the mean cross-entropy, of the videos that have scores.
    """
    is_known = (table.labels >= 0) & np.isfinite(scores).all(axis=1)
    logits, labels = scores[is_known], table.labels[is_known]
    right = logits.argmax(axis=1) == labels
    losses = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(labels)), labels]
    return f"({table.split}) A: {right.mean():.3f} | clf: {losses.mean():.3f}"
