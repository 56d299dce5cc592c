"""Crops of clips: where they are, how large, and when they are mirrored."""

import numpy as np
import pytest

from tests.conftest import noise_image
from twostream.transforms import CentreCrop, TrainCrop


def draws(crop, clip, count=40):
    return [crop(clip, np.random.default_rng(seed)) for seed in range(count)]


def exact_clip(num_frames=3, *, size=100, width=140):
    """Images whose short side is 1.1 of the crop, so that a crop is cut out unscaled."""
    return np.stack([noise_image(k, height=int(1.1 * size), width=width) for k in range(num_frames)])


@pytest.mark.parametrize("height, width", [(48, 64), (300, 200), (110, 110), (1, 1), (1, 50), (50, 1), (2, 3)])
@pytest.mark.parametrize("size", [1, 2, 75, 100])
@pytest.mark.parametrize("modality", ["rgb", "flow"])
def test_shape_and_type(height, width, size, modality):
    clip = np.full((2, height, width, 3), 200, np.uint8)
    clip[..., 0] = 128  # x-flow 0: stays as it is when mirrored
    for crop in (CentreCrop(size), TrainCrop(size, modality)):
        result = crop(clip, np.random.default_rng(0))
        assert result.shape == (2, size, size, 3) and result.dtype == np.uint8
        assert (result == [128, 200, 200]).all(), "a flat picture stays flat, whatever its size"


def test_centre_crop_is_the_middle():
    clip = exact_clip()
    assert (CentreCrop(100)(clip) == clip[:, 5:105, 20:120]).all()


def test_centre_crop_of_any_size_has_its_middle_in_the_middle():
    """A bright dot in the middle of the image must come out in the middle of the crop, within a pixel."""
    for height, width in ((95, 161), (480, 640), (61, 33)):
        clip = np.zeros((1, height, width, 3), np.uint8)
        clip[:, height // 2 - 2 : height // 2 + 3, width // 2 - 2 : width // 2 + 3] = 255
        result = CentreCrop(75)(clip)[0, :, :, 0].astype(float)
        centre = [(result.sum(axis) * np.arange(75)).sum() / result.sum() for axis in (1, 0)]
        scale = 75 * 1.1 / min(height, width)
        assert np.allclose(centre, 37, atol=1 + scale)  # half a pixel of either grid


def test_same_generator_same_crop_other_generator_other_crop():
    clip, crop = exact_clip(), TrainCrop(100, "rgb")
    first, again = draws(crop, clip), draws(crop, clip)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert len({picture.tobytes() for picture in first}) > 20


def test_train_crops_are_cut_out_of_the_image_everywhere():
    clip = exact_clip(1)
    corners = set()
    windows = {clip[:, y : y + 100, x : x + 100].tobytes(): (y, x) for y in range(11) for x in range(41)}
    for picture in draws(TrainCrop(100, "rgb", mirror=False), clip, 300):
        corners.add(windows[picture.tobytes()])
    rows, columns = zip(*corners, strict=True)
    assert {min(rows), max(rows)} == {0, 10} and min(columns) <= 1 and max(columns) >= 39


def test_all_frames_share_one_draw():
    frame = exact_clip(1)
    for picture in draws(TrainCrop(100, "rgb"), np.repeat(frame, 4, axis=0)):
        assert (picture == picture[:1]).all()


def test_mirror_half_of_the_time_and_never_when_off():
    """Grey levels rise to the right: their order tells whether a crop is mirrored."""
    clip = np.broadcast_to(np.arange(140, dtype=np.uint8)[:, None], (1, 110, 140, 3)).copy()
    mirrored = [p[0, 0, 0, 0] > p[0, 0, -1, 0] for p in draws(TrainCrop(100, "rgb"), clip, 400)]
    assert 150 < sum(mirrored) < 250  # 5 standard deviations of 400 fair draws are 50
    assert not any(p[0, 0, 0, 0] > p[0, 0, -1, 0] for p in draws(TrainCrop(100, "rgb", mirror=False), clip))


def test_mirrored_flow_has_x_negated_and_nothing_else():
    clip = np.zeros((2, 110, 110, 3), np.uint8)
    clip[...] = (128 + 30, 128 - 20, 128 + 36)  # motion to the right and up
    crops = draws(TrainCrop(100, "flow"), clip)
    colours = {tuple(int(v) for v in p[0, 0, 0]) for p in crops}
    assert colours == {(158, 108, 164), (98, 108, 164)}
    assert all((p == p[0, 0, 0]).all() for p in crops)
    assert {tuple(int(v) for v in p[0, 0, 0]) for p in draws(TrainCrop(100, "flow", mirror=False), clip)} == {
        (158, 108, 164)
    }
