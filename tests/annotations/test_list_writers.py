"""Lists for MMAction2: what is written is read back, and what they cannot hold is refused."""

import json
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
def test_written_lists_are_read_back(run_program, tmp_path, many, kind):
    words = ["prep/build_annotations.py", "--root", many]
    lists = ["--format=csv", "--list", tmp_path / "list.csv", "--classes", tmp_path / "classes.txt"]
    assert run_program(*words, *lists).returncode == 0
    before = read_annotations(many)
    assert len(before.videos) == 12 and before.classes == ("walk", "jump", "a b")
    prefix = tmp_path / "out" / "mm"
    result = run_program(*words, f"--write={kind}", "--out", prefix)
    assert result.returncode == 0, result.stderr
    assert "left out: 1 video without frames or without a label" in result.stdout and "next" in result.stdout
    assert {path.name for path in prefix.parent.iterdir()} == {
        f"mm_{part}.txt" for part in ("train", "val", "test", "classes")
    }
    frames = {"mmaction2_frames": "v0 1 0\nv1 2 2\n", "mmaction2_videos": "v0.avi 0\nv1.avi 2\n"}
    assert Path(f"{prefix}_train.txt").read_text().startswith(frames[kind])  # `dir frames label`, `file label`
    lists = [f"--format={kind}", "--list", *(f"{split}={prefix}_{split}.txt" for split in ("train", "val", "test"))]
    result = run_program(*words, *lists, "--classes", f"{prefix}_classes.txt")
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
def test_what_the_lists_cannot_hold_is_refused(run_program, tmp_path, kind, video_id, record, word):
    root = tmp_path / "data"
    write(root / "rgb-images" / video_id / "video.json", json.dumps({"num_frames": 3} | record))
    write(tmp_path / "list.csv", f"video,label,split\n{video_id}.mp4,jump,train\n")
    words = ["prep/build_annotations.py", "--root", root]
    assert run_program(*words, "--format=csv", "--list", tmp_path / "list.csv").returncode == 0
    result = run_program(*words, f"--write={kind}", "--out", tmp_path / "out" / "x")
    assert result.returncode == 3 and word in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
