"""Where numbers go while training: the console and train.log, log.jsonl, and Visdom's windows.

Each monitor has `train(numbers)`, `validation(numbers)`, `message(text)` and `close()`. None may stop or delay the
training. `numbers` are plain values by name; accuracies in 0 ... 1, times in seconds.
"""

import functools
import json
import logging
import sys
import threading
from pathlib import Path

import numpy as np
from tqdm import tqdm

from twostream import atomic
from twostream.errors import BadInputError


class ConsoleMonitor:
    """Lines of text on the console and in train.log, in the form of 2D-kinectics' logs (accuracies in percent)."""

    def __init__(self, run_dir: Path):
        self.log = open(run_dir / "train.log", "a", buffering=1, encoding="utf-8", errors="backslashreplace")

    def train(self, numbers: dict) -> None:
        n = numbers
        self.message(
            f"Epoch: [{n['epoch']}][{n['iteration']}/{n['batches_per_epoch']}] "
            f"Time {n['seconds']:.3f} ({n['mean_seconds']:.3f}) "
            f"Data {n['data_seconds']:.3f} ({n['mean_data_seconds']:.3f})"
            f"Loss {n['loss']:.4f} ({n['mean_loss']:.4f}) "
            f"Prec@1 {100 * n['top1']:.3f} ({100 * n['mean_top1']:.3f}) "
            f"Prec@3 {100 * n['top3']:.3f} ({100 * n['mean_top3']:.3f}) "
            f"lr {n['learning_rate']:g}"
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
        self.log.write(text + "\n")

    def close(self) -> None:
        self.log.close()


class JsonMonitor:
    """One JSON object a line in log.jsonl, for programs."""

    def __init__(self, run_dir: Path, *, resumed_at: int | None):
        path = run_dir / "log.jsonl"
        # A killed run may have logged more than it saved; those iterations will be done, and logged, again.
        kept = [] if resumed_at is None else [e for e in read_log(run_dir) if e["iteration"] <= resumed_at]
        atomic.write_text(path, "".join(json.dumps(entry) + "\n" for entry in kept))
        self.log = open(path, "a", buffering=1, encoding="utf-8")

    def train(self, numbers: dict) -> None:
        self.log.write(json.dumps({"event": "train"} | numbers) + "\n")

    def validation(self, numbers: dict) -> None:
        self.log.write(json.dumps({"event": "validation"} | numbers) + "\n")

    def message(self, text: str) -> None:
        pass

    def close(self) -> None:
        self.log.close()


def read_log(run_dir: Path) -> list[dict]:
    """The whole lines of log.jsonl; empty when there is none. Raises BadInputError naming a line that is damaged."""
    path = run_dir / "log.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    entries = []
    for number, line in enumerate(lines, 1):
        if line.endswith("\n"):  # a killed run may leave half a line
            try:
                entries.append(json.loads(line))
            except ValueError as error:
                raise BadInputError(f"{path}, line {number}: {error}; delete that line, then resume") from None
    return entries


class VisdomMonitor:
    """Loss and accuracy windows of a Visdom server, in the environment named after the run.

    A thread of its own sends the whole curves each time, so a slow server costs nothing, a dead or silent one costs
    one warning, and a restarted one has everything back at the next update. `history` are the entries of log.jsonl
    of the run so far.
    """

    WINDOWS = {
        "loss": ("Train & Val Losses", ("Train-Loss", "Val-Loss")),
        "accuracy": ("Train & Val Accuracies", ("trainTop3", "valTop3", "trainTop1", "valTop1")),
    }
    TIMEOUT_SECONDS = 10.0
    PAUSE_SECONDS = 1.0  # between two updates
    MAX_POINTS = 1000  # of a curve; longer ones are thinned evenly

    def __init__(self, *, server: str, port: int, env: str, history: list[dict] = ()):
        self.server, self.port, self.env = server, port, env.replace("/", "_")
        self.curves: dict[str, list[tuple[int, float]]] = {}
        for entry in history:
            (self._add_train if entry["event"] == "train" else self._add_validation)(entry)
        self.changed, self.closing = threading.Condition(), False
        self.pending, self.sent, self.warned = bool(history), 0, False
        self.thread = threading.Thread(target=self._send_for_ever, name="visdom", daemon=True)
        self.thread.start()

    def train(self, numbers: dict) -> None:
        with self.changed:
            self._add_train(numbers)
            self.pending = True
            self.changed.notify()

    def validation(self, numbers: dict) -> None:
        with self.changed:
            self._add_validation(numbers)
            self.pending = True
            self.changed.notify()

    def message(self, text: str) -> None:
        pass

    def close(self) -> None:
        """Give the thread a moment to send what is left; a silent server is not waited for."""
        with self.changed:
            self.closing = True
            self.changed.notify()
        self.thread.join(timeout=self.TIMEOUT_SECONDS)
        if self.thread.is_alive():
            self._warn(TimeoutError("it does not answer"))

    def _add_train(self, numbers: dict) -> None:
        for curve, key in (("Train-Loss", "mean_loss"), ("trainTop3", "mean_top3"), ("trainTop1", "mean_top1")):
            self.curves.setdefault(curve, []).append((numbers["iteration"], numbers[key]))

    def _add_validation(self, numbers: dict) -> None:
        for curve, key in (("Val-Loss", "loss"), ("valTop3", "top3"), ("valTop1", "top1")):
            self.curves.setdefault(curve, []).append((numbers["iteration"], numbers[key]))

    def _send_for_ever(self) -> None:
        client = None
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.pending or self.closing)
                if not self.pending:
                    return
                self.pending = False
                curves = {name: self._thinned(points) for name, points in self.curves.items()}
            try:
                client = client or self._connect()
                self._send(client, curves)
            except Exception as error:  # whatever a plotting library raises, training goes on
                client = None
                self._warn(error)
            with self.changed:
                self.changed.wait_for(lambda: self.closing, timeout=self.PAUSE_SECONDS)

    def _thinned(self, points: list[tuple[int, float]]) -> list[tuple[int, float]]:
        """At most MAX_POINTS of them, the last one included."""
        step = -(-len(points) // self.MAX_POINTS)
        return points[::-step][::-1]

    def _connect(self):
        import visdom

        logging.getLogger("visdom").setLevel(logging.ERROR)  # it greets each connection with two warnings
        client = visdom.Visdom(
            server=self.server, port=self.port, env=self.env, raise_exceptions=True, use_incoming_socket=False
        )
        client.session.request = functools.partial(client.session.request, timeout=self.TIMEOUT_SECONDS)
        return client

    def _send(self, client, curves: dict[str, list[tuple[int, float]]]) -> None:
        for window, (title, names) in self.WINDOWS.items():
            shown = [name for name in names if curves.get(name)]
            if shown:
                # One call for all curves of a window: points, and to which curve (from 1 on) each belongs. A second
                # `line` with update="replace" takes the first curve out again.
                client.scatter(
                    X=np.array([point for name in shown for point in curves[name]], np.float64),
                    Y=np.repeat(np.arange(len(shown)) + 1, [len(curves[name]) for name in shown]),
                    win=window,
                    opts={"title": title, "xlabel": "Iteration", "legend": shown, "showlegend": True, "mode": "lines"},
                )
        client.save([self.env])
        self.sent += 1

    def _warn(self, error: Exception) -> None:
        if not self.warned:
            self.warned = True
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            tqdm.write(
                f"warning: no Visdom at {self.server}:{self.port} ({reason[:120]}); training goes on, the numbers are "
                f"in log.jsonl. Start one: python -m visdom.server -port {self.port} -bind_local",
                file=sys.stderr,
            )


class Monitors:
    """Several monitors as one; one that cannot write is said once, and stops nothing."""

    def __init__(self, monitors: list):
        self.monitors = monitors
        self.warned = set()

    def train(self, numbers: dict) -> None:
        self._each("train", numbers)

    def validation(self, numbers: dict) -> None:
        self._each("validation", numbers)

    def message(self, text: str) -> None:
        self._each("message", text)

    def close(self) -> None:
        self._each("close")

    def _each(self, method: str, *values) -> None:
        for monitor in self.monitors:
            try:
                getattr(monitor, method)(*values)
            except OSError as error:
                if monitor not in self.warned:
                    self.warned.add(monitor)
                    kind = type(monitor).__name__
                    tqdm.write(f"warning: {kind} cannot write ({error}); training goes on", file=sys.stderr)
