"""Flow that another process computes, on a GPU, for all workers of this machine: how they ask, and how it is started.

A worker lays windows of grey frames into memory that it shares with that process (flow_server.py), and takes flow
images out of it. Only short messages go through sockets. Neither the memory nor the sockets have a name in a file
system, so they end with their processes, however those end:

    program   starts the server, whose standard input is a socket: {settings} -> {address, made by}; its end ends it
    worker    connects to the address for each video: {size of its windows} and the memory, then for each window
              {slot, number of frames} -> {slot}

While the server has one window of a video, the worker fills the other one. Linux only.
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

import numpy as np

from twostream.errors import EnvironmentFaultError
from twostream.flow.coding import ZERO
from twostream.flow.methods import FlowSettings

SLOTS = 2
"""windows of a video: one is filled, one is with the server"""
WINDOW_FRAMES = 32
"""at most; several workers together fill a GPU, and one frame of a window is expanded twice"""
WINDOW_BYTES = 64 << 20
"""at most, unless it takes more for two frames"""
MESSAGE_BYTES = 65536
START_SECONDS = 300
"""to load torch and to wake the device"""
ANSWER_SECONDS = 600
"""for a window; a device that hangs must not hold up the run for ever"""
ENDED = "its process has ended (killed? out of memory? what it has said stands above)"


class NoGpuError(Exception):
    """This machine has no such device as was asked for; the message says what was looked for."""


@dataclass(frozen=True)
class FlowDevice:
    """Where workers find the process that computes their flow; picklable."""

    name: str
    """as on the command line: cuda:0, torch-cpu"""
    address: str
    made_by: dict[str, str]
    """for the records of its flow images"""


@dataclass(frozen=True)
class Report:
    """What a server has done until now."""

    pairs: int
    seconds: float
    """from the first window to the last answer"""
    busy_seconds: float
    """of them, with at least one window on the device"""
    batches: int

    def to_text(self) -> str:
        seconds = max(self.seconds, 1e-9)
        rate, share = self.pairs / seconds, 100 * self.busy_seconds / seconds
        return f"{self.pairs} pairs, {rate:.0f} pairs/s, busy {share:.0f} % of the time"


@dataclass(frozen=True)
class Windows:
    """The memory that a worker shares with the server: SLOTS windows of frames, and of the flow images made of them."""

    height: int
    width: int
    planes: bool
    """the coding of the flow images; see flow.FlowCoding"""

    @property
    def image_shape(self) -> tuple[int, ...]:
        return (2 * self.height, self.width) if self.planes else (self.height, self.width, 3)

    @property
    def num_frames(self) -> int:
        """Frames of a window, an even number."""
        frame_bytes = self.height * self.width + math.prod(self.image_shape)
        return max(min(WINDOW_BYTES // frame_bytes, WINDOW_FRAMES) // 2 * 2, 2)

    def lay_out(self, memory: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames (SLOTS, num_frames, H, W) and flow images (SLOTS, num_frames, *image_shape) in a file of memory."""
        frames = (SLOTS, self.num_frames, self.height, self.width)
        images = (SLOTS, self.num_frames, *self.image_shape)
        frame_bytes, image_bytes = math.prod(frames), math.prod(images)
        os.ftruncate(memory, frame_bytes + image_bytes)
        mapped = np.frombuffer(mmap.mmap(memory, frame_bytes + image_bytes), np.uint8)
        return mapped[:frame_bytes].reshape(frames), mapped[frame_bytes:].reshape(images)


def send(connection: socket.socket, message: dict) -> None:
    connection.send(json.dumps(message).encode())


def receive(connection: socket.socket) -> dict:
    """The next message; {} when the other side has ended."""
    return json.loads(connection.recv(MESSAGE_BYTES) or "{}")


# ----------------------------------------------------------------------------------------------------------- a worker


class ServedFlow:
    """Flow images of a video, computed by the server: each comes back from a later call than the one that took its
    frames. Images stand in the shared memory until the next call.

    Calls raise ValueError where the size of the frames changes; EnvironmentFaultError when the server is gone, hangs,
    or says that it cannot go on.
    """

    def __init__(self, flow: FlowSettings, *, stored_step: int, device: FlowDevice):
        self.planes = flow.coding.planes
        self.stored_step = stored_step
        self.device = device
        self.chained = stored_step == 1
        """every pair begins with the frame that the last one ended with"""
        self.frames_seen = 0
        self.pair: list[np.ndarray] = []
        self.connection: socket.socket | None = None
        self.slot = 0
        self.num = 0
        """frames in the window that is filled"""
        self.frame_indices: list[int] = []
        """of the first frames of its pairs"""
        self.asked: deque[tuple[int, list[int]]] = deque()
        """slots that are with the server, and the frame indices of their images"""

    def close(self) -> None:
        if self.connection:
            self.connection.close()

    def add(self, gray: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """Take the next frame, (H, W) uint8; (frame index, flow image) of what is ready."""
        self.pair = [*self.pair[-1:], gray]
        self.frames_seen += 1
        index = self.frames_seen - 2
        return list(self._ask(index)) if index >= 0 and index % self.stored_step == 0 else []

    def finish(self) -> list[tuple[int, np.ndarray]]:
        """The rest; the last frame has no next one, and its image repeats the last pair."""
        last = self.frames_seen - 1
        if last == 0:  # a video of one frame does not move
            return [(0, np.full(Windows(*self.pair[0].shape, self.planes).image_shape, ZERO, np.uint8))]
        stored = last % self.stored_step == 0
        images = list(self._ask(last)) if stored and not self.chained else []
        images += self._send() if self.num else []
        while self.asked:
            images += self._answer()
        return images + ([(last, images[-1][1])] if self.chained else [])

    def _ask(self, frame_index: int) -> Iterator[tuple[int, np.ndarray]]:
        if self.connection is None:
            self._connect(self.pair[0].shape)
        if self.pair[1].shape != self.frames.shape[2:]:
            height, width = self.frames.shape[2:]
            raise ValueError(f"frames of {self.pair[1].shape[::-1]} pixels after some of {(width, height)}")
        for gray in self.pair[1:] if self.chained and self.num else self.pair:
            self.frames[self.slot, self.num] = gray
            self.num += 1
        self.frame_indices.append(frame_index)
        if self.num > self.frames.shape[1] - (1 if self.chained else 2):
            yield from self._send()

    def _send(self) -> Iterator[tuple[int, np.ndarray]]:
        """Hand over the window that was filled, and take back the other one."""
        with self._fault():
            send(self.connection, {"slot": self.slot, "num_frames": self.num})
        self.asked.append((self.slot, self.frame_indices))
        self.slot = (self.slot + 1) % SLOTS
        self.num, self.frame_indices = 0, []
        if len(self.asked) == SLOTS:
            yield from self._answer()

    def _answer(self) -> Iterator[tuple[int, np.ndarray]]:
        with self._fault():
            answer = receive(self.connection)
        slot, frame_indices = self.asked.popleft()
        if answer.get("slot") != slot:
            raise self._lost(ENDED)
        return zip(frame_indices, self.images[slot], strict=False)

    def _connect(self, shape: tuple[int, int]) -> None:
        windows = Windows(*shape, self.planes)
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection.settimeout(ANSWER_SECONDS)
        memory = os.memfd_create("flow")
        try:
            self.frames, self.images = windows.lay_out(memory)
            with self._fault():
                self.connection.connect(f"\0{self.device.address}")
                socket.send_fds(self.connection, [json.dumps(asdict(windows)).encode()], [memory])
        finally:
            os.close(memory)

    @contextmanager
    def _fault(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise self._lost(f"no answer in {ANSWER_SECONDS} s") from None
        except OSError:
            raise self._lost(ENDED) from None

    def _lost(self, reason: str) -> EnvironmentFaultError:
        return EnvironmentFaultError(
            f"flow on {self.device.name}: {reason}; what is published is kept: run the command again, or go on with "
            "--flow_device=cpu"
        )


# -------------------------------------------------------------------------------------------------------- the program


class FlowService:
    """The server, as long as this is open: `with FlowService("cuda:0", flow, stored_step=1) as service`.

    Raises NoGpuError where there is no such device; EnvironmentFaultError when it cannot be used.
    """

    def __init__(self, name: str, flow: FlowSettings, *, stored_step: int):
        self.control, its_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        with its_end:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "twostream.flow.server"],
                stdin=its_end,
                stdout=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": path},
                process_group=0,  # a terminal's Ctrl-C is for the program
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
            reason = answer.get("error", "its process ended before it was ready; what it says stands above")
            raise EnvironmentFaultError(f"--flow_device={name}: {reason}; go on with --flow_device=cpu")
        return FlowDevice(answer["name"], answer["address"], answer["made_by"]), answer["note"]

    def report(self) -> Report | None:
        """None when the server has ended."""
        try:
            send(self.control, {"report": True})
            return Report(**receive(self.control))
        except (OSError, TypeError):
            return None

    def close(self) -> None:
        self.control.close()
        self.process.kill()  # it keeps nothing that a kill could spoil
        self.process.wait()

    def __enter__(self) -> "FlowService":
        return self

    def __exit__(self, *error) -> None:
        self.close()
