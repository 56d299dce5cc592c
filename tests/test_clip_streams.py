"""A stream of clips is a stream like any other: trained, stopped, scored, fused, exported and asked about, by the same flags."""

import json

import numpy as np
import pytest
import torch

from twostream.engine.checkpoint import read_checkpoint
from twostream.inference.loading import load
from twostream.scores.npz import read_scores

CLIPS = ("--arch=vmz_mc3_10", "--seq_len=4", "--gap=2", "--input_size=32", "--pretrained=False")
QUICK = (
    "--batch_size=2", "--stepvalues=1", "--val_interval=1", "--frame_step=6", "--amp=bf16", "--channels_last=True",
    "--accumulate=2", "--lr=0.01", "--workers=0", "--device=cpu",
)  # fmt: skip


@pytest.fixture
def run(run_here, toy_root, tmp_path):
    """run(program, *words) -> what it prints; on the toy world, and runs in a temporary folder."""

    def call(program, *words):
        result = run_here(program, f"--root={toy_root}", f"--save_root={tmp_path / 'runs'}", *words)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return call


def test_from_training_to_prediction(run, run_command, toy_videos, tmp_path):
    runs = {}
    for kind, words in {"rgb": CLIPS, "farneback": (*CLIPS, "--num_segments=2")}.items():
        stream = ("--run", kind, f"--input_type={kind}")
        run("train.py", *stream, *words, *QUICK, "--max_iterations=2")
        runs[kind] = tmp_path / "runs" / kind
        run("test.py", f"--input_type={kind}", "--num_clips=3", "--views=flip", "--workers=0", "--device=cpu")
    content = read_checkpoint(runs["farneback"] / "checkpoint_000002.pth")
    assert content["weights"]["stem.0.weight"].shape == (64, 2, 3, 7, 7)

    run("eval.py", "--test-iteration=2")
    (report,) = (tmp_path / "runs").rglob("report.json")
    assert {row["name"] for row in json.loads(report.read_text())["rows"]} >= {"RGB", "Flow", "RGB+Flow"}

    target = tmp_path / "recognizer"
    result = run_command("export", "--runs", *runs.values(), "--num_clips=3", "--views=flip", "--out", target)
    assert result.returncode == 0, result.stderr
    video = next((toy_videos / "val").rglob("*.mkv"))
    answer = load(target, device="cpu").predict(video)
    for kind, folder in runs.items():
        table = read_scores(folder / "scores_val_000002.npz")
        rows = table.video_ids[table.video_index] == video.stem
        found = answer.stream(kind)
        np.testing.assert_array_equal(found.starts, table.start[rows])
        np.testing.assert_allclose(found.logits, table.logits[rows], rtol=1e-4, atol=1e-4 * np.abs(table.logits).max())
    result = run_command("features", video, "--model", target, "--out", tmp_path / "features")
    assert result.returncode == 0, result.stderr
    (path,) = (tmp_path / "features").rglob("*.npz")
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["rgb_pool"].shape == (6, 512)  # three clips in two views


def test_a_resumed_training_is_the_same_bit_for_bit(run, tmp_path):
    """bf16, accumulated, channels last; with frames that repeat, as a clip of 8 frames, 5 apart, is longer than a video."""
    clips = (*CLIPS, *QUICK, "--seq_len=8", "--gap=5", "--ema=0.5")
    run("train.py", "--run=whole", *clips, "--max_iterations=3")
    run("train.py", "--run=parts", *clips, "--max_iterations=2")
    printed = run("train.py", "--run=parts", *clips, "--max_iterations=3", "--resume")
    assert "repeat frames" in printed
    whole, parts = (read_checkpoint(tmp_path / "runs" / name / "checkpoint_000003.pth") for name in ("whole", "parts"))
    for kind in ("weights", "average"):
        assert all(torch.equal(tensor, parts[kind][name]) for name, tensor in whole[kind].items())


def test_a_clip_is_as_long_as_its_network_is_used_to(run, tmp_path):
    """Unless --seq_len says otherwise; and a clip that is too short is refused in a line."""
    run(
        "train.py",
        "--run=r2d",
        "--arch=vmz_r2d_10",
        "--input_size=32",
        "--pretrained=False",
        *QUICK,
        "--max_iterations=1",
    )
    stream = read_checkpoint(tmp_path / "runs" / "r2d" / "checkpoint_000001.pth")["stream"]
    assert stream["clip_len"] == 8


def test_a_clip_that_is_too_short_is_refused(run_here, toy_root, tmp_path):
    words = (f"--root={toy_root}", f"--save_root={tmp_path}", "--arch=i3d_r50", "--seq_len=4", "--pretrained=False")
    result = run_here("train.py", *words, *QUICK, "--max_iterations=1")
    assert result.returncode == 3 and "--seq_len 4, expected 7 or more frames for i3d_r50" in result.stderr
