"""The four steps of flow_torch.py as Triton kernels, each of which reads its input and writes its result once.

They take and give the same as the plain operations there, which explain them, but for expansions, here (N, 5, h, w)
without a buffer around. A program computes a tile of the result, and reads the neighbours it needs from the cache; sums
are taken one tap after the other, so that a result depends neither on the batch nor on the tile.

On a GPU only; with TRITON_INTERPRET=1 in the environment on the CPU, at a crawl, which is how tests run them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from twostream.flow_tables import MIDDLE_GREY, REGULARISATION, Basis, Level, Taps, Window

TILE_HEIGHT, TILE_WIDTH = 16, 32
"""Pixels. Windows reach 7 pixels up and down: a taller tile reads less twice, a wider one reads whole cache lines."""


def run_on(device: torch.device) -> bool:
    return device.type == "cuda" or triton.knobs.runtime.interpret


def launch(kernel, shape: tuple[int, int, int], *inputs: Tensor | float, **constants) -> None:
    """Run a kernel on all tiles of N results of size h w."""
    num, height, width = shape
    tiles = num * triton.cdiv(height, TILE_HEIGHT) * triton.cdiv(width, TILE_WIDTH)
    # Whether products and sums are rounded apart is said here, since Triton's default differs between versions.
    options = dict(TILE_HEIGHT=TILE_HEIGHT, TILE_WIDTH=TILE_WIDTH, enable_fp_fusion=True)
    if tiles:
        with torch.cuda.device_of(inputs[0]):
            kernel[(tiles,)](*inputs, height, width, **constants, **options)


@triton.jit
def tile_of(height, width, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr):
    """Number of this program's image, rows and columns of its tile's pixels, and which of them are in the image.

    As a list of pixels, not as a picture: older Triton lays out pictures for some loads so, for others so.
    """
    across = tl.cdiv(width, TILE_WIDTH)
    down = tl.cdiv(height, TILE_HEIGHT)
    tile = tl.program_id(0)
    image = tile // (across * down)
    pixels = tl.arange(0, TILE_HEIGHT * TILE_WIDTH)
    y = tile // across % down * TILE_HEIGHT + pixels // TILE_WIDTH
    x = tile % across * TILE_WIDTH + pixels % TILE_WIDTH
    return image.to(tl.int64), y, x, (y < height) & (x < width)


@triton.jit
def level_image_kernel(
    frames, images, start_y, weight_y, start_x, weight_x, middle, frame_height, frame_width, height, width,
    TAPS_Y: tl.constexpr, TAPS_X: tl.constexpr, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr,
):  # fmt: skip
    image, y, x, mask = tile_of(height, width, TILE_HEIGHT, TILE_WIDTH)
    frames += image * frame_height * frame_width
    first_y = tl.load(start_y + y, mask=mask, other=0).to(tl.int32)
    first_x = tl.load(start_x + x, mask=mask, other=0).to(tl.int32)
    total = tl.zeros((TILE_HEIGHT * TILE_WIDTH,), tl.float32)
    for tap_y in range(TAPS_Y):
        along_x = tl.zeros((TILE_HEIGHT * TILE_WIDTH,), tl.float32)
        for tap_x in range(TAPS_X):
            value = tl.load(frames + (first_y + tap_y) * frame_width + first_x + tap_x, mask=mask, other=0)
            share = tl.load(weight_x + tap_x * width + x, mask=mask, other=0.0)
            along_x += (value.to(tl.float32) - middle) * share
        total += along_x * tl.load(weight_y + tap_y * height + y, mask=mask, other=0.0)
    tl.store(images + image * height * width + y * width + x, total, mask=mask)


def level_images(frames: Tensor, taps: tuple[Taps, Taps]) -> Tensor:
    (start_y, weight_y), (start_x, weight_x) = taps
    images = torch.empty(len(frames), len(start_y), len(start_x), device=frames.device)
    launch(
        level_image_kernel, images.shape, frames, images, start_y, weight_y, start_x, weight_x, MIDDLE_GREY,
        *frames.shape[1:], TAPS_Y=len(weight_y), TAPS_X=len(weight_x),
    )  # fmt: skip
    return images


@triton.jit
def along_row(row, x, width, kernels, POLY_N: tl.constexpr):
    """Correlations of a row's pixels with g, x g, and the kernel of x^2."""
    centre = tl.load(row + tl.minimum(x, width - 1))
    even = centre * tl.load(kernels)
    odd = centre - centre
    bend = odd
    for k in range(1, POLY_N + 1):
        before = tl.load(row + tl.minimum(tl.maximum(x - k, 0), width - 1))
        after = tl.load(row + tl.minimum(x + k, width - 1))
        even += (after + before) * tl.load(kernels + k)
        odd += (after - before) * tl.load(kernels + POLY_N + 1 + k)
        bend += (after + before - 2 * centre) * tl.load(kernels + 2 * (POLY_N + 1) + k)
    return even, odd, bend


@triton.jit
def expand_kernel(
    images, expansions, kernels, scale, scale_xy, height, width,
    POLY_N: tl.constexpr, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr,
):  # fmt: skip
    image, y, x, mask = tile_of(height, width, TILE_HEIGHT, TILE_WIDTH)
    images += image * height * width
    centre, odd, bend = along_row(images + tl.minimum(y, height - 1) * width, x, width, kernels, POLY_N)
    g = tl.load(kernels)
    sum_x, sum_xx = odd * g, bend * g
    sum_y = centre - centre
    sum_xy, sum_yy = sum_y, sum_y
    for k in range(1, POLY_N + 1):
        row = tl.minimum(tl.maximum(y - k, 0), height - 1) * width
        before, before_odd, before_bend = along_row(images + row, x, width, kernels, POLY_N)
        row = tl.minimum(y + k, height - 1) * width
        after, after_odd, after_bend = along_row(images + row, x, width, kernels, POLY_N)
        g = tl.load(kernels + k)
        yg = tl.load(kernels + POLY_N + 1 + k)
        sum_x += (after_odd + before_odd) * g
        sum_xx += (after_bend + before_bend) * g
        sum_y += (after - before) * yg
        sum_xy += (after_odd - before_odd) * yg
        sum_yy += (after + before - 2 * centre) * tl.load(kernels + 2 * (POLY_N + 1) + k)
    size = height * width
    out = expansions + image * 5 * size + y * width + x
    tl.store(out, sum_y * scale, mask=mask)
    tl.store(out + size, sum_x * scale, mask=mask)
    tl.store(out + 2 * size, sum_yy, mask=mask)
    tl.store(out + 3 * size, sum_xx, mask=mask)
    tl.store(out + 4 * size, sum_xy * scale_xy, mask=mask)


def expand(images: Tensor, basis: Basis, level: Level) -> Tensor:
    expansions = images.new_empty(len(images), 5, level.height, level.width)
    poly_n = basis.table.shape[1] - 1
    launch(expand_kernel, images.shape, images, expansions, basis.table, *basis.scales, POLY_N=poly_n)
    return expansions


@triton.jit
def look_up(second, corner, width, fraction_x, fraction_y, inside):
    """Bilinear between the four pixels from `corner` on; 0 outside."""
    upper_left = tl.load(second + corner, mask=inside, other=0.0)
    upper_right = tl.load(second + corner + 1, mask=inside, other=0.0)
    lower_left = tl.load(second + corner + width, mask=inside, other=0.0)
    lower_right = tl.load(second + corner + width + 1, mask=inside, other=0.0)
    upper = upper_left * (1 - fraction_x) + upper_right * fraction_x
    lower = lower_left * (1 - fraction_x) + lower_right * fraction_x
    return upper * (1 - fraction_y) + lower * fraction_y


@triton.jit
def normal_equations_kernel(
    first, second, flow, certainty, equations, height, width, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr
):
    image, y, x, mask = tile_of(height, width, TILE_HEIGHT, TILE_WIDTH)
    size = height * width
    pixel = y * width + x
    x_flow = tl.load(flow + image * 2 * size + pixel, mask=mask, other=0.0)
    y_flow = tl.load(flow + image * 2 * size + size + pixel, mask=mask, other=0.0)
    there_x = x + x_flow
    there_y = y + y_flow
    left = tl.floor(there_x)
    upper = tl.floor(there_y)
    inside = mask & (left >= 0) & (left < width - 1) & (upper >= 0) & (upper < height - 1)
    fraction_x = there_x - left
    fraction_y = there_y - upper
    corner = tl.where(inside, upper, 0).to(tl.int32) * width + tl.where(inside, left, 0).to(tl.int32)
    first += image * 5 * size + pixel
    second += image * 5 * size
    first_y = tl.load(first, mask=mask, other=0.0)
    first_x = tl.load(first + size, mask=mask, other=0.0)
    first_yy = tl.load(first + 2 * size, mask=mask, other=0.0)
    first_xx = tl.load(first + 3 * size, mask=mask, other=0.0)
    first_xy = tl.load(first + 4 * size, mask=mask, other=0.0)
    second_y = look_up(second, corner, width, fraction_x, fraction_y, inside)
    second_x = look_up(second + size, corner, width, fraction_x, fraction_y, inside)
    second_yy = look_up(second + 2 * size, corner, width, fraction_x, fraction_y, inside)
    second_xx = look_up(second + 3 * size, corner, width, fraction_x, fraction_y, inside)
    second_xy = look_up(second + 4 * size, corner, width, fraction_x, fraction_y, inside)

    sure = tl.load(certainty + pixel, mask=mask, other=0.0)
    yy = (first_yy + tl.where(inside, second_yy, first_yy)) * 0.5 * sure
    xx = (first_xx + tl.where(inside, second_xx, first_xx)) * 0.5 * sure
    xy = (first_xy + tl.where(inside, second_xy, first_xy)) * 0.25 * sure
    y_half = (first_y - second_y) * 0.5 * sure + yy * y_flow + xy * x_flow
    x_half = (first_x - second_x) * 0.5 * sure + xy * y_flow + xx * x_flow
    out = equations + image * 5 * size + pixel
    tl.store(out, yy * yy + xy * xy, mask=mask)
    tl.store(out + size, (yy + xx) * xy, mask=mask)
    tl.store(out + 2 * size, xx * xx + xy * xy, mask=mask)
    tl.store(out + 3 * size, yy * y_half + xy * x_half, mask=mask)
    tl.store(out + 4 * size, xy * y_half + xx * x_half, mask=mask)


def normal_equations(first: Tensor, second: Tensor, flow: Tensor, level: Level) -> Tensor:
    equations = flow.new_empty(len(flow), 5, level.height, level.width)
    shape = len(flow), level.height, level.width
    launch(normal_equations_kernel, shape, first, second, flow, level.certainty, equations)
    return equations


@triton.jit
def average_down_kernel(
    equations, averaged, weights, height, width,
    NUM_WEIGHTS: tl.constexpr, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr,
):  # fmt: skip
    """Weighted sums along y; a channel of the equations is an image of its own."""
    image, y, x, mask = tile_of(height, width, TILE_HEIGHT, TILE_WIDTH)
    equations += image * height * width
    total = tl.zeros((TILE_HEIGHT * TILE_WIDTH,), tl.float32)
    for tap in range(NUM_WEIGHTS):
        row = tl.minimum(tl.maximum(y + tap - NUM_WEIGHTS // 2, 0), height - 1)
        total += tl.load(equations + row * width + x, mask=mask, other=0.0) * tl.load(weights + tap)
    tl.store(averaged + image * height * width + y * width + x, total, mask=mask)


@triton.jit
def solve_kernel(
    averaged, flow, weights, regularisation, height, width,
    NUM_WEIGHTS: tl.constexpr, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr,
):  # fmt: skip
    """Weighted sums along x, and the flow they give."""
    image, y, x, mask = tile_of(height, width, TILE_HEIGHT, TILE_WIDTH)
    size = height * width
    averaged += image * 5 * size + y * width
    none = tl.zeros((TILE_HEIGHT * TILE_WIDTH,), tl.float32)
    yy, xy, xx, y_half, x_half = none, none, none, none, none
    for tap in range(NUM_WEIGHTS):
        weight = tl.load(weights + tap)
        here = averaged + tl.minimum(tl.maximum(x + tap - NUM_WEIGHTS // 2, 0), width - 1)
        yy += tl.load(here, mask=mask, other=0.0) * weight
        xy += tl.load(here + size, mask=mask, other=0.0) * weight
        xx += tl.load(here + 2 * size, mask=mask, other=0.0) * weight
        y_half += tl.load(here + 3 * size, mask=mask, other=0.0) * weight
        x_half += tl.load(here + 4 * size, mask=mask, other=0.0) * weight
    determinant = yy * xx - xy * xy + regularisation
    out = flow + image * 2 * size + y * width + x
    tl.store(out, (yy * x_half - xy * y_half) / determinant, mask=mask)
    tl.store(out + size, (xx * y_half - xy * x_half) / determinant, mask=mask)


def solve(equations: Tensor, window: Window) -> Tensor:
    num, channels, height, width = equations.shape
    averaged = torch.empty_like(equations)
    flow = equations.new_empty(num, 2, height, width)
    size = dict(NUM_WEIGHTS=len(window.table))
    launch(average_down_kernel, (num * channels, height, width), equations, averaged, window.table, **size)
    launch(solve_kernel, (num, height, width), averaged, flow, window.table, REGULARISATION, **size)
    return flow
