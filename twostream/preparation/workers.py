"""Run one function over many jobs, in worker processes here or on a Dask cluster; expected failures are results.

A job may run a second time after its worker died, so running it twice must do no harm. On a cluster, each worker needs
this package and must see the same files at the same paths.
"""

import ctypes
import multiprocessing
import os
import pkgutil
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, Protocol

from twostream.errors import EnvironmentFaultError, UserError, one_line
from twostream.files import allow_open_files

END_SECONDS = 4  # in which workers remove their temporary files; then they are killed
AGAIN_SECONDS = 0.05  # until it is checked again whether a job has handled its exception
EXIT_CODE = 128 + signal.SIGTERM  # of a worker that SIGTERM ended
FILES_PER_WORKER = 8  # open pipes and the like, measured
TERMINAL_SIGNALS = {signal.SIGINT, signal.SIGHUP}  # a terminal sends them to workers too, but the parent decides

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
KEPT_BLOCK_BYTES, KEPT_BYTES = 32 << 20, 256 << 20  # larger blocks, and more free memory, go back to the system

CLUSTER_JOBS_PER_THREAD = 4  # in flight, so that the scheduler need not hold a million
CLUSTER_ANSWER_SECONDS = 20  # to wait for the scheduler
CLUSTER_CHECK_SECONDS = 10  # between two checks that the cluster is still there
CLUSTER_EMPTY_SECONDS = 300  # to wait for workers: nodes may start late, or be replaced


@dataclass(frozen=True)
class Failure:
    """A job that failed because of its input."""

    reason: str
    kind: str = ""
    """`kind` of the expected exception, if it has one; KILLED, or PROGRAM_ERROR"""
    traceback: str = ""
    """of a program error"""


KILLED = "killed"
"""kind of failure: the worker, or a program that it uses, was killed, or had too little memory"""
PROGRAM_ERROR = "program error"
"""kind of failure: an exception that nobody expected"""
_KILLED = Failure("its worker process died twice (killed, out of memory, or a crash in a library)", kind=KILLED)


class ProgramError(Exception):
    """A mistake of this program, with the traceback of the job in which it showed."""


def raise_program_errors(failures: Iterable[Failure]) -> None:
    """Raise ProgramError if there is a program error among the failures; call it when everything else is done."""
    errors = [failure for failure in failures if failure.kind == PROGRAM_ERROR]
    if errors:
        raise ProgramError(
            f"{len(errors)} jobs failed by a mistake of this program; the first one:\n{errors[0].traceback}"
        )


def run_jobs(
    function: Callable[[Any], Any],
    jobs: Iterable[Any],
    *,
    num_workers: int,
    expected: type[Exception],
    scheduler: str = "",
) -> Generator[tuple[Any, Any], None, None]:
    """Yield (job, result) as jobs end, in any order, each job once; an `expected` exception becomes a Failure.

    A job whose worker process dies, that has too little memory, or whose exception is of kind KILLED is tried once
    more, alone; if it fails again, that is a Failure too. A fault of the machine (UserError, OSError) is raised here.
    Any other exception is a mistake of this program: a Failure, so that the other jobs are done, for
    `raise_program_errors` at the end. `function` and the jobs must be picklable. Jobs are taken from the iterable a few
    at a time, so it may be long. When this generator is closed, or left by an exception such as Ctrl-C, its workers
    clean up and end within seconds.

    `scheduler`, like "tcp://host:8786", runs the jobs on all worker threads of that Dask cluster, instead of in
    `num_workers` processes; jobs that run there when the generator is closed run to their end.

    Raises EnvironmentFaultError when workers cannot start, or the cluster cannot be reached, is lost, or stays empty.
    """
    task = _Task(function, expected)
    engine: _Engine = _Cluster(scheduler, task) if scheduler else _Processes(num_workers, task)
    with closing(engine):
        yield from _supervise(engine, jobs)


@dataclass(frozen=True)
class _Task:
    function: Callable[[Any], Any]
    expected: type[Exception]

    def __call__(self, job: Any) -> Any:
        try:
            return self.function(job)
        except self.expected as error:
            return Failure(str(error), getattr(error, "kind", ""))
        except MemoryError:
            return Failure("too little memory", KILLED)
        except (UserError, OSError):
            raise
        except Exception as error:
            return Failure(one_line(error), PROGRAM_ERROR, traceback.format_exc())


class _Engine(Protocol):
    """What runs jobs: processes here, or a cluster."""

    def capacity(self) -> int:
        """Number of jobs to have in flight."""

    def submit(self, job: Any) -> "Future[Any]":
        """Start a job."""

    def result(self, future: "Future[Any]") -> Any:
        """The result of a job that has ended; _WorkerDiedError when its worker died."""

    def close(self) -> None:
        """End the workers."""


class _WorkerDiedError(Exception):
    """The worker process of a job died; `started` is False when it died before the job began."""

    def __init__(self, started: bool):
        super().__init__(started)
        self.started = started


def _supervise(engine: _Engine, jobs: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """A job that was killed runs again when all others have ended: alone, it has all the memory, and if it is killed
    again, no other job can be the reason."""
    waiting = iter(jobs)
    suspects: deque[Any] = deque()
    running: dict[Future[Any], Any] = {}
    results: list[tuple[Any, Any]] = []
    while True:
        alone = bool(suspects) and not running
        if alone:
            job = suspects.popleft()
            running = {engine.submit(job): job}
        elif not suspects:
            num_free = max(0, engine.capacity() - len(running))  # a cluster can shrink
            running |= {engine.submit(job): job for job in islice(waiting, num_free)}
        yield from results  # the caller may take its time: workers have their next jobs
        if not running:
            return
        while not (ended := wait(running, CLUSTER_CHECK_SECONDS, FIRST_COMPLETED).done):
            engine.capacity()  # raises when the cluster is lost
        results = []
        for future in ended:
            job = running.pop(future)
            try:
                result = engine.result(future)
                if isinstance(result, Failure) and result.kind == KILLED and not alone:
                    suspects.append(job)
                else:
                    results.append((job, result))
            except _WorkerDiedError as death:
                if not alone:
                    suspects.append(job)
                elif death.started:
                    results.append((job, _KILLED))
                else:
                    raise EnvironmentFaultError(
                        "worker processes die before their first job (out of memory? a library that cannot be loaded?); "
                        "see their messages above"
                    ) from None


# -------------------------------------------------------------------------------------------------------- this machine


class _Processes:
    """Worker processes of this machine, each in its own pool: when one dies, only its job is affected, and known."""

    def __init__(self, num_workers: int, task: _Task):
        self.num_workers = num_workers
        self.task = task
        self.context = _Context()
        # The exception of a signal is raised in the main thread, and must not interrupt the start of a process.
        self.starter = ThreadPoolExecutor(1, initializer=_prepare_starter)
        self.idle: list[_Worker] = []
        self.busy: dict[Future[Any], _Worker] = {}
        allow_open_files(FILES_PER_WORKER * num_workers)

    def close(self) -> None:
        self.starter.shutdown()
        alive = [process for process in self.context.processes if process.is_alive()]
        for process in alive:
            process.terminate()
        end = time.monotonic() + END_SECONDS
        for process in alive:
            process.join(max(0, end - time.monotonic()))
            process.kill()
        for worker in (*self.idle, *self.busy.values()):  # else Python may exit while a pool is closing
            worker.pool.shutdown(cancel_futures=True)

    def capacity(self) -> int:
        return self.num_workers

    def submit(self, job: Any) -> Future[Any]:
        self.idle = [worker for worker in self.idle if worker.process.is_alive()]
        worker = self.idle.pop() if self.idle else self.starter.submit(_Worker, self.context, self.task).result()
        try:
            future = worker.pool.submit(_run_in_worker, self.task, job)
        except BrokenProcessPool as error:  # it died at this moment
            future = Future()
            future.set_exception(error)
        self.busy[future] = worker
        return future

    def result(self, future: Future[Any]) -> Any:
        worker = self.busy.pop(future)
        try:
            result = future.result()
        except BrokenProcessPool:
            raise _WorkerDiedError(started=worker.started.exception() is None) from None
        self.idle.append(worker)
        return result


class _Worker:
    """A process pool with one process."""

    def __init__(self, context: "_Context", task: _Task):
        self.pool = ProcessPoolExecutor(1, mp_context=context, initializer=_prepare_worker)
        self.started = self.pool.submit(_start, task)
        self.process = context.processes[-1]


class _Context(SpawnContext):
    """Starts processes by spawning, as OpenCV needs, and remembers the ones that are alive."""

    def __init__(self) -> None:
        self.processes: list[SpawnProcess] = []

    def Process(self, *arguments: Any, **keywords: Any) -> SpawnProcess:  # type: ignore[override]  # a class there
        process = SpawnProcess(*arguments, **keywords)
        self.processes = [earlier for earlier in self.processes if earlier.is_alive()] + [process]
        return process


def _prepare_starter() -> None:
    """Processes inherit the signal mask of the thread that starts them. Without it, Ctrl-C would end a worker that is
    starting with a traceback, and SIGHUP would end the resource tracker."""
    signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
    resource_tracker.ensure_running()  # multiprocessing's own process; this unblocks Ctrl-C
    signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)


def prepare_process() -> None:
    """Prepare a process for image work beside others: OpenCV uses one thread, and freed memory is kept.

    Farneback allocates and frees megabytes for each pair. glibc returns them to the system every time, and getting them
    again takes a tenth of the time of the flow (benchmarks/prep.py).
    """
    import cv2

    cv2.setNumThreads(1)
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, KEPT_BLOCK_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def _prepare_worker() -> None:
    prepare_process()
    for terminal_signal in TERMINAL_SIGNALS:
        signal.signal(terminal_signal, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINAL_SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Otherwise a worker whose parent was killed would wait for its next job for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is a worker process"
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _start(task: _Task) -> None:
    """Returns only in a worker that could start and import what its jobs need."""


def _run_in_worker(task: _Task, job: Any) -> Any:
    try:
        for number in (signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, _leave)
        try:
            return task(job)
        finally:
            if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:  # SIGTERM arrived while the job was cleaning up
                os._exit(EXIT_CODE)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    except SystemExit:  # by _leave; the pool would treat it as a result and start the next job
        os._exit(EXIT_CODE)


def _leave(signal_number: int, frame: object) -> None:
    """Let the job remove its temporary files, without being interrupted by a second signal.

    If it is already removing them because of an exception, another exception would interrupt that: wait until it ends.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.exc_info()[1] is None:
        sys.exit(EXIT_CODE)
    signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)  # the job may continue after its exception


# ----------------------------------------------------------------------------------------------------------- a cluster


class _Cluster:
    """The workers of a Dask scheduler; a few times, Dask gives the job of a worker that died to another one."""

    def __init__(self, scheduler: str, task: _Task):
        self.scheduler = scheduler
        self.task = task
        self.last_seen = time.monotonic()
        try:
            from distributed import Client
        except ImportError:
            raise self._fault("the package distributed is missing: pip install 'twostream-video[cluster]'") from None
        try:
            client_type: Any = Client  # distributed is typed only in part
            self.client = client_type(scheduler, timeout=CLUSTER_ANSWER_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            expected = "expected the address of a running `dask scheduler`, like tcp://host:8786"
            raise self._fault(f"no answer ({error}), {expected}") from None
        answers = self.client.run(pkgutil.resolve_name, f"{__name__}:run_jobs", on_error="return")
        if errors := [answer for answer in answers.values() if isinstance(answer, ImportError)]:
            self.close()
            raise self._fault(f"a worker cannot import this package ({errors[0]}); install it on all of them")

    def close(self) -> None:
        with suppress(OSError):  # the scheduler has ended, or does not answer
            self.client.close(timeout=END_SECONDS)

    def capacity(self) -> int:
        """Number of jobs to have in flight; EnvironmentFaultError when the cluster is lost, or empty for too long."""
        num_threads: int = self.client.scheduler_info(n_workers=0).get("total_threads", 0)
        if self.client.status != "running":
            raise self._lost()
        if num_threads:
            self.last_seen = time.monotonic()
        elif time.monotonic() > self.last_seen + CLUSTER_EMPTY_SECONDS:
            raise self._fault(f"it has no workers; start some with `dask worker {self.scheduler}`, and run this again")
        return max(1, CLUSTER_JOBS_PER_THREAD * num_threads)

    def submit(self, job: Any) -> Future[Any]:
        call = partial(_run_on_cluster, self.task, job)  # Dask would search a bare job for futures
        remote = self.client.submit(call, pure=False)  # pure would run equal jobs only once
        future: Future[Any] = Future()
        self.client.loop.add_callback(_hand_on, remote, future)
        return future

    def result(self, future: Future[Any]) -> Any:
        from distributed import KilledWorker

        try:
            return future.result()
        except KilledWorker:
            raise _WorkerDiedError(started=True) from None
        except CancelledError:
            raise self._lost() from None

    def _lost(self) -> EnvironmentFaultError:
        return self._fault("connection lost; finished videos are kept, run the command again")

    def _fault(self, text: str) -> EnvironmentFaultError:
        return EnvironmentFaultError(f"--scheduler {self.scheduler}: {text}")


async def _hand_on(remote: Any, future: Future[Any]) -> None:
    """Copy the result of a Dask future. Dask's own `get_executor` forgets a job when its result is lost and its next
    worker dies too."""
    try:
        future.set_result(await remote)
    except BaseException as error:
        future.set_exception(error)


def _run_on_cluster(task: _Task, job: Any) -> Any:
    prepare_process()
    return task(job)
