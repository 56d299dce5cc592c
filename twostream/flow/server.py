"""The process that computes Farneback's flow for all workers of a machine, on one device; see service.py.

Waiting windows of any videos are computed together, as many as one pass of the device can hold, if their frames have
the same size. They are put one after the other, and the flow across their seams is discarded. A GPU has two such batches
at a time: one is copied while the other is computed. It reads and writes the memory of the workers by itself, so that
this process copies nothing. Flow is coded on the device: only 2 or 3 bytes a pixel are copied back.
"""

import json
import os
import secrets
import selectors
import signal
import socket
import struct
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from twostream.errors import one_line
from twostream.flow.farneback import Farneback
from twostream.flow.service import MESSAGE_BYTES, ServerStatistics, Windows, map_memory, receive, send

NUM_SIZES = 64
"""sizes of frames whose tables are kept; of 340x256 they take 2 MB"""
POLL_SECONDS = 0.0005
"""between checks whether the device is done"""
BATCHES_AT_A_TIME = {"cuda": 2, "cpu": 1}


class FlowImages:
    """Windows of frames -> the flow images of their pairs, on one device, without waiting for it.

    parameters: of Farneback. chained: each frame of a window makes a pair with the next; else frames 0 and 1 are a
    pair, frames 2 and 3, and so on. planes and scale: the coding, see FlowCoding.
    """

    def __init__(self, device: torch.device, *, parameters: dict[str, Any], chained: bool, planes: bool, scale: float):
        self.device = device
        self.chained = chained
        self.planes = planes
        self.scale = scale
        self.on_gpu = device.type == "cuda"
        self.method = lru_cache(NUM_SIZES)(self._build)
        self.parameters = parameters | {"fused": self.on_gpu}
        self.pins = self.on_gpu
        """may the device read and write the memory of the workers by itself?"""
        self.limits: dict[tuple[int, int], int] = {}
        """(height, width) -> pairs at a time"""

    def warm_up(self) -> str:
        """Start the device; returns a warning for the user, or ""."""
        frames = torch.zeros(3, 64, 64, dtype=torch.uint8, device=self.device)
        note = ""
        try:
            self.method(64, 64).sequence(frames).cpu()
        except Exception as error:  # Triton needs a C compiler, and its errors have no type in common
            if not self.on_gpu or isinstance(error, torch.OutOfMemoryError):
                raise
            note = f"Triton kernels do not work here ({one_line(error)}): plain tensor operations compute flow, slower"
            self.parameters["fused"] = False
            self.method.cache_clear()
            self.method(64, 64).sequence(frames).cpu()
        if self.pins:
            memory = torch.zeros(1 << 20, dtype=torch.uint8)
            try:
                self.pin(memory.data_ptr(), memory.nbytes)()
            except RuntimeError as error:
                self.pins = False
                with suppress(RuntimeError):  # CUDA reports its last error once more
                    frames.zero_()
                note += (
                    f"the GPU cannot share memory with the workers ({one_line(error)}): frames are copied twice, slower"
                )
        return note

    def pin(self, address: int, num_bytes: int) -> Callable[[], object]:
        """Let the device read and write memory of this process by itself, if it can; returns what ends that."""
        if not self.pins:
            return lambda: None
        cuda = torch.cuda.cudart()
        torch.cuda.check_error(cuda.cudaHostRegister(address, num_bytes, 0))
        return lambda: cuda.cudaHostUnregister(address)

    def _build(self, height: int, width: int) -> Farneback:
        method = Farneback(height, width, device=self.device, **self.parameters)
        if self.on_gpu:
            torch.cuda.synchronize(self.device)  # its tables are used on other streams
        return method

    def chunk(self, height: int, width: int) -> int:
        """How many pairs of this size are computed at a time."""
        if (height, width) not in self.limits:  # a GPU is not asked for its free memory again for each batch
            self.limits[height, width] = self.method(height, width).chunk()
        return self.limits[height, width]

    @torch.inference_mode()
    def start(self, windows: list[Tensor], results: list[Tensor]) -> None:
        """Windows (T, H, W) uint8 -> the flow images of their pairs, written to `results`; both are on the CPU.

        They are complete once the current stream has done this work; until then, the memory of both is in use. Where the
        device runs out of memory, half as many pairs at a time are tried, down to one pair; then the error is raised.
        """
        height, width = windows[0].shape[1:]
        chunk = self.chunk(height, width)
        while True:
            try:
                images = self._images(windows, chunk)
                break
            except torch.OutOfMemoryError:
                if chunk == 1:
                    raise
            torch.cuda.synchronize(self.device)  # other batches end and release their memory
            torch.cuda.empty_cache()
            self.limits[height, width] = chunk = chunk // 2
        first = 0
        for result in results:
            result.copy_(images[first : first + len(result)], non_blocking=True)
            first += len(result) + self.chained  # skips the image of the seam

    def _images(self, windows: list[Tensor], chunk: int) -> Tensor:
        height, width = windows[0].shape[1:]
        frames = torch.empty(sum(map(len, windows)), height, width, dtype=torch.uint8, device=self.device)
        for part, window in zip(frames.split([len(window) for window in windows]), windows, strict=True):
            part.copy_(window, non_blocking=True)
        method = self.method(height, width)
        if self.chained:
            flow = method.sequence(frames, chunk=chunk)
        else:
            flow = method.pairs(frames[::2], frames[1::2], chunk=chunk)
        return method.encode(flow, scale=self.scale, planes=self.planes)


class Worker:
    """The connection of a worker."""

    def __init__(self, connection: socket.socket, flow_images: FlowImages):
        self.connection, self.flow_images = connection, flow_images
        self.windows: Windows | None = None
        """of its last request"""

    def read(self) -> "Request | None":
        """The worker's next request; None for its first message, the memory. Raises EOFError when it has ended."""
        message, descriptors, _, _ = socket.recv_fds(self.connection, MESSAGE_BYTES, 1)
        if not message:
            raise EOFError
        values = json.loads(message)
        if descriptors:
            self.memory = map_memory(descriptors[0], values["num_bytes"])
            os.close(descriptors[0])
            unpin = self.flow_images.pin(self.memory.ctypes.data, self.memory.nbytes)
            weakref.finalize(self, unpin)  # before it is unmapped
            return None
        windows = Windows(values["height"], values["width"], self.flow_images.planes)
        if windows != self.windows:
            self.windows = windows
            self.frames, self.images = map(torch.from_numpy, windows.lay_out(self.memory))
        slot, num_frames = values["slot"], values["num_frames"]
        num_pairs = num_frames - 1 if self.flow_images.chained else num_frames // 2
        return Request(self, slot, self.frames[slot, :num_frames], self.images[slot, :num_pairs])

    def answer(self, slot: int) -> None:
        """Tell the worker that the images of a slot are ready."""
        with suppress(OSError):  # the worker has ended
            send(self.connection, {"slot": slot})


@dataclass(frozen=True)
class Request:
    """A window whose flow images a worker is waiting for, both in memory that the worker shares."""

    worker: Worker
    slot: int
    frames: Tensor
    """uint8 (T, H, W)"""
    images: Tensor
    """where the flow images of its pairs go: uint8 (P, ...), see `Windows`"""


@dataclass(frozen=True)
class Batch:
    """Requests that the device is working on."""

    requests: list[Request]
    num_pairs: int
    event: torch.cuda.Event | None
    """after the last work for these images; None on the CPU, which does not return before it is done"""

    def is_done(self) -> bool:
        """Whether the images are complete, in the memory of the workers."""
        return self.event is None or self.event.query()


class Server:
    """Reads requests, keeps the device busy with them, and answers.

    It ends with the program at the other end of `control`. Workers connect to `listener`.
    """

    def __init__(self, control: socket.socket, listener: socket.socket, flow_images: FlowImages):
        self.control = control
        self.listener = listener
        self.flow_images = flow_images
        self.selector = selectors.DefaultSelector()
        self.selector.register(control, selectors.EVENT_READ)
        self.selector.register(listener, selectors.EVENT_READ)
        self.waiting: dict[tuple[int, int], deque[Request]] = {}
        """by size of the frames (height, width); the size that has waited longest comes first"""
        self.running: deque[Batch] = deque()
        kind = flow_images.device.type
        self.streams = deque(
            torch.cuda.Stream(flow_images.device) if kind == "cuda" else None for _ in range(BATCHES_AT_A_TIME[kind])
        )
        self.pairs = self.batches = 0
        self.busy_seconds = self.busy_since = self.first = self.last = self.first_cpu = self.last_cpu = 0.0

    def run(self) -> None:
        """Work until the program has ended."""
        while self._listen():
            while self.waiting and len(self.running) < len(self.streams):
                self._start(self._take())
            while self.running and self.running[0].is_done():
                self._answer()

    def _listen(self) -> bool:
        """Read the messages that have arrived; False when the program has ended."""
        timeout: float | None = None
        if self.waiting:
            timeout = 0
        elif self.running:
            timeout = POLL_SECONDS
        for key, _ in self.selector.select(timeout):
            if key.fileobj is self.listener:
                self._accept()
            elif key.fileobj is not self.control:
                self._read(key.data)
            elif receive(self.control):
                send(self.control, asdict(self.statistics()))
            else:
                return False
        return True

    def statistics(self) -> ServerStatistics:
        """What has been done so far."""
        cpu_seconds = self.last_cpu - self.first_cpu
        return ServerStatistics(self.pairs, self.last - self.first, self.busy_seconds, self.batches, cpu_seconds)

    def _accept(self) -> None:
        connection = self.listener.accept()[0]
        _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if user != os.getuid():
            connection.close()
            return
        self.selector.register(connection, selectors.EVENT_READ, Worker(connection, self.flow_images))

    def _read(self, worker: Worker) -> None:
        try:
            request = worker.read()
        except (EOFError, OSError):  # its pending requests are still computed; its memory is freed with the last one
            self.selector.unregister(worker.connection)
            worker.connection.close()
            return
        if request:
            if not self.first:
                self.first, self.first_cpu = time.monotonic(), time.process_time()
            height, width = request.frames.shape[1:]
            self.waiting.setdefault((height, width), deque()).append(request)

    def _take(self) -> list[Request]:
        """Requests of one size, in their order, as many as one pass of the device can hold."""
        size = next(iter(self.waiting))
        queue = self.waiting.pop(size)
        room = self.flow_images.chunk(*size)
        requests = [queue.popleft()]
        while queue and sum(len(request.frames) for request in requests) + len(queue[0].frames) <= room:
            requests.append(queue.popleft())
        if queue:
            self.waiting[size] = queue
        return requests

    def _start(self, requests: list[Request]) -> None:
        if not self.running:
            self.busy_since = time.monotonic()
        stream = self.streams[0]
        self.streams.rotate()
        results = [request.images for request in requests]
        with torch.cuda.stream(stream):
            self.flow_images.start([request.frames for request in requests], results)
            event = stream.record_event() if stream else None
        self.running.append(Batch(requests, sum(map(len, results)), event))

    def _answer(self) -> None:
        batch = self.running.popleft()
        self.last, self.last_cpu = time.monotonic(), time.process_time()
        if not self.running:
            self.busy_seconds += self.last - self.busy_since
        for request in batch.requests:
            request.worker.answer(request.slot)
        self.pairs += batch.num_pairs
        self.batches += 1


def find_device(name: str) -> torch.device:
    """The device called cuda, cuda:1 or torch-cpu.

    Raises LookupError where there is no GPU, ValueError where there is no GPU of this number.
    """
    if name == "torch-cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise LookupError(f"no GPU that torch {torch.__version__} can use")
    device = torch.device(name)
    device = torch.device("cuda", device.index or 0)
    if device.index >= torch.cuda.device_count():
        raise ValueError(f"no such GPU, expected cuda:0 to cuda:{torch.cuda.device_count() - 1}")
    return device


def main(control: socket.socket) -> None:
    """Run the server; `control` is the socket of the program that started it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the program handles them, and its end ends this
        signal.signal(number, signal.SIG_IGN)
    settings = receive(control)
    try:
        device = find_device(name := settings.pop("name"))
        if device.type == "cuda":
            torch.cuda.set_device(device)
            torch.set_num_threads(1)  # the CPU only copies here, and its cores belong to the workers
        flow_images = FlowImages(device, **settings)
        note = flow_images.warm_up()
    except LookupError as error:
        return send(control, {"no_gpu": str(error)})
    except (ValueError, RuntimeError) as error:
        return send(control, {"error": one_line(error)})
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    address = f"twostream-flow-{secrets.token_hex(16)}"
    listener.bind(f"\0{address}")  # in Linux's name space without files
    listener.listen(1024)
    made_by = {"device": device.type, "torch": torch.__version__}
    if device.type == "cuda":
        name = str(device)
        made_by["name"] = torch.cuda.get_device_name(device)
    send(control, {"name": name, "address": address, "made_by": made_by, "note": note})
    try:
        Server(control, listener, flow_images).run()
    except RuntimeError as error:  # of the device: memory, driver, hardware; the workers notice that this has ended
        sys.exit(f"flow on {name}: {one_line(error)}")
