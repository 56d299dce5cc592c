"""The pictures of a video file and the motion between them, from one decoding (PyAV).

`Decoder` knows damage by all that ffmpeg's program prints, and the program hands out no vectors. So a video is decoded once
only where all is in order: FFmpeg's libraries print no complaint, each packet becomes a frame, time goes on, and `Decoder`
finds no damage by the header and the counts. Everything else is left to `Decoder` and `read_kept`, which decode it twice.
"""

import logging
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from twostream.motion_vectors.kept_frames import without_gaps
from twostream.motion_vectors.reader import BATCH, Step, read_steps_with_pictures
from twostream.video.decoder import Decoded, Decoder
from twostream.video.ffmpeg import WAIT_PER_SECOND, VideoError
from twostream.video.ffmpeg_log import LibraryLine, LibraryLog
from twostream.video.random_access import Converter, import_av, open_container, open_stream

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

BATCH_BYTES = 32 * 2**20
"""of the frames that are decoded at a time, at 3 bytes a pixel"""

MAX_GAP_SECONDS = 10
"""between two frames; after a longer one, ffmpeg's program may find that the time stamps begin again"""


class MovingPictures:
    """The pictures that a `Decoder` of a whole video at its own rate gives, and the motion between them.

    Use it as a context manager. Iterate over the pictures, and over `motion()`, in step or one ahead of the other, then read
    `result`. Entering and iterating raise VideoError where anything is not in order, for `decoder` to say what it is.
    """

    def __init__(self, decoder: Decoder):
        """`decoder` has the file and what is wanted of it, and decodes nothing here."""
        self.decoder = decoder
        self.rate = 0.0
        """frames per second by the header"""
        self.result: Decoded | None = None
        """what is known of the video; None before its last frame has been read"""
        self._pictures: deque[VideoFrame] = deque()
        self._motion: deque[Step] = deque()
        self._last: Step | None = None
        self._num_frames = 0
        self._seconds_spent = 0.0

    def __enter__(self) -> "MovingPictures":
        if self.decoder.segment or self.decoder.fps:
            raise VideoError("a part, or another rate, is wanted")
        with ExitStack() as stack:
            self._said = stack.enter_context(_listen())
            container = stack.enter_context(open_container(self.decoder.path))
            self._opening, self._header_text = tuple(self._said), container.dumps_format()  # type: ignore[attr-defined]  # by PyAV 18
            self._said.clear()
            self._header = header = self._log().read_header()
            if header is None or not header.fps or header.num_streams > 1:
                raise VideoError("its header leaves a choice")
            self.decoder.check_length(header)
            self._refuse_if(self._log().complaint_of_the_file())
            self.rate = header.fps
            self._max_seconds = self.decoder.time_limit_seconds + WAIT_PER_SECOND * (header.declared_seconds or 0)
            stream = open_stream(container, header.stream_index)
            self._aspect = stream.sample_aspect_ratio or Fraction(0)
            self._converter = Converter(short_side=self.decoder.short_side, square_pixels=self.decoder.square_pixels)
            self._batch = max(1, min(BATCH, BATCH_BYTES // (3 * header.width * header.height)))
            self._frames = read_steps_with_pictures(container, stream, batch=self._batch)
            self._decode()
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._frames = iter(())
        self._open.close()

    def __iter__(self) -> Iterator[np.ndarray]:
        """The pictures, uint8 (H, W, 3) RGB."""
        while self._pictures or self._decode():
            yield self._converter(self._pictures.popleft(), self._aspect)
        result = self.decoder.assess(self._num_frames, 0, self._log(), self._header)
        self._refuse_if(result.damage)
        self.result = result

    def motion(self) -> Iterator[Step]:
        """How each picture moved since the one before, as `read_kept`."""
        return without_gaps(self._decoded())

    def _decoded(self) -> Iterator[Step]:
        while self._motion or self._decode():
            yield self._motion.popleft()

    def _decode(self) -> bool:
        """Decode some frames; False if there are no more."""
        start = time.monotonic()
        frames = list(islice(self._frames, self._batch))
        self._seconds_spent += time.monotonic() - start
        for step, picture in frames:
            self._check(step)
            self._pictures.append(picture)
            self._motion.append(step)
        self._num_frames += len(frames)
        if self._num_frames > self.decoder.max_frames(self._header) or self._seconds_spent > self._max_seconds:
            raise VideoError("takes too long")
        self._refuse_if(self._log().complaint())
        return bool(frames)

    def _check(self, step: Step) -> None:
        """Raises VideoError where ffmpeg's program would say something, or scale the picture to the size of the first one."""
        if last := self._last:
            if (step.stored_size, step.turns) != (last.stored_size, last.turns):
                raise VideoError("its pictures change in mid-video")
            if not 0 <= float(step.seconds) - float(last.seconds) < MAX_GAP_SECONDS:
                raise VideoError("its time stamps jump")
        self._last = step

    def _log(self) -> LibraryLog:
        end_seconds = float(self._last.seconds) + 1 / self.rate if self._last else None
        return LibraryLog(
            self._opening, self._header_text, self._said, num_frames=self._num_frames, end_seconds=end_seconds
        )

    @staticmethod
    def _refuse_if(reason: str) -> None:
        if reason:
            raise VideoError(reason)


def _listen() -> AbstractContextManager[list[LibraryLine]]:
    """What FFmpeg's libraries say in this thread until it is left, also what they repeat.

    Other threads may listen too, so the libraries go on talking; what nobody listens to is not printed.
    """
    av = import_av()
    logging.getLogger("libav").setLevel(logging.CRITICAL + 1)
    av.logging.set_skip_repeated(False)
    av.logging.set_level(av.logging.INFO)
    return av.logging.Capture()
