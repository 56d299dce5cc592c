"""Small videos whose every frame is known, and what the decoder makes of them."""

import subprocess
from pathlib import Path

import numpy as np

from tests.conftest import noise_image
from twostream.video.decoder import Decoded, Decoder
from twostream.video.ffmpeg import find_ffmpeg


def pictures(num_frames: int = 20, *, height: int = 48, width: int = 64) -> np.ndarray:
    """Different smooth pictures: uint8 (num_frames, height, width, 3), RGB."""
    return np.stack([noise_image(seed, height=height, width=width) for seed in range(num_frames)])


def decode(path: Path, **keywords) -> tuple[np.ndarray, Decoded]:
    """All frames, uint8 (T, H, W, 3), and the decoder's result."""
    decoder = Decoder(path, **keywords)
    frames = np.stack(list(decoder))
    return frames, decoder.result


def run_ffmpeg(*arguments) -> None:
    subprocess.run([find_ffmpeg(), "-nostdin", "-loglevel", "error", "-y", *map(str, arguments)], check=True)


def numbered_pictures(num_frames: int, *, height: int = 48, width: int = 64) -> np.ndarray:
    """Pictures that show their number in binary, as twelve black or white squares, which every codec preserves."""
    bits = (np.arange(num_frames)[:, None] >> np.arange(12)) & 1
    squares = (bits.reshape(-1, 3, 4, 1) * np.full(3, 255)).astype(np.uint8)
    return squares.repeat(height // 3, axis=1).repeat(width // 4, axis=2)


def numbers_of(frames) -> list[int]:
    """The numbers that `numbered_pictures` drew."""
    numbers = []
    for frame in frames:
        height, width = frame.shape[:2]
        bits = frame.reshape(3, height // 3, 4, width // 4, 3).mean(axis=(1, 3, 4)) > 127
        numbers.append(int((bits.reshape(-1) << np.arange(12)).sum()))
    return numbers
