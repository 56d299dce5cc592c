"""The page in a real browser, which takes key presses and clicks; skipped if no Chromium is installed."""

import re

import pytest

from tests.browser import open_tab  # noqa: F401 (a fixture)
from tests.labelling.conftest import write_videos
from tests.labelling.test_table import saved

IS_SHOWN = "facts && load(current, 0, 'rgb').images && load(current, 0, 'flow').images"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "videos").mkdir()
    return write_videos(tmp_path / "videos", "a.mkv", "b.mkv", "c.mkv")


def message(tab) -> str:
    return tab.evaluate("document.getElementById('message').textContent")


def add_classes(server, *names: str) -> None:
    for name in names:
        server.table.add_class(name)


def is_drawn(name: str) -> str:
    """An expression: the canvas has a picture with more than one colour."""
    return (
        f"(() => {{ const c = document.getElementById('{name}'); const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; "
        "return c.width > 200 && d.some((v, k) => k % 4 < 3 && v !== d[k % 4]); })()"
    )


def test_by_keys_alone(open_tab, serve, folder):  # noqa: F811
    """New classes, known ones, segments, their ends and classes changed, undo; each change is on disk at once."""
    server = serve(folder)
    tab = open_tab(server.url)
    tab.wait(IS_SHOWN)
    tab.wait(is_drawn("rgb"))
    tab.wait(is_drawn("flow"))
    tab.press("/", *"jump, high", "Enter")
    tab.wait("videos[0].entries.length && current === 1 && facts")
    assert saved(server.table) == [("a", "jump, high", None, "")]
    tab.press("ArrowUp")
    tab.wait("current === 0 && facts")
    tab.press("ArrowDown", "n")
    tab.wait("current === 2 && facts")
    tab.press("ArrowUp")
    tab.wait("current === 1 && facts")

    tab.press(" ", "Shift+ArrowLeft", "Shift+ArrowLeft", "Shift+ArrowLeft", "ArrowRight", "ArrowRight", "[")
    assert message(tab) == "Segment starts at 0.20 s"
    tab.press("1")  # not without its end
    assert "Mark the end" in message(tab)
    tab.press("Shift+ArrowRight", "ArrowLeft", "]", "1")
    tab.wait("videos[1].entries.length === 1")
    tab.press("ArrowRight", "ArrowRight", "[", "Shift+ArrowRight", "]", "/", *"run", "Enter")
    tab.wait("videos[1].entries.length === 2")
    first, second = ("b", "jump, high", (0.2, 1.2), ""), ("b", "run", (1.3, 2.4), "")
    assert saved(server.table)[1:] == [first, second]
    tab.press(".", "2")  # the first segment runs
    tab.wait("videos[1].entries[0][0] === 'run'")
    tab.press("ArrowRight", "[")  # and begins a frame later
    tab.wait("videos[1].entries[0][1] === 0.3")
    tab.press(".", "Delete")
    tab.wait("videos[1].entries.length === 1")
    assert saved(server.table)[1:] == [("b", "run", (0.3, 1.2), "")]
    for number in (2, 2, 2, 1, 0):
        tab.press("u")
        tab.wait(f"videos[1].entries.length === {number}")
    assert saved(server.table) == [("a", "jump, high", None, "")]
    tab.press("u", "u")
    tab.wait("videos[0].entries.length === 0")
    tab.wait("document.getElementById('message').textContent.startsWith('Nothing to undo')")
    assert saved(server.table) == []
    assert tab.errors() == []


def test_by_the_mouse(open_tab, serve, folder):  # noqa: F811
    server = serve(folder)
    add_classes(server, "jump", "run")
    tab = open_tab(server.url)
    tab.wait(IS_SHOWN)
    key = "[...document.querySelectorAll('#keys button')].find(b => b.firstChild.textContent === '{}')".format
    tab.click("document.querySelectorAll('#classes button')[1]")
    tab.wait("current === 1 && facts")
    tab.click("document.querySelectorAll('#videos button')[2]")
    tab.wait("current === 2 && facts")
    tab.click(key("space"))
    tab.click("document.getElementById('position')")
    middle = tab.evaluate("frame / facts.rate")
    tab.click(key("["))
    tab.click(key("→"))
    tab.click(key("]"))
    tab.press(" ")  # plays on; the button that was clicked is not pressed again
    assert tab.evaluate("isPlaying")
    tab.click("document.querySelectorAll('#classes button')[0]")
    tab.wait("videos[2].entries.length")
    assert 1 <= middle <= 1.5
    assert saved(server.table) == [("a", "run", None, ""), ("c", "jump", (middle, round(middle + 0.2, 3)), "")]
    tab.click("document.querySelector('#segments button')")
    tab.click(key("del"))
    tab.wait("!videos[2].entries.length")
    tab.click("document.querySelectorAll('#videos button')[0]")
    tab.wait("current === 0 && facts")
    tab.click("document.getElementById('group')")
    tab.press(*"anna 1", "Enter")  # digits are text here
    tab.wait("videos[0].group")
    assert saved(server.table) == [("a", "run", None, "anna 1")]
    assert tab.errors() == []


def test_two_tabs_lose_nothing(open_tab, serve, folder):  # noqa: F811
    server = serve(folder)
    add_classes(server, "jump", "run")
    first, second = open_tab(server.url), open_tab(server.url)
    for tab in (first, second):
        tab.wait(IS_SHOWN)
    first.press("1")
    first.wait("videos[0].entries.length")
    second.press("2")  # on labels that it does not know yet
    second.wait("document.getElementById('message').classList.contains('error')")
    assert "another window" in message(second) and second.evaluate("videos[0].entries[0][0]") == "jump"
    assert second.evaluate("current") == 0
    assert saved(server.table) == [("a", "jump", None, "")]
    second.press("2")  # now that it shows them
    second.wait("videos[0].entries[0][0] === 'run'")
    first.press("u")  # would undo what the other has changed
    first.wait("document.getElementById('message').classList.contains('error')")
    assert saved(server.table) == [("a", "run", None, "")]
    first.press("1")  # another video
    first.wait("videos[1].entries.length")
    assert saved(server.table) == [("a", "run", None, ""), ("b", "jump", None, "")]
    second.evaluate("dispatchEvent(new Event('focus'))")
    second.wait("videos[1].entries.length")


def test_odd_names_and_unreadable_videos(open_tab, serve, tmp_path):  # noqa: F811
    names = ["<img src=x onerror=alert(1)>.mkv", '=1+1, &amp; "q".mkv', "ä 日本.mkv"]
    write_videos(tmp_path, *names)
    (tmp_path / "日 broken.mp4").write_bytes(b"nothing")
    server = serve(tmp_path)
    add_classes(server, '"<b>"')
    tab = open_tab(server.url)
    for number in range(3):
        tab.wait(f"current === {number} && facts")
        tab.press("1")
    tab.wait("current === 3 && videos[3].problem")
    assert "日 broken.mp4: cannot be shown" in message(tab)
    shown = tab.evaluate("[...document.querySelectorAll('#videos button')].map(b => b.firstChild.textContent)")
    assert sorted(shown) == sorted([*names, "日 broken.mp4"])
    tab.press("1")
    assert "it gets no class" in message(tab)
    tab.press("n")
    tab.wait("document.getElementById('message').textContent === 'All videos are labelled'")
    assert sorted(saved(server.table)) == sorted((name[:-4], '"<b>"', None, "") for name in names)
    assert tab.errors() == []


def test_everything_has_a_name_and_a_key(open_tab, serve, folder):  # noqa: F811
    """Buttons and fields have names for screen readers, each key is written on the page, and a narrow window shows all."""
    server = serve(folder)
    add_classes(server, *(f"class {number}" for number in range(1, 12)))
    tab = open_tab(server.url)
    tab.wait(IS_SHOWN)
    tree = tab.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "textbox", "combobox", "slider", "checkbox", "image", "status"}
    unnamed = [
        node["role"]["value"] for node in tree
        if node.get("role", {}).get("value") in roles - {"status"} and not node.get("name", {}).get("value")
    ]  # fmt: skip
    assert unnamed == [] and roles <= {node.get("role", {}).get("value") for node in tree}
    text = tab.evaluate("document.getElementById('keys').textContent")
    assert all(key in text for key in tab.evaluate("KEYS.map(row => row[1] + ' ' + row[2])")) and "1 – 9" in text
    assert (
        re.findall(r"\d+ class \d+|class \d+", tab.evaluate("document.getElementById('classes').innerText"))[-1]
        == "class 11"
    )
    tab.call("Emulation.setDeviceMetricsOverride", width=360, height=700, deviceScaleFactor=1, mobile=False)
    tab.wait("innerWidth === 360")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
