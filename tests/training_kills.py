#!/usr/bin/env python3
"""Stop training at random moments again and again, and compare what comes of it with an undisturbed run, bit for bit.

A trial is one training of a small world of noise, by one of SETTINGS. It is killed (SIGKILL to its process group) at a
random moment, or when a random share of a checkpoint is written, or asked to end (SIGTERM, SIGUSR1), then started again
with --resume=auto until it is done. Then the numbers of log.jsonl (as hexadecimal floats) and all bits of the last
checkpoint must be those of the undisturbed run. By turns with 0 and with 2 loader processes.

The undisturbed runs, and one trial in twenty, are `python train.py`, as a user starts it. The other trials run the same
file in a process that was forked off one which had imported torch already: most of a start is that import.
"""

import argparse
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import platform
import random
import runpy
import shutil
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
PROGRAM = REPOSITORY / "train.py"
ITERATIONS = 8
FLAGS = [
    "--batch_size=2", "--frame_step=1", "--pretrained=False", "--run=run", f"--max_iterations={ITERATIONS}",
    "--val_interval=4", "--save_interval=1", "--keep_checkpoints=2", "--print_freq=1", "--resume=auto", "--device=cpu",
]  # fmt: skip
"""An epoch is 5 iterations, so a stop is in the middle of one; most of the time goes into saving."""

SETTINGS = {
    "plain": ["--arch=mobilenet_v3_large", "--input_size=32", "--max_unreadable=9"],
    "state": ["--arch=mobilenet_v3_large", "--input_size=64", "--ema=0.5", "--schedule=cosine", "--warm_up=3", "--amp=bf16",
              "--accumulate=2", "--clip_norm=5", "--label_smoothing=0.1"],
    "fp16": ["--arch=squeezenet1_1", "--input_size=32", "--amp=fp16", "--seq_len=2", "--max_unreadable=99"],
    "segments": ["--arch=squeezenet1_1", "--input_size=32", "--num_segments=2", "--class_balance", "--crop=corners"],
}  # fmt: skip
"""By turns; the first and the third read image folders, one image of which is cut, the others the packed store."""

START_SECONDS = 600
"""against hangs: no start lasts so long"""
NOTICE_SECONDS = 30
"""between Slurm's SIGTERM and its SIGKILL"""

FORKS = multiprocessing.get_context("forkserver")
PRELOADED = [
    "cv2", "torch", "torch._dynamo", "torchvision", "tqdm", "twostream.clips.dataset", "twostream.engine.checkpoint",
    "twostream.engine.loops", "twostream.models.network", "twostream.models.weights", "twostream.monitor",
]  # fmt: skip


@dataclass
class Tally:
    """What the trials came to."""

    trials: int = 0
    programs: int = 0
    """of them with `python train.py`"""
    kills: int = 0
    """by SIGKILL"""
    in_saves: int = 0
    """of them in the middle of a save, which left its temporary file"""
    asked: int = 0
    """by SIGTERM or SIGUSR1"""
    wrong_exits: int = 0
    """of those asked: ended otherwise than within 30 s, with 143 and a checkpoint (or with 0, when all was done)"""
    tracebacks: int = 0
    """trials that printed one"""
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
                cv2.imwrite(str(folder / f"{k + 1:05d}.jpg"), rng.integers(0, 256, (72, 80, 3), np.uint8))
    (root / "annotations.json").write_text(json.dumps({"version": 1, "classes": ["a", "b"], "videos": videos}))


def _train(words: list[str], said: Path, how: str) -> None:
    """What a new process does: it is train.py from here on, in a process group of its own, that says all into a file."""
    os.setpgid(0, 0)
    with open(said, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if how == "program":
        os.execv(sys.executable, [sys.executable, str(PROGRAM), *words])
    multiprocessing.set_start_method(None, force=True)  # loader processes begin as they do elsewhere
    sys.argv = [str(PROGRAM), *words]
    runpy.run_path(str(PROGRAM), run_name="__main__")


class Trial:
    """One run, however often it is started."""

    def __init__(self, root: Path, save_root: Path, setting: str, *, workers: int, how: str):
        self.words = [f"--root={root}", f"--save_root={save_root}", *FLAGS, *SETTINGS[setting], f"--workers={workers}"]
        self.run_dir, self.said, self.how = save_root / "run", save_root / "said", how
        self.log = self.run_dir / "log.jsonl"
        save_root.mkdir()

    def start(self) -> multiprocessing.Process:
        process = FORKS.Process(target=_train, args=(self.words, self.said, self.how))
        process.start()
        return process

    def finish(self) -> tuple[list[str], str]:
        """Go on until all iterations are done, and say what they came to."""
        process = self.start()
        process.join(START_SECONDS)
        if process.exitcode != 0:
            raise RuntimeError(f"exit code {process.exitcode}: {self.said.read_text()}")
        return result(self.run_dir)

    def stop(self, number: signal.Signals, tally: Tally, rng: random.Random) -> bool:
        """Start, and send a signal at a random moment; False when the run came to its end before."""
        in_save = rng.random() < 0.5
        # At once when killed perhaps, else after one iteration at least: until then there is nothing to save, and
        # SIGUSR1 ends a Python that is still starting.
        if number != signal.SIGKILL and num_lines(self.log) >= ITERATIONS:
            return False
        target = min(num_lines(self.log) + rng.randint(number != signal.SIGKILL, 3), ITERATIONS)
        share, seconds = rng.random(), rng.uniform(0, 0.3)
        process = self.start()
        came = wait_until(process, lambda: num_lines(self.log) >= target)
        if came and in_save:
            wanted = share * max((path.stat().st_size for path in self.run_dir.glob("checkpoint_*")), default=0)
            came = wait_until(process, lambda: bytes_of_save(self.run_dir) >= wanted)
        else:
            time.sleep(seconds)
        if not came or not process.is_alive():
            process.join(START_SECONDS)
            return False
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            process.kill()  # it is so young that it has no group of its own yet
        process.join(START_SECONDS if number == signal.SIGKILL else NOTICE_SECONDS)
        if number == signal.SIGKILL:
            tally.kills += 1
            tally.in_saves += bytes_of_save(self.run_dir) >= 0
        else:
            tally.asked += 1
            tally.wrong_exits += process.exitcode not in (143, 0) or not any(self.run_dir.glob("checkpoint_*.pth"))
        return True


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def bytes_of_save(run_dir: Path) -> float:
    """Size of the temporary file of a save; below 0 when there is none."""
    for path in run_dir.glob(".checkpoint_*"):
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return math.inf  # it has just become the checkpoint
    return -math.inf


def wait_until(process: multiprocessing.Process, happened) -> bool:
    """Did it happen before the end of the process?"""
    while not happened():
        if not process.is_alive():
            return False
        time.sleep(0.001)
    return True


def result(run_dir: Path) -> tuple[list[str], str]:
    """The log without times, floats in hexadecimal; and a hash of the last checkpoint without times."""
    log = [exact(json.loads(line)) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    content = torch.load(run_dir / f"checkpoint_{ITERATIONS:06d}.pth", weights_only=True)
    for group in content["optimizer"]["param_groups"]:
        del group["lr"]  # set before each step, so not yet when a resumed run has only to validate
    return log, hashlib.sha256(exact(content).encode()).hexdigest()


def exact(value: object) -> str:
    """A text that is the same only for the same bits; what was measured in seconds is left out."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(value.numpy().tobytes()).hexdigest()}"
    if isinstance(value, dict):
        return str({key: exact(value[key]) for key in value if "seconds" not in str(key)})
    if isinstance(value, list | tuple):
        return str([exact(item) for item in value])
    return value.hex() if isinstance(value, float) else repr(value)


def run_trials(folder: Path, *, trials: int, seed: int) -> Tally:
    """Undisturbed runs without loader processes, then so many trials of up to three stops."""
    # One thread in each process, and none beside it in the one that is forked.
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    os.chdir(REPOSITORY)  # from where it imports
    FORKS.set_forkserver_preload(PRELOADED)
    rng, tally = random.Random(seed), Tally()
    images, packed = folder / "images", folder / "packed"
    write_world(images)
    words = [f"--root={images}", f"--to={packed}", "--store=packed", "--workers=1"]
    subprocess.run([sys.executable, REPOSITORY / "prep" / "pack.py", *words], check=True, stdout=subprocess.DEVNULL)
    cut = next(images.rglob("train_a/*3.jpg"))
    cut.write_bytes(cut.read_bytes()[:500])
    places = dict(zip(SETTINGS, itertools.cycle([images, packed])))
    truths = {}
    for setting in list(SETTINGS)[:trials]:
        truths[setting] = Trial(places[setting], folder / setting, setting, workers=0, how="program").finish()
    for number in range(trials):
        setting = list(SETTINGS)[number % len(SETTINGS)]
        how = "program" if number % 20 == len(SETTINGS) else "fork"
        workers = 2 * (number // len(SETTINGS) % 2)
        trial = Trial(places[setting], folder / f"trial{number}", setting, workers=workers, how=how)
        tally.trials += 1
        tally.programs += how == "program"
        stops = [signal.SIGKILL, signal.SIGKILL, rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])]
        rng.shuffle(stops)
        all(trial.stop(stop, tally, rng) for stop in stops)
        tally.differing += trial.finish() != truths[setting]
        tally.tracebacks += "Traceback" in trial.said.read_text()
        shutil.rmtree(trial.run_dir)
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
    settings = "\n".join(f"- `{' '.join(flags)}`" for flags in SETTINGS.values())
    text = f"""# Training stopped {tally.kills + tally.asked} times

`python tests/training_kills.py --trials={args.trials} --seed={args.seed}`, {date.today()}, {(time.monotonic() - begin) / 60:.0f} minutes on
{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, torch {torch.__version__.partition("+")[0]}.

| | |
|---|---|
| trials of {ITERATIONS} iterations, by turns with 0 and 2 loader processes | {tally.trials} |
| of them by `python train.py` (the others by forks of a process that has imported torch) | {tally.programs} |
| kills (SIGKILL to the process group, at random) | {tally.kills} |
| of them in the middle of a save | {tally.in_saves} |
| asked to end (SIGTERM or SIGUSR1 to the process group) | {tally.asked} |
| of them ended otherwise than within {NOTICE_SECONDS} s by 143 with a checkpoint | {tally.wrong_exits} |
| trials that printed a traceback | {tally.tracebacks} |
| trials whose losses, weights, averages, momentum, loss scale or random state differ from the undisturbed run's by a bit | {tally.differing} |

Settings by turns, the first and the third on image folders, one image of which is cut, the others on the packed store:

{settings}
"""
    print(text)
    if args.out:
        args.out.write_text(text)
    return int(tally.differing + tally.wrong_exits + tally.tracebacks > 0)


if __name__ == "__main__":
    sys.exit(main())
