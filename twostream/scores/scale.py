"""What the numbers in another toolkit's score file are, and how they become logits.

Toolkits write logits, probabilities, or the sum of either over the views of a video. Some formats say which; in the
others the rows do. A user can overrule both.
"""

import re
from collections.abc import Callable

import numpy as np

from twostream.counts import counted

AUTO, LOGITS, PROBABILITIES = "auto", "logits", "probabilities"
SUM_OF_SOFTMAX = "sum of softmax"
"""scale of a format whose rows are sums of probabilities, over as many views as the row says"""
SMALLEST = 1e-12
"""a probability of 0 becomes this, so that its logarithm is finite"""
TOLERANCE = 0.01
"""how far the sum of a row's probabilities may be from a whole number; half precision needs this much"""


def sum_of(num_views: int) -> str:
    """The scale of rows that are sums over a number of views."""
    return f"sum-{num_views}"


def parse_scale(text: str) -> str:
    """`auto`, `logits`, `probabilities` or `sum-N`; ValueError for anything else."""
    if text in (AUTO, LOGITS, PROBABILITIES) or re.fullmatch(r"sum-[1-9]\d{0,5}", text):
        return text
    raise ValueError(
        f"{text!r:.80}, expected auto, logits, probabilities, or sum-N for sums of N views, such as sum-30"
    )


def to_logits(rows: np.ndarray, scale: str, where: Callable[[int], str]) -> tuple[np.ndarray, str]:
    """Rows (M, K), finite and none of them all zeros -> float32 logits (M, K), and what the rows were read as.

    `scale` is one of `parse_scale`, or SUM_OF_SOFTMAX; `where` names a row for messages. ValueError if a row is not what
    the scale says, or if most rows are probabilities and some are not.
    """
    if scale == LOGITS:
        return rows.astype(np.float32), LOGITS
    sums = rows.sum(axis=1, dtype=np.float64)
    is_positive = rows.min(axis=1) >= 0
    if scale == PROBABILITIES:
        if not is_positive.all():
            raise ValueError(f"{where(int(np.argmin(is_positive)))}: a score below 0, which is no probability")
        return _logarithms(rows, sums), PROBABILITIES
    counts = np.where(is_positive & (np.abs(sums - np.rint(sums)) <= TOLERANCE), np.rint(sums).astype(int), 0)
    most = int(counts.max())
    num_views = int(scale.removeprefix("sum-")) if scale.startswith("sum-") else 0
    if num_views:
        is_sum = (counts >= 1) & (counts <= num_views)
    elif scale == SUM_OF_SOFTMAX or _is_one_sum(rows, counts):
        is_sum = counts >= 1
    else:
        is_sum = counts == 1
    if is_sum.all():
        return _logarithms(rows, sums), _sum_text(int(counts.min()), most)
    if scale == SUM_OF_SOFTMAX and is_positive.all() and is_sum.mean() < 0.5:
        return _logarithms(rows, sums), "maximum over views"
    if is_sum.mean() < 0.5:
        return (rows / max(num_views, 1)).astype(np.float32), _sum_text(num_views, num_views) if num_views else LOGITS
    row = int(np.argmin(is_sum))
    raise ValueError(
        f"{where(row)}: its scores sum to {sums[row]:.4g}, but {is_sum.sum()} of {counted(len(rows), 'row is', 'rows are')} probabilities; export "
        f"it again, or say what the scores are: --scale=probabilities or --scale=logits"
    )


def to_multi_label_logits(rows: np.ndarray, scale: str, where: Callable[[int], str]) -> tuple[np.ndarray, str]:
    """`to_logits` for multi-label videos, where a probability is the sigmoid of its logit.

    Unless `scale` says otherwise, rows are probabilities if all of their scores are from 0 to 1, and else logits.
    """
    if scale not in (AUTO, LOGITS, PROBABILITIES):
        raise ValueError(f"scale {scale!r}: videos have several labels, so say --scale=probabilities or --scale=logits")
    is_probability = ((rows >= 0) & (rows <= 1)).all(axis=1)
    if scale == LOGITS or (scale == AUTO and not is_probability.all()):
        return rows.astype(np.float32), LOGITS
    if not is_probability.all():
        raise ValueError(
            f"{where(int(np.argmin(is_probability)))}: a score below 0 or above 1, which is no probability"
        )
    shares = np.clip(rows.astype(np.float64), SMALLEST, 1 - SMALLEST)
    return np.log(shares / (1 - shares)).astype(np.float32), PROBABILITIES


def _is_one_sum(rows: np.ndarray, counts: np.ndarray) -> bool:
    """Are all rows sums of probabilities over the same number of views? Whole numbers may be anything, such as ranks."""
    return bool((counts == counts[0]).all() and counts[0] >= 1 and (rows != np.rint(rows)).any())


def _sum_text(fewest: int, most: int) -> str:
    if most == 1:
        return PROBABILITIES
    return f"sum of {counted(most, 'view')}" if fewest == most else f"sum of {fewest} to {counted(most, 'view')}"


def _logarithms(rows: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Of the rows (M, K), none negative, divided by their sums (M,)."""
    probabilities = np.maximum(rows / sums[:, None], SMALLEST)
    return np.asarray(np.log(probabilities), np.float32)
