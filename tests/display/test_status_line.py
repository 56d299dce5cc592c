"""The line of a terminal that shows live answers."""

import io
import os

import numpy as np
import pytest

from twostream.display import status_line
from twostream.display.status_line import StatusLine
from twostream.inference.live import LiveAnswer


class FakeTerminal(io.StringIO):
    def isatty(self):
        return True


def answer(best, number=0, *, latency=0.02, source="cam", losses=0):
    probabilities = np.array([0.7, 0.3] if best == "up" else [0.3, 0.7])
    return LiveAnswer(
        source, ("up", "down"), probabilities, (), number + 1, 30.0, frame_index=number, at_seconds=number / 30, captured=0.0,
        latency_seconds=latency, num_dropped=1, num_losses=losses, picture=np.zeros((2, 2, 3), np.uint8),
    )  # fmt: skip


def test_a_terminal_has_one_line_that_fits(monkeypatch):
    monkeypatch.setattr(status_line.shutil, "get_terminal_size", lambda: os.terminal_size((40, 20)))
    terminal = FakeTerminal()
    line = StatusLine(terminal)
    for number in range(3):
        line.show(answer("up", number))
    line.say("lost")
    line.show(answer("down", 4))
    shown, lost, _ = terminal.getvalue().partition("\n")[0].split("\r")[1:], *terminal.getvalue().split("\n")[:2]
    assert len(shown) == 4 and all(len(text) <= 39 for text in shown) and shown[-1].rstrip() == "lost"
    assert "up 0.700  down 0.300" in shown[0] and lost


def test_a_file_has_a_line_for_each_change():
    file = io.StringIO()
    line = StatusLine(file, top=1)
    for number, best in enumerate(("up", "up", "down", "down", "up")):
        line.show(answer(best, number))
    assert [text.split()[2] for text in file.getvalue().splitlines()] == ["up", "down", "up"]


@pytest.mark.parametrize(("losses", "lost"), [(0, ""), (1, ", lost 1 time"), (3, ", lost 3 times")])
def test_the_last_line_counts(losses, lost):
    file = io.StringIO()
    line = StatusLine(file, shows_answers=False)
    line.finish()
    assert file.getvalue() == ""
    for number in range(100):
        line.show(answer("up", number, latency=(number + 1) / 1000, losses=losses))
    line.finish()
    assert file.getvalue() == (
        f"cam: 100 frames, 1 of them dropped{lost}; 100 answers, 50 ms after their frames, 95 % of them within 95 ms\n"
    )


def test_names_cannot_control_the_terminal():
    file = io.StringIO()
    line = StatusLine(file)
    line.show(answer("up", source="a\x1b[2J\nb"))
    line.finish()
    assert "\x1b" not in file.getvalue() and len(file.getvalue().splitlines()) == 2
