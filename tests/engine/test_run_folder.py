"""Runs are found by their stream.json, score files by their names; a folder is locked while a training runs."""

import contextlib
import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.conftest import REPOSITORY
from twostream.engine.run_folder import (
    find_run,
    find_scores,
    lock_run,
    recorded_settings,
    run_name,
    scores_path,
    write_stream,
)
from twostream.errors import BadInputError, EnvironmentFaultError
from twostream.stream import StreamConfig


def make_run(save_root, name, *, input_type="rgb", backbone="inception_v3"):
    (save_root / name).mkdir(parents=True)
    stream = StreamConfig(input_type=input_type, backbone=backbone, classes=("a", "b"), input_size=299)
    write_stream(save_root / name, stream, {"lr": 0.1})
    return save_root / name


def test_name_is_that_of_2d_kinectics():
    stream = StreamConfig(input_type="rgb", backbone="inception_v3", classes=("a",), input_size=299)
    name = run_name(stream, dataset="kinetics", clip_step=6, batch_size=64, learning_rate=0.0005)
    assert name == "kinetics-inception_v3-rgb-sl01-g1-fs6-64-000500"


def test_run_is_found_by_its_stream_and_not_by_its_name(tmp_path):
    rgb = make_run(tmp_path, "first try")
    flow = make_run(tmp_path, "rgb", input_type="farneback")
    (tmp_path / "no run").mkdir()
    assert find_run(tmp_path, input_type="rgb") == rgb
    assert find_run(tmp_path, input_type="farneback", backbone="inception_v3") == flow


def test_several_runs_are_listed(tmp_path):
    inception, vgg = make_run(tmp_path, "first"), make_run(tmp_path, "second", backbone="vgg16")
    with pytest.raises(BadInputError, match="choose one of first, second with --run or --runs"):
        find_run(tmp_path, input_type="rgb")
    assert find_run(tmp_path, input_type="rgb", name="second") == vgg
    assert find_run(tmp_path, input_type="rgb", backbone="inception_v3") == inception


@pytest.mark.parametrize("wanted", [{"input_type": "tvl1"}, {"input_type": "rgb", "name": "other"}])
def test_missing_run_is_named(tmp_path, wanted):
    make_run(tmp_path, "one")
    with pytest.raises(BadInputError, match=f"{tmp_path} has no run of {' '.join(wanted.values())}"):
        find_run(tmp_path, **wanted)
    with pytest.raises(BadInputError, match="has no run of rgb"):
        find_run(tmp_path / "nowhere", input_type="rgb")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"stream": 1}', '{"stream": null}'])
def test_damaged_stream_json_is_named(tmp_path, content):
    run = make_run(tmp_path, "one")
    (run / "stream.json").write_text(content)
    with pytest.raises(BadInputError, match="one/stream.json"):
        find_run(tmp_path, input_type="rgb")


def test_latest_scores_are_the_highest_iteration(tmp_path):
    """By number: 1,000,000 is more than 500,000, though not in alphabetical order. Files of other names are ignored."""
    for name in ("val_500000", "val_1000000", "val_025000", "test_2000000", "val_best", "val_"):
        (tmp_path / f"scores_{name}.npz").touch()
    assert find_scores(tmp_path, split="val", iteration=None) == tmp_path / "scores_val_1000000.npz"
    assert find_scores(tmp_path, split="val", iteration=25000) == tmp_path / "scores_val_025000.npz"
    assert find_scores(tmp_path, split="test", iteration=None).name == "scores_test_2000000.npz"
    assert scores_path(tmp_path, split="val", iteration=25000) == tmp_path / "scores_val_025000.npz"


def test_no_scores_says_what_to_run(tmp_path):
    with pytest.raises(BadInputError, match="no scores of split 'val': run twostream test first"):
        find_scores(tmp_path, split="val", iteration=None)


# ------------------------------------------------------------------------------------------------------------- lock

OWNER = """
import sys, time, subprocess
from pathlib import Path
from twostream.engine.run_folder import lock_run
lock = lock_run(Path(sys.argv[1]), print)
if sys.argv[2:]:  # a child that outlives this process, with all of its open files; loader processes may do so for seconds
    import os
    if os.fork() == 0:
        time.sleep(20)
        os._exit(0)
print("locked", flush=True)
time.sleep(60)
"""


def start_owner(run_dir, *words):
    """A process that has locked the folder of a run."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(run_dir), *words], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True,
        process_group=0,
    )  # fmt: skip
    assert process.stdout.readline() == "locked\n"
    return process


@pytest.mark.parametrize("words", [[], ["with a child"]])
def test_a_second_training_in_a_folder_is_refused(tmp_path, words):
    owner = start_owner(tmp_path / "run", *words)
    try:
        with pytest.raises(EnvironmentFaultError) as error:
            lock_run(tmp_path / "run", print)
        since = rf"host {re.escape(socket.gethostname())}, pid {owner.pid}, since {time.strftime('%Y')}-.*:\d\d;"
        assert re.search(since, str(error.value)) and "\n" not in str(error.value)

        owner.kill()
        owner.wait()
        with lock_run(tmp_path / "run", pytest.fail):
            assert f"pid {os.getpid()}," in (tmp_path / "run" / "run.lock").read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(owner.pid, signal.SIGKILL)  # its child too
        owner.stdout.close()


def test_a_reused_process_id_does_not_count(tmp_path):
    """Only the kernel's lock counts, not the text of the file."""
    (tmp_path / "run.lock").write_text(f"host {socket.gethostname()}, pid {os.getppid()}, since 2026-01-01 00:00:00\n")
    lock_run(tmp_path, pytest.fail).close()
    assert (tmp_path / "run.lock").read_text().count("host") == 1


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def no_locks(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    lines = []
    lock_run(tmp_path, lines.append).close()
    assert len(lines) == 1 and "run.lock cannot be locked (No locks available)" in lines[0]


def test_a_folder_that_cannot_be_created(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentFaultError, match="cannot write .*file/run/run.lock: .*--save_root"):
        lock_run(tmp_path / "file" / "run", print)


def test_settings_of_a_run_that_is_not_there_yet(tmp_path):
    assert recorded_settings(tmp_path) == {}
    (tmp_path / "stream.json").write_text('{"settings": 3}')
    assert recorded_settings(tmp_path) == {}
