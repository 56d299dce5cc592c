"""The process that computes Farneback's flow for all workers of a machine, on one device; see flow_service.py.

Windows that wait are taken together, as many as one pass of the device holds, from whichever videos, of one size of
frames. They are laid one after the other in memory that the device can read by itself, and the flow across their seams
is thrown away. Two such batches are under way at a time: one is copied while the other is computed. Flow is coded on
the device, so that 2 or 3 bytes a pixel come back.
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
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache

import torch
from torch import Tensor

from twostream.flow.farneback import Farneback, encode_batch
from twostream.flow.service import MESSAGE_BYTES, Report, Windows, receive, send

NUM_SIZES = 64
"""sizes of frames whose tables are kept; of 340x256 they take 2 MB"""
POLL_SECONDS = 0.0005
"""between looks whether the device is done"""
BATCHES_UNDER_WAY = {"cuda": 2, "cpu": 1}


class FlowImages:
    """Windows of frames -> the flow images of their pairs, on one device, without waiting for it.

    chained: each frame of a window makes a pair with the next; else frames 0 and 1 are a pair, 2 and 3, and so on.
    """

    def __init__(self, device: torch.device, *, parameters: dict, chained: bool, planes: bool, scale: float):
        self.device = device
        self.chained = chained
        self.planes = planes
        self.scale = scale
        self.on_gpu = device.type == "cuda"
        self.method = lru_cache(NUM_SIZES)(self._build)
        self.parameters = parameters | {"fused": self.on_gpu}
        self.most: dict[tuple[int, int], int] = {}
        """pairs at a time, where the memory was once too small for more"""

    def warm_up(self) -> str:
        """Wake the device; "" or what is to be said of it."""
        frames = torch.zeros(3, 64, 64, dtype=torch.uint8, device=self.device)
        note = ""
        try:
            self.method(64, 64).sequence(frames).cpu()
        except Exception as error:  # of Triton, which needs a C compiler, and whose faults have no type in common
            if not self.on_gpu or isinstance(error, torch.OutOfMemoryError):
                raise
            note = f"no Triton kernels here ({_in_one_line(error)}): flow by plain tensor operations, which is slower"
            self.parameters["fused"] = False
            self.method.cache_clear()
            self.method(64, 64).sequence(frames).cpu()
        return note

    def _build(self, height: int, width: int) -> Farneback:
        method = Farneback(height, width, device=self.device, **self.parameters)
        if self.on_gpu:
            torch.cuda.synchronize(self.device)  # its tables are used on other streams
        return method

    def chunk(self, height: int, width: int) -> int:
        """Pairs at a time."""
        return self.most.get((height, width)) or self.method(height, width).chunk()

    @torch.inference_mode()
    def start(self, windows: list[Tensor]) -> Tensor:
        """Windows (T, H, W) uint8, one after the other -> their flow images on the CPU, those of seams among them.

        They are there when the current stream has come so far. When the memory of the device is too small, it is tried
        with half as many pairs at a time, down to one.
        """
        frames = torch.empty(sum(map(len, windows)), *windows[0].shape[1:], dtype=torch.uint8, pin_memory=self.on_gpu)
        torch.cat(windows, out=frames)
        size = windows[0].shape[1:]
        chunk = self.chunk(*size)
        while True:
            try:
                images = encode_batch(self._flow(frames, chunk), scale=self.scale, planes=self.planes)
                break
            except torch.OutOfMemoryError:
                if chunk == 1:
                    raise
            torch.cuda.synchronize(self.device)  # other batches end, and give back what they hold
            torch.cuda.empty_cache()
            self.most[size] = chunk = chunk // 2
        result = torch.empty(images.shape, dtype=torch.uint8, pin_memory=self.on_gpu)
        return result.copy_(images, non_blocking=True)

    def _flow(self, frames: Tensor, chunk: int) -> Tensor:
        method = self.method(*frames.shape[1:])
        frames = frames.to(self.device, non_blocking=True)
        if self.chained:
            return method.sequence(frames, chunk=chunk)
        return method.pairs(frames[::2], frames[1::2], chunk=chunk)


class Worker:
    """A connection of a worker, for one video."""

    def __init__(self, connection: socket.socket):
        self.connection = connection

    def read(self) -> "Request | None":
        """Its next request, after its memory; raises EOFError when it has ended."""
        message, memory, _, _ = socket.recv_fds(self.connection, MESSAGE_BYTES, 1)
        if not message:
            raise EOFError
        if not memory:
            return Request(self, **json.loads(message))
        windows = Windows(**json.loads(message))
        self.size = windows.height, windows.width
        self.frames, self.images = map(torch.from_numpy, windows.lay_out(memory[0]))
        os.close(memory[0])
        return None

    def answer(self, slot: int) -> None:
        with suppress(OSError):  # it has ended
            send(self.connection, {"slot": slot})


@dataclass(frozen=True)
class Request:
    """A window that a worker wants the flow images of."""

    worker: Worker
    slot: int
    num_frames: int

    @property
    def frames(self) -> Tensor:
        return self.worker.frames[self.slot, : self.num_frames]


@dataclass(frozen=True)
class Batch:
    """Requests that are under way."""

    requests: list[Request]
    images: Tensor
    event: torch.cuda.Event | None

    def is_done(self) -> bool:
        return self.event is None or self.event.query()

    def answer(self, *, chained: bool) -> int:
        """Hand out the flow images; how many."""
        place = pairs = 0
        for request in self.requests:
            num = request.num_frames - 1 if chained else request.num_frames // 2
            request.worker.images[request.slot, :num] = self.images[place : place + num]
            request.worker.answer(request.slot)
            place += num + chained  # after the image of the seam
            pairs += num
        return pairs


class Server:
    """Reads requests, keeps the device busy with them, and answers; ends with the program at the other end of `control`."""

    def __init__(self, control: socket.socket, listener: socket.socket, flow_images: FlowImages):
        self.control = control
        self.listener = listener
        self.flow_images = flow_images
        self.selector = selectors.DefaultSelector()
        self.selector.register(control, selectors.EVENT_READ)
        self.selector.register(listener, selectors.EVENT_READ)
        self.waiting: dict[tuple[int, int], deque[Request]] = {}
        """by size of frames; the size that has waited longest comes first"""
        self.under_way: deque[Batch] = deque()
        kind = flow_images.device.type
        self.streams = deque(
            torch.cuda.Stream(flow_images.device) if kind == "cuda" else None for _ in range(BATCHES_UNDER_WAY[kind])
        )
        self.pairs = self.batches = 0
        self.busy_seconds = self.busy_since = self.first = self.last = 0.0

    def run(self) -> None:
        while self._listen():
            while self.waiting and len(self.under_way) < len(self.streams):
                self._start(self._take())
            while self.under_way and self.under_way[0].is_done():
                self._answer()

    def _listen(self) -> bool:
        """Take in what there is; False when the program has ended."""
        timeout = 0 if self.waiting else POLL_SECONDS if self.under_way else None
        for key, _ in self.selector.select(timeout):
            if key.fileobj is self.listener:
                self._accept()
            elif key.fileobj is not self.control:
                self._read(key.data)
            elif receive(self.control):
                send(self.control, asdict(self.report()))
            else:
                return False
        return True

    def report(self) -> Report:
        return Report(self.pairs, self.last - self.first, self.busy_seconds, self.batches)

    def _accept(self) -> None:
        connection = self.listener.accept()[0]
        _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if user != os.getuid():
            connection.close()
            return
        self.selector.register(connection, selectors.EVENT_READ, Worker(connection))

    def _read(self, worker: Worker) -> None:
        try:
            request = worker.read()
        except (EOFError, OSError):  # what it asked for is computed yet, and its memory goes with the last request
            self.selector.unregister(worker.connection)
            worker.connection.close()
            return
        if request:
            self.first = self.first or time.monotonic()
            self.waiting.setdefault(worker.size, deque()).append(request)

    def _take(self) -> list[Request]:
        """Requests of one size, in order, for one pass of the device."""
        size = next(iter(self.waiting))
        queue = self.waiting.pop(size)
        room = self.flow_images.chunk(*size)
        requests = [queue.popleft()]
        while queue and sum(request.num_frames for request in requests) + queue[0].num_frames <= room:
            requests.append(queue.popleft())
        if queue:
            self.waiting[size] = queue
        return requests

    def _start(self, requests: list[Request]) -> None:
        if not self.under_way:
            self.busy_since = time.monotonic()
        stream = self.streams[0]
        self.streams.rotate()
        with torch.cuda.stream(stream):
            images = self.flow_images.start([request.frames for request in requests])
            event = stream and stream.record_event()
        self.under_way.append(Batch(requests, images, event))

    def _answer(self) -> None:
        batch = self.under_way.popleft()
        self.last = time.monotonic()
        if not self.under_way:
            self.busy_seconds += self.last - self.busy_since
        self.pairs += batch.answer(chained=self.flow_images.chained)
        self.batches += 1


def find_device(name: str) -> torch.device:
    """cuda, cuda:1 or torch-cpu; raises LookupError where there is no GPU, ValueError where there are others."""
    if name == "torch-cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise LookupError(f"no GPU that torch {torch.__version__} can use")
    device = torch.device(name)
    device = torch.device("cuda", device.index or 0)
    if device.index >= torch.cuda.device_count():
        raise ValueError(f"no such GPU, expected cuda:0 to cuda:{torch.cuda.device_count() - 1}")
    return device


def _in_one_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # they are for the program, whose end ends this
        signal.signal(number, signal.SIG_IGN)
    control = socket.socket(fileno=0)
    settings = receive(control)
    try:
        device = find_device(name := settings.pop("name"))
        if device.type == "cuda":
            torch.cuda.set_device(device)
            torch.set_num_threads(1)  # what is left for the CPU is copying, and the cores are the workers'
        flow_images = FlowImages(device, **settings)
        note = flow_images.warm_up()
    except LookupError as error:
        return send(control, {"no_gpu": str(error)})
    except (ValueError, RuntimeError) as error:
        return send(control, {"error": _in_one_line(error)})
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    address = f"twostream-flow-{secrets.token_hex(16)}"
    listener.bind(f"\0{address}")  # Linux' name space without files
    listener.listen(1024)
    made_by = {"device": device.type, "torch": torch.__version__}
    if device.type == "cuda":
        name = str(device)
        made_by["name"] = torch.cuda.get_device_name(device)
    send(control, {"name": name, "address": address, "made_by": made_by, "note": note})
    try:
        Server(control, listener, flow_images).run()
    except RuntimeError as error:  # of the device: memory, driver, hardware; the workers hear that this has ended
        sys.exit(f"flow on {name}: {_in_one_line(error)}")


if __name__ == "__main__":
    with suppress(ConnectionError):  # the program has ended
        main()
