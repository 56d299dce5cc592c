"""Steps: done once, named when they fail, and written down."""

import pytest

from twostream.errors import BadInputError, EnvironmentFaultError
from twostream.own_clips import steps
from twostream.own_clips.steps import Step, Steps


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """Steps whose commands write the file that --write=FILE names, print --say=TEXT, and exit with --code=N."""
    ran = []

    def run_command(words, log):
        ran.append(words[0])
        flags = dict(word[2:].partition("=")[::2] for word in words[1:])
        log.write_text(flags.get("say", ""))
        if "write" in flags:
            (tmp_path / flags["write"]).touch()
        return int(flags.get("code", 0))

    monkeypatch.setattr(steps, "run_command", run_command)
    return Steps(tmp_path, say=ran.append), ran


def test_a_step_is_done_once(runner):
    run, ran = runner
    step = Step("first", ("train", "--write=a.npz", "--root=my data"), "*.npz")
    run.run(step)
    run.run(step)
    assert ran == ["train", "first: 0 s", "first: done already"]
    assert (run.out / "commands.sh").read_text().splitlines()[2] == "twostream train --write=a.npz '--root=my data'"


@pytest.mark.parametrize(
    "words, error, message",
    [
        (
            ("train", "--code=3", "--say=10 %|##\rerror: a.csv: no labels"),
            BadInputError,
            "first: a.csv: no labels; all output is in .*first.txt",
        ),
        (("train", "--code=4", "--say=error: disk full"), EnvironmentFaultError, "disk full"),
        (
            ("train", "--code=2", "--say=twostream train: error: --lr"),
            EnvironmentFaultError,
            "error: --lr .exit code 2.",
        ),
        (("train", "--code=1"), EnvironmentFaultError, "first: exit code 1"),
        (("train", "--code=0"), EnvironmentFaultError, r"ended without .*\*.npz"),
    ],
)
def test_failures_are_in_the_words_of_the_command(runner, words, error, message):
    with pytest.raises(error, match=message):
        runner[0].run(Step("first", words, "*.npz"))


def test_some_bad_videos_are_no_failure(runner):
    run, ran = runner
    run.run(Step("extract", ("extract", "--code=5"), line="{} || [ $? -eq 5 ]"))
    assert run.some_bad and "some videos were bad and are left out" in ran[-1]
    assert (run.out / "commands.sh").read_text().splitlines()[2] == "twostream extract --code=5 || [ $? -eq 5 ]"


def test_a_real_command_writes_its_log(tmp_path):
    assert steps.run_command(["--version"], tmp_path / "log.txt") == 0
    assert (tmp_path / "log.txt").read_text().startswith("twostream ")
