"""Run one function over many jobs in worker processes; a job's expected failure comes back as a value."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from typing import Any

from twostream.errors import EnvironmentFaultError


@dataclass(frozen=True)
class Failure:
    """A job that could not be done, for a reason that lies in its input."""

    reason: str


def run_jobs(
    function: Callable[[Any], Any], jobs: Iterable, *, num_workers: int, expected: type[Exception]
) -> Iterator[tuple[Any, Any]]:
    """Yield (job, result) as jobs end, in any order; an `expected` exception becomes a Failure result.

    Any other exception is a bug or a fault of the machine and is raised here. `function` and the jobs must be
    picklable. Jobs are taken from the iterable a few ahead, so it may be long.
    """
    task = _Task(function, expected)
    pool = ProcessPoolExecutor(
        num_workers, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare_worker
    )
    try:
        waiting = iter(jobs)
        running = {pool.submit(task, job): job for job in islice(waiting, 2 * num_workers)}
        while running:
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                yield running.pop(future), future.result()
            running |= {pool.submit(task, job): job for job in islice(waiting, len(ended))}
    except BrokenProcessPool:
        raise EnvironmentFaultError(
            "a worker process was killed (out of memory?); nothing finished is lost: run the command again, "
            "with fewer --workers"
        ) from None
    finally:  # also on Ctrl-C, or when the caller stops listening
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in multiprocessing.active_children():
            worker.terminate()


@dataclass(frozen=True)
class _Task:
    function: Callable[[Any], Any]
    expected: type[Exception]

    def __call__(self, job):
        try:
            signal.signal(signal.SIGTERM, _leave)
            try:
                return self.function(job)
            except self.expected as error:
                return Failure(str(error))
            finally:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
        except SystemExit as end:  # the pool would take it for a result, and start the next job
            os._exit(end.code)


def _leave(signal_number: int, frame: object) -> None:
    """Let the job remove its temporary files, undisturbed by a second signal."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + signal_number)


def _prepare_worker() -> None:
    import cv2

    cv2.setNumThreads(1)  # one process per core is the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for its next job for ever."""
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)
