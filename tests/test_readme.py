"""README.md is executable: its walk-through is run as it stands, and it ends where the toy world says it must."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, call
from tests.test_docs import README, commands, section, shell_blocks


def walk_through() -> list[str]:
    return commands(shell_blocks(section(README.read_text(), "From videos to the fused table"))[0])


QUICK = {
    "tests/toy.py": ["--num_train=1", "--num_val=1"],
    "train.py": ["--max_iterations=1", "--val_interval=1"],
    "test.py": ["--num_clips=2"],
}
"""flags that make a command short; the last value of a flag counts"""


def report_of(folder: Path) -> dict:
    return json.loads((folder / "demo" / "runs" / "report.json").read_text())


def assert_only_fusion_names_all_classes(report: dict) -> None:
    rgb, flow, fused = report["rows"]
    assert (rgb["name"], flow["name"], fused["name"]) == ("RGB", "Flow", "RGB+Flow")
    assert rgb["video_top1"] <= 0.5
    assert flow["video_top1"] <= 0.5
    assert fused["video_top1"] == 1.0


def test_the_commands_run(tmp_path):
    """On fewer videos and for fewer iterations than `make demo`, which runs them as they stand; within this process."""
    for command in walk_through():
        words = shlex.split(command)
        words = words if words[0] == "twostream" else words[1:]
        result = call(*words, *QUICK.get(words[0], []), cwd=tmp_path)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    assert [row["name"] for row in report_of(tmp_path)["rows"]] == ["RGB", "Flow", "RGB+Flow"]


def test_only_fusion_names_all_classes_of_the_demo():
    """What `make demo` has left, as .ci/run calls it before the tests."""
    if not any((REPOSITORY / "demo" / "runs").glob("toy-*")):
        pytest.skip("make demo has not run here")
    assert_only_fusion_names_all_classes(report_of(REPOSITORY))


@pytest.mark.slow
def test_only_fusion_names_all_classes(tmp_path):
    """The commands as they stand, in an empty folder with the repository's files in it."""
    for name in ("train.py", "test.py", "eval.py", "prep", "tests"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for command in walk_through():
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PATH": path}
        result = subprocess.run(shlex.split(command), cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    assert_only_fusion_names_all_classes(report_of(tmp_path))


def test_the_demo_is_the_walk_through():
    dry = subprocess.run(["make", "-n", "demo"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    lines = [line.partition(" || ")[0].replace(".venv/bin/", "") for line in dry.splitlines()]
    demo = [shlex.split(line) for line in lines if line.startswith(("python ", "twostream "))]
    assert not [command for command in walk_through() if shlex.split(command) not in demo]
