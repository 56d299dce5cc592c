"""Frames -> a video file, by ffmpeg."""

import contextlib
import errno
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from twostream.attempts import attempt_name
from twostream.errors import EnvironmentFaultError
from twostream.video.ffmpeg import FFMPEG_INTERRUPTED, VideoError, ffmpeg_version, find_ffmpeg

MAX_SIDE = 16_384
"""pixels; what H.264 encoders take at most"""


@dataclass(frozen=True)
class VideoEncoding:
    """H.264 for frames that are read at random places. Raises ValueError naming the flag of a wrong value."""

    gop: int = 12
    """frames from a key frame to the next; to read a frame, those from the key frame on are decoded"""
    crf: int = 17
    """constant quality of x264, 0 to 51: 0 is without loss but for the colours' resolution; a file grows by an eighth for
    each step down"""

    def __post_init__(self) -> None:
        for flag, value, low, high in (("--gop", self.gop, 1, 1000), ("--crf", self.crf, 0, 51)):
            if not low <= value <= high:
                raise ValueError(f"{flag} is {value}, expected {low} to {high}")

    def options(self) -> list[str]:
        """Of ffmpeg. The same frames give the same file."""
        return [
            *("-c:v", "libx264", "-crf", str(self.crf), "-threads", "1"),
            # Without arithmetic coding and deblocking, files are a tenth larger and decode twice as fast.
            *("-preset", "veryfast", "-tune", "fastdecode"),
            *("-g", str(self.gop), "-keyint_min", str(self.gop), "-sc_threshold", "0"),
            *("-colorspace", "smpte170m", "-color_range", "tv", "-fflags", "+bitexact"),
        ]


def check_h264_encoder() -> None:
    """Raises EnvironmentFaultError if ffmpeg was built without x264."""
    ffmpeg = find_ffmpeg()
    encoders = subprocess.run([ffmpeg, "-hide_banner", "-encoders"], capture_output=True, text=True, errors="replace")
    if not re.search(r"\blibx264\b", encoders.stdout):
        raise EnvironmentFaultError(
            f"{ffmpeg} (version {ffmpeg_version(ffmpeg)}) has no libx264, which encodes videos: take it off PATH and run "
            "pip install imageio-ffmpeg, or use --store=packed"
        )


class Encoder:
    """A video file in the making: add its frames, then `finish`. Use as a context manager.

    Leaving it earlier ends ffmpeg, and leaves an unfinished file. All methods raise OSError with ffmpeg's reason if the file
    cannot be written, and VideoError if ffmpeg was ended from outside.
    """

    def __init__(self, path: Path, *, fps: float, options: Sequence[str] = ()):
        """Without `options`, ffmpeg encodes as it does by default for the file's suffix."""
        self.path, self.fps, self.options = path, fps, options
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()

    def __enter__(self) -> "Encoder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End ffmpeg, if it has not ended."""
        if self._process:
            self._process.kill()
            with contextlib.suppress(OSError):
                self._process.stdin.close()  # type: ignore[union-attr]
            self._process.wait()
        self._log.close()

    def add(self, frame: np.ndarray) -> None:
        """Encode a frame, uint8 (H, W, 3) RGB; all have the size of the first.

        Where a side is odd, its last pixels are repeated, because most players need two chroma samples for each side.
        """
        height, width = frame.shape[:2]
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        if self._process is None:
            self._process = self._start(*frame.shape[:2])
        try:
            self._process.stdin.write(frame.data if frame.flags.c_contiguous else frame.tobytes())  # type: ignore[union-attr]
        except BrokenPipeError:
            self._end()
            raise OSError(0, "ffmpeg ended before the last frame", str(self.path)) from None

    def finish(self) -> None:
        """Write what is left, once all frames were added."""
        assert self._process is not None, "no frames were added"
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # type: ignore[union-attr]
        self._end()

    def _start(self, height: int, width: int) -> "subprocess.Popen[bytes]":
        command = [
            *(find_ffmpeg(), "-nostdin", "-hide_banner", "-loglevel", "error", "-y"),
            *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{self.fps:g}", "-i", "pipe:0"),
            *(*self.options, "-pix_fmt", "yuv420p", "-movflags", "+faststart", f"file:{self.path}"),
        ]
        # In a process group of its own: a terminal's Ctrl-C must not reach ffmpeg, which would end the file there.
        return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=self._log, process_group=0)

    def _end(self) -> None:
        """Wait until ffmpeg has ended; raise its reason if it failed."""
        assert self._process is not None
        code = self._process.wait()
        if code == -signal.SIGXFSZ:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(self.path))
        if code < 0 or code == FFMPEG_INTERRUPTED:
            raise VideoError("ffmpeg was ended from outside while it encoded (is memory short?)", "killed")
        if code:
            self._log.seek(0)
            lines = self._log.read().decode(errors="replace").strip().splitlines() or ["ffmpeg failed"]
            raise OSError(0, lines[-1], str(self.path))


def write_video(path: str | Path, frames: Iterable[np.ndarray], *, fps: float) -> None:
    """Encode frames, uint8 (H, W, 3) RGB, all of one size, as ffmpeg encodes by default for the file's suffix.

    The file appears when it is complete, under its name; `path` must not be a folder. Raises EnvironmentFaultError with
    ffmpeg's reason if it cannot be written, and ValueError if there are no frames.
    """
    path = Path(path)
    remaining = iter(frames)
    first = next(remaining, None)
    if first is None:
        raise ValueError("no frames to encode")
    temporary = path.with_name(f".{attempt_name()}-{path.name}")  # the suffix chooses the format
    try:
        with Encoder(temporary, fps=fps) as encoder:
            for frame in chain([first], remaining):
                encoder.add(frame)
            encoder.finish()
        os.replace(temporary, path)
    except OSError as error:
        advice = "" if error.errno else "; choose a name such as labels.mp4"  # ffmpeg's reasons have no number
        raise EnvironmentFaultError(f"cannot write {path}: {error.strerror or error}{advice}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
