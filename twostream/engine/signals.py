"""Signals in a training, handled at the next good moment: requests to stop, and the death of loader processes."""

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any
from weakref import WeakSet

from twostream.errors import Terminated

Handler = Callable[[int, FrameType | None], Any]
"""a signal handler, called with the signal's number and the interrupted frame"""


class Stop:
    """Handles SIGTERM, SIGUSR1 and SIGHUP inside its `with` block; under nohup, SIGHUP stays ignored.

    The first one only sets `requested`, so that the loop can save and end. The second one raises Terminated at once, but
    only if it comes more than a second after the first: `timeout`, for example, sends each signal twice.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)

    def __init__(self) -> None:
        self.requested = 0.0
        """when the first signal came, in monotonic seconds; 0 if none has come"""
        self.started: WeakSet[Batches] = WeakSet()
        """the batches of the loaders that were started, while they are in use: each keeps the pipes of its processes open"""
        self.on_death: Handler | None = None
        """torch's handler of SIGCHLD, once a loader with processes was started"""

    def __enter__(self) -> "Stop":
        handled = set(self.SIGNALS)
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            handled.remove(signal.SIGHUP)
        self.handlers = {number: signal.signal(number, self._handle) for number in handled}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        signal.signal(signal.SIGCHLD, self.on_death or signal.SIG_DFL)
        # When Python exits, it waits for loader processes for ever, because they ignore its SIGTERM. So shut them down
        # through torch (an iterator without processes has no such method), then kill any that remain.
        for batches in self.started:
            getattr(batches.batches, "_shutdown_workers", lambda: None)()
        for process in multiprocessing.active_children():
            process.kill()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and time.monotonic() > self.requested + 1:
            raise Terminated
        self.requested = self.requested or time.monotonic()

    def start(self, loader: Iterable[Any]) -> "Batches":
        """Start a loader. Its processes ignore the signals, which are sent to whole process groups."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self.SIGNALS)
        try:
            iterator = iter(loader)
            if callable(handler := signal.getsignal(signal.SIGCHLD)):
                self.on_death = handler  # torch's handler, which torch sets only once per process
            batches = Batches(iterator, self.on_death)
            self.started.add(batches)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self.SIGNALS)
        return batches


class Batches:
    """The batches of a loader. If one of its processes dies, RuntimeError is raised while a batch is awaited.

    Without this, torch's handler of SIGCHLD would raise it in the middle of a step.
    """

    awaited = False
    """is a batch being waited for? Still true after an error of the loader"""

    def __init__(self, batches: Iterator[Any], on_death: Handler | None):
        self.batches, self.on_death = batches, on_death

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Any:
        self.awaited = True
        signal.signal(signal.SIGCHLD, self.on_death or signal.SIG_DFL)
        try:
            if self.on_death:
                self.on_death(signal.SIGCHLD, None)  # for processes that died since the last batch
            batch = next(self.batches)
        except (ConnectionError, EOFError):
            time.sleep(1)  # meanwhile the death of the process is noticed, and raises an error that says more
            raise
        finally:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.awaited = False
        return batch
