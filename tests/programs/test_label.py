"""twostream label: its address, its end, what it refuses; what it writes is extracted, annotated and continued."""

import re
import signal
import socket
import subprocess
import sys

import pytest

from tests import toy
from tests.browser import open_tab  # noqa: F401 (a fixture)
from tests.conftest import REPOSITORY, recommended_commands
from tests.labelling.conftest import write_videos
from twostream.annotations.json_file import read_annotations
from twostream.frames.stores import open_store


class Program:
    """A running `twostream label`."""

    def __init__(self, *arguments):
        command = [sys.executable, "-m", "twostream", "label", "--browser=False", "--flow=dis", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.text = ""
        while not (found := re.search(r"open (http://127\.0\.0\.1:\d+/[\w-]{32}/) in a browser", self.text)):
            line = self.process.stdout.readline()
            assert line, self.text
            self.text += line
        self.url = found[1]

    def end(self, number: int) -> tuple[int, str]:
        """The exit code after a signal, and what was printed since the start."""
        self.process.send_signal(number)
        self.text += self.process.communicate(timeout=60)[0]
        return self.process.returncode, self.text


@pytest.fixture
def start():
    """start(*arguments) -> a Program, which is killed when the test ends."""
    programs = []

    def run(*arguments) -> Program:
        programs.append(Program(*arguments))
        return programs[-1]

    yield run
    for program in programs:
        program.process.kill()
        program.process.communicate()


def test_killed_and_started_again_it_goes_on(open_tab, start, tmp_path):  # noqa: F811
    folder = write_videos(tmp_path, "a.mkv", "b.mkv", "c.mkv")
    first = start(folder)
    tab = open_tab(first.url)
    tab.wait("facts")
    tab.press("/", *"jump", "Enter")
    tab.wait("videos[0].entries.length && current === 1 && facts")
    saved = (folder / "labels.csv").read_bytes()
    assert first.end(signal.SIGKILL)[0] == -signal.SIGKILL
    tab.press("1")
    tab.wait("document.getElementById('message').classList.contains('error')")
    assert "start twostream label again" in tab.evaluate("document.getElementById('message').textContent")
    assert (folder / "labels.csv").read_bytes() == saved

    second = start(folder)
    again = open_tab(second.url)
    again.wait("facts")
    assert again.evaluate("[current, classes, videos.map(v => v.entries.length)]") == [1, ["jump"], [1, 0, 0]]
    again.press("1")
    again.wait("current === 2 && facts")
    code, text = second.end(signal.SIGINT)
    assert code == 0 and "2 of 3 videos labelled, 0 segments" in text and "Traceback" not in text
    assert [command[1] for command in recommended_commands(text)] == ["extract", "annotate"]
    assert start(folder).end(signal.SIGTERM)[0] == 143


def test_what_it_writes_is_extracted_and_annotated(run_command, tmp_path):
    """By the commands that it recommends; segments are cut out at the frames that were shown."""
    videos = tmp_path / "videos"
    for name in ("a", "b"):
        toy.write_video(videos / f"{name}.mkv", toy.frames(0, "red", "left"), fps=10)
    (tmp_path / "labels.csv").write_text(
        "video,label,start_seconds,end_seconds,group\na.mkv,jump,0.5,1.5,anna\na.mkv,run,2,3.1,anna\nb.mkv,run,,,otto\n"
    )
    root = tmp_path / "data"
    flags = (f"--root={root}", "--format=csv", f"--list={tmp_path / 'labels.csv'}")
    assert (
        run_command(
            "extract", f"--videos={videos}", *flags, "--trim", "--input_types=rgb", "--short_side=32"
        ).returncode
        == 0
    )
    assert run_command("annotate", *flags, "--val_fraction=0.5").returncode == 0
    annotations = read_annotations(root)
    found = {video.id: (video.label, video.num_frames) for video in annotations.videos}
    assert found == {"a_000000.500_000001.500": ("jump", 10), "a_000002.000_000003.100": ("run", 11), "b": ("run", 33)}
    assert len({video.split for video in annotations.videos if video.id.startswith("a")}) == 1  # one group
    assert len(open_store(root, "rgb").frame_indices("a_000000.500_000001.500")) == 10


@pytest.mark.parametrize(
    ("arguments", "code", "found"),
    [
        (["nowhere"], 3, "nowhere is not a folder"),
        (["empty"], 3, "empty holds no video files (1 other file)"),
        (["twins"], 3, "add --ids=path"),
        (["videos", "--out=bad.csv"], 3, "bad.csv, line 2"),
        (["videos", "--out=other.csv", "--classes=classes.txt"], 3, "class 'fly' is not in classes.txt"),
        (["videos", "--classes=nowhere.txt"], 3, "nowhere.txt"),
        (["videos", "--port=70000"], 2, "--port"),
        ([], 2, "FOLDER"),
    ],
)
def test_what_cannot_be_labelled_is_said_in_one_line(run_command, tmp_path, arguments, code, found):
    for name in ("empty", "videos", "twins/1", "twins/2"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("empty/notes.txt", "videos/a.mp4", "twins/1/a.mp4", "twins/2/a.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "bad.csv").write_text("video,label\na.mp4,jump,7\n")
    (tmp_path / "other.csv").write_text("video,label\na.mp4,fly\n")
    (tmp_path / "classes.txt").write_text("jump\nrun\n")
    result = run_command("label", *arguments, cwd=tmp_path)
    assert result.returncode == code and found in result.stderr and result.stderr.count("\n") == 1, result


def test_names_that_cannot_be_saved_are_left_out(run_command, tmp_path):
    (tmp_path / "1E+5.mp4").touch()
    result = run_command("label", tmp_path)
    assert result.returncode == 3 and "1E+5.mp4: a CSV cannot hold this name" in result.stderr
    assert "holds no video" in result.stderr.splitlines()[-1]


def test_a_taken_port_is_said(run_command, tmp_path):
    (tmp_path / "a.mp4").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run_command("label", tmp_path, f"--port={port}")
    assert result.returncode == 4 and f"port {port}: " in result.stderr and "choose another --port" in result.stderr
