"""<run>/curves.html: the figures of a training in one file that any browser shows, without server, script or network."""

import math
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from twostream.files import write_text
from twostream.metrics.confusion import most_confused, row_shares
from twostream.monitor.contract import Monitor
from twostream.monitor.curves import FIGURES, Curves, Figure, Point
from twostream.monitor.pictures import confusion_map, encoded
from twostream.pages import charts, page
from twostream.pages.page import escape

PAGE_NAME = "curves.html"

MAX_DOTS = 50
"""with more validations, their curves have no dots"""
MAX_NAMED_CLASSES = 60
"""with more classes, the names do not fit beside the confusion matrix"""
MAX_LETTERS = 24
"""longest class name beside the confusion matrix"""
SHOWN_VALIDATIONS = 10
TITLES = {"top1": "top-1 %", "top3": "top-3 %"}
MULTI_LABEL_TITLES = {"mean_average_precision": "mAP %", "mmit_mean_average_precision": "mmit mAP %"}
"""measures of a validation by their names in the log, with the titles of their columns"""


class PageMonitor(Monitor):
    """Writes the page again at each validation, at the end, and every few minutes."""

    PAUSE_SECONDS = 180.0

    def __init__(self, run_dir: Path, *, history: Sequence[dict[str, Any]] = ()):
        """`history`: the entries of log.jsonl so far."""
        self.path = run_dir / PAGE_NAME
        self.curves = Curves(history)
        self.validations = [entry for entry in history if entry["event"] == "validation"]
        self.newest: dict[str, float] = {}
        """values of the newest iteration"""
        self.inputs: tuple[int, np.ndarray] | None = None
        self.matrix: tuple[int, np.ndarray, tuple[str, ...]] | None = None
        self.written = -math.inf
        """when the page was written last, in monotonic seconds"""

    def compare_with(self, name: str, top1: float) -> None:
        self.curves.compare_with(name, top1)

    def train(self, values: dict[str, float]) -> None:
        self.curves.add("train", values)
        self.newest = values
        if time.monotonic() > self.written + self.PAUSE_SECONDS:
            self._write(ended=False)

    def validation(self, values: dict[str, float]) -> None:
        self.curves.add("validation", values)
        self.validations.append(values)
        self._write(ended=False)

    def grid(self, iteration: int, picture: np.ndarray) -> None:
        self.inputs = (iteration, picture)

    def confusion(self, iteration: int, matrix: np.ndarray, classes: tuple[str, ...]) -> None:
        self.matrix = (iteration, matrix, classes)

    def close(self) -> None:
        self._write(ended=True)

    def _write(self, *, ended: bool) -> None:
        self.written = time.monotonic()
        parts = [_figure_section(FIGURES[key], curves) for key, curves in self.curves.figures().items()]
        parts += [_validation_section(self.validations)] if self.validations else []
        parts += [_inputs_section(*self.inputs)] if self.inputs else []
        parts += [_confusion_section(*self.matrix)] if self.matrix else []
        write_text(self.path, _page(self.path.parent.name, self._state(ended), parts, reloads=not ended))

    def _state(self, ended: bool) -> str:
        """One line that says how far the training is."""
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
    """The curves of a figure, with their last values in the legend."""
    factor = 100 if figure.is_share else 1
    finite = {name: [(x, factor * y) for x, y in points if math.isfinite(y)] for name, points in curves.items()}
    all_points = [point for points in finite.values() for point in points] or [(0, 0.0)]
    x_ticks = charts.ticks(min(x for x, _ in all_points), max(x for x, _ in all_points), count=4)
    y_ticks = charts.ticks(0, max(y for _, y in all_points), count=5)
    unit = " %" if figure.is_share else ""
    series, entries = [], []
    for name, points in finite.items():
        style = _curve_style(figure, name)
        has_dots = style.startswith("val") and len(points) <= MAX_DOTS
        series.append(charts.Series(name, points, style, has_dots))
        last = f"{points[-1][1]:.4g}{unit}" if points else "not finite"
        entries.append((style, f"{escape(name)} <b>{last}</b>"))
    drawing = charts.curves(figure.title, series, x_ticks=x_ticks, y_ticks=y_ticks, unit=unit)
    return f"<section><h2>{escape(figure.title)}</h2>\n{charts.legend(entries)}\n{drawing}</section>"


def _curve_style(figure: Figure, name: str) -> str:
    """CSS classes of a curve: its event decides the colour, and the second curve of an event is dashed; so is another run.

    >>> [_curve_style(FIGURES["accuracy"], name) for name in ("trainTop3", "valTop1", "linear head x")]
    ['train', 'val second', 'rival second']
    """
    if name not in figure.curves:
        return "rival second"
    event = figure.curves[name][0]
    curves_of_event = [curve for curve, (source, _) in figure.curves.items() if source == event]
    return ("val" if event == "validation" else "train") + (" second" if curves_of_event.index(name) else "")


def _validation_section(validations: Sequence[dict[str, Any]]) -> str:
    is_multi_label = "mean_average_precision" in validations[-1]
    titles = MULTI_LABEL_TITLES if is_multi_label else TITLES
    rows = [
        (f"{v['iteration']:,}", *(f"{100 * v[name]:.2f}" for name in titles), f"{v['loss']:.3f}")
        for v in reversed(validations[-SHOWN_VALIDATIONS:])
    ]
    table = page.table(("iteration", *titles.values(), "loss"), rows, text_columns=())
    return f"<section><h2>Last validations</h2>\n{table}</section>"


def _inputs_section(iteration: int, picture: np.ndarray) -> str:
    source = _data_url(picture, ".jpg")
    title = f"What the network sees, iteration {iteration:,}"
    return f'<section class="wide"><h2>{title}</h2>\n<img src="{source}" alt="inputs of the network"></section>'


def _confusion_section(iteration: int, matrix: np.ndarray, classes: tuple[str, ...]) -> str:
    """The map, with class names if they fit, and a table of the commonest mistakes."""
    mistakes = [(escape(classes[t]), escape(classes[p]), str(count)) for t, p, count in most_confused(matrix)]
    table = page.table(("true", "predicted", "clips"), mistakes, text_columns=(0, 1))
    return (
        f'<section class="wide"><h2>Confusion at validation, iteration {iteration:,}</h2>\n'
        "<p>Rows are true classes, columns are predicted classes. The brighter a field is, the more of the row's clips "
        f"are in it.</p>\n{_confusion_drawing(matrix, classes)}\n</section>\n"
        f'<section class="wide"><h2>Most confused</h2>\n'
        f"{table if mistakes else '<p>All clips were predicted correctly.</p>'}</section>"
    )


def _confusion_drawing(matrix: np.ndarray, classes: tuple[str, ...]) -> str:
    named = len(classes) <= MAX_NAMED_CLASSES
    names = [name if len(name) <= MAX_LETTERS else f"{name[: MAX_LETTERS - 1]}…" for name in classes] if named else []
    margin = 6 * max(map(len, names), default=0) + 10  # for the names, approximately
    cell = max(14, 240 // len(classes)) if named else max(1, 480 // len(classes))
    side = cell * len(classes)
    drawn = [
        f'<image x="{margin}" y="{margin}" width="{side}" height="{side}" style="image-rendering: pixelated" '
        f'href="{_data_url(confusion_map(matrix), ".png")}"/>'
    ]
    for index, name in enumerate(names):
        middle, text = margin + (index + 0.5) * cell, escape(name)
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
    media_type = {".jpg": "image/jpeg", ".png": "image/png"}[kind]
    return page.data_url(encoded(picture, kind), media_type)
