"""A stream of clips is a stream like any other: trained, stopped, scored, fused, exported and asked about, by the same flags."""

import itertools
import json

import numpy as np
import pytest
import torch

from tests import toy
from twostream.engine.checkpoint import read_checkpoint
from twostream.inference.loading import load
from twostream.scores.npz import read_scores

CLIPS = ("--arch=vmz_mc3_10", "--clip_len=4", "--gap=2", "--input_size=32", "--resize_side=38", "--pretrained=False")
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


STREAMS = {
    # run -> flags, iterations, share of the videos that are right
    "clips": ("--arch=vmz_mc3_10 --seq_len=4", 100, 1.0),
    "frames": ("--arch=vmz_r2d_10 --seq_len=1", 100, 0.5),
    "unordered": ("--arch=vmz_r2df_10 --seq_len=4", 100, 0.5),
    "flow": ("--arch=vmz_r2d_10 --seq_len=1 --input_type=farneback", 40, 1.0),
}


@pytest.mark.slow
def test_only_the_order_of_frames_decides(run_here, tmp_path):
    """A square that moves to the right, and the same video played backwards: they have the same frames.

    So a network of frames is at chance, and one that averages what it sees of each frame, too (f-R2D). RGB clips and flow
    are right, and all streams are fused by video in one report.
    """
    for split, seeds in (("train", range(12)), ("val", range(10_000, 10_008))):
        for seed, direction in itertools.product(seeds, ("left", "right")):
            path = tmp_path / "videos" / split / direction / f"{direction}_{seed}.mkv"
            toy.write_video(path, toy.frames(seed, ("red", "blue")[seed % 2], direction))
    where = (f"--root={tmp_path / 'data'}", f"--save_root={tmp_path / 'runs'}")

    def run(program, *words):
        result = run_here(program, *words)
        assert result.returncode == 0, result.stderr

    run("prep/extract.py", "--videos", tmp_path / "videos", where[0], "--short_side=96", "--workers=1")
    run("prep/build_annotations.py", "--videos", tmp_path / "videos", where[0])
    training = (
        "--pretrained=False", "--mirror=False", "--input_size=32", "--batch_size=16", "--frame_step=1", "--dropout=0.2",
        "--lr=0.02", "--schedule=cosine", "--warm_up=5", "--workers=0", "--device=cpu",
    )  # fmt: skip
    scores = []
    for name, (flags, iterations, _) in STREAMS.items():
        last = (f"--max_iterations={iterations}", f"--val_interval={iterations}", f"--run={name}")
        run("train.py", *where, *training, *flags.split(), *last)
        input_type = "farneback" if name == "flow" else "rgb"
        run(
            "test.py",
            *where,
            f"--run={name}",
            f"--input_type={input_type}",
            "--num_clips=8",
            "--workers=0",
            "--device=cpu",
        )
        scores += (tmp_path / "runs" / name).glob("scores_val_*.npz")
    run("eval.py", "--scores", *scores, f"--report={tmp_path / 'report.json'}")
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert len(rows) == len(STREAMS) + 1
    for row, (_, _, share) in zip(rows, STREAMS.values(), strict=False):
        assert row["video_top1"] == pytest.approx(share, abs=0.07)  # one of 16 videos
    assert rows[-1]["video_top1"] == 1
