"""What a recognizer says of a live source, as one line of a terminal that changes."""

import math
import shutil
import statistics
from collections import deque
from typing import Any

from twostream.counts import counted
from twostream.inference.live import LiveAnswer
from twostream.terminal import printable

MAX_LATENCIES = 10_000
"""of the latest answers, from which the last line is computed"""


class StatusLine:
    """Shows answers as they come: in one line of a terminal or, elsewhere, in a line for each change of the best class."""

    def __init__(self, stream: Any, *, top: int = 3, shows_answers: bool = True):
        """`stream` is written to; without `shows_answers`, only `finish` writes."""
        self.stream, self.top = stream, top
        self.shows_answers, self.is_terminal = shows_answers, stream.isatty()
        self._last: LiveAnswer | None = None
        self._label = ""
        self._width = 0
        self._latencies: deque[float] = deque(maxlen=MAX_LATENCIES)
        self._num_answers = 0

    def show(self, answer: LiveAnswer) -> None:
        """Show an answer."""
        self._last = answer
        self._num_answers += 1
        self._latencies.append(answer.latency_seconds)
        label = answer.top(1)[0].label
        if self.shows_answers and (self.is_terminal or label != self._label):
            self._write(f"{answer.at_seconds:8.1f} s  {self._text(answer)}")
        self._label = label

    def say(self, line: str) -> None:
        """Write a line that stays."""
        self._write(line)
        self._end()

    def finish(self) -> None:
        """Write how many frames arrived until the last answer, and how long the answers took."""
        self._end()
        if self._last is None:
            return
        ordered = sorted(self._latencies)
        latest = ordered[math.ceil(0.95 * len(ordered)) - 1]
        lost = f", lost {counted(self._last.num_losses, 'time')}" if self._last.num_losses else ""
        self.say(
            f"{self._last.source}: {counted(self._last.num_frames, 'frame')}, {self._last.num_dropped} of them dropped{lost}; "
            f"{counted(self._num_answers, 'answer')}, {1000 * statistics.median(ordered):.0f} ms after their frames, 95 % of them "
            f"within {1000 * latest:.0f} ms"
        )

    def _text(self, answer: LiveAnswer) -> str:
        best = "  ".join(f"{a.label} {a.probability:.3f}" for a in answer.top(self.top))
        rate = f"{answer.fps:.0f} frames a second, " if answer.fps else ""
        return f"{best}   ({1000 * answer.latency_seconds:.0f} ms; {rate}{answer.num_dropped} dropped)"

    def _write(self, text: str) -> None:
        text = printable(text)
        if not self.is_terminal:
            print(text, file=self.stream, flush=True)
            return
        text = text[: shutil.get_terminal_size().columns - 1]
        self.stream.write(f"\r{text:{self._width}}")
        self.stream.flush()
        self._width = len(text)

    def _end(self) -> None:
        if self.is_terminal and self._width:
            self.stream.write("\n")
        self._width = 0
