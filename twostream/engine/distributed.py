"""One training by several processes, as torchrun or Slurm's srun starts them: their ranks, and the values they exchange.

Each process (rank) has a copy of the network and computes an equal share of each batch; the gradient is the mean over
all ranks. Nothing that is sent is pickled.
"""

import contextlib
import inspect
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from twostream.errors import EXIT_ENVIRONMENT, BadInputError, EnvironmentFaultError, Terminated, UserError, exit_code
from twostream.models.network import StreamNetwork

STEP_SECONDS = 50
"""longest wait for another rank within an iteration: if a machine disappears, the job ends within a minute"""
PATIENCE_SECONDS = 3600
"""the same where ranks take different times: reading lists, first images, validating, saving. If a process dies, all
others notice at once, because its connections are closed"""

SLURM_PORTS = 20_000
"""first of as many ports, one of which belongs to a Slurm step"""


@dataclass(frozen=True)
class World:
    """The processes of one training, as seen from one of them. For a process alone, no method exchanges anything.

    All ranks must call a method that exchanges values, and in the same order.
    """

    rank: int = 0
    """number of this process, 0 ... size - 1"""
    size: int = 1
    """number of processes"""
    local_rank: int = 0
    """number of this process on its machine, and of its GPU"""
    patient: dist.ProcessGroup | None = None
    """the same processes on their CPUs, where they wait for each other for up to PATIENCE_SECONDS"""

    @property
    def is_first(self) -> bool:
        """Is this rank 0? Only that one writes: the run's folder, checkpoints, logs, console."""
        return self.rank == 0

    def part_of_batch(self, batch_size: int, *, accumulate: int) -> int:
        """Number of clips of a batch that each rank computes; BadInputError if the batch has no equal parts."""
        if self.size > 1 and batch_size % (self.size * accumulate):
            raise BadInputError(
                f"--batch_size {batch_size}, the clips of all ranks together, has no equal parts for {self.size} ranks "
                f"with --accumulate={accumulate}; use a multiple of {self.size * accumulate}"
            )
        return batch_size // self.size

    def share(self, network: nn.Module, device: torch.device) -> nn.Module:
        """The network as `fit` calls it: its gradients become the mean over all ranks."""
        if self.size == 1:
            return network
        # Only rank 0 saves batch norm's statistics. The other ranks get them before validations, by `broadcast_buffers`,
        # and not in each step. The parameter has had its new name since about torch 2.13.
        parameters = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
        options: dict[str, Any] = {"device_ids": [device] if device.type == "cuda" else None, name: False}
        return DistributedDataParallel(network, **options)

    def broadcast_buffers(self, network: nn.Module) -> None:
        """Give all ranks the buffers of rank 0, which are batch norm's statistics."""
        for buffer in network.buffers() if self.size > 1 else ():
            dist.broadcast(buffer, 0)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over all ranks of a float tensor on the device, which may be overwritten; does not wait for a GPU."""
        if self.size == 1:
            return values
        dist.all_reduce(values)
        return values / self.size

    def sum_counts(self, *counts: int) -> list[int]:
        """Each count, summed over all ranks. Only the CPUs exchange them, because each iteration needs them."""
        if self.size == 1:
            return list(counts)
        values = torch.tensor(counts)
        dist.all_reduce(values)
        return values.tolist()

    def sum_patiently(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over all ranks of a tensor on the CPU, in place; a rank may come PATIENCE_SECONDS after the others."""
        if self.size > 1:
            dist.all_reduce(values, group=self.patient)
        return values

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """The CPU tensors of all ranks, of the same shape, as one tensor (R, ...); ranks wait as in `sum_patiently`."""
        if self.size == 1:
            return values[None]
        parts = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(parts, values, group=self.patient)
        return torch.stack(parts)

    def gather_rows(self, values: torch.Tensor) -> torch.Tensor:
        """The rows (n, C) on the CPUs of all ranks together, in order of rank; n may differ, and be 0."""
        if self.size == 1:
            return values
        counts = self.gather(torch.tensor([len(values)])).flatten().tolist()
        padded = torch.zeros(max(counts), *values.shape[1:], dtype=values.dtype)
        padded[: len(values)] = values
        return torch.cat([part[:count] for part, count in zip(self.gather(padded), counts, strict=True)])

    def broadcast_from_first(self, number: int) -> int:
        """The integer that rank 0 passes; ranks wait as in `sum_patiently`."""
        if self.size == 1:
            return number
        values = torch.tensor(number)
        dist.broadcast(values, 0, group=self.patient)
        return int(values)

    def wait(self) -> None:
        """Wait until all ranks have come here, as in `sum_patiently`."""
        if self.size > 1:
            dist.barrier(group=self.patient)


ALONE = World()


def slurm_address(environment: Mapping[str, str]) -> tuple[str, int]:
    """Host and port where the tasks of a Slurm step meet: the first host of its list, unless MASTER_ADDR names another.

    The list is like "gpu[03-05,9],login": its first host is gpu03. The port is the step's own, or MASTER_PORT.
    """
    first = re.sub(r"\[(\w+)[^]]*\]", r"\1", environment["SLURM_STEP_NODELIST"]).partition(",")[0]
    step = int(environment["SLURM_JOB_ID"]) + 7919 * int(environment["SLURM_STEP_ID"])
    port = environment.get("MASTER_PORT", SLURM_PORTS + step % SLURM_PORTS)
    return environment.get("MASTER_ADDR", first), int(port)


def _meet(*, slurm: bool) -> tuple[dist.Store, int, int, int] | None:
    """What all processes reach, this one's rank, their number, and its number on its machine; None for a process alone."""
    if "WORLD_SIZE" in os.environ or "RANK" in os.environ:  # torchrun's
        if int(os.environ.get("WORLD_SIZE", 1)) == 1 or "RANK" not in os.environ:
            return None
        store, rank, size = next(dist.rendezvous("env://"))
        return store, rank, size, int(os.environ.get("LOCAL_RANK", rank))
    # Those of a step, because a job script has SLURM_NTASKS and SLURM_PROCID as well, but runs once.
    size = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if size == 1 or not slurm:
        return None
    rank, (host, port) = int(os.environ["SLURM_PROCID"]), slurm_address(os.environ)
    # With --gpus-per-task, each task sees one GPU, which is number 0.
    local_rank = 0 if torch.cuda.device_count() == 1 else int(os.environ["SLURM_LOCALID"])
    return dist.TCPStore(host, port, size, is_master=rank == 0), rank, size, local_rank


@contextlib.contextmanager
def process_group(*, slurm: bool = True) -> Iterator[World]:
    """The processes that the variables of torchrun or of a Slurm step describe; without these variables, a process alone.

    Torchrun's count first, so WORLD_SIZE=1 makes each task of a Slurm step a process alone, as `slurm=False` does.

    If a rank fails, all ranks end: that one raises its error, and the others exit silently. If a rank was killed, the
    first one that notices raises EnvironmentFaultError.
    """
    if (others := _meet(slurm=slurm)) is None:
        yield ALONE
        return
    store, rank, size, local_rank = others
    # The store may be torchrun's own, which outlives this process and still has the addresses of dead processes.
    store = dist.PrefixStore(f"start_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=STEP_SECONDS))
    patient = dist.new_group(backend="gloo", timeout=timedelta(seconds=PATIENCE_SECONDS))
    assert isinstance(patient, dist.ProcessGroup)  # all ranks are members of it
    try:
        yield World(rank, size, local_rank, patient)
    except (Exception, KeyboardInterrupt) as error:
        lost = _is_lost_connection(error)
        if not _is_first_to_fail(store):
            sys.exit(EXIT_ENVIRONMENT if lost else exit_code(error))
        if lost:
            raise EnvironmentFaultError(
                f"rank {rank} of {size}: another rank has died, or did not answer for {STEP_SECONDS} s; torchrun or srun "
                "names it below. Checkpoints are kept: continue with --resume=auto"
            ) from None
        raise
    dist.destroy_process_group()


def _is_first_to_fail(store: dist.Store) -> bool:
    try:
        return store.add("failures", 1) == 1
    except (RuntimeError, OSError):  # the process that keeps the store is gone
        return True


def _is_lost_connection(error: BaseException) -> bool:
    """Does the error mean that another rank is gone? gloo has no error type of its own for it."""
    if isinstance(error, Terminated) and error.__context__ is not None:
        # torchrun also sends SIGTERM, perhaps while this process is already ending because it lost the other rank.
        return _is_lost_connection(error.__context__)
    if isinstance(error, UserError):
        return False
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and bool(re.search(r"gloo|[Cc]onnection (closed|reset)|NCCL", str(error)))
    )


def sync_batch_norm(network: StreamNetwork, device: torch.device, world: World) -> StreamNetwork:
    """The network with batch norm over the whole batch instead of each rank's part; raises BadInputError on a CPU."""
    if world.size == 1:
        return network
    if device.type != "cuda":
        raise BadInputError(f"--sync_bn needs GPUs, but the device is {device}; leave it out")
    frozen = [name for name, module in network.named_modules() if module in network.frozen_norms]
    nn.SyncBatchNorm.convert_sync_batchnorm(network)  # in place, as the network itself is not a batch norm
    network.frozen_norms = tuple(network.get_submodule(name) for name in frozen)
    return network
