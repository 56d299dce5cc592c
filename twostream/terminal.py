"""Text for people: names of files may have characters that would control the terminal, forge lines or hide text.

Every program writes through `Terminal`, which `programs/options.py` puts in place of stdout and stderr.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from typing import Any, TextIO

UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""control characters except tab and newline; marks that change the direction of text; separators of lines; and halves of
characters, which stand for bytes of file names that are not UTF-8"""

PROGRESS_BAR = re.compile("(?:\r|\x1b\\[A|\n)*")
"""what a progress bar writes before its text, to return to its line"""


def printable(text: object) -> str:
    """The text on one line, with escapes like \\n and \\x1b in place of characters that are not for people.

    >>> printable("clip\\x1b[2J\\n.mp4")
    'clip\\\\x1b[2J\\\\n.mp4'
    """
    return "".join(c if c.isprintable() else _escape(c) for c in str(text))


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


class Terminal:
    """A text stream that escapes what would control the terminal; lines and progress bars pass."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        """Write the text; returns its length, as a stream does."""
        start = PROGRESS_BAR.match(text)
        end = start.end() if start else 0
        with self._while_open():
            self.stream.write(text[:end] + UNSAFE.sub(lambda match: _escape(match[0]), text[end:]))
        return len(text)

    def flush(self) -> None:
        """Show what was written."""
        with self._while_open():
            self.stream.flush()

    @contextlib.contextmanager
    def _while_open(self) -> Iterator[None]:
        """If the terminal has been closed, what is written from now on is for nobody, and no error; of a file it is one."""
        try:
            yield
        except OSError as error:
            if error.errno != errno.EIO or not stat.S_ISCHR(os.fstat(self.stream.fileno()).st_mode):
                raise
            with open(os.devnull, "wb") as nobody:
                os.dup2(nobody.fileno(), self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
