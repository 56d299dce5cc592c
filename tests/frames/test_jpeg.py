"""JPEG files: sizes from headers; parts read at reduced scale show the same region, in the same channels."""

import cv2
import numpy as np
import pytest

from tests.conftest import noise_image
from twostream.frames import jpeg
from twostream.frames.jpeg import (
    Header,
    Region,
    cut_regions,
    decode,
    decode_regions,
    encode_cells,
    encode_jpeg,
    read_header,
)

KINDS = ("rgb", "colours", "planes")
"""kinds of images: frames, and flow images in both codings"""


def input_type(kind: str) -> str:
    return "rgb" if kind == "rgb" else "farneback"


def encoded(picture: np.ndarray, kind: str) -> bytes:
    """A picture (H, W, 3) -> a file of that kind; planes are the first two channels."""
    if kind == "planes":
        picture = np.vstack([picture[..., 0], picture[..., 1]])
    return encode_jpeg(picture, quality=95, chroma_subsampling=False)


def cut_out(data: bytes, kind: str, region: Region, size: int) -> np.ndarray:
    """A region as it is read into one item of a batch: RGB, or x and y."""
    out = np.zeros((3, size, size, 3 if kind == "rgb" else 2), np.uint8)
    assert decode_regions(data, read_header(data, input_type(kind)), [region], [out[1]])
    assert not out[0].any() and not out[2].any()
    return out[1]


# ------------------------------------------------------------------------------------------------------- writing


def test_flow_images_lose_less_without_chroma_subsampling():
    """The promise behind `chroma_subsampling=False`: x and y live in the chroma planes that 4:2:0 halves."""
    rng = np.random.default_rng(0)
    x, y = (cv2.GaussianBlur(rng.normal(0, 60, (96, 96)).astype(np.float32), (0, 0), 2) for _ in range(2))
    image = np.clip(np.stack([x, y, np.hypot(x, y)], -1) + 128, 0, 255).astype(np.uint8)
    error = {}
    for subsampling in (True, False):
        data = encode_jpeg(image, quality=90, chroma_subsampling=subsampling)
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        error[subsampling] = np.abs(decoded[..., :2].astype(int) - image[..., :2]).mean()
    assert error[False] < 0.7 * error[True]


# ------------------------------------------------------------------------------------------------------- headers


@pytest.mark.parametrize("height, width", [(1, 1), (17, 300), (300, 17), (256, 340), (1000, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_header_has_the_size(kind, height, width):
    data = encoded(noise_image(height=height, width=width), kind)
    assert read_header(data, input_type(kind)) == Header(height, width, kind == "planes")


def test_a_grey_picture_is_planes_for_flow_only():
    data = encode_jpeg(noise_image(height=20, width=30)[..., 0], quality=90, chroma_subsampling=True)
    assert read_header(data, "rgb") == Header(20, 30, False)
    assert read_header(data, "farneback") == Header(10, 30, True)
    assert decode(data, read_header(data, "rgb")).shape == (20, 30, 3)
    odd = encode_jpeg(noise_image(height=21, width=30)[..., 0], quality=90, chroma_subsampling=True)
    assert read_header(odd, "farneback") is None


def test_an_image_of_cells_is_read_as_the_picture():
    """Each level is the one that scaling the cells gives, in whole pictures and in parts, from a file and from memory."""
    small = [
        cv2.GaussianBlur(plane, (0, 0), 1) for plane in np.moveaxis(noise_image(height=15, width=20)[..., :2], 2, 0)
    ]
    large = np.stack([cv2.resize(plane, (160, 120)) for plane in small], axis=-1).astype(int)
    data = encode_cells(np.vstack(small), height=120, width=160)
    header = read_header(data, "mv")
    assert header == Header(120, 160, True, (15, 20))
    assert np.abs(decode(data, header)[..., :2] - large).max() <= 2
    assert np.abs(cut_out(data, "planes", Region(8, 30, 96, 96), 96) - large[8:104, 30:126]).max() <= 2
    reduced = cv2.resize(large.astype(np.float32), (40, 30), interpolation=cv2.INTER_AREA)
    assert np.abs(cut_out(data, "planes", Region(0, 20, 120, 120), 30) - reduced[:, 5:35]).max() <= 6
    out = np.empty((96, 96, 2), np.uint8)
    cut_regions(np.vstack(small), Header(120, 160, True), [Region(8, 30, 96, 96)], [out])
    assert np.abs(out - large[8:104, 30:126]).max() <= 2


def test_images_of_cells_are_no_larger_than_opencv_decodes():
    data = encode_cells(np.full((4, 2), 128, np.uint8), height=16, width=16)
    assert read_header(data.replace(b"16x16", b"65500x65500"), "mv") is None
    assert read_header(data.replace(b"16x16", b"00x16"), "mv") is None
    assert decode(data[:300] + data[-2:], read_header(data, "mv")) is None, "its end is missing"
    assert read_header(data, "rgb") == Header(4, 2, False), "frames have no cells"
    with pytest.raises(ValueError, match="70000x16 pixels are too many"):
        encode_cells(np.full((4, 2), 128, np.uint8), height=16, width=70_000)


def test_header_behind_other_segments():
    """Progressive files; segments that hold a small JPEG file with a header of its own; padding."""
    ok, progressive = cv2.imencode(".jpg", noise_image(height=40, width=50), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    assert ok and read_header(progressive.tobytes(), "rgb") == Header(40, 50, False)
    data, small = (encoded(noise_image(height=height, width=9), "rgb") for height in (40, 8))
    segment = b"\xff\xe1" + (len(small) + 2).to_bytes(2, "big") + small
    for inserted in (segment, b"\xff\xff" + segment[1:], segment + segment):
        larger = data[:2] + inserted + data[2:]
        assert read_header(larger, "rgb") == Header(40, 9, False)
        np.testing.assert_array_equal(decode(larger, read_header(larger, "rgb")), decode(data, Header(40, 9, False)))


def test_orientation_is_not_followed():
    """A camera's note that the picture is rotated would rotate it after its region was chosen."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    data = encoded(noise_image(height=40, width=90), "rgb")
    turned = data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (90, 40, 3), (
        "the note has an effect"
    )
    np.testing.assert_array_equal(decode(turned, read_header(turned, "rgb")), decode(data, Header(40, 90, False)))


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff", b"GIF89a" * 9, b"\xff\xd8\xff\xe0" + b"\0" * 99]
)
def test_no_header(data):
    assert read_header(data, "rgb") is None


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_give_a_picture_of_the_declared_size_or_nothing(kind):
    """Never another error, and never another size."""
    whole = encoded(noise_image(height=40, width=50), kind)
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(300):
        data = bytearray(whole)
        positions = rng.integers(len(data) if rng.random() < 0.5 else 400, size=rng.integers(1, 4))
        for position in positions:
            data[position] = rng.integers(256)
        data = bytes(data[: rng.integers(len(data))] if rng.random() < 0.2 else data)
        header = read_header(data, input_type(kind))
        if header is None or header.height * header.width > 1e6:  # a header may declare a huge picture
            continue
        picture = decode(data, header)
        outcomes.add(picture is not None)
        assert picture is None or picture.shape == (header.height, header.width, 3)
        region = Region(0, 0, header.height, header.width)
        out = np.empty((7, 7, 3 if kind == "rgb" else 2), np.uint8)
        outcomes.add(decode_regions(data, header, [region], [out]))
    assert outcomes == {True, False}


def test_a_header_with_too_many_pixels():
    data = bytearray(encoded(noise_image(), "rgb"))
    frame_header = data.index(b"\xff\xc0")
    data[frame_header + 5 : frame_header + 9] = b"\xff\xff\xff\xff"
    header = read_header(bytes(data), "rgb")
    assert header == Header(65535, 65535, False) and decode(bytes(data), header) is None


# ------------------------------------------------------------------------------------------------------- regions


@pytest.mark.parametrize("kind", KINDS)
def test_a_region_of_the_needed_size_is_cut_out(kind):
    data = encoded(noise_image(height=60, width=80), kind)
    whole = decode(data, read_header(data, input_type(kind)))
    result = cut_out(data, kind, Region(7, 11, 32, 32), 32)
    np.testing.assert_array_equal(result, whole[7:39, 11:43, : result.shape[2]])


@pytest.mark.parametrize("size", [20, 33, 50, 90])
@pytest.mark.parametrize("kind", KINDS)
def test_a_region_is_cut_and_scaled(kind, size):
    """Bilinear down to a half; squeezed if it is not square."""
    data = encoded(noise_image(height=60, width=80), kind)
    whole = decode(data, read_header(data, input_type(kind)))
    result = cut_out(data, kind, Region(7, 11, 39, 41), size)
    scaled = cv2.resize(np.ascontiguousarray(whole[7:46, 11:52]), (size, size), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(result, scaled[..., : result.shape[2]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("divisor", [1, 2, 4, 8])
def test_a_dot_keeps_its_position_at_every_scale(kind, divisor):
    """A bright disc, in all channels, must appear where geometry puts it, within a pixel."""
    height, width, size = 544, 688, 60
    region = Region(37, 151, size * divisor + divisor - 1, size * divisor + divisor - 1)
    rng = np.random.default_rng(divisor)
    for _ in range(5):
        y, x = (region[k] + rng.uniform(0.2, 0.8) * region.height for k in (0, 1))
        picture = np.full((height, width, 3), 128, np.uint8)
        cv2.circle(picture, (round(x), round(y)), 4 * divisor, (250, 250, 250), -1)
        result = cut_out(encoded(picture, kind), kind, region, size)
        for channel in range(result.shape[2]):
            light = np.clip(result[..., channel].astype(float) - 150, 0, None)
            measured = [(light.sum(axis) * np.arange(size)).sum() / light.sum() for axis in (1, 0)]
            scale = size / region.height
            expected = [(round(v) - first + 0.5) * scale - 0.5 for v, first in ((y, region.y), (x, region.x))]
            assert np.allclose(measured, expected, atol=1)


@pytest.mark.parametrize(
    "kind, height, side, size, divisor",
    [
        ("rgb", 256, 233, 299, 1),  # enlarged
        ("rgb", 256, 233, 224, 1),
        ("rgb", 256, 223, 112, 1),  # half of it would be one pixel short
        ("rgb", 256, 224, 112, 2),
        ("rgb", 720, 655, 299, 2),
        ("rgb", 720, 655, 112, 4),
        ("rgb", 720, 655, 41, 8),
        ("colours", 255, 233, 112, 2),
        ("planes", 256, 233, 112, 2),
        ("planes", 255, 233, 112, 1),  # a pixel would mix x and y
        ("planes", 258, 233, 56, 2),  # 4 does not divide its height
    ],
)
def test_the_decoder_reduces_unless_the_region_would_be_enlarged(monkeypatch, kind, height, side, size, divisor):
    calls = []
    imdecode = cv2.imdecode

    def recorded(*arguments):
        calls.append(imdecode(*arguments))
        return calls[-1]

    monkeypatch.setattr(jpeg.cv2, "imdecode", recorded)
    data = encoded(noise_image(height=height, width=height + 40), kind)
    region = Region(height - side, 40, side, side)
    result = cut_out(data, kind, region, size)
    rows = 2 * height if kind == "planes" else height
    (picture,) = calls
    assert picture.shape[:2] == (-(-rows // divisor), -(-(height + 40) // divisor))
    # The same picture as from all pixels, except for the noise, which the two ways of averaging treat differently.
    whole = decode(data, read_header(data, input_type(kind)))[region.y :, region.x : region.x + side]
    truth = cv2.resize(whole, (size, size), interpolation=cv2.INTER_AREA if divisor > 1 else cv2.INTER_LINEAR)
    error, error_of_a_shift = (
        np.abs(x[..., :2].astype(float) - truth[..., :2]).mean() for x in (result, np.roll(truth, 1, 1))
    )
    assert error < 0.5 * error_of_a_shift


def test_colours_keep_their_order_at_every_scale():
    picture = np.full((64, 64, 3), (200, 120, 40), np.uint8)
    for size in (64, 32, 16, 8):
        for kind in ("rgb", "colours"):
            result = cut_out(encoded(picture, kind), kind, Region(0, 0, 64, 64), size)
            assert np.abs(result.astype(int) - (200, 120, 40)[: result.shape[2]]).max() <= 3
