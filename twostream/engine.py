"""The only two loops over batches: `fit` with gradients, `predict` without."""

import contextlib
import itertools
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from twostream import metrics
from twostream.dataset import Batch
from twostream.distributed import ALONE, World
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


def build_optimizer(
    network: nn.Module,
    *,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    first_layer: nn.Module | None = None,
    first_layer_factor: float = 1.0,
    norm_decay: bool = True,
) -> torch.optim.Optimizer:
    """SGD with momentum; biases learn at twice the rate and without decay, as in Caffe and 2D-kinectics.

    The first layer learns `first_layer_factor` times as fast (TSN's flow stream: 5); without `norm_decay` the scales
    of batch normalisation do not decay either (TSN). Each group's `lr_factor` is what `fit` multiplies the schedule's
    rate by.
    """
    first = set(first_layer.parameters()) if first_layer else set()
    norms = {
        p
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for p in module.parameters()
    }
    # The two groups of plain training come first, also when empty, so that its checkpoints stay readable.
    groups: dict[tuple[float, float], list] = {(1.0, weight_decay): [], (2.0, 0.0): []}
    for name, parameter in network.named_parameters():
        is_bias = "bias" in name
        factor = (2.0 if is_bias else 1.0) * (first_layer_factor if parameter in first else 1.0)
        decay = 0.0 if is_bias or (parameter in norms and not norm_decay) else weight_decay
        groups.setdefault((factor, decay), []).append(parameter)
    return torch.optim.SGD(
        [{"params": p, "lr_factor": factor, "weight_decay": decay} for (factor, decay), p in groups.items()],
        lr=learning_rate,
        momentum=momentum,
    )


Schedule = Callable[[int], float]
"""iteration, counted from 1 -> learning rate"""


def step_schedule(learning_rate: float, steps: tuple[int, ...], gamma: float) -> Schedule:
    """Multiplied by gamma after each of the steps."""
    return lambda iteration: learning_rate * gamma ** sum(step < iteration for step in steps)


def cosine_schedule(learning_rate: float, last: int) -> Schedule:
    """Half a cosine, from the full rate at iteration 1 to nothing after the last (SGDR, ICLR 2017)."""
    return lambda iteration: learning_rate * (1 + math.cos(math.pi * min((iteration - 1) / last, 1))) / 2


def warm_up(schedule: Schedule, iterations: int) -> Schedule:
    """The schedule, but in so many first iterations a share of it that grows in equal steps up to 1."""
    return lambda iteration: schedule(iteration) * min(iteration / iterations if iterations else 1, 1)


AMP = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""--amp -> what the network's heavy layers compute in; weights, losses and sums stay float32"""


CUDA_GRAPHS = ("reduce-overhead", "max-autotune")
"""values of --compile that replay a whole network as one command"""


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


def average_weights(network: nn.Module, decay: float) -> AveragedModel:
    """A copy for `fit` to keep: average = decay * average + (1 - decay) * weights, batch norm's statistics alike.

    It starts from the weights after the first step. Its network is `.module`; `state_dict()` also has the count.
    """
    if not 0 <= decay < 1:
        raise BadInputError(f"--ema {decay}, expected 0 or more, below 1")
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


@dataclass
class Step:
    """One iteration of `fit`. Numbers stay on the device, so that reading them is the caller's choice."""

    iteration: int
    loss: torch.Tensor
    top1: torch.Tensor
    """share of the batch"""
    top3: torch.Tensor
    skipped: torch.Tensor
    """bool: loss or gradient was not finite, so the network is as it was before"""
    clip_numbers: torch.Tensor
    """(N,), as the loader gave them; with several ranks those of this rank's part"""
    unreadable: tuple[str, ...]
    """what was wrong with images for whose sake other clips stand in the batch"""
    batch_size: int
    learning_rate: float
    data_seconds: float
    """waiting for the loader"""
    seconds: float
    """all of the iteration, waiting included"""


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
    _choose_sgd(optimizer, fused=runs_ahead)
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
        with _told_in_one_line(network, batch, more_parts=2 * options.accumulate):
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
        right = (metrics.in_top_k(logits.detach(), labels, k).float().sum() / size for k in (1, 3))
        numbers.append(torch.stack([loss.detach(), *right]))
    return torch.stack(numbers).sum(dim=0)


class OutOfMemoryError(EnvironmentFaultError):
    """Of the device or of the machine."""


@contextlib.contextmanager
def _told_in_one_line(network: nn.Module, batch: Batch, *, more_parts: int | None = None) -> Iterator[None]:
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


def _choose_sgd(optimizer: torch.optim.Optimizer, *, fused: bool) -> None:
    """Let SGD run as one kernel per group, or as it likes; a checkpoint may come from the other kind of device.

    The fused kernel wants momentum in the weights' own order of memory; and were its very first step skipped, it would
    go on from momentum that nobody has set. Zeros are what an unset one counts as.
    """
    for group in optimizer.param_groups:
        group["fused"] = fused or None
        for weights in group["params"]:
            if fused and group["momentum"] and weights.requires_grad:
                momentum = optimizer.state[weights].get("momentum_buffer")
                new = torch.zeros_like(weights, requires_grad=False)
                optimizer.state[weights]["momentum_buffer"] = new if momentum is None else new.copy_(momentum)


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
                    with _told_in_one_line(network, batch), torch.autocast(device.type, AMP[amp], enabled=amp != "off"):
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
        for position, values in enumerate([known, losses, *(metrics.in_top_k(logits, labels, k) for k in (1, 3))]):
            sums[position] += values.sum()
        confusion = confusion + metrics.confusion(logits.numpy(), labels.numpy())
    count, *sums = world.sum(sums)
    num_classes = world.of_first(len(confusion))  # a rank may have had no clips at all
    confusion = world.sum(torch.zeros(num_classes, num_classes, dtype=torch.int64) + torch.from_numpy(confusion))
    return Evaluation(*(float(values / count) for values in sums), confusion.numpy())


class Meter:
    """Last value and mean of a quantity over the batches since the last reset."""

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        self.last, self.sum, self.count = 0.0, 0.0, 0

    def update(self, value: float | torch.Tensor, count: int = 1, *, skipped: torch.Tensor | None = None) -> None:
        """`skipped`: where true, the value is not counted; it is followed on the device, and not read."""
        if skipped is None:
            self.last = value
            self.sum = self.sum + value * count
            self.count = self.count + count
        else:
            self.last = torch.where(skipped, self.last, value)
            self.sum = torch.where(skipped, self.sum, self.sum + value * count)
            self.count = self.count + torch.where(skipped, 0, count)

    @property
    def mean(self) -> float:
        return float(self.sum) / max(int(self.count), 1)

    def state(self) -> dict[str, float]:
        return {"last": float(self.last), "sum": float(self.sum), "count": int(self.count)}

    def load_state(self, state: dict[str, float]) -> None:
        self.last, self.sum, self.count = state["last"], state["sum"], state["count"]


class Progress:
    """What a run has come to: means since the last reset, skipped steps, unreadable images, the best validation."""

    def __init__(self):
        self.meters = {name: Meter() for name in ("seconds", "data_seconds", "loss", "top1", "top3")}
        self.best_top1, self.unreadable = 0.0, 0
        self.unread: list[Step] = []

    def add(self, step: Step) -> None:
        for name, meter in self.meters.items():
            if "seconds" in name:
                meter.update(getattr(step, name))
            else:
                meter.update(getattr(step, name), step.batch_size, skipped=step.skipped)
        self.unread.append(step)

    def numbers(self) -> dict[str, float]:
        """Last values and means by name; for these and the following a GPU is waited for."""
        last = {name: float(meter.last) for name, meter in self.meters.items()}
        return last | {f"mean_{name}": meter.mean for name, meter in self.meters.items()}

    def take_skipped(self) -> list[Step]:
        """The steps that were not applied, since the last time it was asked."""
        steps, self.unread = self.unread, []
        return list(itertools.compress(steps, torch.stack([step.skipped for step in steps]).tolist())) if steps else []

    def reset(self) -> None:
        for meter in self.meters.values():
            meter.reset()

    def state(self) -> dict:
        meters = {name: meter.state() for name, meter in self.meters.items()}
        return {"best_top1": self.best_top1, "unreadable": self.unreadable, "meters": meters}

    def load_state(self, state: dict) -> None:
        self.best_top1, self.unreadable = state["best_top1"], state.get("unreadable", 0)
        for name, meter in self.meters.items():
            meter.load_state(state["meters"][name])
