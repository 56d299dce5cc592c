"""Folders of images: published whole or not at all, read by frame index, damage named."""

import json
import os

import cv2
import numpy as np
import pytest

from tests.conftest import noise_image
from twostream.errors import BadInputError
from twostream.frame_store import FrameFolders, FrameFolderWriter, check_video_id, checksum, encode_jpeg, frame_name

JPEG = encode_jpeg(noise_image(), quality=90, chroma_subsampling=True)


@pytest.fixture
def store(tmp_path) -> FrameFolders:
    return FrameFolders(tmp_path, "rgb")


def publish(store: FrameFolders, video_id: str, jpegs: list[bytes]) -> bool:
    with FrameFolderWriter(store, video_id) as writer:
        for index, jpeg in enumerate(jpegs):
            writer.write(index, jpeg)
        return writer.publish({"num_frames": len(jpegs)})


def test_files_count_from_one():
    assert [frame_name(k) for k in (0, 8, 99_998, 99_999)] == ["00001.jpg", "00009.jpg", "99999.jpg", "100000.jpg"]


def test_nothing_is_visible_before_publish_and_all_after(store):
    with FrameFolderWriter(store, "v") as writer:
        writer.write(0, JPEG)
        assert not store.has("v") and store.video_ids() == []
        assert writer.publish({"num_frames": 1})
    assert store.has("v") and store.video_ids() == ["v"] and store.count("v") == 1
    assert sorted(os.listdir(store.folder)) == ["v"]
    assert store.record("v")["checksums"] == {"00001.jpg": checksum(JPEG)}


def test_leaving_without_publish_leaves_nothing(store):
    with pytest.raises(RuntimeError), FrameFolderWriter(store, "v") as writer:
        writer.write(0, JPEG)
        raise RuntimeError("in mid-video")
    assert os.listdir(store.folder) == []


def test_second_of_two_writers_is_told_and_the_first_one_stays(store):
    other = encode_jpeg(noise_image(1), quality=90, chroma_subsampling=True)
    with FrameFolderWriter(store, "v") as first, FrameFolderWriter(store, "v") as second:
        first.write(0, JPEG)
        second.write(0, other)
        assert first.publish({"num_frames": 1}) is True
        assert second.publish({"num_frames": 1}) is False
    assert store.read_bytes("v", 0) == JPEG
    assert os.listdir(store.folder) == ["v"]


def test_reads_frames_in_the_order_asked_as_rgb(store):
    pictures = [np.full((16, 16, 3), colour, np.uint8) for colour in [(200, 30, 60), (20, 180, 90)]]
    publish(store, "v", [encode_jpeg(p, quality=95, chroma_subsampling=False) for p in pictures])
    clip = store.read("v", [1, 0, 1])
    assert clip.dtype == np.uint8 and clip.shape == (3, 16, 16, 3)
    # A flat colour survives JPEG to within the rounding of its colour space; swapped channels would be 60 off.
    assert np.abs(clip.astype(int) - np.stack([pictures[1], pictures[0], pictures[1]])).max() <= 3


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_cut_image_is_refused_by_name(store, share):
    publish(store, "v", [JPEG, JPEG])
    path = store.folder / "v" / "00002.jpg"
    path.write_bytes(JPEG[: int(len(JPEG) * share)])
    with pytest.raises(BadInputError, match="v/00002.jpg: .*no whole JPEG"):
        store.read("v", [0, 1])


def test_missing_image_is_named(store):
    publish(store, "v", [JPEG])
    with pytest.raises(BadInputError, match="v/00002.jpg is missing"):
        store.read("v", [1])


@pytest.mark.parametrize("video_id", ["", ".", "..", ".hidden", "../x", "a/b", "/etc", "a\\b", "a\0b"])
def test_id_that_is_no_plain_name_is_refused(store, video_id):
    with pytest.raises(BadInputError, match="video id"):
        check_video_id(video_id)
    with pytest.raises(BadInputError, match="video id"):
        FrameFolderWriter(store, video_id)


@pytest.mark.parametrize("video_id", ["-dash", "with space", "50% off", "a:b", 'it\'s "quoted"', "測試ü", "v" * 200])
def test_odd_names_are_fine(store, video_id):
    assert publish(store, video_id, [JPEG])
    assert store.video_ids() == [video_id] and store.read(video_id, [0]).shape == (1, 48, 64, 3)


def test_folders_of_other_tools_are_read_and_counted(store):
    folder = store.folder / "old"
    folder.mkdir(parents=True)
    for name in ("00001.jpg", "00002.jpg", "100000.jpg", "thumb.jpg", "00003.png", "00001.jpg.tmp"):
        (folder / name).write_bytes(JPEG)
    assert store.record("old") is None
    assert store.count("old") == 3
    assert store.read("old", [0, 1]).shape == (2, 48, 64, 3)


@pytest.mark.parametrize("text", ["", '{"num_frames": 3', "[]", "{}", '{"num_frames": "three"}'])
def test_broken_record_is_named(store, text):
    publish(store, "v", [JPEG])
    (store.folder / "v" / "video.json").write_text(text)
    with pytest.raises(BadInputError, match="v/video.json"):
        store.count("v")


def test_no_folder_means_no_videos(store):
    assert store.video_ids() == [] and not store.has("v")


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


def test_record_is_json_with_what_the_caller_gave(store):
    with FrameFolderWriter(store, "v") as writer:
        writer.write(0, JPEG)
        writer.publish({"num_frames": 1, "source": {"name": "ü.mp4"}})
    assert json.loads((store.folder / "v" / "video.json").read_text())["source"] == {"name": "ü.mp4"}
