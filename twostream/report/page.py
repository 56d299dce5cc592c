"""report.html: the report as one file for any browser, without a network: what is right, what is confused, and examples."""

import json
import math
import platform
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

import twostream
from twostream.files import write_text
from twostream.fusion.sweep import sweep
from twostream.pages import charts
from twostream.pages.page import escape, page, table
from twostream.report.results import COLUMNS, FUSION, MORE_COLUMNS, Report
from twostream.report.style import SCRIPT, STYLE
from twostream.report.text import fitted_lines, percent, sentences, settings
from twostream.report.video_sections import confusion_section, quadrants_section
from twostream.report.view import View, one_digit, videos

MAX_IDS = 100
"""of a list of videos"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""so that a browser asks nothing of the network, whatever stands in the file"""
PROVENANCE = (
    "kind", "file", "run", "iteration", "checkpoint", "sha256", "split_fingerprint", "level", "frame_step", "num_clips",
    "views", "amp", "command", "twostream", "torch",
)  # fmt: skip
"""what is known of scores, in the order in which one asks; other keys follow"""


def write_page(
    path: Path, report: Report, *, root: Path | None = None, command: str = "", files: Sequence[Path] = ()
) -> None:
    """Write the page. `root`: the data root, for pictures; `command` and `files`: how it was made, and of what."""
    write_text(path, to_html(report, root=root, command=command, files=files))


def to_html(report: Report, *, root: Path | None = None, command: str = "", files: Sequence[Path] = ()) -> str:
    """The page as text, see `write_page`."""
    view = View(report, root)
    sections = [("result", "Result", _result(view))]
    if view.has_labels:
        shown = view.examples()
        sections += [
            ("videos", "Who is right where", quadrants_section(view, shown)),
            ("classes", "Accuracy of each class", _classes(view)),
            ("confusion", "Confusion", confusion_section(view, shown)),
            ("frames", "Number of frames", _frames(view)),
            ("calibration", "Calibration", _calibration(view)),
        ]
    sections.append(("provenance", "Provenance", _provenance(view, command, files)))
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections)
    parts = [f'<section class="wide" id="{name}"><h2>{title}</h2>\n{body}</section>' for name, title, body in sections]
    title = f"Report of split {report.split}"
    body = "\n".join([
        f"<header><h1>{escape(title)}</h1>\n<p>{videos(view.count)} with a label; {escape(settings(report))}</p></header>",
        f"<nav>{links}</nav>", _tiles(view), "<main>", *parts, "</main>", f"<script>{SCRIPT}</script>",
    ])  # fmt: skip
    head = [f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">']
    return page(title, body, head=head, style=STYLE)


def _notes(lines: Sequence[str]) -> str:
    return f'<ul class="notes">{"".join(f"<li>{line}</li>" for line in lines)}</ul>' if lines else ""


# ------------------------------------------------------------------------------------------------------- the numbers


def _tiles(view: View) -> str:
    """The video accuracies at a glance, and whether fusion helps."""
    tiles = []
    for row in view.report.rows:
        low, high = row.video_top1_interval
        interval = "" if math.isnan(low) else f"95 %: {percent(low)} to {percent(high)}"
        tiles.append(
            f'<div class="tile {view.looks[row.name]}">{escape(row.name)}<b>{percent(row.video_top1)} %</b>'
            f"<small>video top-1</small><br><small>{interval}</small></div>"
        )
    if view.report.comparisons:
        first = view.report.comparisons[0]
        verdict = FUSION[first.verdict]
        tiles.append(
            f'<div class="tile says">{escape(first.name)} against {escape(first.against)}'
            f"<b>{verdict[0].upper()}{verdict[1:]}</b><small>{100 * first.difference:+.2f} points; "
            f"{first.gained} videos gained, {first.lost} lost; {escape(first.p_text)}</small></div>"
        )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _result(view: View) -> str:
    report = view.report
    rows, denominators = [], []
    for row in report.rows:
        cells = [view.row_name(row.name)]
        for key in COLUMNS | MORE_COLUMNS:
            interval = getattr(row, f"{key}_interval", None)
            ends = f"<small>{percent(interval[0])} to {percent(interval[1])}</small>" if interval else ""
            cells.append(percent(getattr(row, key)) + ends)
        rows.append(cells)
        judged = f"{row.num_videos - row.num_unscored:,} of {row.num_videos:,}"
        of = (
            f"{percent(rates.video_top1)}<small>of {rates.num_videos:,}</small>" for rates in row.denominators.values()
        )
        denominators.append([view.row_name(row.name), f"{row.num_frames:,}" if row.num_frames else "-", judged, *of])
    lines = [escape(line) for line in [*sentences(report), *fitted_lines(report)]]
    if report.num_classes <= 5:
        lines.append(f"With {report.num_classes} classes, top-5 is right for every scored video.")
    lines += [_ids(f"{name}: {videos(len(ids))} without scores, counted as wrong", ids)
              for name, ids in report.unscored.items() if ids]  # fmt: skip
    lines += [_ids(f"left out: {len(ids):,} {sentence}", ids) for sentence, ids in report.differences.items()]
    chart = charts.intervals(
        "video top-1 with 95 % intervals",
        [(row.name, view.looks[row.name], *(100 * value for value in (row.video_top1, *row.video_top1_interval)))
         for row in report.rows],
    )  # fmt: skip
    heads = ["", "frames", "videos scored", "of the official list", "of what it scored", "of what all streams scored"]
    return (
        "<p>Percent; below a rate its 95 % interval, videos drawn again. Videos without scores count as wrong.</p>"
        f"{table(['', *(COLUMNS | MORE_COLUMNS).values()], rows)}{_notes(lines)}"
        '<div class="beside"><div><h3>Video top-1 by what it is a share of</h3>'
        f"{table(heads, denominators)}</div><div>{chart and f'<h3>Video top-1, %</h3>{chart}'}</div></div>"
    )


def _ids(sentence: str, ids: Sequence[str]) -> str:
    more = f" ... and {len(ids) - MAX_IDS:,} more" if len(ids) > MAX_IDS else ""
    return f"<details><summary>{escape(sentence)}</summary>{escape(', '.join(ids[:MAX_IDS]))}{more}</details>"


def _classes(view: View) -> str:
    """A table to be sorted: of each class its videos, a bar for each row, and what fusion gains."""
    counts = np.bincount(view.labels[view.labels >= 0], minlength=len(view.classes))
    accuracies = {name: judged.class_accuracy(len(view.classes)) for name, judged in view.judged.items()}
    best = view.report.comparisons[0].against if view.report.comparisons else view.streams[0]
    heads = ["class", "videos", *(view.row_name(name) for name in accuracies)]
    heads += [f"gain over {escape(best)}"] if view.fusions else []
    lines = []
    for label, name in enumerate(view.classes):
        cells = [
            f"<th scope=row>{escape(name)}</th>",
            f'<td class="number" data-value="{counts[label]}">{counts[label]:,}</td>',
        ]
        for row, of_classes in accuracies.items():
            value = of_classes[label]
            bar = "-" if math.isnan(value) else (
                f'<span class="bar {view.looks[row]}" style="--share:{100 * value:.1f}%">{one_digit(value)}</span>'
            )  # fmt: skip
            cells.append(f'<td data-value="{-1 if math.isnan(value) else round(value, 6)}">{bar}</td>')
        if view.fusions:
            gain = accuracies[view.main][label] - accuracies[best][label]
            text = "-" if math.isnan(gain) else f"{100 * gain:+.1f}" if gain else "0"
            kind = "yes" if gain > 0 else "no" if gain < 0 else "none"
            cells.append(
                f'<td class="number" data-value="{-2 if math.isnan(gain) else round(gain, 6)}"><span class="{kind}">{text}</span></td>'
            )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    numbers = {1, len(heads) - 1} if view.fusions else {1}
    head = "".join(f"<th{' class=number' * (place in numbers)}>{text}</th>" for place, text in enumerate(heads))
    gained = f" The gain is of {escape(view.main)} over {escape(best)}, the best stream." if view.fusions else ""
    return (
        f"<p>Video top-1, percent of the class's videos; those without scores count as wrong.{gained}</p>"
        f'<div class="scroll tall" tabindex="0"><table class="classes sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _frames(view: View) -> str:
    """Accuracy over the number of frames, and of a sweep the table of rules."""
    names = [*view.streams, *view.fusions[:1]]
    report = view.report
    points = report.sweep or sweep(report.tables, names, report.weights, consensus=view.consensus, rules=())
    series, entries, values = [], [], []
    for name in names:
        curve = [(p.num_frames, 100 * p.video_top1) for p in points if p.name == name and p.num_frames]
        series.append(charts.Series(name, curve, view.looks[name], has_dots=True))
        entries.append((view.looks[name], f"{escape(name)} <b>{curve[-1][1]:.2f} %</b>"))
        values += curve
    counts = sorted({count for count, _ in values})
    if len(counts) == 1:
        return "<p>Each video has one row of scores, so there is no curve over its frames.</p>"
    y_ticks = charts.ticks(min(y for _, y in values), max(y for _, y in values), count=5)
    drawing = charts.curves(
        "video top-1 by number of frames", series,
        x_ticks=counts, y_ticks=y_ticks, x_name=" frames", unit=" %", doubling=True,
    )  # fmt: skip
    exact = table(
        ["frames", *map(view.row_name, names)],
        [[f"{count:,}", *(f"{dict(one.points)[count]:.2f}" for one in series)] for count in counts],
    )
    swept = ""
    if report.sweep:
        parts = "".join(_sweep_table(view, name, points) for name in names)
        swept = f'<h3>Rules and strides</h3><div class="choice">{parts}</div>'
    return (
        f"<p>Video top-1, percent, by {escape(report.consensus)} of so many frames of a video, evenly spread.</p>"
        f'<div class="beside"><div class="chart">{charts.legend(entries)}{drawing}</div>{exact}</div>{swept}'
    )


def _sweep_table(view: View, name: str, points: Sequence) -> str:
    """A line for each rule; its columns are the strides, on logits and on softmax."""
    found = {(p.consensus, p.frame_stride): p.video_top1 for p in points if p.name == name and not p.num_frames}
    strides = sorted({stride for _, stride in found})
    prefixes = {"": "logits", "softmax-": "softmax"}
    heads = ["rule", *(f"{on}<br>1 of {stride}" for on in prefixes.values() for stride in strides)]
    best = max(found.values())
    rows = []
    for rule in dict.fromkeys(rule.removeprefix("softmax-") for rule, _ in found):
        values = [found[prefix + rule, stride] for prefix in prefixes for stride in strides]
        rows.append([escape(rule), *(f"<b>{percent(v)}</b>" if v == best else percent(v) for v in values)])
    first = " data-first" if name == view.main else ""
    return (
        f'<div data-name="{escape(name)}"{first}><h3>{escape(name)}</h3>'
        f"<p>Video top-1, percent, by rule and scored frames taken; in bold the best.</p>{table(heads, rows)}</div>"
    )


def _calibration(view: View) -> str:
    panels = []
    for row in view.report.rows:
        error = f"calibration error {percent(row.calibration_error)} %"
        drawing = charts.reliability(f"{row.name}: {error}", view.judged[row.name].reliability(), view.looks[row.name])
        panels.append(f"<div><h3>{view.row_name(row.name)}</h3><small>{error}</small>{drawing}</div>")
    return (
        "<p>How often the best class is right, by how sure the scores are of it. On the dashed line confidence is what it "
        "says; bars below it are overconfident. At the bottom: how many videos each bin has.</p>"
        f'<div class="panels">{"".join(panels)}</div>'
    )


# -------------------------------------------------------------------------------------------------------- provenance


def _provenance(view: View, command: str, files: Sequence[Path]) -> str:
    report = view.report
    columns = []
    for number, (source, scores) in enumerate(zip(report.sources, report.tables, strict=True)):
        stream = source["stream"]
        facts = {"score file": files[number]} if files else {}
        facts |= {name: value for name, value in stream.items() if name != "classes"} | {
            "classes": len(stream["classes"])
        }
        known = source["provenance"]
        if not report.differences:  # otherwise videos are left out of the table, and it is another split
            known = {"split_fingerprint": scores.split_fingerprint} | known
        facts |= {name: known[name] for name in PROVENANCE if name in known}
        columns.append(facts | {name: value for name, value in known.items() if name not in PROVENANCE})
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [[escape(name.replace("_", " ")), *(_fact(column.get(name)) for column in columns)] for name in names]
    made = [
        ["command", f"<pre>{escape(command)}</pre>"],
        ["written", f"{datetime.now().astimezone():%Y-%m-%d %H:%M %z}"],
        ["versions", f"twostream {twostream.__version__}, NumPy {np.__version__}, Python {platform.python_version()}"],
        ["split", escape(f"{report.split}: {len(view.labels):,} videos, {view.count:,} of them with a label")],
    ]
    heads = ["", *map(view.row_name, view.streams)]
    return (
        f"{table(['', 'this page'], made, kind='provenance', texts=(0, 1))}<h3>Where the scores come from</h3>"
        f"{table(heads, rows, kind='provenance', texts=range(len(heads)))}"
    )


def _fact(value: object) -> str:
    if value is None:
        return "-"
    return escape(value if isinstance(value, str | Path | int | float) else json.dumps(value))
