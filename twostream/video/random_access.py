"""Frame k of a video file, decoded from the key frame before it: an index of the file, and a reader (PyAV).

The frames are those of `Decoder`, in the same order and with the same pixels: the same libraries decode, turn, scale and
convert them. A frame is known by its time stamp. A file whose frames have none, or not each its own, is decoded from its
start, and its frames are counted.
"""

import contextlib
import functools
import math
import struct
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from twostream.errors import EnvironmentFaultError
from twostream.video.decoder import (
    INDEXED_CONTAINERS,
    MISSING_FRACTION,
    MISSING_SECONDS,
    NEARLY_SQUARE,
    probe,
    scaling_filters,
)
from twostream.video.ffmpeg import CONTAINERS, MAX_FRAMES, MAX_PIXELS, VideoError, check_file

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.filter import Graph
    from av.filter.context import FilterContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

ONE_FRAME_PER_PACKET = frozenset("h264 hevc av1 vp9 mjpeg ffv1 png mpeg4".split())
"""codecs whose packets, in the containers of INDEXED_CONTAINERS, are one shown frame each"""

MAY_SKIP = frozenset(("h264", "hevc"))
"""codecs whose pictures that no other refers to need not be decoded on the way to a frame"""

MAX_GRAPHS = 16
"""chains of filters that a converter keeps, one for each kind of frame"""

KEPT_BYTES = 16 * 2**20
"""of pictures that a reader keeps: clips of a video may overlap"""


@functools.cache
def import_av() -> ModuleType:
    """PyAV; EnvironmentFaultError that says how to install it."""
    try:
        import av
    except ImportError as error:
        raise EnvironmentFaultError(
            f"single frames of video files, and motion vectors, need the package av ({error}): pip install 'twostream-video[videos]'"
        ) from None
    av.logging.set_level(None)  # damage is reported by the frames that it costs
    return av


@dataclass(frozen=True)
class VideoIndex:
    """Where the frames of a video file are."""

    num_frames: int
    fps: float
    """frames per second on average; 0 if unknown"""
    stream: int
    """position of the picture among the streams of the file"""
    stamps: tuple[int, ...]
    """time stamp of each frame, each another one, in units of the stream; empty if frames have to be counted"""
    key_frames: tuple[int, ...]
    """frames at which decoding may begin, ascending"""
    stored_size: tuple[int, int] = (0, 0)
    """width and height of the first frame as it is stored, before it is turned"""
    by_decoding: bool = False
    """the time stamps are those of decoding instead of showing, which AVI files do not have"""
    damage: str = ""
    """why the frames may not be the whole video; empty if nothing is known"""
    is_packet_a_frame: bool = False
    """each packet of the file is one frame, and has its time stamp"""
    opens_quickly: bool = False
    """the file can be opened without decoding its beginning, because its headers say all that the decoder needs"""


class _Packets(NamedTuple):
    stamps: list[int | None]
    """of what is shown, in the order of the file"""
    key_stamps: set[int | None]
    are_regular: bool
    """the file begins with a key frame, and no packet is marked as damaged"""


def index_video(path: Path) -> VideoIndex:
    """Index a video file. Raises VideoError if it is no video, or not a single frame can be decoded.

    The time stamps are those of the packets, which are read but not decoded, where each packet is one frame. In other
    files they are those of the decoded frames.
    """
    header = probe(path)
    by_decoding = header.container == "avi"
    with open_container(path) as container:
        stream = open_stream(container, header.stream_index)
        packets = _read_packets(container, stream, by_decoding)
        is_packet_a_frame = (
            header.container.startswith(INDEXED_CONTAINERS)
            and stream.codec_context.codec.canonical_name in ONE_FRAME_PER_PACKET
            and packets.are_regular
        )
        time_base = stream.time_base
    if is_packet_a_frame:
        found = sorted(packets.stamps, key=lambda stamp: stamp or 0)
    else:
        with open_container(path) as container:
            frames = _decode(container, open_stream(container, header.stream_index), by_decoding)
            found = [stamp for frame, stamp in frames if frame is not None]
    num_frames = len(found)
    if not 0 < num_frames <= MAX_FRAMES:
        raise VideoError(f"{num_frames} frames could be decoded, expected 1 to {MAX_FRAMES}")
    stamps = [stamp for stamp in found if stamp is not None]
    if len(set(stamps)) < num_frames:
        stamps = []
    seconds = float((max(stamps) - min(stamps)) * time_base) if stamps and time_base else 0.0
    declared = header.declared_seconds or 0.0
    is_short = stamps and declared - seconds > max(MISSING_SECONDS, MISSING_FRACTION * declared) + 1 / (header.fps or 1)
    index = VideoIndex(
        num_frames,
        round(header.fps or ((num_frames - 1) / seconds if seconds else 0.0), 3),  # from the first frame to the last
        header.stream_index,
        tuple(stamps),
        tuple(number for number, stamp in enumerate(stamps) if stamp in packets.key_stamps),
        by_decoding=by_decoding,
        is_packet_a_frame=is_packet_a_frame,
        opens_quickly=is_packet_a_frame
        and _stream_facts(path, header.stream_index, quickly=True)
        == _stream_facts(path, header.stream_index, quickly=False),
        damage=f"has frames for {seconds:.1f} s of the declared {declared:.1f} s" if is_short else "",
    )
    with VideoReader(path, index) as reader:
        for number in (0, num_frames // 2, num_frames - 1):
            if size := reader.stored_size(number):
                return replace(index, stored_size=size)
    raise VideoError("no frame of the video could be decoded")


def _read_packets(container: "InputContainer", stream: "VideoStream", by_decoding: bool) -> _Packets:
    stamps: list[int | None] = []
    key_stamps: set[int | None] = set()
    are_regular = True
    with contextlib.suppress(import_av().FFmpegError):  # the file ends here
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            stamp = packet.dts if by_decoding else packet.pts
            are_regular &= not packet.is_corrupt and (bool(key_stamps) or packet.is_keyframe)
            if packet.is_keyframe:
                key_stamps.add(stamp)
            if not packet.is_discard:
                stamps.append(stamp)
    # Pictures before the first key frame refer to frames that the file does not have.
    first = min((stamp for stamp in key_stamps if stamp is not None), default=None)
    are_regular &= first is not None and all(stamp is not None and stamp >= first for stamp in stamps)
    return _Packets(stamps, key_stamps - {None}, are_regular)


def open_container(path: Path, *, num_unread_streams: int = 0) -> "InputContainer":
    """The container; VideoError if it cannot be opened. Of the first `num_unread_streams` streams, nothing is decoded yet."""
    av = import_av()
    options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
    if num_unread_streams:
        options |= {"probesize": "32", "analyzeduration": "1"}  # the least that FFmpeg allows
    check_file(path)
    try:
        container: InputContainer = av.open(
            f"file:{path}",
            options=options,
            stream_options=[{"skip_frame": "all"}] * num_unread_streams or None,
            metadata_errors="replace",  # texts that nobody reads
        )
        return container
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"cannot be opened: {error.strerror or error}", "unreadable") from None


def open_stream(container: "InputContainer", number: int) -> "VideoStream":
    """The picture, prepared for decoding as `Decoder` does it."""
    stream = container.streams[number]
    if stream.type != "video":
        raise VideoError(f"stream {number} is not a video: the file has changed", "unreadable")
    if stream.codec_context is None:
        raise VideoError("FFmpeg has no decoder for its codec", "unreadable")
    stream.codec_context.thread_count = 1  # loader processes share the cores
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    return stream  # type: ignore[return-value]


def _stream_facts(path: Path, number: int, *, quickly: bool) -> tuple[object, ...]:
    """What a reader needs to know of a stream before its first frame; whether frames are reordered among it."""
    with open_container(path, num_unread_streams=(number + 1) * quickly) as container:
        stream = open_stream(container, number)
        decoder = stream.codec_context
        decoder.open()
        return (
            stream.time_base,
            stream.sample_aspect_ratio,
            decoder.name,
            decoder.width,
            decoder.height,
            decoder.has_b_frames,
        )


def _decode(
    container: "InputContainer",
    stream: "VideoStream",
    by_decoding: bool,
    is_needed: Callable[[int | None], bool] | None = None,
) -> Iterator[tuple["VideoFrame | None", int | None]]:
    """The frames from the present position on with their time stamps; None for a packet that is damaged.

    Frames whose stamp `is_needed` refuses are left out, unless others refer to them.
    """
    av = import_av()
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):
            return
        if packet.is_corrupt:
            yield None, packet.pts
        if by_decoding:
            packet.pts = packet.dts  # a frame has the stamp of its packet
        if is_needed:
            stream.codec_context.skip_frame = "DEFAULT" if is_needed(packet.pts) else "NONREF"
        try:
            for frame in packet.decode():
                yield frame, frame.pts
        except av.EOFError:
            return
        except av.FFmpegError:
            yield None, packet.pts


class VideoReader:
    """Reads frames of one open file, as uint8 (H, W, 3) RGB. Frames that ascend need no more seeks than key frames.

    Close it, or use it as a context manager. `converter`: readers of similar videos are faster if they share one.
    """

    def __init__(self, path: Path, index: VideoIndex, converter: "Converter | None" = None):
        self.path, self.index = path, index
        self._numbers: dict[int | None, int] = {stamp: number for number, stamp in enumerate(index.stamps)}
        self._wanted = 0
        """number of the frame that is being looked for"""
        self._open()
        self._may_skip = index.is_packet_a_frame and self._stream.codec_context.codec.canonical_name in MAY_SKIP
        self._target: str | None = None
        """the filter that scales pictures of other sizes"""
        self._converter = converter or Converter()
        self._aspect: Fraction = self._stream.sample_aspect_ratio or Fraction(0)
        self._frames = self._numbered(has_begun=True)
        self._next: float = 0
        """number of the frame that comes next, without a seek"""
        self._kept: deque[tuple[int, np.ndarray]] = deque()

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._frames = iter(())
        self._container.close()

    def read(self, number: int) -> np.ndarray:
        """Frame `number`, counted from 0. Raises VideoError if it cannot be decoded, or not without damage."""
        if not 0 <= number < self.index.num_frames:
            raise VideoError(f"no frame {number}: it has {self.index.num_frames}", "beyond the end")
        for kept, picture in self._kept:
            if kept == number:
                return picture
        found = self._find(number)
        if self._may_skip and (found is None or found[1]):
            self._may_skip = False  # perhaps something was needed that was skipped
            self._start()
            found = self._find(number)
        if found is None:
            raise VideoError(f"frame {number} cannot be decoded")
        frame, is_damaged = found
        if is_damaged:
            raise VideoError(f"frame {number} is damaged, or a frame that it needs")
        picture = self._convert(frame)
        picture.flags.writeable = False  # it is kept
        self._kept.append((number, picture))
        while len(self._kept) * picture.nbytes > KEPT_BYTES and len(self._kept) > 1:
            self._kept.popleft()
        return picture

    def stored_size(self, number: int) -> tuple[int, int] | None:
        """Width and height of a frame as it is stored; None if it is damaged."""
        found = self._find(number)
        return None if found is None or found[1] else (found[0].width, found[0].height)

    def _convert(self, frame: "VideoFrame") -> np.ndarray:
        """All pictures have the size of the first one, as ffmpeg's program does it where a video changes its size."""
        if (frame.width, frame.height) == self.index.stored_size:
            return self._converter(frame, self._aspect)
        if self._target is None:
            first = self._find(0)
            if first is None:
                raise VideoError("its size changes in mid-video, and its first frame cannot be decoded")
            height, width = self._converter(first[0], self._aspect).shape[:2]
            self._target = f"scale={width}:{height}:flags=bicubic"
        return self._converter(frame, self._aspect, self._target)

    def _find(self, number: int) -> tuple["VideoFrame", bool] | None:
        self._wanted = number
        keys = self.index.key_frames
        last_key = bisect_right(keys, number) - 1
        if self._next <= number and (last_key < 0 or self._next >= keys[last_key]):
            return self._advance(number)
        # Seeking may land behind the key frame, where time stamps of packets and of frames differ.
        for key in (last_key, last_key - 1, last_key - 4):
            if key > 0:
                self._seek(keys[key])
                if (found := self._advance(number)) is not None:
                    return found
        self._start()
        return self._advance(number)

    def _advance(self, number: int) -> tuple["VideoFrame", bool] | None:
        """The frame with this number, if it comes from the present position on; else None."""
        for found, frame, is_damaged in self._frames:
            self._next = found + 1
            if found == number:
                return frame, is_damaged
            if found > number:
                break
        self._frames, self._next = iter(()), math.inf
        return None

    def _seek(self, key_frame: int) -> None:
        with contextlib.suppress(import_av().FFmpegError):  # then nothing is found, or it is found from the start
            self._container.seek(self.index.stamps[key_frame], stream=self._stream)
        self._frames, self._next = self._numbered(has_begun=False), key_frame

    def _start(self) -> None:
        self._container.close()
        self._open()
        self._frames, self._next = self._numbered(has_begun=True), 0

    def _open(self) -> None:
        self._container = open_container(
            self.path, num_unread_streams=(self.index.stream + 1) * self.index.opens_quickly
        )
        self._stream = open_stream(self._container, self.index.stream)

    def _is_needed(self, stamp: int | None) -> bool:
        return self._numbers.get(stamp, self._wanted) >= self._wanted

    def _numbered(self, *, has_begun: bool) -> Iterator[tuple[int, "VideoFrame", bool]]:
        """Number, frame, and whether it is damaged, from the present position on.

        After a seek, what comes before the first key frame may refer to frames that were not decoded.
        """
        keys = frozenset(self.index.key_frames)
        damaged_from: float | None = None
        num_frames = 0
        is_needed = self._is_needed if self._may_skip else None
        for frame, stamp in _decode(self._container, self._stream, self.index.by_decoding, is_needed):
            if frame is None or frame.is_corrupt:
                damaged_from = -math.inf if stamp is None else stamp
            if frame is None:
                continue
            number = self._numbers.get(stamp) if self._numbers else num_frames
            num_frames += 1
            if number is None:
                continue
            if number in keys if keys else frame.key_frame:
                has_begun = True
                if damaged_from is not None and stamp is not None and stamp > damaged_from:
                    damaged_from = None  # the damage is before this key frame
            if has_begun:
                yield number, frame, damaged_from is not None


class Converter:
    """Frames as they were decoded -> upright pictures, uint8 (H, W, 3) RGB, by the filters of `Decoder`.

    `short_side` and `square_pixels`: as in `Decoder`.
    """

    def __init__(self, *, short_side: int = 0, square_pixels: bool = True):
        self._scaling = scaling_filters(short_side, square_pixels)
        self._graphs: OrderedDict[tuple[object, ...], tuple[Graph, FilterContext]] = OrderedDict()

    def __call__(self, frame: "VideoFrame", aspect: Fraction, *last: str) -> np.ndarray:
        """The picture of a frame whose pixels have this aspect, 0 if it is unknown; `last` are further filters."""
        kind = (
            *(frame.width, frame.height, frame.format.name, int(frame.colorspace), int(frame.color_range)),
            *(aspect.as_integer_ratio(), (*turning_filters(frame), *self._scaling, *last)),
        )
        if kind not in self._graphs:
            if len(self._graphs) == MAX_GRAPHS:
                self._graphs.popitem(last=False)
            self._graphs[kind] = self._build(*kind)
        graph, source = self._graphs[kind]
        frame.pts = None  # frames come in any order
        source.push(frame)
        return graph.vpull().to_ndarray()

    def _build(
        self,
        width: int,
        height: int,
        pixels: str,
        colours: int,
        colour_range: int,
        aspect: tuple[int, int],
        filters: tuple[str, ...],
    ) -> tuple["Graph", "FilterContext"]:
        graph: Graph = import_av().filter.Graph()
        graph.threads = 1
        source = graph.add(
            "buffer",
            f"video_size={width}x{height}:pix_fmt={pixels}:time_base=1/1000:pixel_aspect={aspect[0]}/{aspect[1]}:"
            f"colorspace={colours}:range={colour_range}",
        )
        last = source
        # ffmpeg's program scales by bicubic interpolation unless a filter says otherwise; so it converts colours, too.
        for text in (*filters, "format=rgb24", "buffersink"):
            name, _, arguments = text.partition("=")
            following = graph.add(name, arguments or ("flags=bicubic" if name == "scale" else None))
            last.link_to(following)
            last = following
        graph.configure()
        return graph, source


def turning_filters(frame: "VideoFrame") -> tuple[str, ...]:
    """The filters that turn a frame upright, as ffmpeg's program does, by the matrix of its display.

    QuickTime file format, track header: (x, y) is shown at (a x + c y, b x + d y), y down. VideoError if a picture is
    turned by something else than quarters.
    """
    matrix = side_data(frame, "DISPLAYMATRIX")
    if matrix is None:
        return ()
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)
    straight, across = abs(a) + abs(d), abs(b) + abs(c)
    if min(straight, across) > NEARLY_SQUARE * max(straight, across):
        raise VideoError(
            "its picture is turned, but not by a quarter or half: use its stored frames, which twostream extract makes"
        )
    if straight < across:
        names = {
            (True, True): "cclock_flip",
            (True, False): "clock",
            (False, True): "cclock",
            (False, False): "clock_flip",
        }
        return (f"transpose={names[b > 0, c > 0]}",)
    return (*(["hflip"] if a < 0 else []), *(["vflip"] if d < 0 else []))


def side_data(frame: "VideoFrame", name: str) -> bytes | None:
    """What comes with a frame under this name; None if there is nothing. VideoError if PyAV cannot read it."""
    try:
        found = frame.side_data
    except ValueError as error:  # of a kind that FFmpeg knows and this version of PyAV does not
        raise VideoError(
            f"PyAV cannot read what comes with its frames ({error}); try: pip install --upgrade av"
        ) from None
    data = found.get(name) if len(found) else None
    # A copy, because the frame's memory is used again.
    return None if data is None else bytes(cast("bytes", data))
