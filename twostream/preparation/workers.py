"""Run one function over many jobs, in worker processes here or on a Dask cluster; expected failures come back as values.

A job may be run a second time after its worker died, so running it twice must do no harm. On a cluster each worker
needs this package, and sees the same files at the same paths.
"""

import ctypes
import multiprocessing
import os
import pkgutil
import resource
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

from twostream.errors import EnvironmentFaultError

END_SECONDS = 4  # for workers to remove their temporary files; then they are killed
AGAIN_SECONDS = 0.05  # until the next look whether a job is done with its exception
ENDED = 128 + signal.SIGTERM  # a worker's exit code then
FILES_PER_WORKER = 8  # pipes and such, measured
TERMINAL_SIGNALS = {signal.SIGINT, signal.SIGHUP}  # a terminal sends them to workers too, but the parent decides

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
KEPT_BLOCK_BYTES, KEPT_BYTES = 32 << 20, 256 << 20  # larger blocks, and free memory beyond that, go back to the system

CLUSTER_JOBS_PER_THREAD = 4  # in flight; the scheduler need not hold a million
CLUSTER_ANSWER_SECONDS = 20
CLUSTER_CHECK_SECONDS = 10
CLUSTER_EMPTY_SECONDS = 300  # nodes may come late, or be replaced


@dataclass(frozen=True)
class Failure:
    """A job that could not be done, for a reason that lies in its input."""

    reason: str
    kind: str = ""
    """the expected exception's `kind` if it has one; "killed" when the worker process died"""


_KILLED = Failure("its worker process died twice (killed, out of memory, or a crash in a library)", kind="killed")


def run_jobs(
    function: Callable[[Any], Any],
    jobs: Iterable,
    *,
    num_workers: int,
    expected: type[Exception],
    scheduler: str = "",
) -> Iterator[tuple[Any, Any]]:
    """Yield (job, result) as jobs end, in any order, each job once; an `expected` exception becomes a Failure.

    A job whose worker process dies is tried once more, alone, then it is a Failure too. Any other exception is a bug
    or a fault of the machine and is raised here. `function` and the jobs must be picklable. Jobs are taken from the
    iterable a few ahead, so it may be long. When this generator is closed, or left by an exception such as Ctrl-C, its
    workers clean up and end within seconds.

    `scheduler`, like "tcp://host:8786", runs the jobs on that Dask cluster, on all of its workers' threads, instead of
    in `num_workers` processes; what runs there when the generator is closed runs to its end.

    Raises EnvironmentFaultError when workers cannot start, or the cluster cannot be reached, is lost, or stays empty.
    """
    task = _Task(function, expected)
    with closing(_Cluster(scheduler, task) if scheduler else _Processes(num_workers, task)) as engine:
        yield from _supervise(engine, jobs)


@dataclass(frozen=True)
class _Task:
    function: Callable[[Any], Any]
    expected: type[Exception]

    def __call__(self, job):
        try:
            return self.function(job)
        except self.expected as error:
            return Failure(str(error), getattr(error, "kind", ""))


class _WorkerDiedError(Exception):
    """An engine's word that a job's worker process died; `started` is False when that was before the job began."""

    def __init__(self, started: bool):
        super().__init__(started)
        self.started = started


def _supervise(engine: "_Processes | _Cluster", jobs: Iterable) -> Iterator[tuple[Any, Any]]:
    """A job whose worker died waits until all others have ended, so that it has the memory for itself, and its second
    death is nobody else's fault."""
    waiting, suspects = iter(jobs), deque()
    running: dict[Future, Any] = {}
    results: list[tuple[Any, Any]] = []
    while True:
        alone = bool(suspects) and not running
        if alone:
            job = suspects.popleft()
            running = {engine.submit(job): job}
        elif not suspects:
            room = max(0, engine.capacity() - len(running))  # a cluster can shrink
            running |= {engine.submit(job): job for job in islice(waiting, room)}
        yield from results  # the caller may take its time: workers have their next jobs
        if not running:
            return
        while not (ended := wait(running, CLUSTER_CHECK_SECONDS, FIRST_COMPLETED).done):
            engine.capacity()  # raises when a cluster is gone
        results = []
        for future in ended:
            job = running.pop(future)
            try:
                results.append((job, engine.result(future)))
            except _WorkerDiedError as death:
                if not alone:
                    suspects.append(job)
                elif death.started:
                    results.append((job, _KILLED))
                else:
                    raise EnvironmentFaultError(
                        "worker processes die before their first job (out of memory? a library that cannot be loaded?); "
                        "what they say stands above"
                    ) from None


# -------------------------------------------------------------------------------------------------------- this machine


class _Processes:
    """Worker processes of this machine, each in a pool of its own: a death breaks no other, and so names its job."""

    def __init__(self, num_workers: int, task: _Task):
        self.num_workers = num_workers
        self.task = task
        self.context = _Context()
        # A signal's exception comes up in the main thread, and must not tear the start of a process.
        self.starter = ThreadPoolExecutor(1, initializer=_prepare_starter)
        self.idle: list[_Worker] = []
        self.busy: dict[Future, _Worker] = {}
        files, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # both -1 where there is no limit
        needed = 256 + FILES_PER_WORKER * num_workers
        if 0 <= files < needed:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, most) if most >= 0 else needed, most))

    def close(self) -> None:
        self.starter.shutdown()
        left = [process for process in self.context.processes if process.is_alive()]
        for process in left:
            process.terminate()
        end = time.monotonic() + END_SECONDS
        for process in left:
            process.join(max(0, end - time.monotonic()))
            process.kill()
        for worker in (*self.idle, *self.busy.values()):  # else Python's own end may meet a pool that is just closing
            worker.pool.shutdown(cancel_futures=True)

    def capacity(self) -> int:
        return self.num_workers

    def submit(self, job) -> Future:
        self.idle = [worker for worker in self.idle if worker.process.is_alive()]
        worker = self.idle.pop() if self.idle else self.starter.submit(_Worker, self.context, self.task).result()
        try:
            future = worker.pool.submit(_run_in_worker, self.task, job)
        except BrokenProcessPool as error:  # it died this moment
            future = Future()
            future.set_exception(error)
        self.busy[future] = worker
        return future

    def result(self, future: Future):
        worker = self.busy.pop(future)
        try:
            result = future.result()
        except BrokenProcessPool:
            raise _WorkerDiedError(started=worker.started.exception() is None) from None
        self.idle.append(worker)
        return result


class _Worker:
    """A process pool of one."""

    def __init__(self, context: "_Context", task: _Task):
        self.pool = ProcessPoolExecutor(1, mp_context=context, initializer=_prepare_worker)
        self.started = self.pool.submit(_start, task)
        self.process = context.processes[-1]


class _Context(SpawnContext):
    """Starts processes by spawning, as OpenCV needs, and remembers those that live."""

    def __init__(self):
        self.processes: list[SpawnProcess] = []

    def Process(self, *arguments, **keywords) -> SpawnProcess:
        process = SpawnProcess(*arguments, **keywords)
        self.processes = [other for other in self.processes if other.is_alive()] + [process]
        return process


def _prepare_starter() -> None:
    """Processes inherit the thread's mask: Ctrl-C would end a worker's start with a traceback, and SIGHUP the tracker."""
    signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
    resource_tracker.ensure_running()  # multiprocessing's own process; this unblocks Ctrl-C
    signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)


def prepare_process() -> None:
    """Make a process fit for image work beside others of its kind: OpenCV with one thread, freed memory kept.

    Farneback takes and frees megabytes for each pair; glibc gives them back to the system every time, and to fetch them
    anew is a tenth of the time of the flow (benchmarks/prep.py).
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
    """A worker whose parent was killed would wait for its next job for ever."""
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)


def _start(task: _Task) -> None:
    """Comes back from a worker that could start and import what its jobs need."""


def _run_in_worker(task: _Task, job):
    try:
        for number in (signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, _leave)
        try:
            return task(job)
        finally:
            if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:  # it came while the job was cleaning up
                os._exit(ENDED)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    except SystemExit as end:  # the pool would take it for a result, and start the next job
        os._exit(end.code)


def _leave(signal_number: int, frame: object) -> None:
    """Let the job remove its temporary files, undisturbed by a second signal.

    Where it is removing them already, as it ends by an exception, another one would cut that short: wait for the end.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.exc_info()[1] is None:
        sys.exit(ENDED)
    signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)  # perhaps the job goes on after its exception


# ----------------------------------------------------------------------------------------------------------- a cluster


class _Cluster:
    """The workers of a Dask scheduler; Dask gives the job of a dead worker to another one, a few times."""

    def __init__(self, scheduler: str, task: _Task):
        self.scheduler = scheduler
        self.task = task
        self.last_seen = time.monotonic()
        try:
            from distributed import Client
        except ImportError:
            raise self._fault("the package distributed is missing: pip install 'twostream[cluster]'") from None
        try:
            self.client = Client(scheduler, timeout=CLUSTER_ANSWER_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            expected = "expected the address of a running `dask scheduler`, like tcp://host:8786"
            raise self._fault(f"no answer ({error}), {expected}") from None
        answers = self.client.run(pkgutil.resolve_name, f"{__name__}:run_jobs", on_error="return")
        if errors := [answer for answer in answers.values() if isinstance(answer, ImportError)]:
            self.close()
            raise self._fault(f"a worker cannot import this package ({errors[0]}); install it on all of them")

    def close(self) -> None:
        with suppress(OSError):  # it is gone, or does not answer
            self.client.close(timeout=END_SECONDS)

    def capacity(self) -> int:
        """Jobs to have in flight. Raises EnvironmentFaultError when the cluster is lost, or empty for too long."""
        num_threads = self.client.scheduler_info(n_workers=0).get("total_threads", 0)
        if self.client.status != "running":
            raise self._lost()
        if num_threads:
            self.last_seen = time.monotonic()
        elif time.monotonic() > self.last_seen + CLUSTER_EMPTY_SECONDS:
            raise self._fault(f"it has no workers; start some with `dask worker {self.scheduler}`, and run this again")
        return max(1, CLUSTER_JOBS_PER_THREAD * num_threads)

    def submit(self, job) -> Future:
        call = partial(_run_on_cluster, self.task, job)  # Dask would look into a bare job
        remote = self.client.submit(call, pure=False)  # not pure: equal jobs are jobs of their own
        future = Future()
        self.client.loop.add_callback(_hand_on, remote, future)
        return future

    def result(self, future: Future):
        from distributed import KilledWorker

        try:
            return future.result()
        except KilledWorker:
            raise _WorkerDiedError(started=True) from None
        except CancelledError:
            raise self._lost() from None

    def _lost(self) -> EnvironmentFaultError:
        return self._fault("connection lost; nothing finished is lost, run the command again")

    def _fault(self, text: str) -> EnvironmentFaultError:
        return EnvironmentFaultError(f"--scheduler {self.scheduler}: {text}")


async def _hand_on(remote, future: Future) -> None:
    """As Dask's `get_executor` does, which forgets a job when its result is lost and its next worker dies too."""
    try:
        future.set_result(await remote)
    except BaseException as error:
        future.set_exception(error)


def _run_on_cluster(task: _Task, job):
    prepare_process()
    return task(job)
