#!/usr/bin/env python3
"""How much time the monitors add to an iteration of a training, for several states of the Visdom server.

  python benchmarks/monitor.py

An iteration computes a small network and gives its values to the monitors (twostream train does so at every 20th). The
kinds of monitors take turns, for a block of iterations each, so that a busy machine slows all of them. "in the call" is
the time that the training spends in calls of monitors. "by the clock" is the difference to iterations without monitors,
which includes the work of the sending thread. Numbers are medians over the blocks. The servers are: a silent one (it
accepts and never reads), none (a closed port), and a real one.
"""

import argparse
import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from twostream.errors import EnvironmentFaultError
from twostream.monitor.contract import Monitors
from twostream.monitor.log import JsonMonitor
from twostream.monitor.page import PageMonitor
from twostream.monitor.visdom import VisdomMonitor
from twostream.programs import options

KINDS = ("nothing", "log.jsonl, curves.html", "Visdom, silent", "Visdom, none", "Visdom, answering")
HISTORY = 25_000  # log entries of the run so far: 500,000 iterations, every 20th
START_SECONDS = 60
SETTLE_SECONDS = 2.0  # pause after a block, so that a thread does not send during the next one


def values_of(iteration: int) -> dict[str, float]:
    """The values that monitors are given."""
    last = {"loss": 1.0, "top1": 0.5, "top3": 0.75, "seconds": 0.25, "data_seconds": 0.05}
    return (
        {"iteration": iteration, "images": 64, "learning_rate": 5e-4, "seconds_left": 0.0}
        | last
        | {f"mean_{name}": value for name, value in last.items()}
    )


@contextlib.contextmanager
def visdom_server(folder: Path) -> Iterator[int]:
    """Start a real server; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = "from visdom.server.run_server import main; main()"
    command = [sys.executable, "-c", program, "-port", str(port), "-bind_local", "-env_path", str(folder)]
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("localhost", port), timeout=1):
                break
            time.sleep(0.1)
        else:
            raise EnvironmentFaultError(f"Visdom's server does not start: {(folder / 'server.log').read_text()[-300:]}")
        yield port
    finally:
        process.terminate()
        process.wait()


def run_block(monitors: Monitors, network: torch.nn.Module, first: int, length: int) -> tuple[list[float], list[float]]:
    """Seconds of each iteration, and seconds of it that were spent in monitors."""
    pictures = torch.zeros(4, 3, 64, 64)
    whole, inside = [], []
    for iteration in range(first, first + length):
        start = time.perf_counter()
        network(pictures).sum().backward()
        computed = time.perf_counter()
        monitors.train(values_of(iteration))
        end = time.perf_counter()
        whole.append(end - start)
        inside.append(end - computed)
    return whole, inside


def main() -> int:
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--blocks", type=options.positive, default=15, metavar="N", help="blocks of each kind (default: 15)"
    )
    parser.add_argument(
        "--length", type=options.positive, default=100, metavar="N", help="iterations of a block (default: 100)"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    layers = [torch.nn.Conv2d(3, 32, 3), *(torch.nn.Conv2d(32, 32, 3) for _ in range(2))]
    network = torch.nn.Sequential(*layers)
    history = [{"event": "train"} | values_of(iteration) for iteration in range(HISTORY)]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        closed = stack.enter_context(socket.socket())
        closed.bind(("127.0.0.1", 0))
        ports = [silent.getsockname()[1], closed.getsockname()[1], stack.enter_context(visdom_server(folder))]
        visdom = [VisdomMonitor(server="http://127.0.0.1", port=port, env="run", history=history) for port in ports]
        files = [JsonMonitor(folder, resumed_at=None), PageMonitor(folder, history=history)]
        kinds = dict(zip(KINDS, map(Monitors, ([], files, *([monitor] for monitor in visdom))), strict=True))
        times: dict[str, list[tuple[list[float], list[float]]]] = {kind: [] for kind in KINDS}
        for block in range(args.blocks + 1):
            for kind, monitors in kinds.items():
                block_times = run_block(monitors, network, HISTORY + block * args.length, args.length)
                times[kind] += [block_times] if block else []  # the first block warms up
                time.sleep(SETTLE_SECONDS)
        for monitors in list(kinds.values())[:2]:
            monitors.close()
    plain = median(sum(whole) for whole, _ in times["nothing"]) / args.length
    print(f"{args.blocks} blocks of {args.length} iterations of {1000 * plain:.1f} ms; added to an iteration, ms\n")
    print("| monitors | in the call, mean | in the call, longest | by the clock, median of means |\n|---|---|---|---|")
    for kind in KINDS:
        calls = [seconds for _, inside in times[kind] for seconds in inside]
        clock = median(sum(whole) for whole, _ in times[kind]) / args.length - plain
        print(f"| {kind} | {1000 * sum(calls) / len(calls):.3f} | {1000 * max(calls):.2f} | {1000 * clock:.2f} |")
    return 0


if __name__ == "__main__":
    options.run(main)
