"""Flow by a process of its own: the same images as the CPU's, for all windows, batches, sizes and codings."""

import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests import toy
from tests.conftest import REPOSITORY, noise_image
from twostream.errors import EnvironmentFaultError
from twostream.flow import server as server_module
from twostream.flow import service
from twostream.flow.coding import FlowCoding
from twostream.flow.methods import FARNEBACK_PRESETS, FarnebackParameters, FlowSettings
from twostream.flow.server import FlowImages, Server, find_device
from twostream.flow.service import Connection, FlowDevice, FlowService, NoGpuError, ServedFlow, Windows
from twostream.preparation.extraction import ExtractionJob, PairFlow
from twostream.preparation.plan import make_plan
from twostream.preparation.settings import ExtractionSettings
from twostream.video.decoder import Decoder

FARNEBACK = FlowSettings("farneback")
COLOUR = FlowSettings("farneback", FlowCoding(bound=8, integer_scale=True, planes=False))
PRESET = FlowSettings("farneback", farneback=FARNEBACK_PRESETS["2d-kinectics"])
OTHER = FlowSettings("farneback", farneback=FarnebackParameters(0.7, 2, 8, 1, 7, 1.5))


class ServerThread:
    """A server in this process, on the CPU; requests made before `start` wait."""

    def __init__(self, flow: FlowSettings, *, stored_step: int):
        self.control, server_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.device = FlowDevice("test", secrets.token_hex(16), {})
        self.listener.bind(f"\0{self.device.address}")
        self.listener.listen()
        images = FlowImages(
            torch.device("cpu"),
            parameters=vars(flow.farneback),
            chained=stored_step == 1,
            planes=flow.coding.planes,
            scale=flow.coding.scale,
        )
        self.server = Server(server_end, self.listener, images)
        self.thread = threading.Thread(target=self.server.run)

    def start(self) -> "ServerThread":
        self.thread.start()
        return self

    def close(self) -> None:
        self.control.close()
        if self.thread.is_alive():
            self.thread.join()
        for key in list((self.server.selector.get_map() or {}).values()):
            key.fileobj.close()
        self.server.selector.close()


@pytest.fixture
def serve():
    threads = []

    def run(flow: FlowSettings = FARNEBACK, *, stored_step: int = 1) -> ServerThread:
        threads.append(ServerThread(flow, stored_step=stored_step))
        return threads[-1]

    yield run
    for thread in threads:
        thread.close()


def moving(num_frames: int, *, height: int = 40, width: int = 56, seed: int = 0) -> list[np.ndarray]:
    """Grey frames of a smooth picture that moves by 2 pixels per frame."""
    wide = cv2.cvtColor(noise_image(seed, height=height, width=width + 2 * num_frames), cv2.COLOR_RGB2GRAY)
    return [np.ascontiguousarray(wide[:, 2 * k : 2 * k + width]) for k in range(num_frames)]


def images_of(flow_images: PairFlow | ServedFlow, frames: list[np.ndarray]) -> list[tuple[int, np.ndarray]]:
    """All flow images of a video, used as a Track uses them: before the next call."""
    calls = [lambda frame=frame: flow_images.add(frame) for frame in frames]
    return [(index, image.copy()) for call in (*calls, flow_images.finish) for index, image in call()]


def assert_same(found: list[tuple[int, np.ndarray]], expected: list[tuple[int, np.ndarray]]) -> None:
    """As farneback.py promises: nearly all levels are OpenCV's."""
    assert [index for index, _ in found] == [index for index, _ in expected]
    images, truth = (np.stack([image for _, image in pairs]).astype(int) for pairs in (found, expected))
    assert images.shape == truth.shape
    difference = np.abs(images - truth)
    assert (difference == 0).mean() >= 0.9995
    assert (difference <= 1).mean() >= 0.9999


# ------------------------------------------------------------------------------------------------------- the images


@pytest.mark.parametrize("flow", [FARNEBACK, COLOUR, PRESET, OTHER], ids=["planes", "colour", "preset", "other"])
@pytest.mark.parametrize("stored_step", [1, 3])
def test_images_are_those_of_opencv(serve, flow, stored_step):
    frames = moving(50)
    device = serve(flow, stored_step=stored_step).start().device
    with closing(ServedFlow(flow, stored_step=stored_step, device=device)) as served:
        found = images_of(served, frames)
    assert_same(found, images_of(PairFlow(flow, stored_step=stored_step), frames))
    assert (found[0][1] != 128).any()


@pytest.mark.parametrize("stored_step", [1, 2, 3])
def test_every_number_of_frames_around_the_windows(serve, monkeypatch, stored_step):
    """No image is lost, doubled or of another pair, wherever a window ends."""
    monkeypatch.setattr(service, "WINDOW_FRAMES", 4)
    device = serve(stored_step=stored_step).start().device
    for num_frames in range(1, 15):
        frames = moving(num_frames, seed=num_frames)
        with closing(ServedFlow(FARNEBACK, stored_step=stored_step, device=device)) as served:
            assert_same(images_of(served, frames), images_of(PairFlow(FARNEBACK, stored_step=stored_step), frames))


@pytest.mark.parametrize("stored_step", [1, 2])
def test_windows_of_several_videos_share_a_batch(serve, stored_step):
    """Two sizes of frames, three videos of each, all requested before the server reads."""
    sizes = [(40, 56), (32, 48)] * 3
    videos = [moving(5 + k, height=h, width=w, seed=k) for k, (h, w) in enumerate(sizes)]
    server = serve(stored_step=stored_step)
    server.server.flow_images.chunk = lambda height, width: 100
    served = [ServedFlow(FARNEBACK, stored_step=stored_step, device=server.device) for _ in videos]
    for flow_images, frames in zip(served, videos, strict=True):
        for frame in frames:
            assert flow_images.add(frame) == []
        list(flow_images._send())
        server.server._accept()
    for key in list(server.server.selector.get_map().values()):
        for _ in ("memory", "request"):
            if key.data:
                server.server._read(key.data)
    server.start()
    for flow_images, frames in zip(served, videos, strict=True):
        found = [(index, image.copy()) for index, image in flow_images.finish()]
        flow_images.close()
        assert_same(found, images_of(PairFlow(FARNEBACK, stored_step=stored_step), frames))
    server.close()
    statistics = server.server.statistics()
    assert statistics.pairs == sum(-(-(len(frames) - (stored_step == 1)) // stored_step) for frames in videos)
    last_pairs = sum(len(frames) % 2 for frames in videos) if stored_step == 2 else 0  # requested at the end, alone
    assert statistics.batches <= 2 + last_pairs
    assert 0 < statistics.busy_seconds <= statistics.seconds


def test_real_videos_of_two_sizes(serve, shared_data):
    device = serve().start().device
    for name in ("ut_interaction/videos/kicking/11_12_2.avi", "samples/v_ApplyEyeMakeup_g01_c01.avi"):
        with closing(iter(Decoder(shared_data / name, short_side=128))) as decoder:
            frames = [cv2.cvtColor(next(decoder), cv2.COLOR_RGB2GRAY) for _ in range(16)]
        with closing(ServedFlow(FARNEBACK, stored_step=1, device=device)) as served:
            assert_same(images_of(served, frames), images_of(PairFlow(FARNEBACK, stored_step=1), frames))


def test_the_next_videos_share_the_memory_of_the_first(serve):
    """Smaller ones too; a larger one, and one after a video that was given up, take new memory."""
    server, pinned = serve(), []
    server.server.flow_images.pin = lambda address, num_bytes: pinned.append(num_bytes) or (lambda: None)
    server.start()

    def assert_served(count: int, **size: int) -> None:
        frames = moving(5, **size)
        with closing(ServedFlow(FARNEBACK, stored_step=1, device=server.device)) as served:
            assert_same(images_of(served, frames), images_of(PairFlow(FARNEBACK, stored_step=1), frames))
        assert len(pinned) == count

    assert_served(1, height=40, width=56)
    assert_served(1, height=40, width=56)
    assert_served(1, height=48, width=24)
    assert_served(1, height=40, width=56)
    assert_served(2, height=60, width=80)
    with closing(ServedFlow(FARNEBACK, stored_step=1, device=server.device)) as given_up:
        for frame in moving(5):
            given_up.add(frame)
        list(given_up._send())
    assert_served(3, height=40, width=56)


def test_frames_that_change_their_size_are_refused(serve):
    with closing(ServedFlow(FARNEBACK, stored_step=1, device=serve().start().device)) as served:
        for frame in moving(3):
            served.add(frame)
        with pytest.raises(ValueError, match="found a frame of 30x20 pixels, those before it have 56x40"):
            served.add(np.zeros((20, 30), np.uint8))


def test_windows_are_bounded():
    assert Windows(256, 340, True).num_frames == service.WINDOW_FRAMES
    for height, width in ((1080, 1920), (4608, 8192), (1, 1)):
        windows = Windows(height, width, False)
        assert windows.num_frames % 2 == 0 and windows.num_frames >= 2
        assert windows.num_frames == 2 or windows.num_frames * 4 * height * width <= service.WINDOW_BYTES


# ------------------------------------------------------------------------------------------------------------ faults


@pytest.mark.parametrize("limit", [5, 1])
def test_fewer_pairs_are_tried_when_memory_is_too_small(monkeypatch, limit):
    tried = []

    class Small(server_module.Farneback):
        def sequence(self, frames, *, chunk):
            tried.append(chunk)
            if chunk > limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
            return super().sequence(frames, chunk=chunk)

        def chunk(self):
            return 40

    images = FlowImages(torch.device("cpu"), parameters={}, chained=True, planes=True, scale=6.4)
    windows = [torch.from_numpy(np.stack(moving(9)))]
    expected, found = torch.zeros(2, 8, 80, 56, dtype=torch.uint8)
    images.start(windows, [expected])
    assert expected.any()
    monkeypatch.setattr(server_module, "Farneback", Small)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    images.method.cache_clear()
    images.limits.clear()
    images.start(windows, [found])
    assert torch.equal(found, expected)
    assert tried == [40, 20, 10, 5, 2, 1][: {5: 4, 1: 6}[limit]]
    images.start(windows, [found])
    assert tried[-1] == tried[-2] == limit  # which is remembered


def test_memory_too_small_for_one_pair_is_an_error(monkeypatch):
    def fail(*frames, chunk):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(server_module.Farneback, "sequence", fail)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    images = FlowImages(torch.device("cpu"), parameters={}, chained=True, planes=True, scale=6.4)
    with pytest.raises(torch.OutOfMemoryError):
        images.start([torch.zeros(3, 16, 16, dtype=torch.uint8)], [torch.zeros(2, 32, 16, dtype=torch.uint8)])


def test_a_server_that_ends_or_hangs_is_a_fault_of_the_environment(serve, monkeypatch):
    server = serve().start()
    with closing(ServedFlow(FARNEBACK, stored_step=1, device=server.device)) as served:
        served.add(np.zeros((16, 16), np.uint8))
        served.add(np.zeros((16, 16), np.uint8))
        server.close()
        with pytest.raises(EnvironmentFaultError, match="flow on test: its process has ended.*--flow_device=cpu"):
            served.finish()
    with closing(ServedFlow(FARNEBACK, stored_step=1, device=server.device)) as late:
        late.add(np.zeros((16, 16), np.uint8))
        with pytest.raises(EnvironmentFaultError, match="its process has ended"):
            late.add(np.zeros((16, 16), np.uint8))
    monkeypatch.setattr(service, "ANSWER_SECONDS", 0.1)
    with closing(ServedFlow(FARNEBACK, stored_step=1, device=serve().device)) as waiting:  # which is never started
        waiting.add(np.zeros((16, 16), np.uint8))
        waiting.add(np.zeros((16, 16), np.uint8))
        with pytest.raises(EnvironmentFaultError, match="no answer in 0.1 s"):
            waiting.finish()


def test_a_worker_that_disconnects_in_mid_window_disturbs_no_other_and_leaves_no_memory(serve):
    server, frames, pinned = serve(), moving(6), []

    def pin(address, num_bytes):  # as for a GPU
        pinned.append((address, num_bytes))
        return lambda: pinned.remove((address, num_bytes)) if "memfd:flow" in Path("/proc/self/maps").read_text() else 0

    server.server.flow_images.pin = pin
    for _ in range(3):
        gone = ServedFlow(FARNEBACK, stored_step=1, device=server.device)
        for frame in frames:
            gone.add(frame)
        list(gone._send())
        gone.close()
    server.start()
    with closing(ServedFlow(FARNEBACK, stored_step=1, device=server.device)) as served:
        assert_same(images_of(served, frames), images_of(PairFlow(FARNEBACK, stored_step=1), frames))
    while Connection.idle:  # among them is that of `served`
        Connection.idle.pop().socket.close()
    del gone, served
    for _ in range(200):
        maps = Path("/proc/self/maps").read_text()
        if "memfd:flow" not in maps:
            break
        time.sleep(0.05)
    assert "memfd:flow" not in maps and not pinned
    assert not [fd for fd in os.listdir("/proc/self/fd") if "memfd:flow" in _target(fd)]


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except FileNotFoundError:
        return ""


# ------------------------------------------------------------------------------------------------------ the process


def test_the_process_starts_answers_counts_and_ends():
    with FlowService("torch-cpu", FARNEBACK, stored_step=1) as service:
        assert service.device.name == "torch-cpu" and service.note == ""
        assert service.device.made_by == {"device": "cpu", "torch": torch.__version__}
        assert service.statistics().pairs == 0
        frames = moving(4)
        with closing(ServedFlow(FARNEBACK, stored_step=1, device=service.device)) as served:
            assert_same(images_of(served, frames), images_of(PairFlow(FARNEBACK, stored_step=1), frames))
        statistics = service.statistics()
        assert statistics.pairs == 3 and statistics.to_text().startswith("3 pairs, ")
        assert 0 < statistics.cpu_seconds < 600 and statistics.to_text().endswith(" % of a core")
        process = service.process
        process.kill()
        process.wait()
        assert service.statistics() is None
    assert process.poll() is not None


def test_missing_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LookupError, match="no GPU"):
        find_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(find_device(name)) for name in ("cuda", "cuda:1", "torch-cpu")] == ["cuda:0", "cuda:1", "cpu"]
    with pytest.raises(ValueError, match="cuda:0 to cuda:1"):
        find_device("cuda:2")


def test_no_gpu_is_an_error_of_its_own(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(NoGpuError, match="no GPU that torch"):
        FlowService("cuda", FARNEBACK, stored_step=1)
    monkeypatch.setattr(service.sys, "executable", "/bin/false")
    with pytest.raises(EnvironmentFaultError, match="--flow_device=cuda: its process"):
        FlowService("cuda", FARNEBACK, stored_step=1)


# --------------------------------------------------------------------------------------------------------- the plan


def test_plan_does_not_count_flow_of_a_device(tmp_path):
    toy.write_video(tmp_path / "v.mkv", toy.frames(0, "red", "left"))
    slow = FlowSettings("farneback", farneback=FarnebackParameters(iterations=100))
    settings = ExtractionSettings(short_side=0, flow=(slow,))
    job = ExtractionJob(str(tmp_path / "data"), "v", str(tmp_path / "v.mkv"), settings)
    by_workers = make_plan([job], num_workers=1)
    by_device = make_plan([replace(job, flow_device=FlowDevice("cuda:0", "nobody", {}))], num_workers=1)
    assert by_device.seconds < 0.7 * by_workers.seconds
    assert (by_device.num_images, by_device.num_bytes) == (by_workers.num_images, by_workers.num_bytes)
    assert "or more, if flow on cuda:0 takes longer" in by_device.to_text() and "cuda" not in by_workers.to_text()


def test_the_process_ends_with_the_program_while_it_loads_torch(tmp_path):
    """In place of torch stands a module that takes an hour to load."""
    (tmp_path / "torch.py").write_text("import time; print('loading', flush=True); time.sleep(3600)")
    program, server_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)])}
    with server_end:
        command = [sys.executable, "-P", "-m", "twostream.flow.server_process"]
        process = subprocess.Popen(command, stdin=server_end.fileno(), stdout=subprocess.PIPE, env=environment)
    with process, program:
        assert process.stdout.readline() == b"loading\n"
        program.close()
        try:
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
