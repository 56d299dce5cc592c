"""Frames -> a video file, by ffmpeg."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np

from twostream.attempts import attempt_name
from twostream.errors import EnvironmentFaultError
from twostream.video.ffmpeg import find_ffmpeg


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
    height, width = first.shape[:2]
    temporary = path.with_name(f".{attempt_name()}-{path.name}")  # the suffix chooses the format
    command = [
        *(find_ffmpeg(), "-nostdin", "-hide_banner", "-loglevel", "error", "-y"),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "pipe:0"),
        # Most players need two chroma samples for each side.
        *(
            "-vf",
            "pad=ceil(iw/2)*2:ceil(ih/2)*2",
            "-pix_fmt",
            "yuv420p",
            "-movflags",
            "+faststart",
            f"file:{temporary}",
        ),
    ]
    try:
        with tempfile.TemporaryFile() as log, subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log) as ffmpeg:
            assert ffmpeg.stdin is not None
            try:
                with contextlib.suppress(BrokenPipeError):  # ffmpeg has ended, and its log says why
                    for frame in chain([first], remaining):
                        ffmpeg.stdin.write(frame.tobytes())
                    ffmpeg.stdin.close()
            except BaseException:
                ffmpeg.kill()
                raise
            if ffmpeg.wait():
                log.seek(0)
                lines = log.read().decode(errors="replace").strip().splitlines() or ["ffmpeg failed"]
                raise EnvironmentFaultError(f"cannot write {path}: {lines[-1]}; choose a name such as labels.mp4")
        os.replace(temporary, path)
    except OSError as error:
        raise EnvironmentFaultError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
