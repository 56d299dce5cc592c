"""What a score file says: accuracies of clips and videos, and the best classes of each video in a file."""

from collections.abc import Callable, Sequence
from pathlib import Path

from twostream.fusion.clip_results import frame_result
from twostream.fusion.consensus import Consensus
from twostream.metrics import accuracy
from twostream.scores.npz import read_scores, write_challenge_json

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
        results = path.with_name(f"results_{path.stem.removeprefix('scores_')}-{rule}.json")
        details = f"{table.stream['backbone']}, {table.stream['input_type']}"
        write_challenge_json(results, table.video_ids, scores, table.classes, details=details)
        log(f"wrote {results}")
