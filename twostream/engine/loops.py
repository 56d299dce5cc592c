"""fit and predict, the only loops over batches, and evaluate."""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from twostream.clips.dataset import Batch
from twostream.engine.device import AMP, CUDA_GRAPHS, OutOfMemoryError, on_device, readable_memory_errors
from twostream.engine.distributed import ALONE, World
from twostream.engine.optimizer import Schedule, choose_sgd
from twostream.engine.progress import Step
from twostream.errors import BadInputError
from twostream.metrics import accuracy
from twostream.metrics.confusion import confusion_matrix

RUNS_AHEAD = ("cuda",)
"""kinds of device that work while Python goes on: there reading a number costs the time to catch up"""


@dataclass(frozen=True)
class FitOptions:
    """How `fit` takes a step; the defaults are plain float32 SGD. Raises BadInputError for what cannot be."""

    amp: str = "off"
    channels_last: bool = False
    """the order of memory that fast convolutions want"""
    accumulate: int = 1
    """parts in which a batch is computed, one after the other: memory for one part, the gradient of all"""
    clip_norm: float = 0.0
    """longest gradient; 0: any"""
    label_smoothing: float = 0.0
    max_skipped: int = 10
    """batches in a row that may be skipped for a loss or gradient that is not finite"""
    compile: str = "off"
    """a mode of torch.compile"""

    def __post_init__(self):
        if self.amp not in AMP:
            raise BadInputError(f"--amp {self.amp!r}, expected {', '.join(AMP)}")
        if self.accumulate < 1:
            raise BadInputError(f"--accumulate {self.accumulate}, expected 1 or more")
        if not 0 <= self.clip_norm < math.inf:
            raise BadInputError(f"--clip_norm {self.clip_norm}, expected a length above 0, or 0 for no limit")
        if not 0 <= self.label_smoothing < 1:
            raise BadInputError(f"--label_smoothing {self.label_smoothing}, expected 0 or more, below 1")
        if self.max_skipped < 1:
            raise BadInputError(f"--max_skipped {self.max_skipped}, expected 1 or more")
        if self.compile in CUDA_GRAPHS and self.accumulate > 1:
            # A graph's next run takes the memory of the last one's gradients.
            raise BadInputError(f"--compile={self.compile} with --accumulate; take --compile=default")

    def compile_network(self, network: nn.Module) -> None:
        """Compile it in its place, at its first call; `network.forward` and all names stay as they are."""
        if self.compile != "off":
            network.compile(mode=self.compile, dynamic=False)

    def scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """Scales fp16's losses, does nothing for others; its `state_dict()` is plain values (empty for others).

        It begins at 2^10, so that halving it at each overflow has it at 1 before ten batches in a row are skipped.
        """
        return torch.amp.GradScaler(device.type, init_scale=2.0**10, enabled=self.amp == "fp16")


def fit(
    network: nn.Module,
    loader: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    *,
    device: torch.device,
    first: int,
    options: FitOptions = FitOptions(),
    scaler: torch.amp.GradScaler | None = None,
    average: AveragedModel | None = None,
    world: World = ALONE,
) -> Iterator[Step]:
    """Train on each batch of the loader and yield after each; iterations count from `first` + 1.

    What happens between two iterations (print, validate, save, stop) is the caller's loop to say. `scaler` is that of
    the options, given when its state is to be saved; `average` that of `average_weights`, which moves on after each
    iteration. With several ranks the network is `world.share`'s and the loader gives this rank's part of each batch;
    loss and accuracies are those of the whole.

    A batch whose loss or gradient is not finite changes nothing: weights, momentum and batch norm's statistics (which
    move in the forward pass already) stay as they were. After `max_skipped` of those in a row BadInputError is raised.
    EnvironmentFaultError when memory is too small, or the network cannot be compiled.
    """
    # The GPU must not wait for Python to read whether a step was good, so there the question is answered on the device:
    # by the fused SGD, which leaves everything alone where `found_inf` is 1, and by torch.where for the statistics.
    runs_ahead = device.type in RUNS_AHEAD
    if options.channels_last:
        network.to(memory_format=torch.channels_last)
    choose_sgd(optimizer, fused=runs_ahead)
    scaler = scaler or options.scaler(device)
    statistics = _Buffers(network)
    skipped = _SkippedInARow(device, options.max_skipped)
    network.train()
    start = time.perf_counter()
    for iteration, batch in enumerate(on_device(loader, device), first + 1):
        if iteration == first + 1:
            world.wait()  # the first images come late, and not everywhere at once
        data_seconds = time.perf_counter() - start
        learning_rate = schedule(iteration)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group["lr_factor"]
        with readable_memory_errors(network, batch, more_parts=2 * options.accumulate):
            optimizer.zero_grad(set_to_none=True)
            before = statistics.copy()
            loss, top1, top3 = world.mean(_backward(network, batch, options, scaler))
            scaler.unscale_(optimizer)
            weights = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            norm = nn.utils.get_total_norm([p.grad for p in weights])
            if options.clip_norm:
                nn.utils.clip_grads_with_norm_(weights, options.clip_norm, norm)
            # Of one mind on all ranks: they have the same loss, and the same gradient.
            finite = torch.isfinite(loss) & torch.isfinite(norm)
            if runs_ahead:
                optimizer.found_inf = (~finite).float()
                optimizer.step()
            elif finite:
                optimizer.step()
            statistics.restore(before, unless=finite)
            scaler.update()
            if average is not None:
                average.update_parameters(network)
        if skipped.are_too_many(finite, iteration):
            raise BadInputError(
                f"iteration {iteration}: loss or gradient was not finite in {options.max_skipped} batches in a row; the "
                "last good checkpoint is kept: lower --lr, set --clip_norm, or look at the images"
            )
        batch_size = world.size * len(batch.labels)
        seconds = time.perf_counter() - start
        yield Step(
            iteration, loss, top1, top3, ~finite, batch.numbers, batch.unreadable, batch_size, learning_rate, data_seconds,
            seconds,
        )  # fmt: skip
        start = time.perf_counter()


def _backward(
    network: nn.Module, batch: Batch, options: FitOptions, scaler: torch.amp.GradScaler
) -> torch.Tensor:  # fmt: skip
    """Add up the gradient of a batch, part by part; returns its loss, top-1 and top-3 accuracy, float32 (3,)."""
    size = len(batch.labels)
    part_size = -(-size // options.accumulate)
    parts = list(zip(*(tensor.split(part_size) for tensor in batch[:3]), strict=True))
    numbers = []
    for number, (clips, mirrored, labels) in enumerate(parts, 1):
        # Ranks exchange the gradient once, with the last part.
        waits = isinstance(network, DistributedDataParallel) and number < len(parts)
        with network.no_sync() if waits else contextlib.nullcontext():
            with torch.autocast(clips.device.type, AMP[options.amp], enabled=options.amp != "off"):
                logits = network(clips, mirrored)
            loss = functional.cross_entropy(logits, labels, label_smoothing=options.label_smoothing)
            loss = loss * (len(labels) / size)
            scaler.scale(loss).backward()
        right = (accuracy.in_top_k(logits.detach(), labels, k).float().sum() / size for k in (1, 3))
        numbers.append(torch.stack([loss.detach(), *right]))
    return torch.stack(numbers).sum(dim=0)


class _SkippedInARow:
    """Counts batches that were left out.

    Where the device runs ahead, the count is looked at now and then only, and what is read is the count at the look
    before, which has arrived long since: nobody waits, and a run that has gone bad stays bad.
    """

    def __init__(self, device: torch.device, limit: int):
        self.limit, self.runs_ahead = limit, device.type in RUNS_AHEAD
        self.count = torch.zeros((), dtype=torch.int64, device=device)
        self.seen, self.arrival = torch.zeros((), dtype=torch.int64), None

    def are_too_many(self, finite: torch.Tensor, iteration: int) -> bool:
        self.count = torch.where(finite, 0, self.count + 1)
        if not self.runs_ahead:
            return bool(self.count >= self.limit)
        if iteration % self.limit:
            return False
        if self.arrival:
            self.arrival.synchronize()
        too_many = bool(self.seen >= self.limit)
        self.seen = self.count.to("cpu", non_blocking=True)
        self.arrival = torch.cuda.current_stream().record_event() if self.count.is_cuda else None
        return too_many


class _Buffers:
    """All buffers of a network, to be put back.

    There are hundreds of small ones, so they are copied together: a few launches on the GPU instead of hundreds.
    """

    def __init__(self, network: nn.Module):
        self.groups: dict[torch.dtype, list[torch.Tensor]] = {}
        for buffer in network.buffers():
            self.groups.setdefault(buffer.dtype, []).append(buffer)

    def copy(self) -> list[torch.Tensor]:
        return [torch.cat([buffer.flatten() for buffer in group]) for group in self.groups.values()]

    def restore(self, copies: list[torch.Tensor], *, unless: torch.Tensor) -> None:
        """Make them what they were, unless that tensor is true; it is not read, but followed on the device."""
        for group, before, now in zip(self.groups.values(), copies, self.copy(), strict=True):
            values = torch.where(unless, now, before).split([buffer.numel() for buffer in group])
            torch._foreach_copy_(group, [v.view_as(buffer) for v, buffer in zip(values, group, strict=True)])


@torch.no_grad()
def predict(
    network: nn.Module, loader: Iterable[Batch], *, device: torch.device, amp: str = "off",
    say: Callable[[str], object] = print,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:  # fmt: skip
    """Yield (numbers (N,), labels (N,), logits (N, K) float32) of each batch, on the CPU.

    A batch for which memory is too small is computed in halves, and so are all after it, which `say` is told;
    EnvironmentFaultError when a single clip is too much. `amp` is a name of AMP.
    """
    was_training = network.training
    network.eval()
    halvings = 0
    try:
        for batch in on_device(loader, device):
            while True:
                at_once = max(len(batch.labels) >> halvings, 1)
                try:
                    with (
                        readable_memory_errors(network, batch),
                        torch.autocast(device.type, AMP[amp], enabled=amp != "off"),
                    ):
                        # `forward` is the network as it is; called, it may be compiled, and batches of this size are few.
                        parts = zip(batch.clips.split(at_once), batch.mirrored.split(at_once), strict=True)
                        logits = torch.cat([network.forward(*part) for part in parts])
                        result = batch.numbers, batch.labels.cpu(), logits.cpu()
                    break
                except OutOfMemoryError:
                    if at_once == 1:
                        raise
                halvings += 1
                say(f"memory of {device} is too small for {at_once} clips at once: going on with half of them")
                if device.type == "cuda":
                    torch.cuda.empty_cache()
            yield result
    finally:
        network.train(was_training)


@dataclass(frozen=True)
class Evaluation:
    """Of the clips with a label: means, and how many of class i were taken for class j, integers (K, K)."""

    loss: float
    top1: float
    top3: float
    confusion: np.ndarray


def evaluate(batches: Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], *, world: World = ALONE) -> Evaluation:
    """Loss and frame accuracies of what `predict` yields, on all ranks; clips without label (-1) are left out."""
    sums = torch.zeros(4, dtype=torch.float64)
    confusion = np.zeros((1, 1), np.int64)  # of as many classes as the first batch has
    for _, labels, logits in batches:
        known = labels >= 0
        labels, logits = labels[known], logits[known]
        losses = functional.cross_entropy(logits.double(), labels, reduction="none")
        for position, values in enumerate([known, losses, *(accuracy.in_top_k(logits, labels, k) for k in (1, 3))]):
            sums[position] += values.sum()
        confusion = confusion + confusion_matrix(logits.numpy(), labels.numpy())
    count, *sums = world.sum_patiently(sums)
    num_classes = world.broadcast_from_first(len(confusion))  # a rank may have had no clips at all
    confusion = world.sum_patiently(
        torch.zeros(num_classes, num_classes, dtype=torch.int64) + torch.from_numpy(confusion)
    )
    return Evaluation(*(float(values / count) for values in sums), confusion.numpy())
