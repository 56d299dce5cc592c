#!/usr/bin/env python3
"""How long an iteration of a CPU training takes on an idle and on a busy machine, with and without a CPU quota.

  python benchmarks/busy.py

Each row trains a network with `twostream train` on generated images, and prints the median seconds of an iteration from
log.jsonl, without the first iterations. The columns are:

  idle    nothing else runs
  busy    --others processes compute on core 0 without a break
  quota   nothing else runs, but the training may use --quota cores: its processes are stopped (SIGSTOP) for the rest of
          each tenth of a second in which they have used up their share, as the kernel does with a container's quota

The rows are the ways in which threads may wait for each other, with their number: "spinning" is what libgomp does if
nothing is set, "passive" what twostream sets. All rows with the same number of threads must have the same losses.
"""

import argparse
import contextlib
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np

from twostream import threads
from twostream.monitor.log import read_log
from twostream.programs import options

REPOSITORY = Path(__file__).resolve().parent.parent
WAITING = {
    "spinning": {"GOMP_SPINCOUNT": "300000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "brief": threads.BRIEF,
}
"""how threads wait for each other -> variables; 300,000 turns are what libgomp takes if nothing is set"""
SITUATIONS = ("idle", "busy", "quota")
PERIOD_SECONDS = 0.1
"""of a quota, as the kernel's usual one"""


@dataclass(frozen=True)
class Measured:
    """One training."""

    seconds: float
    """median of its iterations"""
    losses: tuple[float, ...]


def write_images(root: Path, *, num_videos: int, num_frames: int) -> None:
    """A data root of two classes: frames of smooth noise, 96 x 96 pixels, half of the videos in each split."""
    rng = np.random.default_rng(0)
    videos = {}
    for number in range(num_videos):
        split, label = ("train", "val")[number % 2], "ab"[number // 2 % 2]
        videos[f"v{number}"] = {"split": split, "label": label, "num_frames": num_frames}
        folder = root / "rgb-images" / f"v{number}"
        folder.mkdir(parents=True)
        for k in range(num_frames):
            image = cv2.GaussianBlur(rng.integers(0, 256, (96, 96, 3), np.uint8), (0, 0), 1.5)
            cv2.imwrite(str(folder / f"{k + 1:05d}.jpg"), image)
    (root / "annotations.json").write_text(json.dumps({"version": 1, "classes": ["a", "b"], "videos": videos}))


@contextlib.contextmanager
def other_processes(number: int) -> Iterator[None]:
    """Processes that compute on core 0 without a break."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    for process in others:
        os.sched_setaffinity(process.pid, [min(os.sched_getaffinity(0))])
    try:
        yield
    finally:
        for process in others:
            process.kill()
            process.wait()


def cpu_seconds(group: int) -> float:
    """CPU time that the processes of a process group have used, in steps of 10 ms."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # the process has ended
            fields = path.read_text().rpartition(")")[2].split()  # from the state, which is field 3 of proc(5)
            if int(fields[2]) == group:
                total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def cpu_quota(group: int, cores: float) -> Iterator[None]:
    """Let a process group use this many cores: in each period, stop it when it has used up its time."""
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            end, limit = time.monotonic() + PERIOD_SECONDS, cpu_seconds(group) + cores * PERIOD_SECONDS
            while time.monotonic() < end and cpu_seconds(group) < limit:
                time.sleep(PERIOD_SECONDS / 20)
            with contextlib.suppress(ProcessLookupError):  # it has ended
                if (rest := end - time.monotonic()) > 0:
                    os.killpg(group, signal.SIGSTOP)
                    time.sleep(rest)
                os.killpg(group, signal.SIGCONT)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def measure(args: argparse.Namespace, root: Path, variables: dict[str, str], situation: str) -> Measured:
    """Train once, with these environment variables."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        command = [
            sys.executable, "train.py", f"--root={root}", f"--save_root={folder}", "--run=busy", f"--arch={args.arch}",
            f"--input_size={args.input_size}", f"--batch_size={args.batch_size}", f"--max_iterations={args.iterations}",
            f"--workers={args.workers}", "--frame_step=1", "--pretrained=False", "--device=cpu", "--print_freq=1",
        ]  # fmt: skip
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
        with contextlib.ExitStack() as stack:
            if situation == "busy":
                stack.enter_context(other_processes(args.others))
            process = subprocess.Popen(
                command, cwd=REPOSITORY, env=environment | variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
            if situation == "quota":
                stack.enter_context(cpu_quota(process.pid, args.quota))
            if process.wait():
                raise SystemExit(f"{shlex.join(command)} ended with exit code {process.returncode}")
        entries = [entry for entry in read_log(Path(folder, "busy")) if entry["event"] == "train"]
    return Measured(
        median(entry["seconds"] for entry in entries[args.skip :]), tuple(entry["loss"] for entry in entries)
    )


def build_parser() -> options.Parser:
    """The flags of this program."""
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--arch", default="inception_v3", metavar="NAME", help="network (default: inception_v3)")
    add("--input_size", type=options.positive, default=80, metavar="PX", help="side of its pictures (default: 80)")
    add("--batch_size", type=options.positive, default=16, metavar="N", help="clips in a batch (default: 16)")
    add("--iterations", type=options.positive, default=12, metavar="N", help="iterations of a row (default: 12)")
    add("--skip", type=options.positive, default=3, metavar="N", help="iterations that are not counted (default: 3)")
    add("--workers", type=options.not_negative, default=2, metavar="N", help="loader processes (default: 2)")
    add("--threads", type=options.integers, default=(2, 1), metavar="N,N", help="numbers of threads (default: 2,1)")
    add("--others", type=options.positive, default=3, metavar="N", help="processes of the busy machine (default: 3)")
    add("--quota", type=options.rate, default=1.0, metavar="N", help="cores of the quota (default: 1)")
    add(
        "--waiting",
        type=options.words,
        default=tuple(WAITING),
        metavar="A,B",
        help="spinning, passive, brief (default: all)",
    )
    add("--only", type=options.words, default=SITUATIONS, metavar="A,B", help="idle, busy, quota (default: all three)")
    return parser


def main() -> None:
    """Measure and print all rows."""
    args = build_parser().parse_args()
    load = os.getloadavg()[0]
    print(
        f"`{shlex.join(['python', *sys.argv])}`\n\n{date.today()}, {len(os.sched_getaffinity(0))} cores ({platform.machine()}), "
        f"load average before {load:.2f}; {args.arch} at {args.input_size} pixels, {args.batch_size} clips, "
        f"{args.workers} loader processes; median seconds of an iteration\n"
    )
    titles = {"idle": "idle", "busy": f"{args.others} others on core 0", "quota": f"quota of {args.quota:g} cores"}
    print(f"| threads | {' | '.join(titles[situation] for situation in args.only)} |\n|---|{'---|' * len(args.only)}")
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), num_videos=4, num_frames=40)
        for threads in args.threads:
            losses = set()
            for waiting in args.waiting:
                variables = WAITING[waiting]
                results = [
                    measure(args, Path(folder), variables | {"OMP_NUM_THREADS": str(threads)}, situation)
                    for situation in args.only
                ]
                losses |= {result.losses for result in results}
                print(f"| {threads}, {waiting} | {' | '.join(f'{r.seconds:.2f}' for r in results)} |", flush=True)
            print(f"| | {'same losses' if len(losses) == 1 else 'OTHER LOSSES'} |" + " |" * (len(args.only) - 1))


if __name__ == "__main__":
    main()
