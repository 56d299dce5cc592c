"""TensorBoard's event files, in the run's folder: tensorboard --logdir=<save_root>."""

from pathlib import Path

import numpy as np

from twostream.errors import EnvironmentFaultError
from twostream.metrics import confusion
from twostream.monitor.contract import Monitor
from twostream.monitor.curves import FIGURES
from twostream.monitor.pictures import confusion_map

FOLDER = "tensorboard"
MAP_SIDE = 400  # pixels, at least


class TensorBoardMonitor(Monitor):
    """Every number of FIGURES as <figure>/<curve>, the grid of inputs, the confusion matrix.

    `first` is the last iteration that is not done again: what older files say of later ones is hidden.
    """

    def __init__(self, run_dir: Path, *, first: int):
        """Raises EnvironmentFaultError without the package."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise EnvironmentFaultError(
                '--tensorboard needs a package that is not here: pip install tensorboard, or ".[tensorboard]"'
            ) from None
        self.writer = SummaryWriter(str(run_dir / FOLDER), purge_step=first + 1)

    def train(self, numbers: dict) -> None:
        self._scalars("train", numbers)

    def validation(self, numbers: dict) -> None:
        self._scalars("validation", numbers)
        self.writer.flush()

    def grid(self, iteration: int, picture: np.ndarray) -> None:
        self.writer.add_image("inputs", picture, iteration, dataformats="HWC")

    def confusion(self, iteration: int, matrix: np.ndarray, classes: tuple[str, ...]) -> None:
        large = confusion_map(matrix).repeat(-(-MAP_SIDE // len(classes)), 0).repeat(-(-MAP_SIDE // len(classes)), 1)
        self.writer.add_image("confusion, true by predicted", large, iteration, dataformats="HWC")
        pairs = [f"| {classes[t]} | {classes[p]} | {times} |" for t, p, times in confusion.most_confused(matrix)]
        self.writer.add_text(
            "most confused", "\n".join(["| true | taken for | clips |", "|---|---|---|", *pairs]), iteration
        )

    def close(self) -> None:
        self.writer.close()

    def _scalars(self, event: str, numbers: dict) -> None:
        for window, figure in FIGURES.items():
            for name, (source, value) in figure.curves.items():
                if source == event:
                    self.writer.add_scalar(f"{window}/{name}", value(numbers), numbers["iteration"])
