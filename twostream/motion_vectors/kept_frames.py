"""The motion between the frames of a video that are kept: a segment of it, at a lower or higher rate, as `Decoder` does it."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np

from twostream.counts import counted
from twostream.flow.coding import FlowCoding
from twostream.motion_vectors.fields import add_step, to_planes
from twostream.motion_vectors.reader import BATCH, Step, read_steps, read_steps_of_packets
from twostream.video.decoder import SEEK_MARGIN_SECONDS, STAMP_SECONDS
from twostream.video.ffmpeg import VideoError
from twostream.video.random_access import VideoIndex


@dataclass(frozen=True)
class PictureMotion:
    """How a picture moved since the one before it."""

    step: Step
    shape: tuple[int, int]
    """height and width of the picture"""

    def planes(self, coding: FlowCoding) -> np.ndarray:
        """The planes of its flow image on cells, uint8 (2h, w), see FlowCoding."""
        height, width = self.shape
        return to_planes(self.step.motion, self.step.stored_size, (width, height), self.step.turns, coding)


def read_kept(
    path: Path, *, fps: float = 0, start_seconds: float = 0.0, end_seconds: float | None = None
) -> Iterator[Step]:
    """For each frame that `Decoder` gives with these arguments, how it moved since the one that it gave before.

    Motion over frames that are left out is added up along its way. A frame without vectors, as a key frame, moves as the
    frame before it did. `motion` is None where there is none: in a frame that is repeated, and before the first vectors. At
    a rate, the last frame is repeated without end. Raises VideoError as `read_steps`.
    """
    end = math.inf if end_seconds is None else end_seconds - STAMP_SECONDS
    steps = read_steps(path, from_seconds=max(0.0, start_seconds - SEEK_MARGIN_SECONDS), batch=BATCH)
    inside = _inside(without_gaps(steps), start_seconds - STAMP_SECONDS if start_seconds else -math.inf, end)
    return _at_rate(inside, Fraction(f"{fps:g}"), Fraction(f"{start_seconds:.6f}")) if fps else inside


def read_numbered(path: Path, index: VideoIndex, numbers: Sequence[int]) -> dict[int, Step]:
    """The steps of `read_kept` to the frames with these numbers, from the key frame before them if the index has time stamps.

    Raises VideoError as `read_steps`, and if there are fewer frames.
    """
    wanted = set(numbers)
    found: dict[int, Step] = {}
    # The frame before the first one is needed too: a frame without vectors moves as the one before it did.
    key = max((k for k in index.key_frames if k < min(wanted) - 1), default=0)
    if key and (index.is_packet_a_frame or index.by_decoding):
        number_of: dict[int | None, int] = {stamp: number for number, stamp in enumerate(index.stamps)}
        steps = read_steps(path, from_stamp=index.stamps[key], by_decoding=index.by_decoding)
        for step in without_gaps(steps):
            number = number_of.get(step.stamp, -1)
            if not found and number > min(wanted):
                break  # the seek has gone too far
            if number in wanted:
                found[number] = step
            if len(found) == len(wanted):
                return found
    for number, step in enumerate(without_gaps(read_steps(path))):
        if number in wanted:
            found[number] = step if number else replace(step, motion=None)
        if len(found) == len(wanted):
            return found
    raise VideoError(f"motion vectors end before frame {max(wanted)}, but its picture goes on")


def follow_kept(file: IO[bytes], *, fps: float = 0) -> Iterator[Step]:
    """The same of a video that is going on, see `read_steps_of_packets`. At a rate too, it ends with the video."""
    steps = without_gaps(read_steps_of_packets(file))
    return _at_rate(steps, Fraction(f"{fps:g}"), Fraction(0), repeats_last=False) if fps else steps


def with_motion(
    pictures: Iterable[np.ndarray], path: Path, *, fps: float = 0
) -> Iterator[tuple[np.ndarray, PictureMotion]]:
    """The pictures that `Decoder` gives of a file at this rate, each with how it moved since the one before.

    Raises VideoError as `read_steps`, and if their number is not that of the pictures.
    """
    steps = read_kept(path, fps=fps)
    number = 0
    for number, picture in enumerate(pictures, 1):
        if (step := next(steps, None)) is None:
            raise VideoError(f"motion vectors end after {counted(number - 1, 'frame')}, but its picture goes on")
        yield picture, PictureMotion(replace(step, motion=None) if number == 1 else step, picture.shape[:2])
    if not fps and next(steps, None):
        raise VideoError(f"motion vectors go on after {counted(number, 'frame')}, where its picture ends")


def without_gaps(steps: Iterable[Step]) -> Iterator[Step]:
    """A frame without vectors, as a key frame, moves as the frame before it did."""
    before: np.ndarray | None = None
    for step in steps:
        kept = replace(step, motion=before) if step.motion is None else step
        yield kept
        before = kept.motion


def _inside(steps: Iterator[Step], start: float, end: float) -> Iterator[Step]:
    for step in steps:
        if step.seconds >= end:
            return
        if step.seconds >= start:
            yield step


def _at_rate(
    steps: Iterator[Step], fps: Fraction, start_seconds: Fraction, *, repeats_last: bool = True
) -> Iterator[Step]:
    """As ffmpeg's filter fps: each of its times has the last frame whose own time, rounded, is not later.

    Motion is None for a frame that is repeated; the last one is repeated without end.
    """
    last: Step | None = None
    total: np.ndarray | None = None
    """motion since the frame that was given last"""
    time = 0
    for step in steps:
        rounded = math.floor((step.seconds - start_seconds) * fps + Fraction(1, 2))
        if last is None:
            time = rounded
        while last is not None and time < rounded:
            yield replace(last, motion=total)
            total, time = None, time + 1
        last, total = step, _sum(total, step.motion)
    while last is not None and repeats_last:
        yield replace(last, motion=total)
        total = None


def _sum(total: np.ndarray | None, step: np.ndarray | None) -> np.ndarray | None:
    if total is None or step is None or total.shape != step.shape:
        return total if step is None else step
    return add_step(total, step)
