"""Files that are replaced completely or not at all, strict JSON, SHA-256, cells of CSV."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from twostream.attempts import attempt_name
from twostream.errors import BadInputError, EnvironmentFaultError


def write_file(path: str | Path, fill: Callable[[BinaryIO], object]) -> None:
    """Call `fill(file)` on a temporary file beside `path`, flush it to the disk, then rename it to `path`.

    Missing folders are created. Raises EnvironmentFaultError naming the path if the disk is full or not writable; the
    previous file is then kept.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{attempt_name()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        reason = error.strerror or error
        raise EnvironmentFaultError(f"cannot write {path}: {reason}; a previous file is kept") from None
    finally:
        with contextlib.suppress(OSError):  # e.g. its folder could not be created
            temporary.unlink()


def write_text(path: str | Path, text: str) -> None:
    """`write_file` with text in UTF-8; undecodable bytes of file names are written unchanged."""
    write_file(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; BadInputError names the file, and the line and column of an error in it."""
    try:
        content = DECODER.decode(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: {error}; expected JSON, create the file again") from None
    if not isinstance(content, dict):
        raise BadInputError(f"{path}: found a {type(content).__name__}, expected a JSON object")
    return content


def distinct_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError if a name is repeated, since Python would drop all values but the last."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is listed twice")
    return content


DECODER = json.JSONDecoder(object_pairs_hook=distinct_names)


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""beginnings of cells that spreadsheets run as formulas; apostrophes, so that reading a written cell gives it back"""


def write_cell(text: str) -> str:
    """A text as a cell of CSV that no spreadsheet runs as a formula: with an apostrophe before it if it looks like one."""
    return f"'{text}" if FORMULA.match(text) else text


def read_cell(cell: str) -> str:
    """The text of a cell of CSV, also of one that `write_cell` made."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell
