"""Farneback's flow compiled by numba against OpenCV's, in pixels and in stored bytes."""

import itertools
import sys
from contextlib import closing

import cv2
import numpy as np
import pytest

from tests.conftest import noise_image
from twostream.errors import EnvironmentFaultError
from twostream.flow.coding import ZERO, FlowCoding
from twostream.flow.methods import FARNEBACK_PRESETS, FarnebackParameters, FlowFunction, FlowSettings
from twostream.video.decoder import Decoder

PARAMETERS = FARNEBACK_PRESETS | {
    "pyramid-0.8": FarnebackParameters(pyr_scale=0.8, levels=4),
    "poly-7": FarnebackParameters(poly_n=7, poly_sigma=1.5),
    "window-14, one level": FarnebackParameters(levels=1, win_size=14),
    "window-1": FarnebackParameters(win_size=1),
    "window-2": FarnebackParameters(win_size=2),
    "window-63, once": FarnebackParameters(win_size=63, iterations=1),
}
SIZES = [(97, 131), (64, 256), (33, 40), (11, 129), (9, 8), (40, 1), (1, 150), (1, 1)]
"""heights and widths: odd, a whole number of blocks, one block and a column, smaller than a window, one row or column"""


def compiled(parameters: FarnebackParameters = FARNEBACK_PRESETS["default"]) -> FlowFunction:
    pytest.importorskip("numba", reason="numba is not installed: pip install 'twostream-video[numba]'")
    return FlowSettings("farneback", farneback=parameters).function("numba")


def moving(height: int, width: int, *, num: int = 3, seed: int = 0) -> list[np.ndarray]:
    """Grey frames of a texture that moves, turns and grows, with the noise of a camera."""
    rng = np.random.default_rng(seed)
    side = 2 * max(height, width) + 100
    texture = cv2.normalize(noise_image(seed, height=side, width=side)[..., 0], None, 0, 255, cv2.NORM_MINMAX)
    frames = []
    for k in range(num):
        motion = np.float32([[1 + 0.02 * k, 0.03 * k, 2.7 * k + 20], [-0.03 * k, 1 + 0.02 * k, 20 - 1.3 * k]])
        frame = cv2.warpAffine(texture, motion, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        frames.append((frame + rng.normal(0, 1, (height, width))).clip(0, 255).astype(np.uint8))
    return frames


def test_the_frames_move():
    assert np.abs(compiled()(*moving(97, 131, num=2))).mean() > 0.5


def compare(frames: list[np.ndarray], parameters: FarnebackParameters) -> tuple[float, float]:
    """Of the flow between neighbours, the shares of pixels within 0.1 pixels of OpenCV's and of the same bytes."""
    found, truth = compiled(parameters), FlowSettings("farneback", farneback=parameters).function()
    within, same = [], []
    for pair in itertools.pairwise(frames):
        flows = [function(*pair) for function in (found, truth)]
        assert flows[0].shape == flows[1].shape and flows[0].dtype == flows[1].dtype
        within.append((np.abs(np.subtract(*flows)) < 0.1).all(-1).mean())
        images = [FlowCoding().encode_planes(flow) for flow in flows]
        same.append((images[0] == images[1]).mean())
    return float(np.mean(within)), float(np.mean(same))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", PARAMETERS)
def test_flow_and_its_bytes_are_opencvs(name, size):
    within, same = compare(moving(*size), PARAMETERS[name])
    assert within >= 0.9998 and same >= 0.9995


def test_fast_motion_leads_far_out_of_the_picture():
    frames = moving(80, 100, num=20, seed=1)[::6]
    assert np.abs(compiled()(*frames[:2])).max() > 10
    within, same = compare(frames, FarnebackParameters())
    assert within >= 0.9998 and same >= 0.9995


def test_flow_of_what_is_flat_or_still_is_opencvs_where_rounding_decides():
    picture, part = moving(60, 150, num=2)
    assert (FlowCoding().encode_planes(compiled()(picture, picture.copy())) == ZERO).all()
    flat = np.full((60, 150), 77, np.uint8)
    half = flat.copy()
    half[:, 75:] = part[:, 75:]
    other = half.copy()
    other[20:30, 100:120] = picture[20:30, 100:120]
    for parameters in PARAMETERS.values():
        within, same = compare([flat, flat, picture, picture, half, half, other], parameters)
        assert within >= 0.9998 and same >= 0.9995


def test_flow_depends_on_its_two_frames_only():
    """Not on the pairs before, though the expansions of the last frame are kept: any order, sizes, changes in place."""
    frames = moving(48, 70, num=4)
    alone = {(a, b): compiled()(frames[a], frames[b]).copy() for a, b in itertools.permutations(range(4), 2)}
    function = compiled()
    for pair in [(0, 1), (1, 2), (2, 3), (3, 2), (0, 2), (2, 1), (1, 0), (3, 1), (1, 3)]:
        np.testing.assert_array_equal(function(*(frames[k] for k in pair)), alone[pair])
    function(*moving(70, 48, num=2))
    buffer = frames[2].copy()
    function(frames[0], buffer)
    buffer[:] = frames[1]
    np.testing.assert_array_equal(function(buffer, frames[3]), alone[1, 3])


def test_frames_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="70x48 and 48x70 pixels, expected the same size"):
        compiled()(np.zeros((48, 70), np.uint8), np.zeros((70, 48), np.uint8))


def test_a_missing_numba_is_one_line(monkeypatch):
    for name in ("numba", "twostream.flow.farneback_compiled"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr("twostream.flow.farneback_compiled", raising=False)
    with pytest.raises(EnvironmentFaultError, match=r"numba \(.*\): pip install 'twostream-video\[numba\]'$"):
        FlowSettings("farneback").function("numba")


def test_code_is_compiled_where_it_cannot_be_kept(monkeypatch):
    caching = pytest.importorskip("numba.core.caching", reason="numba is not installed")
    from twostream.flow.farneback_compiled import compiled as compile_function

    def double(value):
        return 2 * value

    monkeypatch.setattr(caching.CompileResultCacheImpl, "_locator_classes", [])
    function = compile_function(double)
    assert function(3) == 6 and function.stats.cache_path is None


def test_numba_computes_farneback_only():
    with pytest.raises(ValueError, match="numba computes only farneback, not dis"):
        FlowSettings("dis").function("numba")


@pytest.mark.slow
@pytest.mark.parametrize("name", FARNEBACK_PRESETS)
def test_flow_of_real_footage_is_as_promised(shared_data, name):
    """Two pairs of every fourth video; docs/benchmarks.md has the figures of all."""
    paths = [path for path in sorted(shared_data.rglob("*")) if path.suffix in (".mp4", ".avi", ".webm", ".mkv")]
    shares = []
    for path in [path for path in paths if path.parent.name not in ("robustness", "reports")][::4]:
        with closing(iter(Decoder(path, short_side=256))) as decoded:
            rgb = itertools.islice(decoded, 3)
            shares.append(compare([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in rgb], PARAMETERS[name]))
    within, same = np.mean(shares, axis=0)
    print(f"{len(shares)} videos: {100 * within:.5f} % of pixels within 0.1, {100 * same:.5f} % of bytes the same")
    assert len(shares) > 100 and within >= 0.9998 and same >= 0.9995
