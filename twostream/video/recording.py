"""What can be read only once, kept in a file: standard input, a download, some seconds of a camera or a stream."""

import http.client
import os
import sys
import urllib.request
from collections.abc import Iterable
from typing import IO

from twostream.errors import BadInputError, one_line
from twostream.video.addresses import STDIN, without_password
from twostream.video.decoder import PICTURE_ONLY
from twostream.video.ffmpeg import TIME_LIMIT_SECONDS, Address, Ffmpeg
from twostream.video.ffmpeg_log import Log

MAX_BYTES = 8 << 30
"""of one recording"""
TIMEOUT_SECONDS = 30.0
"""in which a server must send something"""
PIECE_BYTES = 1 << 20
LOSSLESS = ("-c:v", "ffvhuff", "-f", "matroska")
"""faster than real time on one core; streams as they are sent cannot always be stored, for lack of time stamps"""


def copy_stdin(file: IO[bytes]) -> str:
    """Copy standard input; returns what is unusual about it, which is nothing.

    Raises BadInputError if it is a terminal, empty, or larger than MAX_BYTES.
    """
    if sys.stdin is None or os.isatty(sys.stdin.fileno()):
        raise BadInputError(f"{STDIN}: standard input is a terminal, expected a video: twostream predict - < VIDEO")
    _copy(iter(lambda: os.read(sys.stdin.fileno(), PIECE_BYTES), b""), file, STDIN)
    return ""


def download(url: str, file: IO[bytes]) -> str:
    """Download a file; returns what is unusual about it, which is nothing.

    Raises BadInputError if the server cannot be reached, does not have it, or sends less or more than it should.
    """
    name = without_password(url)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
            if answer.headers.get_content_maintype() == "multipart":
                raise BadInputError(f"{name}: {stream_advice()}")
            length = int(answer.headers.get("Content-Length") or 0)
            num_bytes = _copy(iter(lambda: answer.read(PIECE_BYTES), b""), file, name)
            if num_bytes < length:
                raise EOFError(f"{num_bytes} of {length} bytes arrived")
    except (OSError, ValueError, EOFError, http.client.HTTPException) as error:  # ValueError: not a URL
        raise BadInputError(f"cannot download {name}: {one_line(error)}") from None
    return ""


def stream_advice() -> str:
    """What to do about a source that has no end."""
    return "a stream has no end; add --live, or --seconds=10 to look at its next ten seconds"


def _copy(pieces: Iterable[bytes], file: IO[bytes], name: str) -> int:
    num_bytes = 0
    for piece in pieces:
        num_bytes += len(piece)
        if num_bytes > MAX_BYTES:
            raise BadInputError(f"{name}: more than {MAX_BYTES >> 30} GiB; {stream_advice()}")
        file.write(piece)
    if not num_bytes:
        raise BadInputError(f"{name}: no bytes, expected a video")
    return num_bytes


def record(address: Address, file: IO[bytes], *, seconds: float) -> str:
    """Keep the next seconds without loss; returns ffmpeg's first complaint, or "".

    Raises VideoError if there is no picture, and BadInputError if they are larger than MAX_BYTES.
    """
    options = (*PICTURE_ONLY, "-t", f"{seconds:g}", "-fps_mode", "passthrough", *LOSSLESS, "pipe:1")
    with Ffmpeg(address, output_options=options, time_limit_seconds=TIME_LIMIT_SECONDS) as ffmpeg:
        ffmpeg.seconds = seconds
        _copy(ffmpeg.pieces(), file, address.name)
        exit_code = ffmpeg.wait()
        log = Log(ffmpeg.log())
    if exit_code or log.end_seconds() is None:
        raise log.no_frames_error(f"no frame could be decoded (ffmpeg's exit code {exit_code})")
    return log.complaint()
