"""Where crops are, and how large."""

from collections import Counter
from itertools import product
from random import Random

import cv2
import numpy as np
import pytest

from tests.conftest import noise_image
from twostream.clips.crops import VIEWS, CentreCrop, CornerCrop, RandomCrop, corner_regions, make_views
from twostream.clips.testing import Sampling, stream_as_tested
from twostream.frames.jpeg import Header, Region, cut_regions
from twostream.stream import StreamConfig


def draws(crop, height, width, count=40):
    return [crop(height, width, Random(seed)) for seed in range(count)]


@pytest.mark.parametrize("height, width", [(48, 64), (300, 200), (110, 110), (1, 1), (1, 50), (50, 1), (2, 3)])
@pytest.mark.parametrize("size", [1, 2, 75, 100])
def test_regions_lie_inside_of_pictures_of_any_size(height, width, size):
    for crop in (CentreCrop(size), RandomCrop(size), CornerCrop(size), CornerCrop(size, (1.0, 0.01))):
        for y, x, h, w in draws(crop, height, width):
            assert 0 <= y < y + h <= height and 0 <= x < x + w <= width
            assert {type(number) for number in (y, x, h, w)} == {int}


def test_centre_crop_is_the_middle():
    # The picture's short side is 1.1 times the crop's side, so nothing is scaled.
    assert CentreCrop(100)(110, 140) == Region(5, 20, 100, 100)
    assert CentreCrop(299)(256, 340) == Region(11, 53, 233, 233)  # 256 * 299 / 328 = 233.4
    for height, width in ((95, 161), (480, 640), (61, 33)):
        y, x, h, w = CentreCrop(75)(height, width)
        assert h == w == round(min(height, width) * 75 / 82)
        assert abs(2 * y + h - height) <= 1 and abs(2 * x + w - width) <= 1


def test_crops_of_trainings_on_clips():
    """Frames of 128x171 (torchvision, VMZ): crops of 112 are cut as they are stored, anywhere, in the middle, at a corner."""
    regions = {crop[2:] for crop in draws(RandomCrop(112, 128), 128, 171)}
    assert regions == {(112, 112)} and CentreCrop(112, 128)(128, 171) == Region(8, 29, 112, 112)
    assert {y for y, *_ in draws(RandomCrop(112, 128), 128, 171, 500)} == set(range(17))
    ten = make_views("ten", 112, 128)
    assert [view.crop(256, 342)[:2] for view in ten[:5]] == [(16, 59), (0, 0), (0, 118), (32, 0), (32, 118)]
    assert {view.crop(256, 342)[2:] for view in ten} == {(224, 224)}
    assert CentreCrop(112, 112)(128, 171) == Region(0, 21, 128, 128), "the largest square"


SQUEEZED = (128, 171)
SIZES = [(128, 171), (256, 342), (128, 228), (360, 640), (228, 128), (100, 100)]


@pytest.mark.parametrize("height, width", SIZES)
def test_crops_of_squeezed_pictures(height, width):
    """A part of the picture stands for the crop of 112 that is cut from the picture squeezed to 128x171."""
    up, across = height / 128, width / 171
    centre = CentreCrop(112, SQUEEZED)(height, width)
    assert abs(centre.height - 112 * up) <= 0.5 and abs(centre.width - 112 * across) <= 0.5
    assert abs(centre.y - 8 * up) <= 1 and abs(centre.x - 29.5 * across) <= 1
    drawn = draws(RandomCrop(112, SQUEEZED), height, width, 200)
    assert {region[2:] for region in drawn} == {centre[2:]} and len({region[:2] for region in drawn}) > 100
    assert all(0 <= y <= height - h and 0 <= x <= width - w for y, x, h, w in drawn)
    three = [view.crop(height, width) for view in make_views("three", 112, SQUEEZED)]
    assert {region[2:] for region in three} == {(height, round(128 * across))}, "the largest squares: 128 of 128x171"
    assert [region.x for region in three] == [0, (width - three[0].width) // 2, width - three[0].width]
    (whole,) = make_views("full", 112, SQUEEZED)
    assert whole.crop.shape(height, width) == SQUEEZED and whole.crop.size == 128
    corners = corner_regions(height, width, (1.0, 0.875), SQUEEZED)
    assert {region[2:] for region in corners} == {
        (int(128 * up * a), int(128 * across * b)) for a, b in product((1, 0.875), repeat=2)
    }


@pytest.mark.parametrize(
    "views, test_size, expected",
    [
        ("full", 0, (112, SQUEEZED)), ("full", 256, (112, (256, 342))), ("three", 128, (128, SQUEEZED)),
        ("three", 256, (256, (256, 342))),
    ],
)  # fmt: skip
def test_squeezed_pictures_keep_their_shape_at_other_test_sizes(views, test_size, expected):
    stream = StreamConfig("rgb", "r2plus1d_18", ("a",), 112, 16, resize_side=SQUEEZED)
    seen = stream_as_tested(stream, Sampling(views=views, test_size=test_size))
    assert (seen.input_size, seen.resize_side) == expected


@pytest.mark.parametrize("height, width", SIZES)
def test_pixels_of_squeezed_pictures(height, width):
    """Those of squeezing the whole picture and cutting, up to where a pixel's centre lies."""
    smooth = cv2.GaussianBlur(noise_image(3, height=height, width=width), (0, 0), min(height, width) / 16)
    picture = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)
    squeezed = cv2.resize(picture, SQUEEZED[::-1], interpolation=cv2.INTER_AREA)
    expected = squeezed[8 : 8 + 112, 29 : 29 + 112].astype(float)

    def difference(crop):
        found = np.empty((1, 112, 112, 3), np.uint8)
        cut_regions(picture, Header(height, width, False), [crop(height, width)], list(found))
        return np.abs(found[0] - expected).mean()

    assert difference(CentreCrop(112, SQUEEZED)) < 4
    if abs(width / height - 171 / 128) > 0.01:
        assert difference(CentreCrop(112, 128)) > 10, "with the shape kept, it is another picture"


def test_random_crops_are_everywhere_and_only_there():
    regions = Counter(draws(RandomCrop(100), 105, 113, 3000))
    side = round(105 * 100 / 110)
    assert {region[2:] for region in regions} == {(side, side)}
    # 190 positions, 16 draws each: one of them is never drawn with a probability of 190 * exp(-15.8) = 3e-5.
    assert regions.keys() == {Region(y, x, side, side) for y in range(105 - side + 1) for x in range(113 - side + 1)}


def test_a_region_depends_on_the_generator_only():
    for crop in (RandomCrop(100), CornerCrop(100)):
        assert draws(crop, 256, 340) == draws(crop, 256, 340)
        assert len(set(draws(crop, 256, 340))) > 15


def test_corner_crops_are_exactly_those_of_the_paper():
    """At 340x256 the sides are 256, 224, 192 and 168; height and width are the same or neighbours in this list."""
    sizes = [(256, 256), (256, 224), (224, 256), (224, 224), (224, 192), (192, 224), (192, 192), (192, 168), (168, 192),
             (168, 168)]  # fmt: skip
    positions = {
        (h, w): {(0, 0), (0, 340 - w), (256 - h, 0), (256 - h, 340 - w), ((256 - h) // 2, (340 - w) // 2)}
        for h, w in sizes
    }
    expected = {Region(y, x, h, w) for (h, w), corners in positions.items() for y, x in corners}
    drawn = Counter(draws(CornerCrop(224), 256, 340, 2500))
    assert drawn.keys() == expected
    # Ten sizes are equally likely; five standard deviations of their 250 draws are 75.
    by_size = Counter()
    for region, count in drawn.items():
        by_size[region[2:]] += count
    assert all(175 < count < 325 for count in by_size.values())


def test_corner_crops_of_a_portrait_picture_are_the_same_on_their_side():
    upright, lying = (set(corner_regions(*size, (1.0, 0.75))) for size in ((340, 256), (256, 340)))
    assert upright == {Region(x, y, w, h) for y, x, h, w in lying}


def test_corner_crops_have_the_given_scales():
    drawn = draws(CornerCrop(50, (1.0, 0.5)), 100, 100, 200)
    assert {region[2:] for region in drawn} == set(product((100, 50), repeat=2))
    assert set(draws(CornerCrop(50, (1.0,)), 100, 120)) == {
        Region(0, 0, 100, 100), Region(0, 20, 100, 100), Region(0, 10, 100, 100)
    }  # fmt: skip


@pytest.mark.parametrize("height, width", [(256, 340), (340, 256), (256, 256), (1, 5), (33, 32)])
def test_views_lie_in_the_picture_and_are_what_they_are_called(height, width):
    views = {name: make_views(name, 224) for name in VIEWS}
    (whole,), (same, mirrored) = views.pop("full"), views.pop("full-flip")
    assert same == whole and mirrored == whole._replace(number=17, mirrored=True)
    assert (whole.number, whole.mirrored, whole.crop(height, width)) == (16, False, Region(0, 0, height, width))
    assert min(whole.crop.shape(height, width)) == 246, "the short side from which crops of 224 are cut"
    regions = {v.number: v.crop(height, width) for views_of_name in views.values() for v in views_of_name}
    for y, x, h, w in regions.values():
        assert h == w > 0 and 0 <= y <= height - h and 0 <= x <= width - w
    assert regions[0] == CentreCrop(224)(height, width)
    side = regions[0].height
    corners = [(0, 0), (0, width - side), (height - side, 0), (height - side, width - side)]
    assert [(r.y, r.x) for r in map(regions.get, (1, 2, 3, 4))] == corners
    assert all(regions[number] == regions[number - 5] for number in range(5, 10))
    # The three together show every pixel, unless the picture is very long.
    seen = np.zeros((height, width), bool)
    for number in (10, 11, 12):
        y, x, h, w = regions[number]
        seen[y : y + h, x : x + w] = True
        assert h == min(height, width) and regions[number] == regions[number + 3]
    assert seen.all() or max(height, width) > 3 * min(height, width)
    for name, views_of_name in views.items():
        numbers = [view.number for view in views_of_name]
        assert numbers == sorted(set(numbers)), name
        assert all(view.mirrored == (5 <= view.number < 10 or view.number >= 13) for view in views_of_name)


def test_five_views_are_those_of_ten_that_are_not_mirrored():
    assert make_views("five", 64, 70) == tuple(view for view in make_views("ten", 64, 70) if not view.mirrored)
