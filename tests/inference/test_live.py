"""Answers about sources that are going on: the same scores as predictions of videos, of the newest frames only."""

import queue
import re
import threading
import time

import cv2
import numpy as np
import pytest

from benchmarks import live as benchmark
from tests import clock, toy
from tests.inference.samples import make_run
from twostream.clips.footage import Footage
from twostream.errors import BadInputError
from twostream.inference.export import recognizer_of_runs
from twostream.inference.live import PictureFeed, watch
from twostream.inference.sources import Geometry

FPS = 15
SMALL = {"backbone": "squeezenet1_1", "input_size": 64}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [
        make_run(folder, "rgb", **SMALL),
        make_run(folder, "farneback", seed=1, clip_len=3, frame_stride=2, **SMALL),
    ]


@pytest.fixture(scope="module")
def recognizer(runs):
    return recognizer_of_runs(runs, weights=(1, 1.5)).with_sampling(num_clips=0, clip_step=1, views="flip")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mkv"
    toy.write_video(path, toy.frames(1, "red", "left")[:18])
    return path


def test_every_clip_has_the_scores_that_prediction_gives_it(recognizer, clip):
    """Of a file, all frames are looked at; the streams have clips of different length, and a shared window."""
    whole, answers = recognizer.predict(clip), list(recognizer.stream(clip, window_seconds=1e6))
    assert [a.frame_index for a in answers] == list(range(5, 18)), "the flow stream needs six frames"
    assert answers[-1].num_dropped == answers[-1].num_losses == 0 and answers[-1].fps == FPS
    for live, dense in zip(answers[-1].streams, whole.streams, strict=True):
        common = np.intersect1d(live.starts, dense.starts)
        assert len(common) >= 12
        rows, expected = np.isin(live.starts, common), np.isin(dense.starts, common)
        np.testing.assert_array_equal(live.views[rows], dense.views[expected])
        np.testing.assert_allclose(live.logits[rows], dense.logits[expected], atol=1e-4)
    assert answers[-1].probabilities.sum() == pytest.approx(1)


def test_flow_of_a_pair_is_computed_once(recognizer, clip, monkeypatch):
    computed = []
    compute = Footage._compute
    monkeypatch.setattr(Footage, "_compute", lambda self, pair: computed.append(pair) or compute(self, pair))
    num_answers = len(list(recognizer.stream(clip)))
    assert num_answers == 13 and len(computed) == 17, "18 frames; each clip has three pairs"


class FakeScorer:
    """Logits that say which frames it was given."""

    def __init__(self, num_frames, classes):
        self.num_frames, self.extent, self.classes, self.calls = num_frames, num_frames - 1, classes, []

    def begin(self, fps):
        self.fps = fps

    def __call__(self, frames, first):
        self.calls.append((first, [int(frame[0, 0, 0]) for frame in frames]))
        return np.eye(self.classes, dtype=np.float32)[None, first % self.classes] * 10


def small_pictures(number):
    return [np.full((96, 96, 3), value, np.uint8) for value in range(number)]


def test_a_window_holds_the_clips_of_the_last_seconds(recognizer):
    """At ten frames a second, half a second has five clips; each answer is their mean."""
    contract = recognizer.with_sampling(views="centre").contract
    scorers = [FakeScorer(1, 4), FakeScorer(3, 4)]
    feed = PictureFeed(small_pictures(12), [Geometry(96)], fps=10)
    answers = list(watch(feed, contract, scorers, window_seconds=0.5))
    assert [a.frame_index for a in answers] == list(range(2, 12))
    assert scorers[0].calls == [(n, [n]) for n in range(2, 12)]
    assert scorers[1].calls == [(n, [n, n + 1, n + 2]) for n in range(10)]
    for answer in answers:
        last = answer.frame_index
        assert answer.streams[0].starts.tolist() == list(range(max(2, last - 4), last + 1))
        assert answer.at_seconds == pytest.approx(last / 10)
        assert int(answer.picture[0, 0, 0]) == last
        counts = np.bincount(answer.streams[0].starts % 4, minlength=4)
        assert answer.streams[0].probabilities == pytest.approx(counts / counts.sum(), abs=1e-3)


def test_answers_are_a_stride_apart(recognizer):
    feed = PictureFeed(small_pictures(40), [Geometry(96)], fps=10)
    scorers = [FakeScorer(1, 4), FakeScorer(2, 4)]
    answers = list(watch(feed, recognizer.with_sampling(views="centre").contract, scorers, window_seconds=2, stride_seconds=0.7))  # fmt: skip
    assert [a.frame_index for a in answers] == [1, 8, 15, 22, 29, 36]
    assert answers[-1].num_dropped == 0, "what is between them is not wanted"


def test_it_never_falls_behind(recognizer):
    """While a scorer is busy, twenty frames come: the next answer is about the last of them, the others are dropped."""
    frames: queue.SimpleQueue = queue.SimpleQueue()
    arrived = threading.Semaphore(0)

    def camera():
        while (frame := frames.get()) is not None:
            yield frame
            arrived.release()  # it was kept: the next one is asked for

    class SlowScorer(FakeScorer):
        def __call__(self, pictures, first):
            if not self.calls:
                for picture in small_pictures(20):
                    frames.put(picture)
                for _ in range(22):
                    arrived.acquire()
            return super().__call__(pictures, first)

    contract = recognizer.with_sampling(views="centre").contract
    scorers = [SlowScorer(1, 4), FakeScorer(2, 4)]
    answers = watch(PictureFeed(camera(), [Geometry(96)], fps=0), contract, scorers, window_seconds=2)
    for picture in small_pictures(2):
        frames.put(picture)
    first, second = next(answers), next(answers)
    assert (first.frame_index, second.frame_index) == (1, 21)
    assert second.num_dropped == 18, "20 came, and a clip of flow has the last two"
    assert second.latency_seconds >= 0 and time.time() - second.captured < 3600
    frames.put(None)
    assert list(answers) == []


def test_the_clock_in_a_picture_belongs_to_the_answer(recognizer, tmp_path):
    """The number that is burnt into each frame is the one that its answer names, also if the file is played at its speed."""
    pictures = np.stack([cv2.resize(frame, (128, 96)) for frame in toy.frames(2, "blue", "right")[:20]])
    for number, picture in enumerate(pictures):
        clock.burn(picture, number)
    toy.write_video(tmp_path / "clock.mkv", pictures, fps=30)
    for paced in (False, True):
        answers = list(recognizer.stream(tmp_path / "clock.mkv", paced=paced))
        assert [clock.read(a.picture) for a in answers] == [a.frame_index for a in answers]
        assert answers[-1].frame_index == answers[-1].num_frames - 1 == 19


@pytest.mark.parametrize("number", [0, 1, 2**32 - 1, 0xA5A5_1234])
def test_a_burnt_clock_survives_encoding_and_scaling(number, tmp_path):
    picture = toy.frames(1, "red", "left")[0].copy()
    clock.burn(picture, number)
    for side in (64, 96, 301):
        assert clock.read(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)) == number
    _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 50])
    assert clock.read(cv2.imdecode(jpeg, cv2.IMREAD_COLOR)) == number
    assert clock.age_seconds(picture, (number + 1500) / 1000) == 1.5


def test_streams_of_different_size_and_rate(tmp_path, clip):
    frames = {"short_side": 48, "fps": 5, "quality": 75}
    recognizer = recognizer_of_runs(
        [make_run(tmp_path, "rgb", **SMALL), make_run(tmp_path, "dis", seed=1, frames=frames, **SMALL)]
    )
    answer = list(recognizer.stream(clip, window_seconds=1e6))[-1]
    whole = recognizer.with_sampling(num_clips=0, clip_step=1).predict(clip)
    assert answer.frame_index == 17 and answer.picture.shape == (96, 96, 3)
    flow = answer.stream("dis")
    assert flow.starts[-1] == whole.stream("dis").starts[-1]
    np.testing.assert_allclose(flow.logits[-1], whole.stream("dis").logits[-1], atol=1e-4)


def test_frames_as_they_come(recognizer, runs, clip):
    pictures = toy.frames(1, "red", "left")[:18]
    from_file, from_memory = list(recognizer.stream(clip)), list(recognizer.stream(pictures, fps=FPS))
    assert len(from_file) == len(from_memory)
    np.testing.assert_allclose(from_file[-1].probabilities, from_memory[-1].probabilities, atol=1e-6)
    live = list(recognizer.stream(iter(pictures)))
    assert live[-1].frame_index == 17 and live[-1].num_dropped + len(live) >= 13 - 5


def test_pictures_are_repeated_and_left_out_as_their_rate_needs():
    def made(fps, wanted):
        feed = PictureFeed(small_pictures(6), [Geometry(0, wanted)], fps=fps)
        with feed.open() as ((part,), _):
            return [int(picture[0, 0, 0]) for _, picture in part]

    assert made(10, 5) == [0, 2, 4] and made(10, 20) == sorted(2 * list(range(6))) and made(10, 0) == list(range(6))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ([np.zeros((96, 96, 3), np.uint8)] * 3, "ended after 3 frames; expected 6 at least"),
        ([np.zeros((96, 96), np.uint8)], "expected uint8 \\(H, W, 3\\)"),
        (["a"], "frame 1 is str"),
        ("nothing.mp4", "expected one video file"),
        ("rtsp://camera", "--network"),
    ],
)
def test_what_cannot_be_watched_is_named(source, says, recognizer):
    with pytest.raises(BadInputError, match=says):
        list(recognizer.stream(source, fps=10))


def test_rates_that_are_needed_are_asked_for(recognizer, tmp_path):
    with pytest.raises(BadInputError, match="rate of these frames is unknown"):
        recognizer.stream(small_pictures(3))
    resampled = recognizer_of_runs(
        [make_run(tmp_path, "rgb", frames={"short_side": 96, "fps": 10, "quality": 90}, **SMALL)]
    )
    with pytest.raises(BadInputError, match="trained at 10 frames a second"):
        resampled.stream(iter(small_pictures(3)))


def test_the_end_of_the_time(recognizer, clip):
    answers = list(recognizer.stream(clip, max_seconds=0.5))
    assert answers[-1].at_seconds == pytest.approx(0.5, abs=1 / FPS)
    assert answers[-1].to_json(k=1).keys() >= {"frame", "captured", "latency_seconds", "num_dropped", "top", "streams"}


@pytest.mark.parametrize("is_recording", [True, False])
def test_a_time_too_short_for_a_clip_is_an_error(is_recording, recognizer):
    """The sixth frame completes the first clip: at ten frames a second after 0.5 s, or when the camera gives it."""
    source = small_pictures(12) if is_recording else slow_camera()
    answers = recognizer.stream(source, fps=10 if is_recording else 0, max_seconds=0.2)
    says = r"its first clip is complete after (\d[.\d]*) s, but the limit is 0.2 s; allow more by --seconds"
    with pytest.raises(BadInputError, match=says) as error:
        list(answers)
    seconds = float(re.search(says, str(error.value))[1])
    assert seconds == 0.5 if is_recording else seconds > 0.2
    assert list(recognizer.stream(small_pictures(12), fps=10, max_seconds=0.5))


def slow_camera():
    for picture in small_pictures(6):
        yield picture
        time.sleep(0.06)


def up_to(answers, frame_index):
    """The answers until one is about this frame or a later one."""
    for answer in answers:
        yield answer
        if answer.frame_index >= frame_index:
            answers.close()


def test_a_stream_over_tcp_and_its_clock(recognizer):
    """The benchmark's way of measuring, for a moment: ages are those of a clock, and a loss is survived."""
    with benchmark.served("--size=96x96", "--fps=30", "--lose_after=25") as address:
        found = benchmark.follow(up_to(recognizer.stream(address, network=True), 35))
    assert found.last.num_losses >= 1 and found.last.frame_index > found.first.frame_index
    assert all(0 <= age < 60 for age in found.latencies)
    assert "| x |" in benchmark.row("x", found)


@pytest.mark.slow
def test_memory_does_not_grow_and_nothing_falls_behind(recognizer):
    """Ten minutes; benchmarks/live.py --seconds=3600 is the hour."""
    with benchmark.served("--size=128x96", "--fps=30", "--lose_after=4500") as address:
        answers = recognizer.stream(address, network=True, max_seconds=660, stride_seconds=0.2)
        found = benchmark.follow(answers, warm_up=60)
    assert found.last.num_losses >= 3 and found.last.num_frames > 0.95 * 30 * 600
    assert found.slope() < 1, "MB an hour"
