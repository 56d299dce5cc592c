"""Find ffmpeg, and run it on a file or a stream within limits of time and memory."""

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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twostream.errors import EnvironmentFaultError

MIN_FFMPEG = (5, 1)  # the first with -fps_mode; later ones no longer have -vsync
UNKNOWN_VERSION = "of unknown version"

# Playlists can name other files on this machine, so only real containers are opened.
CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,ivf,gif,h264,hevc,m4v,mjpeg,dv,rm"

TIME_LIMIT_SECONDS = 120.0  # of waiting for ffmpeg, plus, for each second of video:
WAIT_PER_SECOND = 30.0

LONGEST_WAIT_SECONDS = 86_400
"""of one call of the system"""

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
    "read error": "the system could not read it, or its stored frames, which may be over",
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
    "no vectors": "the codec has no motion vectors that FFmpeg's decoder hands out, or no frame refers to another one",
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


@dataclass(frozen=True)
class Address:
    """Something that ffmpeg opens and that is no file: see video/addresses.py."""

    name: str
    """as messages and results name it"""
    options: tuple[str, ...]
    """of ffmpeg: which protocols and formats are allowed"""
    target: str
    """what follows -i"""
    can_open_again: bool = True
    """after it was lost"""


class Ffmpeg:
    """One run of ffmpeg on one file or address, as a context manager.

    Entering raises VideoError if a path is not a regular file with content; every method that waits for ffmpeg
    raises VideoError if all waiting together took longer than `time_limit_seconds` plus 30 s per second of video. With
    `silence_seconds`, waiting for a picture may take that long instead, each time. `more_outputs` are the options of
    further outputs beside the first. Leaving kills ffmpeg; no file or process stays behind.
    """

    def __init__(
        self,
        source: Path | Address,
        *,
        input_options: Sequence[str] = (),
        output_options: Sequence[str],
        more_outputs: Sequence[Sequence[str]] = (),
        time_limit_seconds: float,
        silence_seconds: float = 0,
    ):
        self.source = source
        self.input_options = input_options
        self.output_options = output_options
        self.more_outputs = more_outputs
        self.time_limit_seconds = time_limit_seconds
        self.silence_seconds = silence_seconds
        self.seconds = 0.0
        """duration of what is decoded, to be set once it is known; the time limit grows with it"""
        self.waited_seconds = 0.0
        """time spent waiting for ffmpeg so far"""

    def __enter__(self) -> "Ffmpeg":
        if isinstance(self.source, Path):
            check_file(self.source)
        ffmpeg = find_ffmpeg()
        # The file has no name, so it vanishes even if this process is killed; ffmpeg ends once its pipe has no reader.
        self._log_file = tempfile.TemporaryFile(buffering=0)
        fcntl.fcntl(self._log_file, fcntl.F_SETFL, os.O_APPEND)  # so that `shorten_log` works
        pipes = [os.pipe() for _ in self.more_outputs]
        try:
            self.process = subprocess.Popen(
                self._command(ffmpeg, [write for _, write in pipes]),
                bufsize=0,
                stdout=subprocess.PIPE,
                stderr=self._log_file,
                cwd=self.source.parent if isinstance(self.source, Path) else None,
                pass_fds=[write for _, write in pipes],
                process_group=0,  # a terminal's Ctrl-C must not reach ffmpeg: the video would look damaged
            )
        finally:
            for _, write in pipes:
                os.close(write)
        assert isinstance(self.process.stdout, io.FileIO), "bufsize=0"
        self._pipes = [self.process.stdout, *(io.FileIO(read) for read, _ in pipes)]
        _limit_process(self.process)
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        for pipe in self._pipes:
            pipe.close()
        self.process.wait()
        self._log_file.close()

    def _command(self, ffmpeg: str, further_pipes: Sequence[int]) -> list[str]:
        return [
            *(ffmpeg, "-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+verbose"),
            *("-progress", "pipe:2", "-stats_period", "60"),
            *("-max_alloc", str(MAX_BLOCK_BYTES), "-filter_threads", "1"),
            *("-threads", "1", "-max_pixels", str(MAX_PIXELS)),
            *self._input_words(),
            *self.output_options,
            *(
                word
                for options, pipe in zip(self.more_outputs, further_pipes, strict=True)
                for word in (*options, f"pipe:{pipe}")
            ),
        ]

    def _input_words(self) -> list[str]:
        if isinstance(self.source, Address):
            return [*self.source.options, *self.input_options, "-i", self.source.target]
        # ffmpeg runs in the file's folder and gets the bare name, which has at most 255 bytes: it cuts the lines of
        # its log at 1,023 bytes.
        limits = ("-protocol_whitelist", "file", "-format_whitelist", CONTAINERS)
        return [*limits, *self.input_options, "-i", f"file:{self.source.name}"]

    def pictures(self, output: int = 0) -> Iterator[np.ndarray]:
        """The PPM pictures that ffmpeg writes, all of one size, as uint8 (H, W, 3); stops at an incomplete one.

        `output` counts the outputs; each can be read by a thread of its own.
        """
        pipe = self._pipes[output]
        os.set_blocking(pipe.fileno(), False)
        with contextlib.suppress(OSError):  # the user's pipes may have reached their limit
            fcntl.fcntl(pipe, getattr(fcntl, "F_SETPIPE_SZ", -1), PIPE_BYTES)
        header = bytearray()
        while header.count(b"\n") < 3:
            byte = bytearray(1)
            if not self._fill(memoryview(byte), pipe):
                return
            header += byte
        match = re.fullmatch(rb"P6\n(\d+) (\d+)\n255\n", header)
        assert match, f"ffmpeg wrote {bytes(header)!r}, not a PPM picture"
        width, height = map(int, match.groups())
        while True:
            picture = np.empty(height * width * 3, np.uint8)
            if self._fill(picture.data, pipe) < picture.size:
                return
            yield picture.reshape(height, width, 3)
            next_header = bytearray(len(header))
            if self._fill(memoryview(next_header), pipe) < len(header):
                return
            if next_header != header:
                raise VideoError(f"ffmpeg changed the size of its pictures from {width}x{height} in mid-video")

    def pieces(self) -> Iterator[bytes]:
        """What ffmpeg writes to its first output, until it ends."""
        (pipe,) = self._pipes
        os.set_blocking(pipe.fileno(), False)
        while (piece := pipe.read(PIPE_BYTES)) != b"":
            if piece is None:
                self._wait_for_bytes(pipe)
            else:
                yield piece

    def file(self, output: int) -> io.FileIO:
        """An output of something else than pictures, to read from until ffmpeg ends."""
        return self._pipes[output]

    def _fill(self, buffer: memoryview, pipe: io.FileIO) -> int:
        """Read until the buffer is full or ffmpeg has closed the pipe; returns the number of bytes."""
        start = 0
        while start < len(buffer):
            num_bytes = pipe.readinto(buffer[start:])
            if num_bytes is None:
                self._wait_for_bytes(pipe)
            elif num_bytes == 0:
                break
            else:
                start += num_bytes
        return start

    def _wait_for_bytes(self, pipe: io.FileIO) -> None:
        before = time.monotonic()
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        if self.silence_seconds:
            if not poll.poll(1000 * min(self.silence_seconds, LONGEST_WAIT_SECONDS)):
                raise VideoError(f"no picture for {self.silence_seconds:g} s", "time limit")
            return
        poll.poll(1000 * self._seconds_left())
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
        return min(limit - self.waited_seconds, LONGEST_WAIT_SECONDS)

    def log(self) -> str:
        """What ffmpeg has printed so far, with "file" in place of the file's name, which could imitate a line of it.

        An address, which may have a password, is replaced too.
        """
        target = self.source.target if isinstance(self.source, Address) else f"file:{self.source.name}"
        name = re.sub(rb"[\x01-\x07\x0e-\x1f]", b"?", os.fsencode(target))  # as ffmpeg prints it
        # read() would move the position at which ffmpeg writes.
        log = os.pread(self._log_file.fileno(), MAX_LOG_BYTES, 0)
        return log.replace(name, b"file").decode(errors="replace")

    def shorten_log(self) -> None:
        """Forget what ffmpeg has printed, if that is much: a stream without an end may be damaged without an end."""
        if os.fstat(self._log_file.fileno()).st_size > MAX_LOG_BYTES // 16:
            os.ftruncate(self._log_file.fileno(), 0)


def check_file(path: Path) -> None:
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
