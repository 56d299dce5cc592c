"""Lines of text for people: on the console, and in train.log."""

from pathlib import Path

from tqdm import tqdm

from twostream.monitor.contract import Monitor


class ConsoleMonitor(Monitor):
    """Lines in the form of 2D-kinectics' logs (accuracies in percent), and the time that is left."""

    def __init__(self, run_dir: Path):
        self.path = run_dir / "train.log"

    def train(self, numbers: dict) -> None:
        n = numbers
        self.message(
            f"Epoch: [{n['epoch']}][{n['iteration']}/{n['batches_per_epoch']}] "
            f"Time {n['seconds']:.3f} ({n['mean_seconds']:.3f}) "
            f"Data {n['data_seconds']:.3f} ({n['mean_data_seconds']:.3f})"
            f"Loss {n['loss']:.4f} ({n['mean_loss']:.4f}) "
            f"Prec@1 {100 * n['top1']:.3f} ({100 * n['mean_top1']:.3f}) "
            f"Prec@3 {100 * n['top3']:.3f} ({100 * n['mean_top3']:.3f}) "
            f"lr {n['learning_rate']:g} ETA {clock(n['seconds_left'])}"
        )

    def validation(self, numbers: dict) -> None:
        n = numbers
        self.message(
            f"\nValidation @ {n['iteration']}: Top1 {100 * n['top1']:.2f} Top3 {100 * n['top3']:.2f} Loss {n['loss']:.3f}\n"
            f"\nBest Top1 sofar {100 * n['best_top1']:.3f} current top1 {100 * n['top1']:.3f} "
            f"Time taken for Validation {n['seconds']:.3f}\n"
        )

    def message(self, text: str) -> None:
        tqdm.write(text)
        with open(self.path, "a", encoding="utf-8", errors="backslashreplace") as log:  # as JsonMonitor does
            log.write(text + "\n")


def clock(seconds: float) -> str:
    """
    >>> clock(3 * 3600 + 12 * 60 + 5), clock(400_000)
    ('3:12:05', '111:06:40')
    """
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
