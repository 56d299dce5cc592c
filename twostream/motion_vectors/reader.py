"""An encoded video file -> how each of its frames moved since the one before, by the motion vectors in the file (PyAV).

FFmpeg's decoders hand out the vectors of H.264, MPEG-1, -2 and -4 (Xvid, DivX) and H.263. They do not for HEVC, VP9 and AV1.

A vector comes with its direction in time, but not with the number of the frame that it refers to. Here, one into the past
refers to the nearest frame shown before that others may refer to and that was decoded already, and one into the future to
the nearest such frame shown after. That is exact for MPEG, which has no others. In H.264, blocks may refer to frames further
away; few do.

For B-frames of MPEG-4, FFmpeg hands out zeros. They get the field of the next frame that is no B-frame, whose vectors span
them; what moves is then given a little further on than it is. Moving it back changes little (cosine to Farneback's flow
.566 instead of .563 on UT-Interaction), and costs a new image for each frame.
"""

import contextlib
import math
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import count, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from twostream.counts import counted
from twostream.motion_vectors.fields import VECTOR, paint
from twostream.video.decoder import INDEXED_CONTAINERS, probe
from twostream.video.ffmpeg import VideoError
from twostream.video.random_access import import_av, open_container, open_stream, side_data, turning_filters

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

B_FRAME = 3
"""FFmpeg's number for frames that may refer to the future too"""
I_FRAME = 1
"""FFmpeg's number for frames that refer to no other"""

MAX_REORDERED = 32
"""frames that are decoded ahead in search of one that is referred to; H.264 allows 16"""

MAX_FRAMES_WITHOUT = 10
"""frames that refer to others but have no vectors, after which a video is known to have none"""

BATCH = 32
"""frames that are decoded at a time where all of them are needed: what follows finds its code and data in the caches"""

MAX_FIRST_FRAMES = 25
"""frames without vectors at the beginning of a source that goes on, after which it is known to have none"""

COPY_FORMAT = "nut"
"""a container for all codecs that is read while it is written"""

FAST_START = {"analyzeduration": "1000000"}
"""microseconds of packets that are studied before they are decoded"""

NO_VECTORS = "no vectors"
"""kind of the VideoError of a video without motion vectors"""

SLICES = frozenset((1, 2, 5))
"""H.264's kinds of units that begin a picture"""

WITH_VECTORS = {"flags2": "+export_mvs"}
"""option of the decoder"""

OPTIONS = WITH_VECTORS | {"skip_loop_filter": "all", "skip_idct": "all"}
"""vectors, and less work on pixels, which nobody sees"""


@dataclass(frozen=True)
class Step:
    """A frame, and how it moved since the frame shown before it."""

    seconds: Fraction
    """when it is shown, from the start of the file"""
    stored_size: tuple[int, int]
    """width and height as it is stored"""
    turns: tuple[str, ...]
    """ffmpeg's filters that turn it upright"""
    stamp: int | None
    """its time stamp in the file"""
    motion: np.ndarray | None
    """a field, see fields.py; None where no block of the frame refers to another frame"""


@dataclass
class _Frame:
    """What is kept of a decoded frame."""

    number: int
    """in the order of showing"""
    order: int
    """of decoding, where it is known; else 1 for B-frames and 0 for what they refer to"""
    is_reference: bool
    """may others refer to it?"""
    kind: int
    seconds: Fraction
    stamp: int | None
    stored_size: tuple[int, int]
    turns: tuple[str, ...]
    vectors: np.ndarray | None
    picture: "VideoFrame | None"
    field: np.ndarray | None = None
    """of its vectors, once painted"""


def read_steps(
    path: Path, *, from_seconds: float = 0.0, from_stamp: int | None = None, by_decoding: bool = False, batch: int = 1
) -> Iterator[Step]:
    """The steps of a video, in the order of showing, as `Decoder` decodes its frames.

    May begin later than at the start of the file, but with a key frame shown at `from_seconds`, or with this time stamp, or
    before. `by_decoding`: time stamps are those of decoding, see `VideoIndex`. As many frames as `batch` are decoded at a
    time. Raises VideoError of the kind NO_VECTORS before the first step if the video has none, and other kinds as `Decoder`
    does.
    """
    with _open(path) as (container, stream):
        if from_seconds and container.format.name.startswith(INDEXED_CONTAINERS):
            container.seek(int(from_seconds * 1e6) + (container.start_time or 0))
        if from_stamp is not None:
            container.seek(from_stamp, stream=stream)
        for step, _ in _steps(container, stream, batch=batch, by_decoding=by_decoding):
            yield step


def read_steps_of_packets(file: IO[bytes]) -> Iterator[Step]:
    """The steps of a video that is going on, as ffmpeg copies its packets into a pipe, in the container COPY_FORMAT.

    Raises VideoError as `read_steps`.
    """
    av = import_av()
    try:
        container = av.open(file, format=COPY_FORMAT, options=FAST_START)
    except av.FFmpegError:  # it ended before it began
        return
    with container:
        stream = open_stream(container, container.streams.video[0].index)
        stream.codec_context.options |= OPTIONS
        for step, _ in _steps(container, stream, max_first=MAX_FIRST_FRAMES):
            yield step


def read_steps_with_pictures(
    container: "InputContainer", stream: "VideoStream", *, batch: int
) -> Iterator[tuple[Step, "VideoFrame"]]:
    """The steps of a video that is as it should be, each with its frame.

    Raises VideoError as `read_steps`, and where something is damaged or missing.
    """
    stream.codec_context.options |= WITH_VECTORS
    for step, picture in _steps(container, stream, batch=batch, max_first=MAX_FIRST_FRAMES, with_pictures=True):
        assert picture
        yield step, picture


def _steps(
    container: "InputContainer", stream: "VideoStream", *, batch: int = 1, by_decoding: bool = False,
    max_first: float = math.inf, with_pictures: bool = False,
) -> Iterator[tuple[Step, "VideoFrame | None"]]:  # fmt: skip
    codec = stream.codec_context.codec.canonical_name
    frames = _read_frames(container, stream, by_decoding=by_decoding, with_pictures=with_pictures)
    first: list[_Frame] = []
    num_without = 0
    for frame in frames:
        first.append(frame)
        num_without += frame.kind != I_FRAME
        if frame.vectors is not None or num_without > MAX_FRAMES_WITHOUT or len(first) >= max_first:
            break
    if not first:
        raise VideoError("no frame of the video could be decoded")
    if first[-1].vectors is None and len(first) > 1:
        reason = "" if num_without else ", and each frame is a picture of its own"
        raise VideoError(f"no motion vectors: codec {codec}{reason}", NO_VECTORS)
    yield from _Steps(first, frames, batch=batch, zeros_in_b_frames=codec == "mpeg4")


class _Steps:
    """Frames in the order of showing -> their steps. Some frames are decoded ahead of the one that is given."""

    def __init__(self, first: list[_Frame], frames: Iterator[_Frame], *, batch: int, zeros_in_b_frames: bool):
        self._ahead = deque(first)
        self._frames, self._batch = frames, batch
        self._references: deque[_Frame] = deque(maxlen=MAX_REORDERED)
        """frames that were given and that others may refer to"""
        self._zeros_in_b_frames = zeros_in_b_frames

    def __iter__(self) -> Iterator[tuple[Step, "VideoFrame | None"]]:
        while frame := next(self._look_ahead(), None):
            self._ahead.popleft()
            step = Step(frame.seconds, frame.stored_size, frame.turns, frame.stamp, self._field(frame))
            yield step, frame.picture
            frame.vectors = frame.field = frame.picture = None
            if frame.is_reference:
                self._references.append(frame)

    def _look_ahead(self) -> Iterator[_Frame]:
        for position in range(MAX_REORDERED):
            if position == len(self._ahead):
                self._ahead.extend(islice(self._frames, self._batch))
            if position == len(self._ahead):
                return
            yield self._ahead[position]

    def _field(self, frame: _Frame) -> np.ndarray | None:
        if frame.vectors is None or frame.field is not None:
            return frame.field
        if self._zeros_in_b_frames and frame.kind == B_FRAME:
            after = self._reference_after(frame)
            frame.field = self._field(after) if after else None
            return frame.field
        past = next((frame.number - r.number for r in reversed(self._references) if r.order <= frame.order), 1)
        after = self._reference_after(frame) if (frame.vectors["source"] > 0).any() else None
        future = after.number - frame.number if after else 1
        frame.field = paint(frame.vectors, *frame.stored_size, past=past, future=future)
        return frame.field

    def _reference_after(self, frame: _Frame) -> _Frame | None:
        later = (other for other in self._look_ahead() if other.number > frame.number)
        return next((other for other in later if other.is_reference and other.order <= frame.order), None)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[tuple["InputContainer", "VideoStream"]]:
    with open_container(path) as container:
        covers = import_av().stream.Disposition.attached_pic
        pictures = [stream.index for stream in container.streams.video if not stream.disposition & covers]
        # ffmpeg's choice among several is known from its program.
        number = pictures[0] if len(pictures) == 1 else probe(path).stream_index
        stream = open_stream(container, number)
        stream.codec_context.options |= OPTIONS
        yield container, stream


def _read_frames(
    container: "InputContainer", stream: "VideoStream", *, by_decoding: bool, with_pictures: bool
) -> Iterator[_Frame]:
    codec = stream.codec_context
    is_h264 = codec.codec.canonical_name == "h264"
    header = codec.extradata or b""
    length_bytes = (header[4] & 3) + 1 if is_h264 and len(header) > 4 and header[0] == 1 else 0
    orders: dict[int | None, tuple[int, bool]] = {}
    """time stamp of a packet -> its place in the order of decoding, and whether others may refer to its frame"""
    places = count()

    def prepare(packet: "Packet") -> None:
        if by_decoding:
            packet.pts = packet.dts  # a frame has the stamp of its packet
        if is_h264 and packet.size and packet.pts is not None:
            orders[packet.pts] = next(places), _may_be_referred_to(packet, length_bytes)

    start, time_base = Fraction(container.start_time or 0, 10**6), stream.time_base
    interval = 1 / Fraction(stream.average_rate or stream.guessed_rate or 25)
    seconds = -interval
    has_times_of_showing = container.format.name != "avi"  # those that are made up for AVI may go back
    on_damage = _refuse if with_pictures else _ignore
    for number, frame in enumerate(_decode(container, stream, prepare, on_damage)):
        kind = int(frame.pict_type)
        order, is_reference = orders.pop(frame.pts, (int(kind == B_FRAME), kind != B_FRAME))
        own_stamp = frame.dts if frame.pts is None else frame.pts
        stamp = own_stamp if has_times_of_showing else frame.dts
        if stamp is None or time_base is None:
            seconds += interval
        else:
            seconds = stamp * time_base - start
        yield _Frame(
            number, order, is_reference, kind, seconds, own_stamp,
            (frame.width, frame.height), turning_filters(frame), _vectors(frame), frame if with_pictures else None,
        )  # fmt: skip


def _decode(
    container: "InputContainer",
    stream: "VideoStream",
    prepare: Callable[["Packet"], None],
    on_damage: Callable[[str], None],
) -> Iterator["VideoFrame"]:
    """`prepare` gets each packet before it is decoded, and `on_damage` what is found of each damage."""
    av = import_av()
    packets = container.demux(stream)
    num_packets = num_frames = 0
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except av.FFmpegError as error:  # the file ends here
            on_damage(f"cannot be read to its end: {error}")
            return
        prepare(packet)
        num_packets += packet.size > 1 and not packet.is_discard  # Xvid writes a byte where there is no frame
        try:
            frames = packet.decode()
        except av.EOFError:
            break
        except av.FFmpegError as error:
            on_damage(f"a packet cannot be decoded: {error}")
            continue
        if packet.is_corrupt or any(frame.is_corrupt for frame in frames):
            on_damage("a frame is damaged")
        num_frames += len(frames)
        yield from frames
    if num_frames != num_packets:
        on_damage(f"{counted(num_frames, 'frame')} of {counted(num_packets, 'packet')}")


def _ignore(reason: str) -> None:
    """Damage, which `Decoder` reports."""


def _refuse(reason: str) -> None:
    raise VideoError(reason)


def _vectors(frame: "VideoFrame") -> np.ndarray | None:
    """The vectors of a frame, an array of VECTOR; None if it has none."""
    vectors = side_data(frame, "MOTION_VECTORS")  # whose bytes are copied ten times as fast as PyAV's own array
    return np.frombuffer(vectors, VECTOR) if vectors else None


def _may_be_referred_to(packet: "Packet", length_bytes: int) -> bool:
    """By nal_ref_idc in the header of the first slice (H.264, 7.4.1)."""
    headers = _unit_headers(bytes(packet), length_bytes)
    return next(((header >> 5 & 3) > 0 for header in headers if header & 31 in SLICES), True)


def _unit_headers(data: bytes, length_bytes: int) -> Iterator[int]:
    """The first byte of each unit of a packet of H.264.

    `length_bytes`: of the length before each unit, as in MP4 files (ISO/IEC 14496-15); 0: start codes (H.264, annex B).
    """
    if length_bytes == 0:
        yield from (found[1][0] for found in re.finditer(rb"\x00\x00\x01(.)", data, re.DOTALL))
        return
    place = 0
    while place + length_bytes < len(data):
        begin = place + length_bytes
        yield data[begin]
        place = begin + int.from_bytes(data[place:begin], "big")
