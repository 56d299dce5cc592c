"""report.html: the report as one file for any browser, without a network: accuracies, confusion, example videos."""

import json
import math
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

import twostream
from twostream.counts import counted
from twostream.files import write_text
from twostream.fusion.streams import counted_difference
from twostream.fusion.sweep import SweepPoint, sweep
from twostream.pages import charts
from twostream.pages.page import escape, page, table
from twostream.report.results import FUSION_VERDICTS, LEFT_OUT, Report
from twostream.report.style import SCRIPT, STYLE
from twostream.report.text import few_classes, fitted_lines, percent, sentences, settings
from twostream.report.video_sections import confusion_section, quadrants_section
from twostream.report.view import View, count_videos, one_digit

MAX_IDS = 100
"""of a list of videos"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""content security policy: a browser loads nothing from the network, whatever is in the file"""
PROVENANCE = (
    "kind", "file", "run", "iteration", "checkpoint", "sha256", "split_fingerprint", "level", "frame_step", "num_clips", "spread",
    "views", "test_size", "amp", "command", "twostream", "torch",
)  # fmt: skip
"""keys of the scores' provenance in the order of the table; other keys follow"""


def write_page(
    path: Path, report: Report, *, root: Path | None = None, command: str = "", files: Sequence[Path] = ()
) -> None:
    """Write the page. `root`: data root for the pictures; `command` and `files`: the command that made the report and its
    score files."""
    write_text(path, to_html(report, root=root, command=command, files=files))


def to_html(report: Report, *, root: Path | None = None, command: str = "", files: Sequence[Path] = ()) -> str:
    """The page as text, see `write_page`."""
    view = View(report, root)
    sections = [("result", "Result", _result(view))]
    if view.num_labelled and view.is_multi_label:
        sections.append(("classes", "Average precision of each class", _classes(view)))
    elif view.num_labelled:
        shown = view.choose_examples()
        sections += [
            ("videos", "Which stream is right where", quadrants_section(view, shown)),
            ("classes", "Accuracy of each class", _classes(view)),
            ("confusion", "Confusion", confusion_section(view, shown)),
            ("frames", "Number of frames", _frames(view)),
            ("calibration", "Calibration", _calibration(view)),
        ]
    sections.append(("provenance", "Provenance", _provenance(view, command, files)))
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections)
    parts = [f'<section class="wide" id="{name}"><h2>{title}</h2>\n{body}</section>' for name, title, body in sections]
    title = f"Report of split {report.split}"
    subtitle = f"{count_videos(view.num_labelled)} with a label; {escape(settings(report))}"
    body = "\n".join([
        f"<header><h1>{escape(title)}</h1>\n<p>{subtitle}</p></header>",
        f"<nav>{links}</nav>", _tiles(view), "<main>", *parts, "</main>", f"<script>{SCRIPT}</script>",
    ])  # fmt: skip
    head = [f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">']
    return page(title, body, head=head, style=STYLE)


# -------------------------------------------------------------------------------------------------------- the result


def _tiles(view: View) -> str:
    """Video top-1 of each row at a glance, or mAP of multi-label videos, and whether fusion helps."""
    tiles = []
    for row in view.report.rows:
        low, high = row.video_top1_interval
        interval = "" if math.isnan(low) else f"95 %: {percent(low)} to {percent(high)}"
        value, title = row.video_top1, "video top-1"
        if view.is_multi_label:
            value, title = row.mean_average_precision_full, "mAP"
        tiles.append(
            f'<div class="tile {view.styles[row.name]}">{escape(row.name)}<b>{percent(value)} %</b>'
            f"<small>{title}</small><br><small>{interval}</small></div>"
        )
    if view.report.comparisons:
        first = view.report.comparisons[0]
        verdict = FUSION_VERDICTS[first.verdict]
        tiles.append(
            f'<div class="tile verdict">{escape(first.name)} against {escape(first.against)}'
            f"<b>{verdict[0].upper()}{verdict[1:]}</b><small>{100 * first.difference:+.2f} points; "
            f"{count_videos(first.gained)} gained, {first.lost} lost; {escape(first.p_text)}</small></div>"
        )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _result(view: View) -> str:
    """The table of all measures, the comparisons, and video top-1 as rates of three sets of videos."""
    report = view.report
    if view.is_multi_label:
        return _multi_label_result(view)
    rows, denominators = [], []
    for row in report.rows:
        cells = [view.row_name(row.name)]
        for key in report.all_columns:
            interval = getattr(row, f"{key}_interval", None)
            ends = f"<small>{percent(interval[0])} to {percent(interval[1])}</small>" if interval else ""
            cells.append(percent(getattr(row, key)) + ends)
        rows.append(cells)
        frames = f"{row.num_frames:,}" if row.num_frames else "-"
        scored = f"{row.num_videos - row.num_unscored:,} of {row.num_videos:,}"
        rates = [f"{percent(r.video_top1)}<small>of {r.num_videos:,}</small>" for r in row.denominators.values()]
        denominators.append([view.row_name(row.name), frames, scored, *rates])
    notes = [escape(line) for line in [*sentences(report), *fitted_lines(report)]]
    if note := few_classes(report.num_classes):
        notes.append(f"W{note[1:]}.")
    notes += _missing_videos(report)
    intervals = []
    for row in report.rows:
        low, high = row.video_top1_interval
        intervals.append((row.name, view.styles[row.name], 100 * row.video_top1, 100 * low, 100 * high))
    chart = charts.intervals("video top-1 with 95 % intervals", intervals)
    heads = [
        "",
        "frames",
        "videos scored",
        "of the official list",
        "of the videos it scored",
        "of the videos all scored",
    ]
    return (
        "<p>Percent; the small numbers below a rate are its 95 % interval (videos resampled). Videos without scores count "
        f"as wrong.</p>{table(['', *report.all_columns.values()], rows)}{_list(notes)}"
        '<div class="beside"><div><h3>Video top-1 over three sets of videos</h3>'
        f"{table(heads, denominators)}</div><div>{chart and f'<h3>Video top-1, %</h3>{chart}'}</div></div>"
    )


def _multi_label_result(view: View) -> str:
    """The table of the measures of multi-label videos, and what is left out."""
    report = view.report
    rows = []
    for row in report.rows:
        scored = f"{row.num_videos - row.num_unscored:,} of {row.num_videos:,}"
        measures = [percent(getattr(row, key)) for key in report.all_columns]
        rows.append([view.row_name(row.name), *measures, scored])
    notes = [*(escape(line) for line in [f"V{LEFT_OUT[1:]}.", *fitted_lines(report)]), *_missing_videos(report)]
    return (
        "<p>Percent. mAP: average precision of each class, averaged over the classes that occur. mmit mAP: average precision "
        "over the classes of each video, averaged over the videos. Videos without scores count as never found.</p>"
        f"{table(['', *report.all_columns.values(), 'videos scored'], rows)}{_list(notes)}"
    )


def _missing_videos(report: Report) -> list[str]:
    """Notes about videos without scores, and about videos that were left out."""
    return [
        *(_ids(f"{name}: {count_videos(len(ids))} without scores, counted as wrong", ids)
          for name, ids in report.unscored.items() if ids),
        *(_ids(f"left out: {counted_difference(ids, sentence)}", ids) for sentence, ids in report.differences.items()),
    ]  # fmt: skip


def _list(items: Sequence[str]) -> str:
    return f'<ul class="notes">{"".join(f"<li>{item}</li>" for item in items)}</ul>' if items else ""


def _ids(sentence: str, ids: Sequence[str]) -> str:
    """A sentence that unfolds to the ids it is about."""
    more = f" ... and {len(ids) - MAX_IDS:,} more" if len(ids) > MAX_IDS else ""
    return f"<details><summary>{escape(sentence)}</summary>{escape(', '.join(ids[:MAX_IDS]))}{more}</details>"


# ----------------------------------------------------------------------------------------------------------- classes


def _classes(view: View) -> str:
    """A table that can be sorted: for each class its videos, a bar for each row, and what fusion gains."""
    counts, accuracies = _measures_of_classes(view)
    best = view.report.comparisons[0].against if view.report.comparisons else view.streams[0]
    measure = "Video top-1, percent of the class's videos; videos without scores count as wrong."
    if view.is_multi_label:
        best = max(view.report.rows[: len(view.streams)], key=lambda row: row.mean_average_precision_full).name
        measure = "Average precision, percent; videos without scores count as never found."
    heads = ["<th>class</th>", "<th class=number>videos</th>"]
    heads += [f"<th>{view.row_name(name)}</th>" for name in accuracies]
    note = ""
    if view.fusions:
        heads.append(f"<th class=number>gain over {escape(best)}</th>")
        note = f" The gain is that of {escape(view.main)} over {escape(best)}, the best stream."
    lines = []
    for label, name in enumerate(view.classes):
        cells = [
            f"<th scope=row>{escape(name)}</th>",
            f'<td class="number" data-value="{counts[label]}">{counts[label]:,}</td>',
            *(_bar_cell(view.styles[row], class_accuracies[label]) for row, class_accuracies in accuracies.items()),
        ]
        if view.fusions:
            cells.append(_gain_cell(accuracies[view.main][label] - accuracies[best][label]))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f"<p>{measure}{note}</p>"
        f'<div class="scroll tall" tabindex="0"><table class="classes sortable"><thead><tr>{"".join(heads)}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _measures_of_classes(view: View) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The number of videos of each class (K,), and by row its accuracy or, multi-label, its average precision (K,)."""
    if view.is_multi_label:
        by_row = {row.name: np.array(row.class_average_precision) for row in view.report.rows}
        return (view.labels > 0).sum(axis=0), by_row
    counts = np.bincount(view.labels[view.labels >= 0], minlength=len(view.classes))
    return counts, {name: outcomes.class_accuracy(len(view.classes)) for name, outcomes in view.outcomes.items()}


def _bar_cell(style: str, accuracy: float) -> str:
    """`data-value` is what the column is sorted by; a class without videos comes last."""
    if math.isnan(accuracy):
        return '<td data-value="-1">-</td>'
    bar = f'<span class="bar {style}" style="--share:{100 * accuracy:.1f}%">{one_digit(accuracy)}</span>'
    return f'<td data-value="{round(accuracy, 6)}">{bar}</td>'


def _gain_cell(gain: float) -> str:
    if math.isnan(gain):
        value, style, text = -2.0, "none", "-"
    elif gain == 0:
        value, style, text = 0.0, "none", "0"
    else:
        value, style, text = round(gain, 6), "yes" if gain > 0 else "no", f"{100 * gain:+.1f}"
    return f'<td class="number" data-value="{value}"><span class="{style}">{text}</span></td>'


# ------------------------------------------------------------------------------------------- frames and calibration


def _frames(view: View) -> str:
    """Accuracy over the number of frames; if the report has a sweep, also the tables of rules and strides."""
    names = [*view.streams, *view.fusions[:1]]
    report = view.report
    points = report.sweep or sweep(report.tables, names, report.weights, consensus=view.consensus, rules=())
    top1 = {
        name: {p.num_frames: 100 * p.video_top1 for p in points if p.name == name and p.num_frames} for name in names
    }
    counts = sorted(top1[names[0]])
    if len(counts) == 1:
        return "<p>Each video has one row of scores, so there is no curve over its frames.</p>"
    series = [charts.Series(name, list(top1[name].items()), view.styles[name], has_dots=True) for name in names]
    entries = [(view.styles[name], f"{escape(name)} <b>{top1[name][counts[-1]]:.2f} %</b>") for name in names]
    values = [value for by_count in top1.values() for value in by_count.values()]
    drawing = charts.curves(
        "video top-1 by number of frames", series, x_ticks=counts,
        y_ticks=charts.ticks(min(values), max(values), count=5), x_name=" frames", unit=" %", doubling=True,
    )  # fmt: skip
    exact = table(
        ["frames", *map(view.row_name, names)],
        [[f"{count:,}", *(f"{top1[name][count]:.2f}" for name in names)] for count in counts],
    )
    swept = ""
    if report.sweep:
        parts = "".join(_sweep_table(view, name, points) for name in names)
        swept = f'<h3>Rules and strides</h3><div class="choice">{parts}</div>'
    return (
        f"<p>Video top-1, percent, by {escape(report.consensus)} over this number of frames of a video, evenly spaced.</p>"
        f'<div class="beside"><div class="chart">{charts.legend(entries)}{drawing}</div>{exact}</div>{swept}'
    )


def _sweep_table(view: View, name: str, points: Sequence[SweepPoint]) -> str:
    """A line for each rule; its columns are the strides, on logits and on softmax."""
    top1 = {(p.consensus, p.frame_stride): p.video_top1 for p in points if p.name == name and not p.num_frames}
    strides = sorted({stride for _, stride in top1})
    prefixes = {"": "logits", "softmax-": "softmax"}
    heads = ["rule", *(f"{scores}<br>1 of {stride}" for scores in prefixes.values() for stride in strides)]
    best = max(top1.values())
    rows = []
    for rule in dict.fromkeys(rule.removeprefix("softmax-") for rule, _ in top1):
        values = [top1[prefix + rule, stride] for prefix in prefixes for stride in strides]
        rows.append([escape(rule), *(f"<b>{percent(v)}</b>" if v == best else percent(v) for v in values)])
    first = " data-first" if name == view.main else ""
    return (
        f'<div data-name="{escape(name)}"{first}><h3>{escape(name)}</h3>'
        "<p>Video top-1, percent, by rule and share of the scored frames; the best is in bold.</p>"
        f"{table(heads, rows)}</div>"
    )


def _calibration(view: View) -> str:
    panels = []
    for row in view.report.rows:
        error = f"calibration error {percent(row.calibration_error)} %"
        bins = view.outcomes[row.name].reliability()
        drawing = charts.reliability(f"{row.name}: {error}", bins, view.styles[row.name])
        panels.append(f"<div><h3>{view.row_name(row.name)}</h3><small>{error}</small>{drawing}</div>")
    return (
        "<p>How often the best class is right, by its confidence (its probability). On the dashed line confidence equals "
        "accuracy; bars below it are overconfident. The grey bars at the bottom are the number of videos of each bin.</p>"
        f'<div class="panels">{"".join(panels)}</div>'
    )


# -------------------------------------------------------------------------------------------------------- provenance


def _provenance(view: View, command: str, files: Sequence[Path]) -> str:
    """How this page was made, and a column for each stream with its settings and where its scores come from."""
    report = view.report
    columns: list[dict[str, object]] = []
    for number, (source, scores) in enumerate(zip(report.sources, report.tables, strict=True)):
        column: dict[str, object] = {"score file": files[number]} if files else {}
        stream = dict(source["stream"])
        num_classes = len(stream.pop("classes"))
        column |= stream | {"classes": num_classes}
        provenance = source["provenance"]
        if not report.differences:  # otherwise videos were left out, and the fingerprint would be of another split
            provenance = {"split_fingerprint": scores.split_fingerprint} | provenance
        column |= {name: provenance[name] for name in PROVENANCE if name in provenance}
        columns.append(column | {name: value for name, value in provenance.items() if name not in PROVENANCE})
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [[escape(name.replace("_", " ")), *(_fact(column, name) for column in columns)] for name in names]
    made = [
        ["command", f"<pre>{escape(command)}</pre>"],
        ["written", f"{datetime.now().astimezone():%Y-%m-%d %H:%M %z}"],
        ["versions", f"twostream {twostream.__version__}, NumPy {np.__version__}, Python {platform.python_version()}"],
        [
            "split",
            escape(
                f"{report.split}: {counted(len(view.labels), 'video', spec=',')}, {view.num_labelled:,} of them with a label"
            ),
        ],
    ]
    heads = ["", *map(view.row_name, view.streams)]
    return (
        f"{table(['', 'this page'], made, kind='provenance', text_columns=(0, 1))}<h3>Where the scores come from</h3>"
        f"{table(heads, rows, kind='provenance', text_columns=range(len(heads)))}"
    )


def _fact(column: Mapping[str, object], name: str) -> str:
    value = column.get(name)
    if value is None:
        return "-"
    return escape(value if isinstance(value, str | Path | int | float) else json.dumps(value))
