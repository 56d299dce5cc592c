"""The four steps of flow_torch.py as Triton kernels, each of which reads its input and writes its result once.

They take and give the same as the plain operations there, which explain them, to the last bit but for sums in float64.
A program computes a tile of the result, and reads the neighbours it needs from the cache; sums are taken one tap after
the other, so that a result depends neither on the batch nor on the tile. Float64 is arithmetic alone, but for the sums
of a box along y: what is read and written is float32.

On a GPU only; with TRITON_INTERPRET=1 in the environment on the CPU, at a crawl, which is how tests run them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from twostream.flow.farneback_tables import Basis, Level, Window

TILE_HEIGHT, TILE_WIDTH = 16, 32
"""Pixels. Windows reach 7 pixels up and down: a taller tile reads less twice, a wider one reads whole cache lines."""
COLUMNS, ROWS = 128, 32
"""Of a tile as high as the image, and of one as wide: running sums."""


def run_on(device: torch.device) -> bool:
    return device.type == "cuda" or triton.knobs.runtime.interpret


def launch(
    kernel, shape: tuple[int, int, int], *inputs: Tensor | int, tile: tuple[int, int] | None = None, **constants
):
    """Run a kernel on all tiles of N results of size h w."""
    num, height, width = shape
    tile_height, tile_width = tile or (TILE_HEIGHT, TILE_WIDTH)
    tiles = num * triton.cdiv(height, tile_height) * triton.cdiv(width, tile_width)
    # Products and sums are rounded apart, as in the plain operations.
    options = dict(TILE_HEIGHT=tile_height, TILE_WIDTH=tile_width, enable_fp_fusion=False)
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
def multiply_add(total, part, weight, apart):
    """total + part * weight, rounded once; where `apart`, the product is rounded, too."""
    product = part.to(tl.float64) * weight.to(tl.float64)
    product = tl.where(apart, product.to(tl.float32).to(tl.float64), product)
    return (product + total.to(tl.float64)).to(tl.float32)


@triton.jit
def blur_along_x(row, taps, stride, blur, apart, mask, REACH: tl.constexpr):
    centre = tl.load(row + tl.load(taps + REACH * stride, mask=mask, other=0), mask=mask, other=0).to(tl.float32)
    total = centre - centre
    if REACH > 2:
        for k in range(2 * REACH + 1):
            pixel = tl.load(row + tl.load(taps + k * stride, mask=mask, other=0), mask=mask, other=0)
            total = multiply_add(total, pixel, tl.load(blur + tl.maximum(k - REACH, REACH - k)), apart)
    else:
        for k in range(1, REACH + 1):
            before = tl.load(row + tl.load(taps + (REACH - k) * stride, mask=mask, other=0), mask=mask, other=0)
            after = tl.load(row + tl.load(taps + (REACH + k) * stride, mask=mask, other=0), mask=mask, other=0)
            total = multiply_add(total, before.to(tl.float32) + after.to(tl.float32), tl.load(blur + k), apart)
            if k == 1:
                total = multiply_add(total, centre, tl.load(blur), apart)
    return total


@triton.jit
def blur_frame(frame, taps_y, taps_x, stride_y, stride_x, blur, frame_width, mask, REACH: tl.constexpr):
    """The blurred frame at some pixels: taps point to the rows and columns of their first taps."""
    column = tl.load(taps_x + REACH * stride_x, mask=mask, other=0)
    apart_x = column >= frame_width  # nowhere
    apart_y = apart_x
    if REACH > 1:
        apart_y = column >= frame_width // 8 * 8
    if REACH > 2:
        apart_x = column >= frame_width // 4 * 4
    row = frame + tl.load(taps_y + REACH * stride_y, mask=mask, other=0) * frame_width
    centre = blur_along_x(row, taps_x, stride_x, blur, apart_x, mask, REACH)
    total = multiply_add(centre - centre, centre, tl.load(blur), apart_y)
    for k in range(1, REACH + 1):
        row = frame + tl.load(taps_y + (REACH - k) * stride_y, mask=mask, other=0) * frame_width
        before = blur_along_x(row, taps_x, stride_x, blur, apart_x, mask, REACH)
        row = frame + tl.load(taps_y + (REACH + k) * stride_y, mask=mask, other=0) * frame_width
        after = blur_along_x(row, taps_x, stride_x, blur, apart_x, mask, REACH)
        total = multiply_add(total, before + after, tl.load(blur + k), apart_y)
    return total


@triton.jit
def level_image_kernel(
    frames, images, index_y, fraction_y, index_x, fraction_x, blur, frame_height, frame_width, height, width,
    REACH: tl.constexpr, SIDES_Y: tl.constexpr, SIDES_X: tl.constexpr,
    TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr,
):  # fmt: skip
    image, y, x, mask = tile_of(height, width, TILE_HEIGHT, TILE_WIDTH)
    frame = frames + image * frame_height * frame_width
    share_y = tl.load(fraction_y + y, mask=mask, other=0.0)
    share_x = tl.load(fraction_x + x, mask=mask, other=0.0)
    total = share_x - share_x
    for side_y in range(SIDES_Y):
        row = total
        for side_x in range(SIDES_X):
            pixel = blur_frame(
                frame, index_y + side_y * height + y, index_x + side_x * width + x, SIDES_Y * height, SIDES_X * width,
                blur, frame_width, mask, REACH,
            )  # fmt: skip
            if side_x == 0:
                row = pixel
            else:
                row = multiply_add(row, pixel - row, share_x, x < 0)
        if side_y == 0:
            total = row
        else:
            total = multiply_add(total, row - total, share_y, x < 0)
    tl.store(images + image * height * width + y * width + x, total, mask=mask)


def level_images(frames: Tensor, level: Level) -> Tensor:
    taps_y, taps_x = level.frame_taps
    images = torch.empty(len(frames), level.height, level.width, device=frames.device)
    launch(
        level_image_kernel, images.shape, frames, images, *taps_y, *taps_x, level.blur, *frames.shape[1:],
        REACH=len(level.blur) - 1, SIDES_Y=taps_y.index.shape[1], SIDES_X=taps_x.index.shape[1],
    )  # fmt: skip
    return images


@triton.jit
def along_column(column, y, height, width, kernels, POLY_N: tl.constexpr):
    """Correlations of a column's pixels with g, x g and x^2 g."""
    centre = tl.load(column + tl.minimum(y, height - 1) * width)
    along = centre * tl.load(kernels)
    slope = centre - centre
    bend = slope
    for k in range(1, POLY_N + 1):
        before = tl.load(column + tl.minimum(tl.maximum(y - k, 0), height - 1) * width)
        after = tl.load(column + tl.minimum(y + k, height - 1) * width)
        along += (before + after) * tl.load(kernels + k)
        slope += (after - before) * tl.load(kernels + POLY_N + 1 + k)
        bend += (before + after) * tl.load(kernels + 2 * (POLY_N + 1) + k)
    return along, slope, bend


@triton.jit
def expand_kernel(
    images, expansions, kernels, inverse, height, width,
    POLY_N: tl.constexpr, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr,
):  # fmt: skip
    image, y, x, mask = tile_of(height, width, TILE_HEIGHT, TILE_WIDTH)
    size = height * width
    images += image * size
    along, slope, bend = along_column(images + tl.minimum(x, width - 1), y, height, width, kernels, POLY_N)
    g = tl.load(kernels)
    sum_one, sum_y, sum_yy = (along * g).to(tl.float64), (slope * g).to(tl.float64), (bend * g).to(tl.float64)
    sum_x = sum_one - sum_one
    sum_xx, sum_xy = sum_x, sum_x
    for k in range(1, POLY_N + 1):
        column = images + tl.minimum(tl.maximum(x - k, 0), width - 1)
        along_before, slope_before, bend_before = along_column(column, y, height, width, kernels, POLY_N)
        column = images + tl.minimum(x + k, width - 1)
        along_after, slope_after, bend_after = along_column(column, y, height, width, kernels, POLY_N)
        g = tl.load(kernels + k)
        xg = tl.load(kernels + POLY_N + 1 + k)
        xxg = tl.load(kernels + 2 * (POLY_N + 1) + k)
        both = (along_before + along_after).to(tl.float64)
        sum_one += both * g.to(tl.float64)
        sum_xx += both * xxg.to(tl.float64)
        sum_x += ((along_after - along_before) * xg).to(tl.float64)
        sum_y += ((slope_before + slope_after) * g).to(tl.float64)
        sum_xy += ((slope_after - slope_before) * xg).to(tl.float64)
        sum_yy += ((bend_before + bend_after) * g).to(tl.float64)
    sum_one *= tl.load(inverse + 1)
    out = expansions + image * 5 * size + y * width + x
    tl.store(out, (sum_y * tl.load(inverse)).to(tl.float32), mask=mask)
    tl.store(out + size, (sum_x * tl.load(inverse)).to(tl.float32), mask=mask)
    tl.store(out + 2 * size, (sum_yy * tl.load(inverse + 2) + sum_one).to(tl.float32), mask=mask)
    tl.store(out + 3 * size, (sum_xx * tl.load(inverse + 2) + sum_one).to(tl.float32), mask=mask)
    tl.store(out + 4 * size, (sum_xy * (tl.load(inverse + 3) / 2)).to(tl.float32), mask=mask)


def expand(images: Tensor, basis: Basis) -> Tensor:
    expansions = images.new_empty(len(images), 5, *images.shape[1:])
    poly_n = basis.table.shape[1] - 1
    launch(expand_kernel, images.shape, images, expansions, basis.table, basis.inverse_table, POLY_N=poly_n)
    return expansions


@triton.jit
def look_up(second, corner, width, left, right, above, below, inside):
    """Bilinear between the four pixels from `corner` on; 0 outside."""
    total = tl.load(second + corner, mask=inside, other=0.0) * (left * above)
    total += tl.load(second + corner + 1, mask=inside, other=0.0) * (right * above)
    total += tl.load(second + corner + width, mask=inside, other=0.0) * (left * below)
    return total + tl.load(second + corner + width + 1, mask=inside, other=0.0) * (right * below)


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
    corner_x = tl.floor(there_x)
    corner_y = tl.floor(there_y)
    inside = mask & (corner_x >= 0) & (corner_x < width - 1) & (corner_y >= 0) & (corner_y < height - 1)
    right = there_x - corner_x
    below = there_y - corner_y
    left, above = 1 - right, 1 - below
    corner = tl.where(inside, corner_y, 0).to(tl.int32) * width + tl.where(inside, corner_x, 0).to(tl.int32)
    first += image * 5 * size + pixel
    second += image * 5 * size
    first_y = tl.load(first, mask=mask, other=0.0)
    first_x = tl.load(first + size, mask=mask, other=0.0)
    first_yy = tl.load(first + 2 * size, mask=mask, other=0.0)
    first_xx = tl.load(first + 3 * size, mask=mask, other=0.0)
    first_xy = tl.load(first + 4 * size, mask=mask, other=0.0)
    second_y = look_up(second, corner, width, left, right, above, below, inside)
    second_x = look_up(second + size, corner, width, left, right, above, below, inside)
    second_yy = look_up(second + 2 * size, corner, width, left, right, above, below, inside)
    second_xx = look_up(second + 3 * size, corner, width, left, right, above, below, inside)
    second_xy = look_up(second + 4 * size, corner, width, left, right, above, below, inside)

    yy = first_yy + tl.where(inside, second_yy, first_yy)
    xx = first_xx + tl.where(inside, second_xx, first_xx)
    xy = first_xy + tl.where(inside, second_xy, first_xy)
    b_y = first_y - second_y + (yy * y_flow + xy * x_flow)
    b_x = first_x - second_x + (xy * y_flow + xx * x_flow)
    sure = tl.load(certainty + pixel, mask=mask, other=0.0)
    yy *= sure
    xx *= sure
    xy *= sure
    b_y *= sure
    b_x *= sure
    out = equations + image * 5 * size + pixel
    tl.store(out, yy * yy + xy * xy, mask=mask)
    tl.store(out + size, (yy + xx) * xy, mask=mask)
    tl.store(out + 2 * size, xx * xx + xy * xy, mask=mask)
    tl.store(out + 3 * size, yy * b_y + xy * b_x, mask=mask)
    tl.store(out + 4 * size, xy * b_y + xx * b_x, mask=mask)


def normal_equations(first: Tensor, second: Tensor, flow: Tensor, level: Level) -> Tensor:
    equations = flow.new_empty(len(flow), 5, level.height, level.width)
    shape = len(flow), level.height, level.width
    launch(normal_equations_kernel, shape, first, second, flow, level.certainty, equations)
    return equations


@triton.jit
def store_flow(out, size, yy, xy, xx, b_y, b_x, mask, REGULARISATION: tl.constexpr):
    """The flow that solves the equations, which are float64."""
    share = 1 / (yy * xx - xy * xy + tl.full((1,), REGULARISATION, tl.float64))
    tl.store(out, ((yy * b_x - xy * b_y) * share).to(tl.float32), mask=mask)
    tl.store(out + size, ((xx * b_y - xy * b_x) * share).to(tl.float32), mask=mask)


@triton.jit
def sum_before(values, stride, last, mask, REACH: tl.constexpr):
    """What a running sum is before its first value."""
    total = (tl.load(values, mask=mask, other=0.0) * (REACH + 2)).to(tl.float64)
    for k in range(1, REACH):
        total += tl.load(values + tl.minimum(k, last) * stride, mask=mask, other=0.0).to(tl.float64)
    return total


@triton.jit
def change_of_sum(values, place, stride, last, mask, REACH: tl.constexpr):
    comes = tl.load(values + tl.minimum(place + REACH, last) * stride, mask=mask, other=0.0)
    goes = tl.load(values + tl.maximum(place - REACH - 1, 0) * stride, mask=mask, other=0.0)
    return (comes - goes).to(tl.float64)


@triton.jit
def box_sums_kernel(
    equations, sums, num_rows, height, width,
    REACH: tl.constexpr, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr,
):  # fmt: skip
    """Running sums down the columns; a channel of the equations is an image of its own, and height is 1."""
    image, y, x, mask = tile_of(height, width, TILE_HEIGHT, TILE_WIDTH)
    column = equations + image * num_rows * width + x
    total = sum_before(column, width, num_rows - 1, mask, REACH)
    for row in range(num_rows):
        total += change_of_sum(column, row, width, num_rows - 1, mask, REACH)
        tl.store(sums + image * num_rows * width + row * width + x, total, mask=mask)


@triton.jit
def solve_box_kernel(
    sums, flow, num_columns, height, width,
    REACH: tl.constexpr, REGULARISATION: tl.constexpr, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr,
):  # fmt: skip
    """Running sums of those along the rows, and the flow they give; width is 1."""
    image, y, x, mask = tile_of(height, width, TILE_HEIGHT, TILE_WIDTH)
    size = height * num_columns
    last = num_columns - 1
    row = sums + image * 5 * size + y * num_columns
    out = flow + image * 2 * size + y * num_columns
    yy = sum_before(row, 1, last, mask, REACH)
    xy = sum_before(row + size, 1, last, mask, REACH)
    xx = sum_before(row + 2 * size, 1, last, mask, REACH)
    b_y = sum_before(row + 3 * size, 1, last, mask, REACH)
    b_x = sum_before(row + 4 * size, 1, last, mask, REACH)
    for column in range(num_columns):
        yy += change_of_sum(row, column, 1, last, mask, REACH)
        xy += change_of_sum(row + size, column, 1, last, mask, REACH)
        xx += change_of_sum(row + 2 * size, column, 1, last, mask, REACH)
        b_y += change_of_sum(row + 3 * size, column, 1, last, mask, REACH)
        b_x += change_of_sum(row + 4 * size, column, 1, last, mask, REACH)
        store_flow(out + column, size, yy, xy, xx, b_y, b_x, mask, REGULARISATION)


@triton.jit
def weighted_sum(values, place, stride, last, weights, mask, REACH: tl.constexpr):
    total = tl.load(values + place * stride, mask=mask, other=0.0) * tl.load(weights)
    for k in range(1, REACH + 1):
        before = tl.load(values + tl.maximum(place - k, 0) * stride, mask=mask, other=0.0)
        after = tl.load(values + tl.minimum(place + k, last) * stride, mask=mask, other=0.0)
        total += (before + after) * tl.load(weights + k)
    return total


@triton.jit
def weighted_sums_kernel(
    equations, sums, weights, height, width,
    REACH: tl.constexpr, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr,
):  # fmt: skip
    """Sums along y; a channel of the equations is an image of its own."""
    image, y, x, mask = tile_of(height, width, TILE_HEIGHT, TILE_WIDTH)
    image *= height * width
    total = weighted_sum(equations + image + x, y, width, height - 1, weights, mask, REACH)
    tl.store(sums + image + y * width + x, total, mask=mask)


@triton.jit
def solve_weighted_kernel(
    sums, flow, weights, height, width, REACH: tl.constexpr, REGULARISATION: tl.constexpr,
    TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr,
):  # fmt: skip
    """Sums along x, and the flow they give."""
    image, y, x, mask = tile_of(height, width, TILE_HEIGHT, TILE_WIDTH)
    size = height * width
    row = sums + image * 5 * size + y * width
    yy = weighted_sum(row, x, 1, width - 1, weights, mask, REACH).to(tl.float64)
    xy = weighted_sum(row + size, x, 1, width - 1, weights, mask, REACH).to(tl.float64)
    xx = weighted_sum(row + 2 * size, x, 1, width - 1, weights, mask, REACH).to(tl.float64)
    b_y = weighted_sum(row + 3 * size, x, 1, width - 1, weights, mask, REACH).to(tl.float64)
    b_x = weighted_sum(row + 4 * size, x, 1, width - 1, weights, mask, REACH).to(tl.float64)
    out = flow + image * 2 * size + y * width + x
    store_flow(out, size, yy, xy, xx, b_y, b_x, mask, REGULARISATION)


def solve(equations: Tensor, window: Window) -> Tensor:
    num, channels, height, width = equations.shape
    flow = equations.new_empty(num, 2, height, width)
    options = dict(REACH=window.reach, REGULARISATION=window.regularisation)
    if window.weights is None:
        sums = torch.empty_like(equations, dtype=torch.float64)
        shape = num * channels, 1, width
        launch(box_sums_kernel, shape, equations, sums, height, tile=(1, COLUMNS), REACH=window.reach)
        shape = num, height, 1
        launch(solve_box_kernel, shape, sums, flow, width, tile=(ROWS, 1), num_warps=1, **options)
    else:
        sums = torch.empty_like(equations)
        shape = num * channels, height, width
        launch(weighted_sums_kernel, shape, equations, sums, window.table, REACH=window.reach)
        launch(solve_weighted_kernel, (num, height, width), sums, flow, window.table, **options)
    return flow
