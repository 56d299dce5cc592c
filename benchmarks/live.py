#!/usr/bin/env python3
"""How old a frame is when its answer comes, what is dropped, and whether memory grows.

  python benchmarks/live.py
  python benchmarks/live.py --arch=squeezenet1_1 --flow=farneback --seconds=3600
  python benchmarks/live.py --seconds=60 --lose_after=150

tests/clock.py, a process of its own, makes pictures in real time, burns its clock into them and serves them as H.264 in
MPEG-TS over TCP. Recognizer.stream watches that stream; the networks have random weights. With each answer comes the
picture that it is about, from which the time of its making is read: so the latency includes encoding, sending, decoding,
waiting, flow and networks. The first --warm_up seconds do not count. Memory is the resident memory of this process,
without that of ffmpeg; its slope is fitted to the second half of the samples.
"""

import argparse
import contextlib
import os
import platform
import subprocess
import sys
import time
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from twostream.threads import share_the_machine

if __name__ == "__main__":
    share_the_machine(os.environ, networks_at_once=2)  # as twostream predict --live does, before torch is loaded

import numpy as np
import torch

from benchmarks.predict import make_recognizer
from tests import clock
from twostream.engine.device import choose_device
from twostream.inference.live import LiveAnswer
from twostream.models.backbones import backbone_name
from twostream.programs import options

REPOSITORY = Path(__file__).resolve().parent.parent
SAMPLE_SECONDS = 5.0
"""from one measurement of memory to the next"""
FIT_SECONDS = 120.0
"""from which on a slope says something"""
SECONDS_AN_HOUR = 3600
GOAL_SECONDS = 0.25


@dataclass
class Watched:
    """What was seen of a stream."""

    # Lists of Python's floats would grow by 7 MB in an hour of 30 answers a second.
    latencies: "array[float]" = field(default_factory=lambda: array("f"))
    """seconds from the making of a picture to the answer about it"""
    since_arrival: "array[float]" = field(default_factory=lambda: array("f"))
    """seconds from its arrival, as answers say it"""
    memory: list[tuple[float, int]] = field(default_factory=list)
    """seconds since the first answer, and resident bytes"""
    first: LiveAnswer | None = None
    """of those that count"""
    last: LiveAnswer | None = None

    def slope(self) -> float:
        """Growth of memory in MB an hour, over the second half of the samples; NaN if that is less than FIT_SECONDS."""
        half = np.array(self.memory[len(self.memory) // 2 :])
        if not len(half) or half[-1, 0] - half[0, 0] < FIT_SECONDS:
            return float("nan")
        return float(np.polyfit(half[:, 0], half[:, 1], 1)[0]) * SECONDS_AN_HOUR / 1e6


@contextlib.contextmanager
def served(*words: str) -> Iterator[str]:
    """The address of a stream with a clock, in another process; `words` are flags of tests/clock.py."""
    command = [sys.executable, str(REPOSITORY / "tests" / "clock.py"), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"tcp://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def follow(answers: Iterable[LiveAnswer], *, warm_up: float = 0.0) -> Watched:
    """Follow the answers about a stream of tests/clock.py; those of the first `warm_up` seconds do not count."""
    found = Watched()
    next_sample = 0.0
    for answer in answers:
        age = clock.age_seconds(answer.picture, time.time())
        if answer.at_seconds < warm_up:
            continue
        found.first = found.first or answer
        found.last = answer
        found.latencies.append(age)
        found.since_arrival.append(answer.latency_seconds)
        if answer.at_seconds >= next_sample:
            found.memory.append((answer.at_seconds, resident_bytes()))
            next_sample = answer.at_seconds + SAMPLE_SECONDS
    return found


def row(arch: str, found: Watched) -> str:
    """A row of the table."""
    first, last = found.first, found.last
    assert first is not None and last is not None
    seconds = last.at_seconds - first.at_seconds
    arrived, dropped = last.num_frames - first.num_frames, last.num_dropped - first.num_dropped
    median, late, latest = (1000 * np.percentile(found.latencies, q) for q in (50, 95, 100))
    verdict = "met" if late < 1000 * GOAL_SECONDS else "not met"
    return (
        f"| {arch} | {arrived / seconds:.1f} | {len(found.latencies) / seconds:.1f} | {100 * dropped / max(arrived, 1):.0f} % | "
        f"{median:.0f} | {late:.0f} | {latest:.0f} | {1000 * np.percentile(found.since_arrival, 95):.0f} | {last.num_losses} | {max(m for _, m in found.memory) / 1e6:.0f} | "
        f"{found.slope():.2f} | {verdict} |"
    )


def build_parser() -> options.Parser:
    """The flags of this program."""
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--arch", type=options.words, default=("squeezenet1_1", "resnet18"), metavar="A,B", help="networks of both streams (default: squeezenet1_1,resnet18)"
    )  # fmt: skip
    parser.add_argument("--flow", default="dis", metavar="NAME", help="flow method (default: dis)")
    parser.add_argument("--device", type=options.device, default="auto", metavar="NAME", help="auto, cpu, cuda (default: auto)")  # fmt: skip
    parser.add_argument("--size", default="340x256", metavar="WxH", help="of the stream's pictures (default: 340x256)")
    parser.add_argument("--short_side", type=options.positive, default=256, metavar="N", help="to which the recognizer scales them (default: 256)")  # fmt: skip
    parser.add_argument("--fps", type=options.number(1, 240), default=30.0, metavar="RATE", help="of the stream (default: 30)")  # fmt: skip
    parser.add_argument("--seconds", type=options.number(1, 1e6), default=60.0, metavar="N", help="to watch (default: 60)")  # fmt: skip
    parser.add_argument("--warm_up", type=options.number(0, 1e6), default=5.0, metavar="N", help="seconds before them (default: 5)")  # fmt: skip
    parser.add_argument("--lose_after", type=options.not_negative, default=0, metavar="N", help="the stream is cut after every N pictures (default: never)")  # fmt: skip
    return parser


def main() -> int:
    """Measure, and print a table in Markdown."""
    args = build_parser().parse_args()
    device = choose_device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"`python {' '.join(['benchmarks/live.py', *sys.argv[1:]])}`")
    print(
        f"{name}; {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, {date.today()}\n"
    )
    print(
        "| network | frames a second | answers a second | dropped | age of the frame, ms: median | 95 % | longest | since it arrived: 95 % | losses | memory, MB | "
        "MB an hour | < 250 ms |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
    )
    for arch in map(backbone_name, args.arch):
        recognizer = make_recognizer(arch, args.flow, device, short_side=args.short_side)
        with served(f"--size={args.size}", f"--fps={args.fps:g}", f"--lose_after={args.lose_after}") as address:
            answers = recognizer.stream(address, network=True, max_seconds=args.seconds + args.warm_up)
            print(row(arch, follow(answers, warm_up=args.warm_up)), flush=True)
    return 0


if __name__ == "__main__":
    options.run(main)
