"""Lines of text files, and how messages name them."""

from collections.abc import Iterator
from pathlib import Path

from twostream.errors import BadInputError
from twostream.files import check_regular


def location(path: str | Path, line: int = 0) -> str:
    """File and line, for messages; line 0 is the file itself."""
    return f"{path}, line {line}" if line else str(path)


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 text with their line ends, which may be of any system; without the byte order mark.

    Raises BadInputError naming the file, and the line that is not UTF-8.
    """
    check_regular(path, allow_pipe=True)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            for line, text in enumerate(file, start=1):
                if "\0" in text:
                    raise BadInputError(f"{location(path, line)}: zero bytes, as in UTF-16; save it as UTF-8 text")
                yield text
    except FileNotFoundError:
        raise BadInputError(f"{path}: no such list") from None
    except (IsADirectoryError, NotADirectoryError):
        raise BadInputError(f"{path} is not a file, expected a list") from None
    except UnicodeDecodeError as error:
        where = location(path, _undecodable_line(path))
        raise BadInputError(f"{where}: {error.reason}, expected UTF-8 text; save it as UTF-8") from None


def _undecodable_line(path: Path) -> int:
    """The first line that is not UTF-8; the decoder works in blocks, so its error does not name the line."""
    with open(path, "rb") as file:
        return next((line for line, data in enumerate(file, start=1) if "\ufffd" in data.decode(errors="replace")), 0)


def filled_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers and lines that are not blank, without blanks at their ends."""
    for line, text in enumerate(read_lines(path), start=1):
        if text := text.strip():
            yield line, text
