"""The result table: one row per stream and one or more for their fusion; as data, text, JSON, Markdown and LaTeX."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from twostream import atomic, fitting, metrics
from twostream.errors import BadInputError
from twostream.fusion import CLIPS_AT_ONCE, Consensus, common_rows, fuse, in_threads, join, softmax
from twostream.scores import ScoreTable
from twostream.significance import Comparison, bootstrap_interval, compare
from twostream.sweep import Point, sweep

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
        top1, top5 = (metrics.share_in_top_k(ranks, k) for k in (1, 5))
        return cls(len(ranks), top1, top5, metrics.mean_error(top1, top5))


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
    clip_ranks = [_clip_ranks(table) for table in tables]
    fitted, both = {}, "+".join(names)
    if len(tables) > 1:
        scores[both] = fuse(streams, weights)
        clip_ranks.append(_fused_clip_ranks(tables, names, consensus, weights))
        if len(set(weights)) > 1:
            equal = (1.0,) * len(tables)
            scores[f"{both} 1:1"] = fuse(streams, equal)
            clip_ranks.append(_fused_clip_ranks(tables, names, consensus, equal))
        of_streams = [probabilities(part, on_softmax=consensus.on_softmax) for part in streams] if fit else []
        for method in fit:
            crossed = fitting.cross_fit(method, of_streams, labels)
            name = f"{both} fitted: {method}"
            scores[name] = crossed.scores
            clip_ranks.append(np.array([], int))
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
    ranks = {name: np.where(known, metrics.rank_of_truth(part, labels), 0) for name, part in scores.items()}
    rows = in_threads(
        lambda part: _row(*part, ranks[part[0]], predictions, everywhere),
        zip(scores, clip_ranks, strict=True),
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


def _clip_ranks(table: ScoreTable) -> np.ndarray:
    """Ranks of the true classes of all clips that have a label; none where a row is a whole video."""
    if table.level == "video":
        return np.array([], int)
    labels = table.row_labels
    ranks = [metrics.rank_of_truth(table.logits[chunk], labels[chunk]) for chunk in table.chunks()]
    return np.concatenate(ranks)[labels >= 0]


def _fused_clip_ranks(
    tables: list[ScoreTable], names: list[str], consensus: Consensus, weights: tuple[float, ...]
) -> np.ndarray:
    """The same of the clips that all tables have, fused; none where a table's rows are no frames."""
    if any(table.level != "frames" for table in tables):
        return np.array([], int)
    chosen = common_rows(tables)
    if not len(chosen[0]):
        raise BadInputError(
            f"{' and '.join(names)} have no frame in common: score them with the same --frame_step "
            "or --num_clips, and --views"
        )
    labels = tables[0].row_labels[chosen[0]]
    ranks = np.empty(len(labels), int)

    def judge(chunk: slice) -> None:
        clips = [consensus.clip_scores(t.logits[rows[chunk]]) for t, rows in zip(tables, chosen, strict=True)]
        ranks[chunk] = metrics.rank_of_truth(fuse(clips, weights), labels[chunk])

    in_threads(judge, (slice(first, first + CLIPS_AT_ONCE) for first in range(0, len(labels), CLIPS_AT_ONCE)))
    return ranks[labels >= 0]


def _row(name: str, clip_ranks: np.ndarray, ranks: np.ndarray, predictions: Predictions, everywhere: np.ndarray) -> Row:
    known = predictions.labels >= 0
    scores, labels = predictions.scores[name][known], predictions.labels[known]
    official = ranks[known]
    scored = official[~np.isnan(scores).any(axis=1)]
    denominators = {
        "official": Rates.of(official), "scored": Rates.of(scored), "intersection": Rates.of(ranks[everywhere])
    }  # fmt: skip
    truth = metrics.one_hot(labels, scores.shape[1])
    rates = denominators["official"]
    return Row(
        name=name,
        frame_top1=metrics.share_in_top_k(clip_ranks, 1),
        frame_top3=metrics.share_in_top_k(clip_ranks, 3),
        video_top1=rates.video_top1,
        video_top5=rates.video_top5,
        mean_error=rates.mean_error,
        mean_class_accuracy=metrics.mean_class_accuracy(scores, labels),
        num_frames=len(clip_ranks),
        num_videos=len(official),
        num_unscored=len(official) - len(scored),
        video_top1_interval=bootstrap_interval(official == 1),
        video_top5_interval=bootstrap_interval((official >= 1) & (official <= 5)),
        mean_average_precision=metrics.mean_average_precision(metrics.listed(scores), truth, interpolated=True),
        mean_average_precision_full=metrics.mean_average_precision(scores, truth),
        calibration_error=metrics.calibration_error(predictions.probabilities(name)[known], labels),
        denominators=denominators,
    )


# -------------------------------------------------------------------------------------------------------- for people


def percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def to_text(report: Report) -> str:
    """The table for people, in percent, with the denominators below it."""
    width = max(len(row.name) for row in report.rows)
    lines = [" | ".join([" " * width, *COLUMNS.values()])]
    lines.append("-+-".join("-" * len(part) for part in lines[0].split(" | ")))
    for row in report.rows:
        cells = [percent(getattr(row, key)).rjust(len(title)) for key, title in COLUMNS.items()]
        lines.append(" | ".join([row.name.ljust(width), *cells]))
    lines.append(f"percent; {settings(report)}")
    for row in report.rows:
        frames = f"{row.num_frames} frames; " if row.num_frames else ""
        lines.append(f"{row.name}: {frames}{row.num_videos - row.num_unscored} of {row.num_videos} videos scored")
        missing = report.unscored[row.name]
        if missing:
            lines.append(f"  counted as wrong: {', '.join(missing[:5])}{' ...' * (len(missing) > 5)}")
            for of, rates in list(row.denominators.items())[1:]:
                accuracies = f"top-1 {percent(rates.video_top1)}, top-5 {percent(rates.video_top5)}"
                lines.append(f"  {accuracies} of the {rates.num_videos} that {DENOMINATORS[of]}")
    if report.num_classes <= 5:
        lines.append(f"with {report.num_classes} classes, top-5 is right for every scored video")
    lines += [f"left out: {len(ids)} {sentence}: {', '.join(ids[:5])}{' ...' * (len(ids) > 5)}"
              for sentence, ids in report.differences.items()]  # fmt: skip
    lines += fitted_lines(report) + sentences(report)
    if report.sweep:
        lines += ["", *_sweep_lines(report.sweep)]
    return "\n".join(lines)


DENOMINATORS = {"scored": "it scored", "intersection": "all streams scored"}


def settings(report: Report) -> str:
    weights = ", ".join(f"{weight:g}" for weight in report.weights)
    return f"split {report.split!r}, {report.num_classes} classes; consensus {report.consensus}, weights {weights}"


def fitted_lines(report: Report) -> list[str]:
    lines = []
    for name, fitted in report.fitted.items():
        weights, temperatures = (np.array(fitted["of_all_videos"][key]) for key in ("weights", "temperatures"))
        text = ", ".join(f"{weight:.3f}" for weight in weights.reshape(len(weights), -1).mean(axis=1))
        if fitted["method"] == "class":
            text += " on average over the classes"
        if fitted["method"] == "temperature":
            text += f" after temperatures {', '.join(f'{temperature:.3f}' for temperature in temperatures)}"
        lines.append(
            f"{name}: each video by weights fitted on the other {len(fitted['of_folds']) - 1} of "
            f"{len(fitted['of_folds'])} parts of the videos; of all of them {text}"
        )
    return lines


def sentences(report: Report) -> list[str]:
    """What was compared and what came of it; the streams are the first rows."""
    streams = [row.name for row in report.rows[: len(report.sources)]]
    lines = []
    for comparison in report.comparisons:
        low, high = comparison.interval
        verdict = FUSION[comparison.verdict] if comparison.against in streams else comparison.verdict
        lines.append(
            f"{comparison.name} against {comparison.against}: {100 * comparison.difference:+.2f} "
            f"(95 % from {100 * low:+.2f} to {100 * high:+.2f}), {comparison.gained} videos gained, "
            f"{comparison.lost} lost, {comparison.p_text}: {verdict}"
        )
    return lines


def _sweep_lines(points: Sequence[Point]) -> list[str]:
    """Video top-1: a table of rules and strides for each stream, and below it the curve over frames."""
    lines = []
    for name in dict.fromkeys(point.name for point in points):
        of_name = [point for point in points if point.name == name]
        table = {(p.consensus, p.frame_stride): p for p in of_name if not p.num_frames}
        strides = sorted({stride for _, stride in table})
        width = max(len(rule) for rule, _ in table)
        lines.append(f"{name}, video top-1 by rule and scored frames taken: {', '.join(f'1/{s}' for s in strides)}")
        for rule in dict.fromkeys(rule for rule, _ in table):
            lines.append(" ".join([rule.ljust(width), *(percent(table[rule, s].video_top1).rjust(6) for s in strides)]))
        curve = ", ".join(f"{p.num_frames}: {percent(p.video_top1)}" for p in of_name if p.num_frames)
        lines.append(f"{name}, video top-1 by frames of a video: {curve}")
    return lines


def write_json(path: str | Path, report: Report) -> None:
    atomic.write_text(path, json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n")


def _cells(row: Row) -> list[str]:
    interval = f"{percent(row.video_top1)} ({' - '.join(map(percent, row.video_top1_interval))})"
    values = {key: percent(getattr(row, key)) for key in COLUMNS | MORE_COLUMNS} | {"video_top1": interval}
    return [row.name, *values.values()]


def to_markdown(report: Report) -> str:
    """The table with all measures and 95 % intervals, and what was compared."""
    head = ["", *(COLUMNS | MORE_COLUMNS).values()]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
             for cells in [head, *map(_cells, report.rows)]]  # fmt: skip
    lines.insert(1, "|" + "---|" * len(head))
    notes = [f"Percent, with 95 % intervals; {settings(report)}.", *sentences(report)]
    return "\n".join(lines) + "\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"


LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {character: "\\" + character for character in "&%$#_{}"}


def to_latex(report: Report) -> str:
    """The same table as a LaTeX tabular, without packages."""
    head = ["", *(COLUMNS | MORE_COLUMNS).values()]
    lines = [" & ".join("".join(LATEX.get(c, c) for c in cell) for cell in cells) + r" \\"
             for cells in [head, *map(_cells, report.rows)]]  # fmt: skip
    lines.insert(1, r"\hline")
    return "\n".join([r"\begin{tabular}{l" + "r" * (len(head) - 1) + "}", *lines, r"\end{tabular}", ""])
