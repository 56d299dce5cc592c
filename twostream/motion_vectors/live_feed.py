"""A source that is going on, with the motion between its pictures; see video/live_reader.py."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from twostream.errors import BadInputError
from twostream.motion_vectors.kept_frames import PictureMotion, follow_kept, with_motion
from twostream.motion_vectors.reader import COPY_FORMAT, NO_VECTORS
from twostream.video.decoder import PICTURE_ONLY
from twostream.video.ffmpeg import Address, Ffmpeg, VideoError
from twostream.video.live_reader import FfmpegFeed, Parts

WITH_TIMES = r"setts=pts=if(eq(PTS\,NOPTS)\,max(0\,PREV_OUTPTS+1)\,PTS)"
"""ffmpeg's filter of packets that gives a time to those without, as is the first one of a camera that reorders its frames (RTP);
COPY_FORMAT holds no others"""

COPY = (*PICTURE_ONLY, "-c", "copy", "-bsf:v", WITH_TIMES, "-f", COPY_FORMAT)
"""ffmpeg's options of an output of packets as they come"""


class MovingFeed(FfmpegFeed):
    """A file or a stream, whose outputs of pictures are followed by outputs of their motion: a `Feed`.

    A file is read a second time, in step with its pictures. Of a stream, ffmpeg copies the packets, from which this process reads
    the vectors, while ffmpeg decodes the pictures; so motion may be some frames ahead of the pictures, or behind them.
    """

    def __init__(
        self, source: Path | Address, outputs: Sequence[Sequence[str]], *, fps: Sequence[float], paced: bool,
        moving: Sequence[int],
    ):  # fmt: skip
        """`moving` are the numbers of the outputs whose motion is read, into outputs that follow in the same order.

        For the others, see FfmpegFeed.
        """
        super().__init__(source, outputs, fps=[*fps, *(fps[number] for number in moving)], paced=paced)
        self.moving = moving
        if isinstance(source, Address):
            self.copies = [COPY] * len(moving)
        self._shapes: dict[int, tuple[int, ...]] = {}
        """of the pictures of an output, once there is one"""
        self._changed = threading.Condition()

    def parts(self, ffmpeg: Ffmpeg) -> Parts:
        """See FfmpegFeed."""
        pictures = super().parts(ffmpeg)
        targets = {number: len(self.outputs) + k for k, number in enumerate(self.moving)}
        if isinstance(self.source, Path):
            return [
                self._in_step(part, number, targets[number]) if number in targets else part
                for number, part in enumerate(pictures)
            ]
        self._shapes.clear()
        noted = [self._noted(part, number) for number, part in enumerate(pictures)]
        return [*noted, *(self._motion(ffmpeg, number, target) for number, target in targets.items())]

    def _in_step(self, part: Iterable[tuple[int, Any]], number: int, target: int) -> Iterator[tuple[int, Any]]:
        assert isinstance(self.source, Path)
        pictures = (picture for _, picture in part)
        try:
            for picture, motion in with_motion(pictures, self.source, fps=self.fps[number]):
                yield number, picture
                yield target, motion
        except VideoError as error:
            raise self._explained(error) from None

    def _noted(self, part: Iterable[tuple[int, Any]], number: int) -> Iterator[tuple[int, np.ndarray]]:
        try:
            for output, picture in part:
                self._note(number, picture.shape[:2])
                yield output, picture
        finally:
            self._note(number, self._shapes.get(number, ()))

    def _note(self, number: int, shape: tuple[int, ...]) -> None:
        if self._shapes.get(number) != shape:
            with self._changed:
                self._shapes[number] = shape
                self._changed.notify_all()

    def _motion(self, ffmpeg: Ffmpeg, number: int, target: int) -> Iterator[tuple[int, PictureMotion]]:
        file = ffmpeg.file(len(self.outputs) + self.moving.index(number))
        try:
            for step in follow_kept(file, fps=self.fps[number]):
                with self._changed:
                    self._changed.wait_for(lambda: number in self._shapes)
                height, *width = self._shapes[number] or (0,)
                if not width:
                    return  # it ended without a picture
                yield target, PictureMotion(step, (height, width[0]))
        except VideoError as error:
            raise self._explained(error) from None

    def _explained(self, error: VideoError) -> Exception:
        """Another attempt would find no vectors either, so their lack is no loss of the source."""
        return (
            BadInputError(f"{self.name}: {error}; use a recognizer without motion vectors")
            if error.kind == NO_VECTORS
            else error
        )
