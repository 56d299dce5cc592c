"""A linear head on features: multinomial logistic regression, its strength and confidence by cross-validation."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits

from twostream.counts import counted
from twostream.errors import BadInputError
from twostream.metrics.significance import is_clearly_smaller
from twostream.threads import map_in_threads

STRENGTHS = tuple(10.0 ** (-k / 2) for k in range(2, 13))
"""penalties on the squared weights that are tried, the strongest first; for features of unit variance, divided by the root of
their number, and a loss that is the mean over the videos"""
ABSENT = 5.0
"""how far the logits of a class without training videos lie below all others"""
TEMPERATURES = (0.02, 50.0)
"""range of the temperature"""
PATIENCE = 2
"""weaker strengths in a row that are tried without a smaller loss; the weakest ones take most of the time"""


@dataclass(frozen=True)
class LinearHead:
    """A last layer for K classes of D features, and how well such a layer did on videos that it had not seen."""

    weight: np.ndarray
    """(K, D) float64; the temperature is part of it, as of the bias"""
    bias: np.ndarray
    """(K,)"""
    strength: float
    """one of STRENGTHS"""
    temperature: float
    """by which logits were divided, so that the probabilities of unseen videos are honest"""
    logits: np.ndarray
    """(V, K): of each training video, by a head that was fitted without the videos of its fold; means over the draws of the folds"""
    labels: np.ndarray
    """(V,)"""
    num_folds: int
    num_draws: int
    """of the folds"""
    tried: dict[float, float]
    """strength -> share of the videos that it got right in cross-validation, in the first draw"""
    loss: float
    """of the training videos in cross-validation: the mean of -log(probability of the true class)"""
    mirrored: bool
    """was it fitted to mirror images too?"""
    other_loss: float | None = None
    """mean of the `losses` of the head with mirror images, if this one is without, or the other way round; None if only one was fitted"""

    @property
    def losses(self) -> np.ndarray:
        """Of each training video in cross-validation (V,): -log(probability of the true class)."""
        return np.asarray(-log_softmax(self.logits, axis=1)[np.arange(len(self.labels)), self.labels])

    @property
    def accuracy(self) -> float:
        """Share of the training videos that were right in cross-validation, 0 ... 1."""
        return float((self.logits.argmax(axis=1) == self.labels).mean())

    @property
    def standard_error(self) -> float:
        """Of the accuracy: a binomial one."""
        return float(np.sqrt(self.accuracy * (1 - self.accuracy) / len(self.labels)))

    def record(self) -> dict[str, Any]:
        """What a run keeps of it, as plain values."""
        return {
            "cross_validated_top1": self.accuracy, "standard_error": self.standard_error, "cross_validated_loss": self.loss,
            "videos": len(self.labels), "folds": self.num_folds, "draws": self.num_draws, "strength": self.strength, "temperature": self.temperature,
            "mirrored": self.mirrored,
        }  # fmt: skip

    def __str__(self) -> str:
        tried = ", ".join(f"{strength:.1g}: {100 * share:.1f}" for strength, share in self.tried.items())
        used, otherwise = ("used", "without") if self.mirrored else ("left out", "with")
        mirroring = (
            ""
            if self.other_loss is None
            else f"; mirror images {used}: loss {self.losses.mean():.3f}, {otherwise} them {self.other_loss:.3f}"
        )
        return (
            f"linear head: {100 * self.accuracy:.1f} ± {100 * self.standard_error:.1f} % of {counted(len(self.labels), 'training video')} right in "
            f"cross-validation ({self.num_folds} folds, {counted(self.num_draws, 'draw')}); strength {self.strength:.1g} (% right by strength: {tried}); "
            f"temperature {self.temperature:.2f}, which is part of its weights{mirroring}"
        )


def fit_linear_head(
    features: np.ndarray, labels: np.ndarray, folds: np.ndarray, *, classes: tuple[str, ...], mirrored: Sequence[bool],
    choose_mirroring: bool = False, balance: bool = False,
) -> LinearHead:  # fmt: skip
    """Fit a head to features (V, rows, D) of V videos with label indices (V,) and folds (V,), or several draws of them (draws, V).

    The rows of a video, its parts and views, are examples of their own, with the weight of one together; those that are
    `mirrored` (rows,) are for fitting only, as tests see videos as they are. With `choose_mirroring` they are left out if the
    cross-validated loss is clearly smaller without them, as where two classes are each other's mirror image. `balance` gives
    the same weight to each class. Features are brought to unit variance first, which becomes part of the weights. The
    strength is the one with the smallest cross-validated loss in the first draw, at its best temperature: with few videos,
    accuracies have ties. On basketball, a head's loss differs by .03 from draw to draw. Raises BadInputError where all videos are of one class.
    """
    is_mirrored = np.array(mirrored)
    folds = np.atleast_2d(folds)
    head = _fit(features, labels, folds, classes=classes, mirrored=is_mirrored, balance=balance)
    if not (choose_mirroring and head.mirrored):
        return head
    plain = _fit(
        features[:, ~is_mirrored], labels, folds, classes=classes, mirrored=is_mirrored[~is_mirrored], balance=balance
    )
    if is_clearly_smaller(plain.losses, head.losses):
        return replace(plain, other_loss=float(head.losses.mean()))
    return replace(head, other_loss=float(plain.losses.mean()))


def _fit(
    features: np.ndarray, labels: np.ndarray, folds: np.ndarray, *, classes: tuple[str, ...], mirrored: np.ndarray, balance: bool
) -> LinearHead:  # fmt: skip
    """A head for all rows, see `fit_linear_head`."""
    present = np.unique(labels)
    if len(present) < 2:
        raise BadInputError(
            f"all training videos are of class {classes[present[0]]!r}, expected at least two classes: add videos of others to "
            "the list, and run twostream annotate again"
        )
    num_classes = len(classes)
    seen = features[:, ~mirrored].mean(axis=1)  # (V, D)

    def paths_without(folds: np.ndarray, strengths: Sequence[float]) -> Iterator[np.ndarray]:
        """For each strength, logits (V, K) of heads that were fitted without the videos of a fold."""
        outside = [folds != fold for fold in np.unique(folds)]
        paths = [_path(features[others], labels[others], num_classes, strengths, balance=balance) for others in outside]
        for _ in strengths:
            # On busy machines, threads that wait for each other in small products take ten times as long.
            with threadpool_limits(1):
                heads = map_in_threads(next, paths)
            logits = np.empty((len(labels), num_classes))
            for others, (weight, bias) in zip(outside, heads, strict=True):
                logits[~others] = seen[~others] @ weight.T + bias
            yield logits

    tried: list[np.ndarray] = []  # cross-validated logits (V, K) by strength
    losses: list[float] = []
    for logits in paths_without(folds[0], STRENGTHS):
        tried.append(logits)
        losses.append(_fit_temperature(logits[None], labels)[1])
        best = int(np.argmin(losses))
        if len(losses) - 1 - best >= PATIENCE:
            break
    strength = STRENGTHS[best]
    draws = np.stack([tried[best], *(next(paths_without(draw, [strength])) for draw in folds[1:])])
    temperature, loss = _fit_temperature(draws, labels)
    weight, bias = next(_path(features, labels, num_classes, [strength], balance=balance))
    accuracies = [float((logits.argmax(axis=1) == labels).mean()) for logits in tried]
    return LinearHead(
        weight / temperature, bias / temperature, strength, temperature, draws.mean(axis=0) / temperature, labels,
        len(np.unique(folds[0])), len(folds), dict(zip(STRENGTHS, accuracies, strict=False)), loss, bool(mirrored.any()),
    )  # fmt: skip


def _path(
    features: np.ndarray, labels: np.ndarray, num_classes: int, strengths: Sequence[float], *, balance: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Weight (K, D) and bias (K,) for each strength; each fit starts from the one before."""
    from sklearn.linear_model import LogisticRegression

    num_videos, num_views, size = features.shape
    rows = features.reshape(-1, size).astype(np.float64)
    label_of_row = np.repeat(labels, num_views)
    present, counts = np.unique(labels, return_counts=True)
    share = (1 / len(present) / counts) if balance else np.full(len(present), 1 / num_videos)
    row_weights = share[np.searchsorted(present, label_of_row)] / num_views
    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    # A feature that hardly ever moved in these videos must not rule others: 1 % of the mean deviation counts as noise.
    scale = 1 / np.maximum(deviation + 0.01 * deviation.mean(), np.finfo(np.float32).tiny) / np.sqrt(size)
    rows = (rows - mean) * scale
    axes = None
    if len(rows) < size:  # in coordinates that keep the angles between the rows, the fit is the same and much quicker
        rows, axes = _compress(rows)
    solver = LogisticRegression(max_iter=1000, warm_start=True)
    for strength in strengths:
        weight, bias = np.zeros((num_classes, size)), np.full(num_classes, -ABSENT)
        if len(present) == 1:  # the other folds have no video of another class
            bias[present] = 0
            yield weight, bias
            continue
        solver.C = 1 / strength
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # a weak penalty may need more steps; a fit that is nearly done is tried too
            solver.fit(rows, label_of_row, row_weights)
        coefficients, intercepts = solver.coef_, solver.intercept_
        if len(present) == 2:  # a single logit, of the second class against the first
            coefficients, intercepts = (np.concatenate([-part, part]) / 2 for part in (coefficients, intercepts))
        lowest = (rows @ coefficients.T + intercepts).min()
        weight[present] = (coefficients if axes is None else coefficients @ axes) * scale
        bias[:] = lowest - ABSENT
        bias[present] = intercepts - weight[present] @ mean
        yield weight, bias


def _compress(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (N, N) of N rows (N, D), and axes (N, D), orthonormal: rows = coordinates @ axes.

    By a Cholesky decomposition of the inner products of the rows, 8 times as fast as a singular value decomposition of them.
    Where the rows do not span N dimensions, as rows about their mean do not, what is added keeps it possible; it
    counts as little as noise a hundred thousand times smaller than the features.
    """
    products = rows @ rows.T
    products[np.diag_indices_from(products)] += 1e-10 * products.diagonal().mean()
    coordinates = np.linalg.cholesky(products)
    return coordinates, solve_triangular(coordinates, rows, lower=True)


def _fit_temperature(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The temperature under which the labels of V videos are most likely by logits (draws, V, K), and the loss under it.

    As if one more video had been seen that was wrong: else confidence has no limit where all videos are right.
    """
    _, num_videos, num_classes = logits.shape
    targets = np.full((num_videos, num_classes), 1 / (num_videos + 2) / num_classes)
    targets[np.arange(num_videos), labels] += 1 - 1 / (num_videos + 2)

    def loss(log_temperature: float) -> float:
        return float(-(targets * log_softmax(logits / np.exp(log_temperature), axis=2)).sum(axis=2).mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded")
    return float(np.exp(found.x)), float(found.fun)
