"""Sources that do not wait: what is taken is always the newest, losses and changes of size are survived."""

import contextlib
import itertools
import math
import queue
import socket
import threading

import numpy as np
import pytest

from tests import toy
from twostream.video import live_reader
from twostream.video.addresses import network_address
from twostream.video.decoder import Decoder, picture_output
from twostream.video.ffmpeg import VideoError
from twostream.video.live_reader import FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS, FfmpegFeed, LiveReader

TIMEOUT = 60


class ScriptedFeed:
    """A source that gives what the test puts into a queue: a picture; an exception, which it raises; None, its end."""

    name, can_open_again = "camera", True

    def __init__(self, *, waits=False, fps=10.0):
        self.waits, self.fps = waits, fps
        self.script = queue.SimpleQueue()

    def put(self, *items):
        for item in items:
            self.script.put(item)

    @contextlib.contextmanager
    def open(self):
        yield [self.pictures()], self.stop

    def stop(self):
        if self.is_running:
            self.script.put(None)

    def pictures(self):
        self.is_running = True
        while (item := self.script.get()) is not None:
            if isinstance(item, Exception):
                self.is_running = False
                raise item
            yield 0, item
        self.is_running = False

    def rate(self, output):
        return self.fps


def picture(value, shape=(2, 4)):
    return np.full((*shape, 3), value, np.uint8)


def wait_until(condition):
    """For what another thread is about to do."""
    event = threading.Event()
    for _ in range(100 * TIMEOUT):
        if condition():
            return
        event.wait(0.01)
    raise AssertionError("did not happen")


def numbers(frames):
    return [frame.number for frame in frames]


def test_what_is_taken_is_the_newest_and_the_rest_is_counted():
    feed = ScriptedFeed()
    with LiveReader(feed, [2]) as reader:
        feed.put(*map(picture, range(5)))
        wait_until(lambda: reader.num_frames == 5)
        (frames,) = reader.take()
        assert numbers(frames) == [3, 4] and [f.picture[0, 0, 0] for f in frames] == [3, 4]
        assert reader.num_dropped == 3, "0, 1 and 2"
        feed.put(picture(5))
        wait_until(lambda: reader.num_frames == 6)
        assert numbers(reader.take()[0]) == [4, 5] and reader.num_dropped == 3
        feed.put(*map(picture, range(6, 10)))
        wait_until(lambda: reader.num_frames == 10)
        assert numbers(reader.take()[0]) == [8, 9] and reader.num_dropped == 5
        assert reader.take(timeout=0) == [] and not reader.is_over, "nothing new"
        feed.put(None)
        assert reader.take() == [] and reader.is_over


def test_frames_between_two_that_are_due_are_not_dropped():
    """Ten frames a second, wanted every half second; the machine is too slow once."""
    feed, ticks = ScriptedFeed(), itertools.count()
    time = {"now": 0.0}
    with LiveReader(feed, [1], stride_seconds=0.5, clock=lambda: time["now"]) as reader:
        taken = []
        for number in range(21):
            time["now"] = number / 10
            feed.put(picture(next(ticks)))
            wait_until(lambda number=number: reader.num_frames == number + 1)
            if number not in (10, 11, 12):
                taken += [numbers(frames)[0] for frames in reader.take(timeout=0)]
        assert taken == [0, 5, 13, 15, 20]
        assert reader.num_dropped == 3, "10, 11 and 12 were due, and 13 was taken instead"
        feed.put(None)


def test_a_recording_waits_and_counts_time_in_frames():
    feed = ScriptedFeed(waits=True, fps=5)
    feed.put(*map(picture, range(7)), None)
    with LiveReader(feed, [3]) as reader:
        taken = []
        while frames := reader.take():
            taken.append(frames[0])
    assert list(map(numbers, taken)) == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 6]]
    assert taken[-1][-1].seconds == pytest.approx(6 / 5) and reader.num_dropped == 0


def test_fifty_losses():
    """Each time it is opened again, later and later where it stays away; frames before and after are never mixed."""
    feed, delays, lines = ScriptedFeed(), [], []
    threads = threading.active_count()
    with LiveReader(feed, [2], sleep=delays.append, log=lines.append) as reader:
        for loss in range(50):
            # Every fifth time it comes back only at the sixth attempt.
            feed.put(*([VideoError("away")] * (5 if loss % 5 == 0 and loss else 0)), picture(loss))
            feed.put(picture(loss))
            wait_until(lambda loss=loss: reader.num_frames == 2 * loss + 2)
            (frames,) = reader.take()
            assert [f.picture[0, 0, 0] for f in frames] == [loss, loss] and numbers(frames) == [2 * loss, 2 * loss + 1]
            feed.put(VideoError(f"cut {loss}"))
        feed.put(picture(99), picture(99))
        (frames,) = reader.take()
        assert frames[0].picture[0, 0, 0] == 99
        assert reader.num_losses == len(delays) == len(lines) == 50 + 9 * 5
        assert set(delays) == {FIRST_DELAY_SECONDS * 2**k for k in range(6)}
        assert lines[0] == f"camera: lost (cut 0); opening it again in {FIRST_DELAY_SECONDS:g} s"
    assert threading.active_count() == threads


def test_a_source_that_stays_away_is_asked_less_and_less_often():
    feed, delays = ScriptedFeed(), []
    with LiveReader(feed, [1], sleep=delays.append) as reader:
        feed.put(picture(0), *[VideoError("away")] * 20, picture(1))
        wait_until(lambda: reader.num_frames == 2)
        assert delays == sorted(delays) and delays[-1] == LONGEST_DELAY_SECONDS and sum(delays) < 20 * 31


@pytest.mark.parametrize("error", [VideoError("no such camera"), ZeroDivisionError("a mistake")])
def test_a_source_that_never_gave_a_frame_is_an_error(error):
    feed = ScriptedFeed()
    feed.put(error)
    with LiveReader(feed, [1]) as reader, pytest.raises(type(error), match=str(error)):
        reader.take()


def test_a_mistake_is_no_loss():
    feed = ScriptedFeed()
    feed.put(picture(0), ZeroDivisionError("a mistake"))
    with LiveReader(feed, [1]) as reader:
        wait_until(lambda: reader.is_over)
        reader.take()
        with pytest.raises(ZeroDivisionError):
            reader.take()
    assert reader.num_losses == 0


def test_a_change_of_size_begins_again():
    feed = ScriptedFeed(waits=True)
    feed.put(picture(0), picture(1), picture(2, (4, 2)), picture(3, (4, 2)), None)
    with LiveReader(feed, [2]) as reader:
        assert [numbers(reader.take()[0]) for _ in range(2)] == [[0, 1], [2, 3]]


@pytest.mark.parametrize("waits", [False, True])
def test_it_can_be_left_at_any_time(waits):
    threads = threading.active_count()
    feed = ScriptedFeed(waits=waits)
    feed.put(*map(picture, range(9)))
    with LiveReader(feed, [1]) as reader:
        reader.take()
    assert threading.active_count() == threads


# ------------------------------------------------------------------------------------------------------ with ffmpeg


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mkv"
    toy.write_video(path, toy.frames(3, "red", "left")[:12])
    return path


OUTPUTS = [dict(fps=0, short_side=0, square_pixels=True), dict(fps=5, short_side=48, square_pixels=True)]


def test_a_file_at_two_sizes_and_rates_from_one_decode(clip):
    outputs = [picture_output(**output, is_live=True) for output in OUTPUTS]
    feed = FfmpegFeed(clip, outputs, fps=[output["fps"] for output in OUTPUTS], paced=False)
    seen: list[dict] = [{}, {}]
    with LiveReader(feed, [1, 1]) as reader:
        while taken := reader.take():
            for found, (frame,) in zip(seen, taken, strict=True):
                found[frame.number] = frame
    for found, output in zip(seen, OUTPUTS, strict=True):
        expected = list(Decoder(clip, **output))
        # It begins when both outputs have a frame.
        assert len(found) and list(found) == list(range(min(found), len(expected)))
        np.testing.assert_array_equal([frame.picture for frame in found.values()], expected[min(found) :])
        assert found[len(expected) - 1].seconds == pytest.approx((len(expected) - 1) / (output["fps"] or 15))


@contextlib.contextmanager
def served(*contents):
    """An address that gives each client the next of these contents."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with contextlib.suppress(OSError):  # closed
                for content in contents:
                    connection, _ = server.accept()
                    with connection:
                        connection.sendall(content)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_stream_that_is_cut_changes_size_and_comes_back(tmp_path, monkeypatch):
    """Real connections over TCP: two ends, a stream whose frames change size in between, and one of another rate."""
    monkeypatch.setattr(live_reader, "CHECK_EVERY", 5)
    contents = []
    for name, side, fps in (("a", 96, 15), ("b", 64, 30)):
        pictures = np.stack([frame[:side] for frame in toy.frames(1, "blue", "right")])
        toy.write_video(tmp_path / f"{name}.ts", pictures, fps=fps, codec=("mpeg2video", "-bf", "0", "-q:v", "2"))
        contents.append((tmp_path / f"{name}.ts").read_bytes())
    a, b = contents
    lines, shapes = [], []
    with served(a, a + b, b, a) as address:
        feed = FfmpegFeed(
            network_address(address), [picture_output(fps=0, short_side=0, square_pixels=True, is_live=True)], fps=[0],
            paced=False,
        )  # fmt: skip
        with LiveReader(feed, [2], sleep=lambda seconds: None, log=lines.append) as reader:
            wait_until(lambda: reader.num_losses >= 4)
            while not shapes:
                shapes += [frames[-1].picture.shape for frames in reader.take(timeout=0)] or [(96, 96, 3)]
    reasons = [line.partition("(")[2] for line in lines[:4]]
    assert reasons[0].startswith("the stream ended") and "frame size changes in mid-video" in reasons[1], lines
    assert reader.num_frames >= 2 * toy.NUM_FRAMES and not math.isnan(reader.num_dropped)


def test_what_cannot_be_opened_is_an_error_in_words():
    with served() as address:
        pass  # nobody listens there any more
    outputs = [picture_output(fps=0, short_side=0, square_pixels=True, is_live=True)]
    feed = FfmpegFeed(network_address(address), outputs, fps=[0], paced=False)
    with LiveReader(feed, [1]) as reader, pytest.raises(VideoError, match="refused"):
        reader.take()
