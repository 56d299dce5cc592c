"""Unfinished files: removed when their process has ended, never while another process, container or machine writes."""

import os
import subprocess
import sys

import pytest

from twostream import attempts
from twostream.attempts import UNFINISHED_FILE, abandoned, attempt_name, process_space, sweep_files
from twostream.files import write_text


@pytest.fixture
def ended() -> str:
    """The id of a process that has ended."""
    command = [sys.executable, "-c", "import os; print(os.getpid())"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_only_what_ended_processes_left_is_abandoned(tmp_path, ended):
    space = process_space()
    left = [f".a.json.{space}-{ended}-0123abcd", f".tmp-{space}-{ended}-ffffffff"]
    kept = [
        f".a.json.{space}-{os.getpid()}-0123abcd",  # of running processes: this one, and the first of all
        f".tmp-{space}-1-0123abcd",
        f".tmp-{space}-{ended}-0123abcx",
        f"a.json.{space}-{ended}-0123abcd",
        ".hidden",
    ]
    for name in (*left, *kept):
        (tmp_path / name).mkdir() if "tmp" in name else (tmp_path / name).write_text("")
    assert [path.name for path in abandoned(tmp_path)] == left
    assert sweep_files(tmp_path) == 1 and sweep_files(tmp_path) == 0
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, left[1]])
    assert abandoned(tmp_path / "no such folder") == []


@pytest.mark.parametrize("other", ["kernel", "container"])
def test_a_process_id_of_another_container_or_machine_means_nothing_here(tmp_path, monkeypatch, ended, other):
    """Two containers may have one host name; what one of them writes has the id of no process in the other."""
    name = f".tmp-{process_space()}-{ended}-0123abcd"
    (tmp_path / name).mkdir()
    if other == "kernel":
        monkeypatch.setattr(attempts, "kernel_name", lambda: b"another boot")
    else:
        monkeypatch.setattr(os, "readlink", lambda path: "pid:[4026539999]")
    process_space.cache_clear()
    try:
        assert abandoned(tmp_path) == []
    finally:
        monkeypatch.undo()
        process_space.cache_clear()
    assert [path.name for path in abandoned(tmp_path)] == [name]


def test_a_killed_write_is_recognised(tmp_path):
    kill = "import os, sys; from twostream.files import write_file\n"
    kill += "write_file(sys.argv[1], lambda file: os.kill(os.getpid(), 9))"
    subprocess.run([sys.executable, "-c", kill, tmp_path / "extraction.json"], check=False)
    (name,) = os.listdir(tmp_path)
    assert UNFINISHED_FILE.fullmatch(name) and sweep_files(tmp_path) == 1
    write_text(tmp_path / "extraction.json", "{}")
    assert os.listdir(tmp_path) == ["extraction.json"]
    assert UNFINISHED_FILE.fullmatch(".annotations.json.17-0123abcd")  # as version 0.1 named them
    assert not UNFINISHED_FILE.fullmatch("annotations.json") and not UNFINISHED_FILE.fullmatch(".hidden")


def test_attempts_have_different_names():
    assert attempt_name() != attempt_name()
