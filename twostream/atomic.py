"""Replace a file whole or not at all, also when the process is killed or the disk is full half way."""

import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from twostream.errors import EnvironmentFaultError


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
