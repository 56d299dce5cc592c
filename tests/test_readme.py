"""README.md is executable: its walk-through is run as it stands, and it ends where the toy world says it must."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.test_docs import README, commands, section, shell_blocks


def walk_through() -> list[str]:
    return commands(shell_blocks(section(README.read_text(), "From videos to the fused table"))[0])


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> dict:
    """The report after the walk-through, run in an empty folder with the repository's files in it."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("train.py", "test.py", "eval.py", "prep", "tests"):
        (folder / name).symlink_to(REPOSITORY / name)
    environment = os.environ | {
        "CUDA_VISIBLE_DEVICES": "",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for command in walk_through():
        result = subprocess.run(shlex.split(command), cwd=folder, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return json.loads((folder / "demo" / "runs" / "report.json").read_text())


def test_only_fusion_can_name_all_classes(report):
    rgb, flow, fused = report["rows"]
    assert (rgb["name"], flow["name"], fused["name"]) == ("RGB", "Flow", "RGB+Flow")
    assert rgb["video_top1"] <= 0.5
    assert flow["video_top1"] <= 0.5
    assert fused["video_top1"] == 1.0


def test_the_demo_is_the_walk_through():
    dry = subprocess.run(["make", "-n", "demo"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    lines = [line.partition(" || ")[0].replace(".venv/bin/python", "python") for line in dry.splitlines()]
    demo = [shlex.split(line) for line in lines if ".py" in line]
    assert not [command for command in walk_through() if shlex.split(command) not in demo]
