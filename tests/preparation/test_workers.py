"""Jobs in worker processes, here and on a cluster: every job once, failures as results, no worker left running."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from itertools import count
from pathlib import Path

import pytest

from tests.cluster import THIS_MACHINE, DaskScheduler, wait_until
from tests.conftest import REPOSITORY
from twostream.errors import EnvironmentFaultError
from twostream.preparation import workers
from twostream.preparation.workers import PROGRAM_ERROR, Failure, ProgramError, raise_program_errors, run_jobs


class BadInputOfTestError(Exception):
    kind = "damaged"


class TerminatedOfTest(BaseException):
    """What a program may raise at SIGTERM."""


KILLED = Failure("its worker process died twice (killed, out of memory, or a crash in a library)", kind="killed")


# ------------------------------------------------------------------------------------------- functions that workers run


def square(number: int) -> int:
    if number == 3:
        raise BadInputOfTestError("three is bad")
    return number * number


def divide(number: int) -> float:
    return 1 / number


def raise_it(error: Exception) -> None:
    raise error


class KilledInsideError(BadInputOfTestError):
    kind = "killed"


def fail_inside(path: Path) -> str:
    """Count the tries in the job's file; raise in the first one, or always."""
    with open(path, "a") as file:
        file.write("x")
    if "always" in path.name or ("once" in path.name and path.read_text() == "x"):
        raise MemoryError if "memory" in path.name else KilledInsideError("ffmpeg was ended by SIGKILL")
    return "done"


def count_opencv_threads(job) -> int:
    import cv2

    return cv2.getNumThreads()


def square_or_die(number: int) -> int:
    """Jobs below zero kill their worker, each in its own way."""
    if number == -1:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == -2:
        os._exit(0)
    if number == -3:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.abort()
    return number * number


def note_start_and_end(path: Path) -> str:
    """Write start and end to a log beside the job's file; a job named poison dies between them."""
    log = path.parent / "log"
    for event in ("start", "end"):
        with open(log, "a") as file:
            file.write(f"{event} {path.name}\n")
        if path.name.startswith("poison") and event == "start":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.05)
    return path.name


def die_when_first(path: Path) -> str:
    """In the first run, write the process id to the file and wait to be killed."""
    if not path.exists():
        path.write_text(str(os.getpid()))
        time.sleep(60)
    return path.name


def sleep_with_file(path: str) -> None:
    """Write a file that is removed when the job ends, as by a job with temporary files."""
    try:
        Path(path).write_text(str(os.getpid()))  # SIGTERM may come as soon as it is written
        time.sleep(60)
    finally:
        Path(path).unlink(missing_ok=True)


def fail_and_clean_up(path: Path) -> None:
    """The first job fails while the second one is cleaning up after its own failure, which takes a while."""
    if path.name == "first":
        while not path.with_name("second").exists():
            time.sleep(0.01)
        raise OSError
    try:
        raise OSError
    finally:
        path.write_text("")
        for _ in range(50):
            time.sleep(0.01)
        path.with_name("clean").write_text("")


def continue_after_exception(path: Path) -> None:
    """Continue after an exception."""
    try:
        raise RuntimeError
    except RuntimeError:
        path.write_text("")
        time.sleep(0.5)
    try:
        time.sleep(60)
    finally:
        path.with_name("clean").write_text("")


def ignore_sigterm(path: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    path.write_text(str(os.getpid()))
    time.sleep(60)


# --------------------------------------------------------------------------------------------------------- the engines


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    scheduler = DaskScheduler(tmp_path_factory.mktemp("cluster"))
    for _ in range(2):
        scheduler.start_worker()
    yield scheduler
    scheduler.kill()


@pytest.fixture
def lone_scheduler(tmp_path):
    scheduler = DaskScheduler(tmp_path)
    yield scheduler
    scheduler.kill()


@pytest.fixture(params=["processes", "cluster"])
def engine(request) -> dict:
    """Two workers, as arguments of `run_jobs`."""
    if request.param == "cluster":
        return {"num_workers": 1, "scheduler": request.getfixturevalue("cluster").address}
    return {"num_workers": 2}


def run(function, jobs, **engine):
    return run_jobs(function, jobs, expected=BadInputOfTestError, **engine)


# --------------------------------------------------------------------------------------------- contract of both engines


def test_every_job_has_one_result_and_bad_ones_are_failures(engine):
    jobs = (number for number in range(40))  # more than are in flight
    results = list(run(square, jobs, **engine))
    truth = {number: number * number for number in range(40)} | {3: Failure("three is bad", kind="damaged")}
    assert sorted(number for number, _ in results) == list(range(40))
    assert dict(results) == truth


def test_no_jobs_no_results(engine):
    assert list(run(square, [], **engine)) == []


def test_bug_in_a_job_is_raised_when_the_others_are_done(engine):
    results = dict(run(divide, [0, 1, 2, 4], **engine))
    bug = results.pop(0)
    assert results == {1: 1.0, 2: 0.5, 4: 0.25}
    assert (bug.kind, bug.reason) == (PROGRAM_ERROR, "division by zero")
    with pytest.raises(ProgramError, match=r"1 jobs .*\n.*Traceback(.|\n)*in divide(.|\n)*ZeroDivisionError"):
        raise_program_errors([Failure("three is bad", kind="damaged"), bug])
    raise_program_errors([Failure("three is bad", kind="damaged")])


@pytest.mark.parametrize("error", [PermissionError("disk"), EnvironmentFaultError("disk")])
def test_fault_of_the_machine_is_raised_at_once(error):
    with pytest.raises(type(error), match="disk"):
        list(run(raise_it, [error], num_workers=1))


@pytest.mark.parametrize("how", ["killed", "memory"])
def test_job_that_was_killed_inside_is_tried_again_alone(tmp_path, how):
    """For example ffmpeg, killed because memory was short: with less beside it, it may succeed."""
    jobs = [tmp_path / name for name in (f"{how} once", f"{how} always", "fine")]
    results = {path.name: result for path, result in run(fail_inside, jobs, num_workers=2)}
    assert results["fine"] == results[f"{how} once"] == "done"
    assert results[f"{how} always"].kind == "killed"
    assert len((tmp_path / f"{how} always").read_text()) == 2


def test_bug_in_the_iterable_is_raised(engine):
    with pytest.raises(ZeroDivisionError):
        list(run(square, (1 // (2 - number) for number in range(9)), **engine))


def test_opencv_has_one_thread_in_a_worker(engine):
    assert [result for _, result in run(count_opencv_threads, [0], **engine)] == [1]


def test_jobs_are_taken_a_few_ahead_and_the_caller_may_stop(engine):
    taken = count()
    results = run(square, taken, **engine)
    for _ in range(5):
        next(results)
    results.close()
    # 2 workers with up to 4 jobs in flight each on a cluster, and as many ended jobs that were not read yet
    assert next(taken) <= 5 + 2 * (2 * 4)


def test_job_of_a_worker_killed_in_mid_run_is_tried_again(engine, tmp_path):
    jobs = [tmp_path / f"{k}" for k in range(12)]
    for job in jobs[1:]:
        job.touch()
    results = run(die_when_first, jobs, **engine)
    names = [next(results)[1]]
    assert wait_until(lambda: jobs[0].exists() and jobs[0].read_text())
    os.kill(int(jobs[0].read_text()), signal.SIGKILL)
    names += [result for _, result in results]
    assert sorted(names, key=int) == [str(k) for k in range(12)]


def test_job_that_kills_its_workers_is_a_failure_and_the_others_finish(engine):
    jobs = [*range(4), -1, *range(4, 12)]
    results = list(run(square_or_die, jobs, **engine))
    assert sorted(job for job, _ in results) == sorted(jobs)
    truth = {number: number * number for number in range(12)}
    assert dict(results) == truth | {-1: KILLED}


# ------------------------------------------------------------------------------------------------------- processes only


@pytest.mark.parametrize("num_workers", [1, 3])
def test_every_kind_of_death_is_survived(num_workers):
    jobs = [-1, 1, -2, 2, -3, 3]
    results = dict(run(square_or_die, jobs, num_workers=num_workers))
    assert results == {1: 1, 2: 4, 3: 9} | dict.fromkeys([-1, -2, -3], KILLED)


def test_only_the_job_of_the_dead_worker_runs_again_and_it_runs_alone(tmp_path):
    jobs = [tmp_path / name for name in ("a", "poison1", "b", "poison2", "c", "d", "e")]
    results = dict(run(note_start_and_end, jobs, num_workers=3))
    assert {job.name for job, result in results.items() if result == KILLED} == {"poison1", "poison2"}

    events = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    starts = [name for event, name in events if event == "start"]
    assert sorted(starts) == sorted([job.name for job in jobs] + ["poison1", "poison2"])
    running, tries = set(), set()
    for event, name in events:
        if event == "end":
            running.remove(name)
        elif name in tries:
            assert not running, f"{name} was tried again beside {running}"
        elif name.startswith("poison"):
            tries.add(name)
        else:
            running.add(name)


def test_worker_killed_between_jobs_loses_nothing():
    results = run(square, (job for job in ["1", 1, 2]), num_workers=1)
    results.close()
    results = run(square, range(3), num_workers=1)
    assert next(results) == (0, 0)
    for worker in multiprocessing.active_children():
        worker.kill()
        worker.join()
    assert list(results) == [(1, 1), (2, 4)]


def test_workers_that_cannot_start_end_the_run(tmp_path, monkeypatch):
    """For example a library that crashes while it is loaded: no job is the reason, and the jobs never end."""
    (tmp_path / "crashes_in_workers.py").write_text(
        "import multiprocessing, os\nif multiprocessing.parent_process(): os._exit(1)\ndef function(job): return job\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    from crashes_in_workers import function

    with pytest.raises(EnvironmentFaultError, match="die before their first job"):
        list(run(function, count(), num_workers=2))


def test_limit_of_open_files_is_raised_for_many_workers():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        results = run(square, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] for _ in range(1)), num_workers=100)
        limit, _ = next(results)
        results.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert limit >= min(hard, 8 * 100)


# ---------------------------------------------------------------------------------------------- the end of the processes


def test_no_worker_is_left_when_the_caller_stops_early():
    results = run(square, range(100), num_workers=2)
    next(results)
    results.close()
    assert not multiprocessing.active_children()


def test_worker_that_does_not_end_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "END_SECONDS", 0.2)

    def jobs():
        yield tmp_path / "worker"
        assert wait_until((tmp_path / "worker").exists)
        raise TerminatedOfTest

    with pytest.raises(TerminatedOfTest):
        list(run(ignore_sigterm, jobs(), num_workers=2))
    assert wait_until(lambda: not multiprocessing.active_children())


def test_a_job_that_is_already_cleaning_up_is_not_interrupted(tmp_path, capfd):
    with pytest.raises(OSError):
        list(run(fail_and_clean_up, [tmp_path / "first", tmp_path / "second"], num_workers=2))
    assert wait_until(lambda: not multiprocessing.active_children())
    assert (tmp_path / "clean").exists()
    assert capfd.readouterr().err == ""


def test_a_job_that_continues_after_an_exception_is_ended_too(tmp_path):
    def jobs():
        yield tmp_path / "job"
        assert wait_until((tmp_path / "job").exists)
        raise TerminatedOfTest

    with pytest.raises(TerminatedOfTest):
        list(run(continue_after_exception, jobs(), num_workers=2))
    assert wait_until(lambda: not multiprocessing.active_children())
    assert (tmp_path / "clean").exists()


PROGRAM = """
import signal
from tests.preparation.test_workers import *

def end(*_):
    raise TerminatedOfTest

if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    jobs = [f"{Path(__file__).parent}/{k}" for k in range(6)]
    try:
        list(run(sleep_with_file, jobs, num_workers=2))
    except (KeyboardInterrupt, TerminatedOfTest):
        sys.exit(9)
"""


def start_program(folder: Path) -> subprocess.Popen:
    script = folder / "program.py"
    script.write_text(PROGRAM)
    return subprocess.Popen(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def processes_of(session: int) -> list[int]:
    """Ids of the running processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, number = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue  # it has ended meanwhile
        if int(number) == session and state != "Z":
            found.append(int(path.parent.name))
    return found


CTRL_C_TO_ALL = (os.killpg, signal.SIGINT)  # as a terminal does
ENDS = {
    "workers start, Ctrl-C to all": ("workers start", *CTRL_C_TO_ALL),
    "workers start, killed": ("workers start", os.kill, signal.SIGKILL),
    "jobs run, Ctrl-C": ("jobs run", os.kill, signal.SIGINT),
    "jobs run, SIGTERM": ("jobs run", os.kill, signal.SIGTERM),
    "jobs run, SIGHUP to all": ("jobs run", os.killpg, signal.SIGHUP),
}
MORE_ENDS = {
    "workers start, Ctrl-C": ("workers start", os.kill, signal.SIGINT),
    "workers start, SIGTERM": ("workers start", os.kill, signal.SIGTERM),
    "workers start, SIGHUP to all": ("workers start", os.killpg, signal.SIGHUP),
    "jobs run, Ctrl-C to all": ("jobs run", *CTRL_C_TO_ALL),
    "jobs run, killed": ("jobs run", os.kill, signal.SIGKILL),
}


@pytest.mark.parametrize(
    "moment, send, end",
    [
        *(pytest.param(*values, id=name) for name, values in ENDS.items()),
        *(pytest.param(*values, id=name, marks=pytest.mark.slow) for name, values in MORE_ENDS.items()),
    ],
)
def test_workers_clean_up_and_end_with_the_parent(tmp_path, moment, send, end):
    parent = start_program(tmp_path)
    files_of_jobs = lambda: [path for path in tmp_path.glob("?") if path.read_text()]  # noqa: E731
    if moment == "jobs run":
        assert wait_until(lambda: len(files_of_jobs()) == 2)
    else:
        assert wait_until(lambda: len(processes_of(parent.pid)) >= 3)  # the second is the resource tracker
    send(parent.pid, end)
    _, errors = parent.communicate(timeout=60)
    assert wait_until(lambda: not processes_of(parent.pid))
    assert not files_of_jobs(), "a job did not clean up, or a waiting job was started"
    if end != signal.SIGKILL:
        assert parent.returncode == 9
        assert errors == ""


# -------------------------------------------------------------------------------------------------------- a cluster only


def test_cluster_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(EnvironmentFaultError, match=r"pip install 'twostream-video\[cluster\]'"):
        list(run(square, [1], num_workers=1, scheduler="tcp://127.0.0.1:1"))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://x"])
def test_cluster_that_does_not_answer(address, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(workers, "CLUSTER_ANSWER_SECONDS", 1)
    with pytest.raises(EnvironmentFaultError, match=f"--scheduler {address}: no answer .*dask scheduler"):
        list(run(square, [1], num_workers=1, scheduler=address))


def test_cluster_without_workers(lone_scheduler, monkeypatch):
    monkeypatch.setattr(workers, "CLUSTER_CHECK_SECONDS", 0.1)
    monkeypatch.setattr(workers, "CLUSTER_EMPTY_SECONDS", 1)
    with pytest.raises(EnvironmentFaultError, match="no workers; start some with `dask worker tcp://127"):
        list(run(square, [1], num_workers=1, scheduler=lone_scheduler.address))


def test_cluster_whose_workers_lack_the_package(lone_scheduler):
    without_package = (
        "import sys; sys.modules['twostream'] = None; from distributed.cli.dask_worker import main; main()"
    )
    words = [lone_scheduler.address, "--nthreads=1", "--no-nanny", *THIS_MACHINE]
    lone_scheduler.start([sys.executable, "-c", without_package, *words])
    from distributed import Client

    with Client(lone_scheduler.address, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=60)
    with pytest.raises(EnvironmentFaultError, match="a worker cannot import this package .*install it"):
        list(run(square, [1], num_workers=1, scheduler=lone_scheduler.address))


@pytest.mark.parametrize("seconds", [0, 1], ids=["before the job", "while it waits"])
def test_cluster_that_is_lost(lone_scheduler, monkeypatch, seconds):
    monkeypatch.setattr(workers, "CLUSTER_CHECK_SECONDS", 0.1)
    monkeypatch.setattr(workers, "CLUSTER_ANSWER_SECONDS", 2)
    killer = threading.Timer(seconds, lone_scheduler.kill)

    def jobs():
        killer.start()
        if not seconds:
            killer.join()
        yield 1

    with pytest.raises(EnvironmentFaultError, match="connection lost.*run the command again"):
        list(run(square, jobs(), num_workers=1, scheduler=lone_scheduler.address))
    killer.join()
