"""twostream features, as a user runs it."""

import json
import shutil

import cv2
import numpy as np
import pytest

from tests import toy
from tests.conftest import call
from tests.inference.samples import make_run
from twostream.files import sha256
from twostream.inference.sources import find_sources


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs"), "rgb")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for seed, name in enumerate(("a/v", "b/v", "b/w")):
        toy.write_video(folder / f"{name}.mkv", toy.frames(seed, "red", "left"))
    return folder


def test_shards_together_write_each_video_once(run, videos, tmp_path, run_command):
    for shard in ("0/2", "1/2"):
        words = ["features", videos, "--model", run, "--out", tmp_path / "out", "--num_clips=3", f"--shard={shard}"]
        assert run_command(*words, "--layers=pool,softmax").returncode == 0
    files = {path.name: dict(np.load(path)) for path in (tmp_path / "out").iterdir()}
    assert len(files) == 3 and "w.mkv.npz" in files
    assert all(arrays["rgb_pool"].shape == (3, 512) and len(arrays) == 6 for arrays in files.values())
    again = run_command(*words, "--layers=pool,softmax")
    assert again.returncode == 0 and "wrote 0 files" in again.stdout


@pytest.fixture(scope="module")
def one_file(run, videos, tmp_path_factory):
    """A folder with the features of a/v.mkv."""
    out = tmp_path_factory.mktemp("features")
    assert call("twostream", "features", videos / "a", "--model", run, "--out", out, "--num_clips=1").returncode == 0
    return out


@pytest.mark.parametrize(
    ("folder", "flags", "says"),
    [
        ("a", ["--num_clips=1"], None),
        ("b", ["--num_clips=1"], "source {videos}/a/v.mkv instead of {videos}/b/v.mkv, bytes "),
        ("a", ["--num_clips=1", "--layers=softmax,pool"], "layers pool instead of pool,softmax;"),
        ("a", ["--num_clips=2"], "clips of rgb num_clips=1 views=centre instead of num_clips=2 views=centre;"),
        ("a", ["--frame_step=9"], "clips of rgb num_clips=1 views=centre instead of frame_step=9 views=centre;"),
        ("a", ["--num_clips=1", "--model={other}"], "weights of rgb {sha256} instead of "),
    ],
)  # fmt: skip
def test_a_file_that_was_made_of_something_else_is_listed(
    folder, flags, says, run, videos, one_file, tmp_path, run_command, monkeypatch
):
    """It is left as it is; and a video is the same however its path is written."""
    names = {"videos": videos, "other": tmp_path / "rgb-5", "sha256": sha256(next(run.glob("*.pt*")))[:16]}
    before = {path: path.read_bytes() for path in one_file.iterdir()}
    make_run(tmp_path, "rgb", seed=5)
    monkeypatch.chdir(videos)
    result = run_command(
        "features", f"{folder}/v.mkv", "--out", one_file, "--model", run, *(flag.format(**names) for flag in flags)
    )
    assert "wrote 0 files" in result.stdout and {path: path.read_bytes() for path in one_file.iterdir()} == before
    assert (result.returncode, len(result.stderr.splitlines())) == ((5, 1) if says else (0, 0)), result.stderr
    if says:
        assert f"error: {one_file / 'v.mkv.npz'} is there, but has {says.format(**names)}" in result.stderr


def test_a_video_that_was_moved_is_the_same(run, videos, one_file, tmp_path, run_command):
    """As where each job copies the videos to a disk of its own; and a recognizer has the weights of its run."""
    shutil.copytree(videos / "a", tmp_path / "scratch" / "a")
    words = ["features", tmp_path / "scratch" / "a", "--out", one_file, "--num_clips=1", "--model"]
    exported = run_command("export", "--runs", run, "--out", tmp_path / "recognizer")
    assert exported.returncode == 0, exported.stderr
    for model in (run, tmp_path / "recognizer"):
        result = run_command(*words, model)
        assert result.returncode == 0 and "wrote 0 files" in result.stdout, result.stderr


def test_videos_of_data_roots_and_folders_of_images_are_told_apart(run, toy_root, tmp_path, run_command):
    """Where they have the same name."""
    shutil.copytree(toy_root, tmp_path / "copy")
    name = find_sources(str(toy_root), split="val")[0].name
    (tmp_path / name).mkdir()
    cv2.imwrite(str(tmp_path / name / "1.png"), toy.frames(1, "red", "left")[0])
    words = ["--model", run, "--out", tmp_path / "out", "--num_clips=1"]
    codes = [
        run_command("features", source, *words).returncode
        for source in (toy_root, toy_root, tmp_path / "copy", tmp_path / name)
    ]
    assert codes == [0, 0, 5, 5]


def test_older_files_do_not_say_what_they_were_made_of(run, videos, one_file, tmp_path, run_command):
    arrays = dict(np.load(one_file / "v.mkv.npz"))
    assert json.loads(str(arrays.pop("made_of")))["source"] == str(videos / "a/v.mkv")
    np.savez(tmp_path / "v.mkv.npz", **arrays)
    result = run_command("features", videos / "b/v.mkv", "--model", run, "--out", tmp_path)
    assert result.returncode == 0 and "wrote 0 files" in result.stdout


def test_what_exists_is_left_and_what_is_broken_is_listed(run, videos, tmp_path, run_command):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "w.mkv.npz").write_bytes(b"mine")
    (tmp_path / "broken.mp4").write_bytes(b"x")
    result = run_command(
        "features", tmp_path / "broken.mp4", videos / "b", "--model", run, "--out", tmp_path / "out", "--num_clips=1"
    )
    assert result.returncode == 5 and "broken.mp4" in result.stderr and "wrote 1 files" in result.stdout
    assert "w.mkv.npz is there, but is no file of features" in result.stderr
    assert (tmp_path / "out" / "w.mkv.npz").read_bytes() == b"mine"
    assert (tmp_path / "out" / "v.mkv.npz").exists()


@pytest.mark.parametrize("flag", ["--layers=", "--layers=conv1", "--shard=2/2"])
def test_wrong_flags_are_refused(flag, run, videos, tmp_path, run_command):
    assert run_command("features", videos, "--model", run, "--out", tmp_path / "out", flag).returncode == 2
