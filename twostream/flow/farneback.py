"""Farneback's flow of many pairs at once, in tensor operations on any device: the flow that OpenCV's CPU code gives.

G. Farneback, Two-Frame Motion Estimation Based on Polynomial Expansion, SCIA 2003; numbers in brackets are its
equations. Around each pixel a frame is a polynomial x'Ax + b'x + c (1). If it moves by d, A stays and b changes (5), so
that A d = -(b2 - b1) / 2 (8). Given a first guess of d, frame 2 is looked up where the guess leads (section on a priori
knowledge), A is the mean of both frames (9), and d solves the equations of all pixels of a window in the least squares
sense (12, 13). This is repeated on each level of a pyramid, the coarsest first.

Everything that OpenCV does beyond the paper (pyramid from the whole frame, borders, rounding of sizes) is done in the
same way here, and so is its rounding: which numbers are float32 and which float64, and in which order they are added.
Where a picture is still or flat, the rounding decides the result: the sign of a motion of 1e-9 pixels determines whether
a pixel at the border is inside, a window hardly determines d, and iterations turn that into whole pixels. There, any
other arithmetic, even a more exact one, is as far from OpenCV as a wrong one. Products and sums are therefore separate
operations here, as an operation that does both does not round twice on all devices and in all versions of torch.

There are no matrix products or convolutions: nothing that TF32 or autocast could shorten, and the flow of a pair does
not depend on the other pairs of its batch.

Letters: N pairs, H W of the frames, h w of a level. Frames are uint8 (N, H, W), flow is float32, x before y, in pixels.
Internally, flow is (N, 2, h, w), and axis 1 has the values of a pixel:
  expansion  (N, 5, h, w)  b_y, b_x, A_yy, A_xx, A_xy
  equations  (N, 5, h, w)  4 A'A: yy, xy, xx; 4 A'b: y, x (four times, since halving is left out twice)
"""

import itertools
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from twostream.flow.coding import ZERO
from twostream.flow.farneback_tables import Basis, Level, Taps, Window, build_basis, build_levels, build_window
from twostream.flow.methods import FarnebackParameters

BYTES_PER_PIXEL = 300
"""memory for a pair, an upper limit: expansions of all levels, sums in float64; 190 to 250 were measured"""
CHUNK_BYTES = {"cpu": 1 << 26, "cuda": 1 << 33}
"""at most: what fits in a cache; what keeps a GPU busy. An H200 computes 1.5 times as many pairs a second of 340x256 where
it has 279 at a time as where it has 64."""


# ------------------------------------------------------------------------------------------- plain tensor operations


def add_product(total: Tensor, part: Tensor, weight: float, apart: Tensor | None = None) -> Tensor:
    """total + part * weight in float32, rounded once: a product of two float32 is exact in float64. Overwrites total.

    apart: columns where the product is rounded before it is added.
    """
    if apart is None:
        return total.add_(part.double(), alpha=weight)
    rounded_twice = total + part * weight
    return torch.where(apart, rounded_twice, total.add_(part.double(), alpha=weight))


def pixels_of(images: Tensor, index: Tensor, dim: int) -> Tensor:
    """What one tap reads: (..., size, ...) -> (..., 1 or 2 times h or w, ...), all pixels before, then all after."""
    return images.index_select(dim, index.flatten())


def left_over(columns: Tensor, width: int, lanes: int) -> Tensor | None:
    """Which columns of a frame are not part of a full vector of `lanes` columns; None if all are."""
    whole = width // lanes * lanes
    return columns.flatten() >= whole if whole < width else None


def level_images(frames: Tensor, level: Level) -> Tensor:
    """Frames (N, H, W) uint8 -> a level's images (N, h, w) float32: cv2.GaussianBlur, then cv2.resize."""
    taps_y, taps_x = level.frame_taps
    centre, *outer = level.blur.tolist()
    reach = len(outer)
    # OpenCV multiplies and adds in one instruction, except in the columns that its larger filters have left over.
    apart_x = left_over(taps_x.pixels[reach], frames.shape[-1], 4) if reach > 2 else None
    apart_y = left_over(taps_x.pixels[reach], frames.shape[-1], 8) if reach > 1 else None

    images = torch.zeros(*frames.shape[:2], taps_x.pixels[0].numel(), device=frames.device)
    if reach > 2:  # from left to right
        for index, weight in zip(taps_x.pixels, [*outer[::-1], centre, *outer], strict=True):
            images = add_product(images, pixels_of(frames, index, -1), weight, apart_x)
    else:  # the two neighbours, the pixel itself, the two pixels behind the neighbours
        for k in (1, 0, 2)[: reach + 1]:
            part = pixels_of(frames, taps_x.pixels[reach + k], -1).float()
            if k:
                part += pixels_of(frames, taps_x.pixels[reach - k], -1)
            images = add_product(images, part, outer[k - 1] if k else centre)

    total = pixels_of(images, taps_y.pixels[reach], -2).mul_(centre)
    for k, weight in enumerate(outer, 1):
        pair = pixels_of(images, taps_y.pixels[reach - k], -2).add_(pixels_of(images, taps_y.pixels[reach + k], -2))
        total = add_product(total, pair, weight, apart_y)
    images = total

    for dim, taps in ((-1, taps_x), (-2, taps_y)):
        if taps.pixels.shape[1] == 2:
            before, after = images.chunk(2, dim)
            fraction = taps.fraction[:, None] if dim == -2 else taps.fraction
            images = (after - before).double().mul_(fraction).add_(before).float()
    return images


def resize_flow(flow: Tensor, taps: tuple[Taps, Taps], factor: float) -> Tensor:
    """Flow (N, 2, h, w) -> flow on the pixels of the next level, times `factor`."""
    taps_y, taps_x = taps
    for dim, (index, fraction) in ((-1, taps_x), (-2, taps_y)):
        if index.shape[1] == 2:
            before, after = index[0]
            # Along x the border is copied; along y it is interpolated with itself, and rounded.
            fraction = fraction[:, None] if dim == -2 else fraction.masked_fill(before == after, 0)
            flow = flow.index_select(dim, before) * (1 - fraction) + flow.index_select(dim, after) * fraction
    return flow * factor


def neighbours(values: Tensor, k: int, reach: int, dim: int) -> tuple[Tensor, Tensor]:
    """The values k before and k after each value, along an axis that is padded by `reach`."""
    size = values.shape[dim] - 2 * reach
    return values.narrow(dim, reach - k, size), values.narrow(dim, reach + k, size)


def expand(images: Tensor, basis: Basis) -> Tensor:
    """Images of a level, float32 (N, h, w) -> their expansions (1)."""
    reach = len(basis.kernels[0]) - 1
    # OpenCV repeats the outermost pixels. Padding both axes at once pads the sums along y along x, too.
    padded = F.pad(images[:, None], (reach,) * 4, mode="replicate")[:, 0]
    kernels = list(zip(*basis.kernels.tolist(), strict=True))  # weights of g, x g and x^2 g
    g = kernels[0][0]

    # Along y in float32: with g, x g and x^2 g.
    along_y = neighbours(padded, 0, reach, -2)[0] * g
    slope_y, bend_y = torch.zeros_like(along_y), torch.zeros_like(along_y)
    for k, (g_k, xg_k, xxg_k) in enumerate(kernels[1:], 1):
        before, after = neighbours(padded, k, reach, -2)
        both = before + after
        along_y += both * g_k
        slope_y += (after - before).mul_(xg_k)
        bend_y += both.mul_(xxg_k)

    # Along x the sums are float64. So are the products for `one` and `xx`; the other products are float32.
    one, y, yy = ((neighbours(values, 0, reach, -1)[0] * g).double() for values in (along_y, slope_y, bend_y))
    x, xx, xy = torch.zeros_like(one), torch.zeros_like(one), torch.zeros_like(one)
    for k, (g_k, xg_k, xxg_k) in enumerate(kernels[1:], 1):
        before, after = neighbours(along_y, k, reach, -1)
        both = before + after
        one.add_(both, alpha=g_k)
        xx.add_(both, alpha=xxg_k)
        x += (after - before).mul_(xg_k)
        before, after = neighbours(slope_y, k, reach, -1)
        y += (before + after).mul_(g_k)
        xy += (after - before).mul_(xg_k)
        before, after = neighbours(bend_y, k, reach, -1)
        yy += (before + after).mul_(g_k)

    x_x, one_xx, xx_xx, xy_xy = basis.inverse
    one.mul_(one_xx)
    result = images.new_empty(len(images), 5, *images.shape[1:])
    torch.mul(y, x_x, out=result[:, 0])
    torch.mul(x, x_x, out=result[:, 1])
    torch.add(yy.mul_(xx_xx), one, out=result[:, 2])
    torch.add(xx.mul_(xx_xx), one, out=result[:, 3])
    torch.mul(xy, xy_xy / 2, out=result[:, 4])
    return result


def look_up(expansions: Tensor, flow: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """Expansions of second frames where the flow leads, (N, 5, h, w), and whether that is inside, bool (N, 1, h, w)."""
    position = flow + level.pixels
    x, y = position.split(1, dim=1)
    # The last row and column are outside: for OpenCV a position is inside if the four pixels around it are.
    inside = (x >= 0) & (x < level.width - 1) & (y >= 0) & (y < level.height - 1)
    x, y = position.long().split(1, dim=1)
    index = y.mul_(level.width).add_(x).masked_fill_(~inside, 0).flatten(2).expand(-1, 5, -1)
    right, below = position.frac_().split(1, dim=1)
    left, above = 1 - right, 1 - below
    pixels = expansions.flatten(2)
    moved: Tensor | None = None
    for offset, weight in (
        (0, left * above),
        (1, right * above),
        (level.width, left * below),
        (level.width + 1, right * below),
    ):
        # A picture of one row or column has no such pixel, but no position inside either.
        offset = min(offset, pixels.shape[2] - 1)
        part = pixels[..., offset:].gather(2, index).view_as(expansions).mul_(weight)
        moved = part if moved is None else moved.add_(part)
    assert moved is not None  # there are four offsets
    return moved, inside


def normal_equations(first: Tensor, second: Tensor, flow: Tensor, level: Level) -> Tensor:
    """Equations (13) at each pixel, from the expansions of two frames and a guess of the flow (N, 2, h, w)."""
    moved, inside = look_up(second, flow, level)
    # (9) and (10) without their factor 1/2. Outside, A is the first frame's, and b of the second frame is 0.
    b, A = moved[:, :2], moved[:, 2:]
    torch.sub(first[:, :2], b.masked_fill_(~inside, 0), out=b)
    torch.where(inside, A, first[:, 2:], out=A).add_(first[:, 2:])
    y, x, yy, xx, xy = moved.unbind(1)
    # A d of the guess is added to b, so that the solution is the whole flow and not a correction of it.
    x_flow, y_flow = flow.unbind(1)
    y += (yy * y_flow).add_(xy * x_flow)
    x += (xy * y_flow).add_(xx * x_flow)
    for part in level.border:
        moved[part].mul_(level.certainty[part])

    result = flow.new_empty(len(flow), 5, level.height, level.width)
    xy_xy = xy * xy
    torch.mul(yy, yy, out=result[:, 0]).add_(xy_xy)
    torch.add(yy, xx, out=result[:, 1]).mul_(xy)
    torch.mul(xx, xx, out=result[:, 2]).add_(xy_xy)
    torch.mul(yy, y, out=result[:, 3]).add_(xy * x)
    torch.mul(xy, y, out=result[:, 4]).add_(xx * x)
    return result


def running_sums(values: Tensor, reach: int, dim: int) -> Tensor:
    """Sums of the 2 reach + 1 values around each value along an axis, float64.

    They run from one border to the other as OpenCV's do: each step adds the value that enters the window minus the one
    that leaves it, and this difference is rounded like the values. So the rounding errors of a strong texture stay in
    all sums behind it.
    """
    size = values.shape[dim]
    # A GPU adds along rows in another order, along columns one by one.
    along_rows = dim == -1 and values.is_cuda
    if along_rows:
        sums = values.new_empty(values.mT.shape, dtype=torch.float64).mT
    else:
        sums = values.new_empty(values.shape, dtype=torch.float64)
    for start, end in itertools.pairwise(sorted({0, min(reach + 1, size), max(size - reach, 0), size})):
        part = sums.narrow(dim, start, end - start)
        enters = values.narrow(dim, start + reach, end - start) if end <= size - reach else values.narrow(dim, -1, 1)
        leaves = values.narrow(dim, start - reach - 1, end - start) if start > reach else values.narrow(dim, 0, 1)
        torch.sub(enters.expand_as(part), leaves, out=part)
    # The sums start one position before the first value, where the window has the first value reach + 2 times.
    before = (values.narrow(dim, 0, 1) * (reach + 2)).double()
    for k in range(1, reach):
        before += values.narrow(dim, min(k, size - 1), 1)
    sums.narrow(dim, 0, 1).add_(before)
    return sums.mT.cumsum_(-2).mT if along_rows else sums.cumsum_(dim)


def window_sums(equations: Tensor, window: Window) -> Tensor:
    """Equations summed over the window around each pixel, with its weights if it has any; float64."""
    if window.weights is None:
        return running_sums(running_sums(equations, window.reach, -2), window.reach, -1)
    sums = F.pad(equations, (window.reach,) * 4, mode="replicate")
    centre, *outer = window.weights.tolist()
    for dim in (-2, -1):
        values = sums
        sums = neighbours(values, 0, window.reach, dim)[0] * centre
        for k, weight in enumerate(outer, 1):
            before, after = neighbours(values, k, window.reach, dim)
            sums += (before + after).mul_(weight)
    return sums.double()


def solve(equations: Tensor, window: Window, out: Tensor | None = None) -> Tensor:
    """The flow (N, 2, h, w) that solves the equations of each window in the least squares sense (13); `out` if given."""
    yy, xy, xx, y, x = window_sums(equations, window).unbind(1)
    determinant = (yy * xx).addcmul_(xy, xy, value=-1).add_(window.regularisation)
    flow = equations.new_empty(len(equations), 2, *equations.shape[2:]) if out is None else out
    torch.div((yy * x).addcmul_(xy, y, value=-1), determinant, out=flow[:, 0])
    torch.div((xx * y).addcmul_(xy, x, value=-1), determinant, out=flow[:, 1])
    return flow


def encode(flow: Tensor, scale: float, planes: bool) -> Tensor:
    """Flow (N, H, W, 2) -> its bytes, see Farneback.encode."""
    num, height, width, _ = flow.shape
    values = flow.permute(0, 3, 1, 2)
    if not planes:
        values = torch.cat([values, values.square().sum(1, keepdim=True).sqrt_()], 1)
    levels = values.mul(scale).add_(ZERO).round_().clamp_(0, 255).to(torch.uint8)
    return levels.reshape(num, 2 * height, width) if planes else levels.permute(0, 2, 3, 1).contiguous()


# ------------------------------------------------------------------------------------------------------ whole pairs


class Farneback:
    """Flow between frames of one size, with one set of parameters, on one device. Its tables are computed once.

    The parameters are the ones of cv2.calcOpticalFlowFarneback, gaussian is its flag; ValueError where one is out of
    range. fused=True uses the Triton kernels of farneback_kernels.py instead of the plain operations above: the same
    flow except for rounding, with a tenth of the memory traffic. Where they cannot run, a warning says so and the plain
    operations are used.
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
        # Checks the parameters. OpenCV accepts levels=0, too: no pyramid.
        FarnebackParameters(pyr_scale, levels or 1, win_size, iterations, poly_n, poly_sigma)
        self.device = torch.device(device)
        self.levels = build_levels(height, width, pyr_scale=pyr_scale, levels=levels, device=self.device)
        self.basis = build_basis(poly_n, poly_sigma, device=self.device)
        self.window = build_window(win_size, gaussian=gaussian, device=self.device)
        self.pyr_scale = pyr_scale
        self.iterations = iterations
        self.operations = choose_operations(self.device, fused=fused)

    def pairs(self, first: Tensor, second: Tensor, *, chunk: int | None = None) -> Tensor:
        """N pairs of frames, uint8 (N, H, W) each -> flow (N, H, W, 2) float32 on the device, `chunk` pairs at a time.

        Raises ValueError for frames of another type or size.
        """
        self._check(first)
        self._check(second)
        if first.shape != second.shape:
            raise ValueError(f"first frames are {tuple(first.shape)}, second {tuple(second.shape)}, expected the same")
        flow = self._empty_flow(len(first))
        chunk = chunk or self.chunk()
        for parts in zip(flow.split(chunk), first.split(chunk), second.split(chunk), strict=True):
            self._flow(self._expand(parts[1]), self._expand(parts[2]), parts[0])
        return flow

    def sequence(self, frames: Tensor, *, chunk: int | None = None) -> Tensor:
        """Flow from each frame of a video to the next, uint8 (T, H, W) -> float32 (T - 1, H, W, 2).

        The same as `pairs`, but each frame is expanded once only.
        """
        self._check(frames)
        flow = self._empty_flow(max(len(frames) - 1, 0))
        chunk = chunk or self.chunk()
        before: list[Tensor] = []  # expansions of the last frame of the previous chunk
        done = 0
        for part in (frames[: chunk + 1], *frames[chunk + 1 :].split(chunk)):
            if not len(part):
                break
            expansions = self._expand(part)
            if before:
                expansions = [torch.cat(both) for both in zip(before, expansions, strict=True)]
            before = [expansion[-1:].clone() for expansion in expansions]
            num = len(expansions[0]) - 1
            self._flow([e[:-1] for e in expansions], [e[1:] for e in expansions], flow[done : done + num])
            done += num
        return flow

    def between(self, frames: Tensor, pairs: Tensor, *, chunk: int | None = None) -> Iterator[Tensor]:
        """Flow of pairs, int64 (P, 2) indices of frames (F, H, W) uint8, in chunks of float32 (n, H, W, 2).

        Each chunk expands all frames from the first to the last of its pairs once, so pairs should be in the order of
        their frames.
        """
        self._check(frames)
        for part in pairs.split(chunk or self.chunk()):
            first, last = int(part.min()), int(part.max())
            expansions = self._expand(frames[first : last + 1])
            firsts, seconds = (part - first).to(self.device, non_blocking=True).unbind(1)
            chosen = [e[firsts] for e in expansions], [e[seconds] for e in expansions]
            del expansions
            yield self._flow(*chosen, self._empty_flow(len(part)))

    def encode(self, flow: Tensor, *, scale: float, planes: bool = True) -> Tensor:
        """Flow (N, H, W, 2) -> planes (N, 2H, W) uint8, or flow images (N, H, W, 3): the bytes that FlowCoding gives.

        FlowCoding.encode_planes and encode for a batch on its device; scale: grey levels per pixel, as FlowCoding has it.
        """
        return self.operations.encode(flow, scale, planes)

    def chunk(self) -> int:
        """How many pairs to compute at a time: to fill half of a GPU's free memory, and no more than keep it busy."""
        budget = CHUNK_BYTES.get(self.device.type, CHUNK_BYTES["cpu"])
        if self.device.type == "cuda":
            unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            budget = min(budget, (torch.cuda.mem_get_info(self.device)[0] + unused) // 2)
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
        """Expansions of frames on each level, the coarsest first."""
        frames = frames.to(self.device, non_blocking=True).contiguous()
        operations = self.operations
        return [operations.expand(operations.level_images(frames, level), self.basis) for level in self.levels]

    @torch.no_grad()
    def _flow(self, first: list[Tensor], second: list[Tensor], result: Tensor) -> Tensor:
        """Expansions of N first and N second frames on each level -> flow, written to the result (N, H, W, 2)."""
        coarsest = self.levels[0]
        flow = first[0].new_zeros(len(first[0]), 2, coarsest.height, coarsest.width)
        for level, first_of_level, second_of_level in zip(self.levels, first, second, strict=True):
            if level.flow_taps is not None:
                flow = self.operations.resize_flow(flow, level.flow_taps, 1 / self.pyr_scale)
            for iteration in range(1, self.iterations + 1):
                is_last = level is self.levels[-1] and iteration == self.iterations
                equations = self.operations.normal_equations(first_of_level, second_of_level, flow, level)
                flow = self.operations.solve(equations, self.window, result.permute(0, 3, 1, 2) if is_last else None)
        return result


class Operations(NamedTuple):
    """The six steps, as plain operations or as kernels."""

    level_images: Callable[[Tensor, Level], Tensor]
    expand: Callable[[Tensor, Basis], Tensor]
    resize_flow: Callable[[Tensor, tuple[Taps, Taps], float], Tensor]
    normal_equations: Callable[[Tensor, Tensor, Tensor, Level], Tensor]
    solve: Callable[[Tensor, Window, Tensor | None], Tensor]
    encode: Callable[[Tensor, float, bool], Tensor]


PLAIN = Operations(level_images, expand, resize_flow, normal_equations, solve, encode)


def choose_operations(device: torch.device, *, fused: bool) -> Operations:
    """The kernels, if they are wanted and can run on this device (else a warning); the plain operations otherwise."""
    if fused:
        kernels: ModuleType | None
        try:
            from twostream.flow import farneback_kernels as kernels
        except ImportError:  # torch brings Triton only where there can be a GPU
            kernels = None
        if kernels and kernels.run_on(device):
            return Operations(*(getattr(kernels, name) for name in Operations._fields))
        warnings.warn(f"no Triton kernels on {device}: flow by plain tensor operations, which is slower", stacklevel=3)
    return PLAIN


def farneback(prev: Tensor, next: Tensor, *, chunk: int | None = None, **parameters: Any) -> Tensor:
    """Flow of N pairs, uint8 (N, H, W) each -> float32 (N, H, W, 2) on the device of `prev`; parameters: `Farneback`."""
    return Farneback(*prev.shape[-2:], device=prev.device, **parameters).pairs(prev, next, chunk=chunk)


def farneback_sequence(frames: Tensor, *, chunk: int | None = None, **parameters: Any) -> Tensor:
    """Flow from each frame to the next, uint8 (T, H, W) -> float32 (T - 1, H, W, 2); parameters: `Farneback`."""
    return Farneback(*frames.shape[-2:], device=frames.device, **parameters).sequence(frames, chunk=chunk)
