"""The items of a data set: which frames and regions of the videos they are, and their images, as NumPy arrays."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from twostream.annotations.videos import VideoTable
from twostream.clips.crops import CentreCrop, Crop, PlacedCrop, View, WholePicture
from twostream.clips.sampling import ClipGeometry, ClipIndex, JitterIndex, SegmentIndex, UniformIndex, item_random
from twostream.counts import counted
from twostream.errors import BadInputError
from twostream.frames.jpeg import Region
from twostream.stream import StreamConfig

T = TypeVar("T")

Key = int | tuple[int, int]
"""of an item: its number or, in training, (epoch, number)"""


class Columns(NamedTuple):
    """What a batch of N rows has beside its images; as in clips.dataset.Batch."""

    mirrored: np.ndarray
    """bool (N,)"""
    labels: np.ndarray
    """int64 (N,) or (N, K)"""
    numbers: np.ndarray
    """int64 (N,)"""
    unreadable: tuple[str, ...]


class Images(Protocol):
    """What data sets read from: a FrameStore, or frames in memory."""

    def read_regions(
        self, video_id: str, frame_indices: list[int], choose: Callable[[int, int], Sequence[Region]], out: np.ndarray
    ) -> None:
        """See `FrameStore.read_regions`."""

    def picture_size(self, video_id: str) -> tuple[int, int]:
        """See `FrameStore.picture_size`."""

    def read_grey(self, video_id: str, frame_indices: list[int]) -> np.ndarray:
        """See `FrameStore.read_grey`."""


class Item(NamedTuple):
    """What was drawn for one item."""

    number: int
    video: int
    """index of its video"""
    frames: list[int]
    """frame indices of its S x T images"""
    choose: Callable[[int, int], list[Region]]
    """height and width of an image -> its regions, one for each view; the same for all images of the item"""
    mirrored: bool


class Items:
    """The items of a data set, for one stream and phase: which frames and regions each has, and its label.

    The items are all clips, `clip_step` frames apart; or `num_clips` clips of each video, evenly spaced (`spread`: see
    UniformIndex); or, with `num_segments` S, the videos, from each of which S clips are drawn; or `clips_per_video` clips of
    each video, drawn one by one. The key of an item is its number or, in training, (epoch, number): key and `seed` decide segments, crop and mirroring, so they are the same in any process.

    Either `crop` or `views` is given. With V views, item n fills V rows of its batch, one for each view; in
    `Batch.numbers` these rows are V n ... V n + V - 1.

    An unreadable image is an error. With `max_unreadable`, the next item is read in place of its item, at most that
    often for one item, and the batch says why.

    The videos are columns of a table, which loader processes share without copying them.

    Raises BadInputError where the clips need frames that the extraction left out.
    """

    def __init__(
        self, videos: VideoTable, stream: StreamConfig, *, crop: Crop | None = None, views: Sequence[View] = (),
        clip_step: int = 1, num_clips: int = 0, spread: str = "parts", num_segments: int = 0, clips_per_video: int = 0,
        mirror: bool = False, seed: int = 0, max_unreadable: int = 0,
    ):  # fmt: skip
        if (crop is None) == (len(views) == 0):
            raise ValueError("expected either a crop or views")
        self.videos, self.stream, self.mirror = videos, stream, mirror
        self.views = tuple(views) if crop is None else (View(0, crop, mirrored=False),)
        self.crop_size = self.views[0].crop.size
        self.seed, self.max_unreadable = seed, max_unreadable
        self.num_segments = num_segments or 1
        self.geometry = ClipGeometry(
            videos.fps, clip_len=stream.clip_len, frame_stride=stream.frame_stride, frame_rate=stream.frame_rate
        )
        self._check_stored_steps(None if num_segments or num_clips or clips_per_video else clip_step)
        columns, span = (videos.num_frames, videos.stored_step), self.geometry.spans
        self.index: ClipIndex | UniformIndex | SegmentIndex
        if num_segments:
            self.index = SegmentIndex(*columns, span=span, num_segments=num_segments)
        elif clips_per_video:
            self.index = JitterIndex(*columns, span=span, clips_per_video=clips_per_video)
        elif num_clips:
            # The last frame of a video has no flow of its own.
            num_frames = videos.num_frames + (spread == "ends" and stream.modality == "rgb")
            self.index = UniformIndex(num_frames, videos.stored_step, span=span, num_clips=num_clips, spread=spread)
        else:
            self.index = ClipIndex(videos.num_frames, span=span, clip_step=clip_step)

    def _check_stored_steps(self, clip_step: int | None) -> None:
        """Raise BadInputError where clips need frames that were not stored.

        clip_step: None where the clips of each video begin at its stored frames only.
        """
        stored_step = self.videos.stored_step
        if self.stream.is_online:
            for index in np.flatnonzero(stored_step != 1)[:1]:
                raise BadInputError(
                    f"video {self.videos.ids[index]!r} was extracted with --frame_step={stored_step[index]}, but "
                    "--flow=online needs the frame after each stored one: extract again with --frame_step=1, or "
                    "extract flow too, and leave out --flow"
                )
        if self.stream.frame_rate:
            for index in np.flatnonzero(~self.geometry.needs_only(stored_step))[:1]:
                raise BadInputError(
                    f"video {self.videos.ids[index]!r}, {self.videos.fps[index]:g} frames a second, was extracted with "
                    f"--frame_step={stored_step[index]}, so not all frames that --frame_rate={self.stream.frame_rate:g} "
                    "needs are stored; extract again with --frame_step=1, or leave out --frame_rate"
                )
        # A clip of one frame needs that frame only; a longer one needs its neighbours too.
        steps = [clip_step] if clip_step is not None else []
        if self.stream.clip_len > 1 and not self.stream.frame_rate:
            steps.append(self.stream.frame_stride)
        needed = math.gcd(*steps)
        for index in np.flatnonzero(needed % stored_step)[:1]:
            step = stored_step[index]
            raise BadInputError(
                f"video {self.videos.ids[index]!r} was extracted with --frame_step={step}, so not all frames at "
                f"step {needed} are stored; use a {'--gap' if clip_step is None else '--frame_step'} that is a multiple "
                f"of {step}, or extract again"
            )

    def __len__(self) -> int:
        return len(self.index)

    def short_videos(self) -> str:
        """A line with the number of items whose video is shorter than a clip; "" if there are none."""
        stream, spans = self.stream, self.geometry.spans
        is_short = (self.videos.num_frames < spans) & (self.videos.num_frames > 0)
        if not is_short.any():
            return ""
        length, rate = counted(int(spans[0]), "frame"), ""
        if stream.frame_rate:
            length = f"{(stream.clip_len - 1) * stream.frame_stride / stream.frame_rate:.2f} s"
            rate = f", --frame_rate={stream.frame_rate:g}"
        num_clips = int(np.diff(self.index.ends, prepend=0)[is_short].sum())
        return (
            f"{num_clips} of {counted(len(self), 'clip')} repeat frames: {np.count_nonzero(is_short)} of {counted(len(self.videos), 'video is', 'videos are')} "
            f"shorter than the {length} of a clip (--seq_len={stream.clip_len}, --gap={stream.frame_stride}{rate})"
        )

    def frames_of(self, video: int, start: int) -> list[int]:
        """Frame indices of the clip of a video that begins at frame `start`.

        The last frame, which only clips longer than their video reach, has the flow of the pair before it: an image that
        our trees have twice, and those of 2D-kinectics once. So flow is read from the frame before.
        """
        num_frames = int(self.videos.num_frames[video])
        frames = self.geometry.frames(video, start, num_frames)
        if self.stream.modality == "flow" and self.videos.stored_step[video] == 1:
            frames = [min(frame, max(num_frames - 2, 0)) for frame in frames]
        return frames

    def labels(self) -> np.ndarray:
        """The label of each item, as `VideoTable.labels` has those of videos."""
        return np.repeat(self.videos.labels(), np.diff(self.index.ends, prepend=0), axis=0)

    def read(self, keys: Sequence[Key], read_item: Callable[[int, Item], T]) -> tuple[list[T], Columns]:
        """Read a batch: what `read_item` returns for each item, and the columns of the batch beside the images.

        `read_item` is called with the item's row in the batch and the item; where it raises BadInputError or OSError,
        it may be called again with the next item for the same row.
        """
        contents: list[T] = []
        items: list[Item] = []
        unreadable: list[str] = []
        for row, key in enumerate(keys):
            epoch, number = key if isinstance(key, tuple) else (0, key)
            for attempt in range(self.max_unreadable + 1):
                item = self._draw(epoch, number)
                try:
                    contents.append(read_item(row, item))
                    items.append(item)
                    break
                except (BadInputError, OSError) as error:
                    if attempt == self.max_unreadable:
                        raise
                    unreadable.append(str(error))
                    number = (number + 1) % len(self)
        num_views = len(self.views)
        mirrored = np.array([[item.mirrored or view.mirrored for view in self.views] for item in items], bool)
        labels = self.videos.labels([item.video for item in items]).astype(np.int64).repeat(num_views, axis=0)
        numbers = np.array([item.number for item in items], np.int64)[:, None] * num_views + np.arange(num_views)
        return contents, Columns(mirrored.ravel(), labels, numbers.ravel(), tuple(unreadable))

    def clips_shape(self, keys: Sequence[Key], images: Images) -> tuple[int, ...]:
        """Shape of the clips of a batch, (N, S, T, H, W, C), with a row for each view; see `Batch.clips`.

        Whole pictures have the shape of their video's, so all items of such a batch must be of one video.
        """
        channels = 3 if self.stream.modality == "rgb" else 2
        height = width = self.crop_size
        if isinstance(crop := self.views[0].crop, WholePicture):
            (video,) = set(self.index.locate(np.array(keys))[0].tolist())
            height, width = crop.shape(*images.picture_size(self.videos.ids[video]))
        return len(keys) * len(self.views), self.num_segments, self.stream.clip_len, height, width, channels

    def of_one_shape(self, numbers: Iterable[int]) -> Iterator[list[int]]:
        """A batch in parts whose pictures have one shape: whole pictures of one video, and any squares."""
        if isinstance(self.views[0].crop, WholePicture):
            for _, part in groupby(numbers, lambda number: int(self.index.locate(number)[0])):
                yield list(part)
        else:
            yield list(numbers)

    def read_clips(self, keys: Sequence[Key], images: Images, out: np.ndarray) -> Columns:
        """Read the clips of a batch from stored images into `out`, uint8 of `clips_shape`, and its columns.

        Clips that overlap share their frames: each image is read once, where all of them see the same part of it.
        """
        rows = out.reshape(len(keys), len(self.views), -1, *out.shape[3:])  # (N, V, S x T, H, W, C), the same memory
        shares = all(isinstance(view.crop, CentreCrop | PlacedCrop | WholePicture) for view in self.views)
        shared: dict[int, _Pictures] = {}

        def read_item(row: int, item: Item) -> None:
            known = shared.setdefault(item.video, _Pictures()) if shares else _Pictures()
            known.read(images, self.videos.ids[item.video], item, rows[row])

        return self.read(keys, read_item)[1]

    def _draw(self, epoch: int, number: int) -> Item:
        rng = item_random(self.seed, epoch, number)
        video, starts = self.index.draw(number, rng)
        frames = [frame for start in starts for frame in self.frames_of(video, start)]
        mirrored = self.mirror and rng.random() < 0.5

        def choose(height: int, width: int) -> list[Region]:
            return [view.crop(height, width, rng) for view in self.views]

        return Item(number, video, frames, choose, mirrored)


class _Pictures:
    """The images of a video that were read for a batch, by frame index."""

    def __init__(self) -> None:
        self.pictures: dict[int, np.ndarray] = {}
        """frame index -> its regions, (V, H, W, C)"""
        self.size: tuple[int, int] | None = None
        """height and width of the images"""

    def read(self, images: Images, video_id: str, item: Item, out: np.ndarray) -> None:
        """Fill `out`, (V, T, H, W, C), with the item's images, and read those that are not there yet."""
        sizes: list[tuple[int, int]] = []

        def choose(height: int, width: int) -> list[Region]:
            sizes.append((height, width))
            return item.choose(height, width)

        missing = [frame for frame in dict.fromkeys(item.frames) if frame not in self.pictures]
        new = out if len(missing) == len(item.frames) else np.empty((len(out), len(missing), *out.shape[2:]), np.uint8)
        if missing:
            images.read_regions(video_id, missing, choose, new)
        if sizes and self.size not in (None, sizes[0]):
            # Together they are no clip, and the store says which image is at fault.
            images.read_regions(video_id, item.frames, item.choose, out)
            return
        self.size = sizes[0] if sizes else self.size
        known = self.pictures | {frame: new[:, k] for k, frame in enumerate(missing)}
        if new is not out:
            for position, frame in enumerate(item.frames):
                out[:, position] = known[frame]
        self.pictures |= {frame: out[:, position] for position, frame in enumerate(item.frames)}
