"""JPEG files: write an image; read its size before it is decoded, then all of it, or parts at the scale needed.

Images are uint8. RGB frames are colour; flow images are colour, or grey with x above y ("planes", flow/coding.py). Planes
may be of cells that are larger than pixels; a comment in the file then says to which size they are scaled.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from twostream.flow.coding import from_planes
from twostream.stream import RGB

MAX_SIDE = 65_500
"""pixels; what libjpeg writes at most"""
MAX_PIXELS = 2**30
"""of a picture; OpenCV decodes no more"""
CELLS_QUALITY = 100
"""of images of cells, which are still a third as large as those of all pixels at 75, and lose less"""
JPEG_END = b"\xff\xd9"
COMMENT = 0xFE
"""marker of a segment of text"""
SIZE_COMMENT = re.compile(rb"picture of (\d{1,5})x(\d{1,5})")
"""of an image of cells"""
FULL_COLOUR = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
FULL_GREY = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
# OpenCV has a flag of each reduction for colour and one for grey; the bit that differs says colour.
REDUCED = {
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    1: 0,
}
"""divisors that the decoder supports, largest first -> OpenCV's flag"""


class Region(NamedTuple):
    """A part of a picture, in pixels of the full-size picture."""

    y: int
    x: int
    height: int
    width: int


class Header(NamedTuple):
    """What a file says about its picture."""

    height: int
    """pixels; of one plane, if the picture has planes"""
    width: int
    is_planes: bool
    """x of the flow above y, in grey"""
    cells: tuple[int, int] | None = None
    """rows and columns of each plane in the file, if they are scaled to this height and width"""


# ------------------------------------------------------------------------------------------------------ writing


def encode_jpeg(image: np.ndarray, *, quality: int, chroma_subsampling: bool) -> bytes:
    """RGB or flow image (H, W, 3), or a grey picture (H, W), uint8 -> JPEG file; `quality` 0 to 100.

    Flow images in colour are stored without chroma subsampling: x and y are mixed into the chroma planes, and halving
    those raises the error of the flow by a third (benchmarks/flow.py). ValueError if a side is longer than `MAX_SIDE`.
    """
    if max(image.shape[:2]) > MAX_SIDE:
        raise ValueError(f"{image.shape[1]}x{image.shape[0]} pixels, but a side of a JPEG image has at most {MAX_SIDE}")
    factor = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if chroma_subsampling else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
    ok, data = cv2.imencode(".jpg", image, options)
    if not ok:
        raise ValueError(f"OpenCV cannot encode an image of shape {image.shape} as JPEG")
    return data.tobytes()


def encode_cells(planes: np.ndarray, *, height: int, width: int) -> bytes:
    """The planes of a flow image on cells, uint8 (2h, w) -> JPEG file that is read as a picture of this size.

    Raises ValueError if the picture is too large.
    """
    if max(height, width) > MAX_SIDE or 2 * height * width > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels are too many for a flow image")
    data = encode_jpeg(planes, quality=CELLS_QUALITY, chroma_subsampling=False)
    comment = b"picture of %dx%d" % (width, height)
    start = 4 + int.from_bytes(data[4:6])  # after the segment of JFIF, which has to be the first
    return data[:start] + bytes((0xFF, COMMENT)) + (len(comment) + 2).to_bytes(2) + comment + data[start:]


def scale_planes(planes: np.ndarray, height: int, width: int) -> np.ndarray:
    """The planes of a flow image, uint8 (2h, w) -> uint8 (2 height, width); the same if they have this size."""
    if planes.shape == (2 * height, width):
        return planes
    return cv2.vconcat([cv2.resize(plane, (width, height)) for plane in np.vsplit(planes, 2)])


# ------------------------------------------------------------------------------------------------------ headers


def read_header(data: bytes, input_type: str) -> Header | None:
    """Header of a JPEG file of this input type; None if it is not one. The rest of the file may be missing."""
    position = 2 if data[:2] == b"\xff\xd8" else len(data)
    size = None
    while data[position : position + 1] == b"\xff" and position + 10 <= len(data):
        marker = data[position + 1]
        if marker == COMMENT and input_type != RGB:
            size = SIZE_COMMENT.match(data, position + 4) or size
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # frame headers; the three are tables
            height = int.from_bytes(data[position + 5 : position + 7])
            width = int.from_bytes(data[position + 7 : position + 9])
            is_planes = input_type != RGB and data[position + 9] == 1
            if not (height and width) or (is_planes and height % 2):
                return None
            if is_planes and size:
                return _header_of_cells(int(size[2]), int(size[1]), (height // 2, width))
            return Header(height // 2 if is_planes else height, width, is_planes)
        # A marker may be padded with 0xff bytes; every other segment before the frame states its length.
        position += 1 if marker == 0xFF else 2 + int.from_bytes(data[position + 2 : position + 4])
    return None


def _header_of_cells(height: int, width: int, cells: tuple[int, int]) -> Header | None:
    is_possible = 0 < height and 0 < width and 2 * height * width <= MAX_PIXELS
    return Header(height, width, True, cells) if is_possible else None


def read_complete_header(data: bytes, input_type: str) -> Header | None:
    """`read_header`; None also if the file's end is missing, which OpenCV would fill with grey without a word."""
    return read_header(data, input_type) if JPEG_END in data[-32:] else None


# ----------------------------------------------------------------------------------------------- whole pictures


def decode_jpeg(data: bytes, input_type: str) -> np.ndarray | None:
    """An image file of this input type -> uint8 (H, W, 3), RGB (for flow: x, y, magnitude); None if cut or damaged."""
    header = read_complete_header(data, input_type)
    return decode(data, header) if header else None


def decode(data: bytes, header: Header) -> np.ndarray | None:
    """The whole picture, uint8 (H, W, 3), RGB or flow image; None if the file is damaged."""
    picture = _decode(data, header, 1)
    return from_planes(picture) if header.is_planes and picture is not None else picture


# ------------------------------------------------------------------------------------------- parts of a picture


def decode_regions(data: bytes, header: Header, regions: Sequence[Region], out: Sequence[np.ndarray]) -> bool:
    """Fill `out` with regions of the picture, which is decoded once; False if the file is damaged.

    Each element of `out` is contiguous: uint8 (H, W, 3), or (H, W, 2) for x and y of flow. The picture is decoded at
    1/2, 1/4 or 1/8 of its size if the short sides of the regions are then still as long as that of `out`.
    """
    reduction = choose_reduction(header, regions, min(out[0].shape[:2]))
    picture = _decode(data, header, reduction)
    if picture is None:
        return False
    _cut_regions(picture, header, regions, reduction, out)
    return True


def cut_regions(picture: np.ndarray, header: Header, regions: Sequence[Region], out: Sequence[np.ndarray]) -> None:
    """As `decode_regions`, from a picture in memory: uint8 (H, W, 3) RGB, or planes of a flow image, (2H, W) or on cells.

    Where a JPEG would be decoded at a fraction of its size, squares of pixels are averaged.
    """
    reduction = choose_reduction(header, regions, min(out[0].shape[:2]))
    if header.is_planes and picture.shape != (2 * header.height, header.width):
        picture = _scale_cells(picture, header, reduction)
    elif reduction > 1:
        below, right = -len(picture) % reduction, -picture.shape[1] % reduction
        padded = cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_REPLICATE)
        size = padded.shape[1] // reduction, len(padded) // reduction
        picture = cv2.resize(padded, size, interpolation=cv2.INTER_AREA)
    _cut_regions(picture, header, regions, reduction, out)


def _cut_regions(
    picture: np.ndarray, header: Header, regions: Sequence[Region], reduction: int, out: Sequence[np.ndarray]
) -> None:
    """Fill `out` with regions, in pixels of the full size, of a picture that is reduced already."""
    for region, target in zip(regions, out, strict=True):
        y, x, height, width = reduce_region(region, reduction)
        part = slice(y, y + height), slice(x, x + width)
        if header.is_planes:
            planes = picture[: len(picture) // 2], picture[len(picture) // 2 :]
            cv2.merge([_resize(plane[part], target) for plane in planes], target)
        elif target.shape[2] == 3:
            _resize(picture[part], target, target)
        else:
            target[...] = _resize(picture[part], target)[..., :2]


def choose_reduction(header: Header, regions: Sequence[Region], size: int) -> int:
    """The largest divisor of the picture's size that leaves every region at least `size` pixels high and wide."""
    smallest = min(min(region.height, region.width) for region in regions)
    return next(
        divisor
        for divisor in REDUCED
        # A reduced pixel must not mix the last row of x with the first row of y.
        if divisor == 1 or (smallest // divisor >= size and not (header.is_planes and header.height % divisor))
    )


def reduce_region(region: Region, reduction: int) -> Region:
    """The same region in pixels of the reduced picture."""
    edges = (region.y, region.x, region.y + region.height, region.x + region.width)
    top, left, bottom, right = ((edge + reduction // 2) // reduction for edge in edges)  # halves always go up
    return Region(top, left, bottom - top, right - left)


def averages_area(region: Region, size: int) -> bool:
    """Is this region scaled to `size` by area averaging? Down to a half, bilinear scaling uses every pixel too."""
    return min(region.height, region.width) > 2 * size


def _decode(data: bytes, header: Header, reduction: int) -> np.ndarray | None:
    """The picture, reduced; None if the file is damaged."""
    flags = (0 if header.cells else REDUCED[reduction]) | (FULL_GREY if header.is_planes else FULL_COLOUR)
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # the header asks for more pixels than OpenCV decodes
        return None
    if header.cells:
        if picture is None or picture.shape != (2 * header.cells[0], header.cells[1]):
            return None
        return _scale_cells(picture, header, reduction)
    rows = header.height * (2 if header.is_planes else 1)
    expected = (-(-rows // reduction), -(-header.width // reduction))
    return picture if picture is not None and picture.shape[:2] == expected else None


def _scale_cells(planes: np.ndarray, header: Header, reduction: int) -> np.ndarray:
    """Planes on cells -> those of the picture at this reduction, which divides its height."""
    return scale_planes(planes, header.height // reduction, -(-header.width // reduction))


def _resize(part: np.ndarray, like: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Scale to the height and width of `like`, into `out` if given."""
    height, width = like.shape[:2]
    method = cv2.INTER_AREA if averages_area(Region(0, 0, *part.shape[:2]), min(height, width)) else cv2.INTER_LINEAR
    return cv2.resize(part, (width, height), dst=out, interpolation=method)
