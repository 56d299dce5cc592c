"""Consensus (clips of a video -> one row of scores) and fusion (streams -> one)."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from twostream.errors import BadInputError
from twostream.scores import ScoreTable


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, in float64."""
    shifted = logits - logits.max(axis=-1, keepdims=True).astype(np.float64)
    exponentials = np.exp(shifted)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def top_k_mean(scores: np.ndarray, k: int) -> np.ndarray:
    """Per class the mean of its best min(k, T) scores, whatever the clips: (T, K) -> (K,).

    The rule of 2D-kinectics ("clstk"), on logits there.
    """
    k = min(k, len(scores))
    return np.partition(scores, len(scores) - k, axis=0)[len(scores) - k :].mean(axis=0)


RULES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "mean": lambda scores, k: scores.mean(axis=0),
    "max": lambda scores, k: scores.max(axis=0),
    "clstk": top_k_mean,
}
"""(T, K) scores of a video's clips, and k -> (K,)"""


@dataclass(frozen=True)
class Consensus:
    """How a video's clips become one row: a rule, on logits or on their softmax."""

    rule: str
    k: int = 0
    """for clstk"""
    on_softmax: bool = False

    @classmethod
    def parse(cls, text: str) -> "Consensus":
        """`mean`, `max`, `clstk-30` on logits; `softmax-mean` and so on, on softmax. Raises ValueError."""
        match = re.fullmatch(r"(softmax-)?(?:(mean|max)|(clstk)-0*([1-9]\d*))", text)
        if not match:
            raise ValueError(f"consensus {text!r}, expected mean, max or clstk-K, or softmax- before one of these")
        on_softmax, plain, top_k, k = match.groups()
        return cls(plain or top_k, int(k or 0), bool(on_softmax))

    def __str__(self) -> str:
        rule = f"clstk-{self.k:03d}" if self.rule == "clstk" else self.rule
        return "softmax-" * self.on_softmax + rule

    def clip_scores(self, table: ScoreTable) -> np.ndarray:
        """What the rule works on: (M, K) float64."""
        return softmax(table.logits) if self.on_softmax else table.logits.astype(np.float64)

    def video_scores(self, table: ScoreTable) -> np.ndarray:
        """(V, K) float64; rows of NaN for videos without clips."""
        scores = self.clip_scores(table)
        result = np.full((len(table.video_ids), scores.shape[1]), np.nan)
        videos, first_rows = np.unique(table.video_index, return_index=True)  # rows are in order of video
        for video, rows in zip(videos, np.split(scores, first_rows[1:]), strict=True):
            result[video] = RULES[self.rule](rows, self.k)
        return result


def fuse(scores: list[np.ndarray], weights: tuple[float, ...]) -> np.ndarray:
    """Weighted mean of S arrays (..., K) whose rows mean the same; NaN where one of them has none."""
    total = sum(weights)
    return sum(weight / total * array for weight, array in zip(weights, scores, strict=True))


def class_difference(one: Sequence[str], other: Sequence[str]) -> str:
    """How two lists of classes differ, for messages: their lengths and the first place where they do."""
    first = next((f", first {a!r} and {b!r}" for a, b in zip(one, other, strict=False) if a != b), "")
    return f"{len(one)} and {len(other)} classes that differ{first}"


def check_fusable(tables: list[ScoreTable], names: list[str]) -> None:
    """Raise BadInputError unless all tables score the same videos with the same labels and classes."""
    first = tables[0]
    for table, name in zip(tables[1:], names[1:], strict=True):
        pair = f"{names[0]} and {name} cannot be fused"
        if table.split != first.split:
            raise BadInputError(f"{pair}: splits {first.split!r} and {table.split!r}; score the same one")
        if table.classes != first.classes:
            raise BadInputError(f"{pair}: {class_difference(first.classes, table.classes)}; train on the same ones")
        if table.split_fingerprint != first.split_fingerprint:
            labels = [dict(zip(t.video_ids.tolist(), t.labels.tolist(), strict=True)) for t in (first, table)]
            differing = [i for i in labels[0].keys() | labels[1].keys() if labels[0].get(i) != labels[1].get(i)]
            raise BadInputError(
                f"{pair}: {len(differing)} videos are listed in one split only or have other labels "
                f"(first {sorted(differing)[:5]}); score the same annotations"
            )


def common_rows(tables: list[ScoreTable]) -> list[np.ndarray]:
    """For each table the rows whose (video, start, view) all tables have, in the same order."""
    keys = [(table.video_index, table.start, table.view) for table in tables]
    extent = [1 + max(int(part.max()) for part in parts) for parts in zip(*keys, strict=True)]
    packed = [np.ravel_multi_index(key, extent) for key in keys]  # one ascending integer a row: tables are sorted
    common = packed[0]
    for other in packed[1:]:
        common = np.intersect1d(common, other, assume_unique=True)
    return [np.searchsorted(rows, common) for rows in packed]
