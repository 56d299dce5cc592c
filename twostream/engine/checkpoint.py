"""Checkpoints of a run: `checkpoint_<iteration>.pth`, written whole or not at all, checked when read.

A checkpoint is a torch file, that is a zip archive with a CRC-32 of each part; `python -m zipfile -t FILE` checks one.
It holds tensors and plain values only: format, stream, weights, optimizer, iteration, random state, meters, settings.
A newest one that is damaged is set aside as `.bad`, and the one before it stands in for it.
"""

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import torch.distributed
from torch import nn
from torch.optim.swa_utils import AveragedModel

from twostream.annotations.class_names import class_difference
from twostream.engine.distributed import ALONE, World
from twostream.errors import BadInputError, EnvironmentFaultError
from twostream.files import write_file
from twostream.models.weights import read_torch_file
from twostream.stream import StreamConfig

FORMAT = 1


def checkpoint_path(run_dir: str | Path, iteration: int) -> Path:
    return Path(run_dir, f"checkpoint_{iteration:06d}.pth")


def checkpoint_iterations(run_dir: str | Path) -> list[int]:
    """Iterations of the checkpoints in a run's folder, ascending."""
    names = (re.fullmatch(r"checkpoint_(\d+)\.pth", path.name) for path in Path(run_dir).glob("checkpoint_*.pth"))
    return sorted(int(match.group(1)) for match in names if match)


def write_checkpoint(
    run_dir: str | Path, *, stream: StreamConfig, backbone: nn.Module, optimizer: torch.optim.Optimizer,
    iteration: int, settings: dict, progress: dict, scaler: torch.amp.GradScaler | None = None,
    average: AveragedModel | None = None, random_states: dict | None = None,
) -> Path:  # fmt: skip
    """Save all that the next iterations depend on.

    `settings` are the flags that decide the result; `progress` is what the caller's loop must have back (meters,
    best value), both of plain values; `random_states` those of all ranks, else this process's are taken. Raises
    BadInputError rather than save weights that are not finite.
    """
    weights = backbone.state_dict()
    broken = [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise BadInputError(
            f"iteration {iteration}: {len(broken)} tensors have values that are not finite (first: {broken[0]}); "
            f"nothing was saved, the last good checkpoint is kept: lower --lr, or look at the images of {stream.input_type}"
        )
    content = {
        "format": FORMAT,
        "stream": stream.to_json(),
        "iteration": iteration,
        "weights": weights,
        "optimizer": optimizer.state_dict(),
        "settings": settings,
        "progress": progress,
        "versions": machine(),
    }
    content |= random_states or gather_random_states()
    if scaler is not None and scaler.state_dict():
        content["scaler"] = scaler.state_dict()
    if average is not None:
        content["average"] = average.module.backbone.state_dict()
        content["averaged"] = average.n_averaged
    path = checkpoint_path(run_dir, iteration)
    write_file(path, lambda file: _save(content, file))
    return path


def _save(content: dict, file: BinaryIO) -> None:
    try:
        torch.save(content, file)
    except RuntimeError as error:
        # What torch says when the file takes no more, e.g. on a full disk; the file's own error is its context.
        raise error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error)) from None


def gather_random_states(world: World = ALONE) -> dict:
    """Of the CPUs of all ranks, (R, n) bytes; and of each rank's GPU, or of all GPUs of a process alone."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and world.size == 1 else []
    if torch.cuda.is_initialized() and world.size > 1:
        cuda = list(world.gather(torch.cuda.get_rng_state()))
    return {"random_state": world.gather(torch.get_rng_state()), "random_state_cuda": cuda}


def _restore_random_state(content: dict, world: World) -> None:
    """Where there were as many ranks; else each goes on from what it has."""
    states, cuda = torch.atleast_2d(content["random_state"]), content["random_state_cuda"]
    if len(states) != world.size:
        return
    torch.set_rng_state(states[world.rank].clone())  # of a view it would read the beginning, or crash
    if world.size > 1 and torch.cuda.is_initialized() and len(cuda) == world.size:
        torch.cuda.set_rng_state(cuda[world.rank].clone())
    elif world.size == 1 and torch.cuda.is_available() and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(cuda)


class CheckpointSaver:
    """Saves a run's checkpoints as long as it goes on: bears a disk that is full for a while, and removes old files.

    `keep` is the number of checkpoints that stay (the newest), 0 for all. `log` gets its messages, a line each.
    """

    MAX_FAILURES = 3
    """iterations in a row that could not be saved, before the run stops"""

    def __init__(self, run_dir: Path, *, keep: int, log: Callable[[str], None], world: World = ALONE, **what):
        """`what` are those parameters of `write_checkpoint` that stay the same in all of the run."""
        self.run_dir, self.keep, self.log, self.world, self.what = run_dir, keep, log, world, what
        self.failed: set[int] = set()

    def save(self, iteration: int, progress: dict, *, final: bool) -> None:
        """Write a checkpoint. Where the disk does not let us, warn and go on with what stood there before.

        All ranks come here, and go on when rank 0 has written. Raises EnvironmentFaultError when there is no next time
        (`final`), or this was the third in a row.
        """
        random_states = gather_random_states(self.world)
        if self.world.is_first:
            self._write(iteration, progress, random_states, final=final)
        self.world.wait()

    def _write(self, iteration: int, progress: dict, random_states: dict, *, final: bool) -> None:
        states = {"progress": progress, "random_states": random_states}
        try:
            path = write_checkpoint(self.run_dir, iteration=iteration, **states, **self.what)
        except EnvironmentFaultError as error:
            self.failed.add(iteration)
            if final or len(self.failed) >= self.MAX_FAILURES:
                raise
            self.log(
                f"WARNING: iteration {iteration} is NOT SAVED ({len(self.failed)} of {self.MAX_FAILURES} in a row, then "
                f"the run stops): {error}. Training goes on and tries again at the next interval: make room"
            )
        else:
            self.failed.clear()
            self.log(f"saved {path}")
            for old in checkpoint_iterations(self.run_dir)[: -self.keep] if self.keep else ():
                checkpoint_path(self.run_dir, old).unlink(missing_ok=True)


def remove_leftovers(run_dir: Path) -> None:
    """Remove the temporary files of those who were killed while writing; nobody else may be writing."""
    for pattern in (".checkpoint_*.pth.*", ".curves.html.*", ".confusion.json.*", ".log.jsonl.*", ".stream.json.*"):
        for path in run_dir.glob(pattern):
            path.unlink(missing_ok=True)


def read_newest(
    run_dir: Path, say: Callable[[str], None], *, world: World = ALONE
) -> tuple[Path, dict] | None:  # fmt: skip
    """The newest checkpoint that can be read, and its path; None when there are none at all.

    Damaged ones are said and renamed to `.bad`, once one before them is found to be good; else BadInputError. Rank 0
    does so, and the others read what it has found.
    """
    found = _newest_good(run_dir, say) if world.is_first else None
    iteration = world.broadcast_from_first(found[1]["iteration"] if found else -1)
    if world.is_first or iteration < 0:
        return found
    path = checkpoint_path(run_dir, iteration)
    return path, read_checkpoint(path)


def _newest_good(run_dir: Path, say: Callable[[str], None]) -> tuple[Path, dict] | None:
    damaged: dict[Path, BadInputError] = {}
    for iteration in reversed(checkpoint_iterations(run_dir)):
        path = checkpoint_path(run_dir, iteration)
        try:
            content = read_torch_file(path)  # one of another format is not damaged: it is left alone, and refused below
        except BadInputError as error:
            damaged[path] = error
            continue
        for bad, error in damaged.items():
            bad.rename(f"{bad}.bad")
            say(f"WARNING: {error}; it is now {bad.name}.bad, going on from {path.name}")
        return path, _of_our_format(path, content)
    if damaged:
        raise BadInputError(
            f"{next(iter(damaged.values()))}; no checkpoint in {run_dir} can be read ({len(damaged)} tried): "
            "remove them to start anew, or take another --save_root"
        )
    return None


def read_checkpoint(path: str | Path) -> dict:
    """The content of a checkpoint; BadInputError when it is damaged, foreign or of another format."""
    return _of_our_format(path, read_torch_file(path))


def _of_our_format(path: str | Path, content: dict) -> dict:
    if content.get("format") != FORMAT:
        raise BadInputError(
            f"{path}: format {content.get('format')!r}, expected a checkpoint of train.py, format {FORMAT}; "
            "weights of other programs go into train.py --init_from"
        )
    return content


def checkpoint_stream(path: str | Path, content: dict) -> StreamConfig:
    """The stream that a checkpoint was trained for."""
    try:
        return StreamConfig.from_json(content["stream"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInputError(f"{path}: {error}; expected a checkpoint of this version") from None


def load_weights_of(backbone: nn.Module, content: dict, *, name: str = "weights") -> None:
    """Put a checkpoint's weights into its network, name by name; BadInputError when they are another network's.

    `name` is "weights", or "average" for the average of them that --ema keeps.
    """
    try:
        backbone.load_state_dict(content[name])
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:150]
        raise BadInputError(f"the checkpoint's weights do not fit its own network: {reason}") from None


def restore(
    content: dict, backbone: nn.Module, optimizer: torch.optim.Optimizer, *,
    scaler: torch.amp.GradScaler | None = None, average: AveragedModel | None = None, world: World = ALONE,
) -> None:  # fmt: skip
    """Put everything back as it was, the random state last. Momentum's factor and weight decay stay as they are set.

    A rank's random state is put back where there are as many ranks as when it was saved.
    """
    load_weights_of(backbone, content)
    if average is not None:
        load_weights_of(average.module.backbone, content, name="average")
        average.n_averaged.copy_(content["averaged"])
    if scaler is not None and "scaler" in content:
        scaler.load_state_dict(content["scaler"])
    as_set = [
        {key: value for key, value in group.items() if key not in ("params", "lr")} for group in optimizer.param_groups
    ]
    try:
        optimizer.load_state_dict(content["optimizer"])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:150]
        raise BadInputError(f"the checkpoint's optimizer state is of another network or version: {reason}") from None
    for group, values in zip(optimizer.param_groups, as_set, strict=True):
        group.update(values)
    _restore_random_state(content, world)


FLAGS = {"backbone": "arch", "clip_len": "seq_len", "frame_stride": "gap"}
"""fields of a stream whose flag has another name"""


def changes(path: Path, content: dict, stream: StreamConfig, settings: dict, *, may_change: Collection[str],
            allowed: Collection[str]) -> list[str]:  # fmt: skip
    """What is asked otherwise than the checkpoint was trained with, a line each.

    Raises BadInputError, in one line, where that is not among `allowed`; `may_change` are the settings that may be.
    """
    before, now = content["stream"] | content["settings"], stream.to_json() | settings
    # What an older version did not know, its checkpoints do not say.
    differing = [name for name in now if name in before and before[name] != now[name]]
    texts = {name: _difference(FLAGS.get(name, name), before.get(name), now[name]) for name in differing}
    refused = [name for name in differing if name not in may_change]
    if refused:
        raise BadInputError(
            f"{path} was trained with {'; '.join(texts[name] for name in refused)}: resume with the old value, "
            "or start a new run from it by --init_from and another --save_root"
        )
    asking = [name for name in differing if name not in allowed]
    if asking:
        raise BadInputError(
            f"{path} was trained with {'; '.join(texts[name] for name in asking)}: resume with the old value, "
            f"or add --allow_change={','.join(asking)}"
        )
    return list(texts.values())


def _difference(flag: str, before: object, now: object) -> str:
    if flag == "classes" and isinstance(before, list):
        return f"other classes ({class_difference(before, now)})"
    if flag == "train_split":  # a fingerprint, which tells nobody anything
        return "other training videos or labels"
    if flag == "flow_coding":
        kinds = ["online" if (record or {}).get("online") else "stored" for record in (before, now)]
        if kinds[0] != kinds[1]:
            return f"flow = {kinds[0]}, asked is {kinds[1]}"
    if isinstance(before, dict) and isinstance(now, dict):
        names = [name for name in before | now if before.get(name) != now.get(name)]
        return "; ".join(_difference(name, before.get(name), now.get(name)) for name in names)
    return f"{flag} = {before}, asked is {now}"


def machine() -> dict[str, str | int]:
    """What the last bits of a result depend on, beside the settings."""
    return {
        "torch": torch.__version__.partition("+")[0],
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "ranks": torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1,
        "gpus": ", ".join(torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())) or "none",
    }


def machine_changes(content: dict) -> str:
    """What is not as it was when a checkpoint was saved, as `threads 1 -> 2`; empty when the next bits are the same."""
    before, now = content["versions"], machine()
    return ", ".join(
        f"{name} {before[name]} -> {now[name]}" for name in now if before.get(name, now[name]) != now[name]
    )


def weights_file(path: Path) -> Path:
    """The file of weights that is meant: `path`, or what 2D-kinectics' latest.pth or best.pth names, looked for beside it.

    Those hold the absolute path of a model file on the machine of the training. Raises BadInputError.
    """
    if path.name not in ("latest.pth", "best.pth"):
        return path
    named = read_torch_file(path).get("model_file_name")
    return path.with_name(Path(named).name) if isinstance(named, str) else path


def restore_2d_kinectics_momentum(path: Path, backbone: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """Go on with the momentum of a run of 2D-kinectics, beside the weights that its latest.pth names.

    Its optimizer has the parameters in the network's order, as its groups say. Where number or shapes are others, as
    with other classes, momentum begins anew. Returns which, as a line; nothing where `path` names no such file.
    """
    named = read_torch_file(path).get("optimizer_file_name") if path.name == "latest.pth" else None
    file = path.with_name(Path(named).name) if isinstance(named, str) else path
    if file == path or not file.is_file():
        return ""
    state, parameters = read_torch_file(file), list(backbone.parameters())
    try:
        order = [key for group in state["param_groups"] for key in group["params"]]
        buffers = [state["state"][key]["momentum_buffer"] for key in order]
        fits = [buffer.shape for buffer in buffers] == [parameter.shape for parameter in parameters]
    except (KeyError, TypeError, AttributeError):
        fits = False
    if not fits:
        return f"momentum begins anew: {file} has not that of {len(parameters)} tensors of these shapes"
    for parameter, buffer in zip(parameters, buffers, strict=True):
        optimizer.state[parameter]["momentum_buffer"] = buffer.to(parameter, copy=True)
    return f"momentum of {file}: {len(buffers)} tensors"
