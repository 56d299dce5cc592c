"""What the page shows of a video: its frames as networks see them, and the flow between them, as JPEG pictures.

A video is shown in chunks of about two seconds. The frames come from `Decoder`, so that every video that can be trained on
can be shown, whatever the browser plays.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice, repeat
from pathlib import Path

import cv2
import numpy as np

from twostream.clips.footage import Footage
from twostream.flow.coding import flow_colours
from twostream.flow.methods import FlowSettings
from twostream.frames.jpeg import encode_jpeg
from twostream.video.decoder import STAMP_SECONDS, Decoder, first_seconds, measure_seconds, probe
from twostream.video.ffmpeg import VideoError

SHORT_SIDE = 256
"""of the pictures, pixels"""
MAX_RATE = 30.0
"""frames per second; of faster videos, every second frame is shown, or every third ..."""
USUAL_RATE = 25.0
"""of a video that does not say it"""
CHUNK_SECONDS = 2.0
FLOW_RATE = 10.0
"""flow pictures per second at most; each takes a CPU 10 to 30 ms"""
MAX_STREAMS = 2
"""videos that are being decoded: the one that is watched, and the beginning of the next"""
MAX_CHUNKS = 4
"""whose frames are kept, 20 MB each, because their flow is asked for next"""


@dataclass(frozen=True)
class Facts:
    """How a video is shown."""

    seconds: float
    rate: float
    """frames per second that are shown"""
    chunk_len: int
    """frames of a chunk"""
    flow_step: int
    """frames from one flow picture to the next"""
    first_seconds: float = 0.0
    """time of the first frame, which is shown before it too"""


def read_facts(path: Path) -> Facts:
    """Raises VideoError if the file cannot be shown."""
    header = probe(path)
    rate = header.fps or USUAL_RATE
    rate /= math.ceil(rate / MAX_RATE)
    seconds = header.declared_seconds or measure_seconds(path)
    chunk_len = max(round(CHUNK_SECONDS * rate), 1)
    return Facts(seconds, rate, chunk_len, math.ceil(rate / FLOW_RATE), first_seconds(path))


class Pictures:
    """Pictures of videos. Threads may share it: one decodes at a time, and another computes flow."""

    def __init__(self, flow: FlowSettings):
        self.flow = flow
        self._decoding, self._computing = threading.Lock(), threading.Lock()
        self._is_open = True
        self._streams: OrderedDict[Path, _Stream] = OrderedDict()
        self._chunks: OrderedDict[tuple[Path, int], list[np.ndarray]] = OrderedDict()

    def close(self) -> None:
        """End the decoders, and wait for what is being computed: Python must not end while OpenCV works."""
        with self._decoding, self._computing:
            self._is_open = False
            while self._streams:
                self._streams.popitem()[1].close()

    def rgb(self, path: Path, facts: Facts, chunk: int) -> list[bytes]:
        """The frames of a chunk, none behind the end of the video. Raises VideoError if they cannot be decoded."""
        with self._while_open(self._decoding):
            return [_jpeg(frame) for frame in self._frames(path, facts, chunk)[: facts.chunk_len]]

    def flow_colours(self, path: Path, facts: Facts, chunk: int) -> list[bytes]:
        """The flow of every `flow_step`th frame of a chunk as colours. Raises VideoError as `rgb`, and if there is no flow."""
        with self._while_open(self._decoding):
            frames = self._frames(path, facts, chunk)
        indices = range(0, min(len(frames), facts.chunk_len), facts.flow_step)
        footage = Footage({"": (dict(enumerate(frames)), len(frames))}, flow=self.flow)
        with self._while_open(self._computing):
            footage.compute_flow([("", index) for index in indices])
            return [_jpeg(flow_colours(footage.flow_image("", index))) for index in indices]

    @contextmanager
    def _while_open(self, lock: threading.Lock) -> Iterator[None]:
        with lock:
            if not self._is_open:
                raise VideoError("twostream label has ended")
            yield

    def _frames(self, path: Path, facts: Facts, chunk: int) -> list[np.ndarray]:
        """The frames of a chunk, and the one behind them, if there is one."""
        key = path, chunk
        if key not in self._chunks:
            self._chunks[key] = self._decode(path, facts, chunk)
            while len(self._chunks) > MAX_CHUNKS:
                self._chunks.popitem(last=False)
        self._chunks.move_to_end(key)
        return self._chunks[key]

    def _decode(self, path: Path, facts: Facts, chunk: int) -> list[np.ndarray]:
        """The page asks for one chunk after the other, so one decoder serves them all."""
        stream = self._streams.pop(path, None)
        if stream is None or stream.next_chunk != chunk:
            if stream:
                stream.close()
            stream = _Stream(path, facts, chunk)
        self._streams[path] = stream
        while len(self._streams) > MAX_STREAMS:
            self._streams.popitem(last=False)[1].close()
        try:
            return stream.read_chunk()
        except BaseException:
            del self._streams[path]
            raise


class _Stream:
    """A video that is being decoded, from some chunk on."""

    def __init__(self, path: Path, facts: Facts, chunk: int):
        self.next_chunk = chunk
        self.chunk_len = facts.chunk_len
        start = chunk * facts.chunk_len / facts.rate
        decoder = Decoder(path, short_side=SHORT_SIDE, fps=facts.rate, start_seconds=start, as_played=True)
        num_before = math.floor((facts.first_seconds + STAMP_SECONDS - start) * facts.rate + 0.5)
        self._frames = _repeat_first(iter(decoder), num_before)
        self._held: list[np.ndarray] = []
        """the first frame of the next chunk"""

    def read_chunk(self) -> list[np.ndarray]:
        frames = self._held + list(islice(self._frames, self.chunk_len + 1 - len(self._held)))
        self._held = frames[self.chunk_len :]
        self.next_chunk += 1
        return frames

    def close(self) -> None:
        self._frames.close()


def _repeat_first(frames: Iterator[np.ndarray], times: int) -> Generator[np.ndarray, None, None]:
    """The frames, with the first one this many times more, if that is more than 0."""
    with closing(frames):  # type: ignore[type-var]  # a generator, which ends ffmpeg
        for first in frames:
            yield from repeat(first, max(times, 0) + 1)
            break
        yield from frames


def _jpeg(image: np.ndarray) -> bytes:
    return encode_jpeg(image, quality=80, chroma_subsampling=True)


def colour_wheel(side: int = 64) -> bytes:
    """The colours of flow by its direction and speed, as a JPEG picture with x to the right and y down."""
    axis = np.linspace(0, 255, side).round().astype(np.uint8)
    x, y = np.meshgrid(axis, axis)
    colours = flow_colours(np.stack([x, y, y], axis=-1))
    inside = np.zeros((side, side), np.uint8)
    cv2.circle(inside, (side // 2, side // 2), side // 2 - 1, 1, -1)
    return _jpeg(np.where(inside[..., None] > 0, colours, 255).astype(np.uint8))
