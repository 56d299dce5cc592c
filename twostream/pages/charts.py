"""Charts as SVG text: curves, intervals, reliability. Colours are style classes, which pages.py knows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from twostream.pages.page import escape

# Of a chart, in its own pixels, which are those of a telephone's page.
WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 8, 24  # margins of the drawing
LETTER = 6.3  # pixels of one in a chart, about


@dataclass(frozen=True)
class Series:
    """One curve."""

    name: str
    points: Sequence[tuple[float, float]]
    look: str
    """style classes; the first one is its colour"""
    has_dots: bool = False


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


def svg(width: float, height: float, title: str, drawn: Sequence[str]) -> str:
    box = f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}"'
    return f"<svg {box}>{''.join(drawn)}</svg>"


def curves(
    title: str, series: Sequence[Series], *, x_ticks: Sequence[float], y_ticks: Sequence[float],
    x_name: str = "", unit: str = "", doubling: bool = False,
) -> str:  # fmt: skip
    """Curves over one axis, which starts and ends with its ticks; `doubling`: from one to twice it is always as far.

    `x_name` and `unit` are for the texts of the dots.
    """
    scale = math.log2 if doubling else float
    first, last = scale(x_ticks[0]), scale(x_ticks[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        """Values -> the chart's pixels."""
        across, up = (scale(x) - first) / ((last - first) or 1), (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    drawn = []
    for tick in y_ticks:
        y = place(x_ticks[0], tick)[1]
        drawn.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{short(tick)}</text>')
    free = -math.inf
    for tick in x_ticks:
        x = place(tick, y_ticks[0])[0]
        if doubling and tick != x_ticks[-1] and (x < free or x + 16 > WIDTH - RIGHT - LETTER * len(short(x_ticks[-1]))):
            continue
        anchor = "end" if tick == x_ticks[-1] else "middle"
        drawn.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{short(tick)}</text>')
        free = x + 24
    for one in series:
        places = [place(*point) for point in one.points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        drawn.append(f'<polyline class="line {one.look}" points="{line}"/>')
        if one.has_dots or len(places) == 1:
            for (x, y), (at, value) in zip(places, one.points, strict=True):
                label = f"{escape(one.name)} at {at:,}{x_name}: {value:.4g}{unit}"
                kind = one.look.split()[0]
                drawn.append(
                    f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"><title>{label}</title></circle>'
                )
    return svg(WIDTH, HEIGHT, title, drawn)


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Style classes and what their line means, as HTML."""
    return f"<ul>{''.join(f'<li>{swatch(look)}{text}</li>' for look, text in entries)}</ul>"


def swatch(look: str) -> str:
    return f'<svg viewBox="0 0 22 8" aria-hidden="true"><line class="line {look}" x1="0" x2="22" y1="4" y2="4"/></svg>'


def intervals(title: str, rows: Sequence[tuple[str, str, float, float, float]]) -> str:
    """Of each row (name, style classes, value, low, high), in percent: a dot and its interval, below each other."""
    finite = [(name, *rest) for name, *rest in rows if all(map(math.isfinite, rest[1:]))]
    if not finite:
        return ""
    axis = ticks(min(low for *_, low, _ in finite), max(high for *_, high in finite), count=5)
    line, bottom = 26, 22
    height = line * len(finite) + bottom
    left = min(max(len(name) for name, *_ in finite) * LETTER + 10, 150)

    def place(value: float) -> float:
        return left + (value - axis[0]) / (axis[-1] - axis[0]) * (WIDTH - left - 18)

    drawn = []
    for tick in axis:
        x = place(tick)
        drawn.append(f'<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height - bottom}"/>')
        drawn.append(f'<text x="{x:.1f}" y="{height - 7}" text-anchor="middle">{short(tick)}</text>')
    for number, (name, look, value, low, high) in enumerate(finite):
        y = (number + 0.5) * line
        label = f"{name}: {value:.2f} %, 95 % from {low:.2f} to {high:.2f}"
        drawn.append(
            f'<text class="ink" x="0" y="{y + 3.5:.1f}">{escape(_cut(name, int((left - 10) / LETTER)))}</text>'
        )
        drawn.append(
            f'<g><title>{escape(label)}</title><line class="line {look}" x1="{place(low):.1f}" x2="{place(high):.1f}" '
            f'y1="{y}" y2="{y}"/><circle class="{look.split()[0]}" cx="{place(value):.1f}" cy="{y}" r="4"/></g>'
        )
    return svg(WIDTH, height, title, drawn)


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"


def reliability(title: str, bins: Sequence[tuple[int, float, float]], look: str) -> str:
    """Of equal bins of confidence (videos, mean confidence, share that is right): bars of the share, against equality.

    Below them how many videos each bin has.
    """
    side, left, top, counts, gap = 200, 34, 8, 34, 8
    width, height = left + side + 12, top + side + gap + counts + 32
    most = max((number for number, *_ in bins), default=0) or 1
    drawn = []
    for tick in (0, 20, 40, 60, 80, 100):
        at = side * tick / 100
        y, x = top + side - at, left + at
        drawn.append(f'<line class="rule" x1="{left}" x2="{left + side}" y1="{y:g}" y2="{y:g}"/>')
        drawn.append(f'<text x="{left - 5}" y="{y + 3.5:g}" text-anchor="end">{tick}</text>')
        drawn.append(f'<text x="{x:g}" y="{height - 17}" text-anchor="middle">{tick}</text>')
    step = side / len(bins)
    for place, (number, confidence, right) in enumerate(bins):
        if not number:
            continue
        x, high, many = left + place * step, side * right, max(1.0, counts * number / most)
        label = f"{number:,} videos said {100 * confidence:.1f} % sure, {100 * right:.1f} % of them right"
        drawn.append(
            f'<g><title>{label}</title><rect class="{look}" x="{x + 0.5:.1f}" y="{top + side - high:.1f}" '
            f'width="{step - 1:.1f}" height="{max(high, 1):.1f}"/>'
            f'<rect class="count" x="{x + 0.5:.1f}" y="{top + side + gap + counts - many:.1f}" '
            f'width="{step - 1:.1f}" height="{many:.1f}"/></g>'
        )
    drawn.append(f'<line class="ideal" x1="{left}" x2="{left + side}" y1="{top + side}" y2="{top}"/>')
    middle = left + side / 2
    drawn.append(f'<text x="{middle}" y="{height - 4}" text-anchor="middle">confidence, %; bars: right, %</text>')
    return svg(width, height, title, drawn)


@dataclass(frozen=True)
class Strip:
    """Two curves over frames, values 0 ... 1."""

    name: str
    look: str
    frames: Sequence[int]
    solid: Sequence[float]
    dashed: Sequence[float]
    dashed_name: str


def strips(title: str, panels: Sequence[Strip], at: float) -> str:
    """Small charts below each other over one axis of frames; `at` is the frame that is marked."""
    width, line, bottom, left = 240, 46, 16, 4
    numbers = [x for panel in panels for x in panel.frames]
    first, last = min(numbers), max(numbers)
    height = line * len(panels) + bottom

    def across(x: float) -> float:
        return left + (x - first) / ((last - first) or 1) * (width - 2 * left)

    drawn = []
    for number, panel in enumerate(panels):
        floor, high = (number + 1) * line - 3, line - 18
        name, other = _cut(panel.name, 18), _cut(panel.dashed_name, 18)
        drawn.append(f'<text class="ink" x="{left}" y="{number * line + 9}">{escape(name)}</text>')
        drawn.append(f'<text x="{width - left}" y="{number * line + 9}" text-anchor="end">- - {escape(other)}</text>')
        for y in (floor, floor - high):
            drawn.append(f'<line class="rule" x1="{left}" x2="{width - left}" y1="{y}" y2="{y}"/>')
        drawn.append(
            f'<line class="mark" x1="{across(at):.1f}" x2="{across(at):.1f}" y1="{floor - high}" y2="{floor}"/>'
        )
        for values, look in ((panel.dashed, "rival second"), (panel.solid, panel.look)):
            points = [f"{across(x):.1f},{floor - high * v:.1f}" for x, v in zip(panel.frames, values, strict=True)]
            if len(points) == 1:  # a level, to be seen at all
                points.append(f"{width - left},{points[0].partition(',')[2]}")
            drawn.append(f'<polyline class="line {look}" points="{" ".join(points)}"/>')
    drawn.append(f'<text x="{left}" y="{height - 4}">{first:,}</text>')
    if last > first:
        drawn.append(f'<text x="{width - left}" y="{height - 4}" text-anchor="end">{last:,}</text>')
    return svg(width, height, title, drawn)
