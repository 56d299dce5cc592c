"""The values of a run in files that programs read: log.jsonl, and the last confusion matrix in confusion.json.

The log does not hold confusion matrices: with 400 classes, one has 160,000 numbers, a thousand times the rest. To get
the matrices of earlier validations, score their checkpoints.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from twostream.errors import BadInputError
from twostream.files import write_text
from twostream.monitor.contract import Monitor

LOG_NAME, CONFUSION_NAME = "log.jsonl", "confusion.json"


class JsonMonitor(Monitor):
    """Writes log.jsonl, one JSON object per line, and the newest confusion matrix to confusion.json."""

    def __init__(self, run_dir: Path, *, resumed_at: int | None):
        """`resumed_at` is the iteration from which a training continues; None if it starts from the beginning."""
        self.run_dir = run_dir
        # A killed run may have logged more than it saved. Those iterations will be repeated, and logged again.
        kept = [] if resumed_at is None else [e for e in read_log(run_dir) if e["iteration"] <= resumed_at]
        write_text(run_dir / LOG_NAME, "".join(json.dumps(entry) + "\n" for entry in kept))
        if read_confusion(run_dir, last=resumed_at or 0) is None:
            (run_dir / CONFUSION_NAME).unlink(missing_ok=True)

    def train(self, values: dict[str, float]) -> None:
        self._write({"event": "train", **values})

    def validation(self, values: dict[str, float]) -> None:
        self._write({"event": "validation", **values})

    def _write(self, entry: dict[str, Any]) -> None:
        # Opened for each line: if the file were kept open and somebody removed it, the lines would be lost silently.
        with open(self.run_dir / LOG_NAME, "a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")

    def confusion(self, iteration: int, matrix: np.ndarray, classes: tuple[str, ...]) -> None:
        content = {"iteration": iteration, "classes": list(classes), "true_by_predicted": matrix.tolist()}
        write_text(self.run_dir / CONFUSION_NAME, json.dumps(content) + "\n")


def read_log(run_dir: Path) -> list[dict[str, Any]]:
    """The complete lines of log.jsonl; empty if there is no log. Raises BadInputError that names a damaged line."""
    path = run_dir / LOG_NAME
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    entries = []
    for number, line in enumerate(lines, 1):
        if line.endswith("\n"):  # a killed run may leave an incomplete line
            try:
                entries.append(json.loads(line))
            except ValueError as error:
                raise BadInputError(
                    f"{path}, line {number} is damaged ({error}); delete that line, then resume"
                ) from None
    return entries


def read_confusion(run_dir: Path, *, last: int) -> tuple[int, np.ndarray, tuple[str, ...]] | None:
    """Iteration, matrix and classes of the newest confusion matrix; None if it does not exist, or is later than `last`.

    Raises BadInputError if the file is damaged.
    """
    path = run_dir / CONFUSION_NAME
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content["iteration"], np.array(content["true_by_predicted"]), tuple(content["classes"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"{path} is damaged ({error}); delete it, then resume") from None
    return found if found[0] <= last else None
