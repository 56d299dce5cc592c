"""A video with what the recognizer says of it drawn in."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from twostream.errors import BadInputError
from twostream.inference.prediction import Prediction
from twostream.inference.sources import Geometry, Source
from twostream.inference.timeline import Timeline
from twostream.video.encoder import write_video

LINES = 3
"""classes that are drawn for a prediction"""
RATE_SIDE = 16
"""pixels of the short side of frames that are only counted"""


def write_annotated(
    path: Path, source: Source, answer: Prediction | Timeline, *, threshold: float = 0.5, background: str | None = None
) -> None:
    """Write the video at its own size and rate, without sound, with the classes of the answer in its upper left corner.

    Of a prediction, these are the best classes of the whole video, and of a multi-label one those with a probability of
    `threshold` or more; of a timeline, the class of the segment that is shown.
    Raises BadInputError if the rate of the frames is unknown, and EnvironmentFaultError if the file cannot be written.
    """
    if not (rate := _own_rate(source)):
        raise BadInputError(f"{source.name}: its rate is unknown, expected frames per second; give them with --fps")
    if isinstance(answer, Prediction):
        answers = answer.above(threshold) if answer.multi_label else answer.top(LINES)
        best = [f"{a.label} {a.probability:.2f}" for a in answers]
        labels: Callable[[float], list[str]] = lambda seconds: best  # noqa: E731
    else:
        segments = answer.segments(threshold=threshold, background=background)

        def labels(seconds: float) -> list[str]:
            # By the rate of the recognizer, the video may end a moment before its last frame.
            seconds = min(seconds, math.nextafter(answer.seconds, 0))
            return [f"{s.label} {s.confidence:.2f}" for s in segments if s.start_seconds <= seconds < s.end_seconds]

    write_video(path, _drawn(source, labels, rate), fps=rate)


def _own_rate(source: Source) -> float:
    """Frames per second of all its frames, 0 if unknown: the recognizer may have taken them at another rate."""
    for _ in source.frames(Geometry(short_side=RATE_SIDE)):  # the rate is known after the last one
        pass
    return source.fps


def _drawn(source: Source, labels: Callable[[float], list[str]], rate: float) -> Iterator[np.ndarray]:
    for index, frame in enumerate(source.frames(Geometry())):
        yield draw(frame, labels(index / rate))


def draw(frame: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """The frame, uint8 (H, W, 3) RGB, with lines of text on a dark ground; letters outside ASCII become "?"."""
    frame = frame.copy()
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, max(min(frame.shape[:2]) / 500, 0.4)
    thickness = max(round(2 * scale), 1)
    texts = [line.encode("ascii", "replace").decode() for line in lines]
    y = 0
    for text in texts:
        (width, height), below = cv2.getTextSize(text, font, scale, thickness)
        margin = height // 2
        box = frame[y : y + height + below + margin, : width + 2 * margin]
        box //= 3
        cv2.putText(
            frame, text, (margin, y + height + margin // 2), font, scale, (255, 255, 255), thickness, cv2.LINE_AA
        )
        y += height + below + margin
    return frame
