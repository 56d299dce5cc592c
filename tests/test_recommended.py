"""Commands that messages recommend, run as they are written. That all of them are complete is tested with each message,
by tests/conftest.py."""

import json
import shutil

import pytest

from tests.conftest import PROGRAMS, assert_commands_work, recommended_commands
from twostream.__main__ import COMMANDS

SCRIPTS = {module: script for script, module in PROGRAMS.items()}
TRAIN = (
    "--arch=squeezenet1_1",
    "--pretrained=False",
    "--input_size=32",
    "--batch_size=2",
    "--max_iterations=1",
    "--workers=0",
)


@pytest.fixture
def follow(run_here, toy_videos, tmp_path, monkeypatch):
    """follow(text) -> the commands of the text, each run as it is written, with the videos for VIDEOS."""

    def run(text: str) -> list[str]:
        monkeypatch.chdir(tmp_path)  # where a folder DIR may be made
        (tmp_path / "VIDEOS").exists() or (tmp_path / "VIDEOS").symlink_to(toy_videos)
        names = []
        for _, command, *words in recommended_commands(text):
            result = run_here(SCRIPTS[COMMANDS[command][0]], *words)
            assert result.returncode == 0, (command, words, result.stderr)
            names.append(command)
        return names

    return run


@pytest.fixture
def root(toy_root, tmp_path):
    """A data root with frames only, in a folder whose name a shell would split."""
    folder = tmp_path / "my data"
    shutil.copytree(toy_root / "rgb-images", folder / "rgb-images")
    shutil.copy(toy_root / "annotations.json", folder)
    return folder


def test_flow_that_is_missing(root, run_here, follow):
    words = [f"--root={root}", f"--save_root={root.parent / 'runs'}", *TRAIN, "--input_type=dis"]
    refused = run_here("train.py", *words)
    assert refused.returncode == 3 and follow(refused.stderr) == ["extract"]
    assert run_here("train.py", *words).returncode == 0


def test_frames_that_are_missing(root, run_here, follow):
    shutil.rmtree(root / "rgb-images")
    words = [f"--root={root}", f"--save_root={root.parent / 'runs'}", *TRAIN]
    refused = run_here("train.py", *words)
    assert refused.returncode == 3 and follow(refused.stderr) == ["extract"]
    assert run_here("train.py", *words).returncode == 0


def test_flow_of_another_tool_is_not_ours_to_make(root, run_here):
    refused = run_here("train.py", f"--root={root}", *TRAIN, "--input_type=brox")
    assert refused.returncode == 3 and not recommended_commands(refused.stderr)
    assert f"put the images of the tool that makes brox into {root / 'brox-images'}" in refused.stderr


def test_videos_that_are_not_extracted(root, run_here, follow, toy_videos):
    """The second command is what annotate itself was called with."""
    video_id = next(iter(json.loads((root / "annotations.json").read_text())["videos"]))
    shutil.rmtree(root / "rgb-images" / video_id)
    annotate = ("prep/build_annotations.py", f"--root={root}", f"--videos={toy_videos}")
    first = run_here(*annotate)
    commands = [line for line in first.stdout.splitlines() if line.startswith("next: ")]
    assert follow(commands[0].partition("; or ")[2]) == ["extract"]
    assert "without frames" not in run_here(*annotate).stdout


def test_another_kind_of_store(root, run_here, follow, toy_videos):
    words = [f"--root={root}", f"--videos={toy_videos}", "--input_types=rgb", "--store=packed"]
    refused = run_here("prep/extract.py", *words)
    assert refused.returncode == 3 and follow(refused.stderr) == ["pack"]
    assert list(root.parent.glob("DIR/rgb-images/*.tar"))


@pytest.mark.parametrize("text, commands", [
    ("run twostream test first", []),
    ("fix: twostream verify '--root=a b' --remove; twostream extract --root=c --videos=VIDEOS", ["verify", "extract"]),
    ("next: twostream train --root=data, or (twostream fetch --help)", ["train", "fetch"]),
])  # fmt: skip
def test_commands_are_found(text, commands):
    assert [words[1] for words in recommended_commands(text)] == commands
    assert_commands_work(text)


@pytest.mark.parametrize(
    "text",
    ["twostream extract --root=R", "twostream extract --input_types=brox --root=R", "twostream train --init_from"],
)
def test_advice_that_cannot_be_followed_is_noticed(text):
    with pytest.raises(AssertionError, match="recommends"):
        assert_commands_work(text)
