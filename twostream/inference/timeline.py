"""A long video as segments: what happens from when to when."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from twostream.inference.contract import Fusion
from twostream.pages import charts
from twostream.pages.page import HUES, escape
from twostream.scores.table import ScoreTable

CLIPS_PER_STRIDE = 2
"""clips that are looked at from the start of one window to the start of the next"""
BAR_HEIGHT = 31
"""of a timeline's drawing, with the gap below it"""
WINDOWS_AT_ONCE = 1000
"""windows that are reduced together, which bounds the memory of their clips"""


@dataclass(frozen=True)
class Segment:
    """A part of a video in which one class is likely."""

    start_seconds: float
    end_seconds: float
    label: str
    confidence: float
    """mean probability of the class over the segment"""


@dataclass(frozen=True)
class Timeline:
    """Class probabilities along a video."""

    source: str
    """the video, as it was named"""
    classes: tuple[str, ...]
    stride_seconds: float
    probabilities: np.ndarray
    """(n, K): row i is the mean over the windows that cover the seconds from i to i + 1 strides"""
    seconds: float
    """duration of the video"""
    num_frames: int
    notes: tuple[str, ...] = ()
    multi_label: bool = False
    """may several classes happen at once?"""

    def segments(self, *, threshold: float = 0.5, background: str | None = None) -> list[Segment]:
        """The longest runs in which the same class is the most likely one, with at least the probability `threshold`.

        `background` is a class that stands for nothing of interest, and makes no segments. Of a multi-label recognizer,
        each class has the runs in which it has that probability, so segments may overlap; they are in order of their starts.
        """
        best = self.probabilities.argmax(axis=1)
        is_sure = self.probabilities >= threshold
        found = []
        for label_index, label in enumerate(self.classes):
            happens = is_sure[:, label_index] & (self.multi_label | (best == label_index))
            for sure, run in groupby(range(len(best)), happens.__getitem__):
                rows = list(run)
                if sure and label != background:
                    end = min((rows[-1] + 1) * self.stride_seconds, self.seconds)
                    confidence = float(self.probabilities[rows, label_index].mean())
                    found.append(Segment(rows[0] * self.stride_seconds, end, label, confidence))
        return sorted(found, key=lambda segment: segment.start_seconds)

    def plot(self, *, threshold: float = 0.5, background: str | None = None) -> charts.Drawing:
        """The segments as a bar, a colour for each class; a notebook shows the drawing.

        Of a multi-label recognizer, each class that happens has a bar of its own.
        """
        width = 720
        scale = width / max(self.seconds, 1e-9)
        segments = self.segments(threshold=threshold, background=background)
        lanes = list(dict.fromkeys(part.label for part in segments)) if self.multi_label else []
        below = BAR_HEIGHT * max(len(lanes), 1)
        elements = [f'<line class="rule" x1="0" x2="{width}" y1="{below}" y2="{below}"/>']
        for part in segments:
            y = 2 + BAR_HEIGHT * (lanes.index(part.label) if lanes else 0)
            x, length = part.start_seconds * scale, (part.end_seconds - part.start_seconds) * scale
            hue = self.classes.index(part.label) % HUES
            text = f"{part.start_seconds:.1f} to {part.end_seconds:.1f} s: {part.label} {part.confidence:.2f}"
            elements.append(
                f'<rect class="hue{hue}" x="{x:.1f}" y="{y}" width="{max(length - 0.5, 0.5):.1f}" height="{BAR_HEIGHT - 3}">'
                f"<title>{escape(text)}</title></rect>"
            )
        for tick in charts.ticks(0, self.seconds, count=6):
            if tick <= self.seconds:
                elements.append(f'<text x="{tick * scale:.1f}" y="{below + 12}">{charts.short_number(tick)} s</text>')
        return charts.Drawing(charts.svg(width, below + 15, f"timeline of {self.source}", elements))

    def to_json(self, *, threshold: float = 0.5, background: str | None = None) -> dict[str, Any]:
        """The segments, as JSON can hold them, in the form of ActivityNet's results."""
        return {
            "source": self.source,
            "seconds": round(self.seconds, 3),
            "segments": [
                {
                    "segment": [round(part.start_seconds, 3), round(part.end_seconds, 3)],
                    "label": part.label,
                    "score": round(part.confidence, 6),
                }
                for part in self.segments(threshold=threshold, background=background)
            ],
            "notes": list(self.notes),
        }


def to_srt(segments: Sequence[Segment]) -> str:
    """The segments as subtitles (SubRip), which video players show."""
    blocks = (
        f"{number}\n{_clock(part.start_seconds)} --> {_clock(part.end_seconds)}\n{part.label} ({part.confidence:.2f})\n"
        for number, part in enumerate(segments, 1)
    )
    return "\n".join(blocks)


def _clock(seconds: float) -> str:
    milliseconds = round(1000 * seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d},{milliseconds % 1000:03d}"


def clip_step(fps: float, stride_seconds: float) -> int:
    """Frames from clip to clip for windows that are `stride_seconds` apart."""
    return max(round(fps * stride_seconds / CLIPS_PER_STRIDE), 1)


def window_probabilities(
    tables: Sequence[ScoreTable], fusion: Fusion, *, rates: Sequence[float], seconds: float, window_seconds: float,
    stride_seconds: float,
) -> np.ndarray:  # fmt: skip
    """Fused probabilities (n, K) for each stride of a video, from the clips of each stream.

    `rates` are the frames per second by which each table counts. A clip belongs to the windows that its middle lies in;
    a window without clips takes the nearest one.
    """
    num_windows = max(math.ceil((seconds - window_seconds) / stride_seconds - 1e-6) + 1, 1)
    per_window = [
        _of_windows(fusion, tables, rates, np.arange(first, min(first + WINDOWS_AT_ONCE, num_windows)), window_seconds,
                    stride_seconds)
        for first in range(0, num_windows, WINDOWS_AT_ONCE)
    ]  # fmt: skip
    sums = np.concatenate([np.zeros((1, per_window[0].shape[1])), np.cumsum(np.concatenate(per_window), axis=0)])
    num_strides = max(math.ceil(seconds / stride_seconds - 1e-6), 1)
    strides_per_window = max(round(window_seconds / stride_seconds), 1)
    last = np.minimum(np.arange(num_strides), num_windows - 1)
    first = np.clip(np.arange(num_strides) + 1 - strides_per_window, 0, last)
    return np.asarray((sums[last + 1] - sums[first]) / (last + 1 - first)[:, None])


def _of_windows(
    fusion: Fusion, tables: Sequence[ScoreTable], rates: Sequence[float], windows: np.ndarray, window_seconds: float,
    stride_seconds: float,
) -> np.ndarray:  # fmt: skip
    """Fused probabilities (w, K) of these windows."""
    scores = []
    for table, rate in zip(tables, rates, strict=True):
        middles = (table.start + table.clip_extents[0] / 2) / rate
        first = np.searchsorted(middles, windows * stride_seconds - 1e-9)
        end = np.searchsorted(middles, windows * stride_seconds + window_seconds - 1e-9)
        nearest = np.abs(middles[None] - (windows * stride_seconds + window_seconds / 2)[:, None]).argmin(axis=1)
        rows = [
            np.arange(a, b) if b > a else np.flatnonzero(table.start == table.start[n])
            for a, b, n in zip(first, end, nearest, strict=True)
        ]
        chosen = np.concatenate(rows)
        scores.append(
            fusion.consensus.video_scores(
                ScoreTable(
                    table.stream, table.split, np.array([f"{w:012d}" for w in windows]), np.full(len(windows), -1),
                    np.repeat(np.arange(len(windows)), [len(part) for part in rows]).astype(np.int32),
                    table.start[chosen], table.view[chosen], table.logits[chosen], {},
                )
            )
        )  # fmt: skip
    return fusion.fuse(scores)
