"""README.md is executable: its walk-through is run as it stands, and it ends where the toy world says it must."""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
WALK_THROUGH = "## From videos to the fused table"


def shell_blocks(text: str) -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[str]:
    """Command lines of a block, continued lines joined, without comments."""
    lines = block.replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip() and not line.startswith("#")]


def walk_through() -> list[str]:
    section = README.split(WALK_THROUGH)[1].split("\n## ")[0]
    return commands(shell_blocks(section)[0])


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


def all_commands() -> list[str]:
    found = [command for block in shell_blocks(README) for command in commands(block)]
    return [
        c for c in found if re.search(r"\bpython3? (prep/|pretrained/|benchmarks/)?\w+\.py\b", c) and "tests/" not in c
    ]


@pytest.mark.parametrize("command", all_commands())
def test_flags_of_every_command_exist(command):
    command = command.replace("$SLURM_ARRAY_TASK_ID", "3")
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
    program, arguments = words[1], words[2:]
    names = runpy.run_path(str(REPOSITORY / program))
    if "build_parser" in names:
        names["build_parser"]().parse_args(arguments)


def test_links_lead_somewhere():
    for page in (REPOSITORY / "README.md", REPOSITORY / "pretrained" / "README.md"):
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_the_tree_names_every_file():
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    product = [n for n in tracked.stdout.splitlines() if n.endswith(".py") and not n.startswith("tests/")]
    tree = README.split("## The tree")[1]
    assert not [name for name in product if Path(name).name not in tree]
