"""What goes wrong in a training, told from its figures: one line each, with what to try."""

import math
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from twostream.counts import counted
from twostream.monitor.contract import Monitor

WINDOW = 20
"""logged losses whose median is compared: single batches say little"""
RISE, CLEAR_RISE, NOISE = 1.25, 0.2, 4.0
"""the median loss is this many times its lowest, this much above it, and above it by this many standard errors of the difference
of two medians, before that counts as rising"""
ABOVE_CHANCE = 1.2
"""times the loss of equal probabilities, log K: worse than saying nothing"""
FALLING = 0.9
"""times the lowest median so far: the training recovers from a bad start"""
ONE_CLASS = 0.95
"""share of the predictions that are of one class, when predictions have collapsed"""
WORSE_LOSS = 1.15
"""the validation loss is this many times its lowest"""
APART = 0.15
"""training accuracy minus validation accuracy, when the two have parted"""
HIGH_IN_A_ROW, IN_A_ROW = 3, 2
"""windows of losses, and validations, that must show the same"""


class WarningMonitor(Monitor):
    """Watches the figures, and says in one line when the loss rises, when predictions collapse to one class, and when
    training and validation part. Each is said once in a run.
    """

    def __init__(self, say: Callable[[str], None], num_answers: int, *, history: Iterable[dict[str, Any]] = ()):
        """`num_answers`: the number of classes; 2, yes and no, where a video may have several labels.

        `history` are the entries of log.jsonl that a resumed training continues from: what they show was said before.
        """
        self.say: Callable[[str], None] = lambda text: None
        self.chance_loss = math.log(num_answers)
        self.said: set[str] = set()
        self.losses: list[float] = []
        self.lowest = math.inf
        """lowest median of a whole window"""
        self.train_top1 = 0.0
        """mean accuracy of the batches, of the last entry"""
        self.best_loss, self.best_iteration, self.best_top1 = math.inf, 0, 0.0
        """of the validations"""
        self.num_high = self.num_apart = self.num_collapsed = 0
        """windows or validations in a row"""
        for entry in history:
            if entry["event"] in ("train", "validation"):
                getattr(self, entry["event"])(entry)
        self.say = say

    def train(self, values: dict[str, float]) -> None:
        self.train_top1 = values.get("mean_top1", 0.0)
        self.losses.append(values["loss"])
        if len(self.losses) < WINDOW:
            return
        now = statistics.median(self.losses)
        deviation = 1.48 * statistics.median(abs(loss - now) for loss in self.losses)
        error = 1.25 * deviation * math.sqrt(2 / WINDOW)  # of the difference of two medians, for normal noise
        has_risen = now > max(RISE * self.lowest, self.lowest + CLEAR_RISE, self.lowest + NOISE * error)
        is_falling = now < FALLING * self.lowest < math.inf
        is_high = has_risen or (now > ABOVE_CHANCE * self.chance_loss and not is_falling)
        self.num_high = self.num_high + 1 if is_high else 0
        before, self.losses, self.lowest = self.lowest, [], min(self.lowest, now)
        if self.num_high < HIGH_IN_A_ROW:
            return
        found = f"has risen from {before:.3g} to {now:.3g}"
        if not has_risen:
            found = f"is {now:.3g}, above the {self.chance_loss:.3g} of equal probabilities for all classes"
        self._warn(
            "rise",
            f"the training loss {found} (iteration {values['iteration']:g}): lower --lr (now {values['learning_rate']:g}), add "
            "--warm_up, or look for a rate with the same flags and --find_lr",
        )

    def confusion(self, iteration: int, matrix: np.ndarray, classes: tuple[str, ...]) -> None:
        predicted, true = matrix.sum(axis=0) / max(matrix.sum(), 1), matrix.sum(axis=1) / max(matrix.sum(), 1)
        most = int(predicted.argmax())
        collapsed = len(classes) > 1 and predicted[most] >= ONE_CLASS and true.max() < ONE_CLASS - APART
        self.num_collapsed = self.num_collapsed + 1 if collapsed else 0
        if self.num_collapsed == IN_A_ROW:
            self._warn(
                "collapse",
                f"{predicted[most]:.0%} of the predictions on the validation clips are {classes[most]!r}, which is right for {true[most]:.0%} "
                f"(iteration {iteration}): lower --lr, start from weights (--init_from), or use --class_balance if classes differ in size",
            )

    def validation(self, values: dict[str, float]) -> None:
        if "top1" not in values:  # several labels a video: average precision of clips and of the split do not compare
            return
        loss, top1, iteration = values["loss"], values["top1"], int(values["iteration"])
        gap = self.train_top1 - top1
        apart = loss > WORSE_LOSS * self.best_loss and top1 <= self.best_top1 and gap > APART
        self.num_apart = self.num_apart + 1 if apart else 0
        if self.num_apart == IN_A_ROW:
            self._warn(
                "apart",
                f"training and validation have parted by {counted(round(100 * gap), 'point')}: {self.train_top1:.0%} of the training clips are right, "
                f"and {top1:.0%} of the validation clips (iteration {iteration}); the validation loss has risen from {self.best_loss:.3g} "
                f"(iteration {self.best_iteration}) to {loss:.3g}: train shorter (--early_stop with --fold), start from --head=linear with a "
                "small --trunk_factor, or raise --dropout",
            )
        if loss < self.best_loss:
            self.best_loss, self.best_iteration = loss, iteration
        self.best_top1 = max(self.best_top1, top1)

    def _warn(self, kind: str, text: str) -> None:
        if kind not in self.said:
            self.said.add(kind)
            self.say(f"WARNING: {text}")
