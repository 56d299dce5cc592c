"""Hundreds of damaged videos: cut, bits flipped, blocks zeroed, doubled or lost, in every common container.

Files are made from a seed: the same number always gives the same file (with the same ffmpeg).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests import toy

NUM_FRAMES = 100
FPS = 10  # a container may declare a second too much, which is ten frames

# name -> suffix, options for encoder and container
SOURCES = {
    "mp4": ("mp4", ("libx264", "-preset", "veryfast", "-g", "50", "-pix_fmt", "yuv420p", "-movflags", "+faststart")),
    "fragmented mp4": ("mp4", ("mpeg4", "-q:v", "5", "-movflags", "+frag_keyframe+empty_moov")),
    "mkv": ("mkv", ("libx264", "-preset", "veryfast", "-g", "50", "-pix_fmt", "yuv420p")),
    "avi": ("avi", ("mpeg4", "-q:v", "5")),
    "webm": ("webm", ("libvpx", "-deadline", "realtime", "-cpu-used", "8", "-pix_fmt", "yuv420p")),
    "mpegts": ("ts", ("libx264", "-preset", "veryfast", "-g", "50", "-pix_fmt", "yuv420p")),
    "flv": ("flv", ("flv1", "-q:v", "5")),
    "mpeg": ("mpg", ("mpeg2video", "-q:v", "5", "-r", "25")),  # MPEG-2 has no rate of 10; frames are not repeated
}


@dataclass(frozen=True)
class Mutant:
    """A damaged file."""

    path: Path
    description: str
    """its number, its container, and what was done to it"""


def sources(folder: Path) -> dict[str, Path]:
    """One undamaged video of NUM_FRAMES frames per container, in which a textured square moves."""
    pictures = np.concatenate([toy.frames(seed, "red", "right") for seed in range(4)])[:NUM_FRAMES]
    paths = {}
    for name, (suffix, codec) in SOURCES.items():
        paths[name] = folder / f"{name}.{suffix}"
        fps = 25 if name == "mpeg" else FPS
        toy.write_video(paths[name], pictures, fps=fps, codec=codec)
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


def _spread(data: bytearray, rng: np.random.Generator) -> str:
    start, length = _block(data, rng)
    value = int(rng.choice([0x00, 0x7F, 0x80, 0xFF]))
    data[start : start + min(length, 8)] = bytes([value]) * min(length, 8)
    return f"{min(length, 8)} bytes set to {value:#x} at {start}, as a number out of range"


def damage_bytes(data: bytearray, rng: np.random.Generator) -> str:
    """Damage any content in place: bits flipped, bytes zeroed, doubled, lost or set, or the end cut; says what was done."""
    if len(data) < 8:
        data += bytes(8)
    damage = (_flip, _flip, _zero, _double, _lose, _spread, _cut)[int(rng.integers(7))]
    return damage(data, rng)


def _cut(data: bytearray, rng: np.random.Generator) -> str:
    length = int(rng.integers(len(data)))
    del data[length:]
    return f"cut after {length} bytes"


def _block(data: bytearray, rng: np.random.Generator) -> tuple[int, int]:
    """Start and length of a random disk block, or of a random network packet."""
    if rng.random() < 0.5:
        length = min(4096, len(data) // 4)
        return length * int(rng.integers(0, len(data) // length)), length
    length = int(rng.integers(1, min(1400, len(data) // 4)))
    return int(rng.integers(0, len(data) - length)), length


def mutants(folder: Path, *, count: int, seed: int = 0) -> Iterator[Mutant]:
    """`count` damaged files, in every container in turn; half of them are cut, at 20 points. Each replaces the last."""
    originals = sources(folder)
    rng = np.random.default_rng(seed)
    for k in range(count):
        name = list(originals)[k % len(originals)]
        data = bytearray(originals[name].read_bytes())
        turn = k // len(originals)
        if turn % 2 == 0:
            share = (turn // 2 % 20 + 0.5) / 20
            del data[int(share * len(data)) :]
            damage = f"cut at {share:.1%}"
        else:
            mutate = (_flip, _zero, _double, _lose)[turn // 2 % 4]
            damage = mutate(data, rng)
        path = folder / f"mutant{originals[name].suffix}"
        path.write_bytes(data)
        yield Mutant(path, f"{k}: {name}, {damage}")
