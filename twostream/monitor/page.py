"""<run>/curves.html: the figures of a training as one file that any browser shows, without server, script or network."""

import math
import time
from datetime import datetime
from pathlib import Path

import numpy as np

from twostream.files import write_text
from twostream.metrics import confusion
from twostream.metrics.confusion import row_shares
from twostream.monitor.contract import Monitor
from twostream.monitor.curves import FIGURES, Curves, Figure, Point
from twostream.monitor.pictures import confusion_map, encoded
from twostream.pages import charts, page
from twostream.pages.page import escape

PAGE_NAME = "curves.html"

MAX_DOTS = 50  # more validations are a line only
MAX_NAMED_CLASSES = 60  # more names do not fit beside the confusion matrix
MAX_LETTERS = 24  # of such a name


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
        write_text(self.path, _page(self.path.parent.name, self._state(ended), parts, reloads=not ended))

    def _state(self, ended: bool) -> str:
        """One line on where the training is."""
        done = f"iteration {self.newest['iteration']:,}, " if self.newest else ""
        left = ""
        if self.newest and not ended:
            minutes = round(self.newest["seconds_left"] / 60)
            left = f", {minutes // 60} h {minutes % 60} min left"
        return f"{done}{'ended' if ended else 'written'} {datetime.now():%Y-%m-%d %H:%M}{left}"


def _page(title: str, state: str, sections: list[str], *, reloads: bool) -> str:
    body = "\n".join([f"<h1>{escape(title)}</h1>\n<p>{escape(state)}</p>\n<main>", *sections, "</main>"])
    return page.page(title, body, head=['<meta http-equiv="refresh" content="60">'] if reloads else [])


def _figure_section(figure: Figure, curves: dict[str, list[Point]]) -> str:
    """A figure's curves, with their last values in its legend."""
    factor = 100 if figure.is_share else 1
    finite = {name: [(x, factor * y) for x, y in points if math.isfinite(y)] for name, points in curves.items()}
    everything = [point for points in finite.values() for point in points] or [(0, 0.0)]
    x_ticks = charts.ticks(min(x for x, _ in everything), max(x for x, _ in everything), count=4)
    y_ticks = charts.ticks(0, max(y for _, y in everything), count=5)
    unit = " %" if figure.is_share else ""
    series, entries = [], []
    for name, points in finite.items():
        look = _look(figure, name)
        has_dots = figure.curves[name][0] == "validation" and len(points) <= MAX_DOTS
        series.append(charts.Series(name, points, look, has_dots))
        last = f"{points[-1][1]:.4g}{unit}" if points else "not finite"
        entries.append((look, f"{name} <b>{last}</b>"))
    drawing = charts.curves(figure.title, series, x_ticks=x_ticks, y_ticks=y_ticks, unit=unit)
    return f"<section><h2>{escape(figure.title)}</h2>\n{charts.legend(entries)}\n{drawing}</section>"


def _look(figure: Figure, name: str) -> str:
    """Style classes of a curve: colour by event; the second one of an event is dashed.

    >>> _look(FIGURES["accuracy"], "trainTop3"), _look(FIGURES["accuracy"], "valTop1")
    ('train', 'val second')
    """
    event = figure.curves[name][0]
    same = [other for other, (source, _) in figure.curves.items() if source == event]
    return ("val" if event == "validation" else "train") + (" second" if same.index(name) else "")


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
        f'<tr><td>{escape(classes[t])}</td><td>{escape(classes[p])}</td><td class="number">{times}</td></tr>'
        for t, p, times in confusion.most_confused(matrix)
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
        middle, text = margin + (place + 0.5) * cell, escape(name)
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
    return page.data_url(encoded(picture, kind), medium)
