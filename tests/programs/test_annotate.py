"""twostream annotate as a user runs it: lists and extracted videos become annotations.json."""

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.annotations.samples import LISTS, TRUTH, add_frames, as_folder, write
from tests.conftest import REPOSITORY
from twostream.annotations.json_file import read_annotations
from twostream.annotations.lists import READERS
from twostream.annotations.videos import Video


@pytest.fixture
def root(tmp_path) -> Path:
    add_frames(tmp_path / "data", "clip_000001_000011", 5)
    return tmp_path / "data"


@pytest.mark.parametrize("name", READERS)
def test_list_is_joined_with_what_is_extracted(run_program, tmp_path, root, name):
    flag = "--videos" if name == "folder" else "--list"
    words = LISTS[name](tmp_path / "list")
    result = run_program("prep/build_annotations.py", "--root", root, "--format", name, flag, *words)
    assert result.returncode == 0, result.stderr
    assert "1 of them is not extracted: öl_000002_000012" in result.stdout
    annotations = read_annotations(root)
    assert annotations.classes == ("air drumming", "jump")
    assert list(annotations.videos) == [Video(i, s, lab, 5 * (s == "train")) for i, lab, s in TRUTH]


def test_annotations_of_the_toy_world(toy_root):
    annotations = read_annotations(toy_root)
    assert annotations.classes == ("blue_left", "blue_right", "red_left", "red_right")
    assert Counter(video.split for video in annotations.videos) == {"train": 4, "val": 4}
    assert {(video.num_frames, video.fps) for video in annotations.videos} == {(33, 15.0)}
    assert all(video.id.startswith(video.label) for video in annotations.videos)


@pytest.mark.parametrize(
    "text, word",
    [
        ("video,label,split\na.mp4,jump,train\nb/a.mp4,run,train\n", "line 3: video 'a' is already listed"),
        ("video,label,split\na.mp4,,train\n", "line 2: video 'a' has no label"),
        ("video,label,split\na.mp4,jump\n", "line 2: 2 columns, expected 3"),
        ("video,label,split\n..,jump,train\n", "video id"),
        ("video,label,split\n", "lists no videos"),
    ],
)
def test_bad_list_is_refused_in_one_line(run_program, tmp_path, root, text, word):
    path = write(tmp_path / "list.csv", text)
    result = run_program("prep/build_annotations.py", "--root", root, "--format=csv", "--list", path)
    assert result.returncode == 3 and word in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (root / "annotations.json").exists()


def test_without_images_the_message_says_what_to_run_first(run_program, tmp_path):
    result = run_program("prep/build_annotations.py", "--root", tmp_path, "--videos", *as_folder(tmp_path / "videos"))
    assert result.returncode == 3 and "twostream extract first" in result.stderr


@pytest.mark.parametrize(
    "flags",
    [["--format=csv"], [], ["--videos=x", "--val_fraction=1"], ["--format=xml"], ["--format=ucf101", "--list=x", "--split=4"],
     ["--write=mmaction2_frames"], ["--write=mmaction2_frames", "--out=x", "--videos=x"], ["--write=csv", "--out=x"]],
)  # fmt: skip
def test_wrong_flags_end_with_2(run_program, tmp_path, flags):
    assert run_program("prep/build_annotations.py", "--root", tmp_path, *flags).returncode == 2


def test_chosen_split_is_reported_and_repeatable(run_program, tmp_path, root):
    for k in range(20):
        write(tmp_path / "videos" / ("jump" if k % 2 else "run") / f"v{k}.mp4", "")
    words = ["--root", root, "--videos", tmp_path / "videos", "--val_fraction=0.3", "--seed=5"]
    result = run_program("prep/build_annotations.py", *words)
    assert "--val_fraction=0.3 --seed=5" in result.stdout
    first = (root / "annotations.json").read_bytes()
    assert len(read_annotations(root).split("val")) == 6
    run_program("prep/build_annotations.py", *words)
    assert (root / "annotations.json").read_bytes() == first


def test_list_may_name_a_folder_for_each_split(run_program, tmp_path, root):
    for split, label, video_id in (("train", "jump", TRUTH[0][0]), ("train", "run", "a"), ("val", "jump", "b")):
        write(tmp_path / f"my {split}" / label / f"{video_id}.mp4", "")
    words = [f"{split}={tmp_path}/my {split}" for split in ("train", "val")]
    result = run_program("prep/build_annotations.py", "--root", root, "--list", *words)
    assert result.returncode == 0, result.stderr
    assert [(video.id, video.split) for video in read_annotations(root).videos] == [
        ("a", "train"),
        ("b", "val"),
        (TRUTH[0][0], "train"),
    ]


def test_faults_leave_the_old_annotations(run_program, tmp_path, root):
    (root / "annotations.json").write_text("old")
    path = write(tmp_path / "list.csv", "video,label,split\na.mp4,jump,train\na.mp4,jump,val\nb.mp4,Jump,val\n")
    result = run_program("prep/build_annotations.py", "--root", root, "--format=csv", "--list", path)
    assert result.returncode == 3
    assert [line.partition(": ")[0] for line in result.stderr.splitlines()] == [
        "error", f"  {path}, line 4", f"  {path}, line 3"]  # fmt: skip
    assert (root / "annotations.json").read_text() == "old"


def test_warnings_and_the_next_command_are_printed(run_program, tmp_path, root):
    path = write(tmp_path / "list.csv", f"video,label,split\n{TRUTH[0][0]}.mp4,jump,train\nb.mp4,run,val\n")
    result = run_program("prep/build_annotations.py", "--root", root, "--format=csv", "--list", path)
    assert result.returncode == 0 and "warning: 1 class has no train videos" in result.stdout
    assert "train: 1 video, 5 frames, 1 class\nval: 1 video, 0 frames, 1 class\n  1 of them is not" in result.stdout
    assert "classes: jump, run; order: alphabetical\n" in result.stdout
    assert result.stdout.splitlines()[-1] == (
        "next: use the tool that made the other images for 1 video without frames, then this command again"
    )


# --------------------------------------------------------------------------------------------------- a million videos

MEASURE = """
import resource, sys
sys.path.insert(0, {repository!r})
from twostream.programs import annotate
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sys.argv = ["build_annotations.py", *sys.argv[1:]]
annotate.main()
print("KiB:", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("num_videos", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_long_list_needs_little_memory(tmp_path, num_videos):
    generator, path = random.Random(0), tmp_path / "list.csv"
    with open(path, "w") as file:
        file.write("label,youtube_id,time_start,time_end,split\n")
        for k in generator.sample(range(num_videos), num_videos):
            start = generator.randrange(300)
            file.write(f"class number {k % 700},{k:011d},{start},{start + 10},{'val' if k % 19 == 0 else 'train'}\n")
    add_frames(tmp_path / "data", "one", 1)
    command = [sys.executable, "-c", MEASURE.format(repository=str(REPOSITORY)), "--root", tmp_path / "data"]
    command += ["--format=kinetics_csv", "--list", path]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert f"val: {-(-num_videos // 19)} videos" in result.stdout
    with open(tmp_path / "data" / "annotations.json") as file:
        assert sum(1 for _ in file) == num_videos + 7  # one video per line
    # 250 bytes for each video, and what does not grow with their number.
    assert int(result.stdout.rpartition("KiB: ")[2]) < 20_000 + 250 * num_videos / 1024
