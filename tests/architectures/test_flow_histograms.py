"""The histograms of flow beside motions whose direction is known."""

import math

import numpy as np
import pytest
import torch

from twostream.architectures.flow_histograms import (
    KINDS,
    LARGE_CELLS,
    NUM_DIRECTIONS,
    PARTS,
    SMALL_CELLS,
    FlowHistograms,
    time_parts,
)
from twostream.flow.coding import FlowCoding
from twostream.flow.methods import FlowSettings
from twostream.models.network import build_model
from twostream.stream import StreamConfig

MOTION, OF_X, OF_Y = range(KINDS)
SIDE = 32


def histograms(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flow (T, H, W, 2) in pixels -> histograms (kinds, directions, 8, 8), and of parts of time (parts, kinds, directions, 2, 2)."""
    network = FlowHistograms(2, dropout=0).eval()
    network.fc = torch.nn.Identity()
    with torch.no_grad():
        features = network(torch.from_numpy(flow.astype(np.float32)).permute(3, 0, 1, 2)[None])[0].numpy()
    shape = (KINDS, NUM_DIRECTIONS, SMALL_CELLS, SMALL_CELLS)
    small, large = np.split(features, [math.prod(shape)])
    return small.reshape(shape), large.reshape(PARTS, *shape[:2], LARGE_CELLS, LARGE_CELLS)


@pytest.mark.parametrize("eighth", range(NUM_DIRECTIONS))
def test_the_bins_of_a_direction(eighth):
    """Right, down right, down ...: the bin of a steady motion is the largest, those beside it have cos 45 of it."""
    angle = eighth * math.tau / NUM_DIRECTIONS
    flow = np.full((6, SIDE, SIDE, 2), (5000 * math.cos(angle), 5000 * math.sin(angle)))
    expected = np.maximum(np.cos((np.arange(NUM_DIRECTIONS) - eighth) * math.tau / NUM_DIRECTIONS), 0)
    for found in (histograms(flow)[0][None], histograms(flow)[1]):
        squares = found[:, MOTION] ** 2  # of length 1 together
        assert np.allclose(squares, (expected / expected.sum())[:, None, None] / found[0, 0, 0].size, atol=1e-4)


def test_where_and_when_it_moves():
    flow = np.zeros((9, SIDE, SIDE, 2))
    flow[3:6, 4:8, 28:32, 0] = 20  # to the right, in the second third, in the second row of cells and their last column
    small, large = histograms(flow)
    assert np.unravel_index(small[MOTION].argmax(), small[MOTION].shape) == (0, 1, 7)
    assert np.unravel_index(large[1, MOTION].argmax(), large[1, MOTION].shape) == (0, 0, 1)
    assert np.ptp(large[[0, 2]]) < 1e-6


def test_gradients_do_not_see_a_moving_camera():
    flow = np.random.default_rng(0).normal(size=(6, SIDE, SIDE, 2)).cumsum(axis=1)
    for still, moving in zip(histograms(flow), histograms(flow + (7, -3)), strict=True):
        assert np.allclose(still[..., OF_X:, :, :, :], moving[..., OF_X:, :, :, :], atol=1e-5)
        assert not np.allclose(still[..., MOTION, :, :, :], moving[..., MOTION, :, :, :], atol=0.03)


def test_gradients_of_each_component():
    """x grows to the right, and y upwards: each has the bin of that direction, and nothing in the opposite one."""
    flow = np.zeros((3, SIDE, SIDE, 2))
    flow[..., 0], flow[..., 1] = 50 * np.arange(SIDE), -50 * np.arange(SIDE)[:, None]
    small, _ = histograms(flow)
    assert (small[OF_X].argmax(axis=0) == 0).all() and (small[OF_Y].argmax(axis=0) == 6).all()
    assert small[OF_X, 4].max() < 0.1 * small[OF_X, 0].min()


@pytest.mark.parametrize("num_frames", range(1, 20))
def test_parts_of_time_have_all_frames(num_frames):
    parts = time_parts(num_frames)
    assert len(parts) == PARTS and parts[0][0] == 0 and parts[-1][1] == num_frames
    assert all(begin < end for begin, end in parts)
    assert all(0 <= before[1] - after[0] <= 1 for before, after in zip(parts, parts[1:], strict=False))


def test_flow_is_read_in_pixels():
    """The same motion in two codings has the same scores, to half a grey level."""
    flow = np.random.default_rng(2).uniform(-8, 8, size=(6, SIDE, SIDE, 2)).astype(np.float32)
    scores = []
    for bound in (10.0, 20.0):
        coding = FlowCoding(bound)
        stream = StreamConfig(
            "farneback", "flow_histograms", ("a", "b"), input_size=SIDE, clip_len=6,
            flow_coding=FlowSettings("farneback", coding=coding).to_json(),
        )  # fmt: skip
        torch.manual_seed(0)
        clip = np.stack([coding.encode(frame)[..., :2] for frame in flow])
        with torch.no_grad():
            scores.append(build_model(stream).eval()(torch.from_numpy(clip)[None, None]).numpy())
    assert np.allclose(*scores, rtol=0, atol=0.01 * np.abs(scores[0]).max())
