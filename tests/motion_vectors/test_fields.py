"""Blocks become cells at the right places, and fields become flow of the upright picture."""

import cv2
import numpy as np
import pytest

from tests.video.samples import run_ffmpeg
from twostream.flow.coding import FlowCoding
from twostream.motion_vectors.fields import TURNS, VECTOR, add_step, paint, to_flow, to_planes

LAYOUT = "<i4,u1,u1,<i2,<i2,<i2,<i2,V2,<u8,<i4,<i4,<u2,V6"
"""AVMotionVector of FFmpeg's libavutil/motion_vector.h: source, w, h, src_x, src_y, dst_x, dst_y, (2 bytes), flags, motion_x,
motion_y, motion_scale, (6 bytes)"""


def vectors(*blocks: tuple[int, int, int, int, int, float, float]) -> np.ndarray:
    """Blocks of (source, width, height, centre x, centre y, x, y of where it comes from, relative to it)."""
    array = np.zeros(len(blocks), LAYOUT)
    for k, (source, width, height, centre_x, centre_y, x, y) in enumerate(blocks):
        array[k] = source, width, height, 0, 0, centre_x, centre_y, b"", 0, 4 * x, 4 * y, 4, b""
    return array.view(VECTOR)


def still(width: int, height: int) -> list[tuple[int, int, int, int, int, float, float]]:
    return [(-1, 16, 16, x, y, 0, 0) for y in range(8, height, 16) for x in range(8, width, 16)]


@pytest.mark.parametrize(
    ("source", "past", "future", "expected"),
    [(-1, 1, 1, (-2.5, 4)), (-1, 2, 1, (-1.25, 2)), (1, 1, 1, (2.5, -4)), (1, 2, 4, (0.625, -1))],
)
def test_motion_is_forward_in_time_and_per_frame(source, past, future, expected):
    field = paint(vectors((source, 16, 8, 24, 12, 2.5, -4)), 64, 32, past=past, future=future)
    assert field.shape == (4, 8, 2) and field.dtype == np.float32
    np.testing.assert_allclose(field[1, 2:4], [expected] * 2)


def test_a_moving_block_leaves_the_ground_still():
    """It ends 16 pixels to the right of where it began: there, flow begins; where it ends, the ground was hidden."""
    field = paint(vectors(*still(96, 48), (-1, 16, 16, 56, 24, -16, 0)), 96, 48, past=1, future=1)
    expected = np.zeros((6, 12, 2))
    expected[2:4, 4:6] = expected[2:4, 6:8] = (16, 0)
    np.testing.assert_array_equal(field, expected)


def test_of_two_vectors_of_a_block_the_past_one_counts():
    for order in (1, -1):
        both = vectors(*[(-1, 16, 16, 8, 8, 1, 0), (1, 16, 16, 8, 8, 3, 0)][::order])
        np.testing.assert_array_equal(paint(both, 16, 16, past=1, future=1), np.full((2, 2, 2), (-1, 0)))


def test_an_intra_block_gets_the_mean_of_what_is_around():
    blocks = [(-1, 16, 16, x, 8, -1 if x < 24 else -3, 0) for x in (8, 40)]
    field = paint(vectors(*blocks), 48, 16, past=1, future=1)
    assert field[:, :2, 0] == pytest.approx(1) and field[:, 4:, 0] == pytest.approx(3)
    assert ((field[:, 2:4, 0] > 1) & (field[:, 2:4, 0] < 3)).all()
    assert not paint(vectors((-1, 16, 16, 8, 8, 2, 2)), 160, 16, past=1, future=1)[:, 8:].any(), (
        "nothing is known there"
    )


def test_blocks_outside_the_picture_are_cut():
    field = paint(vectors((-1, 16, 16, 0, 8, 40, 0), (-1, 16, 16, 120, 8, -40, 0)), 24, 16, past=1, future=1)
    assert field.shape == (2, 4, 2) and np.isfinite(field).all()


def test_steps_are_added_along_the_way():
    first, second = np.zeros((4, 8, 2), np.float32), np.zeros((4, 8, 2), np.float32)
    first[1, 1] = (16, 8)  # to the cell two to the right and one down
    second[2, 3] = (-3, 5)
    total = add_step(first, second)
    assert tuple(total[1, 1]) == (13, 13) and tuple(total[2, 3]) == (-3, 5)
    assert np.count_nonzero(total.any(axis=2)) == 2


def test_flow_is_in_pixels_of_the_picture_and_ends_with_it():
    field = np.full((4, 4, 2), (3, 2), np.float32)  # of a frame of 20x32 pixels in macroblocks
    np.testing.assert_array_equal(to_flow(field, (20, 32), (40, 16)), np.full((4, 3, 2), (6, 1)))


@pytest.mark.parametrize("name", TURNS)
def test_flow_turns_as_ffmpeg_turns_the_picture(tmp_path, name):
    """A bright cell of the field is found where ffmpeg's filter puts it, and so is the one to which its motion leads."""
    before, after = (0, 1), (3, 2)  # column, row
    found = []
    for column, row in (before, after):
        picture = np.zeros((1, 32, 48, 3), np.uint8)
        picture[0, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 255
        cv2.imwrite(str(tmp_path / "in.png"), picture[0])
        run_ffmpeg("-i", tmp_path / "in.png", "-vf", name, tmp_path / "out.png")
        turned = cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_GRAYSCALE)
        rows, columns = np.nonzero(turned[::8, ::8])
        found.append(np.array([columns[0], rows[0]]))
    field = np.zeros((4, 6, 2), np.float32)
    field[before[1], before[0]] = 8 * np.subtract(after, before)
    flow = to_flow(field, (48, 32), turned.shape[::-1], (name,))
    assert flow.shape[:2] == (turned.shape[0] // 8, turned.shape[1] // 8)
    column, row = found[0]
    np.testing.assert_array_equal(flow[row, column], 8 * (found[1] - found[0]))


def test_images_are_those_of_the_flow_on_its_cells():
    field = np.random.default_rng(0).normal(size=(4, 6, 2)).astype(np.float32) * 5
    coding, turns = FlowCoding(), ("hflip",)
    planes = to_planes(field, (48, 30), (70, 45), turns, coding)
    np.testing.assert_array_equal(planes, coding.encode_planes(to_flow(field, (48, 30), (70, 45), turns)))
    assert (to_planes(None, (48, 30), (70, 45), (), coding) == 128).all()


def test_no_image_is_larger_than_the_picture():
    field = np.full((6, 8, 2), 4, np.float32)
    assert to_planes(field, (64, 48), (6, 4), (), FlowCoding()).shape == (2 * 4, 6)
