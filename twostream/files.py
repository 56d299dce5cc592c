"""Files: replaced completely or not at all, read only if they are files; strict JSON, zip archives, SHA-256, CSV; how
many may be open."""

import contextlib
import hashlib
import json
import os
import re
import resource
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from twostream.attempts import attempt_name
from twostream.errors import BadInputError, EnvironmentFaultError

ZIP_ROOM = 256 << 20
"""bytes that the parts of any zip archive may have together"""
ZIP_RATIO = 4
"""of the bytes of its parts to its own, beyond ZIP_ROOM; numbers compress by less"""


OWN_FILES = 256
"""that a program opens for itself, beside those of its processes"""


def write_file(path: str | Path, fill: Callable[[BinaryIO], object]) -> None:
    """Call `fill(file)` on a temporary file beside `path`, flush it to the disk, then rename it to `path`.

    Missing folders are created, and a link stays a link: the file that it names is replaced. A pipe, a terminal or
    /dev/null cannot be replaced, so it is written into; other things that are no files are refused. Raises
    EnvironmentFaultError naming the path if the disk is full or not writable; the previous file is then kept.
    """
    path = Path(path)
    if _is_stream(path):
        return _write_into(path, fill)
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{attempt_name()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        with contextlib.suppress(OSError):  # some file systems refuse this; the file is in its place already
            _sync_folder(path.parent)
    except OSError as error:
        reason = error.strerror or error
        raise EnvironmentFaultError(f"cannot write {path}: {reason}; a previous file is kept") from None
    finally:
        with contextlib.suppress(OSError):  # e.g. its folder could not be created
            temporary.unlink()


def _sync_folder(folder: Path) -> None:
    """Flush the names of the files in a folder to the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _is_stream(path: Path) -> bool:
    """Does the path name something that takes bytes and is not replaced: a pipe, a device, what a program prints to?

    EnvironmentFaultError if nothing can be written there: a folder, a socket, a disk.
    """
    try:
        found = os.stat(path)
    except OSError:  # there is nothing, or no way to it, which `write_file` finds out
        return False
    if stat.S_ISCHR(found.st_mode) or stat.S_ISFIFO(found.st_mode):
        return True
    if not stat.S_ISREG(found.st_mode):
        raise EnvironmentFaultError(f"cannot write {path}: it is {_kind(found.st_mode)}; choose another file name")
    for descriptor in (1, 2):  # /dev/stdout is a link to the file that the output was redirected to
        with contextlib.suppress(OSError):
            if os.path.samestat(found, os.fstat(descriptor)):
                return True
    return False


def _write_into(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    try:
        with open(path, "ab") as file:
            fill(file)
    except OSError as error:
        raise EnvironmentFaultError(f"cannot write {path}: {error.strerror or error}") from None


def _kind(mode: int) -> str:
    """What a path is that is no regular file."""
    kinds = {
        stat.S_IFDIR: "a folder", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
    }  # fmt: skip
    return kinds.get(stat.S_IFMT(mode), "something else")


def check_regular(path: str | Path, *, allow_pipe: bool = False) -> None:
    """Raise BadInputError where a path names something else than a file: /dev/zero never ends, a pipe never begins.

    A list of lines may come from a pipe, as the shell's `<(grep ...)` makes one. A path that names nothing passes;
    opening it raises the system's own error.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not (allow_pipe and stat.S_ISFIFO(mode)):
            raise BadInputError(f"{path}: found {_kind(mode)}, expected a file")


def check_zip(parts: zipfile.ZipFile) -> None:
    """Raise BadZipFile where the parts of an archive have far more bytes than the archive, before any is unpacked."""
    file = parts.fp
    num_bytes = 0 if file is None else file.seek(0, os.SEEK_END)
    unpacked = sum(part.file_size for part in parts.infolist())
    if unpacked > max(ZIP_ROOM, ZIP_RATIO * num_bytes):
        raise zipfile.BadZipFile(f"{num_bytes} bytes that unpack to {unpacked}")


def allow_open_files(count: int) -> None:
    """Raise this process's limit of open files to OWN_FILES and `count` more, as far as the system allows; never lower it."""
    count += OWN_FILES
    limit, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)  # both -1 where there is no limit
    if 0 <= limit < count:
        new_limit = min(count, hard_limit) if hard_limit >= 0 else count
        resource.setrlimit(resource.RLIMIT_NOFILE, (new_limit, hard_limit))


def write_text(path: str | Path, text: str) -> None:
    """`write_file` with text in UTF-8; undecodable bytes of file names are written unchanged."""
    write_file(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; BadInputError names the file, and the line and column of an error in it."""
    content = read_json_value(path)
    if not isinstance(content, dict):
        raise BadInputError(f"{path}: found a {type(content).__name__}, expected a JSON object")
    return content


def read_json_value(path: Path) -> Any:
    """The value in a JSON file, of any type; errors as `read_json`."""
    check_regular(path)
    try:
        return DECODER.decode(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: {error}; expected JSON, create the file again") from None


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
