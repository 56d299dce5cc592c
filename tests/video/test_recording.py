"""What can be read only once is kept whole, or refused in one line."""

import base64
import contextlib
import functools
import http.server
import io
import math
import os
import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest

from tests import toy
from twostream.threads import background_thread
from twostream.video import recording
from twostream.video.addresses import network_address
from twostream.video.decoder import Decoder
from twostream.video.ffmpeg import VideoError
from twostream.video.recording import copy_stdin, download, record


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; below /secret with a password, /short and /endless wrongly."""

    def log_message(self, *words):
        pass

    def do_GET(self):
        login = "Basic " + base64.b64encode(b"me:p w").decode()
        if self.path.startswith("/secret/"):
            if self.headers.get("Authorization") != login:
                return self.send_error(401)
            self.path = self.path.removeprefix("/secret")
        self.server.logins.append((self.path, self.headers.get("Authorization")))
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        elif self.path == "/slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(3000):
                self.wfile.write(b"x")
                time.sleep(0.01)
        elif self.path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"x" * 40)
        elif self.path == "/endless":
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=x")
            self.end_headers()
        else:
            super().do_GET()


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    """Folder that is served, and its address without http://"""
    folder = tmp_path_factory.mktemp("web")
    toy.write_video(folder / "a.mkv", toy.frames(1, "red", "left")[:20])
    (folder / "empty").write_bytes(b"")
    with serve(folder) as server:
        yield folder, f"127.0.0.1:{server.server_port}"


@contextlib.contextmanager
def serve(folder):
    """A server of the folder; `logins` has each path that it was asked for, and the login that came with it."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        server.logins = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("place", ["{}/a.mkv", "me:p%20w@{}/secret/a.mkv"])
def test_a_download_is_the_file(place, web):
    folder, host = web
    file = io.BytesIO()
    assert download("http://" + place.format(host), file) == ""
    assert file.getvalue() == (folder / "a.mkv").read_bytes()


def test_a_login_is_sent_to_its_own_server_only(web):
    """Redirects from the server to itself, to another one, which is another port, and back to the first."""
    with serve(web[0]) as own, serve(web[0]) as other:
        near, far = (f"http://127.0.0.1:{server.server_port}" for server in (own, other))
        for path in ("/to//a.mkv", f"/to/{near}/a.mkv", f"/to/{far}/to/{near}/a.mkv"):
            file = io.BytesIO()
            download(near.replace("//", "//me:p%20w@") + path, file)
            assert file.getvalue() == (web[0] / "a.mkv").read_bytes()
    login = "Basic " + base64.b64encode(b"me:p w").decode()
    assert own.logins == [
        ("/to//a.mkv", login), ("/a.mkv", login), (f"/to/{near}/a.mkv", login), ("/a.mkv", login),
        (f"/to/{far}/to/{near}/a.mkv", login), ("/a.mkv", None),
    ]  # fmt: skip
    assert other.logins == [(f"/to/{near}/a.mkv", None)]


def leave_when_begun(file, fill):
    """Begin to fill a file in the background, and leave it; returns how that ended, and after how many seconds."""
    with background_thread() as background:
        coming = background.submit(fill, file)
        time.sleep(0.5)
        start = time.monotonic()
    return coming.exception(), time.monotonic() - start


def test_a_slow_download_ends_when_nobody_waits_for_it(web):
    file = io.BytesIO()
    error, seconds = leave_when_begun(file, functools.partial(download, f"http://{web[1]}/slow"))
    assert isinstance(error, CancelledError) and seconds < 5 and 0 < len(file.getvalue()) < 1000


def test_standard_input_that_never_comes_ends_when_nobody_waits_for_it(stdin):
    reading, writing = os.pipe()
    stdin(f"/dev/fd/{reading}")
    try:
        error, seconds = leave_when_begun(io.BytesIO(), copy_stdin)
    finally:
        os.close(writing)
        os.close(reading)
    assert isinstance(error, CancelledError) and seconds < 5


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("none.mkv", "404"), ("secret/a.mkv", "401"), ("short", "40 of 100 bytes"), ("empty", "0 of 0 bytes"),
        ("endless", "--live, or --seconds=10"),
    ],
)  # fmt: skip
def test_what_is_not_whole_is_refused(path, says, web):
    with pytest.raises(VideoError, match=says):
        download(f"http://{web[1]}/{path}", io.BytesIO())


def test_what_is_too_large_is_refused(web, monkeypatch):
    monkeypatch.setattr(recording, "MAX_BYTES", 1000)
    with pytest.raises(VideoError, match="more than 0 GiB.*--live"):
        download(f"http://{web[1]}/a.mkv", io.BytesIO())


@pytest.mark.parametrize("seconds", [0.5, 100])
def test_seconds_of_a_stream_are_kept_without_loss(seconds, web, tmp_path):
    folder, host = web
    with open(tmp_path / "kept", "wb") as file:
        record(network_address(f"http://{host}/a.mkv"), file, seconds=seconds)
    expected = list(Decoder(folder / "a.mkv"))[: math.ceil(15 * seconds)]
    np.testing.assert_array_equal(list(Decoder(tmp_path / "kept")), expected)
    with pytest.raises(VideoError, match="404"):
        record(network_address(f"http://{host}/none"), io.BytesIO(), seconds=1)


@pytest.fixture
def stdin():
    """Write bytes into this process's standard input."""
    saved = os.dup(0)
    try:
        yield lambda path: os.dup2(os.open(path, os.O_RDONLY), 0)
    finally:
        os.dup2(saved, 0)
        os.close(saved)


def test_standard_input(web, stdin):
    stdin(web[0] / "a.mkv")
    file = io.BytesIO()
    copy_stdin(file)
    assert file.getvalue() == (web[0] / "a.mkv").read_bytes()
    stdin(web[0] / "empty")
    with pytest.raises(VideoError, match="0 bytes"):
        copy_stdin(io.BytesIO())


def test_a_terminal_is_no_video(stdin):
    _, terminal = os.openpty()
    stdin(os.ttyname(terminal))
    with pytest.raises(VideoError, match="terminal, expected a video"):
        copy_stdin(io.BytesIO())
