"""Frames of videos in memory, read as a frame store is: regions of them, or of flow images that are made when needed."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import cv2
import numpy as np

from twostream.errors import one_line
from twostream.flow.coding import from_planes
from twostream.flow.methods import FlowFunction, FlowSettings
from twostream.frames.jpeg import (
    Header,
    Region,
    cut_regions,
    decode_jpeg,
    decode_regions,
    encode_cells,
    encode_jpeg,
    scale_planes,
)
from twostream.motion_vectors.kept_frames import PictureMotion
from twostream.stream import MOTION_VECTORS, RGB
from twostream.threads import map_in_threads, thread_pool
from twostream.video.ffmpeg import VideoError

Frame: TypeAlias = np.ndarray | PictureMotion
"""uint8 (H, W, 3) RGB or, for a stream of motion vectors, how it moved since the frame before"""
Frames = Mapping[int, Any]
"""frame index -> Frame, all of one kind; frames that no clip needs may be missing"""


class Footage:
    """The frames of several videos, for one stream, as that stream's training saw its images.

    With `flow`, it reads as the flow images that extraction would make of these frames: each frame's flow to the next
    one, and for the last frame that of the pair before it. Images that were stored as JPEG lose here what they lost
    there: with the same quality, the pixels are the same.
    """

    def __init__(
        self, videos: Mapping[str, tuple[Frames, int]], *, flow: FlowSettings | None = None, frame_quality: int = 0,
        flow_quality: int = 0, keeps_flow: bool = False,
    ):  # fmt: skip
        """`videos`: video id -> its frames and how many frames the video has, the missing ones included.

        The qualities are those of JPEG, for RGB frames (before flow is computed from them, too) and for flow images; 0
        leaves them as they are. `keeps_flow`: flow that was computed is kept until `move_on` leaves its frames behind.
        """
        self.videos, self.flow = videos, flow
        self.frame_quality, self.flow_quality = frame_quality, flow_quality
        self.keeps_flow = keeps_flow
        self._planes: dict[tuple[str, int], np.ndarray] = {}
        # Live answers need flow again and again. Each new thread would need a flow function of its own, and in each,
        # OpenCV's Farneback leaves 900 bytes behind for ever.
        self._pool = thread_pool()
        self._thread = threading.local()

    def compute_flow(self, frames: Iterable[tuple[str, int]]) -> None:
        """Compute the flow images of these (video id, frame index) on all cores, for the reads that follow.

        Raises VideoError if the flow method does not support the size of the frames.

        The flow images that were computed before and are not among them are forgotten, unless flow is kept.
        """
        pairs = {(video_id, self._first(video_id, index)) for video_id, index in frames}
        missing = sorted(pairs - self._planes.keys())
        kept = {pair: planes for pair, planes in self._planes.items() if pair in pairs or self.keeps_flow}
        self._planes = kept | dict(zip(missing, map_in_threads(self._compute, missing, pool=self._pool), strict=True))

    def flow_of(self, video_id: str) -> dict[int, np.ndarray]:
        """The flow of a video that is kept: first frame of a pair -> planes, uint8 (2H, W), or on cells."""
        return {index: planes for (name, index), planes in self._planes.items() if name == video_id}

    def add_flow(self, video_id: str, flow: Mapping[int, np.ndarray]) -> None:
        """Flow of a video, from `flow_of`, that need not be computed; it is kept."""
        self.keeps_flow |= bool(flow)
        self._planes |= {(video_id, index): planes for index, planes in flow.items()}

    def move_on(self, video_id: str, frames: Frames, *, by: int) -> None:
        """Replace the frames of a video by as many that begin `by` frames later; the flow of pairs in both is kept."""
        self.videos = {**self.videos, video_id: (frames, self.videos[video_id][1])}
        self._planes = {
            (name, index - by if name == video_id else index): planes
            for (name, index), planes in self._planes.items()
            if name != video_id or index >= by
        }

    def read_regions(
        self, video_id: str, frame_indices: list[int], choose: Callable[[int, int], Sequence[Region]], out: np.ndarray
    ) -> None:
        """As `FrameStore.read_regions`."""
        height, width = self.picture_size(video_id)
        regions = choose(height, width)
        header = Header(height, width, self.flow is not None)
        quality = self.flow_quality if self.flow else self.frame_quality
        for position, index in enumerate(frame_indices):
            picture = self._flow_planes(video_id, index) if self.flow else self.videos[video_id][0][index]
            targets = list(out[:, position])
            if not quality:
                cut_regions(picture, header, regions, targets)
                continue
            if self.flow and self.flow.method == MOTION_VECTORS:
                jpeg = encode_cells(picture, height=height, width=width)
                header = Header(height, width, True, (len(picture) // 2, picture.shape[1]))
            else:
                jpeg = encode_jpeg(picture, quality=quality, chroma_subsampling=self.flow is None)
            is_readable = decode_regions(jpeg, header, regions, targets)
            assert is_readable, "encoded a line above"

    def picture_size(self, video_id: str) -> tuple[int, int]:
        """As `FrameStore.picture_size`."""
        height, width = next(iter(self.videos[video_id][0].values())).shape[:2]
        return height, width

    def read_grey(self, video_id: str, frame_indices: list[int]) -> np.ndarray:
        """As `FrameStore.read_grey`."""
        return np.stack([self._grey(video_id, index) for index in frame_indices])

    def flow_image(self, video_id: str, index: int) -> np.ndarray:
        """The flow image of a frame, uint8 (H, W, 3)."""
        return from_planes(scale_planes(self._flow_planes(video_id, index), *self.picture_size(video_id)))

    def _grey(self, video_id: str, index: int) -> np.ndarray:
        frame = self.videos[video_id][0][index]
        if self.frame_quality:
            jpeg = encode_jpeg(frame, quality=self.frame_quality, chroma_subsampling=True)
            decoded = decode_jpeg(jpeg, RGB)
            assert decoded is not None, "encoded a line above"
            frame = decoded
        return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)

    def _first(self, video_id: str, index: int) -> int:
        """The first frame of the pair whose flow belongs to a frame."""
        return max(min(index, self.videos[video_id][1] - 2), 0)

    def _flow_planes(self, video_id: str, index: int) -> np.ndarray:
        pair = video_id, self._first(video_id, index)
        return self._planes[pair] if pair in self._planes else self._compute(pair)

    def _compute(self, pair: tuple[str, int]) -> np.ndarray:
        """The planes of a pair's flow image, uint8 (2H, W), or on cells; a video of one frame does not move."""
        assert self.flow is not None
        video_id, first = pair
        if self.flow.method == MOTION_VECTORS:
            frames, num_frames = self.videos[video_id]
            motion: PictureMotion = frames[min(first + 1, num_frames - 1)]
            return motion.planes(self.flow.coding)
        grey = self._grey(video_id, first)
        if self.videos[video_id][1] == 1:
            flow = np.zeros((*grey.shape, 2), np.float32)
        else:
            try:
                flow = self._function()(grey, self._grey(video_id, first + 1))
            except (ValueError, cv2.error) as error:
                raise VideoError(one_line(error), "no flow") from None
        return self.flow.coding.encode_planes(flow)

    def _function(self) -> FlowFunction:
        """This thread's own flow function: OpenCV's objects are not made for use by several threads."""
        if not hasattr(self._thread, "function"):
            assert self.flow is not None
            self._thread.function = self.flow.function()
        function: FlowFunction = self._thread.function
        return function
