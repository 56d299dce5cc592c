"""The choice of a device and a precision, batches on a device, and out-of-memory errors in one line."""

import contextlib
import re
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from twostream.clips.dataset import Batch
from twostream.engine.distributed import ALONE, World
from twostream.errors import BadInputError, EnvironmentFaultError


def choose_device(name: str, *, num_gpus: int = 1, world: World = ALONE) -> torch.device:
    """A flag's word -> the device; "auto" is the first GPU if there is any. Raises EnvironmentFaultError.

    Each of several ranks takes the GPU of its own number on its machine.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if world.size > 1:
        if num_gpus > 1:
            raise BadInputError(f"--ngpu={num_gpus} splits batches in one process, here are {world.size}; leave it out")
        if name == "cuda" or (name == "auto" and available):
            name = f"cuda:{world.local_rank}"
    if num_gpus > 1 and num_gpus > available:
        raise EnvironmentFaultError(f"--ngpu={num_gpus}, but {available} GPUs are visible (CUDA_VISIBLE_DEVICES)")
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise EnvironmentFaultError(f"--device {name!r}, expected auto, cpu, cuda or cuda:<number>") from None
    if device.type not in ("cpu", "cuda"):
        raise EnvironmentFaultError(f"--device {name!r}, expected auto, cpu, cuda or cuda:<number>")
    if device.type == "cuda" and (device.index or 0) >= available:
        raise EnvironmentFaultError(f"--device {name}, but {available} GPUs are visible; take --device=cpu or auto")
    if device.type == "cuda" and world.size > 1:
        torch.cuda.set_device(device)
    return device


def split_over_gpus(network: nn.Module, num_gpus: int) -> nn.Module:
    """The network with each batch split over GPUs 0 ... `num_gpus` - 1, in this one process (--ngpu)."""
    return nn.DataParallel(network, device_ids=list(range(num_gpus))) if num_gpus > 1 else network


AMP = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""--amp -> what the network's heavy layers compute in; weights, losses and sums stay float32"""


CUDA_GRAPHS = ("reduce-overhead", "max-autotune")
"""values of --compile that replay a whole network as one command"""


def on_device(loader: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The loader's batches, on the device but for the numbers of their clips.

    A GPU copies them on a stream of its own, so that it does so while it still computes what it was given before.
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
            tensor.record_stream(computing)  # their memory is not given away before they are used
        clips, mirrored, labels = moved
        yield batch._replace(clips=clips, mirrored=mirrored, labels=labels)


class OutOfMemoryError(EnvironmentFaultError):
    """Of the device or of the machine."""


@contextlib.contextmanager
def readable_memory_errors(network: nn.Module, batch: Batch, *, more_parts: int | None = None) -> Iterator[None]:
    """Turn what torch says when memory is too small, or the network cannot be compiled, into EnvironmentFaultError."""
    try:
        yield
    except RuntimeError as error:
        if re.search(r"out of memory|can't allocate memory|not enough memory", str(error)):
            network = getattr(network, "module", network)
            name = type(getattr(network, "backbone", network)).__name__
            half = max(len(batch.labels) // 2, 1)
            parts = f"--accumulate={more_parts} (the same batch in parts), --amp=bf16, or " if more_parts else ""
            raise OutOfMemoryError(
                f"out of memory: {name}, {len(batch.labels)} clips of {' x '.join(map(str, batch.clips.shape[1:]))} in a "
                f"batch on {batch.clips.device}; take {parts}a smaller --batch_size, as {half} here. What is saved is kept"
            ) from None
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            reason = " ".join(str(error).split())[:200]
            raise EnvironmentFaultError(
                f"the network cannot be compiled: {reason}; a C++ compiler is needed (g++), or leave --compile out"
            ) from None
        raise
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise BadInputError(
            f"batch norm cannot learn from one value: {len(batch.labels)} clips of "
            f"{' x '.join(map(str, batch.clips.shape[1:]))}, computed one by one; take a larger --batch_size or --input_size, "
            "a smaller --accumulate, or --batch_norm=frozen"
        ) from None
