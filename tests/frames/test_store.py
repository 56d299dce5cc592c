"""The contract of frame stores, for every kind.

Videos appear whole or not at all, are read by frame index, and damage is named.
"""

import json
import multiprocessing
import pickle
import tarfile

import numpy as np
import pytest

from tests.frames.samples import JPEG, ODD_IDS, OTHER_JPEG, publish, reopened
from twostream.errors import BadInputError
from twostream.frames.jpeg import encode_jpeg
from twostream.frames.store import FrameStore, checksum, frame_name
from twostream.frames.stores import STORES
from twostream.video.ids import check_video_id


@pytest.fixture(params=STORES)
def store(request, tmp_path) -> FrameStore:
    return STORES[request.param](tmp_path, "rgb")


def damage(store: FrameStore, video_id: str, name: str, data: bytes) -> None:
    """Replace a file of a video on the disk; in a tar file, which cannot shrink, the rest of it becomes zeros."""
    if store.kind == "folders":
        (store.folder / video_id / name).write_bytes(data)
        return
    (path,) = store.folder.glob("*.tar")
    with tarfile.open(path) as tar:
        member = tar.getmember(f"{video_id}/{name}")
    with open(path, "r+b") as file:
        file.seek(member.offset_data)
        file.write(data.ljust(member.size, b"\0"))


def test_files_count_from_one():
    assert [frame_name(k) for k in (0, 8, 99_998, 99_999)] == ["00001.jpg", "00009.jpg", "99999.jpg", "100000.jpg"]


def test_nothing_is_visible_before_publish_and_all_after(store):
    with store.writer("v") as writer:
        writer.write(0, JPEG)
        for reader in (store, reopened(store)):
            assert not reader.has("v") and reader.video_ids() == [] and reader.record("v") is None
        assert writer.publish({"num_frames": 1})
    for reader in (store, reopened(store)):
        assert reader.has("v") and reader.video_ids() == ["v"] and reader.count("v") == 1
        assert reader.record("v") == {"num_frames": 1, "checksums": {"00001.jpg": checksum(JPEG)}}
        assert reader.frame_indices("v") == [0] and reader.read_bytes("v", 0) == JPEG


def test_leaving_without_publish_leaves_nothing(store):
    with pytest.raises(RuntimeError), store.writer("v") as writer:
        writer.write(0, JPEG)
        raise RuntimeError("in mid-video")
    assert store.video_ids() == [] and not store.has("v")
    assert store.sweep() == 0, "something was left to sweep"
    assert publish(store, "v", [OTHER_JPEG]) and store.read_bytes("v", 0) == OTHER_JPEG


def test_of_two_writers_the_first_wins_and_the_second_learns_it(store):
    with store.writer("v") as first, reopened(store).writer("v") as second:
        first.write(0, JPEG)
        second.write(0, OTHER_JPEG)
        assert first.publish({"num_frames": 1}) is True
        assert second.publish({"num_frames": 1}) is False
    assert publish(store, "v", [OTHER_JPEG]) is False
    for reader in (store, reopened(store)):
        assert reader.video_ids() == ["v"] and reader.read_bytes("v", 0) == JPEG
    assert store.sweep() == 0


def test_writers_of_different_videos_at_once(store):
    with store.writer("a") as first, store.writer("b") as second:
        for index in range(3):
            first.write(index, JPEG)
            second.write(index, OTHER_JPEG)
        assert second.publish({"num_frames": 3}) and first.publish({"num_frames": 3})
    assert store.video_ids() == ["a", "b"]
    assert [store.read_bytes(v, k) for v in "ab" for k in range(3)] == [JPEG] * 3 + [OTHER_JPEG] * 3


def test_facts_and_stored_images_with_a_stored_step(store):
    with store.writer("v") as writer:
        for index in (0, 3, 6):
            writer.write(index, JPEG if index else OTHER_JPEG)
        writer.publish({"num_frames": 8, "fps": 12.5, "settings": {"frame_step": 3}})
    assert store.facts("v") == reopened(store).facts("v") == (8, 12.5, 3) and store.count("v") == 8
    assert store.frame_indices("v") == [0, 3, 6]
    assert [store.read_bytes("v", k) for k in (6, 0, 3)] == [JPEG, OTHER_JPEG, JPEG]
    with pytest.raises(BadInputError, match="v/00006.jpg is missing"):
        store.read_bytes("v", 5)


def test_images_with_gaps_and_without_a_record(store):
    """As other tools leave them, and as twostream pack copies them."""
    with store.writer("v") as writer:
        for index in (1, 2, 7, 99_999):
            writer.write(index, JPEG + bytes([index % 256]))
        assert writer.publish_text(None)
    assert store.record("v") is None and store.record_text("v") is None
    assert store.facts("v") == (4, 0.0, 1) and store.frame_indices("v") == [1, 2, 7, 99_999]
    assert [store.read_bytes("v", k)[-1] for k in (1, 2, 7, 99_999)] == [1, 2, 7, 99_999 % 256]
    for absent in (-1, 0, 3, 4, 6, 8, 100_000):
        with pytest.raises(BadInputError, match=f"{frame_name(absent)} is missing"):
            store.read_bytes("v", absent)


def test_record_is_kept_to_the_byte(store):
    text = b'{"num_frames":1,   "odd" : [1.0, 1e3]}\n\n'
    with store.writer("v") as writer:
        writer.write(0, JPEG)
        writer.publish_text(text)
    assert store.record_text("v") == text


def test_video_that_is_not_stored(store):
    publish(store, "present", [JPEG])
    for call in (store.frame_indices, store.count, store.facts, lambda v: store.read_bytes(v, 6)):
        with pytest.raises(BadInputError, match="absent.* is missing"):
            call("absent")
    assert store.record("absent") is None and not store.has("absent")
    assert "absent" in store.where("absent")


def test_removed_video_can_be_written_again(store):
    for video_id in "abc":
        publish(store, video_id, [JPEG, JPEG])
    for video_id in "cac":
        store.remove(video_id)
        for reader in (store, reopened(store)):
            assert not reader.has(video_id) and video_id not in reader.video_ids()
        assert publish(store, video_id, [OTHER_JPEG])
    for reader in (store, reopened(store)):
        assert reader.video_ids() == ["a", "b", "c"]
        assert [reader.count(v) for v in "abc"] == [1, 2, 1]
        assert [reader.read_bytes(v, 0) for v in "abc"] == [OTHER_JPEG, JPEG, OTHER_JPEG]


def test_videos_published_by_other_processes_are_found(store):
    second = reopened(store)
    assert not store.has("a") and not second.has("b")
    publish(store, "a", [JPEG])
    assert second.has("a")
    publish(second, "b", [OTHER_JPEG])
    assert store.record("b")["num_frames"] == 1 and store.read_bytes("b", 0) == OTHER_JPEG


def read_backwards(store: FrameStore, video_id: str) -> np.ndarray:
    return store.read(video_id, [1, 0])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_read(store, method):
    """As a loader's workers do; the store has been used before, and is used by the parent too."""
    for video_id in "ab":
        publish(store, video_id, [JPEG, OTHER_JPEG])
    truth = store.read("a", [1, 0])
    with multiprocessing.get_context(method).Pool(2) as pool:
        for clip in pool.starmap(read_backwards, [(store, v) for v in "abba"], chunksize=1):
            np.testing.assert_array_equal(clip, truth)
    np.testing.assert_array_equal(store.read("b", [1, 0]), truth)


def test_a_copy_by_pickle_is_small(store):
    for number in range(50):
        publish(store, f"v{number}", [JPEG])
    assert len(pickle.dumps(store)) < 1000


def test_frames_come_in_the_order_of_the_indices_as_rgb(store):
    pictures = [np.full((16, 16, 3), colour, np.uint8) for colour in [(200, 30, 60), (20, 180, 90)]]
    publish(store, "v", [encode_jpeg(p, quality=95, chroma_subsampling=False) for p in pictures])
    clip = store.read("v", [1, 0, 1])
    assert clip.dtype == np.uint8 and clip.shape == (3, 16, 16, 3)
    # A flat colour survives JPEG to within the rounding of its colour space; swapped channels would be 60 off.
    assert np.abs(clip.astype(int) - np.stack([pictures[1], pictures[0], pictures[1]])).max() <= 3


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_cut_image_is_refused_by_name(store, share):
    publish(store, "v", [JPEG, JPEG])
    damage(store, "v", "00002.jpg", JPEG[: int(len(JPEG) * share)])
    with pytest.raises(BadInputError, match="v/00002.jpg: .*not a complete JPEG"):
        store.read("v", [0, 1])


def test_missing_image_is_named(store):
    publish(store, "v", [JPEG])
    with pytest.raises(BadInputError, match="v/00002.jpg is missing"):
        store.read("v", [1])


@pytest.mark.parametrize("video_id", ["", ".", "..", ".hidden", "../x", "a/b", "/etc", "a\\b", "a\0b"])
def test_id_that_is_no_plain_name_is_refused(store, video_id):
    calls = [check_video_id, store.writer, store.has, store.record, store.remove, store.where]
    for call in (*calls, lambda v: store.read_bytes(v, 0)):
        with pytest.raises(BadInputError, match="video id"):
            call(video_id)


def test_odd_names_are_fine(store):
    for number, video_id in enumerate(ODD_IDS):
        assert publish(store, video_id, [JPEG, JPEG + bytes([number])], id=video_id)
    for reader in (store, reopened(store)):
        assert reader.video_ids() == sorted(ODD_IDS)
        for number, video_id in enumerate(ODD_IDS):
            assert reader.record(video_id)["id"] == video_id
            assert reader.read_bytes(video_id, 1) == JPEG + bytes([number])
            assert video_id in reader.where(video_id, 1)


@pytest.mark.parametrize(
    "text", ["", '{"num_frames": 3', "[]", "{}", '{"num_frames": "three"}', '{"num_frames": -1}',
             '{"num_frames": 3, "settings": []}', '{"num_frames": 3, "checksums": 1}', '{"num_frames": 3, "fps": "x"}', '{"num_frames": 1000000000}',
             '{"num_frames": 3, "settings": {"frame_step": 1e999}}', '{"num_frames": 3, "source": "x"}', "[" * 99_999],
)  # fmt: skip
def test_broken_record_is_named(store, text):
    publish(store, "v", [JPEG])
    damage(store, "v", "video.json", text.encode())
    with pytest.raises(BadInputError, match="v/video.json: .*extract it again"):
        store.record("v")


@pytest.mark.parametrize("name", ["00001.jpg", "video.json"])
def test_a_file_that_never_ends_is_not_read(tmp_path, name):
    """A link to a device in place of a file, which only folders can have."""
    store = STORES["folders"](tmp_path, "rgb")
    publish(store, "v", [JPEG])
    path = store.folder / "v" / name
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(BadInputError, match=f"v/{name}: found a device, expected a file"):
        store.record("v")
        store.read("v", [0])


def test_no_folder_means_no_videos(store):
    assert store.video_ids() == [] and not store.has("v") and store.sweep() == 0


def test_record_is_json_with_what_the_caller_gave(store):
    with store.writer("v") as writer:
        writer.write(0, JPEG)
        writer.publish({"num_frames": 1, "source": {"name": "ü.mp4"}})
    assert json.loads(store.record_text("v"))["source"] == {"name": "ü.mp4"}
