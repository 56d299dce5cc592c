"""Shards: undamaged by any kill, few, shared by many writers and readers, and plain tar files."""

import json
import multiprocessing
import os
import random
import shutil
import subprocess
import tarfile
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.frames.samples import JPEG, ODD_IDS, OTHER_JPEG, publish
from twostream.errors import BadInputError
from twostream.frames import shards
from twostream.frames.packed import FrameShards
from twostream.frames.shards import Shard, ShardReader, own_shards, tar_header
from twostream.frames.store import frame_name

FORK = multiprocessing.get_context("fork")  # starts in milliseconds


@pytest.fixture
def store(tmp_path) -> FrameShards:
    return FrameShards(tmp_path, "rgb")


def images(video_id: str) -> list[bytes]:
    """Random bytes in place of the images of a video: 1 to 5 of up to 600 KB, which follow from its id."""
    rng = np.random.default_rng(list(video_id.encode()))
    return [rng.bytes(int(rng.integers(600_000))) for _ in range(rng.integers(1, 6))]


def write_missing(root: Path, video_ids: list[str]) -> None:
    store = FrameShards(root, "rgb")
    for video_id in video_ids:
        if not store.has(video_id):
            publish(store, video_id, images(video_id))


def assert_complete(store: FrameShards, video_ids: list[str]) -> None:
    for video_id in video_ids:
        truth = images(video_id)
        assert store.count(video_id) == len(truth)
        assert [store.read_bytes(video_id, k) for k in range(len(truth))] == truth
        assert list(store.record(video_id)["checksums"]) == [frame_name(k) for k in range(len(truth))]


def tar_members(path: Path) -> list[str]:
    """Names of the members, read by Python; the system's tar must read the same, without complaint."""
    with tarfile.open(path) as tar:
        names = tar.getnames()
    if shutil.which("tar"):
        result = subprocess.run(["tar", "-tf", path], capture_output=True, text=True)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.splitlines() == names
    return names


# ------------------------------------------------------------------------------------------------ kills and races


def test_killed_at_any_moment(tmp_path):
    """Two writers side by side, killed again and again, until all videos are stored."""
    chance = random.Random(0)
    video_ids = [f"video {number}" for number in range(40)]
    store = FrameShards(tmp_path, "rgb")
    swept = kills = 0
    while kills < 40:
        orders = [video_ids, video_ids[::-1]]
        writers = [FORK.Process(target=write_missing, args=(tmp_path, order)) for order in orders]
        for writer in writers:
            writer.start()
        time.sleep(chance.uniform(0.005, 0.03))
        for writer in writers:
            writer.kill()
            writer.join()
            kills += 1
        assert_complete(store, store.video_ids())
        if chance.random() < 0.5:  # else the next writers find the leftovers
            swept += store.sweep()
    assert swept, "no kill came while a video was being written"
    write_missing(tmp_path, video_ids)
    store.sweep()
    assert store.video_ids() == sorted(video_ids)
    assert_complete(store, video_ids)
    members = [name for path in store.folder.glob("*.tar") for name in tar_members(path)]
    assert {name.split("/")[0] for name in members} == set(video_ids)
    assert len(os.listdir(store.folder)) <= 4, "two shards at most, as there were two writers"


def test_four_writers_of_the_same_videos(tmp_path):
    video_ids = [f"video {number}" for number in range(24)]
    writers = [
        FORK.Process(target=write_missing, args=(tmp_path, random.Random(k).sample(video_ids, 24))) for k in range(4)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=120)
        assert writer.exitcode == 0
    store = FrameShards(tmp_path, "rgb")
    assert store.video_ids() == sorted(video_ids)
    assert_complete(store, video_ids)
    assert len(os.listdir(store.folder)) <= 8
    assert store.sweep() == 0
    for path in store.folder.glob("*.tar"):
        tar_members(path)


def test_read_while_others_write(tmp_path):
    video_ids = [f"video {number}" for number in range(30)]
    store = FrameShards(tmp_path, "rgb")
    writers = [FORK.Process(target=write_missing, args=(tmp_path, video_ids[k::2])) for k in range(2)]
    for writer in writers:
        writer.start()
    seen = 0
    while any(writer.is_alive() for writer in writers):
        stored = [video_id for video_id in video_ids if store.has(video_id)]
        assert len(stored) >= seen
        seen = len(stored)
        assert_complete(store, stored[-3:])
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert_complete(store, video_ids)


def test_two_writers_that_published_one_video_at_once(tmp_path):
    """Neither saw the other: all readers use the shard that comes first by name, even if they read it later."""
    folder = tmp_path / "rgb-images"
    shards = {}
    for number, jpeg in enumerate((JPEG, OTHER_JPEG)):
        store = FrameShards(tmp_path / str(number), "rgb")
        publish(store, "v", [jpeg])
        publish(store, f"only in {number}", [jpeg])
        (path,) = store.folder.glob("*.tar")
        shards[path.name] = path, jpeg
    last, first = sorted(shards, reverse=True)
    early = FrameShards(tmp_path, "rgb")
    for name in (last, first):
        path, jpeg = shards[name]
        shutil.copytree(path.parent, folder, dirs_exist_ok=True)
        assert FrameShards(tmp_path, "rgb").read_bytes("v", 0) == jpeg
        assert early.has("only in 0") or early.has("only in 1")
    assert early.has("only in 0") and early.has("only in 1")
    assert early.read_bytes("v", 0) == shards[first][1]
    assert early.video_ids() == ["only in 0", "only in 1", "v"]
    early.remove("v")
    assert not early.has("v") and not FrameShards(tmp_path, "rgb").has("v"), "both copies are removed"


@pytest.mark.parametrize("tail", [b"", b"\0" * 512, b"x" * 700, "next video"], ids=["none", "zeros", "noise", "member"])
@pytest.mark.parametrize("line", [b"", b"[", b'["w", 512, 10, 20', b'["w", 1, 2, 3, 4, 5, 6.0, 7]'])
def test_torn_end_is_ignored_and_cut_off_by_the_next_writer(store, tail, line):
    publish(store, "v", [JPEG])
    (path,) = own_shards(store.folder)
    before = path.read_bytes()
    index = Path(f"{path}.index")
    text = index.read_bytes()
    with open(path, "r+b") as file:
        file.seek(len(before) - 1024)
        file.write(tail if isinstance(tail, bytes) else tar_header(b"w/00001.jpg", 5000) + b"x" * 3000)
    index.write_bytes(text + line)
    second = FrameShards(store.root, "rgb")
    assert second.video_ids() == ["v"] and not second.has("w") and second.read_bytes("v", 0) == JPEG
    publish(second, "w", [OTHER_JPEG])
    assert own_shards(store.folder) == [path]
    assert path.read_bytes().startswith(before[:-1024]) and index.read_bytes().startswith(text)
    assert tar_members(path) == [f"{v}/{name}" for v in "vw" for name in ("00001.jpg", "video.json", "frames")]
    for reader in (store, second, FrameShards(store.root, "rgb")):
        assert reader.read_bytes("v", 0) == JPEG and reader.read_bytes("w", 0) == OTHER_JPEG


# --------------------------------------------------------------------------------------------------- files


def test_files_stay_few(tmp_path, monkeypatch):
    """Every video has a new writer, as after a restart."""
    monkeypatch.setattr(shards, "VIDEOS_PER_SHARD", 5)
    for number in range(23):
        publish(FrameShards(tmp_path, "rgb"), f"v{number}", [JPEG])
    store = FrameShards(tmp_path, "rgb")
    assert len(os.listdir(store.folder)) == 2 * 5
    assert sorted(len(Path(f"{p}.index").read_text().splitlines()) for p in own_shards(store.folder)) == [3, 5, 5, 5, 5]
    assert len(store.video_ids()) == 23 and all(store.read_bytes(f"v{k}", 0) == JPEG for k in range(23))
    store.remove("v0")
    assert not store.has("v0") and publish(store, "v0", [OTHER_JPEG]) and store.read_bytes("v0", 0) == OTHER_JPEG


def test_shards_of_another_machine_are_read_and_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "machine_id", lambda: "00000000")
    publish(FrameShards(tmp_path, "rgb"), "a", [JPEG])
    before = {path.name: path.read_bytes() for path in (tmp_path / "rgb-images").iterdir()}
    monkeypatch.setattr(shards, "machine_id", lambda: "11111111")
    store = FrameShards(tmp_path, "rgb")
    publish(store, "b", [OTHER_JPEG])
    assert publish(store, "a", [OTHER_JPEG]) is False
    assert store.video_ids() == ["a", "b"] and len(os.listdir(store.folder)) == 4
    assert all((store.folder / name).read_bytes() == data for name, data in before.items())


@pytest.mark.skipif(not shutil.which("tar"), reason="no tar program")
def test_ordinary_tar_unpacks_them(store, tmp_path):
    """Into folders that a folder store reads, byte for byte; also names that are not UTF-8."""
    for number, video_id in enumerate(ODD_IDS):
        publish(store, video_id, [JPEG, OTHER_JPEG + bytes([number])])
    (path,) = own_shards(store.folder)
    out = tmp_path / "out" / "rgb-images"
    out.mkdir(parents=True)
    result = subprocess.run(["tar", "-xf", path, "-C", out], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(os.listdir(out)) == sorted(ODD_IDS)
    for number, video_id in enumerate(ODD_IDS):
        folder = out / video_id
        assert sorted(os.listdir(folder)) == ["00001.jpg", "00002.jpg", "frames", "video.json"]
        assert (folder / "00001.jpg").read_bytes() == JPEG
        assert (folder / "00002.jpg").read_bytes() == OTHER_JPEG + bytes([number])
        assert (folder / "video.json").read_bytes() == store.record_text(video_id)


@pytest.mark.parametrize(
    "name", ["a", "v/00001.jpg", "x" * 99, "x" * 100, "x" * 101, "測" * 33, "測" * 34, "a\udcff/1"]
)
@pytest.mark.parametrize("length", [0, 1, 511, 512, 17_000, 8**10 + 1])
def test_header_is_what_tarfile_writes(name, length):
    member = tarfile.TarInfo(name)
    member.size = length
    truth = member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    assert tar_header(name.encode("utf-8", "surrogateescape"), length) == truth


def test_an_empty_shard_is_a_tar_file(store):
    with store.writer("v") as writer:
        writer.write(0, JPEG)
    (path,) = own_shards(store.folder)
    assert tar_members(path) == [] and store.video_ids() == []


# ------------------------------------------------------------------------------------------------- damage


def test_missing_shard_is_named(store):
    publish(store, "v", [JPEG])
    (path,) = own_shards(store.folder)
    path.unlink()
    with pytest.raises(BadInputError, match=f"{path.name} is missing"):
        FrameShards(store.root, "rgb").read("v", [0])


def test_cut_shard_is_named_and_not_written_to(store):
    publish(store, "v", [JPEG])
    (path,) = own_shards(store.folder)
    os.truncate(path, 700)
    cut = FrameShards(store.root, "rgb")
    assert cut.facts("v") == (1, 0.0, 1), "known from the index"
    with pytest.raises(BadInputError, match=f"{path.name} ends before byte"):
        cut.read("v", [0])
    publish(cut, "w", [OTHER_JPEG])
    assert path.stat().st_size == 700
    assert cut.read_bytes("w", 0) == OTHER_JPEG


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"[]", b"[1, 2]", b'{"a": 1}', b'["w", 1, 2, 3, "four", 5, 6.0, 7]', b"\xff\xfe",
             b"[7, 1, 2, 3, 4, 5, 6.0, 7]", b'["w", 1, 2, 3, 4, 1e30, 6.0, 7]', b'["w", 1, 2, 3, 4, 5, null, []]'],
)  # fmt: skip
def test_damaged_index_is_named_every_time(tmp_path, line):
    store = FrameShards(tmp_path, "rgb")
    publish(store, "v", [JPEG])
    (path,) = own_shards(store.folder)
    damaged = store.folder / "shard-ffffffff-00000000.tar.index"
    damaged.write_bytes(line + b"\n")
    reader = FrameShards(tmp_path, "rgb")
    for _ in range(2):
        with pytest.raises(BadInputError, match=f"{damaged.name}: .*expected the index of a shard"):
            reader.has("v")
    damaged.unlink()
    assert reader.has("v") and reader.read_bytes("v", 0) == JPEG


def test_damaged_table_of_images_is_named(store):
    publish(store, "v", [JPEG, JPEG])
    (path,) = own_shards(store.folder)
    with tarfile.open(path) as tar:
        offset = tar.getmember("v/frames").offset_data
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 32)
    for call in (store.frame_indices, lambda v: store.read_bytes(v, 1)):
        with pytest.raises(BadInputError, match=f"{path.name}, byte {offset}: damaged table"):
            call("v")


def test_full_disk_is_an_error_and_keeps_what_was_stored(store, monkeypatch):
    publish(store, "v", [JPEG])
    (path,) = own_shards(store.folder)
    before, text = path.read_bytes(), Path(f"{path}.index").read_bytes()
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: pwrite(file, data[:7], offset))
    with pytest.raises(OSError, match="No space left.*index"):
        publish(store, "w", [OTHER_JPEG])
    assert (path.read_bytes(), Path(f"{path}.index").read_bytes()) == (before, text)


# ------------------------------------------------------------------------------------------------------- index


def write_index(folder: Path, num_shards: int, videos_per_shard: int) -> None:
    folder.mkdir(parents=True)
    for shard in range(num_shards):
        lines = [
            json.dumps([f"video_{shard:04d}_{k:06d}", 512, 900, 5000 * k, 300, k, 25.0, 1])
            for k in range(videos_per_shard)
        ]
        (folder / f"shard-00000000-{shard:08x}.tar.index").write_text("\n".join(lines) + "\n")


def test_index_is_small_and_needs_no_tar(tmp_path):
    write_index(tmp_path / "i", 50, 1000)
    tracemalloc.start()
    try:
        reader = ShardReader(tmp_path / "i")
        assert reader.find("video_0049_000999").num_frames == 999
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Bytes per video: 52 in the columns; while reading, twice that and a block of about a megabyte of lines.
    assert kept / 50_000 < 56 and peak / 50_000 < 250
    assert reader.find("video_0000_000123").shard == "shard-00000000-00000000.tar"
    assert reader.find("video_0050_000000") is None


def read_v(store: FrameShards) -> None:
    assert store.read_bytes("v", 0) == JPEG


def test_forked_readers_need_no_file_of_the_index(tmp_path, store):
    publish(store, "v", [JPEG])
    assert store.read_bytes("v", 0) == JPEG
    (index,) = store.folder.glob("*.index")
    index.unlink()
    child = FORK.Process(target=read_v, args=(store,))
    child.start()
    child.join(timeout=60)
    assert child.exitcode == 0


def test_open_files_are_bounded_and_closed(store):
    publish(store, "v0", [JPEG])
    (path,) = own_shards(store.folder)
    _, *rest = json.loads(Path(f"{path}.index").read_text())
    for number in range(1, 300):
        copy = store.folder / f"shard-00000000-{number:08x}.tar"
        shutil.copyfile(path, copy)
        Path(f"{copy}.index").write_text(json.dumps([f"v{number}", *rest]) + "\n")
    before = len(os.listdir("/proc/self/fd"))
    assert all(store.read_bytes(f"v{number}", 0) == JPEG for number in range(300))
    assert 200 < len(os.listdir("/proc/self/fd")) - before <= 256
    del store.shards
    assert len(os.listdir("/proc/self/fd")) <= before


def test_lock_is_held_while_a_video_is_written(store):
    with store.writer("v") as writer:
        (path,) = own_shards(store.folder)
        assert Shard.lock(path) is None and store.sweep() == 0
        writer.write(0, JPEG)
        writer.publish({"num_frames": 1})
    shard = Shard.lock(path)
    assert shard is not None
    shard.release()


def test_threads_of_a_process_share_a_reader(store, monkeypatch):
    """As on a Dask worker with several threads: a video that another thread has just read must not be lost, nor its shard."""

    def set_slowly(reader: ShardReader, name: str, value: object) -> None:  # so that threads take turns there
        object.__setattr__(reader, name, value)
        time.sleep(0.001)

    monkeypatch.setattr(ShardReader, "__setattr__", set_slowly)
    seen = FrameShards(store.root, "rgb")
    for number in range(30):
        publish(store, f"v{number}", [JPEG])
        asked = [f"v{number}", f"not yet {number}"] * 4
        with ThreadPoolExecutor(len(asked)) as threads:
            assert list(threads.map(seen.has, asked)) == [True, False] * 4
    assert all(seen.has(f"v{number}") for number in range(30))
