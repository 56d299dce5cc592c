"""Names of unfinished files and folders: which process writes them, and whether it has ended.

    .tmp-<space>-<process id>-<8 hex>              a folder of images in the making
    .<file>.<space>-<process id>-<8 hex>           a file in the making

A process id means something only among processes that see each other: those of one kernel since its boot, in one
container. `space` stands for them, so a program never removes what another machine or container is writing, whatever
its host name is.
"""

import contextlib
import functools
import hashlib
import os
import re
import socket
import uuid
from pathlib import Path

UNFINISHED_FILE = re.compile(r"\..+\.(?:[0-9a-f]{8}-)?\d+-[0-9a-f]{8}")
"""names of unfinished files, of any machine; those of version 0.1 have no `space`"""


def kernel_name() -> bytes:
    """What identifies the running kernel; it changes with each boot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        return os.fsencode(socket.gethostname())


@functools.cache
def process_space() -> str:
    """8 hexadecimal digits for the processes that this one sees: those of its kernel, in its container."""
    try:
        container = os.readlink("/proc/self/ns/pid")
    except OSError:
        container = ""
    return hashlib.blake2b(kernel_name() + os.fsencode(container), digest_size=4).hexdigest()


def attempt_name() -> str:
    """A name for this attempt only: several programs may write the same file or video, also on other machines."""
    return f"{process_space()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def abandoned(folder: Path) -> list[Path]:
    """The unfinished files and folders in a folder whose process has ended; those that others may be writing are not."""
    attempt = re.compile(rf"\..+[.-]{process_space()}-(\d+)-[0-9a-f]{{8}}")
    names = os.listdir(folder) if folder.is_dir() else []
    return [
        folder / name for name in sorted(names) if (match := attempt.fullmatch(name)) and not _is_running(int(match[1]))
    ]


def sweep_files(folder: Path) -> int:
    """Remove the unfinished files (not folders) of ended processes; returns their number."""
    files = [path for path in abandoned(folder) if not path.is_dir()]
    for path in files:
        path.unlink(missing_ok=True)  # another process sweeps too
    return len(files)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    with contextlib.suppress(OSError):  # no /proc: not Linux
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"  # a zombie: killed, but its parent has not collected its exit code
    return True
