"""docs/tutorial.md is executable: its commands run as they stand, on generated videos of which some have segments."""

import shlex

import pytest

from tests import toy
from tests.conftest import REPOSITORY, call
from tests.labelling.conftest import open_table
from tests.test_docs import commands, shell_blocks
from twostream.annotations.json_file import read_annotations
from twostream.labelling.table import Entry
from twostream.own_clips import steps
from twostream.programs import start

QUICK = {"start": ["--minutes=0.1", "--workers=0"]}
"""flags that make a command short; the last value of a flag counts"""


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with the videos of a phone, which are labelled as the page does it, and two new ones."""
    monkeypatch.chdir(tmp_path)
    for number, direction in enumerate(["left", "right"] * 3):
        codec = ("libx264", "-pix_fmt", "yuv420p")
        toy.write_video(tmp_path / "phone" / f"{number}.mp4", toy.frames(number, "red", direction), fps=10, codec=codec)
    for name in ("new.mp4", "long.mp4"):
        (tmp_path / name).symlink_to(tmp_path / "phone" / "0.mp4")
    table = open_table(tmp_path / "phone")
    for name in ("to the left", "to the right"):
        table.add_class(name)
    for video_id in table.videos:
        label, person = table.classes[int(video_id) % 2], f"person {int(video_id) // 2}"
        entries = [Entry(label)] if video_id < "4" else [Entry(label, (0, 1.2)), Entry(label, (1.5, 3))]
        table.replace(video_id, entries, person, version=table.of(video_id).version)
    return tmp_path


def test_the_commands_run(desk, monkeypatch):
    """All but the page, which has its own tests, and the download; the camera is a file here."""
    monkeypatch.setattr(steps, "run_command", lambda words, log: call("twostream", *words).returncode)
    monkeypatch.setattr(start, "measure", lambda *given, **named: start.Speed(1, trunk=200.0, cells=0.0, small=100.0))
    text = (REPOSITORY / "docs" / "tutorial.md").read_text()
    for command in (line for block in shell_blocks(text) for line in commands(block)):
        _, name, *words = shlex.split(command)
        if name in ("label", "fetch"):
            continue
        words = ["new.mp4" if word == "0" else word for word in words if word != "--seconds=60"]
        result = call("twostream", name, *words, *QUICK.get(name, []))
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    annotations = read_annotations(desk / "work" / "data")
    assert annotations.classes == ("to the left", "to the right")
    assert len(annotations.videos) == 8  # four whole videos, and two segments of each of the other two
    for person in ("01", "23", "45"):
        assert len({video.split for video in annotations.videos if video.id[0] in person}) == 1
    assert (desk / "work" / "report.html").is_file()
