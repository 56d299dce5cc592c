"""What a monitor is, and several monitors as one."""

import sys
from typing import Any

import numpy as np
from tqdm import tqdm

from twostream.errors import UserError, one_line


class Monitor:
    """Shows how a training goes. Methods that a monitor does not need default to doing nothing.

    A monitor must not stop or delay the training.
    """

    def compare_with(self, name: str, top1: float) -> None:
        """Show beside this training what another run reached on the same validation videos; called before the first step.

        `top1` is its accuracy on the validation clips, 0 ... 1: a horizontal line among the accuracies.
        """

    def train(self, values: dict[str, float]) -> None:
        """Show an iteration: plain values by name, as in log.jsonl; accuracies in 0 ... 1, times in seconds."""

    def validation(self, values: dict[str, float]) -> None:
        """Show a validation: plain values by name, as in log.jsonl, with the same units."""

    def grid(self, iteration: int, picture: np.ndarray) -> None:
        """Show inputs of the network, drawn as one picture: RGB uint8 (H, W, 3)."""

    def confusion(self, iteration: int, matrix: np.ndarray, classes: tuple[str, ...]) -> None:
        """Show the confusion matrix of a validation; `validation` is called after this.

        `matrix` counts the clips by true class (rows) and predicted class (columns): int64 (K, K).
        """

    def message(self, text: str) -> None:
        """Show a line of text."""

    def close(self) -> None:
        """Finish, because the training has ended or was stopped."""


class Monitors(Monitor):
    """Several monitors as one. If one fails, for example on a full disk, a warning says so once, and training goes on."""

    def __init__(self, monitors: list[Monitor]):
        self.monitors = monitors
        self.warned: set[Monitor] = set()

    def compare_with(self, name: str, top1: float) -> None:
        self._each("compare_with", name, top1)

    def train(self, values: dict[str, float]) -> None:
        self._each("train", values)

    def validation(self, values: dict[str, float]) -> None:
        self._each("validation", values)

    def grid(self, iteration: int, picture: np.ndarray) -> None:
        self._each("grid", iteration, picture)

    def confusion(self, iteration: int, matrix: np.ndarray, classes: tuple[str, ...]) -> None:
        self._each("confusion", iteration, matrix, classes)

    def message(self, text: str) -> None:
        self._each("message", text)

    def close(self) -> None:
        self._each("close")

    def _each(self, method: str, *arguments: Any) -> None:
        for monitor in self.monitors:
            try:
                getattr(monitor, method)(*arguments)
            except Exception as error:  # no picture of a training is worth the training
                if monitor not in self.warned:
                    self.warned.add(monitor)
                    kind = "" if isinstance(error, OSError | UserError) else f"{type(error).__name__}: "
                    reason = f"{type(monitor).__name__} cannot write ({kind}{one_line(error)})"
                    tqdm.write(f"warning: {reason}; training goes on", file=sys.stderr)
