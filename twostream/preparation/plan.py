"""What an extraction will take, from a short measured sample: frames, images, bytes, files, time; against the disk."""

import math
import os
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from twostream.errors import BadInputError
from twostream.flow.methods import FlowFunction
from twostream.frames.folders import FrameFolders
from twostream.frames.stores import open_store
from twostream.preparation.extraction import ExtractionJob, Track, missing_input_types, open_frames
from twostream.stream import RGB
from twostream.video.decoder import probe
from twostream.video.ffmpeg import VideoError

NUM_PROBED = 16
"""videos whose header says how long they are"""
NUM_MEASURED = 3
"""videos of which some frames are extracted, for the time and the bytes"""
FRAMES_MEASURED = 10
PATIENCE_SECONDS = 10
"""for a video of the sample; a run waits longer"""
BLOCK = 4096
"""bytes; a small file takes whole blocks of the disk"""


@dataclass(frozen=True)
class Plan:
    """Estimates for the open videos of an extraction."""

    num_videos: int
    num_frames: int
    num_images: int
    num_bytes: int
    num_files: int
    seconds: float
    free_bytes: int
    free_files: int | None
    """None: the disk does not count them"""
    flow_device: str = ""
    """what computes the flow beside the workers, whose time alone is known; "" when they compute it themselves"""

    @property
    def shortage(self) -> str:
        """What the disk lacks; "" when all fits."""
        if self.num_bytes > self.free_bytes:
            return f"needs about {_bytes(self.num_bytes)}, {_bytes(self.free_bytes)} are free"
        if self.free_files is not None and self.num_files > self.free_files:
            return f"needs about {_count(self.num_files)} files, {_count(self.free_files)} more fit"
        return ""

    def to_text(self) -> str:
        """Two lines to print."""
        files = "" if self.free_files is None else f" and {_count(self.free_files)} files"
        beside = f" or more: as long as flow on {self.flow_device} takes" if self.flow_device else ""
        return (
            f"plan: {self.num_videos} videos, about {_count(self.num_frames)} frames, {_count(self.num_images)} images, "
            f"{_time(self.seconds)}{beside}\n"
            f"plan: about {_bytes(self.num_bytes)} in {_count(self.num_files)} files; "
            f"{_bytes(self.free_bytes)}{files} free"
        )


def make_plan(jobs: Sequence[ExtractionJob], *, num_workers: int, seed: int = 0) -> Plan:
    """Estimate what these open jobs (one or more) take: some headers are read, and some frames extracted in memory.

    Videos that cannot be read are left out of the sample.
    """
    lengths, costs = [], []
    for job in random.Random(seed).sample(jobs, min(NUM_PROBED, len(jobs))):
        with suppress(VideoError, BadInputError):
            lengths.append(_num_frames(job))
            if len(costs) < NUM_MEASURED:
                costs.append(_measure(job))
    means = [sum(column) / len(costs) for column in zip(*costs, strict=True)] or [0.0, 0.0, 0.0, 0.0]
    start_seconds, frame_seconds, images, num_bytes = means
    num_frames = round(len(jobs) * sum(lengths) / max(len(lengths), 1))
    num_images = round(images * num_frames)
    num_types = len(jobs[0].settings.input_types)
    loose = open_store(jobs[0].root, jobs[0].settings.input_types[0], kind=jobs[0].store).kind == FrameFolders.kind
    root = Path(jobs[0].root).absolute()
    disk = os.statvfs(next(folder for folder in (root, *root.parents) if folder.exists()))
    return Plan(
        num_videos=len(jobs),
        num_frames=num_frames,
        num_images=num_images,
        num_bytes=round(num_images * (num_bytes + loose * BLOCK / 2)),
        num_files=num_images + 2 * num_types * len(jobs) if loose else 2 * num_types * num_workers,
        seconds=(start_seconds * len(jobs) + frame_seconds * num_frames) / num_workers,
        free_bytes=disk.f_bavail * disk.f_frsize,
        free_files=disk.f_favail if disk.f_files else None,
        flow_device=jobs[0].flow_device.name if jobs[0].flow_device else "",
    )


def _num_frames(job: ExtractionJob) -> float:
    """By the header of the file, or of the record where flow of stored frames is asked."""
    if job.path is None:
        return open_store(job.root, RGB).count(job.video_id)
    found = probe(job.path, time_limit_seconds=PATIENCE_SECONDS)
    start_seconds, end_seconds = job.segment or (0.0, math.inf)
    seconds = max(min(end_seconds, found.declared_seconds or 0.0) - start_seconds, 0.0)
    return seconds * (job.settings.fps or found.fps)


def _measure(job: ExtractionJob) -> tuple[float, float, float, float]:
    """Of the first frames of a video: seconds until the first, seconds each further one, images a frame, bytes an image.

    Flow is computed here; its time does not count where the job has a device for it.
    """
    job = replace(job, settings=replace(job.settings, time_limit=PATIENCE_SECONDS))
    writer = _CountingWriter()
    tracks = [Track(writer, input_type, job.settings) for input_type in missing_input_types(job)]
    clocks = []
    for flow_images in filter(None, (track.flow_images for track in tracks)):
        clocks.append(_Clock(flow_images.function))
        flow_images.function = clocks[-1]
    times = [time.perf_counter()]
    for frame in islice(open_frames(job), max(FRAMES_MEASURED, 2 * job.settings.stored_step)):
        for track in tracks:
            track.add(frame)
        times.append(time.perf_counter())
    start, first, last = times[0], times[1], times[-1]
    if job.flow_device:
        last -= sum(clock.seconds for clock in clocks)
    num_images = len(tracks) / job.settings.stored_step
    return (
        first - start,
        (last - first) / max(len(times) - 2, 1),
        num_images,
        writer.num_bytes / max(writer.num_images, 1),
    )


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


class _CountingWriter:
    """Takes images as a FrameWriter does, and writes nothing."""

    def __init__(self):
        self.num_images = self.num_bytes = 0

    def write(self, frame_index: int, jpeg: bytes) -> None:
        self.num_images += 1
        self.num_bytes += len(jpeg)


def _count(number: int) -> str:
    return _scaled(number, ((1e9, " G"), (1e6, " M"), (1, "")))


def _bytes(number: int) -> str:
    return _scaled(number, ((1e12, " TB"), (1e9, " GB"), (1e6, " MB")))


def _time(seconds: float) -> str:
    return _scaled(seconds, ((86400, " days"), (3600, " hours"), (60, " minutes"), (1, " seconds")))


def _scaled(number: float, units: tuple[tuple[float, str], ...]) -> str:
    size, unit = next((pair for pair in units if number >= 2 * pair[0]), units[-1])
    return f"{number / size:.{0 if size == 1 else 1}f}{unit}"
