#!/usr/bin/env python3
"""Stop trainings at random moments, resume them, and compare them with undisturbed runs, bit for bit.

A trial is one training on a few images of noise, with one of SETTINGS. It is killed (SIGKILL to its process group) at a
random moment, or when a random share of a checkpoint is written, or asked to end (SIGTERM, SIGUSR1). Then it is started
again with --resume=auto, until it is done. Then the values of log.jsonl (as hexadecimal floats) and all bits of the last
checkpoint must be those of the undisturbed run. Trials alternate between 0 and 2 loader processes.

The undisturbed run of the first setting, and one trial in twenty, are `python train.py`, as a user starts it. The others
run the same file in a fork of a process that has imported torch, because that import takes most of the time of a start.

With --device=cuda, the trials are of GPU_SETTINGS, all with --deterministic, and several run at once:

  python tests/training_kills.py --device=cuda --trials=24 --at_once=8 --seconds=110
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import platform
import random
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
PROGRAM = REPOSITORY / "train.py"
ITERATIONS = 8
FLAGS = [
    "--batch_size=2", "--frame_step=1", "--pretrained=False", "--run=run", f"--max_iterations={ITERATIONS}",
    "--val_interval=4", "--save_interval=1", "--keep_checkpoints=2", "--print_freq=1", "--resume=auto",
]  # fmt: skip
"""An epoch is 5 iterations, so runs are stopped in the middle of one; most of the time is spent on saving."""

SETTINGS = {
    "plain": ["--arch=mobilenet_v3_large", "--input_size=32", "--max_unreadable=9"],
    "state": ["--arch=mobilenet_v3_large", "--input_size=64", "--ema=0.5", "--schedule=cosine", "--warm_up=3", "--amp=bf16",
              "--accumulate=2", "--clip_norm=5", "--label_smoothing=0.1"],
    "fp16": ["--arch=squeezenet1_1", "--input_size=32", "--amp=fp16", "--seq_len=2", "--max_unreadable=99"],
    "segments": ["--arch=squeezenet1_1", "--input_size=32", "--num_segments=2", "--class_balance", "--crop=corners",
                 "--channels_last"],
}  # fmt: skip
"""Settings that the trials alternate between.

Those with --max_unreadable read image folders, in which one image is truncated; the others read the packed store.
"""
FAST = ["--deterministic", "--amp=bf16", "--channels_last"]
GPU_SETTINGS = {
    "resnet": ["--arch=resnet18", "--input_size=64", "--ema=0.5", "--clip_norm=5", *FAST],
    "inception": ["--arch=inception_v3", "--input_size=96", *FAST],
    "flow": ["--arch=resnet18", "--input_size=64", "--input_type=farneback", "--flow=online", *FAST],
    "compiled resnet": ["--arch=resnet18", "--input_size=64", "--compile=default", *FAST],
    "compiled inception": ["--arch=inception_v3", "--input_size=96", "--compile=default", *FAST],
}
"""Settings on a GPU; the last one compiles for a minute or more"""

START_SECONDS = 600
"""no start takes this long; against hangs"""
NOTICE_SECONDS = 30
"""between Slurm's SIGTERM and its SIGKILL"""

FORKS = multiprocessing.get_context("forkserver")
PRELOADED = [
    "cv2", "torch", "torch._dynamo", "torchvision", "tqdm", "twostream.clips.dataset", "twostream.engine.checkpoint",
    "twostream.engine.loops", "twostream.models.network", "twostream.models.weights", "twostream.monitor",
]  # fmt: skip


@dataclass
class Tally:
    """Counts of what happened in the trials."""

    trials: int = 0
    programs: int = 0
    """trials with `python train.py`"""
    kills: int = 0
    """stops by SIGKILL"""
    in_saves: int = 0
    """kills in the middle of a save, which left its temporary file"""
    requests: int = 0
    """stops by SIGTERM or SIGUSR1"""
    wrong_exits: int = 0
    """requests to end after which the run did not end within 30 s, with 143 and a checkpoint (or with 0, if it was done)"""
    tracebacks: int = 0
    """trials that printed a traceback"""
    differing: int = 0
    """trials whose result differs from that of the undisturbed run"""
    settings: Counter[str] = field(default_factory=Counter)
    """trials of each setting"""

    def add(self, other: "Tally") -> None:
        """Add the counts of other trials."""
        for name, count in vars(other).items():
            setattr(self, name, getattr(self, name) + count)


def write_world(root: Path) -> None:
    """A data root with two classes of noise as image folders: 10 clips to train on, 2 to validate."""
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


def _train(words: list[str], output: Path, how: str) -> None:
    """Turn this process into train.py, in a new process group, with its output in a file."""
    os.setpgid(0, 0)
    with open(output, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if how == "program":
        os.execv(sys.executable, [sys.executable, str(PROGRAM), *words])
    multiprocessing.set_start_method(None, force=True)  # so that loader processes start in the usual way
    sys.argv = [str(PROGRAM), *words]
    runpy.run_path(str(PROGRAM), run_name="__main__")


class Trial:
    """One run, which may be started several times."""

    def __init__(self, root: Path, save_root: Path, flags: list[str], *, workers: int, how: str, end: float):
        self.words = [f"--root={root}", f"--save_root={save_root}", *FLAGS, *flags, f"--workers={workers}"]
        self.run_dir, self.output, self.how = save_root / "run", save_root / "output", how
        self.log, self.end = self.run_dir / "log.jsonl", end
        save_root.mkdir()

    def start(self) -> multiprocessing.Process:
        """Start the program. It is killed at `end`, a time of time.monotonic(); raises TimeoutError after that."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        process = FORKS.Process(target=_train, args=(self.words, self.output, self.how))
        process.start()
        if left < math.inf:
            timer = threading.Timer(left, kill, [process])
            timer.daemon = True
            timer.start()
        return process

    def finish(self) -> tuple[list[str], str]:
        """Start the program, wait until all iterations are done, and return their `result`; TimeoutError as in `start`."""
        process = self.start()
        process.join(START_SECONDS)
        if process.exitcode != 0:
            if time.monotonic() >= self.end:
                raise TimeoutError
            raise RuntimeError(f"exit code {process.exitcode}: {self.output.read_text()}")
        return result(self.run_dir)

    def stop(self, number: signal.Signals, tally: Tally, rng: random.Random) -> bool:
        """Start the program and send a signal at a random moment; False if the run ended before that."""
        in_save = rng.random() < 0.5
        # A kill may come at once. The other signals come after one iteration or more: until then there is nothing to
        # save, and SIGUSR1 ends a Python that is still starting.
        if number != signal.SIGKILL and num_lines(self.log) >= ITERATIONS:
            return False
        target = min(num_lines(self.log) + rng.randint(number != signal.SIGKILL, 3), ITERATIONS)
        share, seconds = rng.random(), rng.uniform(0, 0.3)
        process = self.start()
        reached = wait_until(process, lambda: num_lines(self.log) >= target)
        if reached and in_save:
            wanted = share * max((path.stat().st_size for path in self.run_dir.glob("checkpoint_*")), default=0)
            reached = wait_until(process, lambda: bytes_of_save(self.run_dir) >= wanted)
        else:
            time.sleep(seconds)
        if not reached or not process.is_alive():
            process.join(START_SECONDS)
            return False
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            process.kill()  # it has only just started, and has no group of its own yet
        process.join(START_SECONDS if number == signal.SIGKILL else NOTICE_SECONDS)
        if number == signal.SIGKILL:
            tally.kills += 1
            tally.in_saves += bytes_of_save(self.run_dir) >= 0
        else:
            tally.requests += 1
            tally.wrong_exits += process.exitcode not in (143, 0) or not any(self.run_dir.glob("checkpoint_*.pth"))
        return True


def kill(process: multiprocessing.Process) -> None:
    """Kill the process group of a program that may have ended."""
    if process.pid and process.is_alive():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def num_lines(path: Path) -> int:
    """Number of complete lines of a file that may not exist."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def bytes_of_save(run_dir: Path) -> float:
    """Size of the temporary file of a save; negative if there is none."""
    for path in run_dir.glob(".checkpoint_*"):
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return math.inf  # it has just been renamed to the checkpoint
    return -math.inf


def wait_until(process: multiprocessing.Process, happened: Callable[[], bool]) -> bool:
    """Wait until it has happened; False if the process ends before that."""
    while not happened():
        if not process.is_alive():
            return False
        time.sleep(0.001)
    return True


def result(run_dir: Path) -> tuple[list[str], str]:
    """The entries of the log, and a hash of the last checkpoint, both without times and with all bits of floats."""
    log = [exact(json.loads(line)) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    content = torch.load(run_dir / f"checkpoint_{ITERATIONS:06d}.pth", weights_only=True)
    for group in content["optimizer"]["param_groups"]:
        del group["lr"]  # set before each step, so it is missing if a resumed run only has to validate
    return log, hashlib.sha256(exact(content).encode()).hexdigest()


def difference(found: tuple[list[str], str], expected: tuple[list[str], str]) -> str:
    """Where two results differ first."""
    for line, wanted in itertools.zip_longest(found[0], expected[0]):
        if line != wanted:
            return f"the log has {line}, expected {wanted}"
    return "the checkpoint differs, the log does not"


def exact(value: object) -> str:
    """A text that is the same only for the same bits; values in seconds are left out."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(value.numpy().tobytes()).hexdigest()}"
    if isinstance(value, dict):
        return str({key: exact(value[key]) for key in value if "seconds" not in str(key)})
    if isinstance(value, list | tuple):
        return str([exact(item) for item in value])
    return value.hex() if isinstance(value, float) else repr(value)


def write_roots(folder: Path) -> tuple[Path, Path]:
    """Data roots of the same images: folders, in which one image is truncated, and a packed store."""
    images, packed = folder / "images", folder / "packed"
    write_world(images)
    words = [f"--root={images}", f"--to={packed}", "--store=packed", "--workers=1"]
    subprocess.run([sys.executable, REPOSITORY / "prep" / "pack.py", *words], check=True, stdout=subprocess.DEVNULL)
    truncated = next(images.rglob("train_a/*3.jpg"))
    truncated.write_bytes(truncated.read_bytes()[:500])
    return images, packed


def run_trials(
    folder: Path, settings: dict[str, list[str]], *, trials: int, seed: int, at_once: int, seconds: float
) -> Tally:
    """The undisturbed run of each setting, without loader processes, and the trials, with up to three stops each.

    `at_once` of them run at a time; those that are not done after `seconds` are ended, and do not count.
    """
    os.chdir(REPOSITORY)  # the fork server imports from here
    FORKS.set_forkserver_preload(PRELOADED)
    images, packed = write_roots(folder)
    names, end = list(settings), time.monotonic() + seconds

    def trial_of(name: str, save_root: Path, **how: Any) -> Trial:
        flags = settings[name]
        is_damaged = any("max_unreadable" in flag for flag in flags)
        return Trial(images if is_damaged else packed, save_root, flags, end=end, **how)

    def undisturbed(name: str) -> tuple[list[str], str]:
        how = "program" if name == names[0] else "fork"
        return trial_of(name, folder / name, workers=0, how=how).finish()

    def disturbed(number: int) -> Tally:
        tally = Tally()
        name, rng = names[number % len(names)], random.Random(f"{seed} {number}")
        how = "program" if number % 20 == len(names) else "fork"
        workers = 2 * ((number + number // len(names)) % 2)  # each setting has both in turn
        trial = trial_of(name, folder / f"trial{number}", workers=workers, how=how)
        stops = [signal.SIGKILL, signal.SIGKILL, rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])]
        rng.shuffle(stops)
        all(trial.stop(stop, tally, rng) for stop in stops)
        found = trial.finish()
        shutil.rmtree(trial.run_dir)
        differs, failed = found != expected[name].result(), "Traceback" in trial.output.read_text()
        tally.add(
            Tally(trials=1, programs=how == "program", differing=differs, tracebacks=failed, settings=Counter([name]))
        )
        if differs or failed:
            what = difference(found, expected[name].result()) if differs else trial.output.read_text()
            print(f"trial {number} ({name}): {what}", file=sys.stderr)
        return tally

    with ThreadPoolExecutor(at_once) as pool:  # in this order, so that a trial waits for a run that has begun
        expected = {name: pool.submit(undisturbed, name) for name in names[:trials]}
        done = [pool.submit(disturbed, number) for number in range(trials)]
    tally = Tally()
    for tallied in done:
        with contextlib.suppress(TimeoutError):
            tally.add(tallied.result())
    return tally


def main() -> int:
    """Run the trials and print the record as Markdown; returns 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200, help="number of trials (default: 200)")
    parser.add_argument("--seed", type=int, default=123, help="seed of the random moments (default: 123)")
    parser.add_argument("--out", type=Path, help="Markdown file to write the result into")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to train (default: cpu)")
    parser.add_argument("--at_once", type=int, default=1, help="number of trials at a time (default: 1)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=math.inf,
        help="end then; trials that are not done do not count (default: no limit)",
    )
    parser.add_argument("--settings", help="comma-separated names of the settings (default: all of the device)")
    args = parser.parse_args()
    settings = SETTINGS if args.device == "cpu" else GPU_SETTINGS
    if args.settings:
        settings = {name: (SETTINGS | GPU_SETTINGS)[name] for name in args.settings.split(",")}
    os.environ["OMP_NUM_THREADS"] = "1"  # for each process; and the one that is forked must not have a second thread
    os.environ |= {"CUDA_VISIBLE_DEVICES": ""} if args.device == "cpu" else {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
    FLAGS.append(f"--device={args.device}")
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = run_trials(
            Path(folder), settings, trials=args.trials, seed=args.seed, at_once=args.at_once, seconds=args.seconds
        )
    about = f"{os.cpu_count()} cores ({platform.machine()})"
    about += f" and one {torch.cuda.get_device_name()}" if args.device == "cuda" else ""
    lines = "\n".join(f"- {tally.settings.get(name, 0)}: `{' '.join(flags)}`" for name, flags in settings.items())
    text = f"""# Training stopped {tally.kills + tally.requests} times

`{shlex.join(["python", "tests/training_kills.py", *sys.argv[1:]])}`, {date.today()}, {(time.monotonic() - start) / 60:.1f} minutes on
{about}, Python {platform.python_version()}, torch {torch.__version__.partition("+")[0]}.

| | |
|---|---|
| trials of {ITERATIONS} iterations, alternating between 0 and 2 loader processes | {tally.trials} |
| of these with `python train.py` (the others with forks of a process that has imported torch) | {tally.programs} |
| kills (SIGKILL to the process group, at random moments) | {tally.kills} |
| of these in the middle of a save | {tally.in_saves} |
| requests to end (SIGTERM or SIGUSR1 to the process group) | {tally.requests} |
| of these not answered within {NOTICE_SECONDS} s by exit code 143 and a checkpoint | {tally.wrong_exits} |
| trials that printed a traceback | {tally.tracebacks} |
| trials whose losses, weights, averages, momentum, loss scale or random state differ from the undisturbed run's in any bit | {tally.differing} |

Trials of each setting; those with --max_unreadable read image folders, in which one image is truncated, the others the packed store:

{lines}
"""
    print(text)
    print(
        f"{tally.trials} trials, {tally.kills} kills ({tally.in_saves} in saves), {tally.requests} requests to end: "
        f"{tally.differing} differ, {tally.tracebacks} tracebacks, {tally.wrong_exits} wrong exits"
    )
    if args.out:
        args.out.write_text(text)
    return int(tally.differing + tally.wrong_exits + tally.tracebacks > 0)


if __name__ == "__main__":
    sys.exit(main())
