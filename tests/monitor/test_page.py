"""curves.html, read as a person reads it: values are read from the axes of its drawings."""

import base64
import html
import re
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from twostream.monitor.page import PageMonitor
from twostream.pages.charts import ticks


def points_of_page(text: str) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """{figure: {curve: [(iteration, value), ...]}}, from the positions of the curves between the labels of the axes."""
    figures = {}
    for section in re.findall(r"<section>(.*?)</section>", text, re.DOTALL):
        drawing = re.search(r'<svg viewBox="0 0 \d+ \d+" role="img" aria-label="([^"]*)">.*?</svg>', section)
        if drawing:
            names = re.findall(r"</svg>([^<]*) <b>", section)
            figures[html.unescape(drawing[1])] = dict(zip(names, _points(drawing[0]), strict=True))
    return figures


def _points(drawing: str) -> list[list[tuple[float, float]]]:
    root = ElementTree.fromstring(drawing)
    labels = [(float(t.get("x")), float(t.get("y")), _number(t.text)) for t in root.iter("text")]
    floor = max(y for _, y, _ in labels)
    across = [(x, value) for x, y, value in labels if y == floor]
    up = [(float(line.get("y1")), value) for line, (_, _, value) in zip(root.iter("line"), labels, strict=False)]
    assert len(across) >= 2 and len(up) >= 2
    to_iteration, to_value = (np.polyfit(*np.transpose(axis), 1) for axis in (across, up))
    return [
        [
            (float(np.polyval(to_iteration, x)), float(np.polyval(to_value, y)))
            for x, y in (map(float, pair.split(",")) for pair in line.get("points").split())
        ]
        for line in root.iter("polyline")
    ]


def _number(text: str) -> float:
    return float(text.rstrip("kM")) * {"k": 1e3, "M": 1e6}.get(text[-1], 1)


def values(iteration: int, **changed) -> dict:
    last = {"loss": 5 / iteration, "top1": 0.5, "top3": 0.75, "seconds": 0.25, "data_seconds": 0.05}
    return (
        {"event": "train", "iteration": iteration, "images": 8, "learning_rate": 5e-4, "seconds_left": 7260.0}
        | last
        | {f"mean_{name}": value for name, value in last.items()}
        | changed
    )


def test_every_figure_shows_its_values(tmp_path):
    history = [values(k) for k in range(1000, 9000, 1000)]
    history.append({"event": "validation", "iteration": 8000, "loss": 0.003, "top1": 0.25, "top3": 0.6})
    page = PageMonitor(tmp_path, history=history)
    page.train(values(9000))
    figures = points_of_page((tmp_path / "curves.html").read_text())
    expected = {
        "Train & Val Losses": {"Train-Loss": 5 / 9000, "Val-Loss": 0.003},
        "Train & Val Accuracies": {"trainTop3": 75, "valTop3": 60, "trainTop1": 50, "valTop1": 25},
        "Learning rate": {"learning rate": 5e-4},
        "Images per second": {"images/s": 32},
        "Where the time goes": {"waiting for data": 20, "computing": 80},
    }
    assert figures.keys() == expected.keys()
    for figure, lasts in expected.items():
        assert figures[figure].keys() == lasts.keys()
        for name, last in lasts.items():
            iteration, value = figures[figure][name][-1]
            assert iteration == pytest.approx(8000 if name.lower().startswith("val") else 9000, rel=1e-3)
            assert value == pytest.approx(last, rel=0.01)
    trained = figures["Train & Val Losses"]["Train-Loss"]
    assert [round(x, -2) for x, _ in trained] == list(range(1000, 10_000, 1000))
    assert [y for _, y in trained] == pytest.approx([5 / k for k in range(1000, 10_000, 1000)], abs=2e-5)


def test_the_line_of_another_run_is_dashed_and_named(tmp_path):
    history = [values(20), values(40), {"event": "validation", "iteration": 40, "loss": 0.1, "top1": 0.25, "top3": 0.6}]
    page = PageMonitor(tmp_path, history=history)
    page.compare_with("linear head <mine>", 0.58)
    page.close()
    text = (tmp_path / "curves.html").read_text()
    curves = points_of_page(text)["Train & Val Accuracies"]
    line = [(pytest.approx(x, abs=0.1), pytest.approx(58, abs=0.5)) for x in (20, 40)]
    assert curves["linear head &lt;mine&gt;"] == line and len(curves) == 5
    assert ".second { stroke-dasharray" in text and text.count('class="line rival second"') == 2  # and in the legend


def test_the_page_needs_no_other_file(tmp_path):
    """It has no scripts and refers to no other file; class names are escaped; pictures are part of it."""
    run_dir = tmp_path / "<script>alert(1)</script>".replace("/", "_")
    run_dir.mkdir()
    page = PageMonitor(run_dir, history=[values(20)])
    picture = np.full((30, 50, 3), (200, 30, 90), np.uint8)
    page.grid(20, picture)
    page.confusion(20, np.array([[1, 2], [0, 4]]), ("<img src=x>", "a & b"))
    page.close()
    text = (run_dir / "curves.html").read_text()
    outside = re.sub(r"data:image/\w+;base64,[\w+/=]+", "", text)
    assert "<script" not in text and not re.findall(r"https?:|//|url\(|@import", outside)
    assert "<img src=x>" not in text and "&lt;img src=x&gt;" in text and "a &amp; b" in text
    decoded = [
        cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)
        for data in re.findall(r"base64,([\w+/=]+)", text)
    ]
    assert [image.shape for image in decoded] == [(30, 50, 3), (2, 2, 3)]
    assert np.abs(decoded[0] - picture).max() < 8  # what JPEG costs
    brightness = decoded[1].sum(axis=2)
    assert brightness[1, 1] > brightness[0, 1] > brightness[0, 0] > brightness[1, 0]  # 1, 2/3, 1/3, 0 of their rows
    assert re.search(r"&lt;img src=x&gt;</th><td>a &amp; b</td><td class=\"number\">2</td>", text)


def test_when_it_is_written(tmp_path, monkeypatch):
    path = tmp_path / "curves.html"
    page = PageMonitor(tmp_path)

    def last_iteration() -> int:
        return int(re.search(r"<p>iteration (\d+)", path.read_text())[1])

    page.train(values(20))
    assert last_iteration() == 20 and "2 h 1 min left" in path.read_text() and "refresh" in path.read_text()
    page.train(values(40))
    assert last_iteration() == 20, "not at every iteration"
    page.validation({"iteration": 40, "loss": 1.0, "top1": 0.5, "top3": 0.5})
    assert last_iteration() == 40
    monkeypatch.setattr(PageMonitor, "PAUSE_SECONDS", 0.0)
    page.train(values(60))
    assert last_iteration() == 60
    page.train(values(80))
    page.close()
    assert last_iteration() == 80 and "ended" in path.read_text() and "refresh" not in path.read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["curves.html"]


def test_with_nothing_one_point_and_many(tmp_path):
    page = PageMonitor(tmp_path)
    page.close()
    assert points_of_page((tmp_path / "curves.html").read_text()) == {}
    page.train(values(7))
    page.close()
    figures = points_of_page((tmp_path / "curves.html").read_text())
    assert figures["Images per second"]["images/s"] == [(pytest.approx(7), pytest.approx(32, abs=0.1))]
    page = PageMonitor(tmp_path, history=[values(k) for k in range(1, 30_000)])
    page.close()
    text = (tmp_path / "curves.html").read_text()
    assert all(len(curve) <= 1000 for figure in points_of_page(text).values() for curve in figure.values())
    assert len(text) < 300_000


@pytest.mark.parametrize(
    ("low", "high", "count"),
    [
        (0, 1, 5),
        (0, 3.4, 5),
        (20, 160, 4),
        (1, 500_000, 4),
        (0, 2e-5, 5),
        (0, 3e-14, 5),
        (0, 99.99, 5),
        (3, 3, 4),
        (0, 0, 5),
        (0, 1e9, 4),
    ],
)
def test_ticks_are_round_and_cover_the_values(low, high, count):
    found = ticks(low, high, count=count)
    assert found[0] <= low and found[-1] >= high and 2 <= len(found) <= 2 * count
    steps = np.diff(found)
    assert np.allclose(steps, steps[0])
    mantissa = steps[0] / 10 ** np.floor(np.log10(steps[0]) + 1e-9)
    assert min(abs(mantissa - good) for good in (1, 2, 5)) < 1e-6
