"""Crops: which part of its pictures the network sees, squeezed into a square. Chosen before anything is decoded.

One draw serves all frames of a clip, and all segments of a video. Mirroring and normalisation are the network's
business (models/__init__.py): they cost the GPU nothing, and workers hand over uint8, a quarter of the bytes of floats.
"""

import functools
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import Protocol

from twostream.jpeg import Region

SHORT_SIDE = 1.1
"""short side of the image relative to the crop's side, in training and testing, as in 2D-kinectics"""


class Crop(Protocol):
    size: int
    """side of what the network sees, pixels"""

    def __call__(self, height: int, width: int, rng: Random) -> Region:
        """The part of a picture of that size."""


@dataclass(frozen=True)
class CentreCrop:
    """The middle square, for validation and testing."""

    size: int

    def __call__(self, height: int, width: int, rng: Random | None = None) -> Region:
        side = _side(height, width, self.size)
        return Region((height - side) // 2, (width - side) // 2, side, side)


@dataclass(frozen=True)
class RandomCrop:
    """The same square at a random place, as in 2D-kinectics."""

    size: int

    def __call__(self, height: int, width: int, rng: Random) -> Region:
        side = _side(height, width, self.size)
        return Region(rng.randrange(height - side + 1), rng.randrange(width - side + 1), side, side)


@dataclass(frozen=True)
class CornerCrop:
    """TSN's multi-scale corner crop (Wang et al., ECCV 2016): the corners and the centre only, which over-fits less.

    Height and width are two of the scales of the short side, at most one step apart; all are equally likely.
    """

    size: int
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    """in order, each above 0 and up to 1"""

    def __call__(self, height: int, width: int, rng: Random) -> Region:
        return rng.choice(corner_regions(height, width, self.scales))


@functools.lru_cache
def corner_regions(height: int, width: int, scales: tuple[float, ...]) -> list[Region]:
    """All that CornerCrop draws from."""
    sides = [max(int(min(height, width) * scale), 1) for scale in scales]
    pairs = [(h, w) for (i, h), (j, w) in product(enumerate(sides), repeat=2) if abs(i - j) <= 1]
    return [
        Region(y, x, h, w)
        for h, w in pairs
        for y, x in [*product((0, height - h), (0, width - w)), ((height - h) // 2, (width - w) // 2)]
    ]


def _side(height: int, width: int, size: int) -> int:
    """Side of the square in the picture's own pixels.

    Cutting in the picture and resizing the cut is resizing (short side to 1.1 of the crop) and cutting, in one step.
    """
    return max(round(min(height, width) * size / int(SHORT_SIDE * size)), 1)
