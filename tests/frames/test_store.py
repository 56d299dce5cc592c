"""The contract of frame stores, for every kind: published whole or not at all, read by frame index, damage named."""

import json
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import tarfile

import cv2
import numpy as np
import pytest

from tests.conftest import noise_image
from twostream.errors import BadInputError
from twostream.frames.folders import FrameFolders
from twostream.frames.jpeg import encode_jpeg
from twostream.frames.store import FrameStore, checksum, frame_name
from twostream.frames.stores import STORES, input_types, open_store
from twostream.video.ids import check_video_id

JPEG = encode_jpeg(noise_image(), quality=90, chroma_subsampling=True)
OTHER = encode_jpeg(noise_image(1), quality=90, chroma_subsampling=True)


@pytest.fixture(params=STORES)
def store(request, tmp_path) -> FrameStore:
    return STORES[request.param](tmp_path, "rgb")


def publish(store: FrameStore, video_id: str, jpegs: list[bytes], **record) -> bool:
    with store.writer(video_id) as writer:
        for index, jpeg in enumerate(jpegs):
            writer.write(index, jpeg)
        return writer.publish({"num_frames": len(jpegs)} | record)


def again(store: FrameStore) -> FrameStore:
    """Another store on the same files, which remembers nothing."""
    return type(store)(store.root, store.input_type)


def damage(store: FrameStore, video_id: str, name: str, data: bytes) -> None:
    """Replace a file of a video on the disk; in a tar file, which cannot shrink, its rest becomes zeros."""
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
        for here in (store, again(store)):
            assert not here.has("v") and here.video_ids() == [] and here.record("v") is None
        assert writer.publish({"num_frames": 1})
    for here in (store, again(store)):
        assert here.has("v") and here.video_ids() == ["v"] and here.count("v") == 1
        assert here.record("v") == {"num_frames": 1, "checksums": {"00001.jpg": checksum(JPEG)}}
        assert here.frame_indices("v") == [0] and here.read_bytes("v", 0) == JPEG


def test_leaving_without_publish_leaves_nothing(store):
    with pytest.raises(RuntimeError), store.writer("v") as writer:
        writer.write(0, JPEG)
        raise RuntimeError("in mid-video")
    assert store.video_ids() == [] and not store.has("v")
    assert store.sweep() == 0, "something was left to sweep"
    assert publish(store, "v", [OTHER]) and store.read_bytes("v", 0) == OTHER


def test_second_of_two_writers_is_told_and_the_first_one_stays(store):
    with store.writer("v") as first, again(store).writer("v") as second:
        first.write(0, JPEG)
        second.write(0, OTHER)
        assert first.publish({"num_frames": 1}) is True
        assert second.publish({"num_frames": 1}) is False
    assert publish(store, "v", [OTHER]) is False
    for here in (store, again(store)):
        assert here.video_ids() == ["v"] and here.read_bytes("v", 0) == JPEG
    assert store.sweep() == 0


def test_writers_of_different_videos_at_once(store):
    with store.writer("a") as first, store.writer("b") as second:
        for index in range(3):
            first.write(index, JPEG)
            second.write(index, OTHER)
        assert second.publish({"num_frames": 3}) and first.publish({"num_frames": 3})
    assert store.video_ids() == ["a", "b"]
    assert [store.read_bytes(v, k) for v in "ab" for k in range(3)] == [JPEG] * 3 + [OTHER] * 3


def test_facts_and_stored_images_with_a_stored_step(store):
    with store.writer("v") as writer:
        for index in (0, 3, 6):
            writer.write(index, JPEG if index else OTHER)
        writer.publish({"num_frames": 8, "fps": 12.5, "settings": {"frame_step": 3}})
    assert store.facts("v") == again(store).facts("v") == (8, 12.5, 3) and store.count("v") == 8
    assert store.frame_indices("v") == [0, 3, 6]
    assert [store.read_bytes("v", k) for k in (6, 0, 3)] == [JPEG, OTHER, JPEG]
    with pytest.raises(BadInputError, match="v/00006.jpg is missing"):
        store.read_bytes("v", 5)


def test_images_with_gaps_and_without_a_record(store):
    """As other tools leave them, and prep/pack.py brings them over."""
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


def test_video_that_is_not_there(store):
    publish(store, "there", [JPEG])
    for ask in (store.frame_indices, store.count, store.facts, lambda v: store.read_bytes(v, 6)):
        with pytest.raises(BadInputError, match="absent.* is missing"):
            ask("absent")
    assert store.record("absent") is None and not store.has("absent")
    assert "absent" in store.where("absent")


def test_removed_video_can_be_written_again(store):
    for video_id in "abc":
        publish(store, video_id, [JPEG, JPEG])
    for video_id in "cac":
        store.remove(video_id)
        for here in (store, again(store)):
            assert not here.has(video_id) and video_id not in here.video_ids()
        assert publish(store, video_id, [OTHER])
    for here in (store, again(store)):
        assert here.video_ids() == ["a", "b", "c"]
        assert [here.count(v) for v in "abc"] == [1, 2, 1]
        assert [here.read_bytes(v, 0) for v in "abc"] == [OTHER, JPEG, OTHER]


def test_videos_published_elsewhere_are_found(store):
    other = again(store)
    assert not store.has("a") and not other.has("b")
    publish(store, "a", [JPEG])
    assert other.has("a")
    publish(other, "b", [OTHER])
    assert store.record("b")["num_frames"] == 1 and store.read_bytes("b", 0) == OTHER


def read_here(store: FrameStore, video_id: str) -> np.ndarray:
    return store.read(video_id, [1, 0])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_read(store, method):
    """As a loader's workers do; the store has been used before, and is used by the parent too."""
    for video_id in "ab":
        publish(store, video_id, [JPEG, OTHER])
    truth = store.read("a", [1, 0])
    with multiprocessing.get_context(method).Pool(2) as pool:
        for clip in pool.starmap(read_here, [(store, v) for v in "abba"], chunksize=1):
            np.testing.assert_array_equal(clip, truth)
    np.testing.assert_array_equal(store.read("b", [1, 0]), truth)


def test_a_copy_by_pickle_is_small(store):
    for number in range(50):
        publish(store, f"v{number}", [JPEG])
    assert len(pickle.dumps(store)) < 1000


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
    damage(store, "v", "00002.jpg", JPEG[: int(len(JPEG) * share)])
    with pytest.raises(BadInputError, match="v/00002.jpg: .*no whole JPEG"):
        store.read("v", [0, 1])


def test_missing_image_is_named(store):
    publish(store, "v", [JPEG])
    with pytest.raises(BadInputError, match="v/00002.jpg is missing"):
        store.read("v", [1])


@pytest.mark.parametrize("video_id", ["", ".", "..", ".hidden", "../x", "a/b", "/etc", "a\\b", "a\0b"])
def test_id_that_is_no_plain_name_is_refused(store, video_id):
    asked = [check_video_id, store.writer, store.has, store.record, store.remove, store.where]
    for ask in (*asked, lambda v: store.read_bytes(v, 0)):
        with pytest.raises(BadInputError, match="video id"):
            ask(video_id)


ODD_IDS = [
    "-dash",
    "with space",
    "50% off",
    "a:b",
    'it\'s "quoted"',
    "測試ü",
    "v" * 200,
    "v" * 255,
    "two\nlines",
    "tab\t",
]
ODD_IDS += ["--help", "*", "$(touch x)", "trailing.", "Ü" * 127, "Upper", "upper", "bytes\udcff\udcfe", "[1, 2]", "@a"]


def test_odd_names_are_fine(store):
    for number, video_id in enumerate(ODD_IDS):
        assert publish(store, video_id, [JPEG, JPEG + bytes([number])], id=video_id)
    for here in (store, again(store)):
        assert here.video_ids() == sorted(ODD_IDS)
        for number, video_id in enumerate(ODD_IDS):
            assert here.record(video_id)["id"] == video_id
            assert here.read_bytes(video_id, 1) == JPEG + bytes([number])
            assert video_id in here.where(video_id, 1)


@pytest.mark.parametrize(
    "text", ["", '{"num_frames": 3', "[]", "{}", '{"num_frames": "three"}', '{"num_frames": -1}',
             '{"num_frames": 3, "settings": []}', '{"num_frames": 3, "checksums": 1}', '{"num_frames": 3, "fps": "x"}'],
)  # fmt: skip
def test_broken_record_is_named(store, text):
    publish(store, "v", [JPEG])
    damage(store, "v", "video.json", text.encode())
    with pytest.raises(BadInputError, match="v/video.json: .*extract it again"):
        store.record("v")


def test_no_folder_means_no_videos(store):
    assert store.video_ids() == [] and not store.has("v") and store.sweep() == 0


def test_record_is_json_with_what_the_caller_gave(store):
    with store.writer("v") as writer:
        writer.write(0, JPEG)
        writer.publish({"num_frames": 1, "source": {"name": "ü.mp4"}})
    assert json.loads(store.record_text("v"))["source"] == {"name": "ü.mp4"}


# -------------------------------------------------------------------------------------------------- which kind


@pytest.mark.parametrize("kind", STORES)
def test_kind_is_seen_on_disk(tmp_path, kind):
    assert open_store(tmp_path, "rgb").kind == "folders", "where nothing is and nobody says"
    (tmp_path / "rgb-images").mkdir()
    (tmp_path / "rgb-images" / "extraction.json").write_text("{}")
    store = open_store(tmp_path, "rgb", kind=kind)
    assert store.kind == kind
    publish(store, "v", [JPEG])
    for asked in (None, kind):
        assert open_store(tmp_path, "rgb", kind=asked).kind == kind
        assert open_store(str(tmp_path), "rgb", kind=asked).has("v")
    (other,) = set(STORES) - {kind}
    with pytest.raises(BadInputError, match=f"rgb-images .*'{kind}'.*'{other}'.*prep/pack.py .*--store={other}"):
        open_store(tmp_path, "rgb", kind=other)
    assert open_store(tmp_path, "farneback", kind=other).kind == other


def test_shards_unpacked_beside_themselves_are_still_shards(tmp_path):
    publish(open_store(tmp_path, "rgb", kind="packed"), "v", [JPEG])
    for name in "abcdefgh":
        (tmp_path / "rgb-images" / name).mkdir()
    assert open_store(tmp_path, "rgb").video_ids() == ["v"]


def test_opened_store_is_remembered_until_another_tree_stands_there(tmp_path):
    store = open_store(tmp_path / "a", "rgb", kind="packed")
    publish(store, "v", [JPEG])
    assert open_store(tmp_path / "a", "rgb") is store
    os.rename(tmp_path / "a", tmp_path / "old")
    publish(open_store(tmp_path / "a", "rgb"), "w", [JPEG])
    assert open_store(tmp_path / "a", "rgb").kind == "folders" and open_store(tmp_path / "a", "rgb").has("w")
    os.rename(tmp_path / "a", tmp_path / "other")
    os.rename(tmp_path / "old", tmp_path / "a")
    assert open_store(tmp_path / "a", "rgb").video_ids() == ["v"] and not open_store(tmp_path / "a", "rgb").has("w")


def test_input_types_of_a_data_root(tmp_path):
    for name in ("farneback-images", "rgb-images", "dis-images", "hfiles"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes-images").write_text("no folder")
    assert input_types(tmp_path) == ["rgb", "dis", "farneback"]


# ----------------------------------------------------------------------------------------------------- folders


@pytest.fixture
def folders(tmp_path) -> FrameFolders:
    return FrameFolders(tmp_path, "rgb")


def test_a_published_folder_is_all_there_is(folders):
    publish(folders, "v", [JPEG])
    with pytest.raises(RuntimeError), folders.writer("w") as writer:
        writer.write(0, JPEG)
        raise RuntimeError("in mid-video")
    assert os.listdir(folders.folder) == ["v"]
    assert sorted(os.listdir(folders.folder / "v")) == ["00001.jpg", "video.json"]


def test_folders_of_other_tools_are_read_and_counted(folders):
    folder = folders.folder / "old"
    folder.mkdir(parents=True)
    for name in ("00001.jpg", "00002.jpg", "100000.jpg", "thumb.jpg", "00003.png", "00001.jpg.tmp"):
        (folder / name).write_bytes(JPEG)
    assert folders.record("old") is None
    assert folders.count("old") == 3
    assert folders.read("old", [0, 1]).shape == (2, 48, 64, 3)


def test_sweep_removes_what_processes_that_are_gone_left(folders):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    host = socket.gethostname()
    left = [f".tmp-{host}-{gone.stdout.strip()}-0123abcd", f".tmp-{host}-{gone.stdout.strip()}-ffffffff"]
    kept = [f".tmp-{host}-{os.getpid()}-0123abcd", f".tmp-{host}-1-0123abcd"]  # living ones: this process, and init
    kept += [f".tmp-x{host}-{gone.stdout.strip()}-0123abcd", f".tmp-{host}-x-0123abcd", "video", ".hidden", ".tmp-mine"]
    for name in (*left, *kept):
        (folders.folder / name).mkdir(parents=True)
        (folders.folder / name / "00001.jpg").write_bytes(JPEG)
    assert folders.sweep() == 2
    assert sorted(os.listdir(folders.folder)) == sorted(kept)
    assert folders.sweep() == 0


# ------------------------------------------------------------------------------------------------------ images


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
