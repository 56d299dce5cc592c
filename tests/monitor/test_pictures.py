"""Pictures for monitors: the flow wheel, the grid of inputs, the map of a confusion matrix."""

import numpy as np
import pytest

from twostream.flow.coding import FlowCoding, flow_colours
from twostream.monitor.pictures import CAPTION_HEIGHT, clip_grid, confusion_map


@pytest.mark.parametrize(
    ("motion", "colour"),
    [
        ((0, 0), (255, 255, 255)),
        ((20, 0), (255, 0, 0)),
        ((0, 20), (128, 255, 0)),
        ((-20, 0), (0, 255, 255)),
        ((0, -20), (128, 0, 255)),
        ((5, 0), (255, 128, 128)),
        ((1.25, 0), (255, 191, 191)),
    ],
)  # fmt: skip
def test_hue_is_direction_and_strength_is_speed(motion, colour):
    """Motion (right, down) in pixels with a bound of 20: its angle is the hue, the root of its length the saturation."""
    image = FlowCoding(bound=20).encode(np.full((2, 3, 2), motion, np.float32))
    colours = flow_colours(image[None])
    assert colours.shape == (1, 2, 3, 3) and colours.dtype == np.uint8
    assert np.abs(colours.astype(int) - colour).max() <= 4  # 8 bits of flow, of hue and of saturation


def clips(num: int, length: int, size: int) -> np.ndarray:
    return np.random.default_rng(num).integers(0, 256, (num, length, size, size, 3), np.uint8)


@pytest.mark.parametrize(
    ("num", "length", "size", "scale", "in_row"),
    [(8, 1, 300, 1, 4), (5, 1, 75, 4, 4), (2, 1, 150, 4, 2), (1, 1, 20, 4, 1), (3, 5, 60, 4, 1), (2, 4, 299, 1, 1)],
)
def test_every_pixel_of_every_clip_is_in_the_grid(num, length, size, scale, in_row):
    inputs = clips(num, length, size)
    grid = clip_grid(inputs, ["a class"] * num, modality="rgb")
    side = scale * size
    height, width = grid.shape[0] / -(-num // in_row), grid.shape[1] / in_row
    for number, clip in enumerate(inputs):
        y, x = int(number // in_row * height) + CAPTION_HEIGHT, int(number % in_row * width)
        for index, frame in enumerate(clip):
            shown = grid[y : y + side : scale, x + index * side : x + (index + 1) * side : scale]
            assert np.array_equal(shown, frame)
    assert (grid[:CAPTION_HEIGHT] < 200).any(), "a caption"


def test_large_and_long_clips_are_made_small_enough():
    assert clip_grid(clips(4, 1, 600), ["é" * 300] * 4, modality="rgb").shape[1] < 1300
    assert clip_grid(clips(1, 25, 299), [""], modality="rgb").shape[1] < 1300


def test_flow_is_shown_in_colours():
    still = np.full((1, 1, 32, 32, 3), 128, np.uint8)
    grid = clip_grid(still, ["x"], modality="flow")
    assert (grid[CAPTION_HEIGHT : CAPTION_HEIGHT + 128, :128] == 255).all()
    assert (grid[-1] < 255).all(), "the background is not white"


def test_the_map_shows_shares_of_rows():
    colours = confusion_map(np.array([[2, 2, 0], [0, 100, 0], [0, 0, 0]])).astype(int)
    brightness = colours.sum(axis=2)
    assert brightness[0, 0] == brightness[0, 1] < brightness[1, 1]
    assert (colours[2] == colours[0, 2]).all(), "a class without clips is as dark as a mistake that was never made"
