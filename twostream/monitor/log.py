"""The values of a run in files that programs read: log.jsonl, and the last confusion matrix in confusion.json.

The log does not hold confusion matrices: with 400 classes, one has 160,000 numbers, a thousand times the rest. To get
the matrices of earlier validations, score their checkpoints.
"""

import contextlib
import json
import os
import reprlib
from pathlib import Path
from typing import Any

import numpy as np

from twostream.counts import counted
from twostream.errors import BadInputError, one_line
from twostream.files import check_regular, write_text
from twostream.monitor.contract import Monitor

LOG_NAME, CONFUSION_NAME = "log.jsonl", "confusion.json"


class JsonMonitor(Monitor):
    """Writes log.jsonl, one JSON object per line, and the newest confusion matrix to confusion.json."""

    def __init__(self, run_dir: Path, *, resumed_at: int | None, validates_again: bool = False):
        """`resumed_at` is the iteration from which a training continues; None if it starts from the beginning.

        `validates_again`: the validation of that iteration is still to come, or was not saved.
        """
        self.run_dir = run_dir
        # A killed run may have logged more than it saved. That will be repeated, and logged again.
        kept = []
        if resumed_at is not None:
            last_validation = resumed_at - validates_again
            kept = [
                entry for entry in read_log(run_dir)
                if entry["iteration"] <= (last_validation if entry["event"] == "validation" else resumed_at)
            ]  # fmt: skip
        write_text(run_dir / LOG_NAME, "".join(json.dumps(entry) + "\n" for entry in kept))
        if read_confusion(run_dir, last=resumed_at or 0) is None:
            (run_dir / CONFUSION_NAME).unlink(missing_ok=True)

    def train(self, values: dict[str, float]) -> None:
        self._write({"event": "train", **values})

    def validation(self, values: dict[str, float]) -> None:
        self._write({"event": "validation", **values})

    def _write(self, entry: dict[str, Any]) -> None:
        path = self.run_dir / LOG_NAME
        size = path.stat().st_size if path.exists() else 0
        try:
            # Opened for each line: if the file were kept open and somebody removed it, the lines would be lost silently.
            with open(path, "a", encoding="utf-8") as log:
                log.write(json.dumps(entry) + "\n")
        except OSError:  # a full disk leaves a part of the line, to which the next one would be appended
            with contextlib.suppress(OSError):
                os.truncate(path, size)
            raise

    def confusion(self, iteration: int, matrix: np.ndarray, classes: tuple[str, ...]) -> None:
        content = {"iteration": iteration, "classes": list(classes), "true_by_predicted": matrix.tolist()}
        write_text(self.run_dir / CONFUSION_NAME, json.dumps(content) + "\n")


def read_log(run_dir: Path) -> list[dict[str, Any]]:
    """The complete lines of log.jsonl; empty if there is no log. Raises BadInputError that names a damaged line."""
    path = run_dir / LOG_NAME
    check_regular(path)
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    entries = []
    for number, line in enumerate(lines[:-1], 1):  # a killed run may leave an incomplete line
        try:
            entries.append(_entry(line))
        except (ValueError, RecursionError) as error:
            raise BadInputError(
                f"{path}, line {number} is damaged ({one_line(error)}); delete that line, then resume"
            ) from None
    return entries


def _entry(line: bytes) -> dict[str, Any]:
    """A line of log.jsonl; ValueError if it is not one: each has an event, an iteration, and numbers by name."""
    entry = json.loads(line.decode())
    if (
        not isinstance(entry, dict)
        or not isinstance(entry.get("event"), str)
        or type(entry.get("iteration")) is not int
    ):
        raise ValueError('expected an object with "event" and "iteration"')
    for name, value in entry.items():
        if name != "event" and type(value) not in (int, float):
            raise ValueError(f"{name[:40]!r} is {reprlib.repr(value)}, expected a number")
    return entry


def read_confusion(run_dir: Path, *, last: int) -> tuple[int, np.ndarray, tuple[str, ...]] | None:
    """Iteration, matrix and classes of the newest confusion matrix; None if it does not exist, or is later than `last`.

    Raises BadInputError if the file is damaged.
    """
    path = run_dir / CONFUSION_NAME
    check_regular(path)
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        iteration, matrix = content["iteration"], np.array(content["true_by_predicted"])
        classes = tuple(map(str, content["classes"]))
        if type(iteration) is not int or matrix.dtype.kind not in "iu" or matrix.shape != (len(classes), len(classes)):
            raise ValueError(
                f"a matrix of {matrix.dtype} and shape {matrix.shape} for {counted(len(classes), 'class', 'classes')}"
            )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInputError(f"{path} is damaged ({one_line(error)}); delete it, then resume") from None
    return (iteration, matrix, classes) if iteration <= last else None
