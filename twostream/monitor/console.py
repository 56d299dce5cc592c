"""Lines of text for people, on the console and in train.log."""

from pathlib import Path

from tqdm import tqdm

from twostream.monitor.contract import Monitor


class ConsoleMonitor(Monitor):
    """Lines as in the logs of 2D-kinectics (accuracies in percent), and the time that is left."""

    def __init__(self, run_dir: Path):
        self.path = run_dir / "train.log"
        self.compared: tuple[str, float] | None = None

    def compare_with(self, name: str, top1: float) -> None:
        self.compared = (name, top1)

    def train(self, values: dict[str, float]) -> None:
        v = values
        accuracies = ""
        if "top1" in v:
            accuracies = (
                f"Prec@1 {100 * v['top1']:.3f} ({100 * v['mean_top1']:.3f}) "
                f"Prec@3 {100 * v['top3']:.3f} ({100 * v['mean_top3']:.3f}) "
            )
        self.message(
            f"Epoch: [{v['epoch']}][{v['iteration']}/{v['batches_per_epoch']}] "
            f"Time {v['seconds']:.3f} ({v['mean_seconds']:.3f}) "
            f"Data {v['data_seconds']:.3f} ({v['mean_data_seconds']:.3f})"
            f"Loss {v['loss']:.4f} ({v['mean_loss']:.4f}) "
            f"{accuracies}lr {v['learning_rate']:g} ETA {clock(v['seconds_left'])}"
        )

    def validation(self, values: dict[str, float]) -> None:
        v = values
        if "mean_average_precision" in v:
            self.message(
                f"\nValidation @ {v['iteration']}: mAP {100 * v['mean_average_precision']:.2f} "
                f"mmit mAP {100 * v['mmit_mean_average_precision']:.2f} Loss {v['loss']:.3f}\n"
                f"\nBest mAP so far {100 * v['best_mean_average_precision']:.3f} Time taken for Validation {v['seconds']:.3f}\n"
            )
            return
        self.message(
            f"\nValidation @ {v['iteration']}: Top1 {100 * v['top1']:.2f} Top3 {100 * v['top3']:.2f} Loss {v['loss']:.3f}\n"
            f"\nBest Top1 sofar {100 * v['best_top1']:.3f} current top1 {100 * v['top1']:.3f} "
            f"Time taken for Validation {v['seconds']:.3f}\n"
        )
        if self.compared:
            name, top1 = self.compared
            self.message(f"val top-1 {100 * v['top1']:.1f}, {name} {100 * top1:.1f}\n")

    def message(self, text: str) -> None:
        tqdm.write(text)
        with open(
            self.path, "a", encoding="utf-8", errors="backslashreplace"
        ) as log:  # opened each time, see JsonMonitor
            log.write(text + "\n")


def clock(seconds: float) -> str:
    """Seconds as hours, minutes and seconds.

    >>> clock(3 * 3600 + 12 * 60 + 5), clock(400_000)
    ('3:12:05', '111:06:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
