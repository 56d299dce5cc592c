"""How many CPUs this process may use, how its threads wait, one function over many items, and work in the background."""

import contextlib
import math
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

MAX_THREADS = 8

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""variables by which a user says how threads of OpenMP wait for each other"""
BRIEF = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
"""a thousand turns of libgomp, then they sleep; threads of other OpenMP libraries sleep at once"""
LARGE_PAGES = "THP_MEM_ALLOC_ENABLE", "1"
"""by which torch asks Linux for huge pages, for tensors from 2 MB on"""

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cpus() -> int:
    """CPUs that this process may use: those it may run on, and no more than the quota of its container, rounded up."""
    cpus = cpus_to_run_on()
    quota = cpu_quota()
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def cpus_to_run_on() -> int:
    """CPUs that this process may run on, without regard to a quota."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(*, own: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")) -> float | None:
    """The smallest CPU quota of this process's control groups and the groups above them, in CPUs; None without one.

    Linux's control groups of both versions (cgroups(7)): `own` names the groups of this process, whose files are below
    `mounted`. In a container the name may be the one outside; then the files of the container lie in `mounted` itself.
    """
    quotas = []
    with contextlib.suppress(OSError):  # no control groups
        for line in own.read_text().splitlines():
            # Version 2 has one tree, and its line names no controllers; in version 1 each controller has a tree.
            match = re.fullmatch(r"[0-9]+:([^:]*):/*(.*)", line)
            if not match or (match[1] and "cpu" not in match[1].split(",")):
                continue
            tree = mounted / "cpu" if match[1] else mounted
            for folder in (tree / match[2], *(tree / match[2]).parents):
                quotas.append(_quota_of(folder))
                if folder == tree:
                    break
    return min((quota for quota in quotas if quota), default=None)


def _quota_of(folder: Path) -> float | None:
    """The quota of one control group in CPUs; None if it has none."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: "max", no quota
        if (folder / "cpu.max").exists():  # microseconds of CPU time, and of each period
            quota, period = map(int, (folder / "cpu.max").read_text().split())
        else:
            quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return quota / period if quota > 0 and period > 0 else None
    return None


def share_the_machine(variables: MutableMapping[str, str], *, networks_at_once: int = 1) -> None:
    """Set the environment variables by which OpenMP's threads share the machine; before torch is loaded.

    Threads that wait for each other soon sleep, instead of computing nothing as fast as they can: on a busy machine, or under
    a quota, they would take the time of the thread that they wait for. On an idle machine, sleeping at once costs up to a third
    of the speed. Under a quota, there are as many threads as it has CPUs, because OpenMP only counts those of the machine; and of
    several `networks_at_once`, each has its share. What the user has set stays as it is. Results do not change, except by the
    number of threads. And torch takes the memory of large tensors in large pages, instead of thousands of small ones.
    """
    if not any(name in variables for name in WAITING):
        variables.update(BRIEF)
    variables.setdefault(*LARGE_PAGES)
    if (threads := max(available_cpus() // networks_at_once, 1)) < cpus_to_run_on():
        variables.setdefault("OMP_NUM_THREADS", str(threads))


Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]
"""passes results on as they arrive, and may show how many there are; given their number and what is being done"""


def no_progress(results: Iterable[Any], total: int, name: str) -> Iterable[Any]:
    """The `Progress` that shows nothing."""
    return results


def thread_pool() -> ThreadPoolExecutor:
    """As many threads as `map_in_threads` uses; they start when they are needed, and end with the pool."""
    return _pool(min(MAX_THREADS, available_cpus()), _abandoned())


_this_thread = threading.local()
"""`abandoned`: the event of the `background_thread` that this thread is, or was started by"""


@contextlib.contextmanager
def background_thread() -> Iterator[ThreadPoolExecutor]:
    """A thread beside this one. When the block is left, also by an error, what it is doing ends at `stop_if_abandoned`.

    Ctrl-C reaches the main thread only, which would wait for the end of that work here, and once more at the end of Python.
    """
    abandoned = threading.Event()
    with _pool(1, abandoned) as pool:
        try:
            yield pool
        finally:
            abandoned.set()


def stop_if_abandoned() -> None:
    """Raise CancelledError in a `background_thread` whose block was left, and in the threads that it has started.

    For each frame, and each piece of a file, so that long work ends soon.
    """
    if (abandoned := _abandoned()) and abandoned.is_set():
        raise CancelledError


def _pool(num_threads: int, abandoned: threading.Event | None) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_threads, initializer=setattr, initargs=(_this_thread, "abandoned", abandoned))


def _abandoned() -> threading.Event | None:
    return getattr(_this_thread, "abandoned", None)


def map_in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], *, progress: Progress = no_progress, name: str = "",
    pool: ThreadPoolExecutor | None = None,
) -> list[Result]:  # fmt: skip
    """The function's results in the order of the items, computed on all CPUs, at most MAX_THREADS.

    For functions that spend their time in NumPy, which lets other threads run meanwhile. `name` says for `progress` what
    is being done. `pool` are threads to use, of `thread_pool`, for functions that are called again and again.
    """

    def call(item: Item) -> Result:
        stop_if_abandoned()
        return function(item)

    items = list(items)
    if len(items) < 2:  # live answers would start and end a thread each
        return list(progress(map(call, items), len(items), name))
    if pool:
        return list(progress(pool.map(call, items), len(items), name))
    with thread_pool() as own_pool:
        return list(progress(own_pool.map(call, items), len(items), name))


def map_in_groups(function: Callable[[Item], Result], items: Iterable[Item], size: int) -> Iterator[Result]:
    """The function's results in the order of the items, `size` of them computed at once."""
    remaining = iter(items)
    while group := list(islice(remaining, size)):
        yield from map_in_threads(function, group)
