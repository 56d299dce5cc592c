#!/usr/bin/env python3
"""Kill extraction at random moments again and again, and compare what it leaves with an undisturbed run.

A round starts with an empty data root. One or two copies of prep/extract.py work on the same videos; their process
groups are killed (SIGKILL) after a random time and started again, until all videos are done. Then every image and
record must equal that of the undisturbed run, byte for byte, and none of their processes may be left: no ffmpeg, and
with --flow_device no flow server.
"""

import argparse
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests import toy
from tests.motion_vectors.moving import H264
from twostream.frames.encoded import VIDEO_NAME, EncodedVideos
from twostream.frames.store import FrameStore, frame_name
from twostream.frames.stores import open_store
from twostream.video.ffmpeg import ffmpeg_version, find_ffmpeg

REPOSITORY = Path(__file__).resolve().parent.parent
STORES = ("folders", "packed", "videos")
"""kinds of stores"""
NUM_VIDEOS = 8
MARK = "KILLED_EXTRACTION_OF"
MAX_WAIT_SECONDS = 2.0
"""before a kill, including the start of the program; after that, little work is left"""
MAX_WAIT_WITH_SERVER = 12.0
"""the server loads torch first"""


@dataclass
class Tally:
    """Results of the rounds so far."""

    rounds: int = 0
    kills: int = 0
    compared: int = 0
    """videos of an input type, in all rounds"""
    differing: int = 0
    """videos, in all rounds, that differ from those of the undisturbed run"""
    orphans: int = 0
    """processes alive after a round"""


def input_types(store: str, device: str) -> tuple[str, ...]:
    """What is extracted into this kind of store: all that it has and this device computes, motion vectors if PyAV is there."""
    if store == "videos":
        return ("rgb",)
    return ("rgb", "farneback", "mv") if device == "cpu" and find_spec("av") else ("rgb", "farneback")


def write_videos(folder: Path) -> None:
    """Videos of different lengths; the longer ones take a while."""
    for seed in range(NUM_VIDEOS):
        pictures = toy.frames(seed, "red", "right")[: 8 + 3 * seed]
        large = np.stack([cv2.resize(picture, (256, 192)) for picture in pictures])
        toy.write_video(folder / f"v{seed}.mkv", large, codec=(*H264, "-crf", "10", "-g", "12"))


def start(videos: Path, root: Path, store: str, device: str) -> subprocess.Popen:
    """Start a copy of the program in its own process group; all its processes have the folder in their environment."""
    command = [sys.executable, str(REPOSITORY / "prep" / "extract.py"), f"--videos={videos}", f"--root={root}"]
    command += ["--short_side=0", "--workers=2", f"--store={store}", f"--flow_device={device}"]
    command.append(f"--input_types={','.join(input_types(store, device))}")
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return subprocess.Popen(command, **quiet, env=os.environ | {MARK: str(videos)}, process_group=0)


def content(store: FrameStore) -> dict[str, dict]:
    """Everything that is stored, by video: its files by name, and the record; the same for all stores of images."""

    def files(video_id: str) -> dict[str, bytes]:
        if isinstance(store, EncodedVideos):
            return {VIDEO_NAME: (store.video_folder(video_id) / VIDEO_NAME).read_bytes()}
        return {frame_name(k): store.read_bytes(video_id, k) for k in store.frame_indices(video_id)}

    return {video_id: files(video_id) | {"record": store.record(video_id)} for video_id in store.video_ids()}


def run_round(
    videos: Path, root: Path, store: str, device: str, *, copies: int, max_kills: int, rng: random.Random
) -> int:
    """Kill and start again until all videos are done; returns the number of kills, at most `max_kills`."""
    max_wait = MAX_WAIT_SECONDS if device == "cpu" else MAX_WAIT_WITH_SERVER
    kills = 0
    while True:
        programs = [start(videos, root, store, device) for _ in range(copies)]
        deadline = time.monotonic() + rng.uniform(0.2, max_wait)
        while kills < max_kills and time.monotonic() < deadline and any(p.poll() is None for p in programs):
            time.sleep(0.01)
        running = [p for p in programs if p.poll() is None]
        if kills < max_kills and running:
            for program in running:
                os.killpg(program.pid, signal.SIGKILL)
                program.wait()
                kills += 1
            continue
        if all(program.wait() == 0 for program in programs):
            return kills


def count_leftovers(videos: Path) -> int:
    """Number of running processes that were started for these videos, directly or by others."""
    count = 0
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            count += f"{MARK}={videos}".encode() in environment.read_bytes().split(b"\0")
        except OSError:
            continue
    return count


def undisturbed_store(store: str) -> str:
    """The kind of store that an undisturbed run writes, to compare this kind with: all stores of images have the same."""
    return "videos" if store == "videos" else "folders"


def run_rounds(folder: Path, *, kills: int, seed: int, device: str = "cpu", stores: Sequence[str] = STORES) -> Tally:
    """Rounds until there were `kills` kills, alternating between the kinds of store, and in each between one copy and two."""
    rng = random.Random(seed)
    videos = folder / "videos"
    write_videos(videos)
    truth = {}
    for store in dict.fromkeys(undisturbed_store(store) for store in stores):
        root = folder / f"undisturbed_{store}"
        assert start(videos, root, store, device).wait() == 0, "the undisturbed run failed"
        truth[store] = {t: content(open_store(root, t)) for t in input_types(store, device)}
    tally = Tally()
    while tally.kills < kills:
        root = folder / f"round{tally.rounds}"
        store = stores[tally.rounds % len(stores)]
        copies = 1 + (tally.rounds % len(stores) + tally.rounds // len(stores)) % 2
        # Few kills are spread over the stores.
        max_kills = min(kills - tally.kills, 10, max(kills // len(stores), 1))
        tally.kills += run_round(videos, root, store, device, copies=copies, max_kills=max_kills, rng=rng)
        tally.rounds += 1
        for input_type, expected in truth[undisturbed_store(store)].items():
            stored = content(open_store(root, input_type))
            tally.compared += NUM_VIDEOS
            tally.differing += sum(stored.get(v) != expected.get(v) for v in expected.keys() | stored.keys())
        for _ in range(100):  # a killed program's ffmpeg ends at its next write
            if not count_leftovers(videos):
                break
            time.sleep(0.1)
        else:
            tally.orphans += count_leftovers(videos)
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=123)
    parser.add_argument("--flow_device", default="cpu", help="as in prep/extract.py")
    parser.add_argument("--out", type=Path, help="Markdown file to write the result into")
    args = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = run_rounds(Path(folder), kills=args.kills, seed=args.seed, device=args.flow_device)
    text = f"""# Extraction killed {tally.kills} times

`python tests/kills.py --kills={args.kills} --seed={args.seed} --flow_device={args.flow_device}`, {date.today()}, {(time.monotonic() - begin) / 60:.0f} minutes on
{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, OpenCV {cv2.__version__},
ffmpeg {ffmpeg_version(find_ffmpeg())}.

| | |
|---|---|
| rounds, alternating between the stores {", ".join(STORES)}, with one copy of the program and with two | {tally.rounds} |
| kills (SIGKILL to a copy's process group, at random) | {tally.kills} |
| videos x input types compared with the undisturbed run, byte for byte | {tally.compared} |
| different or missing | {tally.differing} |
| processes left over | {tally.orphans} |
"""
    print(text)
    if args.out:
        args.out.write_text(text)
    return int(tally.differing + tally.orphans > 0)


if __name__ == "__main__":
    sys.exit(main())
