#!/usr/bin/env python3
"""Write the files of an earlier version that tests/test_old_files.py reads: data, runs, scores, and what came of them.

  git worktree add ../before e1274cd
  python tests/old_files/make.py --checkout=../before

Everything is written by the programs of the checkout. Below tests/old_files/:

  files/videos, files/bad   six videos of 48x32 pixels, and one that is cut
  files/data, files/packed  the data roots made of them, as image folders and as tar files
  files/sparse              the same with every second frame only
  files/runs                three runs of four iterations, with checkpoints, logs, scores, and a scoring that was stopped
  expected                  what the same checkout made of these files afterwards: see the test
  made.json                 which commit, when, and on what machine
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent

FLAGS = {
    "old-tiny-rgb-sl01-g1-fs1-4-100000": [
        "--input_type=rgb", "--ema=0.5", "--crop=corners", "--label_smoothing=0.1", "--clip_norm=5",
    ],
    "old-tiny-farneback-sl02-g1-fs1-4-100000": [
        "--input_type=farneback", "--seq_len=2", "--amp=fp16", "--batch_norm=partial", "--class_balance",
    ],
    "old-tiny-farneback-sl01-g1-fs1-4-100000-online": [
        "--input_type=farneback", "--flow=online", "--bound=8", "--num_segments=2", "--accumulate=2",
    ],
}  # fmt: skip
"""run -> what it is trained with beside TRAIN; together they have all that a checkpoint can hold without a GPU"""

TRAIN = [
    "--dataset=old", "--arch=tiny", "--input_size=24", "--batch_size=4", "--lr=0.1", "--frame_step=1", "--stepvalues=6",
    "--warm_up=2", "--val_interval=2", "--print_freq=1", "--keep_checkpoints=2", "--workers=0", "--device=cpu",
    "--pretrained=False", "--global_models_dir=pretrained",
]  # fmt: skip
STOPPED, END = 4, 8
"""iterations: of the runs in files/, and of those that went on"""
UNFINISHED = next(iter(FLAGS))
"""the run whose iteration 2 was scored in part only"""
TEST = ["--frame_step=1", "--workers=0", "--device=cpu", "--test_batch_size=8", "--consensus=mean"]
EVAL = ["--consensus=clstk-2", "--fusion_weights=1,2", "--fit_weights=global,class,temperature"]
ROOTS = {
    "data": ["--store=folders"],
    "packed": ["--store=packed"],
    "sparse": ["--store=folders", "--frame_step=2"],
}
"""data root -> how it is extracted beside EXTRACT"""
EXTRACT = ["--input_types=rgb,farneback", "--short_side=0", "--quality=75", "--workers=1"]


def cpu_name() -> str:
    """The last bits of a sum may depend on it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def write_videos(checkout: Path, folder: Path) -> None:
    """Two videos to train on, four to score, of two classes; and half a file."""
    code = f"""
import sys
sys.path.insert(0, {str(checkout)!r})
from pathlib import Path
from tests import toy
for split, seeds in (("train", [0]), ("val", [1, 2])):
    for label, colour, direction in (("a", "red", "left"), ("b", "blue", "right")):
        for seed in seeds:
            pictures = toy.frames(seed, colour, direction)[:6, 16:80:2, ::2].copy()
            toy.write_video(Path("videos", split, label, f"{{split}}_{{label}}{{seed}}.mp4"), pictures, codec=("mpeg4",))
"""
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    (folder / "bad").mkdir()
    whole = next(folder.glob("videos/train/a/*.mp4")).read_bytes()
    (folder / "bad" / "cut.mp4").write_bytes(whole[: len(whole) // 2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, required=True, help="folder with the earlier version")
    checkout = parser.parse_args().checkout.resolve()
    files, expected = HERE / "files", HERE / "expected"
    for folder in (files, expected):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    def run(program: str, *words: str, code: int = 0) -> None:
        """Paths are relative to files/, so that none of this machine's is written down."""
        command = [sys.executable, HERE / "tiny.py", checkout, program, *words]
        result = subprocess.run(command, cwd=files, env=environment)
        if result.returncode != code:
            raise SystemExit(f"{program} {' '.join(words)} ended with {result.returncode}, expected {code}")

    write_videos(checkout, files)
    for root, flags in ROOTS.items():
        run("prep/extract.py", "--videos=videos", f"--root={root}", *flags, *EXTRACT)
        run("prep/build_annotations.py", "--videos=videos", f"--root={root}")
    run("prep/extract.py", "--videos=bad", "--root=data", *EXTRACT, code=5)
    run("prep/verify.py", "--root=data", "--workers=1", "--json=../expected/findings.json", code=5)

    for name, flags in FLAGS.items():
        kind, where = flags[0], ["--root=data", "--save_root=runs"]
        run("train.py", *where, *TRAIN, *flags, f"--max_iterations={STOPPED}")
        run("test.py", *where, *TEST, kind, f"--run={name}")
        if name == UNFINISHED:
            run("test.py", *where, *TEST, kind, f"--run={name}", "--test_iteration=2", "--shard=0/2")
        else:
            (files / "runs" / name / "checkpoint_000002.pth").unlink()  # one run with several is enough
        (files / "runs" / name / "curves.html").unlink()  # written for people, and never read

    # What this version makes of it: the test compares with that.
    shutil.copytree(files / "runs", files / "later")
    for name, flags in FLAGS.items():
        kind, where = flags[0], ["--root=data", "--save_root=later"]
        if name == UNFINISHED:
            run("test.py", *where, *TEST, kind, f"--run={name}", "--test_iteration=2")
        run("train.py", *where, *TRAIN, *flags, f"--max_iterations={END}", "--resume")
        run("test.py", *where, *TEST, kind, f"--run={name}")
        (expected / name).mkdir()
        shutil.copy(files / "later" / name / "log.jsonl", expected / name)
        for scores in (files / "later" / name).glob("scores_*.npz"):
            if not (files / "runs" / name / scores.name).exists():
                shutil.copy(scores, expected / name)
    shutil.rmtree(files / "later")
    scores = [f"runs/{name}/scores_val_{STOPPED:06d}.npz" for name in FLAGS][:2]
    run("eval.py", "--scores", *scores, *EVAL, "--report=../expected/report.json")

    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True)
    made = {"commit": commit.stdout.strip(), "date": str(date.today()), "cpu": cpu_name()}
    (HERE / "made.json").write_text(json.dumps(made, indent=1) + "\n")
    sizes = [path.stat().st_size for folder in (files, expected) for path in folder.rglob("*") if path.is_file()]
    print(f"{len(sizes)} files, {sum(sizes) / 1e3:.0f} kB in all, the largest {max(sizes) / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
