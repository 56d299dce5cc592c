"""One training by several processes, as torchrun starts them: their numbers, and what they tell each other.

Each process (rank) has a copy of the network and computes an equal share of each batch; the gradient is the mean over
all. Nothing that is sent is pickled.
"""

import contextlib
import inspect
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from twostream.errors import BadInputError, EnvironmentFaultError, UserError, exit_code

STEP_SECONDS = 50
"""longest wait for another rank inside an iteration: a machine that is gone without a word ends the job in a minute"""
PATIENCE_SECONDS = 3600
"""the same where ranks take their own time: reading lists, first images, validating, saving. A process that dies closes
its connections, which all others notice at once"""


@dataclass(frozen=True)
class World:
    """This process among those of one training. Of a process alone, no method does anything."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """the number of its GPU on its machine"""
    patient: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Rank 0 writes: folder, checkpoints, logs, console."""
        return self.rank == 0

    def part_of_batch(self, batch_size: int, *, accumulate: int) -> int:
        """Clips of a batch that each rank computes; BadInputError where they cannot have equally many."""
        if self.size > 1 and batch_size % (self.size * accumulate):
            raise BadInputError(
                f"--batch_size {batch_size} is that of all ranks together, and {self.size} ranks with "
                f"--accumulate={accumulate} cannot have equal parts of it; take a multiple of {self.size * accumulate}"
            )
        return batch_size // self.size

    def share(self, network: nn.Module, device: torch.device) -> nn.Module:
        """The network as `fit` calls it: its gradients are the mean over all ranks."""
        if self.size == 1:
            return network
        # Batch norm's statistics are rank 0's, which alone saves; they are sent for validations, see `broadcast_buffers`, and
        # not in each step. The flag's name is new in torch 2.13 or so.
        known = inspect.signature(DistributedDataParallel).parameters
        flag = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        devices = [device] if device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=devices, **{flag: False})

    def broadcast_buffers(self, network: nn.Module) -> None:
        """Give all ranks the buffers of rank 0, that is batch norm's statistics."""
        for buffer in network.buffers() if self.size > 1 else ():
            dist.broadcast(buffer, 0)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Over all ranks, on the device, which is not waited for."""
        if self.size == 1:
            return values
        dist.all_reduce(values)
        return values / self.size

    def sum_counts(self, *counts: int) -> list[int]:
        """Each summed over all ranks. Asked in each iteration, so by the CPUs alone."""
        if self.size == 1:
            return list(counts)
        values = torch.tensor(counts)
        dist.all_reduce(values)
        return values.tolist()

    def sum_patiently(self, values: torch.Tensor) -> torch.Tensor:
        """Over all ranks, each of which comes in its own time; on the CPU, as are the following."""
        if self.size > 1:
            dist.all_reduce(values, group=self.patient)
        return values

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """(R, ...): those of all ranks."""
        if self.size == 1:
            return values[None]
        parts = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(parts, values, group=self.patient)
        return torch.stack(parts)

    def broadcast_from_first(self, number: int) -> int:
        """The number that rank 0 gives."""
        if self.size == 1:
            return number
        values = torch.tensor(number)
        dist.broadcast(values, 0, group=self.patient)
        return int(values)

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.size > 1:
            dist.barrier(group=self.patient)


ALONE = World()


@contextlib.contextmanager
def process_group() -> Iterator[World]:
    """The world of torchrun's environment variables; without them that of a process alone.

    When a rank fails, all end: it says why, and the others leave in silence. Of a rank that died without a word the
    first that notices says so, with EnvironmentFaultError.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or "RANK" not in os.environ:
        yield ALONE
        return
    store, rank, size = next(dist.rendezvous("env://"))
    # The store may be torchrun's own and outlive us: there the addresses of processes that are dead still stand.
    store = dist.PrefixStore(f"start_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=STEP_SECONDS))
    patient = dist.new_group(backend="gloo", timeout=timedelta(seconds=PATIENCE_SECONDS))
    try:
        yield World(rank, size, int(os.environ.get("LOCAL_RANK", rank)), patient)
    except (Exception, KeyboardInterrupt) as error:
        if lost := _is_lost_connection(error):
            error = EnvironmentFaultError(
                f"rank {rank} of {size}: another rank has died, or did not answer for {STEP_SECONDS} s; torchrun names "
                "it below. What is saved is kept: go on with --resume=auto"
            )
        if not _is_first_to_fail(store):
            sys.exit(exit_code(error))
        if lost:
            raise error from None
        raise
    dist.destroy_process_group()


def _is_first_to_fail(store: dist.Store) -> bool:
    try:
        return store.add("failures", 1) == 1
    except (RuntimeError, OSError):  # the process that keeps the store is gone
        return True


def _is_lost_connection(error: BaseException) -> bool:
    """gloo has no type of its own for it."""
    if isinstance(error, UserError):
        return False
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and bool(re.search(r"gloo|[Cc]onnection (closed|reset)|NCCL", str(error)))
    )


def sync_batch_norm(network: nn.Module, device: torch.device, world: World) -> nn.Module:
    """The network with batch norm over the whole batch instead of each rank's part; a single rank has all of it."""
    if world.size == 1:
        return network
    if device.type != "cuda":
        raise BadInputError(f"--sync_bn needs GPUs, this is {device}; leave it out")
    frozen = [name for name, module in network.named_modules() if module in network.frozen_norms]
    network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    network.frozen_norms = tuple(network.get_submodule(name) for name in frozen)
    return network
