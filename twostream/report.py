"""The result table: one row per stream and one for their fusion, as data, text and JSON."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from twostream import atomic, metrics
from twostream.errors import BadInputError
from twostream.fusion import Consensus, check_fusable, common_rows, fuse
from twostream.scores import ScoreTable

COLUMNS = {
    "frame_top1": "frame top-1",
    "frame_top3": "frame top-3",
    "video_top1": "video top-1",
    "video_top5": "video top-5",
    "mean_error": "mean error",
    "mean_class_accuracy": "mean class acc",
}


@dataclass(frozen=True)
class Row:
    """Results of one stream, or of several fused. Rates in 0 ... 1."""

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
    """scored clips: the denominator of the frame columns"""
    num_videos: int
    """videos of the split that have a label: the denominator of the video columns; without scores counts as wrong"""
    num_unscored: int


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

    def to_json(self) -> dict:
        return asdict(self) | {"version": 1}


def build_report(
    tables: list[ScoreTable], names: list[str], *, consensus: Consensus, weights: tuple[float, ...]
) -> Report:
    """Judge each table, and their fusion when there are several.

    Frames are fused where all streams scored the same clip, videos where all streams scored the video. Raises
    BadInputError for tables that do not belong together or have no labels.
    """
    check_fusable(tables, names)
    if not (tables[0].labels >= 0).any():
        raise BadInputError(f"{names[0]}: split {tables[0].split!r} has no labels, so there is nothing to compare with")
    rows, unscored = [], {}
    videos = [consensus.video_scores(table) for table in tables]
    for table, name, video_scores in zip(tables, names, videos, strict=True):
        rows.append(_row(name, table.logits, table.row_labels, video_scores, table.labels))
        unscored[name] = table.unscored_ids
    if len(tables) > 1:
        chosen = common_rows(tables)
        if not len(chosen[0]):
            raise BadInputError(f"{' and '.join(names)} have no frame in common: score them at the same --frame_step")
        name = "+".join(names)
        clips = fuse([consensus.clip_scores(t)[rows] for t, rows in zip(tables, chosen, strict=True)], weights)
        fused_labels = tables[0].row_labels[chosen[0]]
        rows.append(_row(name, clips, fused_labels, fuse(videos, weights), tables[0].labels))
        unscored[name] = sorted(set().union(*unscored.values()))
    return Report(
        rows=rows,
        consensus=str(consensus),
        weights=weights,
        split=tables[0].split,
        num_classes=len(tables[0].classes),
        unscored=unscored,
        sources=[{"stream": table.stream, "provenance": table.provenance} for table in tables],
    )


def _row(name: str, clips: np.ndarray, clip_labels: np.ndarray, videos: np.ndarray, labels: np.ndarray) -> Row:
    clips, clip_labels = clips[clip_labels >= 0], clip_labels[clip_labels >= 0]
    videos, labels = videos[labels >= 0], labels[labels >= 0]
    top1, top5 = (metrics.top_k_accuracy(videos, labels, k) for k in (1, 5))
    return Row(
        name=name,
        frame_top1=metrics.top_k_accuracy(clips, clip_labels, 1),
        frame_top3=metrics.top_k_accuracy(clips, clip_labels, 3),
        video_top1=top1,
        video_top5=top5,
        mean_error=metrics.mean_error(top1, top5),
        mean_class_accuracy=metrics.mean_class_accuracy(videos, labels),
        num_frames=len(clips),
        num_videos=len(videos),
        num_unscored=int(np.isnan(videos).any(axis=1).sum()),
    )


def to_text(report: Report) -> str:
    """The table for people, in percent, with the denominators below it."""
    width = max(len(row.name) for row in report.rows)
    lines = [" | ".join([" " * width, *COLUMNS.values()])]
    lines.append("-+-".join("-" * len(part) for part in lines[0].split(" | ")))
    for row in report.rows:
        cells = [f"{100 * getattr(row, key):.2f}".rjust(len(title)) for key, title in COLUMNS.items()]
        lines.append(" | ".join([row.name.ljust(width), *cells]))
    weights = ", ".join(f"{weight:g}" for weight in report.weights)
    lines.append(
        f"percent; split {report.split!r}, {report.num_classes} classes; consensus {report.consensus}, weights {weights}"
    )
    for row in report.rows:
        lines.append(
            f"{row.name}: {row.num_frames} frames; {row.num_videos - row.num_unscored} of {row.num_videos} videos scored"
        )
        missing = report.unscored[row.name]
        if missing:
            lines.append(f"  counted as wrong: {', '.join(missing[:5])}{' ...' * (len(missing) > 5)}")
    if report.num_classes <= 5:
        lines.append(f"with {report.num_classes} classes, top-5 is right for every scored video")
    return "\n".join(lines)


def write_json(path: str | Path, report: Report) -> None:
    atomic.write_text(path, json.dumps(report.to_json(), indent=1) + "\n")
