"""What can be read only once, kept in a file: standard input, a download, some seconds of a camera or a stream."""

import base64
import http.client
import os
import select
import urllib.request
from collections.abc import Iterable, Iterator
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from twostream.errors import one_line
from twostream.threads import stop_if_abandoned
from twostream.video.addresses import without_password
from twostream.video.decoder import PICTURE_ONLY
from twostream.video.ffmpeg import TIME_LIMIT_SECONDS, Address, Ffmpeg, VideoError
from twostream.video.ffmpeg_log import Log

STDIN_NUMBER = 0
"""whatever stands in sys.stdin"""
MAX_BYTES = 8 << 30
"""of one recording"""
TIMEOUT_SECONDS = 30.0
"""in which a server must send something"""
PIECE_BYTES = 1 << 20
LOGIN = "Authorization"
PATIENCE_SECONDS = 0.5
"""of waiting for standard input, before it is asked whether it is still wanted"""
LOSSLESS = ("-c:v", "ffvhuff", "-f", "matroska")
"""faster than real time on one core; streams as they are sent cannot always be stored, for lack of time stamps"""


def copy_stdin(file: IO[bytes]) -> str:
    """Copy standard input; returns what is unusual about it, which is nothing.

    Raises VideoError if it is a terminal, empty, or larger than MAX_BYTES.
    """
    if os.isatty(STDIN_NUMBER):
        raise VideoError("standard input is a terminal, expected a video: twostream predict - < VIDEO", "unreadable")
    if not _copy(_stdin_pieces(), file):
        raise VideoError("0 bytes, expected a video", "empty")
    return ""


def _stdin_pieces() -> Iterator[bytes]:
    while True:
        while not select.select([STDIN_NUMBER], [], [], PATIENCE_SECONDS)[0]:
            stop_if_abandoned()
        if not (piece := os.read(STDIN_NUMBER, PIECE_BYTES)):
            return
        yield piece


def download(url: str, file: IO[bytes]) -> str:
    """Download a file; returns what is unusual about it, which is nothing.

    Raises VideoError if the server cannot be reached, does not have it, or sends less or more than it should.
    """
    parts = urlsplit(url)
    request = urllib.request.Request(without_password(url))
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_unredirected_header(LOGIN, f"Basic {base64.b64encode(login.encode()).decode()}")
    try:
        with urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT_SECONDS) as answer:
            if answer.headers.get_content_maintype() == "multipart":
                raise VideoError(stream_advice(), "unreadable")
            length = int(answer.headers.get("Content-Length") or 0)
            # read1: what has arrived; a whole piece may take minutes
            num_bytes = _copy(iter(lambda: answer.read1(PIECE_BYTES), b""), file)
    except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: not a URL
        raise VideoError(f"cannot be downloaded: {one_line(error)}", "unreadable") from None
    if num_bytes < max(length, 1):
        raise VideoError(f"{num_bytes} of {length} bytes arrived", "cut short")
    return ""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Sends the login on to the server that it is for, and to no other."""

    def redirect_request(self, req: urllib.request.Request, *facts: Any) -> urllib.request.Request | None:
        new = super().redirect_request(req, *facts)
        login = req.unredirected_hdrs.get(LOGIN)
        if new and login and (new.type, new.host) == (req.type, req.host):
            new.add_unredirected_header(LOGIN, login)
        return new


def stream_advice() -> str:
    """What to do about a source that has no end."""
    return "a stream has no end; add --live, or --seconds=10 to look at its next ten seconds"


def _copy(pieces: Iterable[bytes], file: IO[bytes]) -> int:
    num_bytes = 0
    for piece in pieces:
        stop_if_abandoned()
        num_bytes += len(piece)
        if num_bytes > MAX_BYTES:
            raise VideoError(f"more than {MAX_BYTES >> 30} GiB; {stream_advice()}", "too large")
        file.write(piece)
    return num_bytes


def record(address: Address, file: IO[bytes], *, seconds: float) -> str:
    """Keep the next seconds without loss; returns ffmpeg's first complaint, or "".

    Raises VideoError if there is no picture, or if they are larger than MAX_BYTES.
    """
    options = (*PICTURE_ONLY, "-t", f"{seconds:g}", "-fps_mode", "passthrough", *LOSSLESS, "pipe:1")
    with Ffmpeg(address, output_options=options, time_limit_seconds=TIME_LIMIT_SECONDS) as ffmpeg:
        ffmpeg.seconds = seconds
        _copy(ffmpeg.pieces(), file)
        exit_code = ffmpeg.wait()
        log = Log(ffmpeg.log())
    if exit_code or log.end_seconds() is None:
        raise log.no_frames_error(f"no frame could be decoded (ffmpeg's exit code {exit_code})")
    return log.complaint()
