"""Fusion weights fitted to a split by cross-fitting: no video is fused by weights that were fitted to its label.

The streams' class probabilities of a video are mixed, or multiplied (method product). The weights of a mixture are those under
which the true classes are most likely; expectation maximisation finds them, and needs the probabilities of the true classes only.
Of multi-label videos, each class of each video is a case of its own, whose truth is that the class occurs, or that it does not.
"""

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from twostream.counts import counted
from twostream.errors import BadInputError
from twostream.fusion.consensus import softmax
from twostream.metrics import accuracy
from twostream.threads import Progress, map_in_threads, no_progress

METHODS = {
    "global": "a weight for each stream",
    "class": "a weight for each stream and class, close to the stream's overall weight where a class has few videos",
    "temperature": "as global, after each stream's probabilities are sharpened or softened",
    "accuracy": "a weight for each stream, the mean of those under which many videos are right and true classes are likely; for few videos",
    "product": "a power for each stream: probabilities are raised to it and multiplied; for few videos and streams whose confidence is honest, as that of linear heads",
}
FOR_SOFTMAX = ("temperature", "product")
"""methods that need the probabilities of a video to sum to 1, so not for multi-label videos"""
PRIOR_VIDEOS = 10.0
"""a class's weights start as if this many videos had been seen with the weights of all classes"""
NUM_STEPS = 20
"""method accuracy tries shares in steps of 1/20, coarser ones where there are more than three streams"""
MAX_TRIED = 2000
"""mixtures that method accuracy tries"""
EVIDENCE = 0.5
"""of a video, for methods accuracy and product: networks were chosen by these videos, so each counts half. With accuracy, of nine pairs of streams on three
sets of clips, cross-fitted, none was worse than its better stream, and the mean gain was 1.8 points; shares with the best
value gained 0.7, and lost up to 0.6"""
POWER_STEPS = (6, 3, 1)
"""method product tries powers from 0 to HIGHEST_POWER in so few steps that there are at most MAX_TRIED products. On the pairs of RGB and
flow of the same three sets, cross-fitted, it gained 2.4 points over the better stream, and lost 0.6 at most, method
accuracy gained 1.4, and powers of 1 gained 1.6 and lost up to 6.9"""
HIGHEST_POWER = 1.5
"""1 is right for streams that are honest and independent"""
SMALLEST = 1e-30
"""a probability of 0 becomes this, so that its logarithm is finite"""


@dataclass(frozen=True)
class FittedWeights:
    """A way to mix S streams."""

    weights: np.ndarray
    """(S,), or (S, K) with a weight for each class, which sum to 1 over the streams; or the powers (S,) of a product"""
    temperatures: np.ndarray
    """(S,): probabilities are raised to the power 1 / temperature and normalised; 1 changes nothing"""
    is_product: bool = False
    """are probabilities raised to the weights and multiplied, instead of mixed?"""

    def fuse(self, probabilities: list[np.ndarray]) -> np.ndarray:
        """Probabilities (n, K) of S streams -> (n, K) fused probabilities."""
        if self.is_product:
            return _product(probabilities, self.weights)
        tempered = (_temper(p, t) for p, t in zip(probabilities, self.temperatures, strict=True))
        return np.asarray(sum(weight * p for weight, p in zip(self.weights, tempered, strict=True)))

    def to_json(self) -> dict[str, Any]:
        """Plain lists, as report.json has them."""
        kind = {"is_product": True} if self.is_product else {}  # versions before it could not read it
        return {"weights": self.weights.tolist(), "temperatures": self.temperatures.tolist()} | kind


def _product(probabilities: list[np.ndarray], powers: np.ndarray) -> np.ndarray:
    """Probabilities (n, K) of S streams, raised to the powers (S,), multiplied and normalised."""
    logs = sum(power * np.log(np.maximum(p, SMALLEST)) for power, p in zip(powers, probabilities, strict=True))
    return softmax(np.asarray(logs))


def _temper(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    if temperature == 1:
        return probabilities
    powers: np.ndarray = np.maximum(probabilities, SMALLEST) ** (1 / temperature)
    powers /= powers.sum(axis=1, keepdims=True)
    return powers


def fit_weights(method: str, probabilities: list[np.ndarray], labels: np.ndarray) -> FittedWeights:
    """Fit to S arrays (n, K) of probabilities and n labels, none of them missing; `method` is one of METHODS.

    Labels are (n,) label indices or, multi-label, (n, K); methods FOR_SOFTMAX are for the former only.
    """
    temperatures = np.ones(len(probabilities))
    if method == "product":
        return FittedWeights(_fit_powers(probabilities, labels), temperatures, is_product=True)
    if method == "temperature":
        assert labels.ndim == 1, "temperatures are those of a softmax"
        temperatures = np.array([_fit_temperature(p, labels) for p in probabilities])
    tempered = (_temper(p, t) for p, t in zip(probabilities, temperatures, strict=True))
    true = np.stack([np.maximum(_of_truth(p, labels), SMALLEST) for p in tempered])
    weights = _fit_accuracy(probabilities, labels) if method == "accuracy" else _fit_shares(true)
    if method == "class":
        num_classes = probabilities[0].shape[1]
        class_of_case = labels if labels.ndim == 1 else np.tile(np.arange(num_classes), len(labels))
        weights = _fit_class_shares(true, class_of_case, num_classes, weights)
    return FittedWeights(weights, temperatures)


def _of_truth(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Probabilities (n, K) of what is true: of the true classes (n,) or, multi-label, of each class's truth (n K,)."""
    if labels.ndim == 1:
        return np.asarray(probabilities[np.arange(len(labels)), labels])
    return np.asarray(np.where(labels > 0, probabilities, 1 - probabilities)).ravel()


def _fit_shares(true: np.ndarray) -> np.ndarray:
    """(S, n) probabilities of the true classes -> (S,) weights under which the true classes are most likely."""
    shares = np.full(len(true), 1 / len(true))
    for _ in range(1000):
        responsibilities = shares[:, None] * true
        before, shares = shares, (responsibilities / responsibilities.sum(axis=0)).mean(axis=1)
        if np.abs(shares - before).max() < 1e-7:
            break
    return shares


def _fit_accuracy(probabilities: list[np.ndarray], labels: np.ndarray) -> np.ndarray:
    """The mean of all shares (S,), see `_mean_of`. The likelihood of a mixture alone cannot see that two streams each rule out what
    the other leaves open: it is linear in the shares where both are equally sure.
    """

    def mix(shares: np.ndarray) -> np.ndarray:
        return np.asarray(sum(share * p for share, p in zip(shares, probabilities, strict=True)))

    return _mean_of(_mixtures(len(probabilities)), mix, labels)


def _fit_powers(probabilities: list[np.ndarray], labels: np.ndarray) -> np.ndarray:
    """The mean of all powers (S,), see `_mean_of`; of more than ten streams, of those that leave out one stream or none."""
    num_streams = len(probabilities)
    steps = next((n for n in POWER_STEPS if (n + 1) ** num_streams <= MAX_TRIED), 0)
    levels = np.linspace(0, HIGHEST_POWER, steps + 1)
    powers = (  # [1:]: not 0 for all
        np.array(list(itertools.product(levels, repeat=num_streams)))[1:]
        if steps
        else 1 - np.eye(num_streams + 1, num_streams)
    )
    return _mean_of(powers, functools.partial(_product, probabilities), labels)


def _mean_of(candidates: np.ndarray, fuse: Callable[[np.ndarray], np.ndarray], labels: np.ndarray) -> np.ndarray:
    """The mean of candidates (N, S), each as likely as the videos make it: by what is right, and by the probability of the truth.

    `fuse` computes probabilities (n, K) from one of them. With few videos many are about as good, and the best of them is
    chance; their mean loses less. Accuracy alone does not see a stream that says nothing.
    """
    values = np.empty(len(candidates))
    for number, candidate in enumerate(candidates):
        fused = fuse(candidate)
        is_right = fused.argmax(axis=1) == labels if labels.ndim == 1 else (fused > 0.5) == labels
        values[number] = is_right.mean() + np.log(np.maximum(_of_truth(fused, labels), SMALLEST)).mean()
    evidence = EVIDENCE * len(labels) * values
    likely = np.exp(evidence - evidence.max())
    mean: np.ndarray = likely @ candidates / likely.sum()
    return mean


def _mixtures(num_streams: int) -> np.ndarray:
    """Shares (N, S) that sum to 1, evenly spread; no more than MAX_TRIED, but always the equal one and each stream alone."""
    steps = next(
        n for n in range(NUM_STEPS, 0, -1) if n == 1 or math.comb(n + num_streams - 1, num_streams - 1) <= MAX_TRIED
    )
    bars = np.array(list(itertools.combinations(range(steps + num_streams - 1), num_streams - 1)), int)
    bars = bars.reshape(len(bars), num_streams - 1)
    edges = np.hstack([np.full((len(bars), 1), -1), bars, np.full((len(bars), 1), steps + num_streams - 1)])
    return np.vstack([(np.diff(edges, axis=1) - 1) / steps, np.full((1, num_streams), 1 / num_streams)])


def _fit_class_shares(true: np.ndarray, labels: np.ndarray, num_classes: int, prior: np.ndarray) -> np.ndarray:
    """As `_fit_shares`, for the videos of each class, with prior weights (S,); returns (S, K)."""
    counts = np.bincount(labels, minlength=num_classes)
    shares = np.tile(prior[:, None], num_classes)
    for _ in range(1000):
        responsibilities = shares[:, labels] * true
        responsibilities /= responsibilities.sum(axis=0)
        sums = np.stack([np.bincount(labels, weights=stream, minlength=num_classes) for stream in responsibilities])
        before, shares = shares, (PRIOR_VIDEOS * prior[:, None] + sums) / (PRIOR_VIDEOS + counts)
        if np.abs(shares - before).max() < 1e-6:
            break
    return shares


def _fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature, within 1/20 ... 20, under which the true classes are most likely: Newton's method.

    As a function of the exponent 1 / temperature the likelihood has a single maximum.
    """
    logs = np.log(np.maximum(probabilities, SMALLEST))
    target = logs[np.arange(len(labels)), labels].mean()
    exponent = 1.0
    for _ in range(50):
        powers = np.exp(exponent * logs)
        powers /= powers.sum(axis=1, keepdims=True)
        mean = np.einsum("nk,nk->n", powers, logs)
        slope = target - mean.mean()
        curvature = max(float((np.einsum("nk,nk,nk->n", powers, logs, logs) - mean**2).mean()), 1e-12)
        # A step at most doubles or halves the exponent, so that a flat likelihood cannot throw it far away.
        before, exponent = exponent, float(np.clip(exponent + slope / curvature, exponent / 2, exponent * 2))
        exponent = min(max(exponent, 0.05), 20.0)
        if abs(exponent - before) < 1e-6 * before:
            break
    return 1 / exponent


@dataclass(frozen=True)
class CrossFit:
    """Each video fused by weights that were fitted on the other folds."""

    scores: np.ndarray
    """(V, K) probabilities; NaN for videos that not all streams scored"""
    overall: FittedWeights
    """fitted on all videos: for use on other splits, never for the results of this one"""
    by_fold: list[FittedWeights]
    """fitted on the videos outside each fold"""


def cross_fit(
    method: str,
    probabilities: list[np.ndarray],
    labels: np.ndarray,
    *,
    folds: int = 5,
    seed: int = 0,
    progress: Progress = no_progress,
) -> CrossFit:
    """Fit to S arrays (V, K) of probabilities, rows of NaN without scores, and labels as `ScoreTable.labels`.

    BadInputError if fewer than two videos have a label and scores of all streams.
    """
    scored = np.flatnonzero(~np.any([np.isnan(p).any(axis=1) for p in probabilities], axis=0))
    has_label = accuracy.has_label(labels[scored])
    num_folds = min(folds, int(has_label.sum()))
    if num_folds < 2:
        raise BadInputError(
            f"{counted(int(has_label.sum()), 'video has', 'videos have')} a label and scores of all streams, expected at least 2 to fit weights; "
            "score more videos, or leave out --fit_weights"
        )
    fold_of_video = np.empty(len(scored), int)
    for members in (np.flatnonzero(has_label), np.flatnonzero(~has_label)):
        fold_of_video[np.random.default_rng(seed).permutation(members)] = np.arange(len(members)) % num_folds

    def select(members: np.ndarray) -> list[np.ndarray]:
        return [p[scored[members]] for p in probabilities]

    overall = fit_weights(method, select(np.flatnonzero(has_label)), labels[scored][has_label])
    scores = np.full(probabilities[0].shape, np.nan)

    def fit_without(fold: int) -> FittedWeights:
        """Fit on the other folds, and fuse the videos of this one."""
        members, others = np.flatnonzero(fold_of_video == fold), np.flatnonzero(has_label & (fold_of_video != fold))
        fitted = fit_weights(method, select(others), labels[scored[others]])
        scores[scored[members]] = fitted.fuse(select(members))
        return fitted

    return CrossFit(
        scores, overall, map_in_threads(fit_without, range(num_folds), progress=progress, name=f"fit {method}")
    )
