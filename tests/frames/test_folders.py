"""A folder for each video: folders from other tools are read, and leftovers of killed writers are removed."""

import os
import subprocess
import sys

import pytest

from tests.frames.samples import JPEG, publish
from twostream.attempts import process_space
from twostream.frames.folders import FrameFolders


@pytest.fixture
def folders(tmp_path) -> FrameFolders:
    return FrameFolders(tmp_path, "rgb")


def test_only_published_folders_stay(folders):
    publish(folders, "v", [JPEG])
    with pytest.raises(RuntimeError), folders.writer("w") as writer:
        writer.write(0, JPEG)
        raise RuntimeError("in mid-video")
    assert os.listdir(folders.folder) == ["v"]
    assert sorted(os.listdir(folders.folder / "v")) == ["00001.jpg", "video.json"]


def test_folders_of_other_tools_are_read_and_counted(folders):
    folder = folders.folder / "old"
    folder.mkdir(parents=True)
    for name in ("00001.jpg", "00002.jpg", "100000.jpg", "thumb.jpg", "00003.png", "00001.jpg.tmp"):
        (folder / name).write_bytes(JPEG)
    assert folders.record("old") is None
    assert folders.count("old") == 3
    assert folders.read("old", [0, 1]).shape == (2, 48, 64, 3)


def test_sweep_removes_what_ended_processes_left_behind(folders):
    process = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    ended, space = process.stdout.strip(), process_space()
    leftovers = [f".tmp-{space}-{ended}-0123abcd", f".tmp-{space}-{ended}-ffffffff"]
    kept = [f".tmp-{space}-{os.getpid()}-0123abcd", f".tmp-{space}-1-0123abcd"]  # of running processes: this one, init
    kept += [f".tmp-{space[::-1]}-{ended}-0123abcd", f".tmp-{space}-x-0123abcd", "video", ".hidden", ".tmp-mine"]
    for name in (*leftovers, *kept):
        (folders.folder / name).mkdir(parents=True)
        (folders.folder / name / "00001.jpg").write_bytes(JPEG)
    (folders.folder / f".extraction.json.{space}-{ended}-0123abcd").write_text("{}")
    assert folders.sweep() == 3
    assert sorted(os.listdir(folders.folder)) == sorted(kept)
    assert folders.sweep() == 0
