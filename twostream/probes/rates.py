"""A short range test for the learning rate: it grows from step to step until the loss does too."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from twostream.engine.progress import Step
from twostream.errors import BadInputError

LOWEST, HIGHEST = 1e-6, 10.0
"""rates of the first and the last step"""
SMOOTHING = 0.9
"""share that the running mean of the loss keeps of itself"""
DIVERGED = 3.0
"""times the lowest mean loss: the test ends there"""
SAFETY = 10.0
"""the suggested rate is this much below that of the lowest loss, where training is about to diverge"""
CLEAR_FALL = 0.95
"""times the loss of the first steps: it must fall this far for a rate to be suggested"""
MAX_SKIPPED = 10
"""steps in a row that are not applied, as their gradient is not finite: fp16 may need as many until its scale fits"""
SHOWN_LINES = 12


def growing_rate(num_steps: int, iteration: int) -> float:
    """Learning rate of iteration 1 ... `num_steps`: LOWEST up to HIGHEST, by the same factor each time."""
    return float(LOWEST * (HIGHEST / LOWEST) ** ((iteration - 1) / max(num_steps - 1, 1)))


@dataclass(frozen=True)
class RateCurve:
    """What a range test has measured (Smith, Cyclical Learning Rates, WACV 2017)."""

    rates: tuple[float, ...]
    """values of --lr"""
    losses: tuple[float, ...]
    """running means"""

    @property
    def suggestion(self) -> float | None:
        """A tenth of the rate at which the loss was lowest; None if it never fell clearly."""
        lowest = min(range(len(self.losses)), key=self.losses.__getitem__)
        if self.losses[lowest] >= CLEAR_FALL * self.losses[0]:
            return None
        return float(f"{self.rates[lowest] / SAFETY:.1g}")

    def to_json(self) -> dict[str, Any]:
        """The curve and the suggestion, as plain values."""
        return {"rates": list(self.rates), "losses": list(self.losses), "suggestion": self.suggestion}

    def __str__(self) -> str:
        step = max(math.ceil(len(self.rates) / SHOWN_LINES), 1)
        top = max(self.losses) or 1.0  # with one class, all are 0
        lines = [f"{'rate':>9}  loss"]
        for rate, loss in list(zip(self.rates, self.losses, strict=True))[step - 1 :: step]:
            lines.append(f"{rate:9.2g}  {loss:.4g}".ljust(20) + "#" * round(40 * loss / top))
        if self.suggestion is None:
            lines.append(
                "no rate lowers the loss clearly: check labels and images (twostream verify), or try more steps, as --find_lr=300"
            )
        else:
            lines.append(
                f"suggested: --lr={self.suggestion:g}, a tenth of the rate at which the loss is lowest; it holds for these flags, such as "
                "--batch_size and --trunk_factor"
            )
        return "\n".join(lines)


def measure(steps: Iterable[Step], *, rate_factor: float = 1.0) -> RateCurve:
    """Follow steps whose learning rate grows, until the loss has diverged or is not finite.

    A training multiplies --lr by `rate_factor`. Raises BadInputError if no step could be taken.
    """
    rates, losses = [], []
    mean = weight = 0.0
    skipped = 0  # in a row
    for step in steps:
        loss = float(step.loss)
        skipped = skipped + 1 if step.skipped else 0
        if not math.isfinite(loss) or skipped == MAX_SKIPPED:
            break
        if skipped:
            continue
        mean, weight = SMOOTHING * mean + (1 - SMOOTHING) * loss, SMOOTHING * weight + 1 - SMOOTHING
        rates.append(step.learning_rate / rate_factor)
        losses.append(mean / weight)
        if losses[-1] > DIVERGED * min(losses):
            break
    if not losses:
        raise BadInputError(
            "no step has a finite loss and gradient: check the images (twostream verify) and the weights, or leave out --amp"
        )
    return RateCurve(tuple(rates), tuple(losses))
