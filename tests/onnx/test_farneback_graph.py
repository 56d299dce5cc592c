"""Farneback as a graph of few operators, against OpenCV and the plain operations, for sizes that halve badly."""

import cv2
import numpy as np
import pytest
import torch

from tests.conftest import SHARED_DATA
from twostream.flow.coding import FlowCoding
from twostream.flow.farneback import farneback
from twostream.flow.methods import FARNEBACK_PRESETS, FarnebackParameters, FlowSettings
from twostream.onnx.farneback_graph import FarnebackGraph


def moving_texture(height: int, width: int, num: int, seed: int) -> np.ndarray:
    """Grey frames (num, H, W) of a texture that moves by up to 3 pixels, with a camera's noise."""
    rng = np.random.default_rng(seed)
    large = cv2.GaussianBlur(rng.integers(0, 256, (height + 40, width + 40)).astype(np.float32), (0, 0), 3)
    large = 128 + 4 * (large - large.mean())
    frames = []
    for k in range(num):
        shift = np.float32([[1, 0.02, 2.3 * k - 10], [-0.01, 1, 1.1 * k - 10]])
        frames.append(cv2.warpAffine(large, shift, (width, height)) + rng.normal(0, 1, (height, width)))
    return np.stack(frames).clip(0, 255).astype(np.uint8)


def flow_bytes(flow: np.ndarray) -> np.ndarray:
    return np.stack([FlowCoding().encode_planes(np.ascontiguousarray(part)) for part in flow])


PARAMETERS = [
    FarnebackParameters(),
    FARNEBACK_PRESETS["2d-kinectics"],
    FarnebackParameters(pyr_scale=0.7, levels=2, win_size=10, iterations=2, poly_n=7, poly_sigma=1.5),
]


@pytest.mark.parametrize("parameters", PARAMETERS, ids=["default", "2d-kinectics", "odd"])
@pytest.mark.parametrize("size", [(128, 170), (97, 131), (40, 33)])
def test_the_bytes_are_those_of_opencv_and_of_the_plain_operations(size, parameters):
    frames = moving_texture(*size, num=4, seed=sum(size))
    first, second = torch.from_numpy(frames[:-1]), torch.from_numpy(frames[1:])
    with torch.no_grad():
        found = FarnebackGraph(*size, parameters)(first, second).permute(0, 2, 3, 1).numpy()
    opencv = FlowSettings("farneback", farneback=parameters).function()
    expected = np.stack([opencv(*pair) for pair in zip(frames[:-1], frames[1:], strict=True)])
    plain = farneback(first, second, **vars(parameters)).numpy()
    assert np.abs(expected).mean() > 0.5
    for truth in (expected, plain):
        assert np.mean(flow_bytes(found) == flow_bytes(truth)) >= 0.999


def test_a_pair_does_not_depend_on_the_others():
    frames = torch.from_numpy(moving_texture(48, 64, num=4, seed=0))
    method = FarnebackGraph(48, 64, FarnebackParameters())
    with torch.no_grad():
        together = method(frames[:-1], frames[1:])
        alone = torch.cat([method(frames[k : k + 1], frames[k + 1 : k + 2]) for k in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


def test_frames_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match="9x40 pixels, expected 10"):
        FarnebackGraph(40, 9, FarnebackParameters())


@pytest.mark.slow
@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="no real footage beside the repository")
def test_the_bytes_are_those_of_opencv_on_real_footage():
    same = []
    opencv = FlowSettings("farneback").function()
    for path in sorted((SHARED_DATA / "ut_interaction" / "videos").rglob("*_1[3-6]_*.avi")):
        video = cv2.VideoCapture(str(path))
        frames = [cv2.cvtColor(video.read()[1], cv2.COLOR_BGR2GRAY) for _ in range(30)]
        method = FarnebackGraph(*frames[0].shape, FarnebackParameters())
        for first, second in zip(frames[::10], frames[1::10], strict=True):
            with torch.no_grad():
                found = method(torch.from_numpy(first)[None], torch.from_numpy(second)[None])
            found = found.permute(0, 2, 3, 1).numpy()
            same.append(np.mean(flow_bytes(found) == flow_bytes(opencv(first, second)[None])))
    assert len(same) >= 30 and min(same) >= 0.999, (len(same), min(same))
