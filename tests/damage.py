"""Hundreds of damaged videos: cut, bits flipped, blocks zeroed, doubled or lost, in every common container.

Files are made from a seed, so that a number of the corpus is the same file again (with the same ffmpeg).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests import toy

NUM_FRAMES = 100
FPS = 10  # so that the second that a container may declare too much is ten frames

# name -> suffix, options of the encoder and the container
SOURCES = {
    "mp4": ("mp4", ("libx264", "-preset", "veryfast", "-g", "50", "-pix_fmt", "yuv420p", "-movflags", "+faststart")),
    "fragmented mp4": ("mp4", ("mpeg4", "-q:v", "5", "-movflags", "+frag_keyframe+empty_moov")),
    "mkv": ("mkv", ("libx264", "-preset", "veryfast", "-g", "50", "-pix_fmt", "yuv420p")),
    "avi": ("avi", ("mpeg4", "-q:v", "5")),
    "webm": ("webm", ("libvpx", "-deadline", "realtime", "-cpu-used", "8", "-pix_fmt", "yuv420p")),
    "mpegts": ("ts", ("libx264", "-preset", "veryfast", "-g", "50", "-pix_fmt", "yuv420p")),
    "flv": ("flv", ("flv1", "-q:v", "5")),
    "mpeg": ("mpg", ("mpeg2video", "-q:v", "5", "-r", "25")),  # has no rate of 10; frames are not repeated
}


@dataclass(frozen=True)
class Mutant:
    path: Path
    description: str


def sources(folder: Path) -> dict[str, Path]:
    """One sound video of NUM_FRAMES frames per container; a textured square moves over them."""
    pictures = np.concatenate([toy.frames(seed, "red", "right") for seed in range(4)])[:NUM_FRAMES]
    paths = {}
    for name, (suffix, codec) in SOURCES.items():
        paths[name] = folder / f"{name}.{suffix}"
        fps = 25 if name == "mpeg" else FPS
        toy.write_video(paths[name], pictures, fps=fps, codec=tuple(word for word in codec))
    return paths


def _flip(data: bytearray, rng: np.random.Generator) -> str:
    bits = rng.integers(0, 8 * len(data), rng.choice([1, 3, 10, 100]))
    for bit in bits:
        data[bit // 8] ^= 1 << (bit % 8)
    return f"{len(bits)} bits flipped"


def _zero(data: bytearray, rng: np.random.Generator) -> str:
    start, length = _block(data, rng)
    data[start : start + length] = bytes(length)
    return f"{length} bytes zeroed at {start}"


def _double(data: bytearray, rng: np.random.Generator) -> str:
    start, length = _block(data, rng)
    data[start:start] = data[start : start + length]
    return f"{length} bytes doubled at {start}"


def _lose(data: bytearray, rng: np.random.Generator) -> str:
    start, length = _block(data, rng)
    del data[start : start + length]
    return f"{length} bytes lost at {start}"


def _block(data: bytearray, rng: np.random.Generator) -> tuple[int, int]:
    """Start and length of a disk block, or of a network packet somewhere."""
    if rng.random() < 0.5:
        length = min(4096, len(data) // 4)
        return length * int(rng.integers(0, len(data) // length)), length
    length = int(rng.integers(1, min(1400, len(data) // 4)))
    return int(rng.integers(0, len(data) - length)), length


def mutants(folder: Path, *, count: int, seed: int = 0) -> Iterator[Mutant]:
    """`count` damaged files in all containers in turn, every second one cut, at 20 points; each replaces the last."""
    sound = sources(folder)
    rng = np.random.default_rng(seed)
    for k in range(count):
        name = list(sound)[k % len(sound)]
        data = bytearray(sound[name].read_bytes())
        turn = k // len(sound)
        if turn % 2 == 0:
            share = (turn // 2 % 20 + 0.5) / 20
            del data[int(share * len(data)) :]
            what = f"cut at {share:.1%}"
        else:
            mutate = (_flip, _zero, _double, _lose)[turn // 2 % 4]
            what = mutate(data, rng)
        path = folder / f"mutant{sound[name].suffix}"
        path.write_bytes(data)
        yield Mutant(path, f"{k}: {name}, {what}")
