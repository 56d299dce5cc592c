"""What an extraction will take, estimated from a short sample: frames, images, bytes, files and time; and the free disk."""

import math
import os
import random
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from twostream.counts import counted
from twostream.flow.methods import FlowFunction
from twostream.frames.encoded import EncodedVideos
from twostream.frames.folders import FrameFolders
from twostream.frames.jpeg import encode_jpeg
from twostream.frames.store import FrameWriter
from twostream.frames.stores import open_store
from twostream.motion_vectors.moving_pictures import MovingPictures
from twostream.motion_vectors.reader import BATCH
from twostream.preparation.extraction import (
    ExtractionJob,
    Frames,
    Track,
    VideoTrack,
    missing_input_types,
    open_frames,
    use_frames,
)
from twostream.preparation.settings import ExtractionSettings
from twostream.stream import MOTION_VECTORS, RGB
from twostream.video.decoder import measure_seconds, probe

NUM_PROBED = 16
"""videos whose header is read for their length"""
NUM_MEASURED = 3
"""videos of which some frames are extracted, to measure time and bytes"""
FRAMES_MEASURED = 10
"""frames extracted from each of them"""
PATIENCE_SECONDS = 10
"""to wait for a video of the sample; a run waits longer"""
BLOCK_BYTES = 4096
"""a small file takes whole blocks of the disk"""


@dataclass(frozen=True)
class Plan:
    """Estimates for the videos that an extraction has yet to do."""

    num_videos: int
    num_frames: int
    num_images: int
    num_bytes: int
    num_files: int
    seconds: float
    """of the workers, without the flow where a device computes it"""
    free_bytes: int
    free_files: int | None
    """None: this disk does not limit the number of files"""
    flow_device: str = ""
    """name of the device that computes the flow; "" when the workers compute it"""
    jpeg_bytes: int = 0
    """for a store of videos: of the same frames as JPEG images of the usual quality; else 0"""

    @property
    def shortage(self) -> str:
        """What the disk lacks; "" when everything fits."""
        if self.num_bytes > self.free_bytes:
            return f"needs about {_bytes(self.num_bytes)}, {_bytes(self.free_bytes)} are free"
        if self.free_files is not None and self.num_files > self.free_files:
            return f"needs about {_count(self.num_files)} files, {_count(self.free_files)} more fit"
        return ""

    def to_text(self) -> str:
        """Two lines to print."""
        files = "" if self.free_files is None else f" and {_count(self.free_files)} files"
        images, instead = "images", ""
        if self.jpeg_bytes:
            images, instead = "of them encoded", f", instead of {_bytes(self.jpeg_bytes)} as JPEG images"
        device = f" or more, if flow on {self.flow_device} takes longer" if self.flow_device else ""
        return (
            f"plan: {counted(self.num_videos, 'video')}, about {_count(self.num_frames)} frames, {_count(self.num_images)} {images}, "
            f"{_time(self.seconds)}{device}\n"
            f"plan: about {_bytes(self.num_bytes)} in {_count(self.num_files)} files{instead}; "
            f"{_bytes(self.free_bytes)}{files} free"
        )


class _Cost(NamedTuple):
    """What a video takes, or the mean of some."""

    start_seconds: float = 0.0
    """until the first frame"""
    frame_seconds: float = 0.0
    """for each further frame"""
    images: float = 0.0
    """per frame"""
    image_bytes: float = 0.0
    jpeg_bytes: float = 0.0
    """of an image as a JPEG file, where it is not one"""


def make_plan(jobs: Sequence[ExtractionJob], *, num_workers: int, seed: int = 0) -> Plan:
    """Estimate what these jobs (one or more) take: reads some headers and extracts some frames in memory.

    Videos that cannot be read are left out of the sample.
    """
    lengths: list[float] = []
    costs: list[_Cost] = []
    for job in random.Random(seed).sample(jobs, min(NUM_PROBED, len(jobs))):
        with suppress(Exception):  # extraction will meet it again, and report it
            lengths.append(_num_frames(job))
            if len(costs) < NUM_MEASURED:
                costs.append(_measure(job))
    cost = _Cost(*(sum(column) / len(costs) for column in zip(*costs, strict=True)))
    num_frames = round(len(jobs) * sum(lengths) / max(len(lengths), 1))
    num_images = round(cost.images * num_frames)
    input_types = jobs[0].settings.input_types
    kind = open_store(jobs[0].root, input_types[0], kind=jobs[0].store).kind
    small_files = {FrameFolders.kind: num_images, EncodedVideos.kind: 2 * len(jobs)}.get(kind, 0)
    folders = {FrameFolders.kind: 2 * len(input_types), EncodedVideos.kind: 1}.get(kind, 0) * len(jobs)
    root = Path(jobs[0].root).absolute()
    disk = os.statvfs(next(folder for folder in (root, *root.parents) if folder.exists()))
    return Plan(
        num_videos=len(jobs),
        num_frames=num_frames,
        num_images=num_images,
        num_bytes=round(num_images * cost.image_bytes + small_files * BLOCK_BYTES / 2),
        num_files=small_files + folders or 2 * len(input_types) * num_workers,
        seconds=(cost.start_seconds * len(jobs) + cost.frame_seconds * num_frames) / num_workers,
        free_bytes=disk.f_bavail * disk.f_frsize,
        free_files=disk.f_favail if disk.f_files else None,
        flow_device=jobs[0].flow_device.name if jobs[0].flow_device else "",
        jpeg_bytes=round(num_images * cost.jpeg_bytes),
    )


def _num_frames(job: ExtractionJob) -> float:
    """Frames of a video by the header of its file, or else by its time stamps; of stored frames, by their record."""
    if job.path is None:
        return open_store(job.root, RGB).count(job.video_id)
    found = probe(job.path, time_limit_seconds=PATIENCE_SECONDS)
    length = found.declared_seconds or measure_seconds(job.path, time_limit_seconds=PATIENCE_SECONDS)
    start_seconds, end_seconds = job.segment or (0.0, math.inf)
    return max(min(end_seconds, length) - start_seconds, 0.0) * (job.settings.fps or found.fps)


def _measure(job: ExtractionJob) -> _Cost:
    """Measured on the first frames of a video.

    Flow is computed in this process; its time does not count where the job has a device for it.
    """
    job = replace(job, settings=replace(job.settings, time_limit=PATIENCE_SECONDS))
    if job.settings.encoding:
        return _measure_encoding(job)
    input_types, start = missing_input_types(job), time.perf_counter()
    return use_frames(job, input_types, lambda frames: _measure_frames(job, input_types, frames, start))


def _measure_frames(job: ExtractionJob, input_types: Sequence[str], frames: Frames, start: float) -> _Cost:
    writer = _CountingWriter()
    clocks: list[_Clock] = []

    def with_clock(function: FlowFunction) -> FlowFunction:
        clocks.append(_Clock(function))
        return clocks[-1]

    here = replace(job, flow_device=None)
    tracks = [Track(writer, input_type, here, frames, wrap_flow=with_clock) for input_type in input_types]
    num_measured = max(BATCH if MOTION_VECTORS in input_types else FRAMES_MEASURED, 2 * job.settings.stored_step)
    times = [start]
    for frame in islice(frames, num_measured):
        for track in tracks:
            track.add(frame)
        times.append(time.perf_counter())
    if len(times) <= num_measured:  # that was all of it
        for track in tracks:
            track.finish()
        times[-1] = time.perf_counter()
    first, last = times[1], times[-1]
    if isinstance(frames, MovingPictures):
        first = start  # many frames are decoded before the first one is given
    if job.flow_device:
        last -= sum(clock.seconds for clock in clocks)
    return _Cost(
        first - start,
        (last - first) / max(len(times) - 2, 1),
        len(tracks) / job.settings.stored_step,
        writer.num_bytes / max(writer.num_images, 1),
    )


def _measure_encoding(job: ExtractionJob) -> _Cost:
    """The first frames of a video, in groups as they will be stored."""
    encoding, stored_step = job.settings.encoding, job.settings.stored_step
    assert encoding
    num_measured = stored_step * encoding.gop * max(1, round(5 * FRAMES_MEASURED / encoding.gop))
    frames = open_frames(job)
    num_jpeg_bytes = 0
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        writer = stack.enter_context(EncodedVideos(folder, RGB).writer("sample"))
        track = stack.enter_context(closing(VideoTrack(writer, job.settings, frames)))
        start, cpu_start = time.perf_counter(), _cpu_seconds()
        first = 0.0
        for frame in islice(frames, num_measured):
            first = first or time.perf_counter()
            track.add(frame)
            if track.num_images == 1:
                num_jpeg_bytes = len(encode_jpeg(frame, quality=ExtractionSettings.quality, chroma_subsampling=True))
        track.finish()
        # All workers together have the CPUs to themselves; one alone shares its work with the processes that it started.
        seconds = max(time.perf_counter() - first, _cpu_seconds() - cpu_start)
    return _Cost(
        first - start,
        seconds / track.num_frames,
        1 / stored_step,
        track.num_bytes / track.num_images,
        num_jpeg_bytes,
    )


def _cpu_seconds() -> float:
    """Of this process and those that it has started and that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class _Clock:
    """A flow function, and the seconds it has taken."""

    def __init__(self, function: FlowFunction):
        self.function = function
        self.seconds = 0.0

    def __call__(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        start = time.perf_counter()
        flow = self.function(first, second)
        self.seconds += time.perf_counter() - start
        return flow


class _CountingWriter(FrameWriter):
    """Counts images and bytes, and writes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.num_images = self.num_bytes = 0

    def __exit__(self, *exception: object) -> None:
        pass

    def _write(self, frame_index: int, jpeg: bytes) -> None:
        self.num_images += 1
        self.num_bytes += len(jpeg)

    def publish_text(self, record: bytes | None) -> bool:
        raise NotImplementedError("nothing was written that could be published")


def _count(number: int) -> str:
    return _scaled(number, ((1e9, " G"), (1e6, " M"), (1, "")))


def _bytes(number: int) -> str:
    return _scaled(number, ((1e12, " TB"), (1e9, " GB"), (1e6, " MB")))


def _time(seconds: float) -> str:
    return _scaled(seconds, ((86400, " days"), (3600, " hours"), (60, " minutes"), (1, " seconds")))


def _scaled(number: float, units: tuple[tuple[float, str], ...]) -> str:
    size, unit = next((pair for pair in units if number >= 2 * pair[0]), units[-1])
    return f"{number / size:.{0 if size == 1 else 1}f}{unit}"
