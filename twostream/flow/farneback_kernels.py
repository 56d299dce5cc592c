"""The four steps of farneback.py as Triton kernels, each of which reads its input and writes its result once.

They have the same inputs and results as the plain operations there, which explain them, to the last bit except for the
order of sums in float64. A Triton program computes a tile of the result, and reads the neighbours it needs from the
cache; taps are added one after the other, so that a result depends neither on the batch nor on the tile. Only the sums
of a box along y are stored as float64; everything else is read and written as float32.

They run on a GPU only; with TRITON_INTERPRET=1 in the environment they run on the CPU, very slowly, as tests do it.

Parameters of kernels have no types: Triton comes without any and takes annotations as instructions (`tl.constexpr`).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from twostream.flow.farneback_tables import Basis, Level, Taps, Window

TILE_HEIGHT, TILE_WIDTH = 16, 32
"""pixels. Windows reach 7 pixels up and down: a taller tile reads fewer pixels twice, a wider one whole cache lines"""
PROGRAMS = 512
ROWS_AT_ONCE = 4


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
    """Run so many programs of a kernel, with products and sums rounded separately, as in the plain operations."""
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
        before = tl.load(column + tl.load(taps + (REACH - k) * stride, mask=mask, other=0) * width, mask=mask, other=0.0)
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
    launch(normal_equations_kernel, shape, first, second, flow, level.certainty, equations)
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
def change_of_sum(values, position, stride, last, mask, REACH: tl.constexpr):
    """What is added to a running sum: the value that enters the window minus the one that leaves it."""
    enters = tl.load(values + tl.minimum(position + REACH, last) * stride, mask=mask, other=0.0)
    leaves = tl.load(values + tl.maximum(position - REACH - 1, 0) * stride, mask=mask, other=0.0)
    return (enters - leaves).to(tl.float64)


@triton.jit
def add_channels(yy, xy, xx, b_y, b_x, yy2, xy2, xx2, b_y2, b_x2):
    """The sum of two columns, in all five channels."""
    return yy + yy2, xy + xy2, xx + xx2, b_y + b_y2, b_x + b_x2


@triton.jit
def row_window(line, x, mask, WINDOW: tl.constexpr):
    """Sums of the WINDOW values that begin at each position of a line."""
    total = tl.load(line + x, mask=mask)
    for k in tl.static_range(1, WINDOW):
        total += tl.load(line + x + k, mask=mask)
    return total


@triton.jit
def row_window_of_groups(line, groups, x, mask, WINDOW: tl.constexpr, GROUP: tl.constexpr):
    """As row_window; `groups` has the sums of the GROUP values that begin at each position."""
    total = tl.load(groups + x, mask=mask)
    for k in tl.static_range(1, WINDOW // GROUP):
        total += tl.load(groups + x + k * GROUP, mask=mask)
    for k in tl.static_range(WINDOW // GROUP * GROUP, WINDOW):
        total += tl.load(line + x + k, mask=mask)
    return total


@triton.jit
def prefix_window(line, x, mask, WINDOW: tl.constexpr):
    """As row_window; the line has the sums of all values up to each position."""
    return tl.load(line + x + WINDOW - 1, mask=mask) - tl.load(line + x - 1, mask=mask & (x > 0))


@triton.jit
def solve_box_kernel(
    equations, flow, lines, image_stride, channel_stride, pixel_stride, strips, strip_height, height, width,
    REACH: tl.constexpr, REGULARISATION: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr, ROWS_AT_ONCE: tl.constexpr,
):  # fmt: skip
    """GROUP: 0 prefix sums, 1 direct, else groups."""
    program = tl.program_id(0).to(tl.int64)
    image = program // strips
    top = (program % strips).to(tl.int32) * strip_height
    bottom = tl.minimum(top + strip_height, height)
    size = height * width
    last = height - 1
    padded = tl.arange(0, BLOCK)
    is_padded = padded < width + 2 * REACH
    is_pixel = padded < width
    column = equations + image * 5 * size + tl.minimum(tl.maximum(padded - REACH, 0), width - 1)
    yy = sum_before(column, width, last, is_padded, REACH)
    xy = sum_before(column + size, width, last, is_padded, REACH)
    xx = sum_before(column + 2 * size, width, last, is_padded, REACH)
    b_y = sum_before(column + 3 * size, width, last, is_padded, REACH)
    b_x = sum_before(column + 4 * size, width, last, is_padded, REACH)
    for y in range(0, top, ROWS_AT_ONCE):  # the loads of these rows do not wait for one another
        for k in tl.static_range(ROWS_AT_ONCE):
            yy += change_of_sum(column, y + k, width, last, is_padded, REACH)
            xy += change_of_sum(column + size, y + k, width, last, is_padded, REACH)
            xx += change_of_sum(column + 2 * size, y + k, width, last, is_padded, REACH)
            b_y += change_of_sum(column + 3 * size, y + k, width, last, is_padded, REACH)
            b_x += change_of_sum(column + 4 * size, y + k, width, last, is_padded, REACH)
    WINDOW: tl.constexpr = 2 * REACH + 1
    CHANNELS: tl.constexpr = 5 * BLOCK
    program_lines = lines + program * (4 * CHANNELS)
    # The values of the next row are loaded while this one is solved.
    enters = column + tl.minimum(top + REACH, last) * width
    leaves = column + tl.maximum(top - REACH - 1, 0) * width
    yy_in, yy_out = tl.load(enters, mask=is_padded, other=0.0), tl.load(leaves, mask=is_padded, other=0.0)
    xy_in, xy_out = tl.load(enters + size, mask=is_padded, other=0.0), tl.load(leaves + size, mask=is_padded, other=0.0)
    xx_in = tl.load(enters + 2 * size, mask=is_padded, other=0.0)
    xx_out = tl.load(leaves + 2 * size, mask=is_padded, other=0.0)
    b_y_in = tl.load(enters + 3 * size, mask=is_padded, other=0.0)
    b_y_out = tl.load(leaves + 3 * size, mask=is_padded, other=0.0)
    b_x_in = tl.load(enters + 4 * size, mask=is_padded, other=0.0)
    b_x_out = tl.load(leaves + 4 * size, mask=is_padded, other=0.0)
    for y in range(top, bottom):
        yy += (yy_in - yy_out).to(tl.float64)
        xy += (xy_in - xy_out).to(tl.float64)
        xx += (xx_in - xx_out).to(tl.float64)
        b_y += (b_y_in - b_y_out).to(tl.float64)
        b_x += (b_x_in - b_x_out).to(tl.float64)
        line = program_lines + (y % 2) * (2 * CHANNELS)
        out = line + padded
        if GROUP == 0:
            yy_line, xy_line, xx_line, b_y_line, b_x_line = tl.associative_scan((yy, xy, xx, b_y, b_x), 0, add_channels)
        else:
            yy_line, xy_line, xx_line, b_y_line, b_x_line = yy, xy, xx, b_y, b_x
        tl.store(out, yy_line, mask=is_padded)
        tl.store(out + BLOCK, xy_line, mask=is_padded)
        tl.store(out + 2 * BLOCK, xx_line, mask=is_padded)
        tl.store(out + 3 * BLOCK, b_y_line, mask=is_padded)
        tl.store(out + 4 * BLOCK, b_x_line, mask=is_padded)
        enters = column + tl.minimum(y + 1 + REACH, last) * width
        leaves = column + tl.maximum(y - REACH, 0) * width
        yy_in, yy_out = tl.load(enters, mask=is_padded, other=0.0), tl.load(leaves, mask=is_padded, other=0.0)
        xy_in = tl.load(enters + size, mask=is_padded, other=0.0)
        xy_out = tl.load(leaves + size, mask=is_padded, other=0.0)
        xx_in = tl.load(enters + 2 * size, mask=is_padded, other=0.0)
        xx_out = tl.load(leaves + 2 * size, mask=is_padded, other=0.0)
        b_y_in = tl.load(enters + 3 * size, mask=is_padded, other=0.0)
        b_y_out = tl.load(leaves + 3 * size, mask=is_padded, other=0.0)
        b_x_in = tl.load(enters + 4 * size, mask=is_padded, other=0.0)
        b_x_out = tl.load(leaves + 4 * size, mask=is_padded, other=0.0)
        tl.debug_barrier()
        if GROUP == 0:
            yy_sum = prefix_window(line, padded, is_pixel, WINDOW)
            xy_sum = prefix_window(line + BLOCK, padded, is_pixel, WINDOW)
            xx_sum = prefix_window(line + 2 * BLOCK, padded, is_pixel, WINDOW)
            b_y_sum = prefix_window(line + 3 * BLOCK, padded, is_pixel, WINDOW)
            b_x_sum = prefix_window(line + 4 * BLOCK, padded, is_pixel, WINDOW)
        elif GROUP == 1:
            yy_sum = row_window(line, padded, is_pixel, WINDOW)
            xy_sum = row_window(line + BLOCK, padded, is_pixel, WINDOW)
            xx_sum = row_window(line + 2 * BLOCK, padded, is_pixel, WINDOW)
            b_y_sum = row_window(line + 3 * BLOCK, padded, is_pixel, WINDOW)
            b_x_sum = row_window(line + 4 * BLOCK, padded, is_pixel, WINDOW)
        else:
            groups = line + CHANNELS
            is_group = padded < width + 2 * REACH - GROUP + 1
            tl.store(groups + padded, row_window(line, padded, is_group, GROUP), mask=is_group)
            tl.store(groups + BLOCK + padded, row_window(line + BLOCK, padded, is_group, GROUP), mask=is_group)
            tl.store(groups + 2 * BLOCK + padded, row_window(line + 2 * BLOCK, padded, is_group, GROUP), mask=is_group)
            tl.store(groups + 3 * BLOCK + padded, row_window(line + 3 * BLOCK, padded, is_group, GROUP), mask=is_group)
            tl.store(groups + 4 * BLOCK + padded, row_window(line + 4 * BLOCK, padded, is_group, GROUP), mask=is_group)
            tl.debug_barrier()
            yy_sum = row_window_of_groups(line, groups, padded, is_pixel, WINDOW, GROUP)
            xy_sum = row_window_of_groups(line + BLOCK, groups + BLOCK, padded, is_pixel, WINDOW, GROUP)
            xx_sum = row_window_of_groups(line + 2 * BLOCK, groups + 2 * BLOCK, padded, is_pixel, WINDOW, GROUP)
            b_y_sum = row_window_of_groups(line + 3 * BLOCK, groups + 3 * BLOCK, padded, is_pixel, WINDOW, GROUP)
            b_x_sum = row_window_of_groups(line + 4 * BLOCK, groups + 4 * BLOCK, padded, is_pixel, WINDOW, GROUP)
        if REACH == 0:  # OpenCV's windows of one pixel have the first one of the row, too
            yy_sum += tl.load(line)
            xy_sum += tl.load(line + BLOCK)
            xx_sum += tl.load(line + 2 * BLOCK)
            b_y_sum += tl.load(line + 3 * BLOCK)
            b_x_sum += tl.load(line + 4 * BLOCK)
        target = flow + image * image_stride + (y * width + padded) * pixel_stride
        store_flow(target, channel_stride, yy_sum, xy_sum, xx_sum, b_y_sum, b_x_sum, is_pixel, REGULARISATION)


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


def solve(
    equations: Tensor, window: Window, out: Tensor | None = None, *, group: int = 3, warps: int = 16, strips: int = 0,
    regs: int | None = 64
) -> Tensor:
    """As farneback.solve."""
    num, channels, height, width = equations.shape
    flow = equations.new_empty(num, 2, height, width) if out is None else out
    strides = flow.stride(0), flow.stride(1), flow.stride(3)
    options: dict[str, Any] = dict(REACH=window.reach, REGULARISATION=window.regularisation)
    if window.weights is None:
        block = triton.next_power_of_2(width + 2 * window.reach)
        group, warps = min(group, 2 * window.reach + 1), min(warps, max(block // 32, 1))
        strips = strips or min(triton.cdiv(PROGRAMS, max(num, 1)), max(height // 32, 1))
        strip_height = triton.cdiv(triton.cdiv(height, strips), ROWS_AT_ONCE) * ROWS_AT_ONCE
        strips = triton.cdiv(height, strip_height)
        lines = torch.empty(num * strips * 4 * 5 * block, dtype=torch.float64, device=flow.device)
        run(
            solve_box_kernel, num * strips, equations, flow, lines, *strides, strips, strip_height, height, width,
            GROUP=group, BLOCK=block, ROWS_AT_ONCE=ROWS_AT_ONCE, num_warps=warps, maxnreg=regs, **options,
        )  # fmt: skip
    else:
        sums = torch.empty_like(equations)
        shape = num * channels, height, width
        launch(weighted_sums_kernel, shape, equations, sums, window.weights_on_device, REACH=window.reach)
        launch(solve_weighted_kernel, (num, height, width), sums, flow, window.weights_on_device, *strides, **options)
    return flow
