#!/usr/bin/env python3
"""Train both streams on your own videos, and read the result in Python.

  python examples/own_videos.py my_clips --out=work

my_clips has a folder for each class, my_clips/<class>/<video>, or two of such trees: my_clips/{train,val}/<class>/<video>.
The commands are printed as they run; change them to your needs, or type them yourself. work/report.html shows the result.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

import twostream


def run(*words: str, may_exit_with: int = 0) -> None:
    """Run a command of twostream, and print it first."""
    print(f"\n$ twostream {shlex.join(words)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "twostream", *words]).returncode
    if code not in (0, may_exit_with):
        sys.exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", help="folder of class folders")
    parser.add_argument("--out", type=Path, default=Path("work"), help="folder to write into (default: work)")
    parser.add_argument("--iterations", type=int, default=600, help="of each stream (default: 600)")
    parser.add_argument("--arch", default="resnet18", help="network of both streams (default: resnet18)")
    args = parser.parse_args()

    root, runs = args.out / "data", args.out / "runs"
    # Frames at 10 per second are enough for actions of a second or more. Exit code 5: some videos were bad; they are listed.
    run(
        "extract", f"--videos={args.videos}", f"--root={root}", "--ids=path", "--short_side=128", "--fps=10",
        may_exit_with=5,
    )  # fmt: skip
    run("annotate", f"--videos={args.videos}", f"--root={root}", "--ids=path")
    for input_type in ("rgb", "farneback"):
        run(
            "train", f"--root={root}", f"--save_root={runs}", f"--input_type={input_type}", f"--arch={args.arch}",
            "--pretrained=False", "--input_size=112", "--batch_size=16", "--frame_step=1", "--num_segments=1",
            "--schedule=cosine", "--lr=0.01", f"--max_iterations={args.iterations}", f"--val_interval={args.iterations}",
        )  # fmt: skip
        run("test", f"--root={root}", f"--save_root={runs}", f"--input_type={input_type}")
    run("eval", f"--save_root={runs}", f"--annotations={root}", f"--html={args.out / 'report.html'}")

    report = json.loads((runs / "report.json").read_text())
    for row in report["rows"]:
        print(f"{row['name']}: {100 * row['video_top1']:.1f} % of the videos are right")
    annotations = twostream.read_annotations(root)
    for path in sorted(runs.glob("*/scores_val_*.npz")):
        table = twostream.read_scores(path)
        scores = twostream.Consensus.parse("softmax-mean").video_scores(table)
        best = annotations.classes[scores[0].argmax()]
        print(f"{table.stream['input_type']} takes the first video, {table.video_ids[0]}, for {best!r}")


if __name__ == "__main__":
    main()
