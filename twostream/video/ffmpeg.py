"""Find ffmpeg, run it within limits of time and memory, and read what it prints."""

import contextlib
import fcntl
import functools
import math
import os
import re
import resource
import select
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twostream.errors import EnvironmentFaultError

MIN_FFMPEG = (5, 1)  # the first with -fps_mode; later ones no longer have -vsync
UNKNOWN_VERSION = "of unknown version"

# Text playlists can name other files of this machine, so only real containers are opened.
CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,ivf,gif,h264,hevc,m4v,mjpeg,dv,rm"

TIME_LIMIT_SECONDS = 120.0  # of waiting for ffmpeg, and in addition for each second of video:
WAIT_PER_SECOND = 30.0

MAX_PIXELS = 8192 * 4608  # 8K, 7680 x 4320 or 8192 x 4320, and what codecs add to whole blocks
MAX_BLOCK_BYTES = 16 * MAX_PIXELS  # 604 MB: such a picture in the widest pixel format, four channels of float32
MAX_MEMORY_BYTES = 6 * 2**30  # address space; 8K HEVC of 10 bits takes less than 2
MAX_LOG_BYTES = 16 * 2**20
PIPE_BYTES = 2**18  # of 64 MiB that Linux allows all pipes of a user

FAULT_KINDS = {
    "missing": "no such file, or a link to none",
    "empty": "a file of 0 bytes",
    "unreadable": "ffmpeg cannot open it: no video, no index, no permission; or not a regular file",
    "no video": "only sound or cover art",
    "damaged": "ffmpeg complained on the way",
    "cut short": "the frames end well before the declared duration",
    "beyond the end": "the segment asked for starts after the end of the video",
    "bad segment": "the segment asked for has no length",
    "too long": "longer than the caller allows",
    "too large": "frames above MAX_PIXELS, or more memory than MAX_MEMORY_BYTES",
    "time limit": "ffmpeg was waited for too long, and killed",
    "no flow": "a flow method cannot do with the frames",
}


class VideoError(Exception):
    """This video cannot be used; the message is the reason, in ffmpeg's words where it has some.

    `kind` is one of FAULT_KINDS, so that failures can be counted.
    """

    def __init__(self, reason: str, kind: str = "damaged"):
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True)
class Probed:
    """What a video's header says."""

    declared_seconds: float | None
    fps: float
    """frames per second, 0 when not said"""
    width: int
    """of the upright picture, pixels"""
    height: int
    container: str
    """ffmpeg's names for it, e.g. "mov,mp4,m4a,3gp,3g2,mj2" """


@functools.cache
def find_ffmpeg() -> str:
    """Path of an ffmpeg >= 5.1: the one on PATH, else the one that the imageio-ffmpeg package brings.

    Raises EnvironmentFaultError when there is neither.
    """
    on_path = shutil.which("ffmpeg")
    found = f"ffmpeg {ffmpeg_version(on_path)} on PATH" if on_path else "no ffmpeg on PATH"
    if on_path and _version_tuple(ffmpeg_version(on_path)) >= MIN_FFMPEG:
        return os.path.abspath(on_path)  # it is started in the folders of the videos
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        raise EnvironmentFaultError(
            f"{found}, expected {MIN_FFMPEG[0]}.{MIN_FFMPEG[1]} or newer: pip install imageio-ffmpeg"
        ) from None


@functools.cache
def ffmpeg_version(ffmpeg: str) -> str:
    """The version as ffmpeg prints it, e.g. "7.1-static" or "N-109..." for a development build."""
    out = subprocess.run([ffmpeg, "-version"], capture_output=True, text=True, errors="replace", check=False)
    match = re.match(r"ffmpeg version (\S+)", out.stdout)
    return match.group(1) if match else UNKNOWN_VERSION


def _version_tuple(version: str) -> tuple[int, ...]:
    numbers = re.match(r"n?(\d+)\.(\d+)", version)
    if numbers:
        return tuple(map(int, numbers.groups()))
    # Development builds ("N-109...", "git-2023-...") carry no number; they are newer than any release we refuse.
    return (0, 0) if version == UNKNOWN_VERSION else (99, 0)


class Ffmpeg:
    """One run of ffmpeg on one file, without output if there are no options for it; leaves nothing behind.

    Raises VideoError when the file is none, and when waiting for ffmpeg took longer than the limit.
    """

    def __init__(
        self,
        path: Path,
        *,
        input_options: list[str] | tuple[str, ...] = (),
        output_options: list[str] | tuple[str, ...] = (),
        time_limit_seconds: float,
    ):
        self.path = path
        self.input_options = input_options
        self.output_options = output_options
        self.time_limit_seconds = time_limit_seconds
        self.seconds = 0.0
        """length of what is decoded, once it is known; the limit grows with it"""
        self.waited_seconds = 0.0
        self._poll = select.poll()

    def __enter__(self) -> "Ffmpeg":
        _check_file(self.path)
        ffmpeg = find_ffmpeg()
        # It has no name, so nothing stays behind when this process is killed; ffmpeg ends when the pipe has no reader.
        self._log = tempfile.TemporaryFile(buffering=0)
        self.process = subprocess.Popen(
            self._command(ffmpeg),
            bufsize=0,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=self.path.parent,
            process_group=0,  # a terminal's Ctrl-C is for this program: it would look like a damaged video
        )
        _limit_process(self.process)
        return self

    def __exit__(self, *exception) -> None:
        self.process.kill()
        self.process.stdout.close()
        self.process.wait()
        self._log.close()

    def _command(self, ffmpeg: str) -> list[str]:
        return [
            *(ffmpeg, "-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+info"),
            *("-progress", "pipe:2", "-stats_period", "60"),
            *("-max_alloc", str(MAX_BLOCK_BYTES), "-filter_threads", "1"),
            *("-threads", "1", "-max_pixels", str(MAX_PIXELS)),
            *("-protocol_whitelist", "file", "-format_whitelist", CONTAINERS),
            # Started in the file's folder: a name without a path has no more than 255 bytes, and ffmpeg cuts its log
            # lines at 1,023.
            *(*self.input_options, "-i", f"file:{self.path.name}"),
            *self.output_options,
        ]

    def pictures(self) -> Iterator[np.ndarray]:
        """The binary PPM pictures that ffmpeg writes, all of one size, as uint8 (H, W, 3); a torn one ends them."""
        pipe = self.process.stdout
        os.set_blocking(pipe.fileno(), False)
        self._poll.register(pipe, select.POLLIN)
        with contextlib.suppress(OSError):  # a user's pipes may hold as much as they may already
            fcntl.fcntl(pipe, getattr(fcntl, "F_SETPIPE_SZ", -1), PIPE_BYTES)
        header = bytearray()
        while header.count(b"\n") < 3:
            byte = bytearray(1)
            if not self._fill(memoryview(byte)):
                return
            header += byte
        width, height = map(int, re.fullmatch(rb"P6\n(\d+) (\d+)\n255\n", header).groups())
        while True:
            picture = np.empty(height * width * 3, np.uint8)
            if self._fill(memoryview(picture)) < picture.size:
                return
            yield picture.reshape(height, width, 3)
            next_header = bytearray(len(header))
            if self._fill(memoryview(next_header)) < len(header):
                return
            if next_header != header:
                raise VideoError(f"ffmpeg changed the size of its pictures from {width}x{height} in mid-video")

    def _fill(self, buffer: memoryview) -> int:
        """Read until the buffer is full or ffmpeg has no more; number of bytes."""
        start = 0
        while start < len(buffer):
            num_bytes = self.process.stdout.readinto(buffer[start:])
            if num_bytes is None:
                self._wait_for_bytes()
            elif num_bytes == 0:
                break
            else:
                start += num_bytes
        return start

    def _wait_for_bytes(self) -> None:
        before = time.monotonic()
        self._poll.poll(1000 * self._seconds_left())
        self.waited_seconds += time.monotonic() - before

    def wait(self) -> int:
        """Exit code, once ffmpeg has ended."""
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(self._seconds_left())
            self.waited_seconds = math.inf

    def _seconds_left(self) -> float:
        """That ffmpeg may still be waited for, a day at most; raises VideoError when there are none."""
        limit = self.time_limit_seconds + WAIT_PER_SECOND * self.seconds
        if self.waited_seconds >= limit:
            raise VideoError(f"killed after {limit:g} s of waiting for ffmpeg", "time limit")
        return min(limit - self.waited_seconds, 86_400)

    def words(self) -> str:
        """What ffmpeg has said until now, without the file's name, which could hold anything."""
        name = re.sub(rb"[\x01-\x07\x0e-\x1f]", b"?", os.fsencode(self.path.name))  # as ffmpeg prints it
        # Not by read(): its position in the file is where ffmpeg writes.
        log = os.pread(self._log.fileno(), MAX_LOG_BYTES, 0)
        return log.replace(b"file:" + name, b"file").decode(errors="replace")


def _check_file(path: Path) -> None:
    """Raises VideoError unless this is a file with something in it; a pipe or device is not even opened."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise VideoError("no such file (a broken link?)", "missing") from None
    except OSError as error:
        raise VideoError(error.strerror, "unreadable") from None
    if not stat.S_ISREG(status.st_mode):
        raise VideoError("not a regular file", "unreadable")
    if status.st_size == 0:
        raise VideoError("empty file, 0 bytes", "empty")


def _limit_process(process: subprocess.Popen) -> None:
    if not hasattr(resource, "prlimit"):
        return  # not Linux
    for what, limit in ((resource.RLIMIT_AS, MAX_MEMORY_BYTES), (resource.RLIMIT_FSIZE, MAX_LOG_BYTES)):
        _, hard = resource.prlimit(process.pid, what)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.prlimit(process.pid, what, (limit, limit))


def first_complaint(words: str) -> str:
    """ffmpeg's first line that says the input is not sound, without addresses; "" when it had none.

    The exit code alone does not tell: most damaged files end with 0.
    """
    for line in words.splitlines():
        if line.startswith(("[vost#", "[out#", "[image2pipe")):
            continue  # about its output: two frames of one time stamp, which a picture sequence can have
        match = re.search(r"\[(error|fatal|warning)\] (.*)", line)
        if match and (match.group(1) != "warning" or "corrupt" in match.group(2)):
            if not match.group(2).startswith("At least one output file"):  # a probe has none
                return match.group(2).strip()
    return ""


def refusal(words: str, otherwise: str) -> VideoError:
    """Why there is not one frame; `otherwise` if ffmpeg gives no reason."""
    too_large = re.search(r"\[error\] (.*(?:exceeds specified max pixel count|Picture size \S+ is invalid).*)", words)
    if too_large:
        return VideoError(f"{too_large.group(1)}; allowed are {MAX_PIXELS} pixels", "too large")
    if "Cannot allocate memory" in words:
        return VideoError(f"needs more than {MAX_MEMORY_BYTES / 2**30:g} GiB of memory", "too large")
    is_open = re.search(r"^\[info\] Input #0, ", words, re.MULTILINE)
    if is_open and not _video_streams(words):
        return VideoError("no video stream", "no video")
    complaint = first_complaint(words)
    if is_open and not complaint:
        return VideoError(otherwise, "cut short")
    return VideoError(complaint or otherwise, "damaged" if is_open else "unreadable")


def _video_streams(words: str) -> list[str]:
    """The input's video streams, cover art apart, each as the lines that ffmpeg prints about it."""
    of_input = re.split(r"^\[info\] (?:Stream mapping|Output #0)", words, maxsplit=1, flags=re.MULTILINE)[0]
    streams = re.split(r"^\[info\]   (?=Stream #)", of_input, flags=re.MULTILINE)[1:]
    return [stream for stream in streams if ": Video: " in stream and "(attached pic)" not in stream.partition("\n")[0]]


def read_header(words: str) -> Probed | None:
    """What ffmpeg prints about the input and its first video stream; None where there is none with a picture."""
    container = re.search(r"^\[info\] Input #0, (\S+), from", words, re.MULTILINE)
    streams = _video_streams(words)
    size = re.search(r", (\d+)x(\d+)\b", streams[0].partition("\n")[0]) if streams else None
    if not (container and size):
        return None
    width, height = map(int, size.groups())
    if re.search(r"rotation of -?(90|270)\.", streams[0]):
        width, height = height, width
    duration = re.search(r"^\[info\]   Duration: (\d+):(\d+):(\d+\.\d+)", words, re.MULTILINE)
    hours, minutes, seconds = map(float, duration.groups()) if duration else (0, 0, 0)
    declared = hours * 3600 + minutes * 60 + seconds or None
    rate = re.search(r", ([\d.]+)(k?) fps,", streams[0])
    fps = float(rate.group(1)) * (1000 if rate.group(2) else 1) if rate else 0.0
    return Probed(declared, fps, width, height, container.group(1))


def read_seconds(words: str) -> float | None:
    """End of the last frame that came out, by its time stamp."""
    stamps = re.findall(r"^out_time_us=(-?\d+)", words, re.MULTILINE)
    return int(stamps[-1]) / 1e6 if stamps else None


def size_changes(words: str, header: Probed | None) -> list[str]:
    """A note when the pictures of a video are not of one size, as they come out."""
    sizes = re.findall(r"video parameters changed to .*?, (\d+x\d+)", words)
    if header:
        sizes = [
            size for size in sizes if size not in (f"{header.width}x{header.height}", f"{header.height}x{header.width}")
        ]
    if not sizes:
        return []
    several = ", ".join(list(dict.fromkeys(sizes))[:5])
    return [f"frame size changes in mid-video, to {several}: all frames are scaled to the size of the first"]
