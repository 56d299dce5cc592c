"""The frame store of encoded videos: what the contract of stores says of reading, and what becomes of changed files."""

import json
import multiprocessing
import os
import pickle

import cv2
import numpy as np
import pytest

from tests import toy
from tests.frames.samples import ODD_IDS
from tests.video.samples import decode, numbered_pictures, numbers_of, pictures
from twostream.errors import BadInputError
from twostream.frames.jpeg import Region
from twostream.frames.stores import open_store

pytest.importorskip("av")

from twostream.frames import videos as module
from twostream.frames.videos import VideoFiles

H264 = ("libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "6")


@pytest.fixture
def store(tmp_path) -> VideoFiles:
    (tmp_path / "videos").mkdir()
    return VideoFiles.claim(tmp_path / "root", tmp_path / "videos", short_side=0)


def add(store: VideoFiles, video_id: str, frames: np.ndarray, codec: tuple[str, ...] = ("ffv1",)) -> None:
    path = store.root.parent / "videos" / f"{video_id[:200]}.mkv"
    toy.write_video(path, frames, codec=codec)
    store.add(video_id, path)


def test_store_is_found_on_the_disk_and_has_the_frames_of_the_decoder(store):
    truth = pictures(12, height=60, width=80)
    scaled = VideoFiles.claim(store.root.parent / "scaled", store.root.parent / "videos", short_side=32)
    add(store, "v", truth)
    scaled.add("v", store.root.parent / "videos" / "v.mkv")
    assert open_store(store.root, "rgb").kind == "video files" and open_store(store.root, "rgb").video_ids() == ["v"]
    for opened in (store, open_store(store.root, "rgb")):
        np.testing.assert_array_equal(opened.read("v", [7, 3, 3, 11]), truth[[7, 3, 3, 11]])
        assert opened.facts("v") == (12, 15.0, 1) and opened.frame_indices("v") == list(range(12))
    expected, _ = decode(store.root.parent / "videos" / "v.mkv", short_side=32)
    np.testing.assert_array_equal(open_store(scaled.root, "rgb").read("v", [4, 9]), expected[[4, 9]])


def test_regions_and_grey_frames_are_parts_of_the_pictures(store):
    truth = pictures(4)
    add(store, "v", truth)
    regions = [Region(0, 0, 32, 32), Region(8, 20, 32, 32)]
    out = np.empty((2, 3, 32, 32, 3), np.uint8)
    store.read_regions("v", [2, 0, 3], lambda height, width: regions if (height, width) == (48, 64) else [], out)
    np.testing.assert_array_equal(out[0], truth[[2, 0, 3], :32, :32])
    np.testing.assert_array_equal(out[1], truth[[2, 0, 3], 8:40, 20:52])
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in truth[[1, 2]]])
    np.testing.assert_array_equal(store.read_grey("v", [1, 2]), grey)


def read_backwards(store: VideoFiles, video_id: str) -> list[int]:
    return numbers_of(store.read(video_id, list(range(29, -1, -7))))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_read(store, method):
    """As a loader's workers do; a file that the parent has open is at one position for all processes."""
    for video_id in "ab":
        add(store, video_id, numbered_pictures(30), H264)
    assert numbers_of(store.read("a", [3])) == [3]
    with multiprocessing.get_context(method).Pool(2) as pool:
        answers = pool.starmap(read_backwards, [(store, v) for v in "abbaabba"], chunksize=1)
    assert answers == [[29, 22, 15, 8, 1]] * 8
    assert numbers_of(store.read("a", [4, 20])) == [4, 20]


def test_videos_that_are_open_are_bounded(store, monkeypatch):
    monkeypatch.setattr(module, "MAX_OPEN", 2)
    for video_id in "abc":
        add(store, video_id, numbered_pictures(30), H264)
    files = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        for video_id in "abc":
            assert numbers_of(store.read(video_id, [17])) == [17]
    assert len(os.listdir("/proc/self/fd")) <= files + 2
    assert len(pickle.dumps(store)) < 1000


def test_what_is_missing_is_named(store):
    add(store, "v", pictures(3))
    for call in (store.frame_indices, store.count, store.facts, lambda v: store.read(v, [0])):
        with pytest.raises(BadInputError, match="absent.* is missing"):
            call("absent")
    for index in (-1, 3):
        with pytest.raises(BadInputError, match=f"v.mkv: no frame {index}: it has 3"):
            store.read("v", [index])
    for video_id in ("", "..", "a/b", ".hidden"):
        with pytest.raises(BadInputError, match="video id"):
            store.read(video_id, [0])
    with pytest.raises(BadInputError, match="no images can be written there"):
        store.writer("w")


def test_odd_names_are_fine(store):
    path = store.root.parent / "videos" / "v.mkv"
    toy.write_video(path, pictures(1))
    for video_id in ODD_IDS:
        store.add(video_id, path)
        assert store.count(video_id) == 1 and video_id in store.where(video_id, 0)
    assert store.video_ids() == sorted(ODD_IDS)


def test_changed_file_is_refused_until_it_is_indexed_again(store):
    add(store, "v", pictures(3))
    path = store.root.parent / "videos" / "v.mkv"
    toy.write_video(path, pictures(5))
    again = VideoFiles(store.root, "rgb")
    with pytest.raises(
        BadInputError, match="v.mkv: has changed since it was indexed; index the videos again: twostream annotate"
    ):
        again.read("v", [0])
    assert again.add("v", path).num_frames == 5 and again.read("v", [4]).shape == (1, 48, 64, 3)
    record = (store.folder / "v" / "video.json").stat()
    again.add("v", path)
    assert (store.folder / "v" / "video.json").stat().st_mtime_ns == record.st_mtime_ns, "it was indexed again"
    path.unlink()
    with pytest.raises(BadInputError, match="v.mkv.*No such file"):
        VideoFiles(store.root, "rgb").read("v", [0])


def test_index_of_an_older_version_is_read(store):
    add(store, "v", numbered_pictures(10), H264)
    path = store.folder / "v" / "video.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in record.items() if k not in ("is_packet_a_frame", "opens_quickly")}))
    assert numbers_of(store.read("v", [8, 2])) == [8, 2]


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"stamps": [1]}, {"stamps": "x"}, {"key_frames": [99]}, {"source": {}}, {"stored_size": None}],
)
def test_broken_index_is_named(store, change):
    add(store, "v", pictures(3))
    path = store.folder / "v" / "video.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadInputError, match="v/video.json: no index of a video"):
        store.read("v", [0])


def test_other_settings_and_other_images_are_not_mixed(store, tmp_path):
    with pytest.raises(BadInputError, match="made with short_side = 0, now it is 128"):
        VideoFiles.claim(store.root, tmp_path / "videos", short_side=128)
    (tmp_path / "other" / "rgb-images" / "v").mkdir(parents=True)
    with pytest.raises(BadInputError, match="images of another tool"):
        VideoFiles.claim(tmp_path / "other", tmp_path / "videos", short_side=0)
    add(store, "v", pictures(3))
    with pytest.raises(BadInputError, match="is a 'video files' store, expected 'packed'"):
        open_store(store.root, "rgb", kind="packed")
