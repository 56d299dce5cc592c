"""Pictures that move by known pixels, and the codecs that they are encoded with."""

from collections.abc import Sequence

import cv2
import numpy as np

H264 = ("libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p")
MPEG4 = ("mpeg4", "-q:v", "3")

CODECS = {
    "without B-frames.mp4": (*H264, "-bf", "0", "-g", "250"),
    "pyramid of B-frames.mp4": (*H264, "-preset", "medium", "-bf", "3", "-g", "250"),
    "short groups.mkv": (*H264, "-bf", "2", "-g", "5", "-crf", "30"),
    "start codes.ts": (*H264, "-preset", "medium", "-bf", "3"),
    "Xvid.avi": (*MPEG4, "-bf", "2", "-vtag", "XVID"),
    "coarse.mp4": ("mpeg4", "-q:v", "12", "-bf", "0", "-g", "12"),
    "quarters of pixels.mp4": (*MPEG4, "-flags", "+qpel", "-bf", "2", "-g", "250"),
    "v.mpg": ("mpeg2video", "-bf", "2", "-q:v", "3"),
    "mpeg1.mpg": ("mpeg1video", "-q:v", "3"),
    "v.flv": ("flv1", "-q:v", "3"),
    "v.wmv": ("wmv2", "-q:v", "3"),
}
"""file name -> encoder and options"""


def texture(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Smooth noise, uint8 (height, width, 3), in which every shift can be seen."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 6 + 2, width // 6 + 2), np.uint8)
    grey = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)


def pan(places: Sequence[tuple[int, int]], *, height: int = 96, width: int = 128) -> np.ndarray:
    """Pictures of a texture that has moved `places` pixels to the right and down in each of them, 40 at most."""
    wide = texture(height + 80, width + 80)
    return np.stack([wide[40 - y : 40 - y + height, 40 - x : 40 - x + width] for x, y in places])


def steady(num_frames: int, x: int, y: int) -> list[tuple[int, int]]:
    """Places of a texture that moves by the same pixels from each picture to the next one."""
    return [(x * k - x * num_frames // 2, y * k - y * num_frames // 2) for k in range(num_frames)]


def moving_square(num_frames: int, x: int, y: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """A textured square of 48 pixels that moves over a still texture, and its left upper corners, x before y."""
    ground, square = texture(128, 176, seed=1), texture(48, 48, seed=2)
    corners = [(64 + dx, 40 + dy) for dx, dy in steady(num_frames, x, y)]
    pictures = np.stack([ground] * num_frames)
    for picture, (left, top) in zip(pictures, corners, strict=True):
        picture[top : top + 48, left : left + 48] = square
    return pictures, corners
