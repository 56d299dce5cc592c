"""Lists for MMAction2: what is written is read back, and what they cannot hold is refused."""

import json
import re
from pathlib import Path

import pytest

from tests.annotations.samples import add_frames, write
from twostream.annotations.json_file import read_annotations
from twostream.annotations.list_writers import WRITERS


@pytest.fixture
def many(tmp_path):
    """Data root with annotations: three splits, classes not in alphabetical order, one video not extracted."""
    root = tmp_path / "data"
    entries = [(f"v{k}", ("walk", "a b", "jump")[k % 3], ("train", "train", "val", "test")[k % 4]) for k in range(12)]
    for k, (video_id, _, _) in enumerate(entries[:-1]):
        add_frames(root, video_id, k + 1)
        source = {"name": f"{video_id}.avi", "bytes": 7}
        write(
            root / "rgb-images" / video_id / "video.json",
            json.dumps({"num_frames": k + 1, "fps": 25.0, "source": source}),
        )
    lines = [f"{v}.avi,{label},{split}" for v, label, split in entries]
    write(tmp_path / "list.csv", "\n".join(["video,label,split", *lines]))
    write(tmp_path / "classes.txt", "walk\njump\na b\n")
    return root


@pytest.mark.parametrize("kind", WRITERS)
def test_written_lists_are_read_back(run_here, tmp_path, many, kind):
    words = ["prep/build_annotations.py", "--root", many]
    lists = ["--format=csv", "--list", tmp_path / "list.csv", "--classes", tmp_path / "classes.txt"]
    assert run_here(*words, *lists).returncode == 0
    before = read_annotations(many)
    assert len(before.videos) == 12 and before.classes == ("walk", "jump", "a b")
    prefix = tmp_path / "out" / "mm"
    result = run_here(*words, f"--write={kind}", "--out", prefix)
    assert result.returncode == 0, result.stderr
    assert "left out: 1 video without frames or without a label" in result.stdout and "next" in result.stdout
    assert {path.name for path in prefix.parent.iterdir()} == {
        f"mm_{part}.txt" for part in ("train", "val", "test", "classes")
    }
    frames = {"mmaction2_frames": "v0 1 0\nv1 2 2\n", "mmaction2_videos": "v0.avi 0\nv1.avi 2\n"}
    assert Path(f"{prefix}_train.txt").read_text().startswith(frames[kind])  # `dir frames label`, `file label`
    lists = [f"--format={kind}", "--list", *(f"{split}={prefix}_{split}.txt" for split in ("train", "val", "test"))]
    result = run_here(*words, *lists, "--classes", f"{prefix}_classes.txt")
    assert result.returncode == 0, result.stderr
    after = read_annotations(many)
    assert after.classes == before.classes
    assert list(after.videos) == [video for video in before.videos if video.num_frames]


@pytest.mark.parametrize(
    "kind, video_id, record, word",
    [
        ("mmaction2_frames", "a b", {}, "'a b' has a blank"),
        ("mmaction2_frames", "a", {"settings": {"frame_step": 5}}, "holds one frame in 5"),
        ("mmaction2_videos", "a", {}, "not made from a whole video file"),
        (
            "mmaction2_videos",
            "a",
            {"source": {"name": "a.avi", "bytes": 1, "segment": [1, 2]}},
            "not made from a whole",
        ),
        ("mmaction2_videos", "a", {"source": {"name": "a b.avi", "bytes": 1}}, "'a b.avi' has a blank"),
    ],
)
def test_what_the_lists_cannot_hold_is_refused(run_here, tmp_path, kind, video_id, record, word):
    root = tmp_path / "data"
    write(root / "rgb-images" / video_id / "video.json", json.dumps({"num_frames": 3} | record))
    write(tmp_path / "list.csv", f"video,label,split\n{video_id}.mp4,jump,train\n")
    words = ["prep/build_annotations.py", "--root", root]
    assert run_here(*words, "--format=csv", "--list", tmp_path / "list.csv").returncode == 0
    result = run_here(*words, f"--write={kind}", "--out", tmp_path / "out" / "x")
    assert result.returncode == 3 and word in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_frames_in_tar_files_are_refused(run_here, tmp_path, toy_root):
    """And the command that the message names makes a root whose lists can be written."""
    packed, unpacked = tmp_path / "packed", tmp_path / "unpacked"
    pack = ["prep/pack.py", "--input_types=rgb"]
    assert run_here(*pack, "--root", toy_root, "--to", packed, "--store=packed").returncode == 0
    words = ["--write=mmaction2_frames", "--out", tmp_path / "lists" / "toy"]
    result = run_here("prep/build_annotations.py", "--root", packed, *words)
    assert result.returncode == 3 and not (tmp_path / "lists").exists()
    advice = re.search(r"unpack them with twostream pack (--root=\S+) --to=DIR (--store=\S+),", result.stderr)
    assert run_here("prep/pack.py", advice[1], f"--to={unpacked}", advice[2]).returncode == 0
    result = run_here("prep/build_annotations.py", "--root", unpacked, *words)
    assert result.returncode == 0, result.stderr
    for line in (tmp_path / "lists" / "toy_train.txt").read_text().splitlines():
        video_id, num_frames, _ = line.split()
        assert len(list((unpacked / "rgb-images" / video_id).glob("*.jpg"))) == int(num_frames)


@pytest.fixture
def classes_of_videos(tmp_path):
    """Videos in class folders, and a data root whose records have their file names; ids by stem."""
    for name in ("run/a.mp4", "walk/b.mp4", "walk/c.webm"):
        write(tmp_path / "videos" / name, "")
        source = {"name": Path(name).name, "bytes": 7}
        write(
            tmp_path / "data/rgb-images" / Path(name).stem / "video.json",
            json.dumps({"num_frames": 3, "source": source}),
        )
    return tmp_path


def test_lists_of_videos_keep_the_class_folders(run_here, classes_of_videos):
    folder = classes_of_videos
    annotate = ["prep/build_annotations.py", "--root", folder / "data"]
    words = ["--write=mmaction2_videos", "--out", folder / "x"]
    expected = {"run/a.mp4 0", "walk/b.mp4 1", "walk/c.webm 1"}

    def written() -> set[str]:
        return {line for part in ("train", "val") for line in Path(f"{folder}/x_{part}.txt").read_text().splitlines()}

    # Annotations of class folders know the folder.
    assert run_here(*annotate, "--videos", folder / "videos", "--val_fraction=0.4").returncode == 0
    result = run_here(*annotate, *words)
    assert result.returncode == 0 and written() == expected
    assert all((folder / "videos" / line.split()[0]).is_file() for line in written())
    assert f"data_prefix={folder}/videos" in result.stdout
    # Those of a list do not: --videos names it, and without it the output says what is missing.
    write(folder / "list.csv", "video,label,split\na,run,train\nb,walk,val\nc,walk,train\n")
    assert run_here(*annotate, "--format=csv", "--list", folder / "list.csv").returncode == 0
    result = run_here(*annotate, *words)
    assert written() == {"a.mp4 0", "b.mp4 1", "c.webm 1"} and "run this again with --videos DIR" in result.stdout
    assert run_here(*annotate, *words, "--videos", folder / "videos").returncode == 0 and written() == expected
    # The wrong folder.
    (folder / "videos/walk/c.webm").rename(folder / "videos/walk/c.avi")
    result = run_here(*annotate, *words, "--videos", folder / "videos")
    assert result.returncode == 3 and "video 'c': found walk/c.avi in the folder of --videos" in result.stderr
    result = run_here(*annotate, "--write=mmaction2_frames", "--out", folder / "x", "--videos", folder / "videos")
    assert result.returncode == 2
