"""Jobs in worker processes: every job once, expected failures as values, others raised, no worker left."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from twostream.errors import EnvironmentFaultError
from twostream.parallel import Failure, run_jobs


class BadInputOfTestError(Exception):
    pass


def square(number: int) -> int:
    if number == 3:
        raise BadInputOfTestError("three is bad")
    return number * number


def divide(number: int) -> float:
    return 1 / number


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep_with_witness(path: str) -> None:
    """Leave a file that a cleanup on the way out removes, as a job with temporary files does."""
    Path(path).write_text(str(os.getpid()))
    try:
        time.sleep(60)
    finally:
        Path(path).unlink()


def wait_until(condition, seconds: float = 30) -> bool:
    for _ in range(int(seconds / 0.05)):
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("num_workers", [1, 3])
def test_every_job_comes_back_once_and_bad_ones_as_failures(num_workers):
    jobs = (number for number in range(12))  # more than fit into the queue
    results = list(run_jobs(square, jobs, num_workers=num_workers, expected=BadInputOfTestError))
    truth = {number: number * number for number in range(12)} | {3: Failure("three is bad")}
    assert sorted(number for number, _ in results) == list(range(12))
    assert dict(results) == truth


def test_no_jobs_no_results():
    assert list(run_jobs(square, [], num_workers=2, expected=BadInputOfTestError)) == []


def test_bug_in_a_job_is_raised():
    with pytest.raises(ZeroDivisionError):
        list(run_jobs(divide, [0], num_workers=1, expected=BadInputOfTestError))


def test_killed_worker_is_reported_as_fault_of_the_machine():
    with pytest.raises(EnvironmentFaultError, match="worker process was killed"):
        list(run_jobs(die, [1], num_workers=1, expected=BadInputOfTestError))


def test_no_worker_is_left_when_the_caller_stops_listening():
    results = run_jobs(square, range(100), num_workers=2, expected=BadInputOfTestError)
    next(results)
    results.close()
    assert wait_until(lambda: not multiprocessing.active_children())


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_workers_clean_up_and_end_with_the_parent(tmp_path, end):
    program = (
        "from tests.test_parallel import *\n"
        "if __name__ == '__main__':\n"
        f"    jobs = [{str(tmp_path)!r} + '/' + str(k) for k in range(6)]\n"
        "    list(run_jobs(sleep_with_witness, jobs, num_workers=2, expected=BadInputOfTestError))\n"
    )
    script = tmp_path / "program.py"
    script.write_text(program)
    repository = Path(__file__).resolve().parent.parent
    parent = subprocess.Popen(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": str(repository)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    witnesses = lambda: [path for path in tmp_path.glob("?") if path.read_text()]  # noqa: E731
    assert wait_until(lambda: len(witnesses()) == 2)
    workers = [int(path.read_text()) for path in witnesses()]
    parent.send_signal(end)
    parent.wait(timeout=30)
    assert wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    assert not list(tmp_path.glob("?")), "a job did not clean up, or a waiting job was started"
