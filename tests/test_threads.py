"""Functions in threads; how many CPUs there are under a quota, and what OpenMP's threads are set to."""

import importlib.util
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from twostream import threads
from twostream.threads import (
    available_cpus,
    background_thread,
    cpu_quota,
    map_in_threads,
    share_the_machine,
    stop_if_abandoned,
)


def test_results_are_in_the_order_of_the_items():
    assert map_in_threads(lambda number: number**2, range(100)) == [number**2 for number in range(100)]
    assert map_in_threads(str, []) == []


@pytest.mark.parametrize("num_items", [1, 3])
@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_work_in_the_background_ends_when_nobody_waits_for_it(error, num_items):
    """Also what runs in threads that the background has started; without that, this would take hundreds of seconds."""
    begun = threading.Event()

    def work(item):
        for _ in range(10_000):
            begun.set()
            time.sleep(0.01)
            stop_if_abandoned()

    start = time.monotonic()
    try:
        with background_thread() as background:
            coming = background.submit(map_in_threads, work, range(num_items))
            begun.wait()
            if error:
                raise error
    except KeyboardInterrupt:
        assert error
    assert time.monotonic() - start < 5 and isinstance(coming.exception(), CancelledError)


def test_items_that_nobody_waits_for_are_not_begun():
    """Functions need not ask for themselves."""
    begun, seen = threading.Event(), []

    def work(item):
        seen.append(item)
        begun.set()
        time.sleep(0.01)

    with background_thread() as background:
        coming = background.submit(map_in_threads, work, range(10_000))
        begun.wait()
    assert len(seen) < 1000 and isinstance(coming.exception(), CancelledError)


def test_nothing_else_is_stopped():
    with background_thread() as background:
        assert background.submit(map_in_threads, lambda item: stop_if_abandoned() or item, range(9)).result() == [
            *range(9)
        ]
    stop_if_abandoned()


def test_an_error_in_a_thread_is_raised():
    with pytest.raises(ZeroDivisionError):
        map_in_threads(lambda number: 1 // number, [1, 0])


@pytest.mark.parametrize(
    "own, files, quota",
    [
        # Version 2 of control groups: in a container, and with a limit on a group above the own one.
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/job/step", {"job/step/cpu.max": "max 100000", "job/cpu.max": "50000 100000", "cpu.max": "400000 100000"}, 0.5),
        ("0::/../outside", {"cpu.max": "300000 100000"}, 3.0),
        # Version 1: the cpu controller has a tree of its own, whose name in a container may be the one outside.
        ("3:cpuset:/\n4:cpu,cpuacct:/job\n5:memory:/x",
         {"cpu/job/cpu.cfs_quota_us": "200000", "cpu/job/cpu.cfs_period_us": "100000"}, 2.0),
        ("4:cpu,cpuacct:/docker/1f", {"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"}, 2.5),
        ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        # Neither, or what nobody writes.
        ("0::/", {}, None),
        ("", {"cpu.max": "100000 100000"}, None),
        ("nonsense\n1:\n::", {"cpu.max": "x"}, None),
    ],
)  # fmt: skip
def test_the_quota_of_a_container(tmp_path, own, files, quota):
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    (tmp_path / "own").write_text(f"{own}\n")
    assert cpu_quota(own=tmp_path / "own", mounted=tmp_path / "cgroup") == quota


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert cpu_quota(own=tmp_path / "none", mounted=Path("/none")) is None


@pytest.mark.parametrize("quota, cpus", [(None, 8), (0.2, 1), (1.0, 1), (1.5, 2), (64.0, 8)])
def test_available_cpus(monkeypatch, quota, cpus):
    monkeypatch.setattr(threads, "cpus_to_run_on", lambda: 8)
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    assert available_cpus() == cpus


@pytest.mark.parametrize(
    "quota, given, expected",
    [
        (None, {}, threads.BRIEF),
        (2.0, {}, {**threads.BRIEF, "OMP_NUM_THREADS": "2"}),
        (2.0, {"OMP_NUM_THREADS": "5"}, {**threads.BRIEF, "OMP_NUM_THREADS": "5"}),
        (None, {"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
        (None, {"GOMP_SPINCOUNT": "9"}, {"GOMP_SPINCOUNT": "9"}),
        (None, {"THP_MEM_ALLOC_ENABLE": "0"}, {**threads.BRIEF, "THP_MEM_ALLOC_ENABLE": "0"}),
    ],
)
def test_what_the_user_has_set_stays(monkeypatch, quota, given, expected):
    monkeypatch.setattr(threads, "cpus_to_run_on", lambda: 8)
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    share_the_machine(given)
    assert given == dict([threads.LARGE_PAGES]) | expected


@pytest.mark.parametrize(
    "start",
    [
        "sys.argv = ['twostream', 'fetch', 'vgg16']; from twostream.__main__ import main; main()",
        "from twostream.programs.options import run; from twostream.programs.fetch import main; run(main)",
    ],
)
def test_a_program_waits_briefly(start):
    """libgomp, which torch loads, shows what it has read from the environment; both ways to start a program."""
    (libgomp,) = Path(importlib.util.find_spec("torch").origin).parent.glob("lib/libgomp*")
    code = (
        "import ctypes, sys; from twostream.programs import fetch\n"
        f"fetch.main = lambda: 'torch' in sys.modules or ctypes.CDLL({str(libgomp)!r}) and None\n{start}"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env={"OMP_DISPLAY_ENV": "verbose"}, capture_output=True, text=True
    )
    assert result.returncode == 0 and "GOMP_SPINCOUNT = '1000'" in result.stderr, result.stderr


def test_progress_sees_every_result():
    seen = []

    def progress(results, total, name):
        for result in results:
            seen.append((result, total, name))
            yield result

    squares = [k * k for k in range(40)]
    assert threads.map_in_threads(lambda k: k * k, iter(range(40)), progress=progress, name="square") == squares
    assert seen == [(square, 40, "square") for square in squares]
