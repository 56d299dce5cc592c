"""The folder of a run (one training of one stream): its name, its files, and how to find it.

<save_root>/<run>/stream.json  train.log  log.jsonl  run.lock  checkpoint_025000.pth ...  scores_val_025000.npz ...
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import socket
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from twostream.errors import BadInputError, EnvironmentFaultError
from twostream.files import read_json, write_text
from twostream.stream import StreamConfig

STREAM_NAME, LOCK_NAME = "stream.json", "run.lock"


def run_name(
    stream: StreamConfig, *, dataset: str, clip_step: int, batch_size: int, learning_rate: float, is_linear: bool = False,
    fold: tuple[int, int] | None = None,
) -> str:  # fmt: skip
    """Name of a run, in the form of 2D-kinectics: kinetics-inception_v3-rgb-sl01-g1-fs6-64-000500.

    A run of --head=linear has -linear in place of batch size and learning rate, and one of --fold=0/5 then -fold0of5. The
    name has -fr and the rate of clips that are resampled, and ends in -online if the flow is computed while training.
    """
    how = "linear" if is_linear else f"{batch_size}-{round(learning_rate * 1e6):06d}"
    rate = f"-fr{stream.frame_rate:g}" if stream.frame_rate else ""
    return (
        f"{dataset}-{stream.backbone}-{stream.input_type}-sl{stream.clip_len:02d}-g{stream.frame_stride}{rate}"
        f"-fs{clip_step}-{how}"
        + (f"-fold{fold[0]}of{fold[1]}" if fold else "")
        + ("-online" if stream.is_online else "")
    )


def write_stream(
    run_dir: Path, stream: StreamConfig, settings: dict[str, Any], *, frames: dict[str, Any] | None = None,
    val_split: str | None = None,
) -> None:  # fmt: skip
    """Write stream.json: the stream, and the flags that decide the result (`settings`, plain values).

    `frames` are the settings with which the images of the data root were extracted, so that other videos can be
    predicted as the training saw its own; None if they are not recorded. `val_split` is the fingerprint of the
    validation videos.
    """
    content = {"stream": stream.to_json(), "settings": settings, "frames": frames, "val_split": val_split}
    write_text(run_dir / STREAM_NAME, json.dumps(content, indent=1) + "\n")


def recorded_settings(run_dir: Path) -> dict[str, Any]:
    """The settings in the stream.json of a run; none if there is no such file, or it cannot be understood."""
    with contextlib.suppress(OSError, BadInputError, LookupError, TypeError, ValueError):
        return dict(read_json(run_dir / STREAM_NAME)["settings"])
    return {}


def lock_run(run_dir: Path, log: Callable[[str], None]) -> TextIO:
    """Create the folder, and lock it against other trainings until the returned file is closed.

    This is a lock of the kernel (fcntl). It ends with its process, however the process ends, so no lock is ever stale;
    loader processes do not inherit it; network file systems share it with other machines. If a file system has no locks,
    `log` is given a warning. The text in the file is for people; opening and closing the file in this process would
    release the lock. Raises EnvironmentFaultError that names the process which holds the folder.
    """
    path = run_dir / LOCK_NAME
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8", errors="replace")
    except OSError as error:
        raise EnvironmentFaultError(
            f"cannot write {path}: {error.strerror or error}; choose another --save_root"
        ) from None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.seek(0)
            owner = file.read().strip() or "a process that has only just started"
            file.close()
            raise EnvironmentFaultError(
                f"another training writes to {run_dir}: {owner}; wait until it ends, stop it, or choose another "
                "--save_root or --run"
            ) from None
        log(
            f"warning: {path} cannot be locked ({error.strerror}): a second training in this folder will not be noticed"
        )
    file.truncate(0)
    file.write(f"host {socket.gethostname()}, pid {os.getpid()}, since {datetime.now():%Y-%m-%d %H:%M:%S}\n")
    file.flush()
    return file


def find_run(save_root: Path, *, input_type: str, backbone: str | None = None, name: str = "") -> Path:
    """The folder of the only run of this input type (and of this network and name, if given).

    Raises BadInputError if there is no such run, or more than one.
    """
    runs = {}
    for path in sorted(Path(save_root).glob(f"*/{STREAM_NAME}")):
        stream = read_json(path).get("stream")
        if not isinstance(stream, dict):
            raise BadInputError(
                f"{path}: found no settings of a stream, expected those of a run of twostream train; move the file away"
            )
        matches = stream.get("input_type") == input_type and backbone in (None, stream.get("backbone"))
        if matches and name in ("", path.parent.name):
            runs[path.parent.name] = path.parent
    wanted = " ".join(filter(None, [input_type, backbone, name]))
    if not runs:
        raise BadInputError(f"{save_root} has no run of {wanted}: run twostream train, or choose another --save_root")
    if len(runs) > 1:
        raise BadInputError(
            f"{save_root} has several runs of {wanted}: choose one of {', '.join(runs)} with --run or --runs"
        )
    return next(iter(runs.values()))


def similar_runs(
    save_root: Path, stream: StreamConfig, settings: dict[str, Any], *, any_backbone: bool = False
) -> dict[Path, dict[str, Any]]:
    """The runs in a folder with the input type, network, classes and training videos of this one -> their stream.json.

    With `any_backbone` the network may be another one. A file that cannot be understood is left out: it is of another run.
    """
    compared = ("input_type", "classes", "train_split", *(() if any_backbone else ("backbone",)))
    runs = {}
    for path in sorted(save_root.glob(f"*/{STREAM_NAME}")):
        with contextlib.suppress(BadInputError, KeyError, TypeError, AttributeError):
            content = read_json(path)
            before, now = content["stream"] | content["settings"], stream.to_json() | settings
            if all(before[name] == now[name] for name in compared):
                runs[path.parent] = content
    return runs


def scores_path(run_dir: Path, *, split: str, iteration: int) -> Path:
    """Where the scores of a split by the checkpoint of an iteration are, or would be."""
    return run_dir / f"scores_{split}_{iteration:06d}.npz"


def find_scores(run_dir: Path, *, split: str, iteration: int | None) -> Path:
    """A run's score file of a split: of this iteration or, if None, of the highest one that has any.

    Raises BadInputError if None is given and the split has no scores; the file of a given iteration may not exist.
    """
    if iteration is not None:
        return scores_path(run_dir, split=split, iteration=iteration)
    names = (re.fullmatch(rf"scores_{re.escape(split)}_(\d+)\.npz", path.name) for path in run_dir.glob("scores_*.npz"))
    iterations = [int(match.group(1)) for match in names if match]
    if not iterations:
        raise BadInputError(f"{run_dir} has no scores of split {split!r}: run twostream test first")
    return scores_path(run_dir, split=split, iteration=max(iterations))
