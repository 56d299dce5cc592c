"""Charts as SVG text: curves, intervals, reliability. Colours are CSS classes, defined in page.py and by each page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from twostream.counts import counted
from twostream.files import write_text
from twostream.pages.page import STYLE, escape

# All lengths are in the units of a chart's viewBox, which are pixels on a telephone.
WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 8, 24  # margins around the drawing
LETTER_WIDTH = 6.3  # of a chart's text, approximately


@dataclass(frozen=True)
class Drawing:
    """A chart for Python users: a notebook shows it, and `save` writes it to a file."""

    svg: str
    """as a page contains it, which brings the style"""

    def save(self, path: str | Path) -> None:
        """Write it as a picture, an SVG file, whole or not at all."""
        write_text(path, self._repr_svg_() + "\n")

    def _repr_svg_(self) -> str:
        """What notebooks show: the same with its style."""
        opening, rest = self.svg.split(">", 1)
        return f'{opening} xmlns="http://www.w3.org/2000/svg"><style>{escape(STYLE)}</style>{rest}'


@dataclass(frozen=True)
class Series:
    """One curve."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str
    """CSS classes; the first one is the colour"""
    has_dots: bool = False


def ticks(low: float, high: float, *, count: int) -> list[float]:
    """About `count` round numbers at equal distances that cover `low` to `high`.

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


def short_number(value: float) -> str:
    """A number as the label of a tick.

    >>> short_number(250_000), short_number(1_500_000), short_number(0.0005), short_number(40)
    ('250k', '1.5M', '0.0005', '40')
    """
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def svg(width: float, height: float, title: str, elements: Sequence[str]) -> str:
    """A drawing of SVG elements that takes the width of its container; `title` is read by screen readers."""
    box = f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}"'
    return f"<svg {box}>{''.join(elements)}</svg>"


def curves(
    title: str, series: Sequence[Series], *, x_ticks: Sequence[float], y_ticks: Sequence[float],
    x_name: str = "", unit: str = "", doubling: bool = False,
) -> str:  # fmt: skip
    """Curves over axes that start and end with their ticks. Needs two different y ticks.

    `doubling`: a logarithmic x axis, on which each doubling has the same length. `x_name` and `unit` are appended to
    the x and y values in the tooltips of the dots.
    """
    scale = math.log2 if doubling else float
    first, last = scale(x_ticks[0]), scale(x_ticks[-1])

    def to_pixels(x: float, y: float) -> tuple[float, float]:
        across, up = (scale(x) - first) / ((last - first) or 1), (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    elements = []
    for tick in y_ticks:
        y = to_pixels(x_ticks[0], tick)[1]
        elements.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        elements.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{short_number(tick)}</text>')
    last_label = (
        WIDTH - RIGHT - LETTER_WIDTH * len(short_number(x_ticks[-1]))
    )  # where the label of the last tick begins
    free_from = -math.inf
    for tick in x_ticks:
        x = to_pixels(tick, y_ticks[0])[0]
        if doubling and tick != x_ticks[-1] and (x < free_from or x + 16 > last_label):
            continue  # its label would overlap another one
        anchor = "end" if tick == x_ticks[-1] else "middle"
        elements.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{short_number(tick)}</text>')
        free_from = x + 24
    for curve in series:
        pixels = [to_pixels(*point) for point in curve.points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)
        elements.append(f'<polyline class="line {curve.style}" points="{line}"/>')
        if curve.has_dots or len(pixels) == 1:
            colour = curve.style.split()[0]
            for (x, y), (x_value, y_value) in zip(pixels, curve.points, strict=True):
                label = f"{escape(curve.name)} at {x_value:,}{x_name}: {y_value:.4g}{unit}"
                elements.append(
                    f'<circle class="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"><title>{label}</title></circle>'
                )
    return svg(WIDTH, HEIGHT, title, elements)


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """(CSS classes of a line, its meaning as HTML) -> a list as HTML."""
    return f"<ul>{''.join(f'<li>{swatch(style)}{text}</li>' for style, text in entries)}</ul>"


def swatch(style: str) -> str:
    """A short line with these CSS classes."""
    return f'<svg viewBox="0 0 22 8" aria-hidden="true"><line class="line {style}" x1="0" x2="22" y1="4" y2="4"/></svg>'


def intervals(title: str, rows: Sequence[tuple[str, str, float, float, float]]) -> str:
    """A dot and its interval for each row (name, CSS classes, value, low, high), in percent; "" without finite rows."""
    finite = [row for row in rows if all(map(math.isfinite, row[2:]))]
    if not finite:
        return ""
    axis = ticks(min(low for *_, low, _ in finite), max(high for *_, high in finite), count=5)
    row_height, bottom = 26, 22
    height = row_height * len(finite) + bottom
    left = min(max(len(name) for name, *_ in finite) * LETTER_WIDTH + 10, 150)

    def to_pixels(value: float) -> float:
        return left + (value - axis[0]) / (axis[-1] - axis[0]) * (WIDTH - left - 18)

    elements = []
    for tick in axis:
        x = to_pixels(tick)
        elements.append(f'<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height - bottom}"/>')
        elements.append(f'<text x="{x:.1f}" y="{height - 7}" text-anchor="middle">{short_number(tick)}</text>')
    for number, (name, style, value, low, high) in enumerate(finite):
        y = (number + 0.5) * row_height
        label = f"{name}: {value:.2f} %, 95 % interval {low:.2f} to {high:.2f}"
        shortened = _shorten(name, int((left - 10) / LETTER_WIDTH))
        elements.append(f'<text class="ink" x="0" y="{y + 3.5:.1f}">{escape(shortened)}</text>')
        elements.append(
            f"<g><title>{escape(label)}</title>"
            f'<line class="line {style}" x1="{to_pixels(low):.1f}" x2="{to_pixels(high):.1f}" y1="{y}" y2="{y}"/>'
            f'<circle class="{style.split()[0]}" cx="{to_pixels(value):.1f}" cy="{y}" r="4"/></g>'
        )
    return svg(WIDTH, height, title, elements)


def _shorten(text: str, max_length: int) -> str:
    return text if len(text) <= max_length else text[: max_length - 1] + "…"


def reliability(title: str, bins: Sequence[tuple[int, float, float]], style: str) -> str:
    """Bars of accuracy over confidence, with the line where both are equal; below, a bar for each bin's size.

    `bins` as `metrics.accuracy.reliability` gives them: (number of videos, mean confidence, share of correct ones) of
    equal bins.
    """
    side, left, top, counts_height, gap = 200, 34, 8, 34, 8
    width, height = left + side + 12, top + side + gap + counts_height + 32
    largest = max((number for number, *_ in bins), default=0) or 1
    elements = []
    for tick in (0, 20, 40, 60, 80, 100):
        offset = side * tick / 100
        y, x = top + side - offset, left + offset
        elements.append(f'<line class="rule" x1="{left}" x2="{left + side}" y1="{y:g}" y2="{y:g}"/>')
        elements.append(f'<text x="{left - 5}" y="{y + 3.5:g}" text-anchor="end">{tick}</text>')
        elements.append(f'<text x="{x:g}" y="{height - 17}" text-anchor="middle">{tick}</text>')
    step = side / len(bins)
    for index, (number, confidence, accuracy) in enumerate(bins):
        if not number:
            continue
        x, bar_height, count_height = left + index * step, side * accuracy, max(1.0, counts_height * number / largest)
        label = (
            f"{counted(number, 'video', spec=',')}: {100 * confidence:.1f} % confidence, {100 * accuracy:.1f} % right"
        )
        elements.append(
            f'<g><title>{label}</title><rect class="{style}" x="{x + 0.5:.1f}" y="{top + side - bar_height:.1f}" '
            f'width="{step - 1:.1f}" height="{max(bar_height, 1):.1f}"/>'
            f'<rect class="count" x="{x + 0.5:.1f}" y="{top + side + gap + counts_height - count_height:.1f}" '
            f'width="{step - 1:.1f}" height="{count_height:.1f}"/></g>'
        )
    elements.append(f'<line class="ideal" x1="{left}" x2="{left + side}" y1="{top + side}" y2="{top}"/>')
    middle = left + side / 2
    elements.append(f'<text x="{middle}" y="{height - 4}" text-anchor="middle">confidence, %; bars: right, %</text>')
    return svg(width, height, title, elements)


@dataclass(frozen=True)
class Strip:
    """A small chart of two curves over frames, values in 0 ... 1."""

    name: str
    style: str
    """CSS classes of the solid curve; the dashed one is grey"""
    frames: Sequence[int]
    solid: Sequence[float]
    dashed: Sequence[float]
    dashed_name: str


def strips(title: str, panels: Sequence[Strip], marked_frame: float | None = None) -> str:
    """Strips below each other over one axis of frames, with a vertical line at `marked_frame`, if there is one."""
    width, row_height, bottom, left = 240, 46, 16, 4
    frames = [frame for panel in panels for frame in panel.frames]
    first, last = min(frames), max(frames)
    height = row_height * len(panels) + bottom

    def to_pixels(frame: float) -> float:
        return left + (frame - first) / ((last - first) or 1) * (width - 2 * left)

    elements = []
    for number, panel in enumerate(panels):
        y_zero, curve_height = (number + 1) * row_height - 3, row_height - 18
        y_text, y_one = number * row_height + 9, y_zero - curve_height
        name, dashed_name = _shorten(panel.name, 18), _shorten(panel.dashed_name, 18)
        elements.append(f'<text class="ink" x="{left}" y="{y_text}">{escape(name)}</text>')
        elements.append(f'<text x="{width - left}" y="{y_text}" text-anchor="end">- - {escape(dashed_name)}</text>')
        for y in (y_zero, y_one):
            elements.append(f'<line class="rule" x1="{left}" x2="{width - left}" y1="{y}" y2="{y}"/>')
        if marked_frame is not None:
            x_mark = f"{to_pixels(marked_frame):.1f}"
            elements.append(f'<line class="mark" x1="{x_mark}" x2="{x_mark}" y1="{y_one}" y2="{y_zero}"/>')
        for values, style in ((panel.dashed, "rival second"), (panel.solid, panel.style)):
            points = [
                f"{to_pixels(frame):.1f},{y_zero - curve_height * value:.1f}"
                for frame, value in zip(panel.frames, values, strict=True)
            ]
            if len(points) == 1:  # a point would be invisible: draw a horizontal line
                points.append(f"{width - left},{points[0].partition(',')[2]}")
            elements.append(f'<polyline class="line {style}" points="{" ".join(points)}"/>')
    elements.append(f'<text x="{left}" y="{height - 4}">{first:,}</text>')
    if last > first:
        elements.append(f'<text x="{width - left}" y="{height - 4}" text-anchor="end">{last:,}</text>')
    return svg(width, height, title, elements)
