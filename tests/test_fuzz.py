"""A piece of what `make fuzz` does: hostile inputs of all kinds, each read or refused in one line."""

import numpy as np
import pytest

from tests import fuzz, hostile
from tests.conftest import ALL_PROGRAMS, JobsHere
from twostream.preparation import workers

INPUTS = 60


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A small data root with its run, from which each input is a copy."""
    folder = tmp_path_factory.mktemp("fuzz") / "world"
    folder.mkdir()
    hostile.build_world(folder, lambda program, words: fuzz.run_here(program, words)[0])
    return folder


def test_no_input_ends_in_a_traceback(world, monkeypatch):
    monkeypatch.setattr(workers, "_Processes", JobsHere)
    outcomes = [fuzz.try_input(world, seed=1, number=number) for number in range(INPUTS)]
    # The memory of this process is also that of all tests before; in `make fuzz` it is the programs' own.
    faults = [outcome for outcome in outcomes if outcome.fault and not outcome.fault.startswith("memory: ")]
    assert not [(outcome.number, outcome.fault, outcome.text) for outcome in faults]
    assert {outcome.kind for outcome in outcomes} == hostile.CASES.keys()
    assert {0, 2, 3} <= {outcome.code for outcome in outcomes}, "some are read, some are refused"


def test_every_program_has_a_command_line(world):
    assert hostile.usual_words(world, np.random.default_rng(1)).keys() == ALL_PROGRAMS.keys()


def test_an_input_is_the_same_each_time(world, tmp_path):
    def describe(folder, number):
        case = hostile.make_case(world, folder, seed=1, number=number)
        return f"{case.what} {case.words}".replace(str(folder), "FOLDER")

    for number in range(9):
        assert describe(tmp_path / f"{number}-0", number) == describe(tmp_path / f"{number}-1", number)


@pytest.mark.parametrize(
    ("code", "output", "trace", "fault"),
    [
        (3, "error: x", "", ""),
        (0, "fine", "", ""),
        (None, "", "Traceback ...\nKeyError: 3", "traceback: KeyError: 3"),
        (4, "Traceback (most recent call last):\nOSError", "", "traceback: OSError"),
        (1, "", "", "exit code 1"),
        (3, "", "", "message: 0 errors for exit code 3"),
    ],
)
def test_what_counts_as_a_fault(code, output, trace, fault):
    outcome = fuzz.Outcome(0)
    fuzz.judge(outcome, code, output, trace)
    assert outcome.fault == fault


@pytest.mark.parametrize("fault", ["hang", "memory", "died"])
def test_a_worker_that_misbehaves_is_replaced(world, tmp_path, monkeypatch, fault):
    """Workers that do nothing but one thing for each input."""
    misbehave = {"hang": "time.sleep(60)", "memory": "x = bytes(1 << 20) * 60; time.sleep(60)", "died": "os._exit(3)"}[
        fault
    ]
    program = tmp_path / "worker.py"
    program.write_text(f"import os, time\nprint('ready', flush=True)\nwhile True:\n    input()\n    {misbehave}\n")
    monkeypatch.setattr(fuzz, "__file__", str(program))
    monkeypatch.setattr(fuzz, "MAX_SECONDS", 0.5)
    monkeypatch.setattr(fuzz, "MAX_BYTES", 50_000_000)
    monkeypatch.setattr(fuzz, "prepare", lambda: None)
    monkeypatch.setattr(hostile, "build_world", lambda folder, run: folder.rmdir() or folder.symlink_to(world))
    (tmp_path / "runs").mkdir()
    tally = fuzz.run_all(tmp_path / "runs", range(3), seed=1, jobs=1, max_seconds=60)
    assert [outcome.number for outcome in tally.outcomes] == [0, 1, 2] and tally.faults(fault) == 3
    assert "| inputs that took over" in fuzz.report(tally, seed=1, jobs=1)
