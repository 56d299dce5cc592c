"""The only two loops over batches: `fit` with gradients, `predict` without."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from twostream import metrics
from twostream.errors import EnvironmentFaultError


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
    network: nn.Module, *, learning_rate: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """SGD with momentum; biases learn at twice the rate and without decay, as in Caffe and 2D-kinectics.

    Each group's `lr_factor` is what `fit` multiplies the schedule's rate by.
    """
    biases = [p for name, p in network.named_parameters() if "bias" in name]
    others = [p for name, p in network.named_parameters() if "bias" not in name]
    groups = [
        {"params": others, "lr_factor": 1.0, "weight_decay": weight_decay},
        {"params": biases, "lr_factor": 2.0, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=learning_rate, momentum=momentum)


def step_schedule(learning_rate: float, steps: tuple[int, ...], gamma: float) -> Callable[[int], float]:
    """The rate of an iteration (counted from 1): multiplied by gamma after each of the steps."""
    return lambda iteration: learning_rate * gamma ** sum(step < iteration for step in steps)


@dataclass
class Step:
    """One iteration of `fit`. Numbers stay on the device, so that reading them is the caller's choice."""

    iteration: int
    loss: torch.Tensor
    top1: torch.Tensor
    """share of the batch"""
    top3: torch.Tensor
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
    schedule: Callable[[int], float],
    *,
    device: torch.device,
    first: int,
) -> Iterator[Step]:
    """Train on each batch of the loader and yield after each; iterations count from `first` + 1.

    What happens between two iterations (print, validate, save, stop) is the caller's loop to say.
    """
    network.train()
    start = time.perf_counter()
    for iteration, (clips, labels, _) in enumerate(loader, first + 1):
        clips = clips.to(device, non_blocking=True)
        labels = labels.to(device, non_blocking=True)
        data_seconds = time.perf_counter() - start
        learning_rate = schedule(iteration)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group["lr_factor"]
        logits = network(clips)
        loss = functional.cross_entropy(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        logits = logits.detach()
        top1, top3 = (metrics.in_top_k(logits, labels, k).float().mean() for k in (1, 3))
        seconds = time.perf_counter() - start
        yield Step(iteration, loss.detach(), top1, top3, len(labels), learning_rate, data_seconds, seconds)
        start = time.perf_counter()


@torch.no_grad()
def predict(
    network: nn.Module, loader: Iterable, *, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield (clip numbers (N,), labels (N,), logits (N, K) float32) of each batch, on the CPU."""
    was_training = network.training
    network.eval()
    try:
        for clips, labels, numbers in loader:
            yield numbers, labels, network(clips.to(device, non_blocking=True)).float().cpu()
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

    def update(self, value: float | torch.Tensor, count: int = 1) -> None:
        self.last = value
        self.sum = self.sum + value * count
        self.count += count

    @property
    def mean(self) -> float:
        return float(self.sum) / max(self.count, 1)

    def state(self) -> dict[str, float]:
        return {"last": float(self.last), "sum": float(self.sum), "count": self.count}

    def load_state(self, state: dict[str, float]) -> None:
        self.last, self.sum, self.count = state["last"], state["sum"], state["count"]
