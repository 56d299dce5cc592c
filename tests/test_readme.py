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


QUICK = {
    "tests/toy.py": ["--num_train=1", "--num_val=1"],
    "train.py": ["--max_iterations=2", "--val_interval=2"],
}
"""flags that make a command short; the last value of a flag counts"""


def report_of_walk_through(folder: Path, *, quick: bool) -> dict:
    """The report after the walk-through, run in an empty folder with the repository's files in it."""
    for name in ("train.py", "test.py", "eval.py", "prep", "tests"):
        (folder / name).symlink_to(REPOSITORY / name)
    environment = os.environ | {
        "CUDA_VISIBLE_DEVICES": "",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for command in walk_through():
        words = shlex.split(command)
        words += QUICK.get(words[1], []) if quick else []
        result = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return json.loads((folder / "demo" / "runs" / "report.json").read_text())


def assert_only_fusion_names_all_classes(report: dict) -> None:
    rgb, flow, fused = report["rows"]
    assert (rgb["name"], flow["name"], fused["name"]) == ("RGB", "Flow", "RGB+Flow")
    assert rgb["video_top1"] <= 0.5
    assert flow["video_top1"] <= 0.5
    assert fused["video_top1"] == 1.0


def test_the_commands_run(tmp_path):
    """On fewer videos and for fewer iterations than `make demo`, which runs them as they stand."""
    report = report_of_walk_through(tmp_path, quick=True)
    assert [row["name"] for row in report["rows"]] == ["RGB", "Flow", "RGB+Flow"]


def test_only_fusion_names_all_classes_of_the_demo():
    """What `make demo` has left, as .ci/run calls it before the tests."""
    path = REPOSITORY / "demo" / "runs" / "report.json"
    if not path.exists() or not any(path.parent.glob("toy-*")):
        pytest.skip("make demo has not run here")
    assert_only_fusion_names_all_classes(json.loads(path.read_text()))


@pytest.mark.slow
def test_only_fusion_names_all_classes(tmp_path):
    assert_only_fusion_names_all_classes(report_of_walk_through(tmp_path, quick=False))


def test_the_demo_is_the_walk_through():
    dry = subprocess.run(["make", "-n", "demo"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    lines = [line.partition(" || ")[0].replace(".venv/bin/", "") for line in dry.splitlines()]
    demo = [shlex.split(line) for line in lines if line.startswith(("python ", "twostream "))]
    assert not [command for command in walk_through() if shlex.split(command) not in demo]
