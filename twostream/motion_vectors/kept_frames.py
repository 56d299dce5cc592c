"""The motion between the frames of a video that are kept: a segment of it, at a lower or higher rate, as `Decoder` does it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from twostream.flow.coding import FlowCoding
from twostream.motion_vectors.fields import add_step, to_flow
from twostream.motion_vectors.reader import Step, read_steps
from twostream.video.decoder import SEEK_MARGIN_SECONDS, STAMP_SECONDS


@dataclass(frozen=True)
class PictureMotion:
    """How a picture moved since the one before it."""

    step: Step
    shape: tuple[int, int]
    """height and width of the picture"""

    def planes(self, coding: FlowCoding) -> np.ndarray:
        """The planes of its flow image, uint8 (2H, W), see FlowCoding."""
        height, width = self.shape
        if self.step.motion is None:
            return coding.encode_planes(np.zeros((height, width, 2), np.float32))
        return coding.encode_planes(to_flow(self.step.motion, self.step.stored_size, (width, height), self.step.turns))


def read_kept(
    path: Path, *, fps: float = 0, start_seconds: float = 0.0, end_seconds: float | None = None
) -> Iterator[Step]:
    """For each frame that `Decoder` gives with these arguments, how it moved since the one that it gave before.

    Motion over frames that are left out is added up along its way. A frame without vectors, as a key frame, moves as the frame before it
    did. `motion` is None where there is none: in a frame that is repeated, and before the first vectors. At a rate, the last
    frame is repeated without end.
    Raises VideoError as `read_steps`.
    """
    end = math.inf if end_seconds is None else end_seconds - STAMP_SECONDS
    steps = read_steps(path, from_seconds=max(0.0, start_seconds - SEEK_MARGIN_SECONDS))
    inside = _inside(_without_gaps(steps), start_seconds - STAMP_SECONDS if start_seconds else -math.inf, end)
    return _at_rate(inside, Fraction(f"{fps:g}"), Fraction(f"{start_seconds:.6f}")) if fps else inside


def _without_gaps(steps: Iterator[Step]) -> Iterator[Step]:
    before: np.ndarray | None = None
    for step in steps:
        motion = before if step.motion is None else step.motion
        yield replace(step, motion=motion)
        before = motion


def _inside(steps: Iterator[Step], start: float, end: float) -> Iterator[Step]:
    for step in steps:
        if step.seconds >= end:
            return
        if step.seconds >= start:
            yield step


def _at_rate(steps: Iterator[Step], fps: Fraction, start_seconds: Fraction) -> Iterator[Step]:
    """As ffmpeg's filter fps: each of its times has the last frame whose own time, rounded, is not later.

    Motion is None for a frame that is repeated.
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
    while last is not None:
        yield replace(last, motion=total)
        total = None


def _sum(total: np.ndarray | None, step: np.ndarray | None) -> np.ndarray | None:
    if total is None or step is None or total.shape != step.shape:
        return total if step is None else step
    return add_step(total, step)
