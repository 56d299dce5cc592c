"""report.html in a real browser; skipped if no Chromium is installed."""

import html
import json
import re

import numpy as np
import pytest

from tests.browser import browse, photograph  # noqa: F401 (fixtures)
from tests.report.test_page import build, streams
from twostream.report.page import to_html, write_page

ERRORS = """<script>const errors = [];
addEventListener("error", event => errors.push(event.message));
addEventListener("unhandledrejection", event => errors.push(String(event.reason)));
addEventListener("securitypolicyviolation", event => errors.push("tried to load " + event.blockedURI));</script>"""


def with_script(text: str, script: str) -> str:
    """The page with a script that runs when it is loaded; the title becomes its result and all errors, as JSON."""
    after = (
        f"<script>onload = () => {{ document.title = JSON.stringify([(() => {{ {script} }})(), errors]); }}</script>"
    )
    return text.replace("<style>", ERRORS + "<style>", 1).replace("</body>", after + "</body>")


def run_script(browse, path, text, script, *flags):  # noqa: F811
    """What a script returns in the page; AssertionError if there were errors."""
    path.write_text(with_script(text, script), "utf-8", "replace")
    dom = browse(path.as_uri(), "--dump-dom", *flags)
    value, errors = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", dom)[1]))
    assert not errors
    return value


def test_tables_are_sorted_and_rows_chosen(browse, tmp_path):  # noqa: F811
    report = build(streams(videos=90, classes=tuple(f"class {k}" for k in range(15))))
    script = """
        const table = document.querySelector("table.sortable"), names = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent);
        const press = column => table.tHead.rows[0].cells[column].querySelector("button").click();
        press(4);
        const values = [...table.tBodies[0].rows].map(row => Number(row.cells[4].dataset.value));
        press(0); const up = names(); press(0); const down = names();
        const field = document.querySelector("input[type=search]"); field.value = "CLASS 1"; field.dispatchEvent(new Event("input"));
        const kept = [...table.tBodies[0].rows].filter(row => !row.hidden).length;
        const shown = () => [...document.querySelectorAll("#confusion [data-name]")].filter(part => !part.hidden).map(part => part.dataset.name);
        const first = shown(); document.querySelector("#confusion .tools button").click();
        return [values, up, down, kept, first, shown()];"""
    values, up, down, kept, first, second = run_script(browse, tmp_path / "r.html", to_html(report), script)
    assert values == sorted(values, reverse=True) and len(set(values)) > 2
    assert up == [f"class {k}" for k in range(15)] and down == up[::-1]
    assert kept == 6  # 1, 10 ... 14
    assert (first, second) == (["RGB+Flow"], ["RGB"])


def test_the_map_describes_the_cell_under_the_pointer(browse, tmp_path):  # noqa: F811
    classes = tuple(f"class {k}" for k in range(45))
    report = build(streams(videos=400, classes=classes))
    script = """
        const canvas = document.querySelector("canvas"), output = document.querySelector("output");
        const order = [...document.querySelectorAll("#maps select")][0];
        order.selectedIndex = 1; order.onchange();
        const edge = canvas.getBoundingClientRect(), step = edge.width / 45, texts = [];
        const point = (row, column) => { canvas.dispatchEvent(new PointerEvent("pointermove",
            {clientX: edge.left + (column + .5) * step, clientY: edge.top + (row + .5) * step})); texts.push(output.textContent); };
        point(2, 2); point(2, 3);
        canvas.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowDown"})); texts.push(output.textContent);
        document.querySelector("#maps button").click(); point(0, 0);
        const data = canvas.getContext("2d").getImageData(0, 0, 45, 45).data;
        return [texts, [...data].filter((_, k) => k % 4 === 3).map(alpha => alpha > 0 ? 1 : 0)];"""
    texts, opaque = run_script(browse, tmp_path / "r.html", to_html(report), script)
    predictions = report.predictions
    matrices = {}
    for name, scores in predictions.scores.items():
        is_scored = ~np.isnan(scores).any(axis=1)
        matrices[name] = np.zeros((45, 45), int)
        np.add.at(matrices[name], (predictions.labels[is_scored], scores[is_scored].argmax(axis=1)), 1)
    by_name = sorted(range(45), key=lambda k: classes[k])
    expected = []
    for name, (row, column) in [("RGB+Flow", (2, 2)), ("RGB+Flow", (2, 3)), ("RGB+Flow", (3, 3)), ("RGB", (0, 0))]:
        i, j = by_name[row], by_name[column]
        times, total = matrices[name][i, j], matrices[name][i].sum()
        verdict = "right" if i == j else f"predicted as {classes[j]}"
        expected.append(f"{name}: {classes[i]} → {verdict}: {times}, {100 * times / total:.1f} % of {total}")
    assert texts == expected
    shown = matrices["RGB"][np.ix_(by_name, by_name)] > 0
    np.testing.assert_array_equal(np.array(opaque).reshape(45, 45).astype(bool), shown)


@pytest.mark.parametrize("classes", [6, 45])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(browse, tmp_path, classes, width):  # noqa: F811
    names = tuple(f"a class with a long name{'x' * 30 * (k % 2)} {k}" for k in range(classes))
    ids = [f"a_video_with_a_very_long_name_{'y' * 80}_{n:03d}" for n in range(200)]
    report = build(streams(videos=200, classes=names, ids=ids), fit=("global",), swept=True)
    (tmp_path / "r.html").write_text(to_html(report))
    frame = tmp_path / "frame.html"
    script = "document.title = this.contentDocument.documentElement.scrollWidth"
    frame.write_text(f'<iframe style="border: 0" width="{width}" height="800" src="r.html" onload="{script}"></iframe>')
    assert re.search(r"<title>(\d+)</title>", browse(frame.as_uri(), "--dump-dom"))[1] == str(width)


@pytest.mark.parametrize(("flags", "paper"), [((), 255), (("--force-dark-mode",), 17)])
def test_both_colour_schemes(photograph, tmp_path, flags, paper):  # noqa: F811
    write_page(tmp_path / "r.html", build(streams()))
    photo = photograph((tmp_path / "r.html").as_uri(), 1280, 800, *flags)
    assert abs(int(photo[2, 2, 0]) - paper) <= 2
    assert len(np.unique(photo.reshape(-1, 3), axis=0)) > 50
