"""Charts, read off their drawings. What curves show is read in test_page.py, what strips show in test_report_page.py."""

import doctest
from xml.etree import ElementTree

import pytest

from twostream.pages import charts
from twostream.pages.charts import LETTER_WIDTH, WIDTH, Series, Strip, curves, intervals, reliability, strips


def test_examples_of_the_docstrings():
    result = doctest.testmod(charts)
    assert result.attempted and not result.failed


@pytest.mark.parametrize("counts", [[1, 2], [1, 2, 3], [1, 2, 4, 8, 9], [2**k for k in range(12)] + [2049], [7]])
def test_names_of_a_doubling_axis_do_not_overlap(counts):
    drawn = ElementTree.fromstring(
        curves("t", [Series("a", [(n, 50) for n in counts], "fused")], x_ticks=counts, y_ticks=[0, 100], doubling=True)
    )
    texts = [t for t in drawn.iter("text") if t.get("y") == "202"]
    edges = []
    for text in texts:
        x, width = float(text.get("x")), LETTER_WIDTH * len(text.text)
        edges.append((x - width, x) if text.get("text-anchor") == "end" else (x - width / 2, x + width / 2))
    assert all(right <= left for (_, right), (left, _) in zip(edges, edges[1:], strict=False))
    assert texts[-1].text == charts.short_number(counts[-1]) and edges[-1][1] <= WIDTH
    points = [tuple(map(float, p.split(","))) for p in next(drawn.iter("polyline")).get("points").split()]
    if counts[-1] == 2 * counts[0] ** 2 == 2:
        assert [x for x, _ in points] == [charts.LEFT, WIDTH - charts.RIGHT]


def test_intervals_are_where_the_axis_says():
    rows = [
        ("RGB", "first", 50.0, 25.0, 75.0),
        ("none", "other", float("nan"), 0.0, 0.0),
        ("<b>", "fused", 100.0, 90.0, 100.0),
    ]
    drawn = ElementTree.fromstring(intervals("t", rows))
    axis = [(float(t.get("x")), float(t.text)) for t in drawn.iter("text") if t.get("class") is None]
    (x0, v0), (x1, v1) = axis[0], axis[-1]

    def value(x):
        return v0 + (float(x) - x0) / (x1 - x0) * (v1 - v0)

    found = [(value(g.find("circle").get("cx")), value(g.find("line").get("x1")), value(g.find("line").get("x2")))
             for g in drawn.iter("g")]  # fmt: skip
    assert found == [pytest.approx(rows[0][2:], abs=0.1), pytest.approx(rows[2][2:], abs=0.1)]
    assert [t.text for t in drawn.iter("text") if t.get("class")] == ["RGB", "<b>"]
    assert intervals("t", rows[1:2]) == ""


def test_bars_of_reliability():
    bins = [(0, 0.0, 0.0), (10, 0.3, 0.5), (40, 0.9, 1.0), (1, 0.99, 0.0)]
    groups = list(ElementTree.fromstring(reliability("t", bins, "fused")).iter("g"))
    heights = [[float(bar.get("height")) for bar in group.iter("rect")] for group in groups]
    assert heights == [[100, 8.5], [200, 34], [1, 1]]
    assert "10 videos: 30.0 % confidence, 50.0 % right" in [group.find("title").text for group in groups]


def test_a_strip_of_one_frame_is_a_level():
    panel = Strip("RGB", "first", [7], [0.5], [0.25], "other")
    drawn = ElementTree.fromstring(strips("t", [panel], 7))
    for line in drawn.iter("polyline"):
        (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in line.get("points").split())
        assert y0 == y1 and x1 > x0 + 100
