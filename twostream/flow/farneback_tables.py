"""Constants of Farneback's flow for one size of frames and one set of parameters, as tensors: what OpenCV computes anew.

Read by the plain operations of flow_torch.py and the kernels of flow_kernels.py. H W are sides of the frames, h w of a
level of the pyramid.
"""

from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

REGULARISATION = 1e-3  # added to the determinant of A'A, averaged over a window
SMALLEST_SIDE = 32  # of a level, pixels
BORDER_CERTAINTY = np.float32([0.14, 0.14, 0.4472, 0.4472, 0.4472])  # of the outermost pixels, from the border on


class Taps(NamedTuple):
    """Where cv2.resize finds the pixels along an axis, and before it a filter those around them."""

    index: Tensor
    """int64 (K, 2, size of the result): tap k of the filter, around the pixel before a place and the one after it; or
    (K, 1, size) where the size stays"""
    fraction: Tensor
    """float32 (size of the result,): of the way from the one to the other"""

    @classmethod
    def build(cls, size: int, new_size: int, *, reach: int = 0, dtype: type, device: torch.device) -> "Taps":
        """dtype: of the places. OpenCV's are float64 in images of one channel, float32 in those of two."""
        place = ((np.arange(new_size) + 0.5) * (1 / (new_size / size)) - 0.5).astype(dtype)
        before = np.floor(place).astype(np.int64)
        pixels = np.stack([before, before + 1][: 1 + (new_size != size)]).clip(0, size - 1)
        index = reflected(pixels + np.arange(-reach, reach + 1)[:, None, None], size)
        fraction = (place - before).astype(np.float32)
        return cls(torch.from_numpy(index).to(device), torch.from_numpy(fraction).to(device))


def reflected(index: np.ndarray, size: int) -> np.ndarray:
    """cv2.BORDER_REFLECT_101: ... 2 1 | 0 1 2 ... size - 1 | size - 2 ..."""
    period = max(2 * (size - 1), 1)
    index = np.abs(index) % period
    return np.minimum(index, period - index) if size > 1 else np.zeros_like(index)


class Level(NamedTuple):
    """A level of the pyramid: how frames become its images, the flow of the level before its guess, and its constants."""

    height: int
    width: int
    frame_taps: tuple[Taps, Taps]
    """along y and x"""
    blur: Tensor
    """float32: the right half of the filter that comes before"""
    flow_taps: tuple[Taps, Taps] | None
    """None on the coarsest level"""
    certainty: Tensor
    """float32 (h, w): weight of each pixel's A and b"""
    border: list[tuple]
    """the parts of a picture (..., h, w) where it is not 1"""
    pixels: Tensor
    """float32 (2, h, w): x and y of each"""


def build_levels(height: int, width: int, *, pyr_scale: float, levels: int, device: torch.device) -> list[Level]:
    """The coarsest first."""
    scales = [1.0]
    while len(scales) <= levels and min(height, width) * scales[-1] * pyr_scale >= SMALLEST_SIDE:
        scales.append(scales[-1] * pyr_scale)
    built: list[Level] = []
    for scale in reversed(scales):
        sigma = (1 / scale - 1) / 2
        # Three taps where sigma is 0, too: the finest level is blurred by OpenCV's fixed kernel of that size.
        reach = max(round(5 * sigma) | 1, 3) // 2
        blur = cv2.getGaussianKernel(2 * reach + 1, sigma, cv2.CV_32F).ravel()[reach:]
        shape = round(height * scale), round(width * scale)
        frame_taps = tuple(
            Taps.build(*sizes, reach=reach, dtype=np.float64, device=device)
            for sizes in zip((height, width), shape, strict=True)
        )
        flow_taps = None
        if built:
            flow_taps = tuple(
                Taps.build(*sizes, dtype=np.float32, device=device) for sizes in zip(built[-1][:2], shape, strict=True)
            )
        pixels = torch.from_numpy(np.indices(shape, np.float32)[::-1].copy()).to(device)
        certainty = torch.from_numpy(build_certainty(*shape)).to(device)
        blur = torch.from_numpy(blur).to(device)
        built.append(Level(*shape, frame_taps, blur, flow_taps, certainty, build_border(*shape), pixels))
    return built


def build_certainty(height: int, width: int) -> np.ndarray:
    """Weights (h, w), low where the expansion looks beyond the border."""
    weights, near = [], []
    for size in (height, width):
        side = np.ones(size, np.float32)
        side[: len(BORDER_CERTAINTY)] = BORDER_CERTAINTY[:size]
        weights.append(side * side[::-1])
        # Unsigned, as in OpenCV: on fewer than 10 pixels that is less than all of them.
        border = len(BORDER_CERTAINTY)
        near.append((np.arange(size) - border) % (1 << 32) >= (size - 2 * border) % (1 << 32))
    return np.where(near[0][:, None] | near[1], weights[0][:, None] * weights[1], 1).astype(np.float32)


def build_border(height: int, width: int) -> list[tuple]:
    """Four strips; all of a picture that has no middle."""
    border = len(BORDER_CERTAINTY)
    if min(height, width) <= 2 * border:
        return [(...,)]
    top, middle, bottom = slice(border), slice(border, height - border), slice(height - border, height)
    left, right = slice(border), slice(width - border, width)
    return [(..., top, slice(None)), (..., bottom, slice(None)), (..., middle, left), (..., middle, right)]


class Basis(NamedTuple):
    """Least squares fit of (1) with Gaussian weights g, as correlations with g, x g and x^2 g along the axes."""

    kernels: np.ndarray
    """float32 (3, poly_n + 1): their right halves, from the middle on"""
    inverse: tuple[float, float, float, float]
    """of the Gram matrix: of x with x, of 1 with x^2, of x^2 with x^2, of xy with xy"""
    table: Tensor
    """the kernels, on the device"""
    inverse_table: Tensor
    """float64, likewise"""


def build_basis(poly_n: int, poly_sigma: float, *, device: torch.device) -> Basis:
    x = np.arange(-poly_n, poly_n + 1)
    g = np.exp(-(x**2) / (2 * poly_sigma**2)).astype(np.float32)
    g = (g * (1 / g.sum(dtype=float))).astype(np.float32)
    # The Gram matrix, from products in float32, multiplied from left to right.
    weights, across, down = np.outer(g, g), x.astype(np.float32), x[:, None].astype(np.float32)
    second = weights * across * across
    products = weights, second, second * across * across, second * down * down
    one, xx, xxxx, xxyy = (float(values.sum(dtype=float)) for values in products)
    # Its rows 1, x^2 and y^2; x, y and xy are on its diagonal alone.
    inverse = np.linalg.inv([[one, xx, xx], [xx, xxxx, xxyy], [xx, xxyy, xxxx]])
    kernels = np.stack([g, x * g, x**2 * g])[:, poly_n:].astype(np.float32)
    inverse = (1 / xx, float(inverse[0, 1]), float(inverse[1, 1]), 1 / xxyy)
    tables = torch.from_numpy(kernels).to(device), torch.tensor(inverse, dtype=torch.float64, device=device)
    return Basis(kernels, inverse, *tables)


class Window(NamedTuple):
    """The pixels that one flow vector is solved from (12), and their weights, the same along both axes."""

    reach: int
    """of them to each side"""
    regularisation: float
    """added to the determinant of 4 A'A, summed over a window with its weights, or over a box without any"""
    weights: np.ndarray | None
    """float32 (reach + 1,): of a Gaussian window, the right half; None of a box"""
    table: Tensor | None
    """the weights, on the device"""


def build_window(win_size: int, *, gaussian: bool, device: torch.device) -> Window:
    reach = win_size // 2
    if not gaussian:  # an even window is as wide as the next odd one, but divided by its own size
        return Window(reach, 16 * REGULARISATION * win_size**4, None, None)
    x = np.arange(reach + 1)
    weights = np.exp(-(x**2) / (2 * max(0.3 * reach, 1e-9) ** 2)).astype(np.float32)
    weights = (weights * (1 / (1 + 2 * weights[1:].sum(dtype=float)))).astype(np.float32)
    return Window(reach, 16 * REGULARISATION, weights, torch.from_numpy(weights).to(device))
