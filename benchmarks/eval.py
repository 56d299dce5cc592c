#!/usr/bin/env python3
"""What evaluation costs at the size of Kinetics-400's validation set: time and memory of eval.py, from start to end.

  python benchmarks/eval.py --folder=/dev/shm                  # two files of 0.5 M rows x 400 classes, 1.6 GB
  python benchmarks/eval.py --videos=200 --only=report,sweep   # small, for a look

Each row is one run of the program in a process of its own, on all cores that this one may use (`taskset -c 0,1` for
two), with the files in the page cache. Memory is the most that was resident, mapped files included. `--help` is the
best of five starts.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from twostream.programs import options
from twostream.scores.npz import write_scores
from twostream.scores.table import ScoreTable
from twostream.stream import StreamConfig

PROGRAM = Path(__file__).resolve().parent.parent / "eval.py"
ROWS = {
    "help": ["--help"],
    "report": [],
    "html": ["--html=report.html"],
    "sweep": ["--sweep"],
    "fit": ["--fit_weights=global,class,temperature"],
    "all": ["--sweep", "--fit_weights=global,class,temperature", "--write", "csv=videos.csv", "markdown=table.md",
            "latex=table.tex", "challenge=challenge.json"],
}  # fmt: skip
"""what is asked of eval.py beside the two files"""


def build_parser() -> options.Parser:
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--videos",
        type=options.positive,
        default=19_906,
        metavar="N",
        help="of the split (default: Kinetics-400's val)",
    )
    add("--frames", type=options.positive, default=25, metavar="N", help="scored frames of a video (default: 25)")
    add("--classes", type=options.positive, default=400, metavar="N", help="(default: 400)")
    add(
        "--folder",
        type=options.folder,
        default=None,
        metavar="DIR",
        help="where the two files are made (default: a temporary one)",
    )
    add("--only", type=options.words, default=tuple(ROWS), metavar="A,B", help=f"rows of {', '.join(ROWS)}")
    return parser


def make_table(input_type: str, seed: int, num_videos: int, num_frames: int, num_classes: int) -> ScoreTable:
    """Scores that are right for about half of the videos; the frames of a video agree in part."""
    rng = np.random.default_rng(seed)
    labels = np.random.default_rng(0).integers(0, num_classes, num_videos).astype(np.int32)
    video_index = np.repeat(np.arange(num_videos, dtype=np.int32), num_frames)
    of_videos = rng.standard_normal((num_videos, num_classes), dtype=np.float32)
    of_videos[np.arange(num_videos), labels] += rng.gamma(2, 1.5, num_videos).astype(np.float32)
    logits = rng.standard_normal((len(video_index), num_classes), dtype=np.float32)
    for first in range(0, num_frames):
        logits[first::num_frames] += of_videos
    stream = StreamConfig(
        input_type=input_type, backbone="inception_v3", input_size=299,
        classes=tuple(f"class {number}" for number in range(num_classes)),
    )  # fmt: skip
    return ScoreTable(
        stream.to_json(), "val", np.array([f"video{number:08d}" for number in range(num_videos)]), labels, video_index,
        np.tile(np.arange(num_frames, dtype=np.int32) * 10, num_videos), np.zeros(len(video_index), np.int16), logits,
        {"checkpoint": "none", "frame_step": 10},
    )  # fmt: skip


def write_file(path: Path, *table: object) -> None:
    """In a process of its own: what a process has had counts as memory of those that it starts."""
    process = multiprocessing.get_context("fork").Process(target=lambda: write_scores(path, make_table(*table)))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"{path} could not be made")


def measure(words: list[str], folder: Path) -> tuple[float, float, float]:
    """Seconds, seconds of all cores together, and MB of one run of eval.py."""
    before = time.perf_counter()
    process = subprocess.Popen([sys.executable, str(PROGRAM), *words], cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - before
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"eval.py {' '.join(words)} ended with {process.returncode}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000


def main() -> int:
    parser = build_parser()
    args = parser.parse_args()
    if unknown := [name for name in args.only if name not in ROWS]:
        parser.error(f"--only {unknown[0]!r}, expected names of {', '.join(ROWS)}")
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        files = []
        for seed, input_type in enumerate(("rgb", "farneback")):
            files.append(folder / f"{input_type}.npz")
            write_file(files[-1], input_type, seed, args.videos, args.frames, args.classes)
        size = sum(file.stat().st_size for file in files) / 1e6
        cores = len(os.sched_getaffinity(0))
        print(f"2 x {args.videos * args.frames:,} rows x {args.classes} classes, {size:,.0f} MB; {cores} cores\n")
        print("| eval.py | seconds | CPU seconds | MB |\n|---|---|---|---|")
        for row in args.only:
            words = ROWS[row] if row == "help" else ["--scores", *map(str, files), *ROWS[row]]
            seconds, cpu, memory = min(measure(words, folder) for _ in range(5 if row == "help" else 1))
            print(f"| {' '.join(ROWS[row]) or 'alone'} | {seconds:.2f} | {cpu:.2f} | {memory:,.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    options.run(main)
