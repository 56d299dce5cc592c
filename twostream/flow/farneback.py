"""Farneback's flow of many pairs at once, in tensor operations on any device: the flow that OpenCV's CPU code gives.

G. Farneback, Two-Frame Motion Estimation Based on Polynomial Expansion, SCIA 2003; numbers in brackets are its
equations. Around each pixel a frame is a polynomial x'Ax + b'x + c (1). Moved by d, it has the same A and another b
(5), so that A d = -(b2 - b1) / 2 (8). With a first guess of d, frame 2 is looked up where the guess leads (section on a
priori knowledge), A is the mean of both frames (9), and d solves the equations of all pixels of a window in the least
squares sense (12, 13). That is repeated on each level of a pyramid, the coarsest first.

What OpenCV does beside the paper (pyramid from the whole frame, borders, rounding of sizes) is followed to the letter,
and so is how it rounds: which numbers are float32 and which float64, and in which order they are added. For where a
picture stands still or is flat, rounding is the result: the sign of a motion of 1e-9 pixels decides there whether a
pixel of the border is inside, a window hardly determines d, and iterations make pixels of that. Any other arithmetic,
a more exact one too, is then as far from OpenCV as a wrong one. Products and sums are therefore separate operations
here, as neither all devices nor all versions of torch round twice in one that does both.

There are no matrix products or convolutions: nothing for TF32 or autocast to shorten, and the flow of a pair does not
depend on the other pairs of its batch.

Letters: N pairs, H W of the frames, h w of a level. Frames are uint8 (N, H, W), flow float32, x before y, in pixels.
Inside, flow is (N, 2, h, w), and what belongs to a pixel stands on axis 1:
  expansion  (N, 5, h, w)  b_y, b_x, A_yy, A_xx, A_xy
  equations  (N, 5, h, w)  4 A'A: yy, xy, xx; 4 A'b: y, x (four times, as halving is left out twice)
"""

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from twostream.flow.coding import ZERO
from twostream.flow.farneback_tables import Basis, Level, Taps, Window, build_basis, build_levels, build_window
from twostream.flow.methods import FarnebackParameters

BYTES_PER_PIXEL = 300  # of a pair at its most: expansions of all levels, sums in float64; 190 to 250 were measured
CHUNK_BYTES = {"cpu": 1 << 26, "cuda": 1 << 33}  # at most: what fits in a cache, what keeps a GPU busy


# ------------------------------------------------------------------------------------------- plain tensor operations


def add_product(total: Tensor, part: Tensor, weight: float, apart: Tensor | None = None) -> Tensor:
    """total + part * weight in float32, rounded once: a product of two float32 is exact in float64. Overwrites total.

    apart: columns where the product is rounded, too.
    """
    twice = None if apart is None else total + part * weight
    total.add_(part.double(), alpha=weight)
    return total if apart is None else torch.where(apart, twice, total)


def pixels_of(images: Tensor, index: Tensor, dim: int) -> Tensor:
    """(..., size, ...) -> (..., 1 or 2 times h or w, ...): what one tap reads, before the places and then after them."""
    return images.index_select(dim, index.flatten())


def left_over(columns: Tensor, width: int, lanes: int) -> Tensor | None:
    """Which columns of a frame are in no full vector; None: all are."""
    whole = width // lanes * lanes
    return columns.flatten() >= whole if whole < width else None


def level_images(frames: Tensor, level: Level) -> Tensor:
    """Frames (N, H, W) uint8 -> a level's images (N, h, w) float32: cv2.GaussianBlur, then cv2.resize."""
    taps_y, taps_x = level.frame_taps
    centre, *outer = level.blur.tolist()
    reach = len(outer)
    # OpenCV multiplies and adds in one instruction, but in the columns that are left over by its larger filters.
    apart_x = left_over(taps_x.index[reach], frames.shape[-1], 4) if reach > 2 else None
    apart_y = left_over(taps_x.index[reach], frames.shape[-1], 8) if reach > 1 else None

    images = torch.zeros(*frames.shape[:2], taps_x.index[0].numel(), device=frames.device)
    if reach > 2:  # from the left to the right
        for index, weight in zip(taps_x.index, [*outer[::-1], centre, *outer], strict=True):
            images = add_product(images, pixels_of(frames, index, -1), weight, apart_x)
    else:  # the two neighbours, the pixel itself, those behind the neighbours
        for k in (1, 0, 2)[: reach + 1]:
            part = pixels_of(frames, taps_x.index[reach + k], -1).float()
            if k:
                part += pixels_of(frames, taps_x.index[reach - k], -1)
            images = add_product(images, part, outer[k - 1] if k else centre)

    total = pixels_of(images, taps_y.index[reach], -2).mul_(centre)
    for k, weight in enumerate(outer, 1):
        pair = pixels_of(images, taps_y.index[reach - k], -2).add_(pixels_of(images, taps_y.index[reach + k], -2))
        total = add_product(total, pair, weight, apart_y)
    images = total

    for dim, taps in ((-1, taps_x), (-2, taps_y)):
        if taps.index.shape[1] == 2:
            before, after = images.chunk(2, dim)
            fraction = taps.fraction[:, None] if dim == -2 else taps.fraction
            images = (after - before).double().mul_(fraction).add_(before).float()
    return images


def resize_flow(flow: Tensor, taps: tuple[Taps, Taps]) -> Tensor:
    """(N, 2, h, w) -> that of the next level, in pixels of the one before."""
    taps_y, taps_x = taps
    for dim, (index, fraction) in ((-1, taps_x), (-2, taps_y)):
        if index.shape[1] == 2:
            before, after = index[0]
            # Along x the border is as it was, along y it is put together from itself, and rounded.
            fraction = fraction[:, None] if dim == -2 else fraction.masked_fill(before == after, 0)
            flow = flow.index_select(dim, before) * (1 - fraction) + flow.index_select(dim, after) * fraction
    return flow


def neighbours(values: Tensor, k: int, reach: int, dim: int) -> tuple[Tensor, Tensor]:
    """Those k before and k after each, of values padded by `reach` along an axis."""
    size = values.shape[dim] - 2 * reach
    return values.narrow(dim, reach - k, size), values.narrow(dim, reach + k, size)


def expand(images: Tensor, basis: Basis) -> Tensor:
    """Images of a level (N, h, w) -> their expansions (1)."""
    reach = len(basis.kernels[0]) - 1
    # OpenCV repeats the outermost pixels. Padded along both axes at once, sums along y are padded along x already.
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

    # Along x the sums are float64. So are the products of `one` and `xx`, the others' are float32.
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
    """Expansions of second frames where the flow leads, (N, 5, h, w), and whether that is inside, (N, 1, h, w)."""
    position = flow + level.pixels
    x, y = position.split(1, dim=1)
    # The last row and column are outside: to OpenCV a place is inside where the four pixels around it are.
    inside = (x >= 0) & (x < level.width - 1) & (y >= 0) & (y < level.height - 1)
    x, y = position.long().split(1, dim=1)
    index = y.mul_(level.width).add_(x).masked_fill_(~inside, 0).flatten(2).expand(-1, 5, -1)
    right, below = position.frac_().split(1, dim=1)
    left, above = 1 - right, 1 - below
    pixels = expansions.flatten(2)
    moved = None
    for offset, weight in (
        (0, left * above),
        (1, right * above),
        (level.width, left * below),
        (level.width + 1, right * below),
    ):
        # A picture of one row or column has no such pixel, nor a place inside.
        offset = min(offset, pixels.shape[2] - 1)
        part = pixels[..., offset:].gather(2, index).view_as(expansions).mul_(weight)
        moved = part if moved is None else moved.add_(part)
    return moved, inside


def normal_equations(first: Tensor, second: Tensor, flow: Tensor, level: Level) -> Tensor:
    """4 A'A and 4 A'b of (13) at each pixel, from the expansions of two frames and a guess of the flow (N, 2, h, w)."""
    moved, inside = look_up(second, flow, level)
    # (9) and (10), but for their 1/2. Outside, A is that of the first frame alone, and b of the second frame is 0.
    b, A = moved[:, :2], moved[:, 2:]
    torch.sub(first[:, :2], b.masked_fill_(~inside, 0), out=b)
    torch.where(inside, A, first[:, 2:], out=A).add_(first[:, 2:])
    y, x, yy, xx, xy = moved.unbind(1)
    # A d of the guess is added to b, so that the solution is the whole flow and no correction to it.
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
    """Sums of the 2 reach + 1 neighbours of each along an axis, float64.

    They run as OpenCV's do, from one border to the other: what comes in less what goes out is added, a difference that
    is rounded as the values are. So a strong texture leaves its rounding in all that comes behind it.
    """
    size = values.shape[dim]
    # A GPU takes sums along rows in another order, those along columns one by one.
    along_rows = dim == -1 and values.is_cuda
    if along_rows:
        sums = values.new_empty(values.mT.shape, dtype=torch.float64).mT
    else:
        sums = values.new_empty(values.shape, dtype=torch.float64)
    for start, end in itertools.pairwise(sorted({0, min(reach + 1, size), max(size - reach, 0), size})):
        part = sums.narrow(dim, start, end - start)
        comes = values.narrow(dim, start + reach, end - start) if end <= size - reach else values.narrow(dim, -1, 1)
        goes = values.narrow(dim, start - reach - 1, end - start) if start > reach else values.narrow(dim, 0, 1)
        torch.sub(comes.expand_as(part), goes, out=part)
    # Before the first, the window has one pixel more, and the first of all stands in it reach + 2 times.
    before = (values.narrow(dim, 0, 1) * (reach + 2)).double()
    for k in range(1, reach):
        before += values.narrow(dim, min(k, size - 1), 1)
    sums.narrow(dim, 0, 1).add_(before)
    return sums.mT.cumsum_(-2).mT if along_rows else sums.cumsum_(dim)


def window_sums(equations: Tensor, window: Window) -> Tensor:
    """Of the pixels of each window, with their weights, or of a box without any, float64."""
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


def solve(equations: Tensor, window: Window) -> Tensor:
    """The flow (N, 2, h, w) that solves the equations of all pixels of each window best (13)."""
    yy, xy, xx, y, x = window_sums(equations, window).unbind(1)
    determinant = (yy * xx).addcmul_(xy, xy, value=-1).add_(window.regularisation)
    flow = equations.new_empty(len(equations), 2, *equations.shape[2:])
    torch.div((yy * x).addcmul_(xy, y, value=-1), determinant, out=flow[:, 0])
    torch.div((xx * y).addcmul_(xy, x, value=-1), determinant, out=flow[:, 1])
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

    def between(self, frames: Tensor, pairs: Tensor, *, chunk: int | None = None) -> Iterator[Tensor]:
        """Flow of pairs (P, 2), numbers of frames (F, H, W) uint8, in chunks of (n, H, W, 2). In each chunk, the frames from
        the first to the last that are named are expanded, once; so pairs should be in the order of their frames.
        """
        self._check(frames)
        for part in pairs.split(chunk or self.chunk()):
            first, last = int(part.min()), int(part.max())
            expansions = self._expand(frames[first : last + 1])
            one, two = (part - first).to(self.device, non_blocking=True).unbind(1)
            chosen = [e[one] for e in expansions], [e[two] for e in expansions]
            del expansions
            yield self._flow(*chosen)

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
        return [operations.expand(operations.level_images(frames, level), self.basis) for level in self.levels]

    @torch.no_grad()
    def _flow(self, first: list[Tensor], second: list[Tensor]) -> Tensor:
        """Expansions of N frames and of the N after them -> (N, H, W, 2)."""
        flow = None
        for level, one, two in zip(self.levels, first, second, strict=True):
            if level.flow_taps is None:
                flow = one.new_zeros(len(one), 2, level.height, level.width)
            else:
                flow = resize_flow(flow, level.flow_taps).mul_(1 / self.pyr_scale)
            for _ in range(self.iterations):
                equations = self.operations.normal_equations(one, two, flow, level)
                flow = self.operations.solve(equations, self.window)
        return flow.permute(0, 2, 3, 1)


class Operations(NamedTuple):
    """The four steps that are fused or not."""

    level_images: Callable[[Tensor, Level], Tensor]
    expand: Callable[[Tensor, Basis], Tensor]
    normal_equations: Callable[[Tensor, Tensor, Tensor, Level], Tensor]
    solve: Callable[[Tensor, Window], Tensor]


PLAIN = Operations(level_images, expand, normal_equations, solve)


def choose_operations(device: torch.device, *, fused: bool) -> Operations:
    if fused:
        try:
            from twostream.flow import farneback_kernels
        except ImportError:  # Triton comes with torch where there can be a GPU only
            farneback_kernels = None
        if farneback_kernels and farneback_kernels.run_on(device):
            return Operations(*(getattr(farneback_kernels, name) for name in Operations._fields))
        warnings.warn(f"no Triton kernels on {device}: flow by plain tensor operations, which is slower", stacklevel=3)
    return PLAIN


def farneback(prev: Tensor, next: Tensor, *, chunk: int | None = None, **parameters) -> Tensor:
    """Flow of N pairs, uint8 (N, H, W) each -> float32 (N, H, W, 2) on the device of prev. Parameters: Farneback's."""
    return Farneback(*prev.shape[-2:], device=prev.device, **parameters).pairs(prev, next, chunk=chunk)


def farneback_sequence(frames: Tensor, *, chunk: int | None = None, **parameters) -> Tensor:
    """Flow between neighbours, uint8 (T, H, W) -> float32 (T - 1, H, W, 2), the same as that of the pairs."""
    return Farneback(*frames.shape[-2:], device=frames.device, **parameters).sequence(frames, chunk=chunk)


def encode_batch(flow: Tensor, *, scale: float, planes: bool = True) -> Tensor:
    """Flow (N, H, W, 2) -> what FlowCoding makes of each: planes (N, 2H, W) uint8, or flow images (N, H, W, 3)."""
    num, height, width, _ = flow.shape
    values = flow.permute(0, 3, 1, 2)
    if not planes:
        values = torch.cat([values, values.square().sum(1, keepdim=True).sqrt_()], 1)
    levels = values.mul(scale).add_(ZERO).round_().clamp_(0, 255).to(torch.uint8)
    return levels.reshape(num, 2 * height, width) if planes else levels.permute(0, 2, 3, 1).contiguous()
