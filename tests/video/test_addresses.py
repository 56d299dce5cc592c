"""What ffmpeg opens beside files: only what a user may mean, with no more protocols than it needs."""

import pytest

from twostream.errors import BadInputError
from twostream.video.addresses import (
    SCHEMES,
    camera_address,
    is_camera,
    is_download,
    is_url,
    network_address,
    stdin_address,
    without_password,
)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_address_can_reach_files_of_this_machine(scheme):
    address = network_address(f"{scheme}://host/path")
    options = dict(zip(address.options[::2], address.options[1::2], strict=True))
    protocols = options["-protocol_whitelist"].split(",")
    assert not {"file", "pipe", "concat", "subfile", "data", "fd", "unix"} & set(protocols)
    assert "-format_whitelist" in options and "concat" not in options["-format_whitelist"].split(",")
    assert address.target == f"{scheme}://host/path" and address.can_open_again


@pytest.mark.parametrize("text", ["file:///etc/passwd", "concat://a", "ftp://host/a", "gopher://x", "rtsp://host/a b", "http://host/\n"])  # fmt: skip
def test_other_addresses_are_refused(text):
    assert is_url(text)
    with pytest.raises(BadInputError, match="address"):
        network_address(text)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://user:secret@host:554/1", "rtsp://host:554/1"),
        ("rtsp://user@host/1", "rtsp://host/1"),
        ("http://host/a@b", "http://host/a@b"),
        ("http://host/?q=a@b", "http://host/?q=a@b"),
    ],
)
def test_passwords_are_not_shown(url, shown):
    assert without_password(url) == network_address(url).name == shown


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://host/a.mp4", True), ("http://host/a.mp4?x=.m3u8", True), ("HTTP://host/a", True),
        ("https://host/a.m3u8", False), ("https://host/a.M3U8?x", False), ("rtsp://host/a.mp4", False),
    ],
)  # fmt: skip
def test_downloads(url, expected):
    assert is_download(url) is expected


def test_cameras(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_camera("0") and is_camera("/dev/video12") and is_camera("/dev/null")
    (tmp_path / "1").mkdir()
    assert not any(map(is_camera, ["1", "", "-", "a", "01.mp4", "/dev/videos", "²"]))
    with pytest.raises(BadInputError, match="no camera /dev/video93; cameras found"):
        camera_address("93")
    assert camera_address("/dev/null").options == ("-f", "v4l2")


def test_standard_input_is_a_container_from_a_pipe():
    address = stdin_address()
    assert address.target == "pipe:0" and not address.can_open_again
    assert address.options[:2] == ("-protocol_whitelist", "pipe")
