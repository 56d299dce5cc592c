"""A camera of the network: an RTSP server that sends one video over the connection of its requests (RFC 2326, 10.12)."""

import contextlib
import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.video.samples import run_ffmpeg

MAX_PACKET_BYTES = 2**16


@contextlib.contextmanager
def camera(video: Path) -> Iterator[str]:
    """The address of a camera that sends this video, a small one, to each client at once, and then nothing."""
    description, packets = _packets(video)

    class Client(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):
                while request := self.rfile.readline():
                    self._answer(request.split()[0])

        def _answer(self, method: bytes) -> None:
            headers = b"".join(iter(self.rfile.readline, b"\r\n"))
            number = re.search(rb"CSeq: *\d+", headers)
            answers = {
                b"OPTIONS": b"Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n\r\n",
                b"DESCRIBE": b"Content-Type: application/sdp\r\nContent-Length: %d\r\n\r\n" % len(description)
                + description,
                b"SETUP": b"Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n\r\n",
            }
            self.wfile.write(b"RTSP/1.0 200 OK\r\n" + number[0] + b"\r\n" + answers.get(method, b"Session: 1\r\n\r\n"))
            if method == b"PLAY":
                for packet in packets:
                    self.wfile.write(b"$\0" + len(packet).to_bytes(2) + packet)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Client) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"rtsp://127.0.0.1:{server.server_address[1]}/1"
        server.shutdown()


def _packets(video: Path) -> tuple[bytes, list[bytes]]:
    """What RTP carries of a video, as ffmpeg sends it: the description of the session, and the packets."""
    description = video.with_suffix(".sdp")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        port = receiver.getsockname()[1]
        run_ffmpeg("-i", video, "-c", "copy", "-f", "rtp", "-sdp_file", description, f"rtp://127.0.0.1:{port}")
        receiver.setblocking(False)
        packets = []
        with contextlib.suppress(BlockingIOError):
            while True:
                packets.append(receiver.recv(MAX_PACKET_BYTES))
    return description.read_bytes(), packets
