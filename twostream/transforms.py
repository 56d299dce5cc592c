"""Crops of a clip for one phase: uint8 (T, H, W, 3) -> uint8 (T, S, S, 3).

One random draw serves all frames of a clip. Normalisation is the network's business (models/__init__.py): workers
hand over uint8, a quarter of the bytes of floats.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from twostream import flow

SHORT_SIDE = 1.1
"""short side of the image relative to the crop's side, in training and testing, as in 2D-kinectics"""


@dataclass(frozen=True)
class CentreCrop:
    """The middle square, for validation and testing."""

    size: int

    def __call__(self, clip: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        side, free_y, free_x = _square(clip, self.size)
        return _crop(clip, free_y // 2, free_x // 2, side, self.size)


@dataclass(frozen=True)
class TrainCrop:
    """A square at a random place, mirrored half of the time; mirrored flow has its x negated."""

    size: int
    modality: str
    mirror: bool = True

    def __call__(self, clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        side, free_y, free_x = _square(clip, self.size)
        y, x = rng.integers(free_y + 1), rng.integers(free_x + 1)
        cropped = _crop(clip, y, x, side, self.size)
        if self.mirror and rng.random() < 0.5:
            cropped = flow.mirror(cropped) if self.modality == "flow" else cropped[:, :, ::-1]
        return cropped


def _square(clip: np.ndarray, size: int) -> tuple[int, int, int]:
    """Side of the square in the image's own pixels, and the room left for it in y and in x.

    Cutting in the image and resizing the cut is resizing (short side to 1.1 of the crop) and cutting, in one step.
    """
    height, width = clip.shape[1:3]
    side = max(round(min(height, width) * size / int(SHORT_SIDE * size)), 1)
    return side, height - side, width - side


def _crop(clip: np.ndarray, y: int, x: int, side: int, size: int) -> np.ndarray:
    cut = clip[:, y : y + side, x : x + side]
    if side == size:
        return np.ascontiguousarray(cut)
    method = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return np.stack([cv2.resize(frame, (size, size), interpolation=method) for frame in cut])
