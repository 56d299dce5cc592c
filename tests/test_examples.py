"""examples/: each runs as its docstring says, on small generated videos."""

import runpy
import subprocess
import sys

import cv2
import numpy as np

from tests import toy
from tests.conftest import REPOSITORY, noise_image
from twostream.frames.stores import open_store
from twostream.models.backbones import BACKBONES
from twostream.scores.npz import read_scores

EXAMPLES = REPOSITORY / "examples"


def test_every_example_has_a_test():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"own_videos", "new_backbone", "new_flow_method"}


def test_own_videos(run_command, toy_videos, tmp_path, monkeypatch, capsys):
    """Its commands run within this process."""
    run = subprocess.run

    def run_here(command, **how):
        return run_command(*command[3:]) if command[1:3] == ["-m", "twostream"] else run(command, **how)

    monkeypatch.setattr(subprocess, "run", run_here)
    monkeypatch.chdir(tmp_path)
    words = ["own_videos.py", str(toy_videos), "--out=work", "--iterations=2", "--arch=squeezenet1_1"]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(EXAMPLES / "own_videos.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "RGB+Flow: " in printed and "rgb takes the first video" in printed
    assert (tmp_path / "work" / "report.html").is_file()


def test_new_backbone(run_here, toy_root, tmp_path, monkeypatch):
    monkeypatch.setitem(BACKBONES, "small", None)  # which the example replaces, and the end of the test removes
    where = (f"--root={toy_root}", f"--save_root={tmp_path}", "--input_type=farneback", "--workers=0", "--device=cpu")
    quick = ("--input_size=32", "--batch_size=4", "--max_iterations=2", "--val_interval=2", "--stepvalues=1")
    for words in (("train", *where, *quick, "--arch=small", "--pretrained=False"), ("test", *where)):
        result = run_here("examples/new_backbone.py", *words, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    (path,) = tmp_path.glob("*/scores_val_000002.npz")
    table = read_scores(path)
    assert table.stream["backbone"] == "small" and np.isfinite(table.logits).all()


def test_new_flow_method(run_program, tmp_path):
    """A picture that moves 3 pixels to the right and 2 up in each frame, in a worker process."""
    picture = noise_image(height=120, width=160)
    frames = [picture[20 + 2 * k : 84 + 2 * k, 40 - 3 * k : 136 - 3 * k] for k in range(5)]
    toy.write_video(tmp_path / "videos" / "moving.mkv", np.stack(frames))
    words = ["--videos=videos", "--root=data", "--input_types=rgb,shift", "--short_side=0", "--workers=1", "--bound=8"]
    result = run_program("examples/new_flow_method.py", "extract", *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    flow_image = open_store(tmp_path / "data", "shift").read("moving", [1])[0]
    x, y, _ = cv2.mean(flow_image)[:3]
    # Phase correlation finds the peak to about half a pixel.
    assert abs((x - 128) * 8 / 128 - 3) < 0.6 and abs((y - 128) * 8 / 128 + 2) < 0.6
