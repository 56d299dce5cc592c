"""What ffmpeg opens beside files: streams of the network, cameras, and standard input.

Each gets the protocols and formats that it needs, and no others: a playlist of a server must not name files of this
machine.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from twostream.errors import BadInputError
from twostream.video.ffmpeg import CONTAINERS, Address

STDIN = "-"


@dataclass(frozen=True)
class _Scheme:
    """How ffmpeg opens addresses that begin with the same word."""

    protocols: str
    formats: str = CONTAINERS
    options: tuple[str, ...] = ()


_WEB = _Scheme("http,https,httpproxy,tcp,tls,crypto", f"{CONTAINERS},hls,mpjpeg")
_RTSP = _Scheme("rtp,srtp,udp,tcp,tls", "rtsp", ("-rtsp_flags", "prefer_tcp"))  # UDP loses packets
_RTMP = _Scheme("rtmp,rtmps,tcp,tls", "flv,live_flv")
SCHEMES = {
    "http": _WEB,
    "https": _WEB,
    "rtsp": _RTSP,
    "rtsps": _RTSP,
    "rtmp": _RTMP,
    "rtmps": _RTMP,
    "srt": _Scheme("srt"),
    "tcp": _Scheme("tcp"),
    "udp": _Scheme("udp"),
}
"""first word of an address -> how it is opened"""


def is_url(text: str) -> bool:
    """Whether the text is meant as an address of the network."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def is_download(text: str) -> bool:
    """Whether the address may be that of a file, which has an end; a playlist (HLS) is a stream."""
    return re.match(r"https?://[^?#]*(?<!\.m3u8)([?#]|$)", text, re.IGNORECASE) is not None


def network_address(text: str) -> Address:
    """An address such as rtsp://camera/1; BadInputError naming the schemes that can be opened if it has another."""
    scheme = text.partition("://")[0].lower()
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise BadInputError(f"{text}: expected a file, a folder, or an address that begins with one of {known}")
    if not text.isprintable() or " " in text:
        raise BadInputError(
            f"{text!r}: an address without spaces and control characters is expected; write them as %20"
        )
    way = SCHEMES[scheme]
    limits = ("-protocol_whitelist", way.protocols, "-format_whitelist", way.formats)
    return Address(without_password(text), (*limits, *way.options), text)


def without_password(url: str) -> str:
    """The address as messages and results name it: without user name and password."""
    return re.sub(r"(?<=://)[^/?#@]*@", "", url)


def is_camera(text: str) -> bool:
    """Whether the text names a camera: its number, or its device. A file or folder whose name is a number is not one."""
    return (text.isdecimal() and text.isascii() and not Path(text).exists()) or Path(text).is_char_device() or (
        re.fullmatch(r"/dev/video[0-9]+", text) is not None
    )  # fmt: skip


def camera_address(text: str) -> Address:
    """The camera with this number or device, read by Video4Linux; BadInputError naming those that exist if it does not."""
    device = f"/dev/video{int(text)}" if text.isdecimal() else text
    if not Path(device).is_char_device():
        found = ", ".join(sorted(map(str, Path("/dev").glob("video[0-9]*")))) or "none"
        raise BadInputError(f"{text}: there is no camera {device}; cameras found: {found}")
    return Address(text, ("-f", "v4l2"), device)


def stdin_address() -> Address:
    """Standard input: an encoded video in a container that can be read from its start, such as MPEG-TS or Matroska."""
    limits = ("-protocol_whitelist", "pipe", "-format_whitelist", CONTAINERS)
    return Address(STDIN, limits, "pipe:0", can_open_again=False)
