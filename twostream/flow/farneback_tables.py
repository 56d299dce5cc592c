"""Constants of Farneback's flow for one size of frames and one set of parameters, which OpenCV computes for each pair.

The compiled steps of farneback_compiled.py read the ones that are arrays and numbers, without torch. The plain operations
of farneback.py and the kernels of farneback_kernels.py read all of them, as tensors. Some weights are here twice: as
numbers for the plain operations, which would otherwise wait for a GPU's queued work whenever they read them, and in the
device's memory for the kernels (`..._on_device`).

H W are the sides of the frames, h w of a level of the pyramid.
"""

from __future__ import annotations  # torch is imported by those who have it already

from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

REGULARISATION = 1e-3
"""added to the determinant of A'A, averaged over a window"""
SMALLEST_SIDE = 32
"""of a level, pixels"""
BORDER_CERTAINTY = np.array([0.14, 0.14, 0.4472, 0.4472, 0.4472], np.float32)
"""of the outermost pixels, the border first"""


def on_device(values: np.ndarray, device: torch.device) -> Tensor:
    """The same values in a device's memory."""
    import torch

    return torch.from_numpy(values).to(device)


class Taps(NamedTuple):
    """The pixels along one axis that cv2.resize reads, each blurred before by a filter of K taps.

    A pixel of the result lies between two pixels of the source, one before and one after it.
    """

    pixels: Tensor
    """int64 (K, 2, size of the result): the pixels that tap k of the filter reads around the pixel before and the pixel
    after; or (K, 1, size) where source and result have the same size"""
    fraction: Tensor
    """float32 (size of the result,): position between the pixel before (0) and the pixel after (1)"""

    @classmethod
    def build(cls, size: int, new_size: int, *, reach: int = 0, dtype: type, device: torch.device) -> Taps:
        """Taps from `size` pixels to `new_size`; the filter has 2 reach + 1 taps.

        dtype: of the positions. OpenCV's are float64 for images of one channel, float32 for two channels.
        """
        position: np.ndarray = ((np.arange(new_size) + 0.5) * (1 / (new_size / size)) - 0.5).astype(dtype)
        before = np.floor(position).astype(np.int64)
        nearest = np.stack([before, before + 1][: 1 + (new_size != size)]).clip(0, size - 1)
        pixels = reflected(nearest + np.arange(-reach, reach + 1)[:, None, None], size)
        fraction = (position - before).astype(np.float32)
        return cls(on_device(pixels, device), on_device(fraction, device))


def reflected(index: np.ndarray, size: int) -> np.ndarray:
    """Indices of pixels beyond the borders as cv2.BORDER_REFLECT_101 has them: 2 1 | 0 1 2 ... size - 1 | size - 2 ..."""
    period = max(2 * (size - 1), 1)
    index = np.abs(index) % period
    return np.minimum(index, period - index) if size > 1 else np.zeros_like(index)


class Level(NamedTuple):
    """A level of the pyramid: how frames and the flow of the coarser level are resized to it, and its constants."""

    height: int
    width: int
    frame_taps: tuple[Taps, Taps]
    """from the frames, along y and x"""
    blur: Tensor
    """float32: the right half of the filter that blurs before, the middle first"""
    flow_taps: tuple[Taps, Taps] | None
    """from the flow of the coarser level, along y and x; None on the coarsest level"""
    certainty: Tensor
    """float32 (h, w): weight of each pixel's A and b"""
    border: list[tuple[Any, ...]]
    """indices of the parts of a picture (..., h, w) where `certainty` is not 1"""
    pixels: Tensor
    """float32 (2, h, w): x and y of each pixel"""


def level_scales(height: int, width: int, *, pyr_scale: float, levels: int) -> list[float]:
    """Sizes of the levels relative to the frames', the coarsest first; at most `levels` below full size."""
    scales = [1.0]
    while len(scales) <= levels and min(height, width) * scales[-1] * pyr_scale >= SMALLEST_SIDE:
        scales.append(scales[-1] * pyr_scale)
    return scales[::-1]


def level_blur(scale: float) -> tuple[float, int]:
    """Standard deviation of the blur before frames are resized to a level, and how far it reaches, pixels."""
    sigma = (1 / scale - 1) / 2
    # Three taps even where sigma is 0: the finest level is blurred by OpenCV's fixed kernel of that size.
    return sigma, max(round(5 * sigma) | 1, 3) // 2


def build_levels(height: int, width: int, *, pyr_scale: float, levels: int, device: torch.device) -> list[Level]:
    """The levels of a pyramid over frames of height and width, the coarsest first; at most `levels` below full size."""
    built: list[Level] = []
    for scale in level_scales(height, width, pyr_scale=pyr_scale, levels=levels):
        sigma, reach = level_blur(scale)
        blur = cv2.getGaussianKernel(2 * reach + 1, sigma, cv2.CV_32F).ravel()[reach:]
        h, w = round(height * scale), round(width * scale)
        frame_taps = (
            Taps.build(height, h, reach=reach, dtype=np.float64, device=device),
            Taps.build(width, w, reach=reach, dtype=np.float64, device=device),
        )
        flow_taps = None
        if built:
            flow_taps = (
                Taps.build(built[-1].height, h, dtype=np.float32, device=device),
                Taps.build(built[-1].width, w, dtype=np.float32, device=device),
            )
        pixels = np.indices((h, w), np.float32)[::-1].copy()
        blur_tensor, certainty_tensor, pixels_tensor = (
            on_device(values, device) for values in (blur, build_certainty(h, w), pixels)
        )
        built.append(
            Level(h, w, frame_taps, blur_tensor, flow_taps, certainty_tensor, build_border(h, w), pixels_tensor)
        )
    return built


def build_certainty(height: int, width: int) -> np.ndarray:
    """Weights float32 (h, w), low near the border, beyond which the expansion has no pixels."""
    weights, near = [], []
    for size in (height, width):
        side = np.ones(size, np.float32)
        side[: len(BORDER_CERTAINTY)] = BORDER_CERTAINTY[:size]
        weights.append(side * side[::-1])
        # Unsigned, as in OpenCV: with fewer than 10 pixels, the condition does not hold for all of them.
        border = len(BORDER_CERTAINTY)
        near.append((np.arange(size) - border) % (1 << 32) >= (size - 2 * border) % (1 << 32))
    return np.where(near[0][:, None] | near[1], weights[0][:, None] * weights[1], 1).astype(np.float32)


def build_border(height: int, width: int) -> list[tuple[Any, ...]]:
    """Indices of four strips along the borders; of the whole picture if it has no middle."""
    border = len(BORDER_CERTAINTY)
    if min(height, width) <= 2 * border:
        return [(...,)]
    top, middle, bottom = slice(border), slice(border, height - border), slice(height - border, height)
    left, right = slice(border), slice(width - border, width)
    return [(..., top, slice(None)), (..., bottom, slice(None)), (..., middle, left), (..., middle, right)]


class Basis(NamedTuple):
    """Least squares fit of (1) with Gaussian weights g, as correlations with g, x g and x^2 g along the axes."""

    kernels: np.ndarray
    """float32 (3, poly_n + 1): the right halves of g, x g and x^2 g, the middle first"""
    inverse: tuple[float, float, float, float]
    """entries of the inverse Gram matrix: x with x, 1 with x^2, x^2 with x^2, xy with xy"""
    kernels_on_device: Tensor
    inverse_on_device: Tensor
    """float64 (4,)"""


def basis_numbers(poly_n: int, poly_sigma: float) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """Kernels and inverse of a Basis: of the fit to 2 poly_n + 1 pixels each way, with Gaussian weights of poly_sigma."""
    x = np.arange(-poly_n, poly_n + 1)
    g = np.exp(-(x**2) / (2 * poly_sigma**2)).astype(np.float32)
    g = (g * (1 / g.sum(dtype=float))).astype(np.float32)
    # The Gram matrix, from float32 products that are multiplied from left to right.
    weights, across, down = np.outer(g, g), x.astype(np.float32), x[:, None].astype(np.float32)
    second = weights * across * across
    products = weights, second, second * across * across, second * down * down
    one, xx, xxxx, xxyy = (float(values.sum(dtype=float)) for values in products)
    # Its rows of 1, x^2 and y^2; x, y and xy have entries on its diagonal only.
    block = np.linalg.inv([[one, xx, xx], [xx, xxxx, xxyy], [xx, xxyy, xxxx]])
    kernels = np.stack([g, x * g, x**2 * g])[:, poly_n:].astype(np.float32)
    return kernels, (1 / xx, float(block[0, 1]), float(block[1, 1]), 1 / xxyy)


def build_basis(poly_n: int, poly_sigma: float, *, device: torch.device) -> Basis:
    """The fit to 2 poly_n + 1 pixels each way, with Gaussian weights of standard deviation poly_sigma, pixels."""
    kernels, inverse = basis_numbers(poly_n, poly_sigma)
    return Basis(kernels, inverse, on_device(kernels, device), on_device(np.array(inverse), device))


class Window(NamedTuple):
    """The pixels from which one flow vector is solved (12), and their weights, the same along both axes."""

    reach: int
    """pixels to each side"""
    regularisation: float
    """added to the determinant of 4 A'A, which is summed over the window with its weights, or over a box without any"""
    weights: np.ndarray | None
    """float32 (reach + 1,): the right half of a Gaussian window, the middle first; None for a box"""
    weights_on_device: Tensor | None


def box_regularisation(win_size: int) -> float:
    """What is added to the determinant of 4 A'A, summed over a box of win_size pixels each way."""
    return 16 * REGULARISATION * win_size**4


def build_window(win_size: int, *, gaussian: bool, device: torch.device) -> Window:
    """The window of `win_size` pixels each way: a box or, with `gaussian`, Gaussian weights."""
    reach = win_size // 2
    if not gaussian:  # an even window is as wide as the next odd one, but divided by its own size
        return Window(reach, box_regularisation(win_size), None, None)
    x = np.arange(reach + 1)
    weights = np.exp(-(x**2) / (2 * max(0.3 * reach, 1e-9) ** 2)).astype(np.float32)
    weights = (weights * (1 / (1 + 2 * weights[1:].sum(dtype=float)))).astype(np.float32)
    return Window(reach, 16 * REGULARISATION, weights, on_device(weights, device))
