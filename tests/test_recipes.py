"""recipes/: each runs through, with programs in place of ours that only say how they were called."""

import os
import re
import shlex
import subprocess

import pytest

from tests.conftest import PROGRAMS, REPOSITORY, parser_of
from twostream.conversion.published import PUBLISHED
from twostream.programs.train import in_iterations

RECIPES = sorted((REPOSITORY / "recipes").glob("*.sh"))
PLACES = {"ROOT": "/data/a root", "SAVE_ROOT": "/data/runs", "VIDEOS": "/data/videos", "LISTS": "/data/lists"}


CLIPS = {"kinetics400_r2plus1d": (5, None, "centre"), "kinetics400_vmz": (10, None, "centre")}
"""trainings on clips -> how their videos are scored"""
TESTS = {
    "kinetics400_vmz_test": [("vmz_r2plus1d_18", 8, 10, None, "ends", "centre", 0)],
    "kinetics400_vmz_dense": [("vmz_r2plus1d_34", 32, None, 1, "parts", "centre", 0)] * 2,
    "kinetics400_torchvision_test": [("r2plus1d_18", 16, 5, None, "ends", "centre", 0)],
    "kinetics400_resnet3d_test": [
        ("i3d_r50", 32, 10, None, "ends", "three", 256), ("i3d_r50", 32, 1, None, "parts", "centre", 256)
    ],
}  # fmt: skip
"""tests of published weights -> network, frames of a clip, and the clips of a video, of each test.py"""


def run(recipe, folder, environment: dict, *arguments: str) -> tuple[int, list[list[str]]]:
    """Exit code, and the words of each command that starts with `python`."""
    called = folder / "called"
    fake = folder / "python"
    fake.write_text(f'#!/bin/sh\nfor word in "$@"; do printf "%s\\0" "$word"; done >> "{called}"; echo >> "{called}"\n')
    fake.chmod(0o755)
    result = subprocess.run(
        ["bash", recipe, *arguments], capture_output=True, text=True,
        env={"PATH": f"{folder}:{os.environ['PATH']}"} | environment,
    )  # fmt: skip
    lines = called.read_text().splitlines() if called.exists() else []
    return result.returncode, [line.split("\0")[:-1] for line in lines]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_the_commands_before_it_are_complete(recipe):
    """Those of its comment, such as those that fetch weights."""
    for line in re.findall(r"^#\s+twostream (.*)", recipe.read_text(), re.MULTILINE):
        command, *words = shlex.split(line)
        parser_of(
            {module: script for script, module in PROGRAMS.items()}.get(command, f"twostream {command}")
        ).parse_args(words)


def test_every_data_set_has_its_three():
    names = {recipe.stem for recipe in RECIPES}
    three = {f"{d}_{what}" for d in ("kinetics400", "ucf101", "hmdb51") for what in ("prepare", "rgb", "flow")}
    assert names == three | CLIPS.keys() | TESTS.keys()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_the_programs_take_these_flags(recipe, tmp_path):
    code, commands = run(recipe, tmp_path, PLACES)
    assert code == 0 and len(commands) >= 2
    for program, *arguments in commands:
        parsed = parser_of(program).parse_args(arguments)
        if getattr(parsed, "root", None):
            assert str(parsed.root) == "/data/a root"
    if recipe.stem in TESTS:
        tests = [parser_of(c[0]).parse_args(c[1:]) for c in commands if c[0] == "test.py"]
        names = ("arch", "seq_len", "num_clips", "frame_step", "spread", "views", "test_size")
        assert [tuple(getattr(test, name) for name in names) for test in tests] == TESTS[recipe.stem]
        written = [test.save_root / f"scores_val_{test.weights.stem}.npz" for test in tests]
        assert len(set(written)) == len(tests)
        evaluated = [parser_of(c[0]).parse_args(c[1:]).scores for c in commands if c[0] == "eval.py"]
        assert all(scores == written for scores in evaluated)
        for test in tests:
            name = test.weights.stem
            assert test.arch == (PUBLISHED[name].backbone if name in PUBLISHED else name.partition("-")[0])
    elif not recipe.stem.endswith("prepare"):
        train, test = (parser_of(c[0]).parse_args(c[1:]) for c in commands[:2])
        assert train.run == test.run and train.input_type == test.input_type
        # The published accuracies of networks of pictures are those of 25 frames and 10 crops.
        assert (test.num_clips, test.frame_step, test.views) == CLIPS.get(recipe.stem, (25, None, "ten"))
        assert train.batch_size % train.accumulate == 0
        train = in_iterations(train, train.epoch_size or 240_000 * train.clips_per_video)
        assert max(train.stepvalues) < train.max_iterations, "a step after the end never happens"
        assert train.warm_up < train.stepvalues[0] and train.val_interval <= train.max_iterations


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_more_flags_go_to_the_first_program_and_places_are_needed(recipe, tmp_path):
    code, commands = run(recipe, tmp_path, PLACES, "--workers=3", "--root=/elsewhere")
    assert code == 0 and [c[-2:] for c in commands].index(["--workers=3", "--root=/elsewhere"]) == 0
    for missing in PLACES:
        if f"${{{missing}:?" in recipe.read_text():
            (tmp_path / "called").unlink(missing_ok=True)
            code, commands = run(recipe, tmp_path, {k: v for k, v in PLACES.items() if k != missing})
            assert code != 0 and not commands


def test_several_gpus(tmp_path):
    """LAUNCH stands before train.py."""
    code, commands = run(
        REPOSITORY / "recipes" / "ucf101_rgb.sh", tmp_path, PLACES | {"LAUNCH": "python -m torch.distributed.run"}
    )
    assert code == 0 and commands[0][:3] == ["-m", "torch.distributed.run", "train.py"]
    assert commands[1][0] == "test.py"
