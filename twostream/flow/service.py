"""Flow computed by another process, on a GPU, for all workers of this machine: how it is started and how workers ask.

A worker writes windows of grey frames into memory that it shares with that process (server.py), and reads flow images
from it. Only short messages go through sockets. Neither the memory nor the sockets have a name in a file system, so
they disappear with their processes, however those end:

    program   starts the server, whose standard input is a socket: {settings} -> {address, made by}. The server ends
              when the program closes that socket, or ends.
    worker    connects to the address and sends {size of the memory} with the memory, then for each window
              {slot, number of frames, their height and width} -> {slot}

While the server works on one window of a video, the worker fills the other one. A worker keeps its connection for its
next videos, so that a GPU maps its memory once. Linux only.
"""

import json
import math
import mmap
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import numpy as np

from twostream.errors import EnvironmentFaultError
from twostream.flow.coding import ZERO
from twostream.flow.methods import FlowSettings

SLOTS = 2
"""windows of a video: the worker fills one, the server has the other"""
WINDOW_FRAMES = 32
"""at most; several workers together fill a GPU, and one frame of each window is expanded twice"""
WINDOW_BYTES = 64 << 20
"""at most, unless two frames need more"""
MESSAGE_BYTES = 65536
START_SECONDS = 300
"""limit for loading torch and starting the device"""
ANSWER_SECONDS = 600
"""limit for a window; a device that hangs must not stop the run for ever"""
ENDED = "its process has ended (killed? out of memory? its own messages are above)"


class NoGpuError(Exception):
    """This machine does not have the requested device; the message says what was looked for."""


@dataclass(frozen=True)
class FlowDevice:
    """Where workers find the process that computes their flow. It can be pickled."""

    name: str
    """as on the command line: cuda:0, torch-cpu"""
    address: str
    """of the server's socket"""
    made_by: dict[str, str]
    """device and versions, for the records of its flow images"""


@dataclass(frozen=True)
class ServerStatistics:
    """What a server has done so far."""

    pairs: int
    """pairs of frames whose flow was computed"""
    seconds: float
    """from the first window to the last answer"""
    busy_seconds: float
    """the part of `seconds` in which the device had at least one window"""
    batches: int
    cpu_seconds: float
    """of the server's process in `seconds`"""

    def to_text(self) -> str:
        """One line for people."""
        seconds = max(self.seconds, 1e-9)
        rate, share = self.pairs / seconds, 100 * self.busy_seconds / seconds
        core = 100 * self.cpu_seconds / seconds
        return f"{self.pairs} pairs, {rate:.0f} pairs/s, busy {share:.0f} % of the time; its process took {core:.0f} % of a core"


@dataclass(frozen=True)
class Windows:
    """The memory that a worker shares with the server: SLOTS windows of frames, and as many of their flow images."""

    height: int
    width: int
    planes: bool
    """how the flow images are coded, see FlowCoding"""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of a flow image: (2H, W) for planes, else (H, W, 3)."""
        return (2 * self.height, self.width) if self.planes else (self.height, self.width, 3)

    @property
    def num_frames(self) -> int:
        """Frames of a window; an even number."""
        frame_bytes = self.height * self.width + math.prod(self.image_shape)
        return max(min(WINDOW_BYTES // frame_bytes, WINDOW_FRAMES) // 2 * 2, 2)

    @property
    def num_bytes(self) -> int:
        """Of all frames and flow images."""
        return SLOTS * self.num_frames * (self.height * self.width + math.prod(self.image_shape))

    def lay_out(self, memory: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Frames (SLOTS, num_frames, H, W) and flow images (SLOTS, num_frames, *image_shape), both uint8.

        They are the first `num_bytes` bytes of `memory`, uint8.
        """
        frames = (SLOTS, self.num_frames, self.height, self.width)
        images = (SLOTS, self.num_frames, *self.image_shape)
        frame_bytes = math.prod(frames)
        return memory[:frame_bytes].reshape(frames), memory[frame_bytes : self.num_bytes].reshape(images)


def map_memory(descriptor: int, num_bytes: int) -> np.ndarray:
    """The bytes of a memory file, uint8, which other processes see too."""
    return np.frombuffer(mmap.mmap(descriptor, num_bytes), np.uint8)


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Send a message; raises OSError when the other side has ended."""
    connection.send(json.dumps(message).encode())


def receive(connection: socket.socket) -> dict[str, Any]:
    """The next message; {} when the other side has ended."""
    message: dict[str, Any] = json.loads(connection.recv(MESSAGE_BYTES) or "{}")
    return message


# ----------------------------------------------------------------------------------------------------------- a worker


class Connection:
    """A worker's connection to a server, with the memory that they share. Raises OSError if the server has ended."""

    idle: ClassVar[list["Connection"]] = []
    """those of this process that no video uses"""

    def __init__(self, address: str, num_bytes: int):
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        descriptor = os.memfd_create("flow")
        try:
            os.ftruncate(descriptor, num_bytes)
            self.memory = map_memory(descriptor, num_bytes)
            self.socket.settimeout(ANSWER_SECONDS)
            self.socket.connect(f"\0{address}")
            socket.send_fds(self.socket, [json.dumps({"num_bytes": num_bytes}).encode()], [descriptor])
        except OSError:
            self.socket.close()
            raise
        finally:
            os.close(descriptor)

    @classmethod
    def open(cls, address: str, num_bytes: int) -> "Connection":
        """One that is idle, if its memory is large enough, or else a new one; the other idle ones are closed."""
        while cls.idle:
            connection = cls.idle.pop()
            if connection.address == address and len(connection.memory) >= num_bytes:
                return connection
            connection.socket.close()
        return cls(address, num_bytes)


class ServedFlow:
    """Flow images of a video, computed by the server.

    An image is returned by a later call than the one that took its frames. It is in the shared memory, and valid until
    the next call. Calls raise ValueError where the size of the frames changes, and EnvironmentFaultError when the
    server has ended or does not answer.
    """

    def __init__(self, flow: FlowSettings, *, stored_step: int, device: FlowDevice):
        self.planes = flow.coding.planes
        self.stored_step = stored_step
        self.device = device
        self.chained = stored_step == 1
        """each pair begins with the last frame of the pair before"""
        self.frames_seen = 0
        self.pair: list[np.ndarray] = []
        self.connection: Connection | None = None
        self.slot = 0
        self.num = 0
        """frames in the window that is being filled"""
        self.frame_indices: list[int] = []
        """indices of the first frames of its pairs"""
        self.pending: deque[tuple[int, list[int]]] = deque()
        """slots that the server has, and the frame indices of their images"""

    def close(self) -> None:
        """Leave the server; pending images are lost."""
        if self.connection and self.pending:  # the server still writes into the memory
            self.connection.socket.close()
        elif self.connection:
            Connection.idle.append(self.connection)
        self.connection = None

    def add(self, grey: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """Take the next frame, (H, W) uint8; returns (frame index, flow image) of each image that is ready."""
        self.pair = [*self.pair[-1:], grey]
        self.frames_seen += 1
        index = self.frames_seen - 2
        return list(self._ask(index)) if index >= 0 and index % self.stored_step == 0 else []

    def finish(self) -> list[tuple[int, np.ndarray]]:
        """The remaining images. The last frame has no next one, so its image is that of the pair before."""
        last = self.frames_seen - 1
        if last == 0:  # a video of one frame does not move
            return [(0, np.full(self._windows().image_shape, ZERO, np.uint8))]
        stored = last % self.stored_step == 0
        images = list(self._ask(last)) if stored and not self.chained else []
        images += self._send() if self.num else []
        while self.pending:
            images += self._answer()
        return images + ([(last, images[-1][1])] if self.chained else [])

    def _ask(self, frame_index: int) -> Iterator[tuple[int, np.ndarray]]:
        if self.connection is None:
            self._connect()
        (old_height, old_width), (height, width) = self.frames.shape[2:], self.pair[1].shape
        if (height, width) != (old_height, old_width):
            raise ValueError(f"found a frame of {width}x{height} pixels, those before it have {old_width}x{old_height}")
        for grey in self.pair[1:] if self.chained and self.num else self.pair:
            self.frames[self.slot, self.num] = grey
            self.num += 1
        self.frame_indices.append(frame_index)
        if self.num > self.frames.shape[1] - (1 if self.chained else 2):
            yield from self._send()

    def _send(self) -> Iterator[tuple[int, np.ndarray]]:
        """Send the window that was filled, and receive the images of the other one."""
        assert self.connection is not None  # the first frame of a window has connected
        with self._fault():
            height, width = self.frames.shape[2:]
            window = {"slot": self.slot, "num_frames": self.num, "height": height, "width": width}
            send(self.connection.socket, window)
        self.pending.append((self.slot, self.frame_indices))
        self.slot = (self.slot + 1) % SLOTS
        self.num, self.frame_indices = 0, []
        if len(self.pending) == SLOTS:
            yield from self._answer()

    def _answer(self) -> Iterator[tuple[int, np.ndarray]]:
        assert self.connection is not None  # something is pending
        with self._fault():
            answer = receive(self.connection.socket)
        slot, frame_indices = self.pending[0]
        if answer.get("slot") != slot:
            raise self._lost(ENDED)
        self.pending.popleft()
        return zip(frame_indices, self.images[slot], strict=False)

    def _windows(self) -> Windows:
        height, width = self.pair[0].shape
        return Windows(height, width, self.planes)

    def _connect(self) -> None:
        windows = self._windows()
        with self._fault():
            self.connection = Connection.open(self.device.address, windows.num_bytes)
        self.frames, self.images = windows.lay_out(self.connection.memory)

    @contextmanager
    def _fault(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise self._lost(f"no answer in {ANSWER_SECONDS} s") from None
        except OSError:
            raise self._lost(ENDED) from None

    def _lost(self, reason: str) -> EnvironmentFaultError:
        if self.connection:
            self.connection.socket.close()
            self.connection = None
        return EnvironmentFaultError(
            f"flow on {self.device.name}: {reason}; published videos are kept: run the command again, or again with "
            "--flow_device=cpu"
        )


# -------------------------------------------------------------------------------------------------------- the program


class FlowService:
    """The server, which runs as long as this is open: `with FlowService("cuda:0", flow, stored_step=1) as service`.

    Raises NoGpuError where there is no such device, and EnvironmentFaultError when it cannot be used.
    """

    def __init__(self, name: str, flow: FlowSettings, *, stored_step: int):
        self.control, server_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        with server_end:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "twostream.flow.server_process"],
                stdin=server_end.fileno(),
                stdout=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": path},
                process_group=0,  # so that Ctrl-C in a terminal reaches the program only
            )
        try:
            self.device, self.note = self._start(name, flow, stored_step)
        except BaseException:
            self.close()
            raise

    def _start(self, name: str, flow: FlowSettings, stored_step: int) -> tuple[FlowDevice, str]:
        self.control.settimeout(START_SECONDS)
        settings = {"name": name, "chained": stored_step == 1, "planes": flow.coding.planes, "scale": flow.coding.scale}
        try:
            send(self.control, settings | {"parameters": asdict(flow.farneback)})
            answer = receive(self.control)
        except OSError as error:
            answer = {"error": f"its process does not answer ({error})"}
        if "no_gpu" in answer:
            raise NoGpuError(answer["no_gpu"])
        if "address" not in answer:
            reason = answer.get("error", "its process ended before it was ready; its own messages are above")
            raise EnvironmentFaultError(f"--flow_device={name}: {reason}; use --flow_device=cpu instead")
        return FlowDevice(answer["name"], answer["address"], answer["made_by"]), answer["note"]

    def statistics(self) -> ServerStatistics | None:
        """What the server has done so far; None when it has ended."""
        try:
            send(self.control, {"statistics": True})
            return ServerStatistics(**receive(self.control))
        except (OSError, TypeError):
            return None

    def close(self) -> None:
        """End the server."""
        self.control.close()
        self.process.kill()  # it holds nothing that a kill could damage
        self.process.wait()

    def __enter__(self) -> "FlowService":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
