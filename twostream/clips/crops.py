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
from twostream.stream import ResizeSide

SHORT_SIDE = 1.1
"""short side of the image relative to the crop's side, in training and testing, as in 2D-kinectics, unless a crop's
`resize_side` says to which size the image is scaled, in pixels of the crop; see StreamConfig"""


class Crop(Protocol):
    """Chooses a part of a picture."""

    @property
    def size(self) -> int:
        """Side of what the network sees, pixels."""

    def __call__(self, height: int, width: int, rng: Random) -> Region:
        """The part of a picture of that height and width, in its own pixels; draws from `rng`, if from anything."""


@dataclass(frozen=True)
class CentreCrop:
    """The middle of a picture, for validation and testing."""

    size: int
    resize_side: ResizeSide = None

    def __call__(self, height: int, width: int, rng: Random | None = None) -> Region:
        tall, wide = _shape(height, width, self.size, self.resize_side)
        return Region((height - tall) // 2, (width - wide) // 2, tall, wide)


@dataclass(frozen=True)
class RandomCrop:
    """A part of the same size at a random position, as in 2D-kinectics."""

    size: int
    resize_side: ResizeSide = None

    def __call__(self, height: int, width: int, rng: Random) -> Region:
        tall, wide = _shape(height, width, self.size, self.resize_side)
        return Region(rng.randrange(height - tall + 1), rng.randrange(width - wide + 1), tall, wide)


@dataclass(frozen=True)
class PlacedCrop:
    """A part of the same size at a fixed position; or the largest square that fits."""

    size: int
    y: float
    """0: at the top ... 1: at the bottom"""
    x: float
    """0: at the left ... 1: at the right"""
    largest: bool = False
    resize_side: ResizeSide = None

    def __call__(self, height: int, width: int, rng: Random | None = None) -> Region:
        tall, wide = _shape(height, width, None if self.largest else self.size, self.resize_side)
        return Region(int((height - tall) * self.y), int((width - wide) * self.x), tall, wide)


@dataclass(frozen=True)
class WholePicture:
    """All of a picture, scaled to a short side; so pictures of different shapes are seen in different shapes. Or to a height
    and width."""

    resize_side: int | tuple[int, int]

    @property
    def size(self) -> int:
        """The short side, pixels of what the network sees."""
        return min(self.resize_side) if isinstance(self.resize_side, tuple) else self.resize_side

    def __call__(self, height: int, width: int, rng: Random | None = None) -> Region:
        return Region(0, 0, height, width)

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what the network sees of a picture of that size."""
        if isinstance(self.resize_side, tuple):
            return self.resize_side
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
    "five": (0, 1, 2, 3, 4),
    "ten": (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    "full": (16,),
    "full-flip": (16, 17),
}
"""--views -> numbers of views.

0 is the centre, 1 ... 4 are the corners (top left, top right, bottom left, bottom right), 5 ... 9 the same mirrored.
10 ... 12 are the largest squares at the beginning, middle and end of the long side, 13 ... 15 the same mirrored; the
three together show all of a picture whose long side is at most three times its short side. 16 is the whole picture, 17 the
same mirrored. Ten crops are TSN's (ECCV 2016); three are usual for 3D networks."""
WHOLE_VIEWS = ("full", "full-flip")
"""those of whole pictures"""


def make_views(name: str, size: int, resize_side: ResizeSide = None) -> tuple[View, ...]:
    """The views that a name in VIEWS stands for, in order of number; `size` and `resize_side` are those of a stream."""
    corners = (PlacedCrop(size, y, x, resize_side=resize_side) for y, x in product((0, 1), repeat=2))
    small: list[Crop] = [CentreCrop(size, resize_side), *corners]
    large: list[Crop] = [
        PlacedCrop(size, position, position, largest=True, resize_side=resize_side) for position in (0, 0.5, 1)
    ]
    views = [(crop, mirrored) for crops in (small, large) for mirrored in (False, True) for crop in crops]
    views += [(WholePicture(resize_side or int(SHORT_SIDE * size)), mirrored) for mirrored in (False, True)]
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
    resize_side: ResizeSide = None

    def __call__(self, height: int, width: int, rng: Random) -> Region:
        return rng.choice(corner_regions(height, width, self.scales, self.resize_side))


@functools.lru_cache
def corner_regions(height: int, width: int, scales: tuple[float, ...], resize_side: ResizeSide = None) -> list[Region]:
    """All regions that CornerCrop draws from."""
    heights, widths = (
        [max(int(side * scale), 1) for scale in scales] for side in _largest_square(height, width, resize_side)
    )
    pairs = [(h, w) for (i, h), (j, w) in product(enumerate(heights), enumerate(widths)) if abs(i - j) <= 1]
    return [
        Region(y, x, h, w)
        for h, w in pairs
        for y, x in [*product((0, height - h), (0, width - w)), ((height - h) // 2, (width - w) // 2)]
    ]


def _shape(height: int, width: int, size: int | None, resize_side: ResizeSide) -> tuple[int, int]:
    """Height and width of a square of the resized picture, in the picture's own pixels.

    To cut from the picture and resize the cut is, in one step, to resize it and to cut a square of `size`; None is the
    largest square.
    """
    square = _largest_square(height, width, resize_side)
    if size is None:
        tall, wide = square
    else:
        short = min(resize_side) if isinstance(resize_side, tuple) else resize_side or int(SHORT_SIDE * size)
        tall, wide = (side * size / short for side in square)
    return max(round(tall), 1), max(round(wide), 1)


def _largest_square(height: int, width: int, resize_side: ResizeSide) -> tuple[float, float]:
    """Height and width of the largest square of the resized picture, in the picture's own pixels.

    It is a square there too, unless `resize_side` changes the shape of pictures: those of 240x320, squeezed to 128x171,
    have 128 of 171 columns in it, 239.5 of 320.
    """
    short = min(height, width)
    if not isinstance(resize_side, tuple):
        return short, short
    short = min(resize_side)
    return height * short / resize_side[0], width * short / resize_side[1]
