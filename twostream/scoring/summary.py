"""What a score file says: accuracies of clips and videos, and the best classes of each video in a file."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from twostream.errors import BadInputError
from twostream.fusion.clip_results import frame_result, multi_label_frame_result
from twostream.fusion.consensus import Consensus
from twostream.metrics import accuracy
from twostream.scores.npz import read_scores, write_challenge_json
from twostream.scores.table import ScoreTable

DEFAULT_RULES = ("clstk-10", "clstk-20", "clstk-30", "clstk-50", "softmax-mean")
"""from clips to a video"""


def summarise(path: Path, rules: Sequence[Consensus], log: Callable[[str], object]) -> None:
    """Log the accuracies of a score file, and write the best classes of each video by each rule."""
    table = read_scores(path)
    has_label = table.has_label
    num_unscored = len(table.unscored_ids)
    note = f", {num_unscored} without scores counted as wrong" if num_unscored else ""
    if has_label.any():
        log(f"frames: {_of_frames(table)}")
    for rule in rules:
        rule = _rule_for(path, table, rule)
        scores = rule.video_scores(table)
        if has_label.any():
            log(
                f"videos by {rule}: {_of_videos(scores[has_label], table.labels[has_label])} of {has_label.sum()}{note}"
            )
            if rule == Consensus("mean"):
                log(line_of_resnet3d(table, scores))
        results = path.with_name(f"results_{path.stem.removeprefix('scores_')}-{rule}.json")
        details = f"{table.stream['backbone']}, {table.stream['input_type']}"
        write_challenge_json(results, table.video_ids, scores, table.classes, details=details)
        log(f"wrote {results}")


def _rule_for(path: Path, table: ScoreTable, rule: Consensus) -> Consensus:
    try:
        return rule.for_labels(multi_label=table.is_multi_label)
    except ValueError as error:
        raise BadInputError(f"{path}: {error}") from None


def _of_frames(table: ScoreTable) -> str:
    if table.is_multi_label:
        of_all = multi_label_frame_result(table)
        precisions = _percent(of_all.mean_average_precision, of_all.mmit_mean_average_precision)
        return f"mAP {precisions[0]} mmit mAP {precisions[1]} Loss {of_all.loss:.3f}"
    result = frame_result(table)
    return f"Top1 {100 * result.top1:.2f} Top3 {100 * result.top3:.2f} Loss {result.loss:.3f}"


def _of_videos(scores: np.ndarray, labels: np.ndarray) -> str:
    """Accuracies of video scores (n, K), all of which have a label."""
    if labels.ndim == 2:
        measures = accuracy.mean_average_precision, accuracy.mmit_mean_average_precision
        precisions = _percent(*(measure(scores, labels > 0) for measure in measures))
        return f"mAP {precisions[0]} mmit mAP {precisions[1]}"
    ranks = accuracy.rank_of_truth(scores, labels)
    top1, top5 = _percent(*(accuracy.share_in_top_k(ranks, k) for k in (1, 5)))
    return f"Top1 {top1} Top5 {top5}"


def _percent(*rates: float) -> list[str]:
    return [f"{100 * rate:.2f}" for rate in rates]


def line_of_resnet3d(table: ScoreTable, scores: np.ndarray) -> str:
    """What the eval.py of Tushar-N/pytorch-resnet3d prints, of the mean logits of each video's clips, (V, K).

    A is the share of videos whose class is right, and clf the mean cross-entropy, of the videos that have scores.
    """
    is_known = (table.labels >= 0) & np.isfinite(scores).all(axis=1)
    logits, labels = scores[is_known], table.labels[is_known]
    right = logits.argmax(axis=1) == labels
    losses = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(labels)), labels]
    return f"({table.split}) A: {right.mean():.3f} | clf: {losses.mean():.3f}"
