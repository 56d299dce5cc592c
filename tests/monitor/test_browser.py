"""curves.html and Visdom's page in a real browser; skipped if no Chromium is installed."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from tests.browser import browse, photograph  # noqa: F401 (fixtures)
from tests.monitor.samples import CLASSES, MATRIX, picture, train_values, validation_values
from tests.monitor.visdom_server import free_port, visdom_server
from twostream.monitor.page import PageMonitor
from twostream.monitor.visdom import VisdomMonitor

HISTORY = [{"event": "train"} | train_values(k) for k in range(20, 201, 20)]
HISTORY += [{"event": "validation"} | validation_values(k) for k in (100, 200)]


def amount(photo: np.ndarray, colour: str) -> int:
    """Number of pixels that have nearly this colour, #rrggbb."""
    wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return int((np.abs(photo.astype(int) - wanted).max(axis=2) <= 12).sum())


# --------------------------------------------------------------------------------------------------- curves.html


def written_page(run_dir: Path, history: list[dict]) -> str:
    """URL of curves.html."""
    run_dir.mkdir()
    page = PageMonitor(run_dir, history=history)
    if history:
        page.grid(200, picture(0, height=300, width=1200))
        page.confusion(200, np.ones((40, 40), int), tuple(f"a class with a long name {k}" for k in range(40)))
    page.close()
    return (run_dir / "curves.html").as_uri()


@pytest.mark.parametrize(
    ("flags", "paper", "train", "val"),
    [((), "#ffffff", "#2f6fde", "#d9480f"), (("--force-dark-mode",), "#111418", "#6ea8fe", "#ff9452")],
)
def test_the_page_draws_its_curves(photograph, tmp_path, flags, paper, train, val):  # noqa: F811
    empty = photograph(written_page(tmp_path / "empty", []), 1280, 800, *flags)
    drawn = photograph(written_page(tmp_path / "drawn", HISTORY), 1280, 800, *flags)
    assert amount(drawn[:4, :4], paper) == 16
    for colour in (train, val):
        assert amount(empty, colour) == 0 and amount(drawn, colour) > 200


def test_the_page_fits_a_telephone(browse, tmp_path):  # noqa: F811
    """Nothing is wider than the window: measured in a page that shows it in a frame of that width."""
    url = written_page(tmp_path / "run", HISTORY)
    frame = tmp_path / "frame.html"
    for width in (340, 800):
        script = "document.title = this.contentDocument.documentElement.scrollWidth"
        frame.write_text(
            f'<iframe style="border: 0" width="{width}" height="600" src="{url}" onload="{script}"></iframe>'
        )
        dom = browse(frame.as_uri(), "--dump-dom")
        assert re.search(r"<title>(\d+)</title>", dom)[1] == str(width)


# -------------------------------------------------------------------------------------------------------- Visdom


def test_visdom_draws_its_windows(photograph, browse, tmp_path):  # noqa: F811
    static = Path(importlib.util.find_spec("visdom").origin).parent / "static"
    if not (static / "js" / "plotly-plotly.min.js").exists():
        pytest.skip(
            "Visdom has not downloaded the scripts of its page yet; run python -m visdom.server once, with a network"
        )
    port = free_port()
    with visdom_server(port, tmp_path):
        monitor = VisdomMonitor(server="localhost", port=port, env="run", history=HISTORY)
        monitor.grid(200, picture(0))
        monitor.confusion(200, MATRIX, CLASSES)
        monitor.close()
        address = f"http://localhost:{port}/env/"
        empty, drawn = (photograph(address + env, 1500, 1200, milliseconds=15_000) for env in ("nothing", "run"))
        dom = browse(address + "run", "--dump-dom", milliseconds=15_000)
    for colour in ("#1f77b4", "#ff7f0e"):  # the first two curves of a window
        assert amount(drawn, colour) > amount(empty, colour) + 200
    shown = re.findall(r'class="legendtext"[^>]*>([^<]*)<', dom)
    assert {"Train-Loss", "Val-Loss", "valTop1", "images/s", "waiting for data"} <= set(shown)
    assert "data:image/jpeg;base64" in dom and "% of each true class" in dom
