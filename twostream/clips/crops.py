"""Crops: which part of its pictures the network sees, scaled to a square. Chosen before anything is decoded.

One draw is used for all frames of a clip, and for all segments of a video. The network mirrors and normalises
(models/network.py): that costs the GPU nothing, and workers hand over uint8, a quarter of the bytes of floats.
"""

import functools
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import NamedTuple, Protocol

from twostream.frames.jpeg import Region

SHORT_SIDE = 1.1
"""short side of the image relative to the crop's side, in training and testing, as in 2D-kinectics, unless a crop's
`resize_side` is that short side, in pixels of the crop"""


class Crop(Protocol):
    """Chooses a part of a picture."""

    @property
    def size(self) -> int:
        """Side of what the network sees, pixels."""

    def __call__(self, height: int, width: int, rng: Random) -> Region:
        """The part of a picture of that height and width, in its own pixels; draws from `rng`, if from anything."""


@dataclass(frozen=True)
class CentreCrop:
    """The middle square, for validation and testing."""

    size: int
    resize_side: int | None = None

    def __call__(self, height: int, width: int, rng: Random | None = None) -> Region:
        side = _side(height, width, self.size, self.resize_side)
        return Region((height - side) // 2, (width - side) // 2, side, side)


@dataclass(frozen=True)
class RandomCrop:
    """A square of the same side at a random position, as in 2D-kinectics."""

    size: int
    resize_side: int | None = None

    def __call__(self, height: int, width: int, rng: Random) -> Region:
        side = _side(height, width, self.size, self.resize_side)
        return Region(rng.randrange(height - side + 1), rng.randrange(width - side + 1), side, side)


@dataclass(frozen=True)
class PlacedCrop:
    """A square of the same side at a fixed position; or the largest square, whose side is the picture's short side."""

    size: int
    y: float
    """0: at the top ... 1: at the bottom"""
    x: float
    """0: at the left ... 1: at the right"""
    largest: bool = False
    resize_side: int | None = None

    def __call__(self, height: int, width: int, rng: Random | None = None) -> Region:
        side = min(height, width) if self.largest else _side(height, width, self.size, self.resize_side)
        return Region(int((height - side) * self.y), int((width - side) * self.x), side, side)


@dataclass(frozen=True)
class WholePicture:
    """All of a picture, scaled to a short side; so pictures of different shapes are seen in different shapes."""

    size: int
    """the short side, pixels of what the network sees"""

    def __call__(self, height: int, width: int, rng: Random | None = None) -> Region:
        return Region(0, 0, height, width)

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what the network sees of a picture of that size."""
        short = min(height, width)
        return round(height * self.size / short), round(width * self.size / short)


class View(NamedTuple):
    """One way of looking at a clip in testing."""

    number: int
    """which view it is, the same in all score files; see VIEWS"""
    crop: Crop
    mirrored: bool


VIEWS = {
    "centre": (0,),
    "flip": (0, 5),
    "three": (10, 11, 12),
    "three-flip": (10, 11, 12, 13, 14, 15),
    "ten": (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    "full": (16,),
}
"""--views -> numbers of views.

0 is the centre, 1 ... 4 are the corners (top left, top right, bottom left, bottom right), 5 ... 9 the same mirrored.
10 ... 12 are the largest squares at the beginning, middle and end of the long side, 13 ... 15 the same mirrored; the
three together show all of a picture whose long side is at most three times its short side. 16 is the whole picture. Ten
crops are TSN's (ECCV 2016); three are usual for 3D networks."""


def make_views(name: str, size: int, resize_side: int | None = None) -> tuple[View, ...]:
    """The views that a name in VIEWS stands for, in order of number; `size` and `resize_side` are those of a stream."""
    corners = (PlacedCrop(size, y, x, resize_side=resize_side) for y, x in product((0, 1), repeat=2))
    small: list[Crop] = [CentreCrop(size, resize_side), *corners]
    large: list[Crop] = [PlacedCrop(size, position, position, largest=True) for position in (0, 0.5, 1)]
    views = [(crop, mirrored) for crops in (small, large) for mirrored in (False, True) for crop in crops]
    views.append((WholePicture(resize_side or int(SHORT_SIDE * size)), False))
    return tuple(View(number, *views[number]) for number in VIEWS[name])


@dataclass(frozen=True)
class CornerCrop:
    """TSN's multi-scale corner crop (Wang et al., ECCV 2016): the corners and the centre only, which over-fits less.

    Height and width are the short side times one of the scales each, at most one step apart; all pairs are equally
    likely, and so are the five positions.
    """

    size: int
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    """in order of size, each above 0 and up to 1"""

    def __call__(self, height: int, width: int, rng: Random) -> Region:
        return rng.choice(corner_regions(height, width, self.scales))


@functools.lru_cache
def corner_regions(height: int, width: int, scales: tuple[float, ...]) -> list[Region]:
    """All regions that CornerCrop draws from."""
    sides = [max(int(min(height, width) * scale), 1) for scale in scales]
    pairs = [(h, w) for (i, h), (j, w) in product(enumerate(sides), repeat=2) if abs(i - j) <= 1]
    return [
        Region(y, x, h, w)
        for h, w in pairs
        for y, x in [*product((0, height - h), (0, width - w)), ((height - h) // 2, (width - w) // 2)]
    ]


def _side(height: int, width: int, size: int, resize_side: int | None) -> int:
    """Side of the square in the picture's own pixels.

    To cut from the picture and resize the cut is, in one step, to resize it (short side to `resize_side`, or to 1.1 of the
    crop) and to cut.
    """
    return max(round(min(height, width) * size / (resize_side or int(SHORT_SIDE * size))), 1)
