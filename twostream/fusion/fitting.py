"""Fusion weights fitted to a split, such that no video is judged by weights that have seen its label.

The streams' class probabilities of a video are mixed. A weight says how often a stream is the one to believe: it is its
share of the mixture under which the true classes are most likely (expectation maximisation, which needs the
probabilities of the true classes only).
"""

from dataclasses import dataclass

import numpy as np

from twostream.errors import BadInputError
from twostream.fusion.consensus import in_threads

METHODS = {
    "global": "a weight for each stream",
    "class": "a weight for each stream and class, drawn to the stream's where videos are few",
    "temperature": "as global, each stream's probabilities first sharpened or softened",
}
PRIOR_VIDEOS = 10.0
"""a class's weights start as if they had seen so many videos with the weights of all classes"""
SMALLEST = 1e-30
"""a probability of nothing, so that its logarithm is finite"""


@dataclass(frozen=True)
class FittedWeights:
    """A way to mix S streams."""

    weights: np.ndarray
    """(S,), or (S, K) with a weight for each class; of a class they sum to 1"""
    temperatures: np.ndarray
    """(S,): the exponents of the probabilities are 1 / temperature; 1 leaves them"""

    def fuse(self, probabilities: list[np.ndarray]) -> np.ndarray:
        """Probabilities (n, K) of S streams -> (n, K)."""
        tempered = (_temper(p, t) for p, t in zip(probabilities, self.temperatures, strict=True))
        return sum(weight * p for weight, p in zip(self.weights, tempered, strict=True))

    def to_json(self) -> dict:
        return {"weights": self.weights.tolist(), "temperatures": self.temperatures.tolist()}


def _temper(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    if temperature == 1:
        return probabilities
    powers = np.maximum(probabilities, SMALLEST) ** (1 / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def fit(method: str, probabilities: list[np.ndarray], labels: np.ndarray) -> FittedWeights:
    """Fit to S arrays (n, K) of probabilities and n labels."""
    temperatures = np.ones(len(probabilities))
    if method == "temperature":
        temperatures = np.array([_fit_temperature(p, labels) for p in probabilities])
    rows = np.arange(len(labels))
    true = np.stack(
        [np.maximum(_temper(p, t)[rows, labels], SMALLEST) for p, t in zip(probabilities, temperatures, strict=True)]
    )
    weights = _fit_shares(true)
    if method == "class":
        weights = _fit_class_shares(true, labels, probabilities[0].shape[1], weights)
    return FittedWeights(weights, temperatures)


def _fit_shares(true: np.ndarray) -> np.ndarray:
    """(S, n) probabilities of the true classes -> (S,) the shares under which they are most likely."""
    shares = np.full(len(true), 1 / len(true))
    for _ in range(1000):
        believed = shares[:, None] * true
        before, shares = shares, (believed / believed.sum(axis=0)).mean(axis=1)
        if np.abs(shares - before).max() < 1e-7:
            break
    return shares


def _fit_class_shares(true: np.ndarray, labels: np.ndarray, num_classes: int, prior: np.ndarray) -> np.ndarray:
    """The same for each class's videos, with a prior; (S, K)."""
    counts = np.bincount(labels, minlength=num_classes)
    shares = np.tile(prior[:, None], num_classes)
    for _ in range(1000):
        believed = shares[:, labels] * true
        believed /= believed.sum(axis=0)
        sums = np.stack([np.bincount(labels, weights=of_stream, minlength=num_classes) for of_stream in believed])
        before, shares = shares, (PRIOR_VIDEOS * prior[:, None] + sums) / (PRIOR_VIDEOS + counts)
        if np.abs(shares - before).max() < 1e-6:
            break
    return shares


def _fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature under which the true classes are most likely, within 1/20 ... 20: Newton's method.

    In the exponent 1 / temperature the likelihood has one maximum.
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
        # A step at most doubles or halves, so that it cannot leave what is sensible.
        before, exponent = exponent, float(np.clip(exponent + slope / curvature, exponent / 2, exponent * 2))
        exponent = min(max(exponent, 0.05), 20.0)
        if abs(exponent - before) < 1e-6 * before:
            break
    return 1 / exponent


@dataclass(frozen=True)
class CrossFit:
    """Each video fused by weights that were fitted on the other folds."""

    scores: np.ndarray
    """(V, K); NaN for videos that not all streams scored"""
    of_all: FittedWeights
    """fitted on all videos: for other splits, never for this one's results"""
    of_folds: list[FittedWeights]


def cross_fit(
    method: str, probabilities: list[np.ndarray], labels: np.ndarray, *, folds: int = 5, seed: int = 0
) -> CrossFit:
    """S arrays (V, K) of probabilities, NaN where a stream has none; labels (V,), -1 where there is none."""
    scored = np.flatnonzero(~np.any([np.isnan(p).any(axis=1) for p in probabilities], axis=0))
    known = labels[scored] >= 0
    folds = min(folds, int(known.sum()))
    if folds < 2:
        raise BadInputError(
            f"{known.sum()} videos have a label and scores of all streams, expected at least 2 to fit weights"
        )
    fold = np.empty(len(scored), int)
    for places in (np.flatnonzero(known), np.flatnonzero(~known)):
        fold[np.random.default_rng(seed).permutation(places)] = np.arange(len(places)) % folds

    def of(places: np.ndarray) -> list[np.ndarray]:
        return [p[scored[places]] for p in probabilities]

    of_all = fit(method, of(np.flatnonzero(known)), labels[scored][known])
    result = np.full(probabilities[0].shape, np.nan)

    def fit_others(number: int) -> FittedWeights:
        others, these = np.flatnonzero(known & (fold != number)), np.flatnonzero(fold == number)
        fitted = fit(method, of(others), labels[scored[others]])
        result[scored[these]] = fitted.fuse(of(these))
        return fitted

    of_folds = in_threads(fit_others, range(folds))
    return CrossFit(result, of_all, of_folds)
