"""What is said about a score file."""

import re

import numpy as np
import torch

from twostream.fusion.consensus import Consensus
from twostream.scores.npz import write_scores
from twostream.scores.table import ScoreTable
from twostream.scoring.summary import summarise


def test_the_line_of_pytorch_resnet3d(tmp_path):
    """Its program averages logits over crops, then over clips, and takes torch's cross-entropy of the mean of each video.

    The last video has no scores, which its program would not have found; the one before has no label.
    """
    rng = np.random.default_rng(3)
    clips = rng.normal(size=(6, 10, 3, 4)).astype(np.float32)  # videos, clips, crops, classes
    labels = np.array([0, 1, 2, 3, 0, -1, 2], np.int32)
    stream = {"input_type": "rgb", "backbone": "i3d_r50", "classes": list("abcd"), "input_size": 224, "clip_len": 32,
              "frame_stride": 2, "flow_coding": None}  # fmt: skip
    path = tmp_path / "scores_val_000001.npz"
    table = ScoreTable(
        stream=stream, split="val", video_ids=np.array([f"v{k}" for k in range(7)]), labels=labels,
        video_index=np.repeat(np.arange(6, dtype=np.int32), 30), start=np.tile(np.repeat(np.arange(10, dtype=np.int32), 3), 6),
        view=np.tile(np.array([10, 11, 12], np.int16), 60), logits=clips.reshape(-1, 4), provenance={},
    )  # fmt: skip
    write_scores(path, table, [table.logits])
    lines: list[str] = []
    summarise(path, [Consensus.parse("mean")], lines.append)
    means = torch.from_numpy(clips).mean(dim=2).mean(dim=1)[:5]
    truth = torch.from_numpy(labels[:5]).long()
    accuracy = (means.argmax(dim=1) == truth).float().mean()
    loss = torch.nn.functional.cross_entropy(means, truth)
    assert f"(val) A: {accuracy:.3f} | clf: {loss:.3f}" in lines
    assert re.search(r"videos by mean: Top1 \S+ Top5 \S+ of 6, 1 without scores", "\n".join(lines))
