"""Find ffmpeg, and run it on a file within limits of time and memory."""

import contextlib
import fcntl
import functools
import io
import math
import os
import re
import resource
import select
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from twostream.errors import EnvironmentFaultError

MIN_FFMPEG = (5, 1)  # the first with -fps_mode; later ones no longer have -vsync
UNKNOWN_VERSION = "of unknown version"

# Playlists can name other files on this machine, so only real containers are opened.
CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,ivf,gif,h264,hevc,m4v,mjpeg,dv,rm"

TIME_LIMIT_SECONDS = 120.0  # of waiting for ffmpeg, plus, for each second of video:
WAIT_PER_SECOND = 30.0

MAX_FRAMES = 10_000_000
"""of a video, 92 hours at 30 fps; its clips are numbered in memory"""
MAX_PIXELS = 8192 * 4608  # 8K (7680 x 4320 or 8192 x 4320), and what codecs add to fill their blocks
MAX_BLOCK_BYTES = 16 * MAX_PIXELS  # 604 MB: such a picture in the largest pixel format, four channels of float32
MAX_MEMORY_BYTES = 6 * 2**30  # of address space; 8K HEVC with 10 bits takes less than 2 GiB
MAX_LOG_BYTES = 16 * 2**20
OUTSIDE_SIGNALS = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}
"""signals that say nothing about the video; others, such as SIGSEGV, are its doing"""
FFMPEG_INTERRUPTED = 255  # its exit code after a signal that it handles
PIPE_BYTES = 2**18  # Linux allows 64 MiB for all pipes of a user

FAULT_KINDS = {
    "missing": "no such file, or a broken link",
    "empty": "a file of 0 bytes",
    "unreadable": "ffmpeg cannot open it: no video, no index, no permission; or not a regular file",
    "no video": "only sound or cover art",
    "damaged": "ffmpeg complained while decoding",
    "cut short": "the frames end well before the declared duration",
    "beyond the end": "the requested segment starts after the end of the video",
    "bad segment": "the requested segment has no length",
    "too long": "longer than the caller allows, or more frames than its seconds can have",
    "too large": "frames of more than MAX_PIXELS, more memory than MAX_MEMORY_BYTES, or a side too long for JPEG",
    "time limit": "waiting for ffmpeg took too long, and it was killed",
    "killed": "ffmpeg was ended from outside, as the system does when memory runs out",
    "no flow": "a flow method cannot process the frames",
}
"""kind of fault -> what it means"""


class VideoError(Exception):
    """This video cannot be used; the message is the reason, in ffmpeg's words if it gave one.

    `kind` is one of FAULT_KINDS, so that failures can be counted.
    """

    def __init__(self, reason: str, kind: str = "damaged"):
        super().__init__(reason)
        self.kind = kind


@functools.cache
def find_ffmpeg() -> str:
    """Path of an ffmpeg >= 5.1: from PATH, else from the package imageio-ffmpeg.

    Raises EnvironmentFaultError if there is neither.
    """
    on_path = shutil.which("ffmpeg")
    found = f"ffmpeg {ffmpeg_version(on_path)} on PATH" if on_path else "no ffmpeg on PATH"
    if on_path and _version_tuple(ffmpeg_version(on_path)) >= MIN_FFMPEG:
        return os.path.abspath(on_path)  # because it is started in the folders of the videos
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
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
    match = re.match(r"n?(\d+)\.(\d+)", version)
    if match:
        return tuple(map(int, match.groups()))
    # Development builds ("N-109...", "git-2023-...") have no number; they are newer than any release that we refuse.
    return (0, 0) if version == UNKNOWN_VERSION else (99, 0)


class Ffmpeg:
    """One run of ffmpeg on one file, as a context manager.

    Entering raises VideoError if the path is not a regular file with content; every method that waits for ffmpeg
    raises VideoError if all waiting together took longer than `time_limit_seconds` plus 30 s per second of video.
    Leaving kills ffmpeg; no file or process stays behind.
    """

    def __init__(
        self,
        path: Path,
        *,
        input_options: list[str] | tuple[str, ...] = (),
        output_options: list[str] | tuple[str, ...],
        time_limit_seconds: float,
    ):
        self.path = path
        self.input_options = input_options
        self.output_options = output_options
        self.time_limit_seconds = time_limit_seconds
        self.seconds = 0.0
        """duration of what is decoded, to be set once it is known; the time limit grows with it"""
        self.waited_seconds = 0.0
        """time spent waiting for ffmpeg so far"""
        self._poll = select.poll()

    def __enter__(self) -> "Ffmpeg":
        _check_file(self.path)
        ffmpeg = find_ffmpeg()
        # The file has no name, so it vanishes even if this process is killed; ffmpeg ends once its pipe has no reader.
        self._log_file = tempfile.TemporaryFile(buffering=0)
        self.process = subprocess.Popen(
            self._command(ffmpeg),
            bufsize=0,
            stdout=subprocess.PIPE,
            stderr=self._log_file,
            cwd=self.path.parent,
            process_group=0,  # a terminal's Ctrl-C must not reach ffmpeg: the video would look damaged
        )
        assert isinstance(self.process.stdout, io.FileIO), "bufsize=0"
        self._pipe = self.process.stdout
        _limit_process(self.process)
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self._pipe.close()
        self.process.wait()
        self._log_file.close()

    def _command(self, ffmpeg: str) -> list[str]:
        return [
            *(ffmpeg, "-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+verbose"),
            *("-progress", "pipe:2", "-stats_period", "60"),
            *("-max_alloc", str(MAX_BLOCK_BYTES), "-filter_threads", "1"),
            *("-threads", "1", "-max_pixels", str(MAX_PIXELS)),
            *("-protocol_whitelist", "file", "-format_whitelist", CONTAINERS),
            # ffmpeg runs in the file's folder and gets the bare name, which has at most 255 bytes: it cuts the lines of
            # its log at 1,023 bytes.
            *(*self.input_options, "-i", f"file:{self.path.name}"),
            *self.output_options,
        ]

    def pictures(self) -> Iterator[np.ndarray]:
        """The PPM pictures that ffmpeg writes, all of one size, as uint8 (H, W, 3); stops at an incomplete one."""
        os.set_blocking(self._pipe.fileno(), False)
        self._poll.register(self._pipe, select.POLLIN)
        with contextlib.suppress(OSError):  # the user's pipes may have reached their limit
            fcntl.fcntl(self._pipe, getattr(fcntl, "F_SETPIPE_SZ", -1), PIPE_BYTES)
        header = bytearray()
        while header.count(b"\n") < 3:
            byte = bytearray(1)
            if not self._fill(memoryview(byte)):
                return
            header += byte
        match = re.fullmatch(rb"P6\n(\d+) (\d+)\n255\n", header)
        assert match, f"ffmpeg wrote {bytes(header)!r}, not a PPM picture"
        width, height = map(int, match.groups())
        while True:
            picture = np.empty(height * width * 3, np.uint8)
            if self._fill(picture.data) < picture.size:
                return
            yield picture.reshape(height, width, 3)
            next_header = bytearray(len(header))
            if self._fill(memoryview(next_header)) < len(header):
                return
            if next_header != header:
                raise VideoError(f"ffmpeg changed the size of its pictures from {width}x{height} in mid-video")

    def _fill(self, buffer: memoryview) -> int:
        """Read until the buffer is full or ffmpeg has closed the pipe; returns the number of bytes."""
        start = 0
        while start < len(buffer):
            num_bytes = self._pipe.readinto(buffer[start:])
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
        """Wait until ffmpeg has ended; returns its exit code. VideoError if a signal from outside ended it."""
        while self.process.poll() is None:
            try:
                self.process.wait(self._seconds_left())
            except subprocess.TimeoutExpired:
                self.waited_seconds = math.inf
        exit_code = self.process.returncode
        number = -exit_code if -exit_code in OUTSIDE_SIGNALS else 0
        if exit_code == FFMPEG_INTERRUPTED:  # it handles these signals: it ends early, as if the video ended there
            caught = re.findall(r"received signal (\d+)", self.log())
            number = int(caught[-1]) if caught else 0
        if number:
            raise VideoError(f"ffmpeg was ended by {signal.Signals(number).name} (is memory short?)", "killed")
        return exit_code

    def _seconds_left(self) -> float:
        """Time left for waiting, at most a day; raises VideoError if it is used up."""
        limit = self.time_limit_seconds + WAIT_PER_SECOND * self.seconds
        if self.waited_seconds >= limit:
            raise VideoError(f"killed after {limit:g} s of waiting for ffmpeg", "time limit")
        return min(limit - self.waited_seconds, 86_400)

    def log(self) -> str:
        """What ffmpeg has printed so far, with "file" in place of the file's name, which could imitate a line of it."""
        name = re.sub(rb"[\x01-\x07\x0e-\x1f]", b"?", os.fsencode(self.path.name))  # as ffmpeg prints it
        # read() would move the position at which ffmpeg writes.
        log = os.pread(self._log_file.fileno(), MAX_LOG_BYTES, 0)
        return log.replace(b"file:" + name, b"file").decode(errors="replace")


def _check_file(path: Path) -> None:
    """Raises VideoError unless this is a regular file with content; a pipe or device is not even opened."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise VideoError("no such file (a broken link?)", "missing") from None
    except OSError as error:
        raise VideoError(error.strerror or str(error), "unreadable") from None
    if not stat.S_ISREG(status.st_mode):
        raise VideoError("not a regular file", "unreadable")
    if status.st_size == 0:
        raise VideoError("empty file, 0 bytes", "empty")


def _limit_process(process: subprocess.Popen[bytes]) -> None:
    """Limit the address space, and the size of the log."""
    if not hasattr(resource, "prlimit"):
        return  # not Linux
    for kind, limit in ((resource.RLIMIT_AS, MAX_MEMORY_BYTES), (resource.RLIMIT_FSIZE, MAX_LOG_BYTES)):
        _, hard = resource.prlimit(process.pid, kind)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.prlimit(process.pid, kind, (limit, limit))
