"""What a training has reached: the last step, means since the last reset, the best validation."""

import itertools
from dataclasses import dataclass

import torch


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

    def values(self) -> dict[str, float]:
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
