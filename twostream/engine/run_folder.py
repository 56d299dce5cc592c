"""The folder of a run (one training of one stream): its name, what is in it, and how to find it again.

<save_root>/<run>/stream.json  train.log  log.jsonl  run.lock  checkpoint_025000.pth ...  scores_val_025000.npz ...
"""

import errno
import fcntl
import json
import os
import re
import socket
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TextIO

from twostream.errors import BadInputError, EnvironmentFaultError
from twostream.files import read_json, write_text
from twostream.stream import StreamConfig

STREAM_NAME = "stream.json"
LOCK_NAME = "run.lock"


def run_name(stream: StreamConfig, *, dataset: str, clip_step: int, batch_size: int, learning_rate: float) -> str:
    """Name of a run, in the form of 2D-kinectics: kinetics-inception_v3-rgb-sl01-g1-fs6-64-000500.

    It ends in -online where flow is made as it is needed.
    """
    return (
        f"{dataset}-{stream.backbone}-{stream.input_type}-sl{stream.clip_len:02d}-g{stream.frame_stride}"
        f"-fs{clip_step}-{batch_size}-{round(learning_rate * 1e6):06d}" + ("-online" if stream.is_online else "")
    )


def write_stream(run_dir: Path, stream: StreamConfig, settings: dict) -> None:
    """Say what the run is; `settings` are the flags that decide its result."""
    content = {"stream": stream.to_json(), "settings": settings}
    write_text(run_dir / STREAM_NAME, json.dumps(content, indent=1) + "\n")


def lock_run(run_dir: Path, say: Callable[[str], None]) -> TextIO:
    """Make the folder, and hold it against other trainings until the file that is returned is closed.

    The lock is the kernel's (fcntl): it goes with its process, however that ends, so none is ever stale; loader
    processes do not inherit it; and network file systems pass it on to other machines. Where one has no locks, `say`
    tells so. The file's text is for people; to open it here would give the lock away. Raises EnvironmentFaultError
    naming who holds the folder.
    """
    path = run_dir / LOCK_NAME
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8", errors="replace")
    except OSError as error:
        raise EnvironmentFaultError(
            f"cannot write {path}: {error.strerror or error}; name another --save_root"
        ) from None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.seek(0)
            owner = file.read().strip() or "a process that has not said its name yet"
            file.close()
            raise EnvironmentFaultError(
                f"another training writes into {run_dir}: {owner}; wait for its end, stop it, or take another "
                "--save_root or --run"
            ) from None
        say(f"warning: {path} cannot be locked ({error.strerror}): nobody will notice a second training in this folder")
    file.truncate(0)
    file.write(f"host {socket.gethostname()}, pid {os.getpid()}, since {datetime.now():%Y-%m-%d %H:%M:%S}\n")
    file.flush()
    return file


def find_run(save_root: Path, *, input_type: str, backbone: str | None = None, name: str = "") -> Path:
    """The folder of the one run of this input type (and network, and name, where given).

    Raises BadInputError when there is none, or several to choose from.
    """
    runs = {}
    for path in sorted(Path(save_root).glob(f"*/{STREAM_NAME}")):
        stream = read_json(path).get("stream")
        if not isinstance(stream, dict):
            raise BadInputError(f"{path}: found no settings of a stream; it is no run of train.py, move it elsewhere")
        right = stream.get("input_type") == input_type and backbone in (None, stream.get("backbone"))
        if right and name in ("", path.parent.name):
            runs[path.parent.name] = path.parent
    what = " ".join(filter(None, [input_type, backbone, name]))
    if not runs:
        raise BadInputError(f"{save_root} has no run of {what}: train it with train.py, or name another --save_root")
    if len(runs) > 1:
        raise BadInputError(
            f"{save_root} has several runs of {what}: choose with --run or --runs among {', '.join(runs)}"
        )
    return next(iter(runs.values()))


def scores_path(run_dir: Path, *, split: str, iteration: int) -> Path:
    return run_dir / f"scores_{split}_{iteration:06d}.npz"


def find_scores(run_dir: Path, *, split: str, iteration: int | None) -> Path:
    """A run's score file of a split: of that iteration, or else of the highest one."""
    if iteration is not None:
        return scores_path(run_dir, split=split, iteration=iteration)
    names = (re.fullmatch(rf"scores_{re.escape(split)}_(\d+)\.npz", path.name) for path in run_dir.glob("scores_*.npz"))
    iterations = [int(match.group(1)) for match in names if match]
    if not iterations:
        raise BadInputError(f"{run_dir} has no scores of split {split!r}: run test.py first")
    return scores_path(run_dir, split=split, iteration=max(iterations))
