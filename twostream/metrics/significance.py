"""What a difference on a finite set of videos is worth: bootstrap intervals and McNemar's test."""

from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
SMALLEST_P = 1e-99  # that is told from smaller ones


def bootstrap_interval(values: np.ndarray, *, samples: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of the mean of one value a video, when the videos are drawn again with replacement.

    Values (V,) take few different numbers (right or wrong), so how often each is drawn is drawn at once: that is the
    same distribution. NaN for no videos.
    """
    if not len(values):
        return float("nan"), float("nan")
    numbers, counts = np.unique(values, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=samples)
    means = drawn @ numbers / len(values)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p value, if videos that only one of two ways gets right were as likely either way."""
    number = gained + lost
    ways, total = 1, 0
    for k in range(min(gained, lost) + 1):  # sum of the binomial coefficients, in whole numbers
        total += ways
        ways = ways * (number - k) // (k + 1)
    return min(1.0, 2 * total / 2**number)


@dataclass(frozen=True)
class Comparison:
    """Two ways of judging the same videos, by their video top-1."""

    name: str
    against: str
    difference: float
    """of the rates of right videos, -1 ... 1"""
    interval: tuple[float, float]
    """of the difference, 95 %, videos drawn again in pairs"""
    gained: int
    """videos that only `name` gets right"""
    lost: int
    """videos that only `against` gets right"""
    p_value: float
    """McNemar's exact test"""

    @property
    def p_text(self) -> str:
        """For people; never 0, which no p value is."""
        return f"p = {self.p_value:.2g}" if self.p_value >= SMALLEST_P else f"p < {SMALLEST_P:g}"

    @property
    def verdict(self) -> str:
        """better, worse, or undecided: nothing is claimed unless interval and test agree."""
        low, high = self.interval
        if self.p_value < 1 - LEVEL and (low > 0 or high < 0):
            return "better" if low > 0 else "worse"
        return "undecided"


def compare(name: str, right: np.ndarray, against: str, other_right: np.ndarray) -> Comparison:
    """Compare two ways by which of the same V videos they get right (booleans)."""
    change = right.astype(int) - other_right.astype(int)
    gained, lost = int((change > 0).sum()), int((change < 0).sum())
    return Comparison(
        name, against, float(change.mean()), bootstrap_interval(change), gained, lost, mcnemar(gained, lost)
    )
