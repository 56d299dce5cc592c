"""Event files for TensorBoard in the run's folder; to show them: tensorboard --logdir=<save_root>."""

from pathlib import Path

import numpy as np

from twostream.errors import EnvironmentFaultError
from twostream.metrics.confusion import most_confused
from twostream.monitor.contract import Monitor
from twostream.monitor.curves import FIGURES
from twostream.monitor.pictures import confusion_map

FOLDER = "tensorboard"
MAP_SIDE = 400
"""pixels; least side of the drawn confusion matrix"""


class TensorBoardMonitor(Monitor):
    """Writes every curve of FIGURES as <figure>/<curve>, the grid of inputs and the confusion matrix.

    TensorBoard draws each curve in a chart of its own. Top-1 accuracies and the line of another run also share one, in its
    tab "Custom Scalars".
    """

    def __init__(self, run_dir: Path, *, first: int):
        """`first` is the iteration from which a training continues: later values in older files are hidden.

        Raises EnvironmentFaultError if TensorBoard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise EnvironmentFaultError(
                '--tensorboard needs a package that is not installed: pip install tensorboard, or ".[tensorboard]"'
            ) from None
        self.writer = SummaryWriter(str(run_dir / FOLDER), purge_step=first + 1)
        self.compared: tuple[str, float] | None = None

    def compare_with(self, name: str, top1: float) -> None:
        self.compared = (name, top1)
        # The same for each run, whatever the name: of several runs below a folder, TensorBoard takes one layout.
        self.writer.add_custom_scalars({"accuracy": {"top-1": ["Multiline", [r"accuracy/(?!\w+Top3)"]]}})

    def train(self, values: dict[str, float]) -> None:
        self._scalars("train", values)

    def validation(self, values: dict[str, float]) -> None:
        self._scalars("validation", values)
        if self.compared:
            name, top1 = self.compared
            self.writer.add_scalar(f"accuracy/{name}", top1, int(values["iteration"]))
        self.writer.flush()

    def grid(self, iteration: int, picture: np.ndarray) -> None:
        self.writer.add_image("inputs", picture, iteration, dataformats="HWC")

    def confusion(self, iteration: int, matrix: np.ndarray, classes: tuple[str, ...]) -> None:
        factor = -(-MAP_SIDE // len(classes))
        large = confusion_map(matrix).repeat(factor, 0).repeat(factor, 1)
        self.writer.add_image("confusion, true by predicted", large, iteration, dataformats="HWC")
        rows = [f"| {classes[t]} | {classes[p]} | {count} |" for t, p, count in most_confused(matrix)]
        table = "\n".join(["| true | predicted | clips |", "|---|---|---|", *rows])
        self.writer.add_text("most confused", table, iteration)

    def close(self) -> None:
        self.writer.close()

    def _scalars(self, event: str, values: dict[str, float]) -> None:
        for figure_name, figure in FIGURES.items():
            for curve_name, (iteration, value) in figure.new_points(event, values):
                self.writer.add_scalar(f"{figure_name}/{curve_name}", value, int(iteration))
