"""A report as text, Markdown and LaTeX."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from twostream.counts import counted
from twostream.fusion.streams import counted_difference
from twostream.fusion.sweep import SweepPoint
from twostream.report.results import FUSION_VERDICTS, LEFT_OUT, Report

MAX_IDS = 5
"""of a list of videos in a line of text"""
MAX_CLASSES = 30
"""of which the text lists the average precision"""
DENOMINATORS = {"scored": "it scored", "intersection": "all streams scored"}
"""ends of the sentence "top-1 ... of the N that ..." for the rates of Row.denominators"""


def percent(value: float) -> str:
    """A rate in 0 ... 1 in percent; "-" for NaN."""
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def to_text(report: Report) -> str:
    """The table for people, in percent; below it the denominators, the comparisons, and the sweep if there is one."""
    width = max(len(row.name) for row in report.rows)
    lines = [" | ".join([" " * width, *report.columns.values()])]
    lines.append("-+-".join("-" * len(part) for part in lines[0].split(" | ")))
    for row in report.rows:
        cells = [percent(getattr(row, key)).rjust(len(title)) for key, title in report.columns.items()]
        lines.append(" | ".join([row.name.ljust(width), *cells]))
    lines.append(f"percent; {settings(report)}")
    lines += denominator_lines(report)
    if report.predictions.is_multi_label:
        lines += [LEFT_OUT, *class_lines(report)]
    elif note := few_classes(report.num_classes):
        lines.append(note)
    for sentence, ids in report.differences.items():
        lines.append(f"left out: {counted_difference(ids, sentence)}: {_first_ids(ids)}")
    lines += fitted_lines(report) + sentences(report)
    if report.sweep:
        lines += ["", *sweep_lines(report.sweep)]
    return "\n".join(lines)


def denominator_lines(report: Report) -> list[str]:
    """For each row how many videos it scored and, if it missed some, its accuracies on other sets of videos, indented."""
    lines = []
    for row in report.rows:
        frames = f"{counted(row.num_frames, 'frame')}; " if row.num_frames else ""
        lines.append(
            f"{row.name}: {frames}{row.num_videos - row.num_unscored} of {counted(row.num_videos, 'video')} scored"
        )
        if unscored := report.unscored[row.name]:
            lines.append(f"  counted as wrong: {_first_ids(unscored)}")
            for key, end in DENOMINATORS.items() if row.denominators else ():
                rates = row.denominators[key]
                accuracies = f"top-1 {percent(rates.video_top1)}, top-5 {percent(rates.video_top5)}"
                lines.append(f"  {accuracies} of the {rates.num_videos} that {end}")
    return lines


def class_lines(report: Report) -> list[str]:
    """The average precision of each class of multi-label videos, or where it is found if there are many classes."""
    if report.num_classes > MAX_CLASSES:
        return ["the average precision of each class is in the report (class_average_precision)"]
    width = max(map(len, report.predictions.classes))
    lines = [f"average precision of each class: {', '.join(row.name for row in report.rows)}"]
    for number, name in enumerate(report.predictions.classes):
        cells = [percent(row.class_average_precision[number]).rjust(6) for row in report.rows]
        lines.append(f"  {name.ljust(width)} {' '.join(cells)}")
    return lines


def _first_ids(ids: Sequence[str]) -> str:
    return ", ".join(ids[:MAX_IDS]) + (" ..." if len(ids) > MAX_IDS else "")


def settings(report: Report) -> str:
    """Split, classes, consensus and weights in one line."""
    weights = ", ".join(f"{weight:g}" for weight in report.weights)
    return f"split {report.split!r}, {counted(report.num_classes, 'class', 'classes')}; consensus {report.consensus}, weights {weights}"


def few_classes(num_classes: int) -> str:
    """What readers must know of accuracies over at most 5 classes; "" for more."""
    if num_classes == 1:
        return "with one class, every scored video is right: the accuracies say nothing"
    return (
        f"with {counted(num_classes, 'class', 'classes')}, top-5 is right for every scored video"
        if num_classes <= 5
        else ""
    )


def fitted_lines(report: Report) -> list[str]:
    """For each fusion with fitted or given weights, how they were fitted, and those fitted on all videos."""
    lines = []
    for name, fitted in report.fitted.items():
        weights, temperatures = (np.array(fitted["of_all_videos"][key]) for key in ("weights", "temperatures"))
        text = ", ".join(f"{weight:.3f}" for weight in weights.reshape(len(weights), -1).mean(axis=1))
        if fitted["method"] == "class":
            text += " on average over the classes"
        if fitted["method"] == "temperature":
            text += f" after temperatures {', '.join(f'{temperature:.3f}' for temperature in temperatures)}"
        kind = "powers" if fitted["method"] == "product" else "weights"
        if "fitted_on" in fitted:
            lines.append(f"{name}: {_origin(fitted)}; the {kind} are {text}")
            continue
        num_folds = len(fitted["of_folds"])
        lines.append(
            f"{name}: each video is fused by weights fitted on the other {num_folds - 1} of {num_folds} folds; "
            f"fitted on all videos, the {kind} are {text}"
        )
    return lines


def _origin(fitted: dict[str, Any]) -> str:
    """Where given weights are from."""
    origin = fitted["fitted_on"]
    text = f"weights fitted on split {origin['split']!r} by {origin['report']}"
    return f"{text}, that is on the labels of these same videos" if fitted["knows_labels"] else text


def row_text(report: Report, name: str) -> str:
    """A row by its name, and the weights of its fusion: what is written to a file with room for one row."""
    streams = [row.name for row in report.rows[: len(report.sources)]]
    if name in streams:
        return f"row {name!r}"
    if fitted := report.fitted.get(name):
        if "fitted_on" in fitted:
            return f"row {name!r}, {_origin(fitted)}"
        return f"row {name!r}, whose weights were fitted on the labels of split {report.split!r}, which it predicts"
    is_main = name == report.rows[len(streams)].name
    weights = report.weights if is_main else (1.0,) * len(streams)
    return f"row {name!r}, weights {', '.join(f'{weight:g}' for weight in weights)}"


def sentences(report: Report) -> list[str]:
    """A sentence for each comparison."""
    streams = [row.name for row in report.rows[: len(report.sources)]]
    lines = []
    for comparison in report.comparisons:
        low, high = comparison.interval
        verdict = FUSION_VERDICTS[comparison.verdict] if comparison.against in streams else comparison.verdict
        lines.append(
            f"{comparison.name} against {comparison.against}: {100 * comparison.difference:+.2f} "
            f"(95 % from {100 * low:+.2f} to {100 * high:+.2f}), {counted(comparison.gained, 'video')} gained, "
            f"{comparison.lost} lost, {comparison.p_text}: {verdict}"
        )
    return lines


def sweep_lines(points: Sequence[SweepPoint]) -> list[str]:
    """Video top-1: a table of rules and strides for each stream, and below it the accuracies by number of frames."""
    lines = []
    for name in dict.fromkeys(point.name for point in points):
        own_points = [point for point in points if point.name == name]
        table = {(p.consensus, p.frame_stride): p for p in own_points if not p.num_frames}
        strides = sorted({stride for _, stride in table})
        width = max(len(rule) for rule, _ in table)
        lines.append(
            f"{name}, video top-1 by rule and share of the scored frames: {', '.join(f'1/{s}' for s in strides)}"
        )
        for rule in dict.fromkeys(rule for rule, _ in table):
            lines.append(" ".join([rule.ljust(width), *(percent(table[rule, s].video_top1).rjust(6) for s in strides)]))
        curve = ", ".join(f"{p.num_frames}: {percent(p.video_top1)}" for p in own_points if p.num_frames)
        lines.append(f"{name}, video top-1 by number of frames: {curve}")
    return lines


def _cells(report: Report) -> list[list[str]]:
    """The cells of the table, its head first."""
    lines = [["", *report.all_columns.values()]]
    for row in report.rows:
        values = {key: percent(getattr(row, key)) for key in report.all_columns}
        if "video_top1" in values:
            values["video_top1"] += f" ({' - '.join(map(percent, row.video_top1_interval))})"
        lines.append([row.name, *values.values()])
    return lines


def to_markdown(report: Report) -> str:
    """The table with all measures and the 95 % interval of video top-1; denominators and comparisons as a list."""
    table = _cells(report)
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in table]
    lines.insert(1, "|" + "---|" * len(table[0]))
    intervals = "" if report.predictions.is_multi_label else ", with 95 % intervals"
    notes = [f"Percent{intervals}; {settings(report)}.", *denominator_lines(report), *sentences(report)]
    return "\n".join(lines) + "\n\n" + "\n".join(_list_item(note) for note in notes) + "\n"


def _list_item(note: str) -> str:
    """A line of a Markdown list; what is indented belongs to the item above."""
    text = note.lstrip()
    return f"{' ' * (len(note) - len(text))}- {text}"


LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {character: "\\" + character for character in "&%$#_{}"}
"""characters that LaTeX reads as commands, and how to write them"""


def to_latex(report: Report) -> str:
    """The same table as a LaTeX tabular that needs no packages; the denominators are comments."""
    table = _cells(report)
    lines = [" & ".join("".join(LATEX.get(c, c) for c in cell) for cell in cells) + r" \\" for cells in table]
    lines.insert(1, r"\hline")
    notes = [f"% {note}" for note in denominator_lines(report)]
    return "\n".join([r"\begin{tabular}{l" + "r" * (len(table[0]) - 1) + "}", *lines, r"\end{tabular}", *notes, ""])
