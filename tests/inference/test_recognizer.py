"""Predictions from videos: the same scores as extraction, scoring and evaluation give, in any grouping of the videos."""

import time
from dataclasses import replace

import cv2
import numpy as np
import pytest

from tests import toy
from tests.inference.samples import make_run
from twostream.clips.testing import Sampling
from twostream.errors import BadInputError, Terminated
from twostream.fusion.consensus import Consensus
from twostream.fusion.streams import fuse
from twostream.inference import export
from twostream.inference import recognizer as recognizer_module
from twostream.inference.export import recognizer_of_runs, write_recognizer
from twostream.inference.loading import load
from twostream.inference.recognizer import Failure, Prediction, Recognizer
from twostream.inference.sources import Pictures, Source, VideoFile, find_sources
from twostream.scores.npz import read_scores


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {kind: make_run(folder, kind, seed=seed) for seed, kind in enumerate(("rgb", "farneback"))}


@pytest.fixture(scope="module")
def recognizer(runs):
    return recognizer_of_runs(list(runs.values()), weights=(1, 1.5)).with_sampling(num_clips=5, views="flip")


@pytest.mark.parametrize("flow", ["stored", "online"])
@pytest.mark.parametrize("sampling", [["--num_clips=5"], ["--frame_step=3"]], ids=["uniform", "every third"])
def test_scores_are_those_of_extraction_and_the_test_program(
    sampling, flow, runs, toy_root, toy_videos, tmp_path, run_here
):
    """From the video files, to rounding: sizes, flow and what JPEG loses are the same.

    Online flow is computed from stored frames, here by OpenCV and there by torch; so it is compared from stored frames.
    """
    tables = {}
    for kind, run in runs.items():
        extra = ["--flow=online"] if kind != "rgb" and flow == "online" else []
        result = run_here(
            "test.py", f"--root={toy_root}", f"--save_root={run.parent}", f"--input_type={kind}", f"--run={run.name}",
            "--views=flip", "--workers=0", "--device=cpu", "--rescore", *sampling, *extra,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        tables[kind] = read_scores(run / "scores_val_000001.npz")
    name, value = sampling[0].removeprefix("--").split("=")
    chosen = Sampling(num_clips=5) if name == "num_clips" else Sampling(num_clips=0, clip_step=int(value))
    recognizer = recognizer_of_runs(list(runs.values()), weights=(1, 1.5)).with_sampling(
        **vars(chosen) | {"views": "flip"}
    )
    consensus = Consensus.parse("softmax-mean")
    expected = fuse([consensus.video_scores(table) for table in tables.values()], (1, 1.5))
    ids = tables["rgb"].video_ids.tolist()
    if flow == "stored":
        sources = [VideoFile(next(toy_videos.rglob(f"{i}.mkv"))) for i in ids]
    else:
        contract = recognizer.contract
        streams = tuple(
            replace(s, quality=90, config=s.config.with_flow("online")) if s.name != "rgb" else s
            for s in contract.streams
        )
        recognizer = Recognizer(replace(contract, streams=streams), recognizer.networks)
        sources = find_sources(str(toy_root), split="val")
    found = list(recognizer.predict_all(sources))
    for video, prediction in enumerate(found):
        for kind, table in tables.items():
            rows = table.video_index == video
            part = prediction.stream(kind)
            np.testing.assert_array_equal(part.starts, table.start[rows])
            np.testing.assert_array_equal(part.views, table.view[rows])
            tolerance = 5e-3 if kind != "rgb" and flow == "online" else 1e-5
            np.testing.assert_allclose(part.logits, table.logits[rows], atol=tolerance * np.abs(table.logits).max())
        np.testing.assert_allclose(prediction.probabilities, expected[video], atol=1e-3)
        assert prediction.probabilities.sum() == pytest.approx(1)


def test_long_videos_are_predicted_piece_by_piece(recognizer, toy_videos, monkeypatch):
    """Whatever fits into memory at once, and however clips are chosen, the logits are the same."""
    video = next(toy_videos.rglob("*.mkv"))
    frame_bytes = 96 * 96 * 3
    for sampling in (Sampling(5, views="flip"), Sampling(0, clip_step=4)):
        chosen = recognizer.with_sampling(**vars(sampling))
        whole = chosen.predict(video)
        for frames_at_once in (1, 7, toy.NUM_FRAMES - 1):
            monkeypatch.setattr(recognizer_module, "FRAMES_BYTES", frames_at_once * frame_bytes)
            in_pieces = chosen.predict(video)
            monkeypatch.undo()
            for ours, theirs in zip(in_pieces.streams, whole.streams, strict=True):
                np.testing.assert_array_equal(ours.starts, theirs.starts)
                np.testing.assert_allclose(ours.logits, theirs.logits, atol=1e-4)
            assert in_pieces.num_frames == toy.NUM_FRAMES


def test_a_video_file_and_its_frames_have_the_same_answer(recognizer, tmp_path):
    pictures = toy.frames(7, "red", "left")
    toy.write_video(tmp_path / "a.mkv", pictures)
    file, frames = recognizer.predict(tmp_path / "a.mkv"), recognizer.predict(pictures, fps=15)
    np.testing.assert_array_equal(file.probabilities, frames.probabilities)
    assert (file.num_frames, file.fps) == (frames.num_frames, frames.fps) == (toy.NUM_FRAMES, 15)


def test_flow_points_where_things_move(runs, monkeypatch):
    """What the network is given: x of the flow to the right and forwards in time, about the level of no motion."""
    recognizer = recognizer_of_runs([runs["farneback"]])
    network, seen = recognizer.networks[0].module, []
    forward = network.forward
    monkeypatch.setattr(
        network, "forward", lambda clips, mirrored: seen.append(clips.float()) or forward(clips, mirrored)
    )
    for direction in ("right", "left"):
        recognizer.predict(toy.frames(3, "red", direction))
    right, left = (clips.mean(dim=(0, 1, 2, 3, 4)) - 128 for clips in seen)
    assert right[0] > 3 and left[0] < -3 and abs(right[1]) < 3 and abs(left[1]) < 3


def test_a_broken_source_costs_only_itself(recognizer, toy_videos, tmp_path):
    good = next(toy_videos.rglob("*.mkv"))
    (tmp_path / "bad.mkv").write_bytes(good.read_bytes()[:50])
    sources = [VideoFile(good), VideoFile(tmp_path / "bad.mkv"), Pictures("none", []), VideoFile(good)]
    first, broken, empty, last = recognizer.predict_all(sources)
    assert isinstance(broken, Failure) and broken.source == str(tmp_path / "bad.mkv") and "\n" not in broken.reason
    assert isinstance(empty, Failure) and "no frames" in empty.reason
    assert isinstance(first, Prediction) and isinstance(last, Prediction)
    np.testing.assert_allclose(first.probabilities, last.probabilities, atol=1e-6)
    with pytest.raises(BadInputError, match="bad.mkv"):
        recognizer.predict(tmp_path / "bad.mkv")


class Hour(Source):
    """A video that takes half a minute to decode."""

    name = "hour"

    def __init__(self):
        self.num_read, self.is_closed = 0, False

    def frames(self, geometry):
        try:
            while self.num_read < 3000:
                self.num_read += 1
                time.sleep(0.01)
                yield np.zeros((96, 96, 3), np.uint8)
        finally:
            self.is_closed = True

    def wait_until_begun(self):
        while not self.num_read:
            time.sleep(0.001)

    def assert_was_stopped(self):
        assert self.is_closed and 0 < self.num_read < 1000


@pytest.mark.parametrize("error", [KeyboardInterrupt, Terminated, GeneratorExit])
def test_an_interrupt_does_not_wait_for_the_videos_that_follow(error, recognizer):
    shorts, hours = [Pictures("short", toy.frames(1, "red", "left"), fps=15)] * 2, [Hour(), Hour()]
    results = recognizer.predict_all([*shorts, *hours])
    assert isinstance(next(results), Prediction)
    for hour in hours:
        hour.wait_until_begun()
    with pytest.raises(error):
        results.throw(error())
    for hour in hours:
        hour.assert_was_stopped()


def test_an_interrupt_does_not_wait_for_frames_that_are_being_made(recognizer):
    endless, seen = toy.frames(1, "red", "left"), []
    frames = (seen.append(k) or time.sleep(0.01) or endless[0] for k in range(3000))
    results = recognizer.predict_all([endless, endless, frames], fps=15)
    next(results)
    while not seen:
        time.sleep(0.001)
    results.close()
    assert len(seen) < 1000


@pytest.mark.parametrize("error", [KeyboardInterrupt, BadInputError])
def test_an_interrupt_while_networks_are_loaded_does_not_wait_for_the_first_video(
    error, recognizer, tmp_path, monkeypatch
):
    """Nor does the message that the recognizer is damaged."""
    write_recognizer(recognizer, tmp_path)
    hour = Hour()

    def interrupted(folder, *, device):
        hour.wait_until_begun()
        raise error

    monkeypatch.setattr(export, "read_recognizer", interrupted)
    with pytest.raises(error):
        load(tmp_path, first=hour, device="cpu")
    hour.assert_was_stopped()


def test_no_recognizer_is_named():
    with pytest.raises(BadInputError, match="no recognizer is named; expected its folder, .* or the runs"):
        load([])


def test_frames_too_small_for_a_flow_method_are_a_failure(tmp_path, toy_videos):
    recognizer = recognizer_of_runs([make_run(tmp_path, "dis", frames={"short_side": 0, "fps": 0, "quality": 75})])
    small = [np.zeros((20, 20, 3), np.uint8)] * 3
    bad, good = recognizer.predict_all([Pictures("small", small), VideoFile(next(toy_videos.rglob("*.mkv")))])
    assert isinstance(bad, Failure) and "32 pixels" in bad.reason and isinstance(good, Prediction)


@pytest.mark.parametrize("num_frames", [1, 2, 3])
def test_shortest_videos(num_frames, recognizer):
    """Clips repeat the last frame where a video is too short for them; a video of one frame does not move."""
    prediction = recognizer.predict(toy.frames(1, "blue", "right")[:num_frames])
    assert prediction.num_frames == num_frames
    assert np.isfinite(prediction.probabilities).all()


def test_answers_are_the_most_likely_classes(recognizer):
    prediction = recognizer.predict(toy.frames(1, "blue", "right"))
    answers = prediction.top(2)
    assert [a.probability for a in answers] == sorted(prediction.probabilities, reverse=True)[:2]
    assert answers[0].label == toy.CLASSES[int(prediction.probabilities.argmax())]
    assert (
        prediction.top(99, stream="rgb")[0].label == toy.CLASSES[int(prediction.stream("rgb").probabilities.argmax())]
    )
    with pytest.raises(KeyError, match="rgb, farneback"):
        prediction.top(stream="tvl1")


def test_size_and_rate_are_those_of_the_training(tmp_path):
    """A video of another size and rate reaches the networks as its extraction would have stored it."""
    large = np.stack([cv2.resize(frame, (288, 192)) for frame in toy.frames(1, "red", "right")])
    toy.write_video(tmp_path / "a.mkv", large, fps=30)
    run = make_run(tmp_path, "rgb", frames={"short_side": 96, "fps": 10, "quality": 90})
    prediction = recognizer_of_runs([run]).predict(tmp_path / "a.mkv")
    assert prediction.num_frames == pytest.approx(toy.NUM_FRAMES / 3, abs=1) and prediction.fps == 10
    frames = recognizer_of_runs([run]).predict(large, fps=30)
    assert frames.num_frames == prediction.num_frames
    with pytest.raises(BadInputError, match="rate"):
        recognizer_of_runs([run]).predict(large)


def test_a_video_that_is_shorter_than_a_clip_is_predicted_with_a_note(tmp_path):
    recognizer = recognizer_of_runs([make_run(tmp_path, "rgb", clip_len=3, frame_stride=4), make_run(tmp_path, "dis")])
    notes = [recognizer.predict(toy.frames(1, "red", "left")[:length]).notes for length in (8, 9)]
    assert notes == [("shorter than the 9 frames of a clip of rgb, which repeats frames",), ()]


def test_any_iterable_of_frames_is_a_video(recognizer):
    frames = toy.frames(3, "red", "left")
    expected = recognizer.predict(frames, fps=15)
    for kind in (list, tuple, iter):
        found = recognizer.predict(kind(frames), fps=15)
        np.testing.assert_array_equal(found.probabilities, expected.probabilities)
        assert found.seconds == expected.seconds


def test_a_list_of_videos_has_a_result_for_each(recognizer, toy_videos):
    path = next(toy_videos.rglob("*.mkv"))
    found = list(recognizer.predict_all([str(path), toy.frames(3, "red", "left"), "missing.mp4", path], fps=15))
    assert [type(result) for result in found] == [Prediction, Prediction, Failure, Prediction]
    np.testing.assert_allclose(found[0].probabilities, found[3].probabilities, atol=1e-6)
