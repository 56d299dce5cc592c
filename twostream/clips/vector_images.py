"""Flow images that are nowhere on disk: made by the motion vectors of video files, when they are read."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from twostream.clips.items import Images
from twostream.errors import BadInputError
from twostream.flow.methods import FlowSettings
from twostream.frames.jpeg import Header, Region, cut_regions
from twostream.frames.videos import VideoFiles
from twostream.motion_vectors.kept_frames import PictureMotion, read_numbered
from twostream.stream import StreamConfig
from twostream.video.ffmpeg import VideoError


class VectorImages:
    """The flow images that extraction would make of the videos of a store of video files, without the losses of JPEG."""

    def __init__(self, store: Images, stream: StreamConfig):
        """Raises BadInputError if the store has images instead of video files."""
        if not isinstance(store, VideoFiles):
            raise BadInputError(
                "--flow=online reads motion vectors from video files, but this data root has stored frames: make another one "
                "by twostream annotate --root=ROOT --videos=VIDEOS --frames=videos, or extract mv and leave out --flow"
            )
        self.store = store
        self.coding = FlowSettings.from_json(stream.with_flow("stored").flow_coding or {}).coding
        self._sizes: dict[str, tuple[int, int]] = {}
        """of the videos that were read; a first frame costs as much as some vectors"""

    def read_regions(
        self, video_id: str, frame_indices: list[int], choose: Callable[[int, int], Sequence[Region]], out: np.ndarray
    ) -> None:
        """See `FrameStore.read_regions`."""
        height, width = self.picture_size(video_id)
        regions = choose(height, width)
        index, source = self.store.index(video_id)
        path = Path(self.store.settings()["videos"], source["name"])
        # Flow points to the next frame; the last frame has the flow of the pair before it.
        numbers = [min(frame_index + 1, index.num_frames - 1) for frame_index in frame_indices]
        try:
            steps = read_numbered(path, index, numbers)
        except VideoError as error:
            raise BadInputError(f"{path}: {error}") from None
        for position, number in enumerate(numbers):
            planes = PictureMotion(steps[number], (height, width)).planes(self.coding)
            cut_regions(planes, Header(height, width, True), regions, list(out[:, position]))

    def picture_size(self, video_id: str) -> tuple[int, int]:
        """See `FrameStore.picture_size`."""
        if video_id not in self._sizes:
            self._sizes[video_id] = self.store.picture_size(video_id)
        return self._sizes[video_id]

    def read_grey(self, video_id: str, frame_indices: list[int]) -> np.ndarray:
        """See `FrameStore.read_grey`."""
        return self.store.read_grey(video_id, frame_indices)
