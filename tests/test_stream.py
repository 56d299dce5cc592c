"""The settings of a stream, and how they travel through files."""

import dataclasses
import json

import pytest

from twostream.stream import StreamConfig

STREAM = StreamConfig("farneback", "vgg16", ("walk", "run"), 224, 5, 2, {"scale": 6.4, "zero": 128})


def test_round_trip_through_json():
    assert StreamConfig.from_json(json.loads(json.dumps(STREAM.to_json()))) == STREAM


def test_the_side_to_which_pictures_are_scaled_is_in_files_only_if_given():
    assert "resize_side" not in STREAM.to_json()
    content = json.loads(json.dumps(dataclasses.replace(STREAM, resize_side=256).to_json()))
    assert StreamConfig.from_json(content).resize_side == 256
    for wrong in (223, -1, "256", True, 256.0):
        with pytest.raises(ValueError, match="resize_side"):
            StreamConfig.from_json(content | {"resize_side": wrong})


def test_pictures_of_another_shape_are_in_files_as_a_list():
    stream = StreamConfig("rgb", "r2plus1d_18", ("a", "b"), 112, 16, resize_side=(128, 171))
    content = json.loads(json.dumps(stream.to_json()))
    assert content["resize_side"] == [128, 171] and StreamConfig.from_json(content) == stream
    for wrong in ([111, 171], [128], [128, 171, 3], [128, "171"], [True, 171], []):
        with pytest.raises(ValueError, match="resize_side"):
            StreamConfig.from_json(content | {"resize_side": wrong})


def test_a_frame_rate_is_in_files_only_if_given():
    assert "frame_rate" not in STREAM.to_json()
    stream = dataclasses.replace(STREAM, frame_rate=29.97)
    content = json.loads(json.dumps(stream.to_json()))
    assert StreamConfig.from_json(content) == stream
    for wrong in (-1, 1e-9, 1e9, float("nan"), "15", True, None, [15]):
        with pytest.raises(ValueError, match="frame_rate"):
            StreamConfig.from_json(content | {"frame_rate": wrong})


def test_missing_and_unknown_fields_are_named():
    content = STREAM.to_json()
    del content["clip_len"]
    with pytest.raises(ValueError, match="clip_len, depth"):
        StreamConfig.from_json(content | {"depth": 3})


@pytest.mark.parametrize(
    "change",
    [{"clip_len": 1.0}, {"input_size": "224"}, {"classes": [1]}, {"classes": "ab"}, {"flow_coding": []}, {"backbone": None},
     {"frame_stride": True}],
)  # fmt: skip
def test_settings_of_another_type_are_named(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))} of a stream"):
        StreamConfig.from_json(STREAM.to_json() | change)


@pytest.mark.parametrize(
    "input_type, modality", [("rgb", "rgb"), ("farneback", "flow"), ("dis", "flow"), ("brox", "flow")]
)
def test_modality(input_type, modality):
    assert StreamConfig(input_type, "vgg16", ("a",), 224).modality == modality


@pytest.mark.parametrize("geometry", [{"clip_len": 0}, {"frame_stride": 0}, {"clip_len": -1}])
def test_empty_clips_are_refused(geometry):
    with pytest.raises(ValueError, match="--seq_len"):
        StreamConfig("rgb", "vgg16", ("a",), 224, **geometry)


@pytest.mark.parametrize("name", ["clip_len", "frame_stride", "input_size"])
@pytest.mark.parametrize("value", [0, -1, 10**7, 2**63])
def test_files_do_not_decide_how_much_memory_is_taken(name, value):
    content = StreamConfig("rgb", "resnet18", ("a", "b"), 224).to_json()
    assert StreamConfig.from_json(content).to_json() == content
    with pytest.raises(ValueError, match=name):
        StreamConfig.from_json(content | {name: value})
