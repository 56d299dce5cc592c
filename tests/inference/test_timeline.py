"""Timelines: probabilities by hand-made scores, and segments of a video whose parts are known."""

import re
from dataclasses import replace

import numpy as np
import pytest

from tests import toy
from tests.inference.samples import make_run
from tests.tables import make_table
from tests.video.samples import run_ffmpeg
from twostream.errors import BadInputError
from twostream.fusion.consensus import Consensus
from twostream.inference import recognizer as recognizer_module
from twostream.inference.contract import Fusion
from twostream.inference.export import recognizer_of_runs
from twostream.inference.timeline import Segment, Timeline, clip_step, to_srt, window_probabilities

MEAN = Fusion(Consensus.parse("softmax-mean"), (1.0,))


def timeline(probabilities, *, stride=0.5, seconds=None):
    probabilities = np.array(probabilities, float)
    seconds = len(probabilities) * stride if seconds is None else seconds
    return Timeline("v", ("rest", "run", "jump"), stride, probabilities, seconds, 30)


def test_segments_are_runs_of_the_same_sure_class():
    rows = [[0.9, 0.1, 0], [0.2, 0.7, 0.1], [0.1, 0.9, 0], [0.4, 0.35, 0.25], [0, 0.2, 0.8], [0, 0.6, 0.4]]
    found = timeline(rows, seconds=2.8).segments(threshold=0.5, background="rest")
    expected = [Segment(0.5, 1.5, "run", 0.8), Segment(2.0, 2.5, "jump", 0.8), Segment(2.5, 2.8, "run", 0.6)]
    assert [(s.start_seconds, s.end_seconds, s.label) for s in found] == [
        (s.start_seconds, s.end_seconds, s.label) for s in expected
    ]
    np.testing.assert_allclose([s.confidence for s in found], [s.confidence for s in expected])
    assert timeline(rows).segments(threshold=0.95) == []
    assert [s.label for s in timeline(rows).segments(threshold=0.5)] == ["rest", "run", "jump", "run"]


def test_subtitles():
    text = to_srt([Segment(0, 1.5, "run", 0.8), Segment(3661.25, 3662, "jump", 1)])
    assert text == "1\n00:00:00,000 --> 00:00:01,500\nrun (0.80)\n\n2\n01:01:01,250 --> 01:01:02,000\njump (1.00)\n"


@pytest.mark.parametrize(("window", "stride", "seconds"), [(2, 0.5, 10), (2, 0.5, 1.3), (1, 1, 7.5), (3, 0.7, 9.9)])
def test_each_stride_is_the_mean_of_the_windows_that_cover_it(window, stride, seconds):
    """Against loops over windows and clips, for one stream of single frames at 10 a second."""
    rng, rate = np.random.default_rng(0), 10
    starts = np.arange(0, max(int(seconds * rate) - 1, 1), clip_step(rate, stride))
    logits = rng.normal(size=(len(starts), 3)).astype(np.float32)
    table = make_table(
        video_ids=("v",),
        labels=(-1,),
        classes=("a", "b", "c"),
        video_index=np.zeros(len(starts)),
        start=starts,
        logits=logits,
    )
    found = window_probabilities(
        [table], MEAN, rates=[rate], seconds=seconds, window_seconds=window, stride_seconds=stride
    )  # fmt: skip
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    num_windows = 1
    while (num_windows - 1) * stride + window < seconds - 1e-6:
        num_windows += 1
    windows = []
    for w in range(num_windows):
        inside = [p[k] for k, s in enumerate(starts) if w * stride - 1e-9 <= s / rate < w * stride + window - 1e-9]
        windows.append(np.mean(inside, axis=0) if inside else p[-1])
    assert len(found) == int(np.ceil(seconds / stride - 1e-6))
    for cell, row in enumerate(found):
        covering = [w for w in range(num_windows) if 0 <= cell - w < max(round(window / stride), 1)] or [
            num_windows - 1
        ]
        np.testing.assert_allclose(row, np.mean([windows[w] for w in covering], axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_a_timeline_needs_little_memory_and_is_the_same_in_pieces(tmp_path, monkeypatch):
    recognizer = recognizer_of_runs([make_run(tmp_path, "rgb"), make_run(tmp_path, "dis", clip_len=2)])
    pictures = np.concatenate([toy.frames(1, "red", "left"), toy.frames(2, "blue", "right")])
    toy.write_video(tmp_path / "a.mkv", pictures, fps=15)
    whole = recognizer.timeline(tmp_path / "a.mkv", window_seconds=1, stride_seconds=0.4)
    assert whole.seconds == pytest.approx(len(pictures) / 15)
    monkeypatch.setattr(recognizer_module, "FRAMES_BYTES", 10 * pictures[0].nbytes)
    in_pieces = recognizer.timeline(tmp_path / "a.mkv", window_seconds=1, stride_seconds=0.4)
    np.testing.assert_allclose(in_pieces.probabilities, whole.probabilities, atol=1e-5)


def test_times_of_television_do_not_drift(tmp_path):
    recognizer = recognizer_of_runs([make_run(tmp_path, "rgb")])
    pictures = np.concatenate([toy.frames(k, "red", "left") for k in range(3)])
    toy.write_video(tmp_path / "a.mp4", pictures, fps="24000/1001", codec=("mpeg4",))
    found = recognizer.timeline(tmp_path / "a.mp4")
    assert found.seconds == pytest.approx(len(pictures) * 1001 / 24000, rel=1e-5)  # as 23.98, 17e-5 less
    assert found.notes == ()


def test_a_variable_rate_is_said(tmp_path):
    recognizer = recognizer_of_runs([make_run(tmp_path, "rgb")])
    toy.write_video(tmp_path / "a.mkv", np.concatenate([toy.frames(k, "red", "left") for k in range(3)]))
    hole = ("-vf", "select='not(between(n,10,29))'", "-fps_mode", "passthrough", "-c:v", "mpeg4")
    run_ffmpeg("-i", tmp_path / "a.mkv", *hole, tmp_path / "hole.mp4")
    (note,) = recognizer.timeline(tmp_path / "hole.mp4").to_json()["notes"]
    assert "variable frame rate" in note and "times are approximate" in note


def test_a_rate_is_needed(tmp_path):
    recognizer = recognizer_of_runs([make_run(tmp_path, "rgb")])
    with pytest.raises(BadInputError, match="--fps"):
        recognizer.timeline(toy.frames(1, "red", "left"))


def test_segments_of_a_multi_label_recognizer_overlap():
    rows = [[0.9, 0.1, 0], [0.8, 0.7, 0.1], [0.1, 0.9, 0], [0.4, 0.35, 0.25], [0, 0.6, 0.8]]
    found = replace(timeline(rows), multi_label=True)
    assert [(s.start_seconds, s.end_seconds, s.label) for s in found.segments(threshold=0.5)] == [
        (0.0, 1.0, "rest"), (0.5, 1.5, "run"), (2.0, 2.5, "run"), (2.0, 2.5, "jump"),
    ]  # fmt: skip
    bars = re.findall(r'y="(\d+)" width="[\d.]+" height="28"', found.plot().svg)
    assert bars == ["2", "33", "33", "64"]
