"""Scoring a split, beyond what tests/programs/test_test.py runs through the program."""

import json

import numpy as np

from tests import toy
from tests.inference.samples import make_run
from twostream.scores.npz import read_scores


def test_dense_clips_are_aggregated_by_video(run_here, toy_root, tmp_path):
    """A clip of four frames at every frame, in batches that fit no part, and by shards; then one line of scores a video."""
    run = make_run(tmp_path, "rgb", backbone="vmz_mc3_10", input_size=32, clip_len=4)
    words = (f"--root={toy_root}", f"--save_root={tmp_path}")
    dense = (*words, "--clip_step=1", "-tb", 7, "--consensus=softmax-mean", "--workers=0", "--device=cpu")
    for shard in ("1/2", "0/2"):
        assert run_here("test.py", *dense, f"--shard={shard}").returncode == 0
    table = read_scores(run / "scores_val_000001.npz")
    starts = list(range(toy.NUM_FRAMES - 4))  # the last frame is never used
    assert table.start.tolist() == starts * 4 and table.provenance["frame_step"] == 1
    report = tmp_path / "report.json"
    words = (
        f"--save_root={tmp_path}",
        "--input_types=rgb",
        "--consensus=softmax-mean",
        "--write",
        f"challenge={report}",
    )
    assert run_here("eval.py", *words).returncode == 0
    exponentials = np.exp(table.logits.astype(float))
    softmax = exponentials / exponentials.sum(axis=1, keepdims=True)
    written = json.loads(report.read_text())["results"]
    for video, means in zip(table.video_ids, softmax.reshape(4, len(starts), 4).mean(axis=1), strict=True):
        found = {entry["label"]: entry["score"] for entry in written[video]}
        np.testing.assert_allclose([found[name] for name in table.classes], means, atol=1e-6)
