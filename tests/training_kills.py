#!/usr/bin/env python3
"""Stop training at random moments again and again, and compare what comes of it with an undisturbed run, bit for bit.

A trial is one training of a small world of noise. It is killed (SIGKILL to its process group) after a random iteration,
or in the middle of a save, or asked to end (SIGTERM, SIGUSR1), then started again with --resume=auto until it is done.
Then the numbers of log.jsonl (as hexadecimal floats) and all bits of the last checkpoint's weights and momentum must be
those of the undisturbed run. By turns with 0 and with 2 loader processes.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
ITERATIONS = 8
FLAGS = [
    "--arch=inception_v3", "--input_size=75", "--batch_size=2", "--frame_step=1", "--pretrained=False", "--run=run",
    f"--max_iterations={ITERATIONS}", "--val_interval=4", "--save_interval=1", "--keep_checkpoints=2",
    "--print_freq=1", "--resume=auto", "--device=cpu",
]  # fmt: skip
"""An epoch is 5 iterations, so a stop is in the middle of one; most of the time goes into saving."""


@dataclass
class Tally:
    """What the trials came to."""

    trials: int = 0
    kills: int = 0
    """by SIGKILL"""
    in_saves: int = 0
    """of them in the middle of a save, which left its temporary file"""
    asked: int = 0
    """by SIGTERM or SIGUSR1"""
    wrong_exits: int = 0
    """of those asked: ended otherwise than with 143 and a checkpoint"""
    differing: int = 0
    """trials that were not the undisturbed run"""


def write_world(root: Path) -> None:
    """Two classes of noise: 10 clips to train on, 2 to validate, as image folders."""
    rng = np.random.default_rng(0)
    videos = {}
    for split, num_frames in (("train", 6), ("val", 2)):
        for label in ("a", "b"):
            video_id = f"{split}_{label}"
            videos[video_id] = {"split": split, "label": label, "num_frames": num_frames}
            folder = root / "rgb-images" / video_id
            folder.mkdir(parents=True)
            for k in range(num_frames):
                cv2.imwrite(str(folder / f"{k + 1:05d}.jpg"), rng.integers(0, 256, (84, 96, 3), np.uint8))
    (root / "annotations.json").write_text(json.dumps({"version": 1, "classes": ["a", "b"], "videos": videos}))


def start(root: Path, save_root: Path, workers: int) -> subprocess.Popen:
    """Train, in a process group of its own; what it says goes to <save_root>/said."""
    command = [sys.executable, str(REPOSITORY / "train.py"), f"--root={root}", f"--save_root={save_root}", *FLAGS]
    save_root.mkdir(exist_ok=True)
    with open(save_root / "said", "ab") as said:
        return subprocess.Popen(
            [*command, f"--workers={workers}"], cwd=REPOSITORY, stdout=said, stderr=said, process_group=0,
            env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip


def result(run_dir: Path) -> tuple[list[str], str]:
    """The log without times, floats in hexadecimal; and a hash of weights, momentum and random state."""
    log = []
    for line in (run_dir / "log.jsonl").read_text().splitlines():
        numbers = {key: value for key, value in json.loads(line).items() if "seconds" not in key}
        log.append(str({key: value.hex() if isinstance(value, float) else value for key, value in numbers.items()}))
    content = torch.load(run_dir / f"checkpoint_{ITERATIONS:06d}.pth", weights_only=True)
    digest = hashlib.sha256(content["random_state"].numpy().tobytes())
    for name, tensor in content["weights"].items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    for number, state in content["optimizer"]["state"].items():
        digest.update(str(number).encode() + state["momentum_buffer"].numpy().tobytes())
    return log, digest.hexdigest()


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_until(process: subprocess.Popen, happened) -> bool:
    """Did it happen before the end of the process?"""
    while not happened():
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    return True


def run_trial(root: Path, save_root: Path, tally: Tally, *, workers: int, stops: list, rng: random.Random) -> None:
    """Train with these stops, each by a signal; `tally` is added to, except for what the result is compared with."""
    run_dir = save_root / "run"
    log = run_dir / "log.jsonl"
    tally.trials += 1
    for number in stops:
        process = start(root, save_root, workers)
        # Either some iterations later, or in the save that comes next; then a little later.
        target = min(num_lines(log) + rng.randint(1, 4), ITERATIONS)
        in_save = rng.random() < 0.5
        came = wait_until(process, lambda target=target: num_lines(log) >= target)
        if came and in_save:
            came = wait_until(process, lambda: any(run_dir.glob(".checkpoint_*")))
        time.sleep(rng.uniform(0, 0.15 if in_save else 0.4))
        if not came or process.poll() is not None:
            break
        os.killpg(process.pid, number)
        code = process.wait()
        if number == signal.SIGKILL:
            tally.kills += 1
            tally.in_saves += any(run_dir.glob(".checkpoint_*"))
        else:
            tally.asked += 1
            tally.wrong_exits += code not in (143, 0) or not any(run_dir.glob("checkpoint_*.pth"))
    process = start(root, save_root, workers)
    if process.wait() != 0:
        raise RuntimeError((save_root / "said").read_text())


def run_trials(folder: Path, *, trials: int, seed: int) -> Tally:
    """An undisturbed run without loader processes, then so many trials of two or three stops."""
    rng = random.Random(seed)
    root, tally = folder / "data", Tally()
    write_world(root)
    run_trial(root, folder / "undisturbed", Tally(), workers=0, stops=[], rng=rng)
    truth = result(folder / "undisturbed" / "run")
    for trial in range(trials):
        save_root = folder / f"trial{trial}"
        stops = [signal.SIGKILL, signal.SIGKILL, rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])]
        rng.shuffle(stops)
        run_trial(root, save_root, tally, workers=2 * (trial % 2), stops=stops, rng=rng)
        tally.differing += result(save_root / "run") != truth
        for path in (save_root / "run").glob("*.pth"):
            path.unlink()
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=123)
    parser.add_argument("--out", type=Path, help="Markdown file to write the result into")
    args = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = run_trials(Path(folder), trials=args.trials, seed=args.seed)
    text = f"""# Training stopped {tally.kills + tally.asked} times

`python tests/training_kills.py --trials={args.trials} --seed={args.seed}`, {date.today()}, {(time.monotonic() - begin) / 60:.0f} minutes on
{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, torch {torch.__version__.partition("+")[0]}.

| | |
|---|---|
| trials of {ITERATIONS} iterations, by turns with 0 and 2 loader processes | {tally.trials} |
| kills (SIGKILL to the process group, at random) | {tally.kills} |
| of them in the middle of a save | {tally.in_saves} |
| asked to end (SIGTERM or SIGUSR1 to the process group) | {tally.asked} |
| of them ended otherwise than by 143 with a checkpoint | {tally.wrong_exits} |
| trials whose losses, weights, momentum or random state differ from the undisturbed run's by a bit | {tally.differing} |
"""
    print(text)
    if args.out:
        args.out.write_text(text)
    return int(tally.differing + tally.wrong_exits > 0)


if __name__ == "__main__":
    sys.exit(main())
