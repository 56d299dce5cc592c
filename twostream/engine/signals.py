"""Signals in a training, heard at the next good moment: requests to end, and the death of loader processes."""

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator

from twostream.errors import Terminated


class Stop:
    """SIGTERM and SIGUSR1: inside `with` the first only sets `asked`, so that the loop can save and end; the second
    ends at once. Not within a second of the first, though: `timeout`, for one, sends each twice.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

    def __init__(self):
        self.asked = 0.0
        """when, in monotonic seconds; 0 if not yet"""
        self.started: list[Iterator] = []
        self.on_death: Callable | int = signal.SIG_DFL

    def __enter__(self) -> "Stop":
        self.handlers = {number: signal.signal(number, self._ask) for number in self.SIGNALS}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        signal.signal(signal.SIGCHLD, self.on_death)
        # Python would wait for ever for loader processes that do not hear its SIGTERM; so they end here, by torch's way
        # (which one without processes does not have), and if need be by one that nobody can be deaf to.
        for batches in self.started:
            getattr(batches, "_shutdown_workers", lambda: None)()
        for process in multiprocessing.active_children():
            process.kill()

    def _ask(self, number: int, frame: object) -> None:
        if self.asked and time.monotonic() > self.asked + 1:
            raise Terminated
        self.asked = self.asked or time.monotonic()

    def start(self, loader: Iterable) -> "Batches":
        """Begin a loader; its processes do not hear the signals, which are sent to whole process groups."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self.SIGNALS)
        try:
            self.started.append(iter(loader))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self.SIGNALS)
        if callable(handler := signal.getsignal(signal.SIGCHLD)):
            self.on_death = handler  # torch's, which it sets once and for all
        return Batches(self.started[-1], self.on_death)


class Batches:
    """What a loader gives. The death of one of its processes is heard, as RuntimeError, while a batch is awaited, and not
    in the middle of a step, where torch's handler of SIGCHLD would raise it.
    """

    newest = None
    """the last one that was given"""
    awaited = False
    """is the program between two batches?"""

    def __init__(self, batches: Iterator, on_death: Callable | int):
        self.batches, self.on_death = batches, on_death

    def __iter__(self) -> "Batches":
        return self

    def __next__(self):
        self.awaited = True
        signal.signal(signal.SIGCHLD, self.on_death)
        try:
            if callable(self.on_death):
                self.on_death(signal.SIGCHLD, None)  # for those that died since the last batch
            self.newest = next(self.batches)
        except (ConnectionError, EOFError):
            time.sleep(1)  # in which the death of the process arrives, and says more
            raise
        finally:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.awaited = False
        return self.newest
