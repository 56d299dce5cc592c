"""Choosing a device and a precision, moving batches to the device, and out-of-memory errors in one line."""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from twostream.clips.dataset import Batch
from twostream.counts import counted
from twostream.engine.distributed import ALONE, World
from twostream.errors import BadInputError, EnvironmentFaultError, one_line


def choose_device(name: str, *, num_gpus: int = 1, world: World = ALONE) -> torch.device:
    """The value of --device -> the device; "auto" is the first GPU, or the CPU if there is none.

    With several ranks, each uses the GPU of its local rank. Raises EnvironmentFaultError if there is no such device, and
    BadInputError if `num_gpus` GPUs (--ngpu) cannot share batches because there are several ranks.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if world.size > 1:
        if num_gpus > 1:
            raise BadInputError(
                f"--ngpu={num_gpus} splits batches within one process, but {world.size} of them run; leave it out"
            )
        if name == "cuda" or (name == "auto" and available):
            name = f"cuda:{world.local_rank}"
    if num_gpus > 1 and num_gpus > available:
        raise EnvironmentFaultError(f"--ngpu={num_gpus}, but {available} GPUs are visible (see CUDA_VISIBLE_DEVICES)")
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise EnvironmentFaultError(f"--device {name!r}, expected auto, cpu, cuda or cuda:<number>") from None
    if device.type not in ("cpu", "cuda"):
        raise EnvironmentFaultError(f"--device {name!r}, expected auto, cpu, cuda or cuda:<number>")
    if device.type == "cuda" and (device.index or 0) >= available:
        raise EnvironmentFaultError(f"--device {name}, but {available} GPUs are visible; use --device=cpu or auto")
    if device.type == "cuda" and world.size > 1:
        torch.cuda.set_device(device)
    return device


def use_deterministic_algorithms(exit_stack: contextlib.ExitStack) -> None:
    """Let torch use only algorithms that give the same result each time, until `exit_stack` is closed.

    `readable_errors` reports an operation that has none.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, cuBLAS divides its work as it likes
    os.environ.setdefault("TORCHINDUCTOR_DETERMINISTIC", "1")  # compiled kernels are not chosen by timing them
    deterministic: Any = torch.utils.deterministic  # it is typed without its only attribute
    exit_stack.callback(torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled())
    exit_stack.callback(setattr, deterministic, "fill_uninitialized_memory", deterministic.fill_uninitialized_memory)
    torch.use_deterministic_algorithms(True)
    deterministic.fill_uninitialized_memory = False  # finds operations that read such memory, and costs a write of all


def split_over_gpus(network: nn.Module, num_gpus: int) -> nn.Module:
    """The network with each batch split over GPUs 0 ... `num_gpus` - 1, in this one process (--ngpu)."""
    return nn.DataParallel(network, device_ids=list(range(num_gpus))) if num_gpus > 1 else network


AMP = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""value of --amp -> dtype in which the network's heavy layers compute; weights, losses and sums stay float32"""


def fastest_options(device: torch.device) -> dict[str, Any]:
    """What --amp=auto and --channels_last=auto mean on a device: bf16 where a GPU has it, and channels last on a GPU.

    On CPUs, convolutions in bf16 are slow without special instructions, and float32 is what results are compared in.
    """
    if device.type != "cuda":
        return {"amp": "off", "channels_last": False}
    with torch.cuda.device(device):
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return {"amp": "bf16" if has_bf16 else "off", "channels_last": True}


CUDA_GRAPHS = ("reduce-overhead", "max-autotune")
"""values of --compile that record all kernels of a network as a CUDA graph, and replay it"""


def on_device(loader: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The loader's batches, with clips, mirrored and labels on the device; the item numbers stay on the CPU.

    A GPU copies them on a separate stream, so it copies one batch while it still computes the one before.
    """
    if device.type != "cuda":
        yield from loader
        return
    copying = torch.cuda.Stream(device)
    for batch in loader:
        with torch.cuda.stream(copying):
            moved = [tensor.to(device, non_blocking=True) for tensor in (batch.clips, batch.mirrored, batch.labels)]
        computing = torch.cuda.current_stream(device)
        computing.wait_stream(copying)
        for tensor in moved:
            tensor.record_stream(computing)  # so that its memory is not reused before it was used
        clips, mirrored, labels = moved
        yield batch._replace(clips=clips, mirrored=mirrored, labels=labels)


class OutOfMemoryError(EnvironmentFaultError):
    """The memory of the device or of the machine is too small."""


@contextlib.contextmanager
def readable_errors(network: nn.Module, batch: Batch, *, more_parts: int | None = None) -> Iterator[None]:
    """Turn errors of torch that users can do something about into one line that says what.

    Raises OutOfMemoryError; EnvironmentFaultError if the network cannot be compiled; BadInputError for batch norm of a
    single value, and for operations that --deterministic does not allow.
    `more_parts` is the value of --accumulate to recommend, if there is one.
    """
    try:
        yield
    except RuntimeError as error:
        if re.search(r"out of memory|can't allocate memory|not enough memory", str(error)):
            network = getattr(network, "module", network)
            name = type(getattr(network, "backbone", network)).__name__
            half = max(len(batch.labels) // 2, 1)
            parts = f"--accumulate={more_parts} (the same batch in parts), --amp=bf16, or " if more_parts else ""
            raise OutOfMemoryError(
                f"out of memory: {name}, {counted(len(batch.labels), 'clip')} of {' x '.join(map(str, batch.clips.shape[1:]))} in a "
                f"batch on {batch.clips.device}; use {parts}a smaller --batch_size, such as {half} here. Checkpoints are kept"
            ) from None
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise EnvironmentFaultError(
                f"the network cannot be compiled: {one_line(error)}; install a C++ compiler (g++), or leave --compile out"
            ) from None
        if found := re.match(r"(\w+) does not have a deterministic implementation", str(error)):
            raise BadInputError(
                f"--deterministic: {found[1]} has no algorithm for {batch.clips.device.type} that gives the same result each "
                "time; leave --deterministic out, or choose another --arch"
            ) from None
        raise
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise BadInputError(
            f"batch norm cannot learn from one value: {counted(len(batch.labels), 'clip')} of "
            f"{' x '.join(map(str, batch.clips.shape[1:]))}, computed one at a time; use a larger --batch_size or "
            "--input_size, a smaller --accumulate, or --batch_norm=frozen"
        ) from None
