"""What a monitor is, and several monitors as one."""

import sys

import numpy as np
from tqdm import tqdm

from twostream.errors import UserError


class Monitor:
    """Where a training is watched; whoever has nothing to do with a kind of news inherits the method that does nothing.

    None may stop or delay the training.
    """

    def train(self, numbers: dict) -> None:
        """Plain values of an iteration by name, as log.jsonl has them; accuracies in 0 ... 1, times in seconds."""

    def validation(self, numbers: dict) -> None:
        """Plain values of a validation."""

    def grid(self, iteration: int, picture: np.ndarray) -> None:
        """Inputs of the network in one picture, RGB uint8 (H, W, 3)."""

    def confusion(self, iteration: int, matrix: np.ndarray, classes: tuple[str, ...]) -> None:
        """Clips of a validation by true class (rows) and predicted class (columns), integers (K, K); before its numbers."""

    def message(self, text: str) -> None:
        """A line for people."""

    def close(self) -> None:
        """The training is over, or stopped by request."""


class Monitors(Monitor):
    """Several monitors as one; one that fails, as on a full disk, is said once, and stops nothing."""

    def __init__(self, monitors: list[Monitor]):
        self.monitors = monitors
        self.warned = set()

    def train(self, numbers: dict) -> None:
        self._each("train", numbers)

    def validation(self, numbers: dict) -> None:
        self._each("validation", numbers)

    def grid(self, iteration: int, picture: np.ndarray) -> None:
        self._each("grid", iteration, picture)

    def confusion(self, iteration: int, matrix: np.ndarray, classes: tuple[str, ...]) -> None:
        self._each("confusion", iteration, matrix, classes)

    def message(self, text: str) -> None:
        self._each("message", text)

    def close(self) -> None:
        self._each("close")

    def _each(self, method: str, *values) -> None:
        for monitor in self.monitors:
            try:
                getattr(monitor, method)(*values)
            except Exception as error:  # no picture of a training is worth the training
                if monitor not in self.warned:
                    self.warned.add(monitor)
                    reason = error if isinstance(error, OSError | UserError) else f"{type(error).__name__}: {error}"
                    kind = type(monitor).__name__
                    tqdm.write(f"warning: {kind} cannot write ({reason}); training goes on", file=sys.stderr)
