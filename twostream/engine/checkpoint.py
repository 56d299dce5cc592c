"""Checkpoints of a run: `checkpoint_<iteration>.pth`, written whole or not at all, checked when read; and
`checkpoint_best.pth`, a checkpoint like the others: that of the best validation (--keep_best).

A checkpoint is a torch file, which is a zip archive with a CRC-32 of each part; `python -m zipfile -t FILE` checks one.
It holds tensors and plain values only: format, stream, weights, optimizer, iteration, random state, meters, settings.
If the newest one is damaged, it is renamed to `.bad`, and the one before it is used.
"""

import copy
import functools
import re
import reprlib
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import cv2
import numpy as np
import torch.distributed
from torch import nn
from torch.optim.swa_utils import AveragedModel

from twostream.annotations.class_names import class_difference
from twostream.counts import counted
from twostream.engine.device import choose_device
from twostream.engine.distributed import ALONE, World
from twostream.engine.optimizer import in_own_groups
from twostream.errors import BadInputError, EnvironmentFaultError, UserError, one_line
from twostream.files import write_file
from twostream.models.network import StreamNetwork, build_with_weights
from twostream.models.weights import read_torch_file
from twostream.stream import OPTIONAL, StreamConfig

FORMAT = 1
BEST_NAME = "checkpoint_best.pth"
PARTS = {"iteration": int, "stream": dict, "settings": dict, "progress": dict}
"""of a checkpoint, that are looked up before their values are used"""


def checkpoint_path(run_dir: str | Path, iteration: int) -> Path:
    """Where the checkpoint of an iteration is, or would be."""
    return Path(run_dir, f"checkpoint_{iteration:06d}.pth")


def checkpoint_iterations(run_dir: str | Path) -> list[int]:
    """Iterations of the checkpoints in a run's folder, ascending."""
    names = (re.fullmatch(r"checkpoint_(\d+)\.pth", path.name) for path in Path(run_dir).glob("checkpoint_*.pth"))
    return sorted(int(match.group(1)) for match in names if match)


# ----------------------------------------------------------------------------------------------------------- writing


def write_checkpoint(run_dir: str | Path, *, is_best: bool = False, **parts: Any) -> Path:
    """Save all that the next iterations depend on, the `parts` of `checkpoint_content`; returns the path of the checkpoint.

    With `is_best`, it replaces checkpoint_best.pth too. Raises BadInputError instead of saving weights that are not finite,
    and EnvironmentFaultError if the file cannot be written.
    """
    return _write(run_dir, checkpoint_content(**parts), is_best=is_best)


def checkpoint_content(
    *, stream: StreamConfig, backbone: nn.Module, optimizer: torch.optim.Optimizer, iteration: int, settings: dict[str, Any],
    progress: dict[str, Any], scaler: torch.amp.GradScaler | None = None, average: AveragedModel | None = None,
    random_states: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What a checkpoint holds; its tensors are those of the training, so the next step changes them.

    `settings` are the flags that decide the result; `progress` is what the caller's loop needs back (meters, best
    value); both hold plain values. `random_states` are those of all ranks; without them, those of this process are saved.
    """
    content = {
        "format": FORMAT,
        "stream": stream.to_json(),
        "iteration": iteration,
        "weights": backbone.state_dict(),
        "optimizer": optimizer.state_dict(),
        "settings": settings,
        "progress": progress,
        "versions": environment(),
    }
    content |= random_states or gather_random_states()
    if scaler is not None and scaler.state_dict():
        content["scaler"] = scaler.state_dict()
    if average is not None:
        content["average"] = _averaged_backbone(average).state_dict()
        content["averaged"] = average.n_averaged
    return content


def _write(run_dir: str | Path, content: dict[str, Any], *, is_best: bool) -> Path:
    iteration, weights = content["iteration"], content["weights"]
    broken = [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        saved = checkpoint_iterations(run_dir)
        raise BadInputError(
            f"iteration {iteration}: {counted(len(broken), 'tensor has', 'tensors have')} values that are not finite (first: {broken[0]}); nothing "
            f"was saved, {f'the checkpoint of iteration {saved[-1]} is kept' if saved else 'there is no earlier checkpoint'}: lower --lr, or check the images of {content['stream']['input_type']}"
        )
    path = checkpoint_path(run_dir, iteration)
    # The best one first: a run that is killed between the two validates this iteration again, and finds the same.
    for target in [Path(run_dir, BEST_NAME), path] if is_best else [path]:
        write_file(target, lambda file: _save(content, file))
    return path


def _averaged_backbone(average: AveragedModel) -> nn.Module:
    return average.module.get_submodule("backbone")


def _save(content: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(content, file)
    except RuntimeError as error:
        # torch raises this if the file cannot be written, e.g. on a full disk; the file's own error is its context.
        raise error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error)) from None


def gather_random_states(world: World = ALONE) -> dict[str, Any]:
    """Random states of the CPUs of all ranks, (R, n) bytes; and of each rank's GPU, or of all GPUs of a process alone."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and world.size == 1 else []
    if torch.cuda.is_initialized() and world.size > 1:
        cuda = list(world.gather(torch.cuda.get_rng_state()))
    return {"random_state": world.gather(torch.get_rng_state()), "random_state_cuda": cuda}


def _on_cpu(value: Any) -> Any:
    """A copy of a checkpoint's content, or of a part of it, with all tensors on the CPU.

    A GPU copies in its turn, so the copies are complete when its stream has done the work that it has now.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", non_blocking=True, copy=True)
    if isinstance(value, dict):
        copied = copy.copy(value)  # keeps the versions of modules, which a state_dict has as an attribute
        copied.update((key, _on_cpu(part)) for key, part in value.items())
        return copied
    return type(value)(map(_on_cpu, value)) if isinstance(value, list | tuple) else value


class CheckpointSaver:
    """Saves the checkpoints of a run beside the training: the loop only waits until their tensors are copied.

    Tolerates a disk that is full for a while, and removes old checkpoints. Leaving its `with` block waits for the last
    checkpoint; all ranks must call the same methods, except `report`.
    """

    MAX_FAILURES = 3
    """after this many iterations in a row that could not be saved, the run stops"""

    def __init__(
        self, run_dir: Path, *, keep: int, log: Callable[[str], None], world: World = ALONE, stream: StreamConfig,
        settings: dict[str, Any], backbone: nn.Module, optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None = None, average: AveragedModel | None = None,
    ):  # fmt: skip
        """The newest `keep` checkpoints are kept; 0 keeps all. `log` is given each line for people.

        The other parameters are those of `checkpoint_content` that stay the same in all of the run.
        """
        self.run_dir, self.keep, self.log, self.world = run_dir, keep, log, world
        self.content = functools.partial(
            checkpoint_content, stream=stream, settings=settings, backbone=backbone, optimizer=optimizer,
            scaler=scaler, average=average,
        )  # fmt: skip
        self.device = next(backbone.parameters()).device
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self.writing: tuple[int, Future[str]] | None = None
        """the iteration that is being written, and the line for people when that is done; only on rank 0"""
        self.is_finished = self.is_saved = True
        """was the last save waited for, and did it succeed?"""
        self.failed: set[int] = set()
        """iterations that could not be saved since the last success"""

    def __enter__(self) -> "CheckpointSaver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.thread:  # leaving it waits, also after a second signal
            if kind is None:
                self.finish(final=True)
            else:  # the other ranks may have ended
                try:
                    self._report(final=False)
                except UserError as fault:
                    self.log(f"WARNING: {fault}")

    def save(self, iteration: int, progress: dict[str, Any], *, final: bool, is_best: bool = False) -> None:
        """Copy what a checkpoint holds and start to write it, with `is_best` as checkpoint_best.pth too.

        The one before is finished first. If this is the last chance to save (`final`), this one is, too. If the disk does
        not allow it, that is a warning, and the checkpoints that exist are kept. Raises EnvironmentFaultError if the disk
        does not allow a final one, or the third in a row, and BadInputError for weights that are not finite, perhaps in a
        later call.
        """
        self.finish()
        random_states = gather_random_states(self.world)
        if self.world.is_first:
            content = _on_cpu(self.content(iteration=iteration, progress=progress, random_states=random_states))
            copied = torch.cuda.current_stream(self.device).record_event() if self.device.type == "cuda" else None
            self.writing = iteration, self.thread.submit(self._write, content, copied, is_best=is_best)
        self.is_finished = False
        if final:
            self.finish(final=True)

    def finish(self, *, final: bool = False) -> bool:
        """Wait until the last checkpoint is written, on all ranks; False if it could not be, and errors, as for `save`."""
        if not self.is_finished:
            self._report(final=final)
            self.is_saved = bool(self.world.broadcast_from_first(int(self.is_saved)))
            self.is_finished = True
        return self.is_saved

    def report(self) -> None:
        """Log how the last save went, or raise its error as `save` does, if that is known; this does not wait."""
        if self.writing and self.writing[1].done():
            self._report(final=False)

    def _report(self, *, final: bool) -> None:
        if not self.writing:
            return
        iteration, line = self.writing
        try:
            self.log(line.result())
            self.failed.clear()
            self.is_saved = True
        except EnvironmentFaultError as error:
            self.is_saved = False
            self.failed.add(iteration)
            if final or len(self.failed) >= self.MAX_FAILURES:
                raise
            self.log(
                f"WARNING: iteration {iteration} is NOT SAVED (failure {len(self.failed)} of {self.MAX_FAILURES} in a row, "
                f"then the run stops): {error}. Training continues and tries again at the next interval: free some space"
            )
        finally:
            if line.done():  # not if a signal has interrupted the wait
                self.writing = None

    def _write(self, content: dict[str, Any], copied: torch.cuda.Event | None, *, is_best: bool) -> str:
        """Write a checkpoint and remove old ones, in the thread; returns the line for people."""
        if copied:
            copied.synchronize()
        path = _write(self.run_dir, content, is_best=is_best)
        for old in checkpoint_iterations(self.run_dir)[: -self.keep] if self.keep else ():
            checkpoint_path(self.run_dir, old).unlink(missing_ok=True)
        return f"saved {path}" + (f", the best so far, also as {BEST_NAME}" if is_best else "")


def remove_leftovers(run_dir: Path) -> None:
    """Remove the temporary files that killed processes left behind; no other process may be writing."""
    for pattern in (".checkpoint_*.pth.*", ".curves.html.*", ".confusion.json.*", ".log.jsonl.*", ".stream.json.*"):
        for path in run_dir.glob(pattern):
            path.unlink(missing_ok=True)


# ----------------------------------------------------------------------------------------------------------- reading


def read_newest(
    run_dir: Path, log: Callable[[str], None], *, world: World = ALONE
) -> tuple[Path, dict[str, Any]] | None:
    """Path and content of the newest checkpoint that can be read; None if there are no checkpoints.

    Damaged ones are logged and renamed to `.bad`, once an older good one is found; without one, BadInputError is raised.
    Rank 0 does this, and the others read the checkpoint that it found.
    """
    found = _newest_good(run_dir, log) if world.is_first else None
    iteration = world.broadcast_from_first(found[1]["iteration"] if found else -1)
    if world.is_first or iteration < 0:
        return found
    path = checkpoint_path(run_dir, iteration)
    return path, read_checkpoint(path)


def _newest_good(run_dir: Path, log: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    damaged: dict[Path, BadInputError] = {}
    for iteration in reversed(checkpoint_iterations(run_dir)):
        path = checkpoint_path(run_dir, iteration)
        try:
            content = read_torch_file(path)  # one of another format is not damaged: it stays, and is refused below
        except BadInputError as error:
            damaged[path] = error
            continue
        for bad, reason in damaged.items():
            bad.rename(f"{bad}.bad")
            log(f"WARNING: {reason}; renamed to {bad.name}.bad, continuing from {path.name}")
        return path, _check_format(path, content)
    if damaged:
        raise BadInputError(
            f"{next(iter(damaged.values()))}; no checkpoint in {run_dir} can be read ({len(damaged)} tried): "
            "remove them to start again from the beginning, or choose another --save_root"
        )
    return None


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint; BadInputError if the file is damaged, of another program or of another format."""
    return _check_format(path, read_torch_file(path))


def _check_format(path: str | Path, content: dict[Any, Any]) -> dict[str, Any]:
    if content.get("format") != FORMAT:
        raise BadInputError(
            f"{path}: found format {reprlib.repr(content.get('format'))}, expected a checkpoint of twostream train, format {FORMAT}; "
            "twostream train takes weights of other programs by --init_from"
        )
    for name, kind in PARTS.items():
        if type(content.get(name)) is not kind:
            raise BadInputError(
                f"{path}: its {name} is {reprlib.repr(content.get(name))}, expected a {kind.__name__}; use another checkpoint"
            )
    return content


def checkpoint_stream(path: str | Path, content: dict[str, Any]) -> StreamConfig:
    """The stream that a checkpoint was trained for; BadInputError if another version wrote it."""
    try:
        return StreamConfig.from_json(content["stream"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInputError(f"{path}: {error}; expected a checkpoint of this version") from None


def checkpoint_network(stream: StreamConfig, content: dict[str, Any], *, device: torch.device) -> StreamNetwork:
    """The network of a checkpoint, as it is tested: in eval mode, with the averaged weights if the checkpoint has them."""
    with _fitting_weights():
        network = build_with_weights(stream, content["average" if "average" in content else "weights"])
    return network.to(device).eval()


def newest_checkpoint(path: Path) -> Path:
    """The newest checkpoint in the folder of a run; a path that is no folder is the checkpoint itself.

    Raises BadInputError for a folder without one.
    """
    if not path.is_dir():
        return path
    iterations = checkpoint_iterations(path)
    if not iterations:
        raise BadInputError(f"{path} has no checkpoint: expected the folder of a run of twostream train")
    return checkpoint_path(path, iterations[-1])


def find_checkpoint(run_dir: Path, iteration: int | str) -> Path:
    """The checkpoint of an iteration, or of the best validation ("best"); BadInputError if the run does not have it."""
    path = run_dir / BEST_NAME if iteration == "best" else checkpoint_path(run_dir, int(iteration))
    if not path.is_file():
        saved = ", ".join(map(str, checkpoint_iterations(run_dir))) or "none"
        reason = "twostream train keeps one with --keep_best" if iteration == "best" else f"choose from {saved}"
        raise BadInputError(f"{run_dir} has no checkpoint of iteration {iteration}; {reason}")
    return path


def load_stream(path: str | Path, *, device: str = "cpu") -> tuple[StreamConfig, StreamNetwork]:
    """A trained stream and its network, from the folder of a run (its newest checkpoint) or from a checkpoint file.

    The network is in eval mode, on the device ("cpu", "cuda", "cuda:1", or "auto" for a GPU if there is one), and has
    the averaged weights if the training kept them (--ema). Raises BadInputError if there is no checkpoint, or it is
    damaged, and EnvironmentFaultError if there is no such device.

        stream, network = load_stream("runs/kinetics-inception_v3-rgb-sl01-g1-fs6-64-000500")
    """
    target = choose_device(device)
    path = newest_checkpoint(Path(path))
    content = read_checkpoint(path)
    stream = checkpoint_stream(path, content)
    return stream, checkpoint_network(stream, content, device=target)


# --------------------------------------------------------------------------------------------------------- restoring


@contextmanager
def restoring(part: str) -> Iterator[None]:
    """While a part of a checkpoint is put back: if it has another form, that is a BadInputError which names the part."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise BadInputError(
            f"the checkpoint's {part} cannot be used, as if it were of another network or version: {one_line(error)}; "
            "use another checkpoint, or start again without --resume in another --save_root"
        ) from None


def restore_weights(backbone: nn.Module, content: dict[str, Any], *, name: str = "weights") -> None:
    """Load a checkpoint's weights into its backbone; BadInputError if they belong to another network.

    `name` is "weights", or "average" for the averaged weights that --ema keeps.
    """
    with _fitting_weights():
        backbone.load_state_dict(content[name])


@contextmanager
def _fitting_weights() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(f"the checkpoint's weights do not fit its own network: {one_line(error)}") from None


def restore(
    content: dict[str, Any], backbone: nn.Module, optimizer: torch.optim.Optimizer, *,
    scaler: torch.amp.GradScaler | None = None, average: AveragedModel | None = None, world: World = ALONE,
) -> None:  # fmt: skip
    """Restore everything from a checkpoint, the random state last; momentum factor and weight decay stay as they are.

    A rank's random state is only restored if there are as many ranks as when it was saved. Raises BadInputError if the
    checkpoint does not fit.
    """
    restore_weights(backbone, content)
    if average is not None:
        restore_weights(_averaged_backbone(average), content, name="average")
        with restoring("average"):
            average.n_averaged.copy_(content["averaged"])
    if scaler is not None and "scaler" in content:
        with restoring("loss scale"):
            scaler.load_state_dict(content["scaler"])
    own_settings = [
        {key: value for key, value in group.items() if key not in ("params", "lr")} for group in optimizer.param_groups
    ]
    with restoring("optimizer state"):
        optimizer.load_state_dict(in_own_groups(content["optimizer"], optimizer, backbone))
        for parameter, state in optimizer.state.items():
            momentum = state.get("momentum_buffer")
            if momentum is not None and momentum.shape != parameter.shape:
                raise ValueError(f"momentum of shape {tuple(momentum.shape)} for {tuple(parameter.shape)}")
    for group, values in zip(optimizer.param_groups, own_settings, strict=True):
        group.update(values)
    with restoring("random state"):
        _restore_random_state(content, world)


def _restore_random_state(content: dict[str, Any], world: World) -> None:
    """Restore this rank's random state if the number of ranks is the same; else the rank keeps its own."""
    states, cuda = torch.atleast_2d(content["random_state"]), content["random_state_cuda"]
    if len(states) != world.size:
        return
    torch.set_rng_state(states[world.rank].clone())  # given a view, torch would read from its storage's start, or crash
    if world.size > 1 and torch.cuda.is_initialized() and len(cuda) == world.size:
        torch.cuda.set_rng_state(cuda[world.rank].clone())
    elif world.size == 1 and torch.cuda.is_available() and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(cuda)


# --------------------------------------------------------------------------------------------------------- comparing

FLAGS = {"backbone": "arch", "clip_len": "seq_len", "frame_stride": "gap"}
"""field of a stream -> its flag, where the names differ"""


def changes(
    path: Path, content: dict[str, Any], stream: StreamConfig, settings: dict[str, Any], *,
    may_change: Collection[str], allowed: Collection[str],
) -> list[str]:  # fmt: skip
    """How the stream and the settings differ from those that the checkpoint was trained with, one line for each.

    Raises BadInputError, in one line, for a difference that is not in `allowed`; `may_change` names the settings that
    can be allowed.
    """
    texts = differences(content, stream, settings)
    refused = [name for name in texts if name not in may_change]
    if refused:
        raise BadInputError(
            f"{path} was trained with {'; '.join(texts[name] for name in refused)}: resume with the old value, "
            "or start a new run from it with --init_from and another --save_root"
        )
    not_allowed = [name for name in texts if name not in allowed]
    if not_allowed:
        raise BadInputError(
            f"{path} was trained with {'; '.join(texts[name] for name in not_allowed)}: resume with the old value, "
            f"or add --allow_change={','.join(not_allowed)}"
        )
    return list(texts.values())


def differences(content: dict[str, Any], stream: StreamConfig, settings: dict[str, Any]) -> dict[str, str]:
    """How the stream and the settings differ from those in a checkpoint or in stream.json: name -> a text with both."""
    before = OPTIONAL | content["stream"] | content["settings"]
    now = OPTIONAL | stream.to_json() | settings
    # A setting that an older version did not have is not in its checkpoints.
    differing = [name for name in now if name in before and before[name] != now[name]]
    return {name: _difference(FLAGS.get(name, name), before[name], now[name]) for name in differing}


def _difference(flag: str, before: Any, now: Any) -> str:
    if flag == "classes" and isinstance(before, list):
        return f"other classes ({class_difference(before, now)})"
    if flag == "multi_label":
        texts = ("one label for each video", "a list of labels for each video")
        return f"{texts[bool(before)]}, now {texts[bool(now)]}"
    if flag == "train_split":  # a fingerprint, which means nothing to people
        return "other training videos or labels"
    if flag == "flow_coding":
        kinds = ["online" if (record or {}).get("online") else "stored" for record in (before, now)]
        if kinds[0] != kinds[1]:
            return f"flow = {kinds[0]}, now {kinds[1]}"
    if isinstance(before, dict) and isinstance(now, dict):
        names = [name for name in before | now if before.get(name) != now.get(name)]
        return "; ".join(_difference(name, before.get(name), now.get(name)) for name in names)
    return f"{flag} = {before}, now {now}"


def environment() -> dict[str, str | int]:
    """What the last bits of a result depend on, beside the settings: versions, threads, processor, GPUs, ranks."""
    return {
        "torch": torch.__version__.partition("+")[0],
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "ranks": torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1,
        "gpus": ", ".join(torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())) or "none",
    }


def environment_changes(content: dict[str, Any]) -> str:
    """How the environment differs from when the checkpoint was saved, such as `threads 1 -> 2`; "" if it does not."""
    before, now = content["versions"], environment()
    return ", ".join(
        f"{name} {before[name]} -> {now[name]}" for name in now if before.get(name, now[name]) != now[name]
    )


# ------------------------------------------------------------------------------------------------------ 2D-kinectics


def weights_file(path: Path) -> Path:
    """`path`; of the folder of a run its newest checkpoint; or for latest.pth and best.pth of 2D-kinectics the weight file
    that they name, looked for beside them.

    These two hold the absolute path of a model file on the machine of the training. Raises BadInputError if one cannot
    be read, and for a folder without a checkpoint.
    """
    path = newest_checkpoint(path)
    if path.name not in ("latest.pth", "best.pth"):
        return path
    name = read_torch_file(path).get("model_file_name")
    return path.with_name(Path(name).name) if isinstance(name, str) else path


def restore_2d_kinectics_momentum(path: Path, backbone: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """Continue with the momentum of a run of 2D-kinectics, whose latest.pth is `path`; `weights_file` finds its weights.

    Its optimizer has the parameters in the network's order, as its groups say. If their number or shapes differ, as
    with other classes, momentum starts from zero. Returns a line that says which; "" if `path` names no such file.
    """
    name = read_torch_file(path).get("optimizer_file_name") if path.name == "latest.pth" else None
    file = path.with_name(Path(name).name) if isinstance(name, str) else path
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
        return (
            f"momentum starts from zero: {file} does not hold it for {len(parameters)} tensors of the network's shapes"
        )
    for parameter, buffer in zip(parameters, buffers, strict=True):
        optimizer.state[parameter]["momentum_buffer"] = buffer.to(parameter, copy=True)
    return f"momentum of {file}: {len(buffers)} tensors"
