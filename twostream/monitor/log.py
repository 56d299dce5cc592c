"""The numbers of a run in files, for programs: log.jsonl, and the last confusion matrix in confusion.json.

The matrix of each validation stays out of the log: with 400 classes it has 160,000 numbers, a thousand times the rest.
Those of other validations can be had from their checkpoints' score files.
"""

import json
from pathlib import Path

import numpy as np

from twostream.errors import BadInputError
from twostream.files import write_text
from twostream.monitor.contract import Monitor

LOG_NAME, CONFUSION_NAME = "log.jsonl", "confusion.json"


class JsonMonitor(Monitor):
    """One JSON object a line in log.jsonl; the newest confusion matrix in confusion.json."""

    def __init__(self, run_dir: Path, *, resumed_at: int | None):
        self.run_dir = run_dir
        # A killed run may have logged more than it saved; those iterations will be done, and logged, again.
        kept = [] if resumed_at is None else [e for e in read_log(run_dir) if e["iteration"] <= resumed_at]
        write_text(run_dir / LOG_NAME, "".join(json.dumps(entry) + "\n" for entry in kept))
        if read_confusion(run_dir, last=resumed_at or 0) is None:
            (run_dir / CONFUSION_NAME).unlink(missing_ok=True)

    def train(self, numbers: dict) -> None:
        self._write({"event": "train"} | numbers)

    def validation(self, numbers: dict) -> None:
        self._write({"event": "validation"} | numbers)

    def _write(self, entry: dict) -> None:
        # Opened for each line: who holds a file open that somebody removes writes on without being told.
        with open(self.run_dir / LOG_NAME, "a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")

    def confusion(self, iteration: int, matrix: np.ndarray, classes: tuple[str, ...]) -> None:
        content = {"iteration": iteration, "classes": list(classes), "true_by_predicted": matrix.tolist()}
        write_text(self.run_dir / CONFUSION_NAME, json.dumps(content) + "\n")


def read_log(run_dir: Path) -> list[dict]:
    """The whole lines of log.jsonl; empty when there is none. Raises BadInputError naming a line that is damaged."""
    path = run_dir / LOG_NAME
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    entries = []
    for number, line in enumerate(lines, 1):
        if line.endswith("\n"):  # a killed run may leave half a line
            try:
                entries.append(json.loads(line))
            except ValueError as error:
                raise BadInputError(f"{path}, line {number}: {error}; delete that line, then resume") from None
    return entries


def read_confusion(run_dir: Path, *, last: int) -> tuple[int, np.ndarray, tuple[str, ...]] | None:
    """What `confusion` was told last: iteration, matrix, classes. None where there is none up to iteration `last`."""
    path = run_dir / CONFUSION_NAME
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content["iteration"], np.array(content["true_by_predicted"]), tuple(content["classes"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"{path} is damaged ({error}); delete it, then resume") from None
    return found if found[0] <= last else None
