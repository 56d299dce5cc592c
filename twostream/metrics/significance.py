"""Is a difference on a finite set of videos more than chance? Bootstrap intervals, McNemar's test and standard errors."""

from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
"""of the intervals; the test claims a difference below 1 - LEVEL"""
SMALLEST_P = 1e-99
"""smaller p values are printed as "below" this one"""


def bootstrap_interval(values: np.ndarray, *, samples: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean of (V,) values, one per video, when videos are resampled with replacement.

    The values are few different numbers (correct or not), so the count of each is drawn instead of single videos: that
    is the same distribution. NaN if there are no videos.
    """
    if not len(values):
        return float("nan"), float("nan")
    distinct, counts = np.unique(values, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=samples)
    means = drawn @ distinct / len(values)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p value of `gained` against `lost` videos.

    The null hypothesis: a video that only one of the two methods gets right is equally likely to be either's.
    """
    num_videos = gained + lost
    binomial, total = 1, 0
    for k in range(min(gained, lost) + 1):  # sum of the binomial coefficients, in whole numbers
        total += binomial
        binomial = binomial * (num_videos - k) // (k + 1)
    p_value: float = 2 * total / 2**num_videos
    return min(1.0, p_value)


def is_clearly_smaller(losses: np.ndarray, others: np.ndarray) -> bool:
    """Is the mean of (V,) losses below that of the others, on the same videos, by more than the standard error of the difference?

    For choices among what was tried on the training videos, where a smaller difference is mostly chance; it is no claim.
    """
    gain = others - losses
    return bool(gain.mean() > gain.std() / np.sqrt(len(gain)))


@dataclass(frozen=True)
class Comparison:
    """Two rows of the result table compared by video top-1 on the same videos."""

    name: str
    against: str
    difference: float
    """of the two accuracies, -1 ... 1"""
    interval: tuple[float, float]
    """95 % interval of the difference; videos resampled in pairs"""
    gained: int
    """videos that only `name` gets right"""
    lost: int
    """videos that only `against` gets right"""
    p_value: float
    """of McNemar's exact test"""

    @property
    def p_text(self) -> str:
        """The p value for people; never 0, which no p value is."""
        return f"p = {self.p_value:.2g}" if self.p_value >= SMALLEST_P else f"p < {SMALLEST_P:g}"

    @property
    def verdict(self) -> str:
        """One of better, worse, undecided. Nothing is claimed unless the interval and the test agree."""
        low, high = self.interval
        if self.p_value < 1 - LEVEL and (low > 0 or high < 0):
            return "better" if low > 0 else "worse"
        return "undecided"


def compare(name: str, is_correct: np.ndarray, against: str, is_correct_against: np.ndarray) -> Comparison:
    """Compare two rows by which of the same V videos each gets right; booleans (V,)."""
    change = is_correct.astype(int) - is_correct_against.astype(int)
    gained, lost = int((change > 0).sum()), int((change < 0).sum())
    return Comparison(
        name, against, float(change.mean()), bootstrap_interval(change), gained, lost, mcnemar(gained, lost)
    )
