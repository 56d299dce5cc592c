"""One suite for all flow methods (known shift, still picture), and the coding of flow as images."""

import cv2
import numpy as np
import pytest

from twostream.flow.coding import ZERO, FlowCoding, from_planes
from twostream.flow.methods import FARNEBACK_PRESETS, FLOW_METHODS, FarnebackParameters, FlowSettings

SIDE = 64  # small, since tvl1 takes seconds on a usual frame


def grey_texture(seed: int = 0, side: int = SIDE + 16) -> np.ndarray:
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random((side, side), np.float32), (0, 0), 2)
    return cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def window(texture: np.ndarray, x: int, y: int) -> np.ndarray:
    """The texture as seen when it has moved x pixels to the right and y down."""
    return np.ascontiguousarray(texture[8 - y : 8 - y + SIDE, 8 - x : 8 - x + SIDE])


def smooth_flow(seed: int, *, largest: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    flow = np.stack([cv2.GaussianBlur(rng.normal(size=(24, 32)).astype(np.float32), (0, 0), 3) for _ in "xy"], -1)
    return flow * np.float32(largest / np.abs(flow).max())


# --------------------------------------------------------------------------------- contract of every flow method


@pytest.mark.parametrize("shift", [(3, 0), (0, 3), (-2, 1), (2, -3)])
@pytest.mark.parametrize("method", FLOW_METHODS)
def test_known_shift_is_recovered_x_to_the_right_and_y_down(method, shift):
    texture = grey_texture()
    flow = FlowSettings(method).function()(window(texture, 0, 0), window(texture, *shift))
    assert flow.dtype == np.float32 and flow.shape == (SIDE, SIDE, 2)
    # 0.2 of a pixel: the methods interpolate; a swapped axis or a wrong sign is off by 1 at least.
    assert np.median(flow[8:-8, 8:-8], axis=(0, 1)) == pytest.approx(shift, abs=0.2)


@pytest.mark.parametrize("method", FLOW_METHODS)
def test_still_picture_is_level_zero_exactly(method):
    settings = FlowSettings(method)
    picture = window(grey_texture(), 0, 0)
    assert (settings.coding.encode(settings.function()(picture, picture)) == ZERO).all()


@pytest.mark.parametrize("method", FLOW_METHODS)
def test_function_gives_the_same_again(method):
    function = FlowSettings(method).function()
    pair = window(grey_texture(), 0, 0), window(grey_texture(), 2, 1)
    first = function(*pair).copy()
    function(*pair[::-1])
    np.testing.assert_array_equal(function(*pair), first)


@pytest.mark.parametrize("size", [(8, 64), (16, 200), (31, 31)])
def test_dis_refuses_frames_that_crash_opencv(size):
    picture = np.zeros(size, np.uint8)
    with pytest.raises(ValueError, match="dis needs 32 pixels"):
        FlowSettings("dis").function()(picture, picture)


def test_unknown_method_is_named_with_the_choice():
    with pytest.raises(ValueError, match="'brox', expected one of farneback, dis, tvl1"):
        FlowSettings("brox")


# ---------------------------------------------------------------------------------------------------- farneback


def test_farneback_default_is_the_usual_call_of_opencv():
    pair = window(grey_texture(), 0, 0), window(grey_texture(), 2, 1)
    truth = cv2.calcOpticalFlowFarneback(*pair, None, 0.5, 3, 15, 3, 5, 1.2, 0)
    np.testing.assert_array_equal(FlowSettings("farneback").function()(*pair), truth)


def test_farneback_preset_is_the_class_default_of_opencv():
    pair = window(grey_texture(), 0, 0), window(grey_texture(), 2, 1)
    truth = cv2.FarnebackOpticalFlow_create().calc(*pair, None)
    settings = FlowSettings("farneback", farneback=FARNEBACK_PRESETS["2d-kinectics"])
    np.testing.assert_array_equal(settings.function()(*pair), truth)


@pytest.mark.parametrize(
    "name, value",
    [("pyr_scale", 1.0), ("pyr_scale", float("nan")), ("levels", 0), ("win_size", 0), ("iterations", 0),
     ("poly_n", 4), ("poly_sigma", 0.0)],
)  # fmt: skip
def test_farneback_parameters_check_themselves(name, value):
    with pytest.raises(ValueError, match=f"--{name} is"):
        FarnebackParameters(**{name: value})


# EPE of cv2's usual call as measured with other code (the data's MANIFEST); 0.01 allows for another OpenCV.
@pytest.mark.parametrize("scene, truth", [("RubberWhale", 0.361), ("Hydrangea", 0.592)])
def test_farneback_error_on_middlebury_is_the_known_one(shared_data, scene, truth):
    folder = shared_data / "flow_gt" / "middlebury" / scene
    pair = [cv2.imread(str(folder / name), cv2.IMREAD_GRAYSCALE) for name in ("frame10.png", "frame11.png")]
    known = cv2.readOpticalFlow(str(folder / "flow10.flo"))
    difference = np.linalg.norm(FlowSettings("farneback").function()(*pair) - known, axis=2)
    assert difference[np.abs(known).max(axis=2) < 1e9].mean() == pytest.approx(truth, abs=0.01)


# ------------------------------------------------------------------------------------------------------- coding

CODINGS = [FlowCoding(), FlowCoding(bound=8), FlowCoding(bound=8, integer_scale=True), FlowCoding(20, True)]


@pytest.mark.parametrize(
    "bound, integer_scale, levels", [(20, False, 6.4), (8, False, 16), (8, True, 16), (20, True, 6), (128, True, 1)]
)
def test_grey_levels_per_pixel(bound, integer_scale, levels):
    assert FlowCoding(bound, integer_scale).scale == levels


def test_image_is_x_y_magnitude_in_that_order():
    flow = np.zeros((1, 5, 2), np.float32)
    flow[0] = [(0, 0), (3, 4), (-3, 4), (100, 0), (0, -100)]  # the last two are far beyond the bound
    image = FlowCoding(bound=16).encode(flow)  # 8 levels per pixel
    truth = [(128, 128, 128), (152, 160, 168), (104, 160, 168), (255, 128, 255), (128, 0, 255)]
    assert image.dtype == np.uint8 and image[0].tolist() == [list(levels) for levels in truth]


@pytest.mark.parametrize("coding", CODINGS, ids=repr)
def test_round_trip_within_half_a_grey_level(coding):
    flow = smooth_flow(0, largest=0.99 * min(coding.bound, 127 / coding.scale))
    error = np.abs(coding.decode(coding.encode(flow)) - flow).max()
    assert error <= 0.5 / coding.scale * 1.0001  # float32


@pytest.mark.parametrize("coding", CODINGS, ids=repr)
def test_planes_hold_x_above_y_and_the_magnitude_comes_back_within_a_level(coding):
    flow = smooth_flow(2, largest=1.2 * coding.bound)
    image, planes = coding.encode(flow), coding.encode_planes(flow)
    assert planes.shape == (48, 32)
    np.testing.assert_array_equal(planes, np.vstack([image[..., 0], image[..., 1]]))
    back = from_planes(planes)
    np.testing.assert_array_equal(back[..., :2], image[..., :2])
    inside = (image[..., :2] > 0).all(-1) & (image[..., :2] < 255).all(-1)  # else x or y was clipped
    assert np.abs(back[..., 2].astype(int) - image[..., 2])[inside].max() <= 1


def test_odd_number_of_rows_is_no_pair_of_planes():
    with pytest.raises(ValueError, match="7 rows"):
        from_planes(np.zeros((7, 4), np.uint8))


@pytest.mark.parametrize("bound", [0, -1, 129, float("nan")])
def test_bound_out_of_range_is_refused_with_its_flag(bound):
    with pytest.raises(ValueError, match="--bound is"):
        FlowCoding(bound=bound)
