"""Files replaced whole or not at all, strict JSON, SHA-256."""

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from twostream.errors import BadInputError, EnvironmentFaultError


def write_file(path: str | Path, fill: Callable[[BinaryIO], object]) -> None:
    """Call `fill(file)` on a temporary file beside `path`, flush it to the disk, then rename it to `path`.

    Raises EnvironmentFaultError naming the path when the disk is full or may not be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
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
        raise EnvironmentFaultError(f"cannot write {path}: {reason}; what stood there before is kept") from None
    finally:
        with contextlib.suppress(OSError):  # e.g. its folder could not be made
            temporary.unlink()


def write_text(path: str | Path, text: str) -> None:
    """`write_file` with UTF-8 text; undecodable bytes of file names pass through."""
    write_file(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")))


def read_json(path: Path) -> dict:
    """A JSON file that holds an object; BadInputError with line and column otherwise."""
    try:
        content = DECODER.decode(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: {error}; expected JSON, make it again") from None
    if not isinstance(content, dict):
        raise BadInputError(f"{path}: found a {type(content).__name__}, expected a JSON object")
    return content


def distinct_names(pairs: list[tuple[str, object]]) -> dict:
    """A JSON object, whose names must differ: of two videos with one id, the first would vanish."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return content


DECODER = json.JSONDecoder(object_pairs_hook=distinct_names)


def sha256(path: str | Path) -> str:
    """Of a whole file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
