"""twostream pack as a user runs it: both ways without a change, damage listed, killed and run again, trained on."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPOSITORY, noise_image
from twostream.annotations.json_file import read_annotations
from twostream.errors import BadInputError
from twostream.frames.folders import FrameFolders, FrameFolderWriter
from twostream.frames.jpeg import encode_jpeg
from twostream.frames.stores import CopyJob, copy_video, open_store

IDS = ["a", "-b c", "測 50%\nü", "v" * 255, "foreign"]
JPEGS = [encode_jpeg(noise_image(k), quality=90, chroma_subsampling=False) for k in range(6)]


@pytest.fixture
def root(tmp_path) -> Path:
    """Image folders of two input types: odd ids, one video with every third frame, one of another tool without a record."""
    root = tmp_path / "folders"
    for input_type in ("rgb", "farneback"):
        store = FrameFolders(root, input_type)
        for number, video_id in enumerate(IDS):
            step = 3 if number == 1 else 1
            with store.writer(video_id) as writer:
                for k in range(0, 6 - number, step):
                    writer.write(k, JPEGS[(k + number) % 6])
                if video_id == "foreign":
                    writer.publish_text(None)
                else:
                    settings = {"frame_step": step, "quality": 90}
                    writer.publish({"num_frames": 6 - number, "fps": 12.5, "id": video_id, "settings": settings})
        (store.folder / "extraction.json").write_text(json.dumps({"quality": 90, "of": input_type}))
    common = {"split": "train", "label": "walk", "fps": 12.5}
    videos = {v: common | {"num_frames": 6 - n, "frame_step": 3 if n == 1 else 1} for n, v in enumerate(IDS)}
    annotations = {"version": 1, "classes": ["run", "walk"], "videos": videos}
    (root / "annotations.json").write_text(json.dumps(annotations))
    return root


@pytest.fixture
def pack(run_here):
    def run(root: Path, to: Path, store: str, *flags, code: int = 0):
        result = run_here("prep/pack.py", f"--root={root}", f"--to={to}", f"--store={store}", "--workers=2", *flags)
        assert result.returncode == code, result.stdout + result.stderr
        return result

    return run


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_packing_and_unpacking_changes_no_byte(root, pack, tmp_path):
    odd = root / "rgb-images" / "a" / "video.json"
    odd.write_text(json.dumps(json.loads(odd.read_text()), indent=3) + "\n\n")  # edited by hand, or by a later version
    before = tree(root)
    pack(root, tmp_path / "packed", "packed")
    assert tree(root) == before
    names = sorted(tree(tmp_path / "packed"))
    assert [name for name in names if not name.split("/")[-1].startswith("shard-")] == [
        "annotations.json", "farneback-images/extraction.json", "rgb-images/extraction.json",
    ]  # fmt: skip
    assert len(names) <= 3 + 2 * 2 * 2, "two files for each worker and input type"
    pack(tmp_path / "packed", tmp_path / "back", "folders")
    assert tree(tmp_path / "back") == before


def test_running_again_copies_what_is_missing(root, pack, tmp_path):
    pack(root, tmp_path / "packed", "packed", "--input_types=rgb")
    assert not (tmp_path / "packed" / "farneback-images").exists()
    before = tree(tmp_path / "packed")
    assert "0 videos, 0.0 MB, copied" in pack(root, tmp_path / "packed", "packed", "--input_types=rgb").stdout
    assert tree(tmp_path / "packed") == before
    store = FrameFolders(root, "rgb")
    with store.writer("new") as writer:
        writer.write(0, JPEGS[0])
        writer.publish({"num_frames": 1})
    assert "6 videos, " in pack(root, tmp_path / "packed", "packed").stdout
    assert open_store(tmp_path / "packed", "rgb").video_ids() == sorted([*IDS, "new"])


def test_a_killed_copy_is_completed_by_running_again(root, pack, tmp_path):
    store = FrameFolders(root, "dis")
    for number in range(300):
        with store.writer(f"v{number:03d}") as writer:
            for k in range(6):
                writer.write(k, JPEGS[k])
            writer.publish({"num_frames": 6})
    for kind in ("packed", "folders"):
        to = tmp_path / f"killed {kind}"
        command = [sys.executable, "prep/pack.py", f"--root={root}", f"--to={to}", f"--store={kind}", "--workers=2"]
        output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True, **output)
        while process.poll() is None and not open_store(to, "dis", kind=kind).video_ids():
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert 0 < len(open_store(to, "dis").video_ids()) < 300, "not killed in the middle"
        pack(root, to, kind)
    assert tree(tmp_path / "killed folders") == tree(root)
    pack(tmp_path / "killed packed", tmp_path / "back", "folders")
    assert tree(tmp_path / "back") == tree(root)


def flip_bit(path: Path, offset: int = 400) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 4
    path.write_bytes(data)


def test_damaged_videos_are_listed_and_not_published(root, pack, tmp_path):
    folder = root / "rgb-images"
    for video_id in "cdefg":
        with FrameFolders(root, "rgb").writer(video_id) as writer:
            for k in range(6):
                writer.write(k, JPEGS[k])
            writer.publish({"num_frames": 6})
    flip_bit(folder / "c" / "00002.jpg")
    (folder / "d" / "00006.jpg").unlink()
    (folder / "e" / "video.json").write_text('{"num_frames": 6')
    (folder / "f" / "00007.jpg").write_bytes(JPEGS[0])
    result = pack(root, tmp_path / "packed", "packed", code=5)
    assert "5 bad" not in result.stderr and "4 bad videos:" in result.stderr
    for name in ("c/00002.jpg: ", "d/00006.jpg: ", "e/video.json: ", "f/00007.jpg: "):
        assert name in result.stderr
    assert open_store(tmp_path / "packed", "rgb").video_ids() == sorted([*IDS, "g"])
    flip_bit(folder / "c" / "00002.jpg")  # undone
    result = pack(root, tmp_path / "packed", "packed", code=5)
    assert "3 bad videos:" in result.stderr and open_store(tmp_path / "packed", "rgb").has("c")


def test_files_that_cannot_be_read_cost_only_their_videos(root, pack, tmp_path):
    for file in (root / "rgb-images" / "a" / "00002.jpg", root / "rgb-images" / IDS[1] / "video.json"):
        file.unlink()
        file.symlink_to(file)  # EIO, EACCES, ESTALE and the like behave as this
    result = pack(root, tmp_path / "packed", "packed", "--input_types=rgb", code=5)
    assert "2 bad videos:" in result.stderr and result.stderr.count("Too many levels of symbolic links") == 2
    assert f"{root}/rgb-images/a/00002.jpg: " in result.stderr
    assert open_store(tmp_path / "packed", "rgb").video_ids() == sorted(IDS[2:])


def test_a_disk_that_cannot_be_written_is_no_bad_video(root, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FrameFolderWriter, "_write", fail)
    with pytest.raises(OSError, match="No space left"):
        copy_video(CopyJob(str(root), str(tmp_path / "out"), "rgb", "a", "folders"))


def test_every_flipped_bit_of_a_packed_video_is_found(root, tmp_path):
    copy_video(CopyJob(str(root), str(tmp_path / "packed"), "rgb", "a", "packed"))
    (path,) = (tmp_path / "packed" / "rgb-images").glob("*.tar")
    whole = path.read_bytes()
    offset = whole.index(JPEGS[3])
    for position in np.linspace(0, len(JPEGS[3]) - 1, 20).astype(int):
        flip_bit(path, offset + int(position))
        with pytest.raises(BadInputError, match="a/00004.jpg: .*extract it again"):
            copy_video(CopyJob(str(tmp_path / "packed"), str(tmp_path / "out"), "rgb", "a", "folders"))
        path.write_bytes(whole)
    assert FrameFolders(tmp_path / "out", "rgb").video_ids() == []
    num_bytes = copy_video(CopyJob(str(tmp_path / "packed"), str(tmp_path / "out"), "rgb", "a", "folders"))
    assert num_bytes == sum(map(len, JPEGS))


def test_wrong_command_lines_and_trees(root, pack, tmp_path):
    assert "the same folder as --root" in pack(root, root, "packed", code=2).stderr
    pack(root, tmp_path / "x", "zip", code=2)
    assert "has no images" in pack(tmp_path / "nothing", tmp_path / "x", "packed", code=3).stderr
    assert "dis-images has no videos" in pack(root, tmp_path / "x", "packed", "--input_types=dis", code=3).stderr
    pack(root, tmp_path / "x", "packed", "--input_types=rgb")
    assert "'packed' store, expected 'folders'" in pack(root, tmp_path / "x", "folders", code=3).stderr
    (tmp_path / "x" / "annotations.json").write_text("{}")
    assert "annotations.json differs from" in pack(root, tmp_path / "x", "packed", code=3).stderr
    (tmp_path / "x" / "annotations.json").unlink()
    (tmp_path / "x" / "rgb-images" / "extraction.json").write_text("{}")
    assert "extraction.json differs from" in pack(root, tmp_path / "x", "packed", code=3).stderr
    assert not open_store(tmp_path / "x", "farneback").video_ids(), "found before anything was copied"


def test_training_reads_the_packed_frames_without_a_flag(root, pack, tmp_path):
    import torch

    from twostream.clips.crops import CentreCrop
    from twostream.clips.dataset import ClipDataset, eval_loader, usable_videos
    from twostream.clips.items import Items
    from twostream.stream import StreamConfig

    pack(root, tmp_path / "packed", "packed")
    stream = StreamConfig("farneback", "inception_v3", ("run", "walk"), 32)
    batches = []
    for data in (root, tmp_path / "packed"):
        store = open_store(data, "farneback")
        videos, unusable = usable_videos(read_annotations(data), "train", store)
        assert len(videos) == len(IDS) and not len(unusable)
        clips = ClipDataset(Items(videos, stream, clip_step=3, crop=CentreCrop(32)), store)
        loader = eval_loader(clips, batch_size=4, num_workers=2, pin_memory=False)
        batches.append(torch.cat([batch[0] for batch in loader]))
    assert len(batches[0]) == len(clips) > len(IDS) and torch.equal(*batches)


def test_a_device_in_place_of_a_file_is_refused(run_here, toy_root, tmp_path):
    """It would be read until the memory is full."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rgb-images").symlink_to(toy_root / "rgb-images")
    (tmp_path / "data" / "annotations.json").symlink_to("/dev/zero")
    result = run_here("prep/pack.py", f"--root={tmp_path / 'data'}", f"--to={tmp_path / 'copy'}", "--store=packed")
    assert result.returncode == 3 and "annotations.json: found a device, expected a file" in result.stderr
