"""Crops: which part of its pictures the network sees, squeezed into a square. Chosen before anything is decoded.

One draw serves all frames of a clip, and all segments of a video. Mirroring and normalisation are the network's
business (models/__init__.py): they cost the GPU nothing, and workers hand over uint8, a quarter of the bytes of floats.
"""

import functools
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import NamedTuple, Protocol

from twostream.frames.jpeg import Region

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
class PlacedCrop:
    """The same square at a fixed place; or the largest one, whose side is the short side of the picture."""

    size: int
    y: float
    """0: at the top ... 1: at the bottom"""
    x: float
    """0: at the left ... 1: at the right"""
    largest: bool = False

    def __call__(self, height: int, width: int, rng: Random | None = None) -> Region:
        side = min(height, width) if self.largest else _side(height, width, self.size)
        return Region(int((height - side) * self.y), int((width - side) * self.x), side, side)


class View(NamedTuple):
    """One way of looking at a clip in testing."""

    number: int
    """that says which it is, in all score files alike"""
    crop: Crop
    mirrored: bool


VIEWS = {
    "centre": (0,),
    "flip": (0, 5),
    "three": (10, 11, 12),
    "three-flip": (10, 11, 12, 13, 14, 15),
    "ten": (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
}
"""--views -> numbers of views. 0: the centre; 1 ... 4: the corners (top left, top right, bottom left, bottom right); 5
... 9: these mirrored. 10 ... 12: the largest squares at the beginning, middle and end of the long side, which together
show all of it; 13 ... 15: these mirrored. Ten crops are TSN's (ECCV 2016), three those of 3D networks."""


def test_views(name: str, size: int) -> tuple[View, ...]:
    """The views of that name, in order of number; `size` is the side of what the network sees."""
    small = [CentreCrop(size), *(PlacedCrop(size, y, x) for y, x in product((0, 1), repeat=2))]
    large = [PlacedCrop(size, place, place, largest=True) for place in (0, 0.5, 1)]
    views = [(crop, mirrored) for crops in (small, large) for mirrored in (False, True) for crop in crops]
    return tuple(View(number, *views[number]) for number in VIEWS[name])


test_views.__test__ = False  # not a test, whatever pytest thinks of its name


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
