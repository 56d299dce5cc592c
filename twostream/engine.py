"""The only two loops over batches: `fit` with gradients, `predict` without."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from twostream import metrics
from twostream.errors import BadInputError, EnvironmentFaultError


def choose_device(name: str, *, num_gpus: int = 1) -> torch.device:
    """A flag's word -> the device; "auto" is the first GPU if there is any. Raises EnvironmentFaultError."""
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
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
    """(N,), as the loader gave them"""
    batch_size: int
    learning_rate: float
    data_seconds: float
    """waiting for the loader"""
    seconds: float
    """all of the iteration, waiting included"""


def fit(
    network: nn.Module,
    loader: Iterable,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    *,
    device: torch.device,
    first: int,
    options: FitOptions = FitOptions(),
    scaler: torch.amp.GradScaler | None = None,
    average: AveragedModel | None = None,
) -> Iterator[Step]:
    """Train on each batch of the loader and yield after each; iterations count from `first` + 1.

    What happens between two iterations (print, validate, save, stop) is the caller's loop to say. Clips are
    (N, C, H, W), or (N, S, C, H, W) for S segments of each video, see `consensus`. `scaler` is that of the options,
    given when its state is to be saved; `average` that of `average_weights`, which moves on after each iteration.

    A batch whose loss or gradient is not finite changes nothing: weights, momentum and batch norm's statistics (which
    move in the forward pass already) stay as they were. After `max_skipped` of those in a row BadInputError is raised.
    """
    # The GPU must not wait for Python to read whether a step was good, so there the question is answered on the device:
    # by the fused SGD, which leaves everything alone where `found_inf` is 1, and by torch.where for the statistics.
    runs_ahead = device.type in RUNS_AHEAD
    if options.channels_last:
        network.to(memory_format=torch.channels_last)
    _choose_sgd(optimizer, fused=runs_ahead)
    scaler = scaler or options.scaler(device)
    statistics = _Buffers(network)
    skipped_in_a_row = torch.zeros((), dtype=torch.int64, device=device)
    network.train()
    start = time.perf_counter()
    for iteration, (clips, labels, clip_numbers) in enumerate(loader, first + 1):
        clips = clips.to(device, non_blocking=True)
        labels = labels.to(device, non_blocking=True)
        data_seconds = time.perf_counter() - start
        learning_rate = schedule(iteration)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group["lr_factor"]
        optimizer.zero_grad(set_to_none=True)
        before = statistics.copy()
        loss, logits = _backward(network, clips, labels, options, scaler)
        scaler.unscale_(optimizer)
        weights = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in weights])
        if options.clip_norm:
            nn.utils.clip_grads_with_norm_(weights, options.clip_norm, norm)
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
        skipped_in_a_row = torch.where(finite, 0, skipped_in_a_row + 1)
        # One look in so many iterations keeps the GPU busy, and a run that has gone bad stays bad.
        if (not runs_ahead or iteration % options.max_skipped == 0) and skipped_in_a_row >= options.max_skipped:
            raise BadInputError(
                f"iteration {iteration}: loss or gradient was not finite in {options.max_skipped} batches in a row; the "
                "last good checkpoint is kept: lower --lr, set --clip_norm, or look at the images"
            )
        top1, top3 = (metrics.in_top_k(logits, labels, k).float().mean() for k in (1, 3))
        seconds = time.perf_counter() - start
        yield Step(
            iteration, loss, top1, top3, ~finite, clip_numbers, len(labels), learning_rate, data_seconds, seconds
        )
        start = time.perf_counter()


def consensus(network: nn.Module, clips: torch.Tensor, *, channels_last: bool = False) -> torch.Tensor:
    """Logits (N, K) float32 of clips (N, C, H, W); of S segments (N, S, C, H, W) the mean of theirs (TSN, ECCV 2016)."""
    segments = clips.flatten(0, 1) if clips.ndim == 5 else clips
    if channels_last:
        segments = segments.contiguous(memory_format=torch.channels_last)
    logits = network(segments).float()
    return logits.unflatten(0, clips.shape[:2]).mean(dim=1) if clips.ndim == 5 else logits


def _backward(
    network: nn.Module, clips: torch.Tensor, labels: torch.Tensor, options: FitOptions, scaler: torch.amp.GradScaler
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add up the gradient of a batch, part by part; returns its loss and logits (N, K), detached."""
    losses, logits = [], []
    part_size = -(-len(labels) // options.accumulate)
    for part, part_labels in zip(clips.split(part_size), labels.split(part_size), strict=True):
        with torch.autocast(clips.device.type, AMP[options.amp], enabled=options.amp != "off"):
            part_logits = consensus(network, part, channels_last=options.channels_last)
        loss = functional.cross_entropy(part_logits, part_labels, label_smoothing=options.label_smoothing)
        loss = loss * (len(part_labels) / len(labels))
        scaler.scale(loss).backward()
        losses.append(loss.detach())
        logits.append(part_logits.detach())
    return torch.stack(losses).sum(), torch.cat(logits)


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
    network: nn.Module, loader: Iterable, *, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield (clip numbers (N,), labels (N,), logits (N, K) float32) of each batch, on the CPU."""
    was_training = network.training
    network.eval()
    try:
        for clips, labels, numbers in loader:
            yield numbers, labels, consensus(network, clips.to(device, non_blocking=True)).cpu()
    finally:
        network.train(was_training)


@dataclass(frozen=True)
class Evaluation:
    """Means over clips with a label."""

    loss: float
    top1: float
    top3: float


def evaluate(batches: Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> Evaluation:
    """Loss and frame accuracies of what `predict` yields; clips without label (-1) are left out."""
    count, sums = 0, torch.zeros(3, dtype=torch.float64)
    for _, labels, logits in batches:
        known = labels >= 0
        labels, logits = labels[known], logits[known]
        count += len(labels)
        losses = functional.cross_entropy(logits.double(), labels, reduction="none")
        for position, values in enumerate([losses, *(metrics.in_top_k(logits, labels, k) for k in (1, 3))]):
            sums[position] += values.sum()
    return Evaluation(*(sums / count).tolist())


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
