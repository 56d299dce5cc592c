#!/usr/bin/env python3
"""The toy world: videos of a textured square, two colours x two directions = four classes.

Colour shows in one frame, direction only in motion, and by construction neither stream can know the other half:

- A "left" video is its "right" twin played backwards. The square comes back to its place every PERIOD frames, so
  twins have the same frames, also at an even frame step: one frame at a time, nobody can tell them apart.
- The two colours of a square have the same grey levels, pixel by pixel, so their flow images are the same bytes.

So at most half of the videos can be right with RGB alone, at most half with flow alone, and fusion can name all.
Files are lossless (FFV1), since this holds for exact pixels only. Mirroring must be off: it changes the class.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from twostream.video.ffmpeg import find_ffmpeg

SIDE = 96  # of the frames, pixels
SQUARE = 48
SPEED = 6  # pixels per frame
PERIOD = SIDE // SPEED
NUM_FRAMES = 2 * PERIOD + 1
CLASSES = ("blue_left", "blue_right", "red_left", "red_right")


def texture(rng: np.random.Generator, side: int) -> np.ndarray:
    """Smooth noise with full contrast in the middle greys: (side, side) uint8."""
    noise = cv2.GaussianBlur(rng.random((side, side), np.float32), (0, 0), 2)
    return cv2.normalize(noise, None, 70, 170, cv2.NORM_MINMAX).astype(np.uint8)


def coloured(grey: np.ndarray, colour: str) -> np.ndarray:
    """A picture (H, W, 3) uint8, RGB, reddish or bluish, whose grey levels are exactly the given ones."""
    shift = {"red": (50, -50), "blue": (-50, 50)}[colour]
    levels = np.arange(256)
    red, blue = (np.clip(levels + s, 0, 255) for s in shift)
    # Green steps change grey by 0.587, so for each level some green gives it exactly.
    greens = np.arange(256)
    candidates = np.stack(np.broadcast_arrays(red[:, None], greens[None], blue[:, None]), axis=-1).astype(np.uint8)
    error = np.abs(cv2.cvtColor(candidates, cv2.COLOR_RGB2GRAY).astype(int) - levels[:, None])
    green = error.argmin(axis=1)
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)[grey]


def frames(seed: int, colour: str, direction: str) -> np.ndarray:
    """One video: (NUM_FRAMES, SIDE, SIDE, 3) uint8, RGB."""
    rng = np.random.default_rng(seed)
    background, square = texture(rng, SIDE), texture(rng, SQUARE)
    x, y = rng.integers(0, SIDE), rng.integers(0, SIDE - SQUARE + 1)
    pictures = []
    for k in range(NUM_FRAMES):
        columns = (x + SPEED * k + np.arange(SQUARE)) % SIDE
        picture = np.repeat(background[..., None], 3, axis=2)
        picture[y : y + SQUARE, columns] = coloured(square, colour)
        pictures.append(picture)
    return np.stack(pictures if direction == "right" else pictures[::-1])


def write_video(path: Path, pictures: np.ndarray, *, fps: int = 15, codec: tuple[str, ...] = ("ffv1",)) -> None:
    """Write (T, H, W, 3) uint8 RGB pictures; lossless by default."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = pictures.shape[1:3]
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "pipe:0"]
    target = ["-c:v", *codec, *(["-pix_fmt", "gbrp"] if codec == ("ffv1",) else []), f"file:{path}"]
    command = [find_ffmpeg(), "-nostdin", "-loglevel", "error", "-y", *source, *target]
    subprocess.run(command, input=pictures.tobytes(), check=True, timeout=120)


def write_world(folder: Path, *, num_train: int, num_val: int) -> None:
    """<folder>/{train,val}/<class>/<id>.mkv with so many videos per class; no square of val occurs in train."""
    for split, seeds in (("train", range(num_train)), ("val", range(10_000, 10_000 + num_val))):
        for name in CLASSES:
            for seed in seeds:
                write_video(folder / split / name / f"{name}_{seed:05d}.mkv", frames(seed, *name.split("_")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True, help="folder to write")
    parser.add_argument("--num_train", type=int, default=8, help="training videos per class (default: 8)")
    parser.add_argument("--num_val", type=int, default=4, help="validation videos per class (default: 4)")
    args = parser.parse_args()
    write_world(args.videos, num_train=args.num_train, num_val=args.num_val)
    print(f"wrote {4 * (args.num_train + args.num_val)} videos of {NUM_FRAMES} frames below {args.videos}")
