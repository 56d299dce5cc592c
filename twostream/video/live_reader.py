"""Sources that do not wait: a thread reads them into a short memory of the newest frames, and opens them again when they
are lost."""

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from twostream.video.ffmpeg import LONGEST_WAIT_SECONDS, TIME_LIMIT_SECONDS, Address, Ffmpeg, VideoError
from twostream.video.ffmpeg_log import Log, VideoHeader

SILENCE_SECONDS = 10.0
"""without a picture, after which a stream of the network or a camera is lost"""
FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 0.5, 30.0
"""before a lost source is opened again; doubled after each attempt that gave no picture"""
FAST_START = ("-analyzeduration", "1000000")
"""microseconds of a stream that ffmpeg studies before it decodes; the default is five seconds"""
AT_ONCE = ("-flush_packets", "1")
"""each picture is passed on when it is there"""
TOLERANCE_SECONDS = 1e-6
"""by which sums of fractions of a second may differ"""
LEAVE_SECONDS = 2.0
"""that leaving a source may take; frames of a caller's own iterator may never come"""
CHECK_EVERY = 100
"""pictures from one look at ffmpeg's log to the next"""

Parts = Sequence[Iterable[tuple[int, Any]]]
"""for each thread that reads a source: pictures, each with the number of its output; or something else that has a shape"""


Capacity = int | Callable[[float], int]
"""how many frames of an output are kept, perhaps decided by its rate, which is 0 if it is unknown"""


class Feed(Protocol):
    """A source as `LiveReader` reads it. Its outputs are the same pictures at different sizes and rates."""

    name: str
    """as messages name it"""
    waits: bool
    """it is recorded: no frame is lost, and time is counted in frames"""
    can_open_again: bool
    """after it was lost"""

    def open(self) -> AbstractContextManager[tuple[Parts, Callable[[], object]]]:
        """Open it: its pictures, and a function that ends them from another thread.

        They end when the source is over; VideoError means that it is lost.
        """

    def rate(self, output: int) -> float:
        """Frames per second of an output as the source declares them, known after its first picture; 0: unknown."""


class FfmpegFeed:
    """A file, or a stream that ffmpeg opens; see `Feed`."""

    copies: Sequence[Sequence[str]] = ()
    """options of outputs that are no pictures, after `outputs`"""

    def __init__(self, source: Path | Address, outputs: Sequence[Sequence[str]], *, fps: Sequence[float], paced: bool):
        """`outputs` are ffmpeg's options, see `picture_output`; `fps` are their rates, 0 for that of the source.

        With `paced`, it is played at its own speed.
        """
        self.source, self.outputs, self.fps, self.paced = source, outputs, fps, paced
        is_file = isinstance(source, Path)
        self.name = str(source) if isinstance(source, Path) else source.name
        self.can_open_again = isinstance(source, Address) and source.can_open_again
        self.waits = is_file and not paced
        self._declared_fps = 0.0

    @contextlib.contextmanager
    def open(self) -> Iterator[tuple[Parts, Callable[[], object]]]:
        """See `Feed`."""
        with Ffmpeg(
            self.source,
            input_options=[*(["-re"] if self.paced else []), *(FAST_START if isinstance(self.source, Address) else ())],
            output_options=[*self.outputs[0], *AT_ONCE, "pipe:1"],
            more_outputs=[[*output, *AT_ONCE] for output in (*self.outputs[1:], *self.copies)],
            time_limit_seconds=TIME_LIMIT_SECONDS,
            silence_seconds=SILENCE_SECONDS if self.can_open_again else LONGEST_WAIT_SECONDS,
        ) as ffmpeg:
            yield self.parts(ffmpeg), ffmpeg.process.kill

    def parts(self, ffmpeg: Ffmpeg) -> Parts:
        """What `open` gives, of a running ffmpeg."""
        first = ((0, picture) for picture in self._first_output(ffmpeg))
        return [first, *(self._other_output(ffmpeg, number) for number in range(1, len(self.outputs)))]

    def rate(self, output: int) -> float:
        """See `Feed`."""
        return self.fps[output] or self._declared_fps

    def _first_output(self, ffmpeg: Ffmpeg) -> Iterator[np.ndarray]:
        has_end, header = True, None
        number = 0
        for number, picture in enumerate(ffmpeg.pictures(), 1):
            if number == 1:
                header = self._read_header(ffmpeg)
                has_end = header is not None and header.declared_seconds is not None
            elif number % CHECK_EVERY == 0 and self.can_open_again:
                for change in Log(ffmpeg.log()).size_changes(header):
                    raise VideoError(change.partition(":")[0])  # opened again, its pictures have their own shape
                ffmpeg.shorten_log()
            yield picture
        exit_code = ffmpeg.wait()
        log = Log(ffmpeg.log())
        if not number:
            raise log.no_frames_error(f"no frame could be decoded (ffmpeg's exit code {exit_code})")
        if self.can_open_again and not has_end:
            raise VideoError(log.complaint() or "the stream ended")

    def _other_output(self, ffmpeg: Ffmpeg, output: int) -> Iterator[tuple[int, np.ndarray]]:
        for number, picture in enumerate(ffmpeg.pictures(output)):
            if number == 0:  # it may be there before the first picture of the first output
                self._read_header(ffmpeg)
            yield output, picture

    def _read_header(self, ffmpeg: Ffmpeg) -> VideoHeader | None:
        header = Log(ffmpeg.log()).read_header()
        self._declared_fps = header.fps if header else 0.0
        return header


class Frame(NamedTuple):
    """A frame of a live source."""

    number: int
    """counted from 0, over all that arrived"""
    picture: Any
    """uint8 (H, W, 3) RGB, or what else its output has"""
    seconds: float
    """since the first frame: by the clock or, of a source that waits, by its rate"""
    arrived: float
    """time of the clock"""


class _Output:
    """The newest frames of one output."""

    def __init__(self, capacity: Capacity):
        self._capacity = capacity
        self.capacity = 0
        """how many are kept; known when the first one comes"""
        self.frames: deque[Frame] = deque()
        self.num_arrived = 0
        self.is_fresh = False
        """there is a frame that was not there when frames were taken"""

    def begin(self, rate: float) -> None:
        """Before the first frame comes."""
        self.capacity = self._capacity(rate) if callable(self._capacity) else self._capacity
        self.frames = deque(maxlen=self.capacity)


class LiveReader:
    """The newest frames of a source, as a context manager; leaving it ends the source.

    A thread reads the source all the time and keeps as many frames of each output as `capacities` says, so what is taken
    ends with the newest frame. Frames that are due and never taken, because others came before there was time for them,
    are counted as dropped. The frames of an output are always neighbours: after a loss, or a change of size, they are
    collected again.
    """

    def __init__(
        self, feed: Feed, capacities: Sequence[Capacity], *, stride_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], object] | None = None,
        log: Callable[[str], object] = lambda line: None,
    ):  # fmt: skip
        """Frames are due `stride_seconds` after those that were taken, or immediately if there was no time for them then.

        `sleep` waits before a lost source is opened again; `log` is given a line when it was lost.
        """
        self.feed, self.stride_seconds, self.clock, self.log = feed, stride_seconds, clock, log
        self.num_dropped = self.num_losses = 0
        self.is_over = False
        self._outputs = [_Output(capacity) for capacity in capacities]
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._sleep = sleep or self._closing.wait
        self._stop: Callable[[], object] = lambda: None
        self._first_arrival: float | None = None
        self._due: float | None = None
        """seconds of the next frame that is wanted; the first one, if it is None"""
        self._num_due = 0
        """frames of the first output that arrived since frames were taken, and were due"""
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="live reader", daemon=True)

    @property
    def num_frames(self) -> int:
        """Frames of the first output that arrived."""
        return self._outputs[0].num_arrived

    @property
    def elapsed_seconds(self) -> float:
        """Since the first frame arrived, by the clock."""
        return 0.0 if self._first_arrival is None else self.clock() - self._first_arrival

    def __enter__(self) -> "LiveReader":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        self._stop()
        self._thread.join(LEAVE_SECONDS)

    def take(self, *, timeout: float | None = None) -> list[list[Frame]]:
        """The newest frames of each output, as soon as all are there, one was not taken before, and one is due.

        Empty if the source is over, or nothing came within `timeout` seconds. Raises what the source failed with.
        """
        end = math.inf if timeout is None else self.clock() + timeout
        with self._changed:
            while True:
                if any(output.is_fresh for output in self._outputs) and (taken := self._take()):
                    return taken
                if self.is_over and not any(output.is_fresh for output in self._outputs):
                    if self._error:
                        raise self._error
                    return []
                if self.clock() >= end:
                    return []
                if not self.is_over:
                    self._changed.wait(None if math.isinf(end) else max(end - self.clock(), 0))

    def _take(self) -> list[list[Frame]]:
        """The newest frames; [] if they are not due, or too few."""
        taken = [list(output.frames) for output in self._outputs]
        for output in self._outputs:
            output.is_fresh = False
        self._changed.notify_all()  # a source that waits goes on
        num_due, self._num_due = self._num_due, 0
        if any(len(output.frames) < max(output.capacity, 1) for output in self._outputs):
            return []
        now = max(frames[-1].seconds for frames in taken)
        if self._due is not None and now < self._due - TOLERANCE_SECONDS:
            return []
        self.num_dropped += max(num_due - len(taken[0]), 0)
        self._due = max((now if self._due is None else self._due) + self.stride_seconds, now)
        return taken

    # ------------------------------------------------------------------------------------------ in the reading thread

    def _run(self) -> None:
        failures = 0
        try:
            while not self._closing.is_set():
                num_before = self.num_frames
                try:
                    self._read_once()
                    return
                except VideoError as error:
                    if self._closing.is_set():
                        return
                    if not (self.feed.can_open_again and self.num_frames):
                        raise
                    failures = 0 if self.num_frames > num_before else failures + 1
                    delay = min(FIRST_DELAY_SECONDS * 2.0 ** min(failures, 10), LONGEST_DELAY_SECONDS)
                    self._forget()
                    self.log(f"{self.feed.name}: lost ({error}); opening it again in {delay:g} s")
                self._sleep(delay)
        except BaseException as error:  # raised again where frames are taken
            self._error = error
        finally:
            with self._changed:
                self.is_over = True
                self._changed.notify_all()

    def _forget(self) -> None:
        with self._changed:
            self.num_losses += 1
            for output in self._outputs:
                output.frames.clear()
                output.is_fresh = False

    def _read_once(self) -> None:
        """Read the source until it ends."""
        errors: list[BaseException] = []
        with self.feed.open() as (parts, stop):
            self._stop = stop
            if self._closing.is_set():
                return

            def read(part: Iterable[tuple[int, Any]]) -> None:
                try:
                    for output, picture in part:
                        if not self._put(output, picture):
                            return
                except BaseException as error:
                    errors.append(error)
                    stop()

            others = [threading.Thread(target=read, args=(part,), daemon=True) for part in parts[1:]]
            for thread in others:
                thread.start()
            read(parts[0])
            for thread in others:
                thread.join()
        if errors:
            raise errors[0]

    def _put(self, number: int, picture: Any) -> bool:
        """Keep a frame; returns whether more are wanted."""
        output = self._outputs[number]
        with self._changed:
            while self.feed.waits and output.is_fresh and not self._closing.is_set():
                self._changed.wait()
            now = self.clock()
            if self._first_arrival is None:
                self._first_arrival = now
            rate = self.feed.rate(number)
            if self.feed.waits and not rate:
                raise VideoError("its rate is unknown; add --pace, by which time is that of the clock")
            if not output.num_arrived:
                output.begin(rate)
            seconds = output.num_arrived / rate if self.feed.waits else now - self._first_arrival
            if output.frames and output.frames[-1].picture.shape != picture.shape:
                output.frames.clear()
            output.frames.append(Frame(output.num_arrived, picture, seconds, now))
            output.num_arrived += 1
            output.is_fresh = True
            self._num_due += number == 0 and seconds >= (self._due or 0.0) - TOLERANCE_SECONDS
            self._changed.notify_all()
        return not self._closing.is_set()
