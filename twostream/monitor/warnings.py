"""What goes wrong in a training, told from its figures: one line each, with what to try."""

import math
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from twostream.counts import counted
from twostream.monitor.contract import Monitor

NUM_LOSSES, NUM_ITERATIONS, SHARE = 5, 50, 0.05
"""a window, whose median loss is compared with others, has at least this many logged losses, this many iterations, and this share
of all iterations so far: a short training is watched closely, and a long one is not compared so often that chance looks like a rise"""
RISE, CLEAR_RISE, NOISE = 1.4, 0.2, 4.0
"""the median loss is this many times its lowest, this much above it, and above it by this many standard errors, before that counts
as rising"""
ABOVE_CHANCE = 1.2
"""times the loss of equal probabilities, log K: worse than saying nothing"""
FAR_ABOVE_CHANCE = 2.0
"""times the same: one window is enough"""
FALLING = 0.97
"""times the lowest median so far: the training recovers from a bad start"""
ONE_CLASS = 0.95
"""share of the predictions that are of one class, when predictions have collapsed"""
OTHERS = 0.2
"""share of the clips of all other classes that are right, at most, when they have: of a common class, the accuracy hides it"""
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
        self.window_begin: int | None = None
        """iteration after which the window of `losses` begins; None before the first entry"""
        self.lowest = math.inf
        """lowest median of a window"""
        self.deviations: list[float] = []
        """of the losses of each window from their median, as a share of it"""
        self.train_top1s: list[float] = []
        """of the entries since the last validation"""
        self.best_loss, self.best_iteration, self.best_top1 = math.inf, 0, 0.0
        """of the validations"""
        self.num_high = self.num_apart = self.num_collapsed = 0
        """windows or validations in a row"""
        for entry in history:
            if entry["event"] in ("train", "validation"):
                getattr(self, entry["event"])(entry)
        self.say = say

    def train(self, values: dict[str, float]) -> None:
        # None where no step was applied, and in logs of older versions, which have losses of single batches.
        if (loss := values.get("recent_loss")) is None:
            return
        iteration = int(values["iteration"])
        if self.window_begin is None:
            self.window_begin = iteration - 1
        self.train_top1s += [values["recent_top1"]] if "recent_top1" in values else []
        self.losses.append(loss)
        if len(self.losses) < NUM_LOSSES or iteration - self.window_begin < max(NUM_ITERATIONS, SHARE * iteration):
            return
        now = statistics.median(self.losses)
        self.deviations.append(1.48 * statistics.median(abs(loss - now) for loss in self.losses) / (now or 1))
        # Of a ratio of two medians, for normal noise.
        error = 1.25 * statistics.median(self.deviations) * math.sqrt(2 / len(self.losses))
        has_risen = now > max(RISE * self.lowest, (1 + NOISE * error) * self.lowest, self.lowest + CLEAR_RISE)
        is_falling = now < FALLING * self.lowest < math.inf
        is_high = has_risen or (now > ABOVE_CHANCE * self.chance_loss and not is_falling)
        is_far = now > FAR_ABOVE_CHANCE * self.chance_loss and not is_falling
        self.num_high = self.num_high + 1 if is_high else 0
        before, self.losses, self.window_begin, self.lowest = self.lowest, [], iteration, min(self.lowest, now)
        if self.num_high < HIGH_IN_A_ROW and not is_far:
            return
        found = f"has risen from {before:.4g} to {now:.4g}"
        if not has_risen:
            found = f"is {now:.4g}, above the {self.chance_loss:.3g} of equal probabilities for all classes"
        self._warn(
            "rise",
            f"the training loss {found} (iteration {values['iteration']:g}): lower --lr (now {values['learning_rate']:g}), add "
            "--warm_up, or look for a rate with the same flags and --find_lr",
        )

    def confusion(self, iteration: int, matrix: np.ndarray, classes: tuple[str, ...]) -> None:
        predicted, true = matrix.sum(axis=0) / max(matrix.sum(), 1), matrix.sum(axis=1) / max(matrix.sum(), 1)
        most = int(predicted.argmax())
        num_others = int(matrix.sum() - matrix[most].sum())
        others = (np.trace(matrix) - matrix[most, most]) / max(num_others, 1)
        collapsed = num_others > 0 and predicted[most] >= ONE_CLASS and others <= OTHERS
        self.num_collapsed = self.num_collapsed + 1 if collapsed else 0
        if self.num_collapsed == IN_A_ROW:
            self._warn(
                "collapse",
                f"{predicted[most]:.0%} of the predictions on the validation clips are {classes[most]!r}, which is right for {true[most]:.0%}; "
                f"of the clips of other classes, {others:.0%} are right (iteration {iteration}): lower --lr, start from weights (--init_from), or use --class_balance if classes differ in size",
            )

    def validation(self, values: dict[str, float]) -> None:
        if "top1" not in values:  # several labels a video: average precision of clips and of the split do not compare
            return
        loss, top1, iteration = values["loss"], values["top1"], int(values["iteration"])
        train_top1 = statistics.fmean(self.train_top1s) if self.train_top1s else 0.0
        self.train_top1s = []
        gap = train_top1 - top1
        apart = loss > WORSE_LOSS * self.best_loss and top1 <= self.best_top1 and gap > APART
        self.num_apart = self.num_apart + 1 if apart else 0
        if self.num_apart == IN_A_ROW:
            self._warn(
                "apart",
                f"training and validation have parted by {counted(round(100 * gap), 'point')}: {train_top1:.0%} of the training clips are right, "
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
