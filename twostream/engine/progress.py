"""What a training has reached: the last step, means since the last reset, the best validation."""

import itertools
from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class Step:
    """One iteration of `fit`. The measurements stay on the device, so that the caller chooses when to read them."""

    iteration: int
    """counted from 1"""
    loss: torch.Tensor
    """float32 scalar, as are the accuracies"""
    top1: torch.Tensor | None
    """share of the batch, 0 ... 1; None of multi-label clips, which have no single true class"""
    top3: torch.Tensor | None
    skipped: torch.Tensor
    """bool scalar: loss or gradient was not finite, so the network did not change"""
    clip_numbers: torch.Tensor
    """int64 (N,): numbers of the batch's items, as the loader gave them; with several ranks, of this rank's part"""
    unreadable: tuple[str, ...]
    """why each unreadable image was replaced by another item"""
    batch_size: int
    """clips of all ranks together"""
    learning_rate: float
    data_seconds: float
    """how long the loader was waited for"""
    seconds: float
    """the whole iteration, that wait included"""


class Meter:
    """Last value and mean of a quantity over the batches since the last reset."""

    last: float | torch.Tensor
    sum: float | torch.Tensor
    count: int | torch.Tensor

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start again from no batches."""
        self.last, self.sum, self.count = 0.0, 0.0, 0

    def update(self, value: float | torch.Tensor, count: int = 1, *, skipped: torch.Tensor | None = None) -> None:
        """Add a value that is the mean of `count` items.

        It is not counted if `skipped`, a bool scalar, is true; the device evaluates that, and Python does not read it.
        """
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
        """Mean over all items since the last reset; 0 if there were none."""
        return float(self.sum) / max(int(self.count), 1)

    def state(self) -> dict[str, float]:
        """What `load_state` takes, as plain values."""
        return {"last": float(self.last), "sum": float(self.sum), "count": int(self.count)}

    def load_state(self, state: dict[str, float]) -> None:
        """Continue from what `state` returned."""
        self.last, self.sum, self.count = float(state["last"]), float(state["sum"]), int(state["count"])


class Progress:
    """How far a training is: means since the last reset, skipped steps, unreadable images, the best validation."""

    def __init__(self, *, has_accuracies: bool = True) -> None:
        names = ("seconds", "data_seconds", "loss", *(("top1", "top3") if has_accuracies else ()))
        self.meters = {name: Meter() for name in names}
        self.recent = {name: Meter() for name in ("loss", "top1") if name in names}
        """over the steps since the last `take_skipped`"""
        self.best = 0.0
        """the best validation's top-1 or, of multi-label clips, mean average precision"""
        self.kept = -1.0
        """the same of the checkpoint that --keep_best keeps; -1 if there is none"""
        self.unreadable = 0
        self.stale = 0
        """validations since the one that --keep_best keeps"""
        self.unread: list[Step] = []
        """steps since the last `take_skipped`"""

    def add(self, step: Step) -> None:
        """Count a step, without waiting for the device."""
        for name, meter in self.meters.items():
            if "seconds" in name:
                meter.update(getattr(step, name))
            else:
                meter.update(getattr(step, name), step.batch_size, skipped=step.skipped)
        for name, meter in self.recent.items():
            meter.update(getattr(step, name), step.batch_size, skipped=step.skipped)
        self.unread.append(step)

    def values(self) -> dict[str, float]:
        """Last values by name, and means by mean_<name>; waits for a GPU, as do the methods below.

        recent_<name> are means over the steps since the last `take_skipped`, if any of these was applied.
        """
        last = {name: float(meter.last) for name, meter in self.meters.items()}
        recent = {f"recent_{name}": meter.mean for name, meter in self.recent.items() if int(meter.count)}
        return last | {f"mean_{name}": meter.mean for name, meter in self.meters.items()} | recent

    def take_skipped(self) -> list[Step]:
        """The steps that were not applied, since the last call."""
        steps, self.unread = self.unread, []
        for meter in self.recent.values():
            meter.reset()
        return list(itertools.compress(steps, torch.stack([step.skipped for step in steps]).tolist())) if steps else []

    def reset(self) -> None:
        """Start the means again; skipped steps, unreadable images and the best validation stay."""
        for meter in self.meters.values():
            meter.reset()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps and `load_state` takes, as plain values."""
        meters, recent = (
            {name: meter.state() for name, meter in group.items()} for group in (self.meters, self.recent)
        )
        best = {
            "best_top1": self.best,
            "kept_top1": self.kept,
            "stale": self.stale,
        }  # as they were called before there was another measure
        return best | {"unreadable": self.unreadable, "meters": meters, "recent": recent}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned, perhaps in an older version."""
        self.best, self.unreadable = float(state["best_top1"]), int(state.get("unreadable", 0))
        self.kept, self.stale = float(state.get("kept_top1", -1)), int(state.get("stale", 0))
        for name, meter in self.meters.items():
            meter.load_state(state["meters"][name])
        for name, values in state.get("recent", {}).items():
            self.recent[name].load_state(values)
