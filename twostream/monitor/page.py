"""<run>/curves.html: the figures of a training as one file that any browser shows, without server, script or network."""

import base64
import html
import math
import time
from datetime import datetime
from pathlib import Path

import numpy as np

from twostream import atomic, metrics
from twostream.monitor.contract import Monitor
from twostream.monitor.curves import FIGURES, Curves, Figure, Point
from twostream.monitor.pictures import confusion_map, encoded, row_shares

PAGE_NAME = "curves.html"

# Of a figure, in its own pixels, which are those of a telephone's page.
WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 8, 24  # margins of the drawing
MAX_DOTS = 50  # more validations are a line only
MAX_NAMED_CLASSES = 60  # more names do not fit beside the confusion matrix
MAX_LETTERS = 24  # of such a name

STYLE = """
:root { --paper: #fff; --ink: #1f2328; --quiet: #6b7280; --rule: #e5e7eb; --card: #f9fafb;
  --train: #2f6fde; --val: #d9480f; }
@media (prefers-color-scheme: dark) { :root { --paper: #111418; --ink: #e6e8eb; --quiet: #9aa3af; --rule: #2b3138;
  --card: #181c21; --train: #6ea8fe; --val: #ff9452; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 84rem; background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.2rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 0 0 .25rem; font-weight: 600; }
p { margin: 0 0 1rem; color: var(--quiet); }
main { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: .75rem; min-width: 0; }
section.wide { grid-column: 1 / -1; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--quiet); font-size: 10.5px; font-family: system-ui, sans-serif; }
.rule { stroke: var(--rule); }
.line { fill: none; stroke-width: 1.5; stroke-linejoin: round; }
.second { stroke-dasharray: 5 3; }
.train { stroke: var(--train); } .val { stroke: var(--val); } circle.val { fill: var(--val); stroke: none; }
ul { list-style: none; margin: 0 0 .5rem; padding: 0; display: flex; flex-wrap: wrap; gap: 0 1rem; font-size: .85rem; }
li svg { display: inline-block; width: 22px; height: 8px; margin-right: .35rem; vertical-align: middle; }
img { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .9rem .15rem 0; text-align: left; border-bottom: 1px solid var(--rule); }
th { font-weight: 600; } .number { text-align: right; }
"""


class PageMonitor(Monitor):
    """Written anew at each validation, at the end, and every few minutes; `history` are the entries of log.jsonl."""

    PAUSE_SECONDS = 180.0

    def __init__(self, run_dir: Path, *, history: list[dict] = ()):
        self.path = run_dir / PAGE_NAME
        self.curves = Curves(history)
        self.validations = [entry for entry in history if entry["event"] == "validation"]
        self.newest: dict = {}
        self.inputs: tuple[int, np.ndarray] | None = None
        self.matrix: tuple[int, np.ndarray, tuple[str, ...]] | None = None
        self.written = -math.inf  # monotonic seconds

    def train(self, numbers: dict) -> None:
        self.curves.add("train", numbers)
        self.newest = numbers
        if time.monotonic() > self.written + self.PAUSE_SECONDS:
            self._write(ended=False)

    def validation(self, numbers: dict) -> None:
        self.curves.add("validation", numbers)
        self.validations.append(numbers)
        self._write(ended=False)

    def grid(self, iteration: int, picture: np.ndarray) -> None:
        self.inputs = (iteration, picture)

    def confusion(self, iteration: int, matrix: np.ndarray, classes: tuple[str, ...]) -> None:
        self.matrix = (iteration, matrix, classes)

    def close(self) -> None:
        self._write(ended=True)

    def _write(self, *, ended: bool) -> None:
        self.written = time.monotonic()
        curves = self.curves.points()
        parts = [
            _figure_section(figure, {name: curves[name] for name in figure.curves if name in curves})
            for figure in FIGURES.values()
            if not curves.keys().isdisjoint(figure.curves)
        ]
        parts += [_validation_section(self.validations)] if self.validations else []
        parts += [_inputs_section(*self.inputs)] if self.inputs else []
        parts += [_confusion_section(*self.matrix)] if self.matrix else []
        atomic.write_text(self.path, _page(self.path.parent.name, self._state(ended), parts, reloads=not ended))

    def _state(self, ended: bool) -> str:
        """One line on where the training is."""
        done = f"iteration {self.newest['iteration']:,}, " if self.newest else ""
        left = ""
        if self.newest and not ended:
            minutes = round(self.newest["seconds_left"] / 60)
            left = f", {minutes // 60} h {minutes % 60} min left"
        return f"{done}{'ended' if ended else 'written'} {datetime.now():%Y-%m-%d %H:%M}{left}"


def _page(title: str, state: str, sections: list[str], *, reloads: bool) -> str:
    name = html.escape(title)
    return "\n".join(
        [
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{name}</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            *(['<meta http-equiv="refresh" content="60">'] if reloads else []),
            f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{name}</h1>\n<p>{html.escape(state)}</p>\n<main>",
            *sections,
            "</main>\n</body>\n</html>\n",
        ]
    )


def _figure_section(figure: Figure, curves: dict[str, list[Point]]) -> str:
    """A figure's curves, with their last values in its legend."""
    factor = 100 if figure.is_share else 1
    finite = {name: [(x, factor * y) for x, y in points if math.isfinite(y)] for name, points in curves.items()}
    everything = [point for points in finite.values() for point in points] or [(0, 0.0)]
    x_ticks = ticks(min(x for x, _ in everything), max(x for x, _ in everything), count=4)
    y_ticks = ticks(0, max(y for _, y in everything), count=5)

    def place(point: Point) -> tuple[float, float]:
        """Iteration and value -> the figure's pixels."""
        x, y = point
        across = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = y / y_ticks[-1]
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    drawn, legend = [], []
    for tick in y_ticks:
        y = place((x_ticks[0], tick))[1]
        drawn.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{short(tick)}</text>')
    for tick in x_ticks:
        x = place((tick, 0))[0]
        anchor = "end" if tick == x_ticks[-1] else "middle"
        drawn.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{short(tick)}</text>')
    unit = " %" if figure.is_share else ""
    for name, points in finite.items():
        look = _look(figure, name)
        places = [place(point) for point in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        drawn.append(f'<polyline class="line {look}" points="{line}"/>')
        if figure.curves[name][0] == "validation" and len(points) <= MAX_DOTS or len(points) == 1:
            kind = look.split()[0]
            for (x, y), (iteration, value) in zip(places, points, strict=True):
                label = f"{name} at {iteration:,}: {value:.4g}{unit}"
                drawn.append(
                    f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"><title>{label}</title></circle>'
                )
        swatch = f'<svg viewBox="0 0 22 8"><line class="line {look}" x1="0" x2="22" y1="4" y2="4"/></svg>'
        last = f"{points[-1][1]:.4g}{unit}" if points else "not finite"
        legend.append(f"<li>{swatch}{name} <b>{last}</b></li>")
    title = html.escape(figure.title)
    picture = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{"".join(drawn)}</svg>'
    return f"<section><h2>{title}</h2>\n<ul>{''.join(legend)}</ul>\n{picture}</section>"


def _look(figure: Figure, name: str) -> str:
    """Style classes of a curve: colour by event; the second one of an event is dashed."""
    event = figure.curves[name][0]
    same = [other for other, (source, _) in figure.curves.items() if source == event]
    return ("val" if event == "validation" else "train") + (" second" if same.index(name) else "")


def ticks(low: float, high: float, *, count: int) -> list[float]:
    """Round numbers, about `count` of them, at equal distances from `low` or less up to `high` or more.

    >>> ticks(0, 4.6, count=5), ticks(120, 470, count=4), ticks(7, 7, count=4)
    ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [100.0, 200.0, 300.0, 400.0, 500.0], [7.0, 8.0])
    """
    if high <= low:
        return [float(low), low + 1.0]
    rough = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = min((factor * magnitude for factor in (1, 2, 5, 10)), key=lambda step: abs(step - rough))
    first, last = math.floor(low / step), math.ceil(high / step - 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def short(value: float) -> str:
    """
    >>> short(250_000), short(1_500_000), short(0.0005), short(40)
    ('250k', '1.5M', '0.0005', '40')
    """
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _validation_section(validations: list[dict]) -> str:
    rows = [
        "".join(
            f'<td class="number">{cell}</td>'
            for cell in (f"{n['iteration']:,}", f"{100 * n['top1']:.2f}", f"{100 * n['top3']:.2f}", f"{n['loss']:.3f}")
        )
        for n in validations[:-11:-1]
    ]
    heads = "".join(f'<th class="number">{head}</th>' for head in ("iteration", "top-1 %", "top-3 %", "loss"))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f'<section><h2>Last validations</h2>\n<div class="scroll"><table><tr>{heads}</tr>{body}</table></div></section>'
    )


def _inputs_section(iteration: int, picture: np.ndarray) -> str:
    source = _data_url(picture, ".jpg")
    title = f"What the network sees, iteration {iteration:,}"
    return f'<section class="wide"><h2>{title}</h2>\n<img src="{source}" alt="inputs of the network"></section>'


def _confusion_section(iteration: int, matrix: np.ndarray, classes: tuple[str, ...]) -> str:
    """The map with the classes' names where they fit, and the commonest mistakes in words."""
    heads = "".join(f"<th>{head}</th>" for head in ("true", "taken for", "clips"))
    pairs = [
        f'<tr><td>{html.escape(classes[t])}</td><td>{html.escape(classes[p])}</td><td class="number">{times}</td></tr>'
        for t, p, times in metrics.most_confused(matrix)
    ]
    table = (
        f"<table><tr>{heads}</tr>{''.join(pairs)}</table>" if pairs else "<p>No clip was taken for another class.</p>"
    )
    return (
        f'<section class="wide"><h2>Confusion at validation, iteration {iteration:,}</h2>\n'
        f"<p>Rows are true classes, columns what they are taken for; the brighter, the more of the row's clips.</p>\n"
        f"{_confusion_drawing(matrix, classes)}\n</section>\n"
        f'<section class="wide"><h2>Most confused</h2>\n<div class="scroll">{table}</div></section>'
    )


def _confusion_drawing(matrix: np.ndarray, classes: tuple[str, ...]) -> str:
    named = len(classes) <= MAX_NAMED_CLASSES
    names = [name if len(name) <= MAX_LETTERS else f"{name[: MAX_LETTERS - 1]}…" for name in classes] if named else []
    margin = 6 * max(map(len, names), default=0) + 10  # of the names, about
    cell = max(14, 240 // len(classes)) if named else max(1, 480 // len(classes))
    side = cell * len(classes)
    drawn = [
        f'<image x="{margin}" y="{margin}" width="{side}" height="{side}" style="image-rendering: pixelated" '
        f'href="{_data_url(confusion_map(matrix), ".png")}"/>'
    ]
    for place, name in enumerate(names):
        middle, text = margin + (place + 0.5) * cell, html.escape(name)
        drawn.append(f'<text x="{margin - 5}" y="{middle + 3.5:.1f}" text-anchor="end">{text}</text>')
        drawn.append(f'<text transform="translate({middle + 3.5:.1f} {margin - 5}) rotate(-90)">{text}</text>')
    if named and cell >= 24:
        for (row, column), share in np.ndenumerate(row_shares(matrix)):
            x, y = margin + (column + 0.5) * cell, margin + (row + 0.5) * cell + 3.5
            ink = "#000" if share > 0.6 else "#fff"
            drawn.append(
                f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" style="fill: {ink}">{matrix[row, column]}</text>'
            )
    edge = margin + side + 4
    box = f'viewBox="0 0 {edge} {edge}" style="max-width: {edge}px"'
    return f'<svg {box} role="img" aria-label="confusion matrix">{"".join(drawn)}</svg>'


def _data_url(picture: np.ndarray, kind: str) -> str:
    medium = {".jpg": "image/jpeg", ".png": "image/png"}[kind]
    return f"data:{medium};base64,{base64.b64encode(encoded(picture, kind)).decode()}"
