"""Page, confusion matrix and event files of a training show the same values as its log."""

import json
import re
import sys

import numpy as np
import pytest

from tests.monitor.test_page import points_of_page
from twostream.monitor.log import read_confusion, read_log

RUN = "kinetics-squeezenet1_1-farneback-sl02-g1-fs6-4-000500"
SMALL = ["--arch=squeezenet1_1", "--input_type=farneback", "--seq_len=2", "--input_size=32", "--batch_size=4", "--workers=0",
         "--pretrained=False", "--print_freq=1"]  # fmt: skip


@pytest.fixture
def train(run_here, toy_root, tmp_path):
    return lambda *words: run_here("train.py", f"--root={toy_root}", f"--save_root={tmp_path}", *SMALL, *words)


def test_everything_shows_the_same_values(train, tmp_path):
    """Also in a run that was resumed. Output that is no terminal gets lines of text, without a bar."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for words in (["--max_iterations=2"], ["--max_iterations=4", "--resume"]):
        result = train(*words, "--val_interval=2", "--tensorboard")
        assert result.returncode == 0 and "\r" not in result.stdout + result.stderr
        assert re.search(r"\[1/6\].* ETA 0:00:\d\d$|\[3/6\].* ETA 0:00:\d\d$", result.stdout, re.MULTILINE)
    run_dir = tmp_path / RUN
    entries = read_log(run_dir)
    trained = [(e["iteration"], e["mean_loss"]) for e in entries if e["event"] == "train"]
    validations = [e for e in entries if e["event"] == "validation"]
    assert [iteration for iteration, _ in trained] == [1, 2, 3, 4]

    text = (run_dir / "curves.html").read_text()
    curves = points_of_page(text)
    assert curves["Train & Val Losses"]["Train-Loss"] == [pytest.approx(point, abs=0.01) for point in trained]
    top1 = [(e["iteration"], 100 * e["top1"]) for e in validations]
    assert curves["Train & Val Accuracies"]["valTop1"] == [pytest.approx(point, abs=0.5) for point in top1]
    assert "What the network sees, iteration 4<" in text and "Confusion at validation, iteration 4<" in text
    assert "ended" in text

    iteration, matrix, classes = read_confusion(run_dir, last=4)
    assert (iteration, classes) == (4, tuple(json.loads((run_dir / "stream.json").read_text())["stream"]["classes"]))
    assert matrix.sum() == 4 and np.trace(matrix) / 4 == validations[-1]["top1"]

    accumulator = events.EventAccumulator(str(run_dir / "tensorboard"))
    accumulator.Reload()
    assert [(e.step, e.value) for e in accumulator.Scalars("loss/Train-Loss")] == [pytest.approx(p) for p in trained]
    assert [image.step for image in accumulator.Images("inputs")] == [
        1,
        2,
        3,
        4,
    ]  # at the first iteration of each start, and at validations


def test_a_missing_tensorboard_is_reported_before_training(train, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # importing it raises ImportError
    result = train("--max_iterations=1", "--tensorboard")
    assert result.returncode == 4 and "pip install" in result.stderr.splitlines()[-1]
    assert not list((tmp_path / RUN).glob("checkpoint*"))
