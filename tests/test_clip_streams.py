"""A stream of clips is a stream like any other: trained, stopped, scored, fused, exported and asked about, by the same flags."""

import itertools
import json

import numpy as np
import pytest
import torch

from tests import toy
from tests.inference.samples import make_run
from twostream.annotations.json_file import write_annotations
from twostream.annotations.videos import Video, make_annotations
from twostream.engine.checkpoint import read_checkpoint
from twostream.errors import BadInputError
from twostream.frames.folders import FrameFolders
from twostream.frames.jpeg import encode_jpeg
from twostream.inference.export import recognizer_of_runs
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


def test_clips_at_a_frame_rate_from_squeezed_pictures(run_here, run_command, tmp_path):
    """Videos of 10, 15, 25 and 30 frames a second: prediction from the files, and live, has the scores of extraction and test."""
    videos, where = tmp_path / "videos", (f"--root={tmp_path / 'data'}", f"--save_root={tmp_path / 'runs'}")
    for number, (fps, direction) in enumerate(itertools.product((10, 25, 15, 30), ("left", "right"))):
        path = videos / ("train" if number < 4 else "val") / direction / f"{direction}{fps}.mkv"
        toy.write_video(path, toy.frames(number, "red", direction)[:26, 20:70], fps=fps)

    def run(program, *words):
        result = run_here(program, *words) if program.endswith(".py") else run_command(program, *words)
        assert result.returncode == 0, result.stderr
        return result.stdout

    run("prep/extract.py", "--videos", videos, where[0], "--short_side=0", "--quality=95", "--workers=1")
    run("prep/build_annotations.py", "--videos", videos, where[0])
    clips = (
        "--arch=squeezenet1_1", "--clip_len=4", "--frame_rate=12", "--input_size=32", "--resize_side=38x50",
        "--pretrained=False", *QUICK, "--max_iterations=1",
    )  # fmt: skip
    scores, runs = {}, [tmp_path / "runs" / kind for kind in ("rgb", "farneback")]
    for folder in runs:
        run("train.py", *where, *clips, f"--input_type={folder.name}", f"--run={folder.name}")
        run("test.py", *where, f"--input_type={folder.name}", "--frame_step=1", "--workers=0", "--device=cpu")
        scores[folder.name] = read_scores(folder / "scores_val_000001.npz")
        assert scores[folder.name].stream["resize_side"] == [38, 50] and scores[folder.name].stream["frame_rate"] == 12
        assert scores[folder.name].clip_extents.tolist() == [3, 7, 3, 7]  # 15, 30, 15 and 30 frames a second
    result = run_here("test.py", *where, "--input_type=rgb", "--frame_rate=15")
    assert result.returncode == 3 and "trained with --frame_rate=12" in result.stderr
    run("eval.py", where[1])
    target = tmp_path / "recognizer"
    run("export", "--runs", *runs, "--out", target)
    recognizer = load(target, device="cpu").with_sampling(num_clips=0, clip_step=1)
    for video in (videos / "val").rglob("*.mkv"):
        answers = [recognizer.predict(video), list(recognizer.stream(video, window_seconds=1e6))[-1]]
        for (kind, table), answer in itertools.product(scores.items(), answers):
            rows, found = table.video_ids[table.video_index] == video.stem, answer.stream(kind)
            ours, theirs = (
                np.isin(a, b) for a, b in ((found.starts, table.start[rows]), (table.start[rows], found.starts))
            )
            # The last clip is of live answers only; their first one waits for the frame that flow points to.
            assert np.count_nonzero(theirs) >= np.count_nonzero(rows) - (answer is answers[1]) > 15
            expected = table.logits[rows][theirs]
            np.testing.assert_allclose(found.logits[ours], expected, atol=1e-4 * np.abs(table.logits).max())


def test_frames_of_unknown_rate_cannot_be_resampled(tmp_path):
    recognizer = recognizer_of_runs([make_run(tmp_path, "rgb", backbone="squeezenet1_1", clip_len=3, frame_rate=5.0)])
    pictures = toy.frames(1, "red", "left")
    for source in (lambda: recognizer.predict(pictures), lambda: next(recognizer.stream(iter(pictures)))):
        with pytest.raises(
            BadInputError, match="the rate of these frames is unknown, but stream rgb takes 5 of them a"
        ):
            source()
    with pytest.raises(BadInputError, match="ended after 0 frames; expected 1"):
        next(recognizer.stream(iter(()), fps=15))
    assert recognizer.predict(pictures, fps=15).streams[0].starts[-1] == 33 - 7 - 1


def test_a_resumed_training_is_the_same_bit_for_bit(run, tmp_path):
    """bf16, accumulated, channels last; with frames that repeat, as a clip of 8 frames, 5 apart, is longer than a video.

    On the CPU, --deterministic changes nothing.
    """
    clips = (*CLIPS, *QUICK, "--seq_len=8", "--gap=5", "--ema=0.5", "--val_interval=3")
    run("train.py", "--run=whole", *clips, "--max_iterations=3")
    run("train.py", "--run=parts", *clips, "--max_iterations=2", "--deterministic")
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


def write_frames(root, videos):
    """A data root with a grey square that moves; `videos` are id, split, class, fps and pixels from frame to frame."""
    store, entries = FrameFolders(root, "rgb"), []
    for video_id, split, label, fps, speed, seed in videos:
        x, y = np.random.default_rng(seed).integers(0, 32, 2)
        with store.writer(video_id) as writer:
            for frame in range(32):
                picture = np.full((32, 32, 3), 60, np.uint8)
                columns, rows = (x + round(speed * frame) + np.arange(10)) % 32, (y + np.arange(10)) % 32
                picture[np.ix_(rows, columns)] = 220
                writer.write(frame, encode_jpeg(picture, quality=95, chroma_subsampling=False))
            writer.publish({"num_frames": 32, "fps": fps})
        entries.append(Video(video_id, split, label, 32, fps))
    write_annotations(root / "annotations.json", make_annotations(entries, path=root / "annotations.json"))


@pytest.mark.slow
def test_only_speed_decides(run_here, tmp_path):
    """Squares that cross 20 or 80 pixels a second, stored at rates at which both move by 2, or by 1, from frame to frame.

    So frame by frame the videos of both classes are the same, to the byte: without a frame rate, a network is right for one
    of each two. At ten frames a second, squares move by 2 or 8 pixels.
    """
    kinds = [("slow", 10.0, 2), ("slow", 20.0, 1), ("fast", 40.0, 2), ("fast", 80.0, 1)]
    write_frames(
        tmp_path / "data",
        [
            (f"{split}_{label}_{fps:g}_{seed}", split, label, fps, step, seed + 100 * (split == "val"))
            for split, count in (("train", 32), ("val", 16))
            for label, fps, step in kinds
            for seed in range(count)
        ],
    )
    where = (f"--root={tmp_path / 'data'}", f"--save_root={tmp_path / 'runs'}")
    flags = (
        "--arch=vmz_r2d_10", "--clip_len=4", "--input_size=32", "--resize_side=32", "--pretrained=False", "--mirror=False",
        "--clips_per_video=1", "--batch_size=16", "--dropout=0.2", "--lr=0.02", "--schedule=cosine", "--warm_up=5",
        "--workers=0", "--device=cpu",
    )  # fmt: skip
    shares = {}
    for rate, iterations in ((0, 40), (10, 150)):
        last = (f"--max_iterations={iterations}", f"--val_interval={iterations}")
        result = run_here("train.py", *where, *flags, *last, f"--frame_rate={rate}", f"--run=rate{rate}")
        assert result.returncode == 0, result.stderr
        words = (f"--run=rate{rate}", "--num_clips=1", "--workers=0", "--device=cpu")
        assert run_here("test.py", *where, *words).returncode == 0
        table = read_scores(tmp_path / "runs" / f"rate{rate}" / f"scores_val_{iterations:06d}.npz")
        shares[rate] = np.mean(table.logits.argmax(axis=1) == table.row_labels)
    assert shares[0] == 0.5 and shares[10] > 0.85  # of 64 videos


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
