"""Farneback's flow on one CPU core, compiled by numba: the flow of OpenCV in about half the time.

The same steps and the same rounding as in farneback.py, which has the equations; see there why rounding matters. Time is
saved in three ways. In a video, each frame is expanded once, and not once as the second and once as the first frame of a
pair. The equations, their sums and the solution are computed row by row, so that what lies between them stays in the
cache. And values of one kind lie side by side, so that the processor computes several pixels at a time.

numba makes vector instructions of a loop where it can prove that no array in it overlaps another. Hence many short loops
over two or three arrays, and blocks of BLOCK pixels whose values lie in one array, at distances that the compiler knows.

Letters: H W of the frames, h w of a level, m pixels that a window reaches to each side. Arrays are float32 unless they
are sums. The five values of a pixel are in the order of farneback.py.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import cv2
import numba
import numpy as np

from twostream.flow.farneback_tables import basis_numbers, box_regularisation, build_certainty, level_blur, level_scales

BLOCK = 128
"""pixels of a row that are computed together; their values take 12 KB"""
# Where they are in the array of a block.
X_FLOW, Y_FLOW, INSIDE, CERTAINTY, CORNERS, FIRST, SECOND, EQUATIONS = (BLOCK * k for k in (0, 1, 2, 3, 4, 8, 13, 18))
NUM_VALUES = 23 * BLOCK
NUM_SUMS = 5 * BLOCK

INT, INDEX, F32, F64 = np.int32, np.uintp, np.float32, np.float64
ZERO, ONE = F32(0), F32(1)


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """A function for numba, which keeps the machine code on the disk if there is a place for it."""
    options |= {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither this folder nor the user's cache folder can be written
        return numba.njit(**options)(function)


inlined = partial(compiled, inline="always")
"""for short loops: a call with arrays takes longer than they do"""


# ------------------------------------------------------------------------------------------------------- expansions
# The type of a weight decides how a product is rounded.


@inlined
def fill(result, value):
    """result = value"""
    for x in range(len(result)):
        result[x] = value


@inlined
def scale_and_add(result, values, one, weight):
    """result = values * weight + one"""
    for x in range(len(result)):
        result[x] = values[x] * weight + one[x]


@inlined
def scale(result, values, weight):
    """result = values * weight"""
    for x in range(len(result)):
        result[x] = values[x] * weight


@inlined
def add(total, values):
    """total += values"""
    for x in range(len(total)):
        total[x] += values[x]


@inlined
def add_sum(total, before, after, weight):
    """total += (before + after) * weight"""
    for x in range(len(total)):
        total[x] += (before[x] + after[x]) * weight


@inlined
def add_difference(total, before, after, weight):
    """total += (after - before) * weight"""
    for x in range(len(total)):
        total[x] += (after[x] - before[x]) * weight


@inlined
def copy_borders(row, border):
    """Repeats the first and last value inside the borders of a row (w + 2 border,) in them."""
    width = len(row) - 2 * border
    for k in range(border):
        row[k] = row[border]
        row[border + width + k] = row[border + width - 1]


@compiled
def expand(image, kernels, inverse, planes):
    """Writes the expansion of an image (h, w) to planes (5, h, w); kernels and inverse as in Basis."""
    height, width = image.shape
    n = kernels.shape[1] - 1
    rows = np.empty((3, width + 2 * n), F32)  # along y: with g, x g and x^2 g
    one, y_, yy, x_, xx, xy = np.empty((6, width), F64)  # along x
    x_x, one_xx, xx_xx, xy_xy = inverse
    g = kernels[0, 0]
    for y in range(height):
        flat, slope, bend = rows[0, n : n + width], rows[1, n : n + width], rows[2, n : n + width]
        scale(flat, image[y], g)
        fill(slope, ZERO)
        fill(bend, ZERO)
        for k in range(1, n + 1):
            before, after = image[max(y - k, 0)], image[min(y + k, height - 1)]
            add_sum(flat, before, after, kernels[0, k])
            add_difference(slope, before, after, kernels[1, k])
            add_sum(bend, before, after, kernels[2, k])
        for row in range(3):
            copy_borders(rows[row], n)

        scale(one, flat, g)
        scale(y_, slope, g)
        scale(yy, bend, g)
        fill(x_, 0)
        fill(xx, 0)
        fill(xy, 0)
        for k in range(1, n + 1):
            before, after = rows[0, n - k : n - k + width], rows[0, n + k : n + k + width]
            add_sum(one, before, after, F64(kernels[0, k]))
            add_sum(xx, before, after, F64(kernels[2, k]))
            add_difference(x_, before, after, kernels[1, k])
            before, after = rows[1, n - k : n - k + width], rows[1, n + k : n + k + width]
            add_sum(y_, before, after, kernels[0, k])
            add_difference(xy, before, after, kernels[1, k])
            before, after = rows[2, n - k : n - k + width], rows[2, n + k : n + k + width]
            add_sum(yy, before, after, kernels[0, k])

        scale(one, one, one_xx)
        scale(planes[0, y], y_, x_x)
        scale(planes[1, y], x_, x_x)
        scale(planes[4, y], xy, xy_xy / 2)
        scale_and_add(planes[2, y], yy, one, xx_xx)
        scale_and_add(planes[3, y], xx, one, xx_xx)


# -------------------------------------------------------------------------------------------------------- equations


@compiled
def find_corners(block, corners, x_start, y, height, width, num):
    """Where the flow leads: INSIDE, the weights of four pixels (CORNERS) and the index of the first of them."""
    right_end, lower_end, row = F32(width - 1), F32(height - 1), F32(y)
    for k in range(num):
        x_, y_ = F32(INT(k) + INT(x_start)) + block[X_FLOW + k], row + block[Y_FLOW + k]
        inside = (x_ >= ZERO) & (x_ < right_end) & (y_ >= ZERO) & (y_ < lower_end)
        x_, y_ = x_ if inside else ZERO, y_ if inside else ZERO
        column, line = INT(x_), INT(y_)
        right, below = x_ - F32(column), y_ - F32(line)
        left, above = ONE - right, ONE - below
        block[INSIDE + k] = ONE if inside else ZERO
        block[CORNERS + k] = left * above
        block[CORNERS + BLOCK + k] = right * above
        block[CORNERS + 2 * BLOCK + k] = left * below
        block[CORNERS + 3 * BLOCK + k] = right * below
        corners[k] = line * INT(width) + column


@compiled
def look_up(block, corners, second, size, width, num):
    """SECOND: values of the second frame where the flow leads; `second` is its flat expansion of planes of `size` pixels."""
    for k in range(num):
        above = INDEX(corners[k])
        below = above + INDEX(width)
        a, b = block[CORNERS + k], block[CORNERS + BLOCK + k]
        c, d = block[CORNERS + 2 * BLOCK + k], block[CORNERS + 3 * BLOCK + k]
        for plane in range(5):
            i, j = above + INDEX(plane * size), below + INDEX(plane * size)
            block[SECOND + plane * BLOCK + k] = (
                second[i] * a + second[i + INDEX(1)] * b + second[j] * c + second[j + INDEX(1)] * d
            )


@compiled
def combine(block, num):
    """EQUATIONS of each pixel from the values of both frames."""
    for k in range(num):
        inside = block[INSIDE + k] > ZERO
        x_flow, y_flow, certainty = block[X_FLOW + k], block[Y_FLOW + k], block[CERTAINTY + k]
        y, x = block[FIRST + k], block[FIRST + BLOCK + k]
        yy, xx, xy = block[FIRST + 2 * BLOCK + k], block[FIRST + 3 * BLOCK + k], block[FIRST + 4 * BLOCK + k]
        y -= block[SECOND + k] if inside else ZERO
        x -= block[SECOND + BLOCK + k] if inside else ZERO
        yy += block[SECOND + 2 * BLOCK + k] if inside else yy
        xx += block[SECOND + 3 * BLOCK + k] if inside else xx
        xy += block[SECOND + 4 * BLOCK + k] if inside else xy
        y += yy * y_flow + xy * x_flow
        x += xy * y_flow + xx * x_flow
        y, x, yy, xx, xy = y * certainty, x * certainty, yy * certainty, xx * certainty, xy * certainty
        xy_xy = xy * xy
        block[EQUATIONS + k] = yy * yy + xy_xy
        block[EQUATIONS + BLOCK + k] = (yy + xx) * xy
        block[EQUATIONS + 2 * BLOCK + k] = xx * xx + xy_xy
        block[EQUATIONS + 3 * BLOCK + k] = yy * y + xy * x
        block[EQUATIONS + 4 * BLOCK + k] = xy * y + xx * x


@inlined
def copy(result, values):
    """result = values"""
    for x in range(len(result)):
        result[x] = values[x]


@compiled
def row_equations(first, second, flow, certainty, y, equations, block, corners):
    """Writes the equations of row y to equations (5, w)."""
    _, height, width = first.shape
    for start in range(0, width, BLOCK):
        num = min(BLOCK, width - start)
        end = start + num
        copy(block[X_FLOW : X_FLOW + num], flow[0, y, start:end])
        copy(block[Y_FLOW : Y_FLOW + num], flow[1, y, start:end])
        copy(block[CERTAINTY : CERTAINTY + num], certainty[y, start:end])
        find_corners(block, corners, start, y, height, width, num)
        look_up(block, corners, second, height * width, width, num)
        for plane in range(5):
            copy(block[FIRST + plane * BLOCK : FIRST + plane * BLOCK + num], first[plane, y, start:end])
        combine(block, num)
        for plane in range(5):
            values = EQUATIONS + plane * BLOCK
            copy(equations[plane, start:end], block[values : values + num])


# --------------------------------------------------------------------------------------------------------- solution


@inlined
def sum_before(row, reach):
    """Sum of the window around the place before the first one, in a row with borders of m + 1 values."""
    total = row[reach + 1] * (reach + 2)
    for k in range(1, reach):
        total += row[reach + 1 + k]
    return total


@compiled
def solve_row(sums, reach, regularisation, block, x_flow, y_flow):
    """Writes a row of flow; sums (5, w + 2 m + 2) float64 along y, with borders, are summed along x first."""
    width = len(x_flow)
    for plane in range(5):
        copy_borders(sums[plane], reach + 1)
    t0, t1, t2 = sum_before(sums[0], reach), sum_before(sums[1], reach), sum_before(sums[2], reach)
    t3, t4 = sum_before(sums[3], reach), sum_before(sums[4], reach)
    for start in range(0, width, BLOCK):
        num = min(BLOCK, width - start)
        for plane in range(5):
            leaves, enters = sums[plane, start : start + num], sums[plane, start + 2 * reach + 1 :]
            changes = block[plane * BLOCK : plane * BLOCK + num]
            for k in range(num):
                changes[k] = enters[k] - leaves[k]
        for k in range(num):  # five sums at a time, since each one waits for the one before
            t0 += block[k]
            t1 += block[BLOCK + k]
            t2 += block[2 * BLOCK + k]
            t3 += block[3 * BLOCK + k]
            t4 += block[4 * BLOCK + k]
            block[k], block[BLOCK + k], block[2 * BLOCK + k] = t0, t1, t2
            block[3 * BLOCK + k], block[4 * BLOCK + k] = t3, t4
        for k in range(num):
            yy, xy, xx = block[k], block[BLOCK + k], block[2 * BLOCK + k]
            y, x = block[3 * BLOCK + k], block[4 * BLOCK + k]
            factor = 1 / (yy * xx - xy * xy + regularisation)
            block[k], block[BLOCK + k] = (yy * x - xy * y) * factor, (xx * y - xy * x) * factor
        copy(x_flow[start : start + num], block[:num])
        copy(y_flow[start : start + num], block[BLOCK : BLOCK + num])


@compiled
def iterate(first, second, flow, certainty, reach, regularisation):
    """Replaces a guess of the flow (2, h, w) by the solution of its equations, one iteration.

    first: expansion (5, h, w) of the first frame. second: that of the second one, flat, and w + 1 values more, which are
    read and not used. The equations of 2 m + 2 rows are kept: those of the window, and the row that leaves it.
    """
    _, height, width = first.shape
    kept = 2 * reach + 2
    equations = np.empty((kept, 5, width), F32)
    sums = np.empty((5, width + kept), F64)
    block, corners, block_sums = np.empty(NUM_VALUES, F32), np.empty(BLOCK, INT), np.empty(NUM_SUMS, F64)
    for newest in range(height + reach):
        if newest < height:
            row_equations(first, second, flow, certainty, newest, equations[newest % kept], block, corners)
        y = newest - reach
        if y < 0:
            continue
        enters, leaves = min(newest, height - 1) % kept, max(y - reach - 1, 0) % kept
        for plane in range(5):
            row = sums[plane, reach + 1 : reach + 1 + width]
            if y == 0:  # the window starts one row above the picture, where it has the first row m + 2 times
                scale(row, equations[0, plane], F32(reach + 2))
                for k in range(1, reach):
                    add(row, equations[min(k, height - 1), plane])
            add_difference(row, equations[leaves, plane], equations[enters, plane], ONE)
        solve_row(sums, reach, regularisation, block_sums, flow[0, y], flow[1, y])


# ------------------------------------------------------------------------------------------------------ whole pairs


class _Level(NamedTuple):
    height: int
    width: int
    blur_size: int
    """pixels"""
    sigma: float
    """pixels of the frame"""
    certainty: np.ndarray
    """see build_certainty"""


class CompiledFarneback:
    """A FlowFunction with the parameters of FarnebackParameters, for one thread at a time.

    It keeps the expansion of the last second frame, so it is fast where each pair begins with the end of the one before.
    """

    def __init__(
        self, *, pyr_scale: float, levels: int, win_size: int, iterations: int, poly_n: int, poly_sigma: float
    ):
        self.pyr_scale = pyr_scale
        self.max_levels = levels
        self.iterations = iterations
        self.kernels, self.inverse = basis_numbers(poly_n, poly_sigma)
        self.reach = win_size // 2
        self.regularisation = box_regularisation(win_size)
        self.levels: list[_Level] = []
        self.last: np.ndarray | None = None
        """the second frame of the last pair"""
        self.expansions: list[np.ndarray] = []
        """of that frame, on each level, the coarsest first"""

    def __call__(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Two grey images (H, W) uint8 -> flow (H, W, 2) float32, pixels; ValueError where their sizes differ."""
        if first.shape != second.shape:
            sizes = [f"{frame.shape[1]}x{frame.shape[0]}" for frame in (first, second)]
            raise ValueError(f"found frames of {sizes[0]} and {sizes[1]} pixels, expected the same size")
        if self.last is None or not np.array_equal(first, self.last):
            self.levels = self._build_levels(*first.shape)
            self.expansions = self._expand(first)
        before, self.expansions, self.last = self.expansions, self._expand(second), second.copy()

        pixels: np.ndarray | None = None
        for level, of_first, of_second in zip(self.levels, before, self.expansions, strict=True):
            if pixels is None:
                flow = np.zeros((2, level.height, level.width), F32)
            else:  # both channels at once, as OpenCV does: it rounds the positions of one channel in another way
                resized = cv2.resize(pixels, (level.width, level.height), interpolation=cv2.INTER_LINEAR)
                flow = np.stack(cv2.split(resized * F32(1 / self.pyr_scale)))
            num = 5 * level.height * level.width
            planes = of_first[:num].reshape(5, level.height, level.width)
            for _ in range(self.iterations):
                iterate(planes, of_second, flow, level.certainty, self.reach, self.regularisation)
            pixels = cv2.merge(list(flow))
        assert pixels is not None  # there is at least one level
        return pixels

    def _build_levels(self, height: int, width: int) -> list[_Level]:
        if self.last is not None and (height, width) == self.last.shape:
            return self.levels
        built = []
        for factor in level_scales(height, width, pyr_scale=self.pyr_scale, levels=self.max_levels):
            h, w = round(height * factor), round(width * factor)
            sigma, reach = level_blur(factor)
            built.append(_Level(h, w, 2 * reach + 1, sigma, build_certainty(h, w)))
        return built

    def _expand(self, frame: np.ndarray) -> list[np.ndarray]:
        """Expansions of a frame on each level, flat, with w + 1 values more behind each."""
        values = frame.astype(F32)
        expansions = []
        for level in self.levels:
            blurred = cv2.GaussianBlur(values, (level.blur_size, level.blur_size), level.sigma)
            image = cv2.resize(blurred, (level.width, level.height), interpolation=cv2.INTER_LINEAR)
            num = 5 * level.height * level.width
            expansion = np.zeros(num + level.width + 1, F32)
            expand(image, self.kernels, self.inverse, expansion[:num].reshape(5, level.height, level.width))
            expansions.append(expansion)
        return expansions
