"""Reading JPEG files: the size of a picture before it is decoded, all of it, or one part, at the scale that is needed.

RGB pictures are colour, flow images colour or planes (flow.py), uint8 in each case.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from twostream.flow.coding import from_planes
from twostream.stream import RGB

JPEG_END = b"\xff\xd9"
FULL_COLOUR = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
FULL_GREY = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
# OpenCV names each reduction once for colour and once for grey; the bit that differs says colour.
REDUCED = {
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    1: 0,
}
"""divisors that the decoder knows, largest first -> OpenCV's flag"""


class Region(NamedTuple):
    """A part of a picture, in pixels of the whole one."""

    y: int
    x: int
    height: int
    width: int


class Header(NamedTuple):
    """What a file says of its picture."""

    height: int
    """of one plane, where it is planes"""
    width: int
    is_planes: bool


def read_header(data: bytes, input_type: str) -> Header | None:
    """Header of a JPEG file of this input type; None where it is not one."""
    place = 2 if data[:2] == b"\xff\xd8" else len(data)
    while data[place : place + 1] == b"\xff" and place + 10 <= len(data):
        marker = data[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # frame headers, and three tables among them
            height, width = int.from_bytes(data[place + 5 : place + 7]), int.from_bytes(data[place + 7 : place + 9])
            is_planes = input_type != RGB and data[place + 9] == 1
            if not (height and width) or (is_planes and height % 2):
                return None
            return Header(height // 2 if is_planes else height, width, is_planes)
        # A marker may be padded with 0xff bytes; all others before the frame have a length.
        place += 1 if marker == 0xFF else 2 + int.from_bytes(data[place + 2 : place + 4])
    return None


def encode_jpeg(image: np.ndarray, *, quality: int, chroma_subsampling: bool) -> bytes:
    """RGB or flow image (H, W, 3), or a grey picture (H, W), uint8 -> JPEG.

    Flow images as colours are stored without chroma subsampling: x and y are mixed into the chroma planes, and halving
    those raises the error of the flow by a third (benchmarks/flow.py).
    """
    factor = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if chroma_subsampling else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
    ok, data = cv2.imencode(".jpg", image, options)
    if not ok:
        raise ValueError(f"OpenCV cannot code an image of shape {image.shape} as JPEG")
    return data.tobytes()


def decode_jpeg(data: bytes, input_type: str) -> np.ndarray | None:
    """An image file of this input type -> uint8 (H, W, 3), RGB (for flow: x, y, magnitude); None if it is no whole one."""
    header = header_of_whole(data, input_type)
    return header and decode(data, header)


def header_of_whole(data: bytes, input_type: str) -> Header | None:
    """Header of an image file; None if it is no whole one. OpenCV fills what is missing with grey and says nothing."""
    return read_header(data, input_type) if JPEG_END in data[-32:] else None


def decode(data: bytes, header: Header) -> np.ndarray | None:
    """The whole picture (H, W, 3), RGB or flow image; None where the file is damaged."""
    picture = _decode(data, header, 1)
    return from_planes(picture) if header.is_planes and picture is not None else picture


def decode_regions(data: bytes, header: Header, regions: Sequence[Region], out: Sequence[np.ndarray]) -> bool:
    """Fill `out` with parts of the picture, which is decoded once; False where the file is damaged.

    Each of `out` lies in one piece: (S, S, 3), or (S, S, 2) for x and y of flow. The decoder works at 1/2, 1/4 or 1/8 of
    the size where the parts are still as large as `out` then.
    """
    size = len(out[0])
    reduction = choose_reduction(header, regions, size)
    picture = _decode(data, header, reduction)
    if picture is None:
        return False
    for region, target in zip(regions, out, strict=True):
        y, x, height, width = reduced(region, reduction)
        part = slice(y, y + height), slice(x, x + width)
        if header.is_planes:
            planes = picture[: len(picture) // 2], picture[len(picture) // 2 :]
            cv2.merge([_resized(plane[part], size) for plane in planes], target)
        elif target.shape[2] == 3:
            _resized(picture[part], size, target)
        else:
            target[...] = _resized(picture[part], size)[..., :2]
    return True


def choose_reduction(header: Header, regions: Sequence[Region], size: int) -> int:
    """The largest divisor at which all parts of the picture are still as large as a square of that side."""
    smallest = min(min(region.height, region.width) for region in regions)
    return next(
        divisor
        for divisor in REDUCED
        # Where planes meet inside of a reduced pixel it would be of both.
        if divisor == 1 or (smallest // divisor >= size and not (header.is_planes and header.height % divisor))
    )


def reduced(region: Region, reduction: int) -> Region:
    """A region in pixels of the reduced picture."""
    edges = (region.y, region.x, region.y + region.height, region.x + region.width)
    top, left, bottom, right = ((edge + reduction // 2) // reduction for edge in edges)  # halves always go up
    return Region(top, left, bottom - top, right - left)


def takes_area(region: Region, size: int) -> bool:
    """Is a part of that size shrunk by areas? Up to a factor of two each pixel has its share in a bilinear result."""
    return min(region.height, region.width) > 2 * size


def _decode(data: bytes, header: Header, reduction: int) -> np.ndarray | None:
    flags = REDUCED[reduction] | (FULL_GREY if header.is_planes else FULL_COLOUR)
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # a header that asks for more pixels than OpenCV decodes
        return None
    rows = header.height * (2 if header.is_planes else 1)
    expected = (-(-rows // reduction), -(-header.width // reduction))
    return picture if picture is not None and picture.shape[:2] == expected else None


def _resized(cut: np.ndarray, size: int, out: np.ndarray | None = None) -> np.ndarray:
    """A square of that side, in `out` if given."""
    method = cv2.INTER_AREA if takes_area(Region(0, 0, *cut.shape[:2]), size) else cv2.INTER_LINEAR
    return cv2.resize(cut, (size, size), dst=out, interpolation=method)
