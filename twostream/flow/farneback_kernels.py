"""The six steps of farneback.py as Triton kernels: one kernel for each, or one along each axis where taps are many.

They have the same inputs and results as the plain operations there, which explain them, to the last bit except for the
order of sums in float64. A Triton program computes a tile of the result, and reads the neighbours it needs from the
cache; taps are added one after the other, so that a result depends neither on the batch nor on the tile. Images and
equations are read and written as float32; only the sums of a few lines of a box are stored as float64.

They run on a GPU only; with TRITON_INTERPRET=1 in the environment they run on the CPU, very slowly, as tests do it.

Parameters of kernels have no types: Triton comes without any and takes annotations as instructions (`tl.constexpr`).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from twostream.flow.coding import ZERO
from twostream.flow.farneback_tables import Basis, Level, Taps, Window

TILE_HEIGHT, TILE_WIDTH = 16, 32
"""pixels; the fastest of 7 shapes, from 1x512 to 16x32, in nearly all kernels on an H200"""
THREADS, SMALLEST_STRIP = 1 << 16, 32
"""threads that keep a GPU busy, one a column: where that needs it, a program solves a strip of this many rows or more"""
GROUP = 3
"""neighbours whose sums are shared by windows: of 15, a thread adds 3 and 5 values instead of 15"""
ROWS_AT_ONCE = 4
REGISTERS = 64
"""of a thread, so that two programs of 16 warps fit on a processor of the GPU"""


def run_on(device: torch.device) -> bool:
    """Whether kernels can run on this device."""
    return device.type == "cuda" or triton.knobs.runtime.interpret


def launch(
    kernel: Any, shape: tuple[int, ...], *inputs: Any, tile: tuple[int, int] | None = None, **constants: Any
) -> None:
    """Run a kernel on all tiles of its results; `shape` is their number, height and width.

    The kernel is given the inputs (tensors and integers, a tensor first), height and width, and its constants.
    """
    num, height, width = shape
    tile_height, tile_width = tile or (TILE_HEIGHT, TILE_WIDTH)
    tiles = num * triton.cdiv(height, tile_height) * triton.cdiv(width, tile_width)
    run(kernel, tiles, *inputs, height, width, TILE_HEIGHT=tile_height, TILE_WIDTH=tile_width, **constants)


def run(kernel: Any, programs: int, *inputs: Any, **constants: Any) -> None:
    """Run this many programs of a kernel, with products and sums rounded separately, as in the plain operations."""
    if programs:
        with torch.cuda.device_of(inputs[0]):
            kernel[(programs,)](*inputs, **constants, enable_fp_fusion=False)


@triton.jit
def tile_of(height, width, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr):
    """The index of this program's image, the rows and columns of its tile's pixels, and which of these are in the image.

    The pixels are a list and not a picture, because older versions of Triton change the layout of pictures between loads.
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
    """total + part * weight, rounded once; where `apart` is true, the product is rounded before it is added."""
    return tl.where(apart, total + part * weight, tl.fma(part, weight, total))


@triton.jit
def blur_rows_kernel(
    frames, rows, taps, blur, frame_width, height, width,
    REACH: tl.constexpr, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr,
):  # fmt: skip
    """Frames, blurred along x, at the columns that a level reads: `taps` (2 REACH + 1, width) are their pixels."""
    image, y, x, mask = tile_of(height, width, TILE_HEIGHT, TILE_WIDTH)
    row = frames + (image * height + y) * frame_width
    column = tl.load(taps + REACH * width + x, mask=mask, other=0)
    centre = tl.load(row + column, mask=mask, other=0).to(tl.float32)
    total = centre - centre
    if REACH > 2:
        apart = column >= frame_width // 4 * 4
        for k in range(2 * REACH + 1):
            pixel = tl.load(row + tl.load(taps + k * width + x, mask=mask, other=0), mask=mask, other=0)
            total = multiply_add(total, pixel.to(tl.float32), tl.load(blur + tl.maximum(k - REACH, REACH - k)), apart)
    else:
        apart = column < 0  # nowhere
        for k in range(1, REACH + 1):
            before = tl.load(row + tl.load(taps + (REACH - k) * width + x, mask=mask, other=0), mask=mask, other=0)
            after = tl.load(row + tl.load(taps + (REACH + k) * width + x, mask=mask, other=0), mask=mask, other=0)
            total = multiply_add(total, before.to(tl.float32) + after.to(tl.float32), tl.load(blur + k), apart)
            if k == 1:
                total = multiply_add(total, centre, tl.load(blur), apart)
    tl.store(rows + (image * height + y) * width + x, total, mask=mask)


@triton.jit
def blur_column(column, taps, stride, width, blur, apart, mask, REACH: tl.constexpr):
    """Columns of blurred rows, blurred along y; `taps` points to the rows of the first taps."""
    centre = tl.load(column + tl.load(taps + REACH * stride, mask=mask, other=0) * width, mask=mask, other=0.0)
    total = centre * tl.load(blur)
    for k in range(1, REACH + 1):
        before = tl.load(
            column + tl.load(taps + (REACH - k) * stride, mask=mask, other=0) * width, mask=mask, other=0.0
        )
        after = tl.load(column + tl.load(taps + (REACH + k) * stride, mask=mask, other=0) * width, mask=mask, other=0.0)
        total = multiply_add(total, before + after, tl.load(blur + k), apart)
    return total


@triton.jit
def level_image_kernel(
    rows, images, taps_y, fraction_y, taps_x, fraction_x, blur, frame_height, frame_width, height, width,
    REACH: tl.constexpr, SIDES_Y: tl.constexpr, SIDES_X: tl.constexpr,
    TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr,
):  # fmt: skip
    """Rows that are blurred, blurred along y and resized to a level; an axis has one side where its size stays, else two."""
    image, y, x, mask = tile_of(height, width, TILE_HEIGHT, TILE_WIDTH)
    share_y = tl.load(fraction_y + y, mask=mask, other=0.0)
    share_x = tl.load(fraction_x + x, mask=mask, other=0.0)
    nowhere = x < 0
    total = share_x - share_x
    for side_y in range(SIDES_Y):
        line = total
        for side_x in range(SIDES_X):
            column = side_x * width + x
            apart = nowhere
            if REACH > 1:
                frame_column = tl.load(taps_x + REACH * SIDES_X * width + column, mask=mask, other=0)
                apart = frame_column >= frame_width // 8 * 8
            pixel = blur_column(
                rows + image * frame_height * SIDES_X * width + column, taps_y + side_y * height + y, SIDES_Y * height,
                SIDES_X * width, blur, apart, mask, REACH,
            )  # fmt: skip
            if side_x == 0:
                line = pixel
            else:
                line = multiply_add(line, pixel - line, share_x, nowhere)
        if side_y == 0:
            total = line
        else:
            total = multiply_add(total, line - total, share_y, nowhere)
    tl.store(images + image * height * width + y * width + x, total, mask=mask)


def level_images(frames: Tensor, level: Level) -> Tensor:
    """As farneback.level_images."""
    taps_y, taps_x = level.frame_taps
    num, frame_height, frame_width = frames.shape
    _, sides, width = taps_x.pixels.shape
    reach = len(level.blur) - 1
    rows = torch.empty(num, frame_height, sides * width, device=frames.device)
    launch(blur_rows_kernel, rows.shape, frames, rows, taps_x.pixels, level.blur, frame_width, REACH=reach)
    images = torch.empty(num, level.height, level.width, device=frames.device)
    launch(
        level_image_kernel, images.shape, rows, images, *taps_y, *taps_x, level.blur, frame_height, frame_width,
        REACH=reach, SIDES_Y=taps_y.pixels.shape[1], SIDES_X=sides,
    )  # fmt: skip
    return images


@triton.jit
def expand_columns_kernel(
    images, sums, kernels, height, width, POLY_N: tl.constexpr, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr
):
    """Correlations of the columns with g, x g and x^2 g."""
    image, y, x, mask = tile_of(height, width, TILE_HEIGHT, TILE_WIDTH)
    size = height * width
    column = images + image * size + x
    centre = tl.load(column + y * width, mask=mask, other=0.0)
    along = centre * tl.load(kernels)
    slope = centre - centre
    bend = slope
    for k in range(1, POLY_N + 1):
        before = tl.load(column + tl.maximum(y - k, 0) * width, mask=mask, other=0.0)
        after = tl.load(column + tl.minimum(y + k, height - 1) * width, mask=mask, other=0.0)
        along += (before + after) * tl.load(kernels + k)
        slope += (after - before) * tl.load(kernels + POLY_N + 1 + k)
        bend += (before + after) * tl.load(kernels + 2 * (POLY_N + 1) + k)
    out = sums + image * 3 * size + y * width + x
    tl.store(out, along, mask=mask)
    tl.store(out + size, slope, mask=mask)
    tl.store(out + 2 * size, bend, mask=mask)


@triton.jit
def expand_kernel(
    sums, expansions, kernels, inverse, height, width,
    POLY_N: tl.constexpr, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr,
):  # fmt: skip
    """Expansions, from the correlations of the columns."""
    image, y, x, mask = tile_of(height, width, TILE_HEIGHT, TILE_WIDTH)
    size = height * width
    row = sums + image * 3 * size + y * width
    g = tl.load(kernels)
    sum_one = (tl.load(row + x, mask=mask, other=0.0) * g).to(tl.float64)
    sum_y = (tl.load(row + size + x, mask=mask, other=0.0) * g).to(tl.float64)
    sum_yy = (tl.load(row + 2 * size + x, mask=mask, other=0.0) * g).to(tl.float64)
    sum_x = sum_one - sum_one
    sum_xx, sum_xy = sum_x, sum_x
    for k in range(1, POLY_N + 1):
        before = row + tl.maximum(x - k, 0)
        after = row + tl.minimum(x + k, width - 1)
        g = tl.load(kernels + k)
        xg = tl.load(kernels + POLY_N + 1 + k)
        xxg = tl.load(kernels + 2 * (POLY_N + 1) + k)
        along_before, along_after = tl.load(before, mask=mask, other=0.0), tl.load(after, mask=mask, other=0.0)
        both = (along_before + along_after).to(tl.float64)
        sum_one += both * g.to(tl.float64)
        sum_xx += both * xxg.to(tl.float64)
        sum_x += ((along_after - along_before) * xg).to(tl.float64)
        slope_before = tl.load(before + size, mask=mask, other=0.0)
        slope_after = tl.load(after + size, mask=mask, other=0.0)
        sum_y += ((slope_before + slope_after) * g).to(tl.float64)
        sum_xy += ((slope_after - slope_before) * xg).to(tl.float64)
        bend_before = tl.load(before + 2 * size, mask=mask, other=0.0)
        bend_after = tl.load(after + 2 * size, mask=mask, other=0.0)
        sum_yy += ((bend_before + bend_after) * g).to(tl.float64)
    sum_one *= tl.load(inverse + 1)
    out = expansions + image * 5 * size + y * width + x
    tl.store(out, (sum_y * tl.load(inverse)).to(tl.float32), mask=mask)
    tl.store(out + size, (sum_x * tl.load(inverse)).to(tl.float32), mask=mask)
    tl.store(out + 2 * size, (sum_yy * tl.load(inverse + 2) + sum_one).to(tl.float32), mask=mask)
    tl.store(out + 3 * size, (sum_xx * tl.load(inverse + 2) + sum_one).to(tl.float32), mask=mask)
    tl.store(out + 4 * size, (sum_xy * (tl.load(inverse + 3) / 2)).to(tl.float32), mask=mask)


def expand(images: Tensor, basis: Basis) -> Tensor:
    """As farneback.expand."""
    kernels, inverse = basis.kernels_on_device, basis.inverse_on_device
    poly_n = kernels.shape[1] - 1
    num, height, width = images.shape
    sums = images.new_empty(num, 3, height, width)
    launch(expand_columns_kernel, images.shape, images, sums, kernels, POLY_N=poly_n)
    expansions = images.new_empty(num, 5, height, width)
    launch(expand_kernel, images.shape, sums, expansions, kernels, inverse, POLY_N=poly_n)
    return expansions


@triton.jit
def look_up(second, corner, width, left, right, above, below, inside):
    """Interpolated between four pixels, `corner` being the upper left one; 0 outside."""
    total = tl.load(second + corner, mask=inside, other=0.0) * (left * above)
    total += tl.load(second + corner + 1, mask=inside, other=0.0) * (right * above)
    total += tl.load(second + corner + width, mask=inside, other=0.0) * (left * below)
    return total + tl.load(second + corner + width + 1, mask=inside, other=0.0) * (right * below)


@triton.jit
def normal_equations_kernel(
    first, second, flow, certainty, equations, height, width, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr
):
    """The equations at each pixel, from the expansions of first and second frames and a guess of the flow."""
    image, y, x, mask = tile_of(height, width, TILE_HEIGHT, TILE_WIDTH)
    size = height * width
    pixel = y * width + x
    x_flow = tl.load(flow + image * 2 * size + pixel, mask=mask, other=0.0)
    y_flow = tl.load(flow + image * 2 * size + size + pixel, mask=mask, other=0.0)
    target_x = x + x_flow
    target_y = y + y_flow
    corner_x = tl.floor(target_x)
    corner_y = tl.floor(target_y)
    inside = mask & (corner_x >= 0) & (corner_x < width - 1) & (corner_y >= 0) & (corner_y < height - 1)
    right = target_x - corner_x
    below = target_y - corner_y
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
    weight = tl.load(certainty + pixel, mask=mask, other=0.0)
    yy *= weight
    xx *= weight
    xy *= weight
    b_y *= weight
    b_x *= weight
    out = equations + image * 5 * size + pixel
    tl.store(out, yy * yy + xy * xy, mask=mask)
    tl.store(out + size, (yy + xx) * xy, mask=mask)
    tl.store(out + 2 * size, xx * xx + xy * xy, mask=mask)
    tl.store(out + 3 * size, yy * b_y + xy * b_x, mask=mask)
    tl.store(out + 4 * size, xy * b_y + xx * b_x, mask=mask)


def normal_equations(first: Tensor, second: Tensor, flow: Tensor, level: Level) -> Tensor:
    """As farneback.normal_equations."""
    equations = flow.new_empty(len(flow), 5, level.height, level.width)
    shape = len(flow), level.height, level.width
    launch(normal_equations_kernel, shape, first, second, flow, level.certainty, equations, num_warps=8)
    return equations


@triton.jit
def resize_line(line, before_x, after_x, share_x, mask, SIDES_X: tl.constexpr):
    """Values of a line of flow, interpolated along x."""
    value = tl.load(line + before_x, mask=mask, other=0.0)
    if SIDES_X == 2:
        value = value * (1 - share_x) + tl.load(line + after_x, mask=mask, other=0.0) * share_x
    return value


@triton.jit
def resize_flow_kernel(
    flow, resized, index_y, fraction_y, index_x, fraction_x, factor, from_height, from_width, height, width,
    SIDES_Y: tl.constexpr, SIDES_X: tl.constexpr, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr,
):  # fmt: skip
    """Flow on the pixels of the next level, times `factor`. Each axis of the flow is an image."""
    image, y, x, mask = tile_of(height, width, TILE_HEIGHT, TILE_WIDTH)
    before_x = tl.load(index_x + x, mask=mask, other=0)
    after_x = before_x
    share_x = tl.load(fraction_x + x, mask=mask, other=0.0)
    if SIDES_X == 2:
        after_x = tl.load(index_x + width + x, mask=mask, other=0)
        share_x = tl.where(before_x == after_x, 0.0, share_x)
    image_flow = flow + image * from_height * from_width
    line = image_flow + tl.load(index_y + y, mask=mask, other=0) * from_width
    total = resize_line(line, before_x, after_x, share_x, mask, SIDES_X)
    if SIDES_Y == 2:
        line = image_flow + tl.load(index_y + height + y, mask=mask, other=0) * from_width
        share_y = tl.load(fraction_y + y, mask=mask, other=0.0)
        total = total * (1 - share_y) + resize_line(line, before_x, after_x, share_x, mask, SIDES_X) * share_y
    tl.store(resized + image * height * width + y * width + x, total * factor, mask=mask)


def resize_flow(flow: Tensor, taps: tuple[Taps, Taps], factor: float) -> Tensor:
    """As farneback.resize_flow."""
    (index_y, _), (index_x, _) = taps
    num, height, width = len(flow), index_y.shape[-1], index_x.shape[-1]
    resized = flow.new_empty(num, 2, height, width)
    launch(
        resize_flow_kernel, (2 * num, height, width), flow, resized, *taps[0], *taps[1], factor, *flow.shape[2:],
        SIDES_Y=index_y.shape[1], SIDES_X=index_x.shape[1],
    )  # fmt: skip
    return resized


@triton.jit
def store_flow(out, size, yy, xy, xx, b_y, b_x, mask, REGULARISATION: tl.constexpr):
    """Store the flow that solves the equations, which are float64."""
    share = 1 / (yy * xx - xy * xy + tl.full((1,), REGULARISATION, tl.float64))
    tl.store(out, ((yy * b_x - xy * b_y) * share).to(tl.float32), mask=mask)
    tl.store(out + size, ((xx * b_y - xy * b_x) * share).to(tl.float32), mask=mask)


@triton.jit
def sum_before(values, stride, last, mask, REACH: tl.constexpr):
    """A running sum one position before its first value."""
    total = (tl.load(values, mask=mask, other=0.0) * (REACH + 2)).to(tl.float64)
    for k in range(1, REACH):
        total += tl.load(values + tl.minimum(k, last) * stride, mask=mask, other=0.0).to(tl.float64)
    return total


@triton.jit
def load_row(row, size, mask):
    """The five channels of a row of equations, `size` values apart."""
    return (
        tl.load(row, mask=mask, other=0.0),
        tl.load(row + size, mask=mask, other=0.0),
        tl.load(row + 2 * size, mask=mask, other=0.0),
        tl.load(row + 3 * size, mask=mask, other=0.0),
        tl.load(row + 4 * size, mask=mask, other=0.0),
    )


@triton.jit
def group_sums(line, x, mask, NUM: tl.constexpr):
    """Sums of the NUM values that begin at each position of a line."""
    total = tl.load(line + x, mask=mask)
    for k in tl.static_range(1, NUM):
        total += tl.load(line + x + k, mask=mask)
    return total


@triton.jit
def store_group_sums(groups, line, x, mask, GROUP: tl.constexpr, BLOCK: tl.constexpr):
    """group_sums of the five channels of a line, BLOCK values apart."""
    tl.store(groups + x, group_sums(line, x, mask, GROUP), mask=mask)
    tl.store(groups + BLOCK + x, group_sums(line + BLOCK, x, mask, GROUP), mask=mask)
    tl.store(groups + 2 * BLOCK + x, group_sums(line + 2 * BLOCK, x, mask, GROUP), mask=mask)
    tl.store(groups + 3 * BLOCK + x, group_sums(line + 3 * BLOCK, x, mask, GROUP), mask=mask)
    tl.store(groups + 4 * BLOCK + x, group_sums(line + 4 * BLOCK, x, mask, GROUP), mask=mask)


@triton.jit
def window_sum(line, groups, x, mask, REACH: tl.constexpr, GROUP: tl.constexpr):
    """Sums of the 2 REACH + 1 values that begin at each position of a line, from its `groups` and what they leave over."""
    total = tl.load(groups + x, mask=mask)
    for k in tl.static_range(1, (2 * REACH + 1) // GROUP):
        total += tl.load(groups + x + k * GROUP, mask=mask)
    for k in tl.static_range((2 * REACH + 1) // GROUP * GROUP, 2 * REACH + 1):
        total += tl.load(line + x + k, mask=mask)
    if REACH == 0:  # OpenCV's windows of one pixel have the first one of the row, too
        total += tl.load(line)
    return total


@triton.jit(do_not_specialize=["strips", "strip_height"])  # which vary with the batch: none compiles a kernel again
def solve_box_kernel(
    equations, flow, lines, image_stride, channel_stride, pixel_stride, strips, strip_height, height, width,
    REACH: tl.constexpr, REGULARISATION: tl.constexpr,
    GROUP: tl.constexpr, BLOCK: tl.constexpr, ROWS_AT_ONCE: tl.constexpr,
):  # fmt: skip
    """The flow that follows from the sums of the equations over boxes; a program solves a strip of an image, row by row.

    Each thread has a column. Its running sums along y start at the top of the image in each strip, as OpenCV's do,
    whose rounding depends on all rows above. A line of them goes through memory, `lines`, where all threads read their
    neighbours. Lines of even and odd rows have their own places: while some threads read one, others write the next.
    """
    program = tl.program_id(0).to(tl.int64)
    image = program // strips
    top = (program % strips).to(tl.int32) * strip_height
    bottom = tl.minimum(top + strip_height, height)
    size = height * width
    last = height - 1
    padded = tl.arange(0, BLOCK)  # columns of the image, and REACH more on either side
    is_padded = padded < width + 2 * REACH
    is_group = padded < width + 2 * REACH - GROUP + 1
    is_pixel = padded < width
    column = equations + image * 5 * size + tl.minimum(tl.maximum(padded - REACH, 0), width - 1)
    yy = sum_before(column, width, last, is_padded, REACH)
    xy = sum_before(column + size, width, last, is_padded, REACH)
    xx = sum_before(column + 2 * size, width, last, is_padded, REACH)
    b_y = sum_before(column + 3 * size, width, last, is_padded, REACH)
    b_x = sum_before(column + 4 * size, width, last, is_padded, REACH)
    for y in range(0, top, ROWS_AT_ONCE):
        for k in tl.static_range(ROWS_AT_ONCE):  # their loads do not wait for one another
            enters = column + tl.minimum(y + k + REACH, last) * width
            leaves = column + tl.maximum(y + k - REACH - 1, 0) * width
            yy_in, xy_in, xx_in, b_y_in, b_x_in = load_row(enters, size, is_padded)
            yy_out, xy_out, xx_out, b_y_out, b_x_out = load_row(leaves, size, is_padded)
            yy += (yy_in - yy_out).to(tl.float64)
            xy += (xy_in - xy_out).to(tl.float64)
            xx += (xx_in - xx_out).to(tl.float64)
            b_y += (b_y_in - b_y_out).to(tl.float64)
            b_x += (b_x_in - b_x_out).to(tl.float64)
    yy_in, xy_in, xx_in, b_y_in, b_x_in = load_row(column + tl.minimum(top + REACH, last) * width, size, is_padded)
    leaves = column + tl.maximum(top - REACH - 1, 0) * width
    yy_out, xy_out, xx_out, b_y_out, b_x_out = load_row(leaves, size, is_padded)
    for y in range(top, bottom):
        yy += (yy_in - yy_out).to(tl.float64)
        xy += (xy_in - xy_out).to(tl.float64)
        xx += (xx_in - xx_out).to(tl.float64)
        b_y += (b_y_in - b_y_out).to(tl.float64)
        b_x += (b_x_in - b_x_out).to(tl.float64)
        line = lines + (2 * program + y % 2) * (10 * BLOCK)
        groups = line + 5 * BLOCK
        tl.store(line + padded, yy, mask=is_padded)
        tl.store(line + BLOCK + padded, xy, mask=is_padded)
        tl.store(line + 2 * BLOCK + padded, xx, mask=is_padded)
        tl.store(line + 3 * BLOCK + padded, b_y, mask=is_padded)
        tl.store(line + 4 * BLOCK + padded, b_x, mask=is_padded)
        # The values of the next row are loaded while this one is solved.
        enters = column + tl.minimum(y + 1 + REACH, last) * width
        leaves = column + tl.maximum(y - REACH, 0) * width
        yy_in, xy_in, xx_in, b_y_in, b_x_in = load_row(enters, size, is_padded)
        yy_out, xy_out, xx_out, b_y_out, b_x_out = load_row(leaves, size, is_padded)
        tl.debug_barrier()
        store_group_sums(groups, line, padded, is_group, GROUP, BLOCK)
        tl.debug_barrier()
        yy_sum = window_sum(line, groups, padded, is_pixel, REACH, GROUP)
        xy_sum = window_sum(line + BLOCK, groups + BLOCK, padded, is_pixel, REACH, GROUP)
        xx_sum = window_sum(line + 2 * BLOCK, groups + 2 * BLOCK, padded, is_pixel, REACH, GROUP)
        b_y_sum = window_sum(line + 3 * BLOCK, groups + 3 * BLOCK, padded, is_pixel, REACH, GROUP)
        b_x_sum = window_sum(line + 4 * BLOCK, groups + 4 * BLOCK, padded, is_pixel, REACH, GROUP)
        out = flow + image * image_stride + (y * width + padded) * pixel_stride
        store_flow(out, channel_stride, yy_sum, xy_sum, xx_sum, b_y_sum, b_x_sum, is_pixel, REGULARISATION)


@triton.jit
def weighted_sum(values, position, stride, last, weights, mask, REACH: tl.constexpr):
    """The weighted sum of a window along one axis; the outermost values are repeated."""
    total = tl.load(values + position * stride, mask=mask, other=0.0) * tl.load(weights)
    for k in range(1, REACH + 1):
        before = tl.load(values + tl.maximum(position - k, 0) * stride, mask=mask, other=0.0)
        after = tl.load(values + tl.minimum(position + k, last) * stride, mask=mask, other=0.0)
        total += (before + after) * tl.load(weights + k)
    return total


@triton.jit
def weighted_sums_kernel(
    equations, sums, weights, height, width,
    REACH: tl.constexpr, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr,
):  # fmt: skip
    """Weighted sums along y. Each channel of the equations is an image."""
    image, y, x, mask = tile_of(height, width, TILE_HEIGHT, TILE_WIDTH)
    image *= height * width
    total = weighted_sum(equations + image + x, y, width, height - 1, weights, mask, REACH)
    tl.store(sums + image + y * width + x, total, mask=mask)


@triton.jit
def solve_weighted_kernel(
    sums, flow, weights, image_stride, channel_stride, pixel_stride, height, width,
    REACH: tl.constexpr, REGULARISATION: tl.constexpr, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr,
):  # fmt: skip
    """Weighted sums of these sums along x, and the flow that follows from them."""
    image, y, x, mask = tile_of(height, width, TILE_HEIGHT, TILE_WIDTH)
    size = height * width
    row = sums + image * 5 * size + y * width
    yy = weighted_sum(row, x, 1, width - 1, weights, mask, REACH).to(tl.float64)
    xy = weighted_sum(row + size, x, 1, width - 1, weights, mask, REACH).to(tl.float64)
    xx = weighted_sum(row + 2 * size, x, 1, width - 1, weights, mask, REACH).to(tl.float64)
    b_y = weighted_sum(row + 3 * size, x, 1, width - 1, weights, mask, REACH).to(tl.float64)
    b_x = weighted_sum(row + 4 * size, x, 1, width - 1, weights, mask, REACH).to(tl.float64)
    out = flow + image * image_stride + (y * width + x) * pixel_stride
    store_flow(out, channel_stride, yy, xy, xx, b_y, b_x, mask, REGULARISATION)


def num_strips(num: int, height: int, block: int) -> int:
    """How many programs share an image."""
    return min(triton.cdiv(THREADS, max(num, 1) * block), max(height // SMALLEST_STRIP, 1))


def solve_box(equations: Tensor, window: Window, flow: Tensor) -> None:
    """Solve with the sums over boxes; writes the flow."""
    num, _, height, width = equations.shape
    block = triton.next_power_of_2(width + 2 * window.reach)
    strips = num_strips(num, height, block)
    strip_height = triton.cdiv(triton.cdiv(height, strips), ROWS_AT_ONCE) * ROWS_AT_ONCE
    strips = triton.cdiv(height, strip_height)
    lines = torch.empty(num * strips, 2, 2, 5, block, dtype=torch.float64, device=equations.device)
    strides = flow.stride(0), flow.stride(1), flow.stride(3)
    run(
        solve_box_kernel, num * strips, equations, flow, lines, *strides, strips, strip_height, height, width,
        REACH=window.reach, REGULARISATION=window.regularisation, GROUP=min(GROUP, 2 * window.reach + 1), BLOCK=block,
        ROWS_AT_ONCE=ROWS_AT_ONCE, num_warps=min(max(block // 32, 1), 16), maxnreg=REGISTERS,
    )  # fmt: skip


def solve_weighted(equations: Tensor, window: Window, flow: Tensor) -> None:
    """Solve with the sums of Gaussian windows; writes the flow."""
    num, channels, height, width = equations.shape
    options: dict[str, Any] = dict(REACH=window.reach, REGULARISATION=window.regularisation)
    weights = window.weights_on_device
    sums = torch.empty_like(equations)
    launch(weighted_sums_kernel, (num * channels, height, width), equations, sums, weights, REACH=window.reach)
    strides = flow.stride(0), flow.stride(1), flow.stride(3)
    launch(solve_weighted_kernel, (num, height, width), sums, flow, weights, *strides, **options)


def solve(equations: Tensor, window: Window, out: Tensor | None = None) -> Tensor:
    """As farneback.solve."""
    num, _, height, width = equations.shape
    flow = equations.new_empty(num, 2, height, width) if out is None else out
    (solve_box if window.weights is None else solve_weighted)(equations, window, flow)
    return flow


@triton.jit
def grey_level(value, scale, zero):
    """The byte of a value: rounded to even, and limited."""
    level = tl.minimum(tl.maximum(value * scale + zero, 0.0), 255.0)
    shift = 12582912.0  # 1.5 * 2^23, from where float32 has no fractions
    return ((level + shift) - shift).to(tl.uint8)


@triton.jit
def encode_kernel(
    flow, images, scale, zero, height, width,
    PLANES: tl.constexpr, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr,
):  # fmt: skip
    """x above y in one plane, or x, y and magnitude as the channels of a pixel."""
    image, y, x, mask = tile_of(height, width, TILE_HEIGHT, TILE_WIDTH)
    pixel = image * height * width + y * width + x
    x_flow = tl.load(flow + 2 * pixel, mask=mask, other=0.0)
    y_flow = tl.load(flow + 2 * pixel + 1, mask=mask, other=0.0)
    if PLANES:
        out = images + image * height * width + pixel
        tl.store(out, grey_level(x_flow, scale, zero), mask=mask)
        tl.store(out + height * width, grey_level(y_flow, scale, zero), mask=mask)
    else:
        tl.store(images + 3 * pixel, grey_level(x_flow, scale, zero), mask=mask)
        tl.store(images + 3 * pixel + 1, grey_level(y_flow, scale, zero), mask=mask)
        magnitude = tl.sqrt_rn(x_flow * x_flow + y_flow * y_flow)
        tl.store(images + 3 * pixel + 2, grey_level(magnitude, scale, zero), mask=mask)


def encode(flow: Tensor, scale: float, planes: bool) -> Tensor:
    """As farneback.encode."""
    num, height, width, _ = flow.shape
    shape = (num, 2 * height, width) if planes else (num, height, width, 3)
    images = torch.empty(shape, dtype=torch.uint8, device=flow.device)
    launch(encode_kernel, (num, height, width), flow.contiguous(), images, scale, float(ZERO), PLANES=planes)
    return images
