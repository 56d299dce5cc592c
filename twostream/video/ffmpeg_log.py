"""What ffmpeg prints about a file: its header, its complaints, and how much it has read and written.

A log has three parts. While ffmpeg opens the file, every stream may complain, also those that nobody reads. Then it
prints the header, with texts from the file. Then it decodes one video stream, and what it complains of is that stream.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from twostream.video.ffmpeg import MAX_MEMORY_BYTES, MAX_PIXELS, VideoError

COUNTS_FROM_ZERO = ("matroska", "asf", "flv")
"""containers whose duration is the time of their end, also if they start later than 0"""

NTSC_RATES = {round(n / 1.001, 2): n / 1.001 for n in (12, 15, 24, 30, 48, 60, 90, 120, 240)}
"""rates of television as ffmpeg prints them, with two decimals -> what they are; 23.98 would be 0.6 s off after an hour"""

OWN_OUTPUT = ("[vost#", "[out#", "[image2pipe", "[null @")  # complaints about our output
_COMPLAINT = re.compile(r"^((?:\[[^]]* @ \w+\] )*)\[(error|fatal|panic|warning|info)\] (.*)", re.MULTILINE)
_COMPONENT_OF_A_STREAM = re.compile(r"\[[avsd]ist#0:(\d+)")
_OF_A_STREAM = re.compile(r"\b(?:st|stream)(?: #?|: ?| ?= ?| #?0:)(\d+)\b", re.IGNORECASE)


@dataclass(frozen=True)
class VideoHeader:
    """What a video's header says of its picture: the stream that ffmpeg takes, by default the largest."""

    declared_seconds: float | None
    """duration; None if the header does not say"""
    fps: float
    """frames per second on average; 0 if the header does not say"""
    width: int
    """pixels, of the upright picture"""
    height: int
    container: str
    """ffmpeg's names for it, e.g. "mov,mp4,m4a,3gp,3g2,mj2" """
    is_own_duration: bool = False
    """the duration is that of the picture, not of the whole file, in which sound may go on longer"""
    pixel_aspect: float = 1.0
    """width / height of a pixel of the picture as it is stored"""
    num_streams: int = 1
    """video streams, without cover art"""
    stream_index: int = 0
    """position of the picture among the streams of the file"""
    stamps_per_second: float = 0.0
    """rate on whose grid the first time stamps lie; 0 if the header does not say"""


class Log:
    """A log of ffmpeg with -loglevel level+verbose, in which "file" stands for the name of the file."""

    def __init__(self, text: str):
        self.text = text
        opening, is_open, rest = text.partition("[info] Input #0, ")
        # Tags are printed in the header only, so what stands in them cannot pass for a later line.
        header, is_mapped, decoding = rest.rpartition("\n[info] Stream mapping:\n")
        self.opening = opening
        self.header = header if is_mapped else rest
        self.decoding = decoding if is_mapped else ""
        self.is_open = bool(is_open)
        mapped = re.match(r"\[info\]   Stream #0:(\d+) -> ", self.decoding)
        self.stream_index = int(mapped[1]) if mapped else None

    # ---------------------------------------------------------------------------------------------- complaints

    def complaint(self) -> str:
        """The first line in which ffmpeg reports damage of the picture; "" if there is none.

        The exit code alone is not enough: for most damaged files it is 0.
        """
        return next((text for _, text in self._complaints(self.decoding)), "")

    def complaint_of_the_file(self) -> str:
        """The first complaint about the file, made while it was opened; it may concern the picture or not.

        Complaints of decoders are left out: what is wrong with the picture is reported again when it is decoded.
        """
        container = re.match(r"[\w,]+", self.header)
        names = container[0].split(",") if container else []
        for context, text in self._complaints(self.opening):
            decoder = re.match(r"\[(\w+) @ ", context)
            if not self.is_open or not decoder or decoder[1] in names:
                return text
        return ""

    def _complaints(self, part: str) -> list[tuple[str, str]]:
        """(component, text) of each complaint that does not name another stream."""
        found = []
        for context, level, text in _COMPLAINT.findall(part):
            is_damage = level in ("error", "fatal", "panic") or (level == "warning" and "corrupt" in text)
            is_damage |= level == "info" and "freeing incomplete packet" in text  # a hole in a WMV file
            stream = _COMPONENT_OF_A_STREAM.match(context) or _OF_A_STREAM.search(text)
            is_of_another = stream and self.stream_index is not None and int(stream[1]) != self.stream_index
            if is_damage and not is_of_another and not context.startswith(OWN_OUTPUT):
                found.append((context, text.strip()))
        return found

    # -------------------------------------------------------------------------------------------------- counts

    def end_seconds(self) -> float | None:
        """Time at which the last frame ends, in ffmpeg 7 starts, by its time stamp; None if there was no frame."""
        stamps = re.findall(r"^out_time_us=(-?\d+)", self.decoding, re.MULTILINE)
        return int(stamps[-1]) / 1e6 if stamps else None

    def num_decoded(self) -> int | None:
        """Frames that the decoder returned; None if ffmpeg did not print it."""
        return self._count("frames decoded")

    def num_decode_errors(self) -> int:
        """Packets that the decoder could not decode."""
        return self._count("decode errors") or 0

    def _count(self, what: str) -> int | None:
        counts = re.findall(rf"^.*  Input stream #0:\d+ \(video\): .*?\b(\d+) {what};", self.decoding, re.MULTILINE)
        return int(counts[-1]) if counts else None

    def jumps_back(self) -> bool:
        """Whether the time stamps of the file begin again, as where files were joined."""
        return bool(re.search(r"\[warning\] timestamp discontinuity .*: -\d", self.decoding))

    # -------------------------------------------------------------------------------------------------- header

    def video_streams(self) -> dict[int, str]:
        """The video streams except cover art: position -> the lines that ffmpeg prints about it."""
        streams = re.split(r"^\[info\]   (?=Stream #0:\d)", self.header, flags=re.MULTILINE)[1:]
        texts = {int(re.match(r"Stream #0:(\d+)", text)[1]): text for text in streams}  # type: ignore[index]
        return {
            index: text
            for index, text in texts.items()
            if ": Video: " in text.partition("\n")[0] and "(attached pic)" not in text.partition("\n")[0]
        }

    def read_header(self) -> VideoHeader | None:
        """What ffmpeg printed about the file and its picture; None if no stream has a picture size."""
        streams = self.video_streams()
        container = re.match(r"\S+(?=, from)", self.header)
        index = self.stream_index if self.stream_index is not None else min(streams, default=None)
        if container is None or index not in streams:
            return None
        text = streams[index]
        line = text.partition("\n")[0]
        size = re.search(r", (\d+)x(\d+)\b", line)
        if size is None:
            return None
        width, height = map(int, size.groups())
        if re.search(r"rotation of -?(90|270)\.", text):
            width, height = height, width
        aspect = re.search(r"\bSAR ([1-9]\d*):([1-9]\d*)", line)
        declared, is_own = self._duration(container[0], text)
        return VideoHeader(
            declared, _rate(line, "fps"), width, height, container[0],
            is_own_duration=is_own, pixel_aspect=int(aspect[1]) / int(aspect[2]) if aspect else 1.0, num_streams=len(streams),
            stream_index=index, stamps_per_second=_rate(line, "tbr"),
        )  # fmt: skip

    def _duration(self, container: str, stream: str) -> tuple[float | None, bool]:
        """Seconds from the start of the file to its end, or that of the picture; and whether it is the picture's."""
        whole = re.search(rf"^\[info\]   Duration: {_CLOCK}(?:, start: (-?[\d.]+))?", self.header, re.MULTILINE)
        if whole is None:
            return None, False
        seconds, start = _seconds(whole), float(whole[4] or 0)
        own = re.search(rf"^\[info\]       DURATION(?:-\w+)? *: {_CLOCK}", stream, re.MULTILINE)
        is_own = own is not None and container.startswith("matroska") and 0 < _seconds(own) <= seconds + 0.01
        if own and is_own:
            seconds = _seconds(own)
        if container.startswith(COUNTS_FROM_ZERO) and 0 < start < seconds:
            seconds -= start
        return round(seconds, 6) or None, is_own

    def size_changes(self, header: VideoHeader | None) -> list[str]:
        """A note if the decoded pictures of a video differ in size; else nothing."""
        sizes = re.findall(r"video parameters changed to .*?, (\d+x\d+)", self.decoding)
        if header:
            declared = (f"{header.width}x{header.height}", f"{header.height}x{header.width}")  # upright or as stored
            sizes = [size for size in sizes if size not in declared]
        if not sizes:
            return []
        first_sizes = ", ".join(list(dict.fromkeys(sizes))[:5])
        return [f"frame size changes in mid-video, to {first_sizes}: all frames are scaled to the size of the first"]

    def no_frames_error(self, default_reason: str) -> VideoError:
        """The error that says why there is not a single frame; `default_reason` if ffmpeg gave none."""
        too_large = re.search(
            r"\[error\] (.*(?:exceeds specified max pixel count|Picture size \S+ is invalid).*)", self.text
        )
        if too_large:
            return VideoError(f"{too_large.group(1)}; at most {MAX_PIXELS} pixels are allowed", "too large")
        if "Cannot allocate memory" in self.text:
            return VideoError(f"needs more than {MAX_MEMORY_BYTES / 2**30:g} GiB of memory", "too large")
        if self.is_open and not self.video_streams():
            return VideoError("no video stream", "no video")
        complaint = self.complaint() or self.complaint_of_the_file()
        if self.is_open and not complaint:
            return VideoError(default_reason, "cut short")
        return VideoError(complaint or default_reason, "damaged" if self.is_open else "unreadable")


LibraryLine = tuple[int, str, str]
"""level, component and text, as PyAV hands out what FFmpeg's libraries say"""

LEVELS = {0: "panic", 8: "fatal", 16: "error", 24: "warning", 32: "info"}
"""of libavutil/log.h"""


class LibraryLog(Log):
    """What FFmpeg's libraries say of a file that is read by them, without the program; judged by the same rules."""

    def __init__(
        self, opening: Iterable[LibraryLine], header: str, decoding: Iterable[LibraryLine], *,
        num_frames: int, end_seconds: float | None,
    ):  # fmt: skip
        """`header` is what av_dump_format prints; `num_frames` were decoded, and the last one ends at `end_seconds`."""
        self.opening, self.decoding = _as_printed(opening), _as_printed(decoding)
        self.header = header.removeprefix("Input #0, ").replace("\n", "\n[info] ")
        self.text = f"{self.opening}[info] Input #0, {self.header}\n{self.decoding}"
        self.is_open, self.stream_index = True, None
        self._num_frames, self._end_seconds = num_frames, end_seconds

    def end_seconds(self) -> float | None:
        """See Log."""
        return self._end_seconds

    def num_decoded(self) -> int | None:
        """See Log."""
        return self._num_frames


def _as_printed(lines: Iterable[LibraryLine]) -> str:
    return "".join(f"[{name} @ 0] [{LEVELS.get(level)}] {text.rstrip()}\n" for level, name, text in lines)


_CLOCK = r"(\d+):(\d+):(\d+\.\d+)"


def _seconds(clock: re.Match[str]) -> float:
    hours, minutes, seconds = map(float, clock.groups()[:3])
    return hours * 3600 + minutes * 60 + seconds


def _rate(line: str, unit: str) -> float:
    """Frames per second by the line of a stream; 0 if it does not say."""
    found = re.search(rf", ([\d.]+)(k?) {unit},", line)
    rate = float(found.group(1)) * (1000 if found.group(2) else 1) if found else 0.0
    return NTSC_RATES.get(rate, rate)
