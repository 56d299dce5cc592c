"""The result table: its rows, their predictions and comparisons. `build_report` makes it from score tables."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from twostream.errors import BadInputError
from twostream.files import write_text
from twostream.fusion import fitting
from twostream.fusion.clip_results import clip_ranks, fused_clip_ranks
from twostream.fusion.consensus import Consensus, probabilities
from twostream.fusion.report_file import GivenWeights
from twostream.fusion.streams import align_tables, fuse
from twostream.fusion.sweep import SweepPoint, sweep
from twostream.metrics import accuracy
from twostream.metrics.significance import Comparison, bootstrap_interval, compare
from twostream.scores.table import ScoreTable
from twostream.threads import Progress, map_in_threads, no_progress

COLUMNS = {
    "frame_top1": "frame top-1",
    "frame_top3": "frame top-3",
    "video_top1": "video top-1",
    "video_top5": "video top-5",
    "mean_error": "mean error",
    "mean_class_accuracy": "mean class acc",
}
"""measures of a row by their key in report.json, with their titles"""
MORE_COLUMNS = {
    "mean_average_precision": "mAP (top 5)",
    "mean_average_precision_full": "mAP",
    "calibration_error": "calibration error",
}
"""the same for Markdown, LaTeX and the page, which have room for more columns"""
MULTI_LABEL_COLUMNS = {"mean_average_precision_full": "mAP", "mmit_mean_average_precision": "mmit mAP"}
"""the measures where videos have any number of classes"""
MULTI_LABEL_ONLY = ("mmit_mean_average_precision", "class_average_precision")
"""keys of a row in report.json that others do not have"""
LEFT_OUT = (
    "videos have several labels: top-1 accuracies, their comparison, confusion, calibration and accuracy over frames are left "
    "out, as they need one label a video"
)
"""in a report of such videos"""
FUSION_VERDICTS = {"better": "fusion helps", "worse": "fusion hurts", "undecided": "undecided whether fusion helps"}
"""what the verdict means if a fusion is compared with a stream"""


@dataclass(frozen=True)
class Rates:
    """Video accuracies in 0 ... 1 over one choice of videos; NaN if there are none."""

    num_videos: int
    video_top1: float
    video_top5: float
    mean_error: float

    @classmethod
    def from_ranks(cls, ranks: np.ndarray) -> "Rates":
        """From the ranks (n,) of the true classes, 0 for a video without scores."""
        top1, top5 = (accuracy.share_in_top_k(ranks, k) for k in (1, 5))
        return cls(len(ranks), top1, top5, accuracy.mean_error(top1, top5))


@dataclass(frozen=True)
class Row:
    """Results of one stream or of one fusion. Rates are in 0 ... 1; NaN if there is nothing to count."""

    name: str
    frame_top1: float
    frame_top3: float
    video_top1: float
    video_top5: float
    mean_error: float
    """(top-1 error + top-5 error) / 2, of the videos"""
    mean_class_accuracy: float
    """mean of the video top-1 of the classes"""
    num_frames: int
    """scored clips with a label, the denominator of the frame columns; 0 if rows are whole videos or cannot be fused"""
    num_videos: int
    """videos of the split with a label, the denominator of the video columns; those without scores count as wrong"""
    num_unscored: int
    """of `num_videos`, those without scores"""
    video_top1_interval: tuple[float, float]
    """95 % interval, videos resampled"""
    video_top5_interval: tuple[float, float]
    """95 % interval, videos resampled"""
    mean_average_precision: float
    """of the five best classes of each video, as the ActivityNet evaluator computes it"""
    mean_average_precision_full: float
    """of all scores"""
    calibration_error: float
    """of the scored videos"""
    denominators: dict[str, Rates]
    """the row's rates over three sets: "official" (all videos), "scored" (by this row), "intersection" (by all streams);
    empty where videos are multi-label"""
    mmit_mean_average_precision: float = math.nan
    """of multi-label videos: average precision over the classes of each video, see `metrics.accuracy`"""
    class_average_precision: tuple[float, ...] = ()
    """of multi-label videos: of each class; NaN where no video has it"""

    @classmethod
    def of_multi_label(cls, name: str, scores: np.ndarray, labels: np.ndarray) -> "Row":
        """A row from scores (n, K) and labels (n, K) of multi-label videos; all measures of one label a video are NaN."""
        truth = labels > 0
        of_classes = accuracy.class_average_precisions(scores, truth)
        return cls(
            name, frame_top1=math.nan, frame_top3=math.nan, video_top1=math.nan, video_top5=math.nan, mean_error=math.nan,
            mean_class_accuracy=math.nan, num_frames=0, num_videos=len(labels),
            num_unscored=int(np.isnan(scores).any(axis=1).sum()), video_top1_interval=(math.nan, math.nan),
            video_top5_interval=(math.nan, math.nan), mean_average_precision=math.nan,
            mean_average_precision_full=accuracy.mean_of_numbers(of_classes), calibration_error=math.nan, denominators={},
            mmit_mean_average_precision=accuracy.mmit_mean_average_precision(scores, truth),
            class_average_precision=tuple(of_classes.tolist()),
        )  # fmt: skip


@dataclass(frozen=True)
class Predictions:
    """Scores of every row for every video of the split."""

    video_ids: np.ndarray
    """(V,) str, sorted"""
    labels: np.ndarray
    """as `ScoreTable.labels`"""
    classes: list[str]
    scores: dict[str, np.ndarray]
    """(V, K) by row; NaN for videos without scores"""
    on_probabilities: dict[str, bool]
    """by row: are the scores probabilities up to a factor, or logits?"""
    main: str
    """the row that is written to files with room for one"""

    @property
    def is_multi_label(self) -> bool:
        """Have videos any number of classes?"""
        return self.labels.ndim == 2

    def probabilities(self, name: str) -> np.ndarray:
        """Class probabilities (V, K) of a row; rows of NaN for videos without scores."""
        return probabilities(
            self.scores[name], on_probabilities=self.on_probabilities[name], multi_label=self.is_multi_label
        )


@dataclass(frozen=True)
class Report:
    """All rows, and what they were made from."""

    rows: list[Row]
    """the streams, then their fusions"""
    consensus: str
    weights: tuple[float, ...]
    split: str
    num_classes: int
    unscored: dict[str, list[str]]
    """by row: ids of the videos without scores"""
    sources: list[dict[str, Any]]
    """for each stream: its settings and the provenance of its scores"""
    differences: dict[str, list[str]]
    """ids of videos that were left out because not all streams have them, by a sentence with the reason"""
    comparisons: list[Comparison]
    """on the videos that all streams scored"""
    fitted: dict[str, dict[str, Any]]
    """by row: how its weights were fitted, and the weights"""
    sweep: list[SweepPoint]
    """every rule at every stride; empty unless asked for"""
    predictions: Predictions = field(compare=False, repr=False)
    tables: list[ScoreTable] = field(compare=False, repr=False)
    """the streams' scores, aligned to the same videos"""

    @property
    def columns(self) -> dict[str, str]:
        """Measures of a row that are shown, with their titles."""
        return MULTI_LABEL_COLUMNS if self.predictions.is_multi_label else COLUMNS

    @property
    def all_columns(self) -> dict[str, str]:
        """The same where there is room for more."""
        return MULTI_LABEL_COLUMNS if self.predictions.is_multi_label else COLUMNS | MORE_COLUMNS

    def to_json(self) -> dict[str, Any]:
        """Content of report.json; null stands for NaN."""
        content: dict[str, Any] = {k: value for k, value in vars(self).items() if k not in ("predictions", "tables")}
        content |= {name: [asdict(part) for part in content[name]] for name in ("rows", "comparisons", "sweep")}
        if not self.predictions.is_multi_label:
            content["rows"] = [{k: v for k, v in row.items() if k not in MULTI_LABEL_ONLY} for row in content["rows"]]
        for part, comparison in zip(content["comparisons"], self.comparisons, strict=True):
            part["verdict"] = comparison.verdict
        return {name: _null_for_nan(value) for name, value in content.items()} | {"version": 1}


def _null_for_nan(content: Any) -> Any:
    """The content with None for NaN, which JSON cannot express."""
    if isinstance(content, dict):
        return {name: _null_for_nan(part) for name, part in content.items()}
    if isinstance(content, list | tuple):
        return [_null_for_nan(part) for part in content]
    return None if isinstance(content, float) and math.isnan(content) else content


def names_of_rows(
    names: Sequence[str], weights: tuple[float, ...], *, fit: Sequence[str] = (), given: Sequence[GivenWeights] = ()
) -> list[str]:
    """Names of the rows of a report: the streams and, if there are several, their fusions.

    These are the one with `weights`, with equal weights, with given weights, and with weights fitted here.
    """
    if len(names) == 1:
        return list(names)
    fused = "+".join(names)
    equal = [f"{fused} 1:1"] if len(set(weights)) > 1 else []
    return [
        *names, fused, *equal,
        *(f"{fused} weights of {part.report}: {part.method}" for part in given),
        *(f"{fused} fitted: {method}" for method in fit),
    ]  # fmt: skip


def build_report(
    tables: list[ScoreTable], names: list[str], *, consensus: Consensus, weights: tuple[float, ...],
    fit: Sequence[str] = (), given: Sequence[GivenWeights] = (), written: str = "", intersect: bool = False,
    swept: bool = False, unlabelled: bool = False, progress: Progress = no_progress,
) -> Report:  # fmt: skip
    """Evaluate each stream, and the fusion of several: with `weights`, with equal, with given, and with fitted weights.

    Clips are fused if all streams scored the same clip, videos if all streams scored the video. `fit` names methods of
    `fitting.METHODS`. `written` is the row for files with room for one; by default the first with `given` weights, else
    the fusion with `weights`, else the only stream. `intersect`: see `align_tables`. `swept` adds every rule at every
    stride. `unlabelled` allows a split without labels, for its predictions. `progress` may show what is being done.

    BadInputError if the tables do not belong together, or have no labels.
    """
    tables, differences = align_tables(tables, names, intersect=intersect)
    first = tables[0]
    has_label = first.has_label
    consensus = _for_labels(consensus, first, fit=fit, given=given, swept=swept)
    if not has_label.any() and not unlabelled:
        raise BadInputError(
            f"{names[0]}: split {first.split!r} has no labels, so accuracies cannot be computed; to write predictions "
            "only, use --write"
        )
    streams = [consensus.video_scores(table, progress=progress) for table in tables]
    scores = dict(zip(names, streams, strict=True))
    ranks_of_clips = [clip_ranks(table) for table in tables]
    fitted: dict[str, dict[str, Any]] = {}
    fusions = names_of_rows(names, weights, fit=fit, given=given)[len(names) :]
    main = names[0] if not fusions else fusions[-len(given) - len(fit)] if given else fusions[0]
    if fusions:
        variants = [weights, *([(1.0,) * len(tables)] if len(set(weights)) > 1 else [])]
        for name, variant in zip(fusions, variants, strict=False):
            scores[name] = fuse(streams, variant)
            ranks_of_clips.append(fused_clip_ranks(tables, names, consensus, variant, progress=progress))
        mixed = fusions[len(variants) :]
        for name, (video_scores, how) in zip(
            mixed, _mixtures(tables[0], streams, consensus, given, fit, progress), strict=True
        ):
            scores[name], fitted[name] = video_scores, how
            ranks_of_clips.append(np.array([], int))  # the weights are those of videos

    on_probabilities = {name: consensus.on_probabilities or name in fitted for name in scores}
    predictions = Predictions(
        first.video_ids, first.labels, first.classes, scores, on_probabilities, main=written or main
    )
    scored_by_all = ~np.any([np.isnan(part).any(axis=1) for part in streams], axis=0) & has_label
    ranks = {} if first.is_multi_label else {name: _ranks(part, first.labels) for name, part in scores.items()}
    rows = map_in_threads(
        lambda part: _row(*part, ranks.get(part[0]), predictions, scored_by_all),
        zip(scores, ranks_of_clips, strict=True),
        progress=progress,
        name="measures",
    )
    is_correct = {name: part[scored_by_all] == 1 for name, part in ranks.items()}
    swept_names = [*names, *fusions[:1]]
    return Report(
        rows=rows,
        consensus=str(consensus),
        weights=weights,
        split=first.split,
        num_classes=len(first.classes),
        unscored={
            name: first.video_ids[has_label & np.isnan(part).any(axis=1)].tolist() for name, part in scores.items()
        },
        sources=[{"stream": table.stream, "provenance": table.provenance} for table in tables],
        differences=differences,
        comparisons=_comparisons(is_correct, names) if is_correct and scored_by_all.any() else [],
        fitted=fitted,
        sweep=sweep(tables, swept_names, weights, consensus=consensus, progress=progress) if swept else [],
        predictions=predictions,
        tables=tables,
    )


def _for_labels(
    consensus: Consensus, table: ScoreTable, *, fit: Sequence[str], given: Sequence[GivenWeights], swept: bool
) -> Consensus:  # fmt: skip
    """The consensus for the table's kind of labels; BadInputError for what multi-label videos do not have."""
    if table.is_multi_label:
        if swept:
            raise BadInputError("--sweep compares top-1 accuracies, but these videos have several labels; leave it out")
        for method in {*fit, *(part.method for part in given)}.intersection(fitting.FOR_SOFTMAX):
            raise BadInputError(
                f"weights of method {method} are for softmax, but these videos have several labels, whose probabilities are "
                "sigmoids; use --fit_weights=global or --fit_weights=class"
            )
    try:
        return consensus.for_labels(multi_label=table.is_multi_label)
    except ValueError as error:
        raise BadInputError(str(error)) from None


def _mixtures(
    first: ScoreTable,
    streams: list[np.ndarray],
    consensus: Consensus,
    given: Sequence[GivenWeights],
    fit: Sequence[str],
    progress: Progress,
) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Video scores (V, K) of the fusions with given weights, then with fitted weights; and what report.json says of each.

    `streams` are the video scores (V, K) of each stream; `first` is the table of one of them.
    """
    if not given and not fit:
        return
    stream_probabilities = [consensus.probabilities(part) for part in streams]
    for part in given:
        origin = {"report": part.report, "split": part.split, "split_fingerprint": part.split_fingerprint}
        how = {"method": part.method, "of_all_videos": part.weights.to_json(), "of_folds": [], "fitted_on": origin}
        is_same = part.split_fingerprint == first.split_fingerprint
        yield part.weights.fuse(stream_probabilities), how | {"knows_labels": is_same}
    for method in fit:
        crossed = fitting.cross_fit(method, stream_probabilities, first.labels, progress=progress)
        yield (
            crossed.scores,
            {
                "method": method,
                "of_all_videos": crossed.overall.to_json(),
                "of_folds": [weights_of_fold.to_json() for weights_of_fold in crossed.by_fold],
                "split_fingerprint": first.split_fingerprint,
            },
        )


def _comparisons(is_correct: dict[str, np.ndarray], names: list[str]) -> list[Comparison]:
    """Each fusion against the best stream, then against the first fusion; booleans (n,) by row, and the streams' names."""
    best = max(names, key=lambda name: is_correct[name].mean())
    fusions = [name for name in is_correct if name not in names]
    pairs = [(name, best) for name in fusions] + [(name, fusions[0]) for name in fusions[1:]]
    return [compare(name, is_correct[name], against, is_correct[against]) for name, against in pairs]


def _ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Ranks (V,) of the true classes of videos; 0 without a label."""
    return np.where(labels >= 0, accuracy.rank_of_truth(scores, labels), 0)


def _row(
    name: str, clip_ranks: np.ndarray, ranks: np.ndarray | None, predictions: Predictions, scored_by_all: np.ndarray
) -> Row:
    """A row from the ranks of its clips (n,) and videos (V,); `scored_by_all` (V,) as in the "intersection".

    Multi-label videos have no ranks.
    """
    has_label = accuracy.has_label(predictions.labels)
    scores, labels = predictions.scores[name][has_label], predictions.labels[has_label]
    if ranks is None:
        return Row.of_multi_label(name, scores, labels)
    official = ranks[has_label]
    scored = official[~np.isnan(scores).any(axis=1)]
    denominators = {
        "official": Rates.from_ranks(official),
        "scored": Rates.from_ranks(scored),
        "intersection": Rates.from_ranks(ranks[scored_by_all]),
    }
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
        mean_average_precision=accuracy.mean_average_precision(accuracy.keep_top(scores), truth, interpolated=True),
        mean_average_precision_full=accuracy.mean_average_precision(scores, truth),
        calibration_error=accuracy.calibration_error(predictions.probabilities(name)[has_label], labels),
        denominators=denominators,
    )


def write_json(path: str | Path, report: Report) -> None:
    """Write report.json, whole or not at all."""
    write_text(path, json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n")
