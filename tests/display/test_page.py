"""The page of predictions: complete, without anything from the network, in a real browser where there is one."""

import re

import cv2
import numpy as np
import pytest

from tests import toy
from tests.browser import browse, photograph  # noqa: F401 (fixtures)
from tests.inference.samples import make_run
from tests.report.test_browser import run_script
from twostream.display.page import Shown, take_pictures, to_html
from twostream.inference.export import recognizer_of_runs
from twostream.inference.sources import Pictures


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return recognizer_of_runs([make_run(folder, "rgb"), make_run(folder, "farneback", seed=1)])


@pytest.fixture(scope="module")
def shown(recognizer):
    """A prediction and a timeline, of videos whose names would be markup."""
    entries = []
    for name, direction in (('a<b>&"c.mp4', "left"), ("second.mp4", "right")):
        source = Pictures(name, toy.frames(1, "red", direction), fps=15)
        result = recognizer.timeline(source) if entries else recognizer.predict(source)
        entries.append(Shown(result, take_pictures(source, recognizer.contract, result.num_frames)))
    return entries


def test_the_page_holds_everything(shown, recognizer):
    text = to_html(shown, k=3, threshold=0.0)
    assert "a&lt;b&gt;&amp;&quot;c.mp4" in text and "<b>" not in text
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", text), "nothing from the network"
    assert text.count("data:image/jpeg") == 2 * 2 * 4  # videos, RGB and flow, frames
    for answer in shown[0].answer.top(3):
        assert f">{answer.label}</th>" in text
    for segment in shown[1].answer.segments(threshold=0.0):
        assert f"{segment.start_seconds:.1f} to {segment.end_seconds:.1f} s: {segment.label}" in text


def test_flow_pictures_have_the_colour_of_the_direction(recognizer):
    """Red to the right, cyan to the left."""
    for direction, is_right in (("right", True), ("left", False)):
        source = Pictures("v", toy.frames(2, "blue", direction), fps=15)
        pictures = take_pictures(source, recognizer.contract, toy.NUM_FRAMES)
        colours = [cv2.imdecode(np.frombuffer(p.flow, np.uint8), cv2.IMREAD_COLOR_RGB).astype(int) for p in pictures]
        redness = np.mean([picture[..., 0] - picture[..., 2] for picture in colours])
        assert (redness > 0) == is_right


def test_videos_of_one_frame_have_pictures(recognizer):
    source = Pictures("v", toy.frames(2, "blue", "left")[:1])
    assert len(take_pictures(source, recognizer.contract, 1)) == 1
    to_html([Shown(recognizer.predict(source), take_pictures(source, recognizer.contract, 1))])


@pytest.mark.parametrize("width", [380, 1200])
def test_in_a_browser_every_picture_is_drawn_and_nothing_overflows(shown, browse, tmp_path, width):  # noqa: F811
    script = """
        const images = [...document.images].map(image => image.naturalWidth);
        const drawn = [...document.querySelectorAll("svg rect, svg polyline")].filter(part => part.getBBox().width > 0).length;
        return [images, drawn, document.documentElement.scrollWidth <= innerWidth];"""
    # The page allows no script, so the policy is lifted for the one that looks.
    text = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", to_html(shown, threshold=0.0))
    images, drawn, fits = run_script(browse, tmp_path / "p.html", text, script, f"--window-size={width},900")
    assert images == [96] * 16 and drawn > 4 and fits
