"""Names of files reach the terminal with escapes in place of what could control it."""

import errno
import io
import os

import pytest
from tqdm import tqdm

from twostream.terminal import Terminal, printable

HOSTILE = {
    "red\x1b[31m": "red\\x1b[31m",
    "\x1b]0;title\x07": "\\x1b]0;title\\x07",
    "back\x08\x08over": "back\\x08\\x08over",
    "over\rwritten": "over\\rwritten",
    "c1\x9b2J": "c1\\x9b2J",
    "del\x7f": "del\\x7f",
    "\u202egnp.exe": "\\u202egnp.exe",
    "line\u2028separator": "line\\u2028separator",
    os.fsdecode(b"latin-1 \xe9"): "latin-1 \\udce9",
}
HARMLESS = ["plain", "tab\there", "two\nlines", "ünïcødé 測試", "🎬", "a\u200db", "no\xa0break", "±0.5 → 3"]


def written(text: str) -> str:
    stream = io.StringIO()
    print(text, file=Terminal(stream), end="")
    return stream.getvalue()


@pytest.mark.parametrize("name", HOSTILE)
def test_control_characters_are_escaped(name):
    assert written(f"name {name}") == f"name {HOSTILE[name]}"
    assert printable(name) == HOSTILE[name]


@pytest.mark.parametrize("text", HARMLESS)
def test_text_passes(text):
    assert written(text) == text


def test_printable_is_one_line():
    assert printable("a\nerror: forged\r\t") == "a\\nerror: forged\\r\\t"


def test_progress_bars_pass():
    """What tqdm writes to return to the line of its bar; two bars below each other."""
    outputs = []
    for wrap in (lambda stream: stream, Terminal):
        stream = io.StringIO()
        for _ in tqdm(range(2), file=wrap(stream), bar_format="{desc} {n}", desc="outer", position=0, mininterval=0):
            for _ in tqdm(range(2), file=wrap(stream), bar_format="{desc} {n}", desc="in", position=1, mininterval=0):
                pass
        outputs.append(stream.getvalue())
    assert outputs[0] == outputs[1] and "\x1b[A" in outputs[0]


def test_a_terminal_that_was_closed_takes_no_more_and_is_no_error():
    """Else a training whose terminal is closed would end with an error before it has saved."""
    master, slave = os.openpty()
    with open(slave, "w") as stream:
        terminal = Terminal(stream)
        print("seen", file=terminal, flush=True)
        assert b"seen" in os.read(master, 100)
        os.close(master)
        for _ in range(2):
            print("for nobody", file=terminal, flush=True)


def test_a_disk_that_fails_is_an_error(tmp_path):
    class Failing(io.StringIO):
        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

    with open(tmp_path / "lines", "w") as file:
        stream = Failing()
        stream.fileno = file.fileno
        with pytest.raises(OSError, match="Input/output error"):
            print("a result", file=Terminal(stream))


def test_a_line_beside_a_progress_bar_clears_it(monkeypatch):
    stream = io.StringIO()
    terminal = Terminal(stream)
    monkeypatch.setattr("sys.stderr", terminal)
    with tqdm(total=2, desc="work", mininterval=0) as bar:
        tqdm.write("a line\x1b[2J", file=terminal)
        bar.update(2)
    assert "\ra line\\x1b[2J\n" in stream.getvalue()


def test_the_rest_of_a_stream_is_there(tmp_path):
    with open(tmp_path / "text", "w") as file:
        terminal = Terminal(file)
        assert not terminal.isatty() and terminal.encoding and terminal.write("abc\x1b") == 4
        terminal.flush()
    assert (tmp_path / "text").read_text() == "abc\\x1b"
