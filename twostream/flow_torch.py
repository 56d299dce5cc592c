"""Farneback's flow of many pairs at once, in tensor operations on any device: the flow that OpenCV's CPU code gives.

G. Farneback, Two-Frame Motion Estimation Based on Polynomial Expansion, SCIA 2003; numbers in brackets are its
equations. Around each pixel a frame is a polynomial x'Ax + b'x + c (1). Moved by d, it has the same A and another b
(5), so that A d = -(b2 - b1) / 2 (8). With a first guess of d, frame 2 is looked up where the guess leads (section on a
priori knowledge), A is the mean of both frames (9), and d solves the equations of all pixels of a window in the least
squares sense (12, 13). That is repeated on each level of a pyramid, the coarsest first.

What OpenCV does beside the paper (pyramid from the whole frame, borders, rounding of sizes) is followed to the letter
where it decides the result; the comments name it. What is left is rounding. That shows where a picture stands still or
is flat, as the sign of a motion of 1e-9 pixels decides there whether a pixel of the border is inside, and in windows
that hardly determine d: exact arithmetic differs from OpenCV there as much as this does.

All is float32, without matrix products or convolutions: nothing for TF32 or autocast to shorten, and the flow of a pair
does not depend on the other pairs of its batch.

Letters: N pairs, H W of the frames, h w of a level. Frames are uint8 (N, H, W), flow float32, x before y, in pixels.
Inside, flow is (N, 2, h, w), and what belongs to a pixel stands on axis 1:
  expansion  (N, 5, >= h, >= w)  b_y, b_x, A_yy, A_xx, 2 A_xy; beyond h and w nothing of use
  equations  (N, 5, h, w)        A'A: yy, xy, xx; A'b: y, x
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from twostream.flow import FarnebackParameters
from twostream.flow_tables import (
    MIDDLE_GREY,
    REGULARISATION,
    Basis,
    Level,
    Taps,
    Window,
    build_basis,
    build_levels,
    build_window,
)

BYTES_PER_PIXEL = 350  # of a pair at its most: 115, and the expansions, whose buffers have up to 4 times the pixels
CHUNK_BYTES = {"cpu": 1 << 28, "cuda": 1 << 33}  # at most: what fits in a cache, what keeps a GPU busy


# ------------------------------------------------------------------------------------------- plain tensor operations


def resample(images: Tensor, taps: tuple[Taps, Taps]) -> Tensor:
    """(..., H, W) float32 -> (..., h, w), by taps along y and x."""
    for dim, (start, weight) in zip((-2, -1), taps, strict=True):
        total = None
        for k, share in enumerate(weight.unsqueeze(-1) if dim == -2 else weight):
            part = images.index_select(dim, start + k if k else start)
            total = part.mul_(share) if total is None else total.addcmul_(part, share)
        images = total
    return images


def level_images(frames: Tensor, taps: tuple[Taps, Taps]) -> Tensor:
    """Frames (N, H, W) uint8 -> a level's images (N, h, w) float32, with 0 for middle grey."""
    return resample(frames.to(torch.float32) - MIDDLE_GREY, taps)


def correlate(images: Tensor, half: np.ndarray, dim: int, *, order: int = 0, out: Tensor | None = None) -> Tensor:
    """Correlation with a kernel given by its right half: (..., size + 2 (len(half) - 1), ...) -> (..., size, ...).

    order: 0, an even kernel; 1, an odd one; 2, an even one whose sum is 0. The latter two are applied to differences of
    pixels, as those round less than pixels do.
    """
    reach = len(half) - 1
    size = images.shape[dim] - 2 * reach
    centre = images.narrow(dim, reach, size)
    total = torch.mul(centre, float(half[0]), out=out) if order == 0 else None
    for k in range(1, reach + 1):
        before, after = images.narrow(dim, reach - k, size), images.narrow(dim, reach + k, size)
        part = after - before if order == 1 else after + before
        if order == 2:
            part.sub_(centre, alpha=2)
        weight = float(half[k])
        total = torch.mul(part, weight, out=out) if total is None else total.add_(part, alpha=weight)
    return total


def expand(images: Tensor, basis: Basis, level: Level) -> Tensor:
    """Images of a level (N, h, w) -> their expansions (1), in buffers whose sides are powers of two."""
    g, xg, xxg = basis.kernels
    scale, scale_xy = basis.scales
    # OpenCV repeats the outermost pixels. Padded along both axes at once, sums along y are padded along x already.
    padded = F.pad(images[:, None], (len(g) - 1,) * 4, mode="replicate")[:, 0]
    along_y, slope_y, bend_y = (correlate(padded, half, -2, order=order) for order, half in enumerate(basis.kernels))
    result = images.new_empty(len(images), 5, *level.buffer_shape)
    y, x, yy, xx, xy = result[..., : level.height, : level.width].unbind(1)
    correlate(slope_y, scale * g, -1, out=y)
    correlate(along_y, scale * xg, -1, order=1, out=x)
    correlate(bend_y, g, -1, out=yy)
    correlate(along_y, xxg, -1, order=2, out=xx)
    correlate(slope_y, scale_xy * xg, -1, order=1, out=xy)
    return result


def look_up(expansions: Tensor, flow: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """Expansions of second frames where the flow leads, (N, 5, h, w), and whether that is inside, (N, 1, h, w)."""
    position = flow + level.pixels
    x, y = position[:, :1], position[:, 1:]
    # The last row and column are outside: to OpenCV a place is inside where the four pixels around it are.
    inside = (x >= 0) & (x < level.width - 1) & (y >= 0) & (y < level.height - 1)
    # From pixels to grid_sample's -1..1 between the outer edges. As the sides are powers of two, whole pixels stay
    # whole, and a frame that stands still is looked up exactly: beside the border, a rounded 0 may be outside.
    height, width = level.buffer_shape
    x.mul_(2 / width).add_(1 / width - 1)
    y.mul_(2 / height).add_(1 / height - 1)
    grid = position.permute(0, 2, 3, 1)
    return F.grid_sample(expansions, grid, padding_mode="border", align_corners=False), inside


def normal_equations(first: Tensor, second: Tensor, flow: Tensor, level: Level) -> Tensor:
    """A'A and A'b of (13) at each pixel, from the expansions of two frames and a guess of the flow (N, 2, h, w)."""
    first = first[..., : level.height, : level.width]
    moved, inside = look_up(second, flow, level)
    # (9) and (10). Outside, A is that of the first frame alone, and b of the second frame is 0.
    mean = torch.where(inside, moved[:, 2:], first[:, 2:]).add_(first[:, 2:])
    yy, xx, xy = mean.mul_(level.certainty).mul_(0.5).unbind(1)
    xy.mul_(0.5)
    half = torch.sub(first[:, :2], moved[:, :2].masked_fill_(~inside, 0)).mul_(level.certainty).mul_(0.5)
    # A d of the guess is added to b, so that the solution is the whole flow and no correction to it.
    y, x = half.unbind(1)
    x_flow, y_flow = flow.unbind(1)
    y.addcmul_(yy, y_flow).addcmul_(xy, x_flow)
    x.addcmul_(xy, y_flow).addcmul_(xx, x_flow)

    result = flow.new_empty(len(flow), 5, level.height, level.width)
    torch.mul(yy, yy, out=result[:, 0]).addcmul_(xy, xy)
    torch.add(yy, xx, out=result[:, 1]).mul_(xy)
    torch.mul(xx, xx, out=result[:, 2]).addcmul_(xy, xy)
    torch.mul(yy, y, out=result[:, 3]).addcmul_(xy, x)
    torch.mul(xy, y, out=result[:, 4]).addcmul_(xx, x)
    return result


def window_sums(values: Tensor, num: int, dim: int) -> Tensor:
    """Sums of `num` neighbours, (..., size + num - 1, ...) -> (..., size, ...)."""
    if values.is_cuda:  # one pass over the memory; on a CPU it is a scalar loop, half of all the time
        shape = (num, 1) if dim == -2 else (1, num)
        return F.avg_pool2d(values, shape, stride=1, divisor_override=1)
    size = values.shape[dim] + 1 - num
    total, start, length = None, 0, 1  # sums of 1, 2, 4, ... neighbours, of which those in the number are put together
    while True:
        if num & length:
            part = values.narrow(dim, start, size)
            total = part if total is None else total + part
            start += length
        if 2 * length > num:
            return total
        values = values.narrow(dim, 0, values.shape[dim] - length) + values.narrow(
            dim, length, values.shape[dim] - length
        )
        length *= 2


def solve(equations: Tensor, window: Window) -> Tensor:
    """The flow (N, 2, h, w) that solves the equations of all pixels of each window best (13)."""
    num = len(window.weights)
    padded = F.pad(equations, (num // 2,) * 4, mode="replicate")
    if window.is_box:  # sums instead of means: the flow is a quotient, and only the regularisation has to know
        sums = window_sums(window_sums(padded, num, -2), num, -1)
        regularisation = REGULARISATION / float(window.weights[0]) ** 4
    else:
        half = window.weights[num // 2 :]
        sums = correlate(correlate(padded, half, -2), half, -1)
        regularisation = REGULARISATION
    yy, xy, xx, y, x = sums.unbind(1)
    determinant = (yy * xx).addcmul_(xy, xy, value=-1).add_(regularisation)
    flow = equations.new_empty(len(equations), 2, *equations.shape[2:])
    torch.mul(yy, x, out=flow[:, 0]).addcmul_(xy, y, value=-1).div_(determinant)
    torch.mul(xx, y, out=flow[:, 1]).addcmul_(xy, x, value=-1).div_(determinant)
    return flow


# ------------------------------------------------------------------------------------------------------ whole pairs


class Farneback:
    """Flow between frames of one size, with one set of parameters, on one device. Its tables are made once.

    The parameters are those of cv2.calcOpticalFlowFarneback; gaussian is its flag. fused=True takes the Triton kernels
    of flow_kernels.py in place of the plain operations above: the same flow but for rounding, and a tenth of the
    memory traffic. Where they cannot run, a warning says so, and the plain ones do.
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        device: torch.device | str,
        pyr_scale: float = 0.5,
        levels: int = 3,
        win_size: int = 15,
        iterations: int = 3,
        poly_n: int = 5,
        poly_sigma: float = 1.2,
        gaussian: bool = False,
        fused: bool = False,
    ):
        # Checks them. OpenCV takes levels=0, too: no pyramid.
        FarnebackParameters(pyr_scale, levels or 1, win_size, iterations, poly_n, poly_sigma)
        self.device = torch.device(device)
        self.levels = build_levels(height, width, pyr_scale=pyr_scale, levels=levels, device=self.device)
        self.basis = build_basis(poly_n, poly_sigma, device=self.device)
        self.window = build_window(win_size, gaussian=gaussian, device=self.device)
        self.pyr_scale = pyr_scale
        self.iterations = iterations
        # OpenCV's sums over windows of one pixel have the first row and column in them once more.
        self.repeats_edges = win_size == 1 and not gaussian
        self.operations = choose_operations(self.device, fused=fused)

    def pairs(self, first: Tensor, second: Tensor, *, chunk: int | None = None) -> Tensor:
        """N pairs of frames, uint8 (N, H, W) each -> (N, H, W, 2) float32 on the device, `chunk` pairs at a time."""
        self._check(first)
        self._check(second)
        if first.shape != second.shape:
            raise ValueError(f"first frames are {tuple(first.shape)}, second {tuple(second.shape)}, expected the same")
        flow = self._empty_flow(len(first))
        chunk = chunk or self.chunk()
        for parts in zip(flow.split(chunk), first.split(chunk), second.split(chunk), strict=True):
            parts[0].copy_(self._flow(self._expand(parts[1]), self._expand(parts[2])))
        return flow

    def sequence(self, frames: Tensor, *, chunk: int | None = None) -> Tensor:
        """Flow between neighbours of a video's frames, uint8 (T, H, W) -> (T - 1, H, W, 2): each is expanded once."""
        self._check(frames)
        flow = self._empty_flow(max(len(frames) - 1, 0))
        chunk = chunk or self.chunk()
        before: list[Tensor] = []  # expansions of the last frame of the chunk before
        done = 0
        for part in (frames[: chunk + 1], *frames[chunk + 1 :].split(chunk)):
            if not len(part):
                break
            expansions = self._expand(part)
            if before:
                expansions = [torch.cat(both) for both in zip(before, expansions, strict=True)]
            before = [expansion[-1:].clone() for expansion in expansions]
            num = len(expansions[0]) - 1
            flow[done : done + num] = self._flow([e[:-1] for e in expansions], [e[1:] for e in expansions])
            done += num
        return flow

    def chunk(self) -> int:
        """Pairs at a time: in half of the free memory of a GPU, and no more than keeps the device busy."""
        budget = CHUNK_BYTES.get(self.device.type, CHUNK_BYTES["cpu"])
        if self.device.type == "cuda":
            kept = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            budget = min(budget, (torch.cuda.mem_get_info(self.device)[0] + kept) // 2)
        return max(budget // (BYTES_PER_PIXEL * self.levels[-1].height * self.levels[-1].width), 1)

    def _check(self, frames: Tensor) -> None:
        expected = self.levels[-1].height, self.levels[-1].width
        if frames.dtype != torch.uint8 or frames.ndim != 3 or frames.shape[1:] != expected:
            found = f"{str(frames.dtype).removeprefix('torch.')} {tuple(frames.shape)}"
            raise ValueError(f"frames are {found}, expected uint8 (number, {expected[0]}, {expected[1]})")

    def _empty_flow(self, num: int) -> Tensor:
        return torch.empty(num, self.levels[-1].height, self.levels[-1].width, 2, device=self.device)

    @torch.no_grad()
    def _expand(self, frames: Tensor) -> list[Tensor]:
        """Expansions on each level."""
        frames = frames.to(self.device, non_blocking=True).contiguous()
        operations = self.operations
        return [
            operations.expand(operations.level_images(frames, level.frame_taps), self.basis, level)
            for level in self.levels
        ]

    @torch.no_grad()
    def _flow(self, first: list[Tensor], second: list[Tensor]) -> Tensor:
        """Expansions of N frames and of the N after them -> (N, H, W, 2)."""
        flow = None
        for level, one, two in zip(self.levels, first, second, strict=True):
            if level.flow_taps is None:
                flow = one.new_zeros(len(one), 2, level.height, level.width)
            else:
                flow = resample(flow, level.flow_taps).mul_(1 / self.pyr_scale)
            for _ in range(self.iterations):
                equations = self.operations.normal_equations(one, two, flow, level)
                if self.repeats_edges:
                    equations = equations + equations[..., :1, :]
                    equations = equations + equations[..., :1]
                flow = self.operations.solve(equations, self.window)
        return flow.permute(0, 2, 3, 1)


class Operations(NamedTuple):
    """The four steps that are fused or not."""

    level_images: Callable[[Tensor, tuple[Taps, Taps]], Tensor]
    expand: Callable[[Tensor, Basis, Level], Tensor]
    normal_equations: Callable[[Tensor, Tensor, Tensor, Level], Tensor]
    solve: Callable[[Tensor, Window], Tensor]


PLAIN = Operations(level_images, expand, normal_equations, solve)


def choose_operations(device: torch.device, *, fused: bool) -> Operations:
    if fused:
        try:
            from twostream import flow_kernels
        except ImportError:  # Triton comes with torch where there can be a GPU only
            flow_kernels = None
        if flow_kernels and flow_kernels.run_on(device):
            return Operations(*(getattr(flow_kernels, name) for name in Operations._fields))
        warnings.warn(f"no Triton kernels on {device}: flow by plain tensor operations, which is slower", stacklevel=3)
    return PLAIN


def farneback(prev: Tensor, next: Tensor, *, chunk: int | None = None, **parameters) -> Tensor:
    """Flow of N pairs, uint8 (N, H, W) each -> float32 (N, H, W, 2) on the device of prev. Parameters: Farneback's."""
    return Farneback(*prev.shape[-2:], device=prev.device, **parameters).pairs(prev, next, chunk=chunk)


def farneback_sequence(frames: Tensor, *, chunk: int | None = None, **parameters) -> Tensor:
    """Flow between neighbours, uint8 (T, H, W) -> float32 (T - 1, H, W, 2), the same as that of the pairs."""
    return Farneback(*frames.shape[-2:], device=frames.device, **parameters).sequence(frames, chunk=chunk)
