"""Constants of Farneback's flow for one size of frames and one set of parameters, as tensors: what OpenCV computes anew.

Read by the plain operations of flow_torch.py and the kernels of flow_kernels.py. H W are sides of the frames, h w of a
level of the pyramid.
"""

from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

MIDDLE_GREY = 127.5  # taken off each frame: flow does not see constants, and smaller numbers round less
REGULARISATION = 1e-3  # added to the determinant of A'A, in grey levels
SMALLEST_SIDE = 32  # of a level, pixels
BORDER_CERTAINTY = np.float32([0.14, 0.14, 0.4472, 0.4472, 0.4472])  # of the outermost pixels, from the border on


class Taps(NamedTuple):
    """A linear map along an axis: out[i] = sum over k of weight[k, i] * in[start[i] + k]."""

    start: Tensor
    """int64 (size of the result,)"""
    weight: Tensor
    """float32 (K, size of the result)"""

    @classmethod
    def blur_and_resize(cls, size: int, new_size: int, kernel: np.ndarray, device: torch.device) -> "Taps":
        """cv2.GaussianBlur with this kernel and its usual border, then cv2.resize with INTER_LINEAR."""
        position = ((np.arange(new_size) + 0.5) * (size / new_size) - 0.5).astype(np.float32)
        left = np.floor(position).astype(np.int64)
        fraction = np.where((left < 0) | (left >= size - 1), 0, position - left)
        left = left.clip(0, size - 1)
        radius = len(kernel) // 2
        num_taps = min(len(kernel) + int(fraction.any()), size)
        start = (left - radius).clip(0, size - num_taps)
        weight = np.zeros((num_taps, new_size))
        for step, share in ((0, 1 - fraction), (1, fraction)):
            for tap, value in enumerate(kernel, -radius + step):
                index = np.where(share > 0, reflected(left + tap, size), start)
                np.add.at(weight, (index - start, np.arange(new_size)), share * value)
        return cls(torch.from_numpy(start).to(device), torch.from_numpy(weight).float().to(device))


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
    flow_taps: tuple[Taps, Taps] | None
    """None on the coarsest level"""
    certainty: Tensor
    """float32 (h, w): weight of each pixel's A and b"""
    pixels: Tensor
    """float32 (2, h, w): x and y of each"""

    @property
    def buffer_shape(self) -> tuple[int, int]:
        """Sides of the expansions of plain operations."""
        return next_power_of_two(self.height), next_power_of_two(self.width)


def next_power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def build_levels(height: int, width: int, *, pyr_scale: float, levels: int, device: torch.device) -> list[Level]:
    """The coarsest first."""
    scales = [1.0]
    while len(scales) <= levels and min(height, width) * scales[-1] * pyr_scale >= SMALLEST_SIDE:
        scales.append(scales[-1] * pyr_scale)
    built: list[Level] = []
    for scale in reversed(scales):
        sigma = (1 / scale - 1) / 2
        # Three taps where sigma is 0, too: the finest level is blurred by OpenCV's fixed kernel of that size.
        kernel = cv2.getGaussianKernel(max(round(5 * sigma) | 1, 3), sigma, cv2.CV_32F).ravel()
        shape = round(height * scale), round(width * scale)
        frame_taps = [
            Taps.blur_and_resize(*sizes, kernel, device) for sizes in zip((height, width), shape, strict=True)
        ]
        coarser = built and [
            Taps.blur_and_resize(*sizes, np.ones(1), device) for sizes in zip(built[-1][:2], shape, strict=True)
        ]
        pixels = torch.from_numpy(np.indices(shape, np.float32)[::-1].copy()).to(device)
        certainty = torch.from_numpy(build_certainty(*shape)).to(device)
        built.append(Level(*shape, tuple(frame_taps), tuple(coarser) or None, certainty, pixels))
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


class Basis(NamedTuple):
    """Least squares fit of (1) with Gaussian weights g, as correlations with three kernels along the axes.

    Their right halves, from the middle on.
    """

    kernels: np.ndarray
    """float32 (3, poly_n + 1): g; x g; and what fits x^2, whose sum is 0"""
    scales: tuple[float, float]
    """of b, and of 2 A_xy"""
    table: Tensor
    """the kernels, on the device"""


def build_basis(poly_n: int, poly_sigma: float, *, device: torch.device) -> Basis:
    x = np.arange(-poly_n, poly_n + 1)
    g = np.exp(-(x**2) / (2 * poly_sigma**2)).astype(np.float32)
    g = (g / g.sum(dtype=float)).astype(np.float32)
    one, second, fourth = (np.sum(g.astype(float) * x**power) for power in (0, 2, 4))
    # Rows 1, x^2, y^2 of the Gram matrix; x, y and xy are on its diagonal alone.
    gram = np.array(
        [
            [one * one, second * one, second * one],
            [second * one, fourth * one, second * second],
            [second * one, second * second, fourth * one],
        ]
    )
    inverse = np.linalg.inv(gram)
    kernels = np.stack([g, x * g, inverse[0, 1] * g + inverse[1, 1] * x**2 * g])[:, poly_n:].astype(np.float32)
    return Basis(kernels, (1 / (second * one), 1 / (second * second)), torch.from_numpy(kernels).to(device))


class Window(NamedTuple):
    """Weights of the pixels that one flow vector is solved from (12), the same along both axes."""

    weights: np.ndarray
    """float32 (odd number,)"""
    is_box: bool
    """all weights are equal"""
    table: Tensor
    """the weights, on the device"""


def build_window(win_size: int, *, gaussian: bool, device: torch.device) -> Window:
    x = np.arange(-(win_size // 2), win_size // 2 + 1)
    if gaussian:
        sigma = max(0.3 * (win_size // 2), 1e-9)
        weights = np.exp(-(x**2) / (2 * sigma**2)).astype(np.float32)
        weights /= weights.sum(dtype=float)
    else:  # OpenCV's even window is as wide as the next odd one, but divided by its own size
        weights = np.full(len(x), 1 / win_size)
    weights = weights.astype(np.float32)
    return Window(weights, not gaussian, torch.from_numpy(weights).to(device))
