"""twostream features, as a user runs it."""

import numpy as np
import pytest

from tests import toy
from tests.inference.samples import make_run


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
    assert all(arrays["rgb_pool"].shape == (3, 512) and len(arrays) == 5 for arrays in files.values())


def test_what_exists_is_left_and_what_is_broken_is_listed(run, videos, tmp_path, run_command):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "w.mkv.npz").write_bytes(b"mine")
    (tmp_path / "broken.mp4").write_bytes(b"x")
    result = run_command(
        "features", tmp_path / "broken.mp4", videos / "b", "--model", run, "--out", tmp_path / "out", "--num_clips=1"
    )
    assert result.returncode == 5 and "broken.mp4" in result.stderr and "wrote 1 files" in result.stdout
    assert (tmp_path / "out" / "w.mkv.npz").read_bytes() == b"mine"
    assert (tmp_path / "out" / "v.mkv.npz").exists()


@pytest.mark.parametrize("flag", ["--layers=", "--layers=conv1", "--shard=2/2"])
def test_wrong_flags_are_refused(flag, run, videos, tmp_path, run_command):
    assert run_command("features", videos, "--model", run, "--out", tmp_path / "out", flag).returncode == 2
