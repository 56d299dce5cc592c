"""The rows of a report, their predictions and comparisons: build_report."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from twostream.errors import BadInputError
from twostream.files import write_text
from twostream.fusion import fitting
from twostream.fusion.clip_results import clip_ranks, fused_clip_ranks
from twostream.fusion.consensus import Consensus, in_threads, softmax
from twostream.fusion.streams import fuse, join
from twostream.fusion.sweep import Point, sweep
from twostream.metrics import accuracy
from twostream.metrics.significance import Comparison, bootstrap_interval, compare
from twostream.scores.table import ScoreTable

COLUMNS = {
    "frame_top1": "frame top-1",
    "frame_top3": "frame top-3",
    "video_top1": "video top-1",
    "video_top5": "video top-5",
    "mean_error": "mean error",
    "mean_class_accuracy": "mean class acc",
}
MORE_COLUMNS = {
    "mean_average_precision": "mAP of 5",
    "mean_average_precision_full": "mAP",
    "calibration_error": "calibration error",
}
"""shown where there is room"""
FUSION = {"better": "fusion helps", "worse": "fusion hurts", "undecided": "whether fusion helps is not decided"}
"""what the verdict of a comparison means"""

NAN = float("nan")


@dataclass(frozen=True)
class Rates:
    """Video accuracies over one choice of videos."""

    num_videos: int
    video_top1: float
    video_top5: float
    mean_error: float

    @classmethod
    def of(cls, ranks: np.ndarray) -> "Rates":
        top1, top5 = (accuracy.share_in_top_k(ranks, k) for k in (1, 5))
        return cls(len(ranks), top1, top5, accuracy.mean_error(top1, top5))


@dataclass(frozen=True)
class Row:
    """Results of one stream, or of several fused. Rates in 0 ... 1; NaN where there is nothing to count."""

    name: str
    frame_top1: float
    frame_top3: float
    video_top1: float
    video_top5: float
    mean_error: float
    """(top-1 error + top-5 error) / 2, of videos"""
    mean_class_accuracy: float
    """of videos"""
    num_frames: int
    """scored clips: the denominator of the frame columns; 0 where the rows are of videos, or no fused clips exist"""
    num_videos: int
    """videos of the split that have a label: the denominator of the video columns; without scores counts as wrong"""
    num_unscored: int
    video_top1_interval: tuple[float, float]
    """95 %, videos drawn again"""
    video_top5_interval: tuple[float, float]
    mean_average_precision: float
    """as the ActivityNet evaluator has it, of the five best classes of each video"""
    mean_average_precision_full: float
    """of all scores"""
    calibration_error: float
    """of the videos that are scored"""
    denominators: dict[str, Rates]
    """the same videos' rates thrice: "official" as above, of those "scored", of the "intersection" all streams scored"""


@dataclass(frozen=True)
class Predictions:
    """Scores of every row for every video of the split."""

    video_ids: np.ndarray
    labels: np.ndarray
    classes: list[str]
    scores: dict[str, np.ndarray]
    """(V, K) by row; NaN for videos without scores"""
    on_softmax: dict[str, bool]
    """by row: are these probabilities, but for a factor, or logits?"""
    main: str
    """the row that is meant where only one can be written: the last fusion"""

    def probabilities(self, name: str) -> np.ndarray:
        """Of a row's scores (V, K)."""
        return probabilities(self.scores[name], on_softmax=self.on_softmax[name])


@dataclass(frozen=True)
class Report:
    """All rows, and what they rest on."""

    rows: list[Row]
    consensus: str
    weights: tuple[float, ...]
    split: str
    num_classes: int
    unscored: dict[str, list[str]]
    """ids of the videos without scores, by row"""
    sources: list[dict]
    """of each stream: its settings and the provenance of its scores"""
    differences: dict[str, list[str]]
    """ids that were left out because not all streams have them, by reason"""
    comparisons: list[Comparison]
    """on the videos that all streams scored"""
    fitted: dict[str, dict]
    """by row: how the weights were fitted, and which came out"""
    sweep: list[Point]
    predictions: Predictions = field(compare=False, repr=False)
    tables: list[ScoreTable] = field(compare=False, repr=False)
    """what the streams' rows were made from, joined"""

    def to_json(self) -> dict:
        content = {name: value for name, value in vars(self).items() if name not in ("predictions", "tables")}
        content |= {name: [asdict(part) for part in content[name]] for name in ("rows", "comparisons", "sweep")}
        for part, comparison in zip(content["comparisons"], self.comparisons, strict=True):
            part["verdict"] = comparison.verdict
        return _without_nan(content) | {"version": 1}


def _without_nan(content):
    """The same with null for NaN, which JSON has no word for."""
    if isinstance(content, dict):
        return {name: _without_nan(part) for name, part in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(part) for part in content]
    return None if isinstance(content, float) and math.isnan(content) else content


def build_report(
    tables: list[ScoreTable], names: list[str], *, consensus: Consensus, weights: tuple[float, ...],
    fit: Sequence[str] = (), intersect: bool = False, swept: bool = False, unlabelled: bool = False,
) -> Report:  # fmt: skip
    """Judge each table, and their fusion when there are several: by the weights, 1:1, and by weights that are fitted.

    Frames are fused where all streams scored the same clip, videos where all streams scored the video. `fit` names
    methods of `fitting.METHODS`; `intersect` see `fusion.join`; `swept` adds every rule and stride. Raises BadInputError
    for tables that do not belong together, or have no labels, unless `unlabelled`: for the sake of the predictions.
    """
    tables, differences = join(tables, names, intersect=intersect)
    labels = tables[0].labels
    if not (labels >= 0).any() and not unlabelled:
        raise BadInputError(f"{names[0]}: split {tables[0].split!r} has no labels, so there is nothing to compare with")
    streams = [consensus.video_scores(table) for table in tables]
    scores = dict(zip(names, streams, strict=True))
    ranks_of_clips = [clip_ranks(table) for table in tables]
    fitted, both = {}, "+".join(names)
    if len(tables) > 1:
        scores[both] = fuse(streams, weights)
        ranks_of_clips.append(fused_clip_ranks(tables, names, consensus, weights))
        if len(set(weights)) > 1:
            equal = (1.0,) * len(tables)
            scores[f"{both} 1:1"] = fuse(streams, equal)
            ranks_of_clips.append(fused_clip_ranks(tables, names, consensus, equal))
        of_streams = [probabilities(part, on_softmax=consensus.on_softmax) for part in streams] if fit else []
        for method in fit:
            crossed = fitting.cross_fit(method, of_streams, labels)
            name = f"{both} fitted: {method}"
            scores[name] = crossed.scores
            ranks_of_clips.append(np.array([], int))
            fitted[name] = {
                "method": method,
                "of_all_videos": crossed.of_all.to_json(),
                "of_folds": [of_fold.to_json() for of_fold in crossed.of_folds],
            }

    on_softmax = {name: consensus.on_softmax or name in fitted for name in scores}
    predictions = Predictions(
        tables[0].video_ids, labels, tables[0].classes, scores, on_softmax, main=list(scores)[-1]
    )  # fmt: skip
    known = labels >= 0
    everywhere = ~np.any([np.isnan(part).any(axis=1) for part in streams], axis=0) & known
    ranks = {name: np.where(known, accuracy.rank_of_truth(part, labels), 0) for name, part in scores.items()}
    rows = in_threads(
        lambda part: _row(*part, ranks[part[0]], predictions, everywhere),
        zip(scores, ranks_of_clips, strict=True),
    )
    right = {name: ranks[name][everywhere] == 1 for name in scores}
    return Report(
        rows=rows,
        consensus=str(consensus),
        weights=weights,
        split=tables[0].split,
        num_classes=len(tables[0].classes),
        unscored={
            name: tables[0].video_ids[known & np.isnan(part).any(axis=1)].tolist() for name, part in scores.items()
        },
        sources=[{"stream": table.stream, "provenance": table.provenance} for table in tables],
        differences=differences,
        comparisons=_comparisons(right, names) if everywhere.any() else [],
        fitted=fitted,
        sweep=sweep(tables, [*names, both][: len(streams) + (len(streams) > 1)], weights, consensus=consensus)
        if swept
        else [],
        predictions=predictions,
        tables=tables,
    )


def _comparisons(right: dict[str, np.ndarray], names: list[str]) -> list[Comparison]:
    """Each fusion against the best stream, and against the first fusion."""
    best = max(names, key=lambda name: right[name].mean())
    fusions = [name for name in right if name not in names]
    against_best = [compare(name, right[name], best, right[best]) for name in fusions]
    return against_best + [compare(name, right[name], fusions[0], right[fusions[0]]) for name in fusions[1:]]


def probabilities(scores: np.ndarray, *, on_softmax: bool) -> np.ndarray:
    """Video scores as probabilities of the classes; rows of NaN stay."""
    if not on_softmax:
        return softmax(scores)
    return scores / scores.sum(axis=1, keepdims=True)


def _row(name: str, clip_ranks: np.ndarray, ranks: np.ndarray, predictions: Predictions, everywhere: np.ndarray) -> Row:
    known = predictions.labels >= 0
    scores, labels = predictions.scores[name][known], predictions.labels[known]
    official = ranks[known]
    scored = official[~np.isnan(scores).any(axis=1)]
    denominators = {
        "official": Rates.of(official), "scored": Rates.of(scored), "intersection": Rates.of(ranks[everywhere])
    }  # fmt: skip
    truth = accuracy.one_hot(labels, scores.shape[1])
    rates = denominators["official"]
    return Row(
        name=name,
        frame_top1=accuracy.share_in_top_k(clip_ranks, 1),
        frame_top3=accuracy.share_in_top_k(clip_ranks, 3),
        video_top1=rates.video_top1,
        video_top5=rates.video_top5,
        mean_error=rates.mean_error,
        mean_class_accuracy=accuracy.mean_class_accuracy(scores, labels),
        num_frames=len(clip_ranks),
        num_videos=len(official),
        num_unscored=len(official) - len(scored),
        video_top1_interval=bootstrap_interval(official == 1),
        video_top5_interval=bootstrap_interval((official >= 1) & (official <= 5)),
        mean_average_precision=accuracy.mean_average_precision(accuracy.listed(scores), truth, interpolated=True),
        mean_average_precision_full=accuracy.mean_average_precision(scores, truth),
        calibration_error=accuracy.calibration_error(predictions.probabilities(name)[known], labels),
        denominators=denominators,
    )


def write_json(path: str | Path, report: Report) -> None:
    write_text(path, json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n")
