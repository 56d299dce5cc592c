"""Farneback's flow in a few large operators of torch that ONNX has, too: convolutions, products of matrices, look-ups.

The same steps as in farneback.py, which has the equations, without OpenCV's order of rounding. That order decides the
result only where pictures are still or flat; on real footage, 99.99 % of the bytes of flow images are OpenCV's. Sizes
and parameters are part of the graph, the number of frames is not.

Letters as in farneback.py; M frames, N pairs.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twostream.flow.farneback_tables import Basis, Level, Taps, Window, build_basis, build_levels, build_window
from twostream.flow.methods import FarnebackParameters

SMALLEST_FRAME = 10
"""pixels of the shorter side; below, the weights at the borders overlap"""


class FarnebackGraph(nn.Module):
    """Flow between frames of one size, with one set of parameters. Raises ValueError for frames that are too small."""

    def __init__(self, height: int, width: int, parameters: FarnebackParameters):
        super().__init__()
        if min(height, width) < SMALLEST_FRAME:
            raise ValueError(
                f"frames of {width}x{height} pixels, expected {SMALLEST_FRAME} or more in height and width"
            )
        p, cpu = parameters, torch.device("cpu")
        levels = build_levels(height, width, pyr_scale=p.pyr_scale, levels=p.levels, device=cpu)
        window = build_window(p.win_size, gaussian=False, device=cpu)
        basis = build_basis(p.poly_n, p.poly_sigma, device=cpu)
        self.expansions = nn.ModuleList(_Expansion(level, basis, height, width) for level in levels)
        self.solvers = nn.ModuleList(_Solver(level, window, p.iterations) for level in levels)
        self.pyr_scale = p.pyr_scale

    def expand(self, frames: Tensor) -> list[Tensor]:
        """Grey frames, float32 (M, H, W), 0 to 255 -> their expansions (M, 5, h, w) on each level, the coarsest first."""
        return [expansion(frames) for expansion in self.expansions]

    def flow(self, first: list[Tensor], second: list[Tensor]) -> Tensor:
        """Expansions of N first and N second frames -> flow, float32 (N, 2, H, W)."""
        flow = torch.zeros_like(first[0][:, :2])
        for solver, of_first, of_second in zip(self.solvers, first, second, strict=True):
            if flow.shape[2:] != of_first.shape[2:]:
                flow = F.interpolate(flow, size=of_first.shape[2:], mode="bilinear") / self.pyr_scale
            flow = solver(of_first, of_second, flow)
        return flow

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """N pairs of grey frames, uint8 (N, H, W) each -> flow, float32 (N, 2, H, W)."""
        return self.flow(self.expand(first.float()), self.expand(second.float()))


class _Expansion(nn.Module):
    """Frames -> the images of a level -> their expansions (1)."""

    blur: Tensor
    rows: Tensor
    columns: Tensor
    along_y: Tensor
    along_x: Tensor

    def __init__(self, level: Level, basis: Basis, height: int, width: int):
        super().__init__()
        blur = np.concatenate([level.blur[1:].flip(0), level.blur]).astype(float)
        self.is_full_size = (level.height, level.width) == (height, width)
        if self.is_full_size:
            self.register_buffer("blur", _float32(np.outer(blur, blur))[None, None])
        else:
            taps_y, taps_x = level.frame_taps
            self.register_buffer("rows", _float32(_matrix(taps_y, blur, height)))
            self.register_buffer("columns", _float32(_matrix(taps_x, blur, width).T))
        self.reach = basis.kernels.shape[1] - 1
        g, xg, xxg = (
            np.concatenate([sign * right[:0:-1], right]).astype(float)
            for sign, right in zip((1, -1, 1), basis.kernels, strict=True)
        )
        self.register_buffer("along_y", _float32(np.stack([g, xg, xxg]))[:, None, :, None])
        # From what was multiplied by g, y g and y^2 g along y, to b_y, b_x, A_yy, A_xy, A_xx.
        x_x, one_xx, xx_xx, xy_xy = basis.inverse
        weights = np.zeros((5, 3, len(g)))
        weights[0, 1] = g * x_x
        weights[1, 0] = xg * x_x
        weights[2, 0], weights[2, 2] = g * one_xx, g * xx_xx
        weights[3, 1] = xg * xy_xy / 2
        weights[4, 0] = g * one_xx + xxg * xx_xx
        self.register_buffer("along_x", _float32(weights)[:, :, None])

    def forward(self, frames: Tensor) -> Tensor:
        if self.is_full_size:
            reach = self.blur.shape[-1] // 2
            images = F.conv2d(F.pad(frames[:, None], (reach,) * 4, mode="reflect"), self.blur)
        else:
            images = (self.rows @ frames @ self.columns)[:, None]
        padded = F.pad(images, (self.reach,) * 4, mode="replicate")
        return F.conv2d(F.conv2d(padded, self.along_y), self.along_x)


class _Solver(nn.Module):
    """The iterations on a level: from a guess of the flow to the flow."""

    certainty_y: Tensor
    certainty_x: Tensor

    def __init__(self, level: Level, window: Window, iterations: int):
        super().__init__()
        self.height, self.width, self.iterations = level.height, level.width, iterations
        self.reach, self.regularisation = window.reach, window.regularisation
        # They are products of a weight of the row and one of the column.
        self.register_buffer("certainty_y", level.certainty[:, level.width // 2, None].clone())
        self.register_buffer("certainty_x", level.certainty[level.height // 2].clone())

    def forward(self, first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
        certainty = self.certainty_y * self.certainty_x
        first_b, first_A = (first * certainty).split((2, 3), dim=1)
        four_pixels = self._four_pixels(second)
        sum_rows, sum_columns = self._window(self.height), self._window(self.width).T
        for _ in range(self.iterations):
            x_flow, y_flow = flow.split(1, dim=1)
            second_b, second_A, inside = self._look_up(four_pixels, x_flow, y_flow, certainty)
            # (9) and (10) without their factor 1/2. Outside, A is the first frame's, and b of the second frame is 0.
            A = second_A + first_A * (2 - inside)
            yy, xy, xx = A.split(1, dim=1)
            A_y, A_x = A[:, :2], A[:, 1:]  # columns of A: what it multiplies y and x by
            # A d of the guess is added to b, so that the solution is the whole flow and not a correction of it.
            y, x = (first_b - second_b + A_y * y_flow + A_x * x_flow).split(1, dim=1)
            equations = torch.cat([A_y * yy + A_x * xy, xy * xy + xx * xx, A_y * y + A_x * x], dim=1)
            yy, xy, xx, y, x = (sum_rows @ equations @ sum_columns).split(1, dim=1)
            determinant = yy * xx - xy * xy + self.regularisation
            flow = torch.cat([yy * x - xy * y, xx * y - xy * x], dim=1) / determinant
        return flow

    def _four_pixels(self, expansions: Tensor) -> Tensor:
        """Expansions (N, 5, h, w) -> (N h w, 20): of each pixel, of the one to the right, and of the two below them."""
        pixels = expansions.transpose(0, 1).flatten(1)
        shifts = 0, 1, self.width, self.width + 1
        return torch.cat([torch.cat([pixels[:, shift:], pixels[:, :shift]], dim=1) for shift in shifts]).T.contiguous()

    def _look_up(
        self, four_pixels: Tensor, x_flow: Tensor, y_flow: Tensor, certainty: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """b and A of second frames where the flow leads, times the certainty, 0 outside; and 1.0 where that is inside.

        (N, 2, h, w), (N, 3, h, w), (N, 1, h, w). ONNX has GridSample for this, which takes twice as long.
        """
        x = x_flow + torch.arange(self.width)
        y = y_flow + torch.arange(self.height)[:, None]
        last_x, last_y = self.width - 1, self.height - 1
        inside = ((x >= 0) & (x < last_x) & (y >= 0) & (y < last_y)).float()
        left, top = x.clamp(0, last_x - 1).floor(), y.clamp(0, last_y - 1).floor()
        first_pixels = torch.arange(x_flow.shape[0]).view(-1, 1, 1, 1) * (self.height * self.width)
        index = first_pixels + (top * self.width + left).long()
        certainty = inside * certainty
        below = (y - top) * certainty
        above = certainty - below
        right = x - left
        weights = torch.stack([above - above * right, above * right, below - below * right, below * right])
        # Products of matrices repeat the weights of pixels for their five values, and add up the pixels.
        repeat = torch.eye(4).repeat_interleave(5, dim=1)
        add_up = torch.eye(5).repeat(1, 4)
        weighted = four_pixels.index_select(0, index.flatten()) * (weights.flatten(1).T @ repeat)
        moved = (add_up @ weighted.T).view(5, -1, self.height, self.width).transpose(0, 1)
        return moved[:, :2], moved[:, 2:], inside

    def _window(self, size: int) -> Tensor:
        """Matrix (size, size) that sums the pixels of windows, beyond the borders the outermost. Not stored in the file."""
        pixels = torch.arange(size)[:, None] + torch.arange(-self.reach, self.reach + 1)
        return F.one_hot(pixels.clamp(0, size - 1), size).sum(dim=1).float()


def _matrix(taps: Taps, blur: np.ndarray, size: int) -> np.ndarray:
    """Matrix (new size, size) that blurs a line of pixels and resizes it."""
    before_and_after, new_size = taps.pixels.shape[1:]
    fraction = taps.fraction.numpy().astype(float)
    shares = (1 - fraction, fraction) if before_and_after == 2 else (np.ones(new_size),)
    matrix = np.zeros((new_size, size))
    for weight, pixels in zip(blur, taps.pixels.numpy(), strict=True):
        for share, pixel in zip(shares, pixels, strict=True):
            np.add.at(matrix, (np.arange(new_size), pixel), weight * share)
    return matrix


def _float32(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
