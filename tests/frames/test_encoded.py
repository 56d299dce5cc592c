"""The store of videos that were encoded again: frame k stays frame k, whole or not at all, and damage is named."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.frames.samples import ODD_IDS
from tests.video.samples import numbered_pictures, numbers_of, pictures
from twostream.errors import BadInputError
from twostream.frames.encoded import EncodedVideos
from twostream.frames.jpeg import Region
from twostream.frames.stores import open_store
from twostream.video.encoder import Encoder, VideoEncoding
from twostream.video.random_access import Converter, VideoReader, index_video

pytest.importorskip("av")

TOLERANCE = 4
"""grey levels, on average: of these pictures, the encoder loses 1 to 2, most of it in colours of half resolution"""


def write(
    store: EncodedVideos, video_id: str, frames: np.ndarray, *, gop: int = 4, step: int = 1, publish: bool = True
) -> None:
    """Store every `step`th of these frames, as extraction does."""
    with store.writer(video_id) as writer:
        with Encoder(writer.path, fps=12.5, options=VideoEncoding(gop=gop).options()) as encoder:
            for frame in frames[::step]:
                encoder.add(frame)
            encoder.finish()
        height, width = frames.shape[1:3]
        record = {"num_frames": len(frames), "fps": 12.5, "height": height, "width": width}
        if publish:
            writer.publish(record | {"settings": {"gop": gop, "frame_step": step}})


@pytest.fixture
def store(tmp_path) -> EncodedVideos:
    return EncodedVideos(tmp_path / "root", "rgb")


@pytest.mark.parametrize("gop, crf", [(1, 17), (12, 17), (50, 30)])
def test_frame_k_is_frame_k_and_key_frames_are_where_they_should_be(tmp_path, gop, crf):
    path = tmp_path / "v.mp4"
    with Encoder(path, fps=30, options=VideoEncoding(gop=gop, crf=crf).options()) as encoder:
        for frame in numbered_pictures(60):  # each frame is another picture, at which encoders like to begin a group
            encoder.add(frame)
        encoder.finish()
    index = index_video(path)
    assert (index.num_frames, index.fps) == (60, 30)
    assert index.key_frames == tuple(range(0, 60, gop))
    ticks = np.diff(index.stamps)
    assert (ticks == ticks[0]).all(), "frames are equally far apart"
    with VideoReader(path, index, Converter(square_pixels=False)) as reader:
        order = np.random.default_rng(0).permutation(60).tolist()
        assert numbers_of(reader.read(k) for k in order) == order


@pytest.mark.parametrize("height, width", [(48, 64), (47, 63), (2, 2), (16, 33)])
def test_pictures_keep_their_size_and_nearly_their_pixels(store, height, width):
    truth = pictures(6, height=height, width=width)
    write(store, "v", truth)
    opened = open_store(store.root, "rgb")
    assert opened.kind == "videos" and opened.video_ids() == ["v"]
    found = opened.read("v", [5, 0, 3])
    assert found.shape == (3, height, width, 3) and opened.picture_size("v") == (height, width)
    assert np.abs(found.astype(int) - truth[[5, 0, 3]]).mean() < TOLERANCE
    assert np.abs(found.astype(int).mean((1, 2)) - truth[[5, 0, 3]].mean((1, 2))).max() < 3, "colours keep their hue"
    size = min(height, width)
    out = np.empty((1, 2, size, size, 3), np.uint8)
    opened.read_regions("v", [1, 4], lambda h, w: [Region(h - size, w - size, size, size)], out)
    np.testing.assert_array_equal(out[0], opened.read("v", [1, 4])[:, height - size :, width - size :])


def test_stored_step_keeps_frame_numbers(store):
    write(store, "v", numbered_pictures(20), step=3)
    assert store.facts("v") == (20, 12.5, 3) and store.frame_indices("v") == [0, 3, 6, 9, 12, 15, 18]
    assert numbers_of(store.read("v", [18, 3, 9])) == [18, 3, 9]
    with pytest.raises(BadInputError, match="v/video.mp4: frame 4 is missing"):
        store.read("v", [4])


def test_videos_appear_whole_or_not_at_all(store):
    write(store, "v", pictures(3), publish=False)
    assert store.video_ids() == [] and not list(store.folder.iterdir())
    write(store, "v", pictures(3))
    with store.writer("v") as second:
        second.path.write_bytes((store.folder / "v" / "video.mp4").read_bytes())
        assert not second.publish(store.record("v"))
    assert store.video_ids() == ["v"] and [path.name for path in store.folder.iterdir()] == ["v"]
    with pytest.raises(RuntimeError, match="has 3 frames of 4"), store.writer("w") as wrong:
        wrong.path.write_bytes((store.folder / "v" / "video.mp4").read_bytes())
        wrong.publish(store.record("v") | {"num_frames": 4})
    assert store.video_ids() == ["v"]
    store.remove("v")
    assert open_store(store.root, "rgb").video_ids() == []


def test_another_process_gets_a_store_of_its_own(store):
    write(store, "v", numbered_pictures(20))
    assert numbers_of(store.read("v", [3])) == [3]
    copy = pickle.loads(pickle.dumps(store))
    assert type(copy) is EncodedVideos and numbers_of(copy.read("v", [19, 2])) == [19, 2]


def test_odd_names_are_fine_and_bad_ones_are_refused(store):
    write(store, ODD_IDS[0], pictures(1))
    for video_id in ODD_IDS[1:]:
        shutil.copytree(store.folder / ODD_IDS[0], store.folder / video_id)
        assert store.read(video_id, [0]).shape == (1, 48, 64, 3) and video_id in store.where(video_id, 0)
    assert store.video_ids() == sorted(ODD_IDS)
    for video_id in ("", "..", "a/b", ".hidden"):
        with pytest.raises(BadInputError, match="video id"):
            store.read(video_id, [0])


@pytest.mark.parametrize(
    "change",
    [{"index": {}}, {"index": None}, {"num_frames": 4}, {"width": "x"}, {"height": 0}, {"settings": {"frame_step": 2}}],
)
def test_broken_record_is_named(store, change):
    write(store, "v", pictures(3))
    path = store.folder / "v" / "video.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadInputError, match="v/video.json: no index of its video.*twostream verify"):
        store.read("v", [0])


def test_damaged_and_missing_files_are_named(store):
    write(store, "cut", pictures(30))
    write(store, "gone", pictures(3))
    path = store.folder / "cut" / "video.mp4"
    path.write_bytes(path.read_bytes()[:2000])
    (store.folder / "gone" / "video.mp4").unlink()
    for video_id in ("cut", "gone"):
        with pytest.raises(BadInputError, match=f"{video_id}/video.mp4: "):
            store.read(video_id, [2])
    assert open_store(Path(store.root), "rgb").kind in ("videos", "folders")


def test_only_rgb(tmp_path):
    with pytest.raises(BadInputError, match="RGB frames only"):
        EncodedVideos(tmp_path, "farneback").writer("v")
