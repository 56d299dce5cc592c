#!/usr/bin/env python3
"""A stream whose pictures show the time at which they were made, so that their reader knows how old they are.

The time is burnt in as two rows of sixteen black or white fields, which survive encoding and scaling: milliseconds since
1970, modulo 2^32, the highest bit first. Below them, a texture moves.

  python tests/clock.py --port=9000          # serves MPEG-TS to clients of tcp://127.0.0.1:9000
"""

import argparse
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from twostream.video.ffmpeg import find_ffmpeg

ROWS, COLUMNS = 2, 16
BITS = ROWS * COLUMNS
PART = 4
"""the rows of fields cover the upper 1 / PART of the picture"""


def burn(picture: np.ndarray, milliseconds: int) -> None:
    """Draw a time into a picture, uint8 (H, W, 3)."""
    height, width = picture.shape[0] // PART, picture.shape[1]
    bits = [(milliseconds >> (BITS - 1 - k)) & 1 for k in range(BITS)]
    fields = np.array(bits, np.uint8).reshape(ROWS, COLUMNS) * 255
    picture[:height] = cv2.resize(fields, (width, height), interpolation=cv2.INTER_NEAREST)[..., None]


def read(picture: np.ndarray) -> int:
    """The time in a picture of any size, uint8 (H, W, 3): milliseconds modulo 2^32."""
    height, width = picture.shape[0] / PART / ROWS, picture.shape[1] / COLUMNS
    grey = picture.mean(axis=2)
    value = 0
    for row in range(ROWS):
        for column in range(COLUMNS):
            centre = grey[int((row + 0.5) * height), int((column + 0.5) * width)]
            value = 2 * value + int(centre > 127)
    return value


def age_seconds(picture: np.ndarray, now: float) -> float:
    """How long before `now`, seconds since 1970, a picture was made."""
    return ((round(1000 * now) - read(picture)) % 2**BITS) / 1000


def pictures(width: int, height: int, fps: float) -> Iterator[np.ndarray]:
    """Pictures in real time."""
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3), np.uint8), (0, 0), 3)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    start = time.monotonic()
    number = 0
    while True:
        time.sleep(max(start + number / fps - time.monotonic(), 0))
        picture = np.roll(texture, 3 * number, axis=1)
        burn(picture, round(1000 * time.time()) % 2**BITS)
        yield picture
        number += 1


def encoder(width: int, height: int, fps: float) -> subprocess.Popen:
    """ffmpeg, from raw pictures to MPEG-TS, as cameras encode: without frames that refer to later ones."""
    source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "pipe:0")
    codec = ("-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "30", "-pix_fmt", "yuv420p")
    command = [
        find_ffmpeg(),
        "-nostdin",
        "-loglevel",
        "error",
        *source,
        *codec,
        "-flush_packets",
        "1",
        "-f",
        "mpegts",
        "pipe:1",
    ]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)


def send(connection: socket.socket, width: int, height: int, fps: float, num_pictures: int) -> None:
    """Stream to one client until it has left, or has got `num_pictures` (0: no end)."""
    with encoder(width, height, fps) as process:
        forward = subprocess.Popen(["cat"], stdin=process.stdout, stdout=connection.fileno(), stderr=subprocess.DEVNULL)
        try:
            for number, picture in enumerate(pictures(width, height, fps), 1):
                process.stdin.write(picture.tobytes())
                if number == num_pictures:
                    return
        except BrokenPipeError:
            return
        finally:
            process.kill()
            forward.kill()
            forward.wait()


def main() -> None:
    """Serve one client after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0: a free one, which is printed (default: 0)")
    parser.add_argument("--size", default="340x256", help="of the pictures (default: 340x256)")
    parser.add_argument("--fps", type=float, default=30)
    parser.add_argument("--lose_after", type=int, default=0, metavar="N", help="close each connection after N pictures")
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    with socket.create_server(("127.0.0.1", args.port)) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            connection, _ = server.accept()
            with connection:
                send(connection, width, height, args.fps, args.lose_after)


if __name__ == "__main__":
    main()
