"""Annotations + sampling + frames + crops, as a torch data set of whole batches; and its loaders."""

import math
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Protocol, TypeVar

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from twostream.annotations.videos import Annotations, VideoTable
from twostream.clips.crops import Crop, View
from twostream.clips.sampling import ClipIndex, SegmentIndex, TrainingOrder, UniformIndex, clip_frames, item_random
from twostream.counts import counted
from twostream.errors import BadInputError
from twostream.frames.jpeg import Region
from twostream.frames.store import FrameStore
from twostream.frames.stores import how_to_extract
from twostream.stream import StreamConfig

T = TypeVar("T")

Key = int | tuple[int, int]
"""of an item: its number or, in training, (epoch, number)"""

Columns = tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[str, ...]]
"""mirrored, labels, numbers and unreadable, as in Batch"""


class Batch(NamedTuple):
    """What loaders yield, and what `fit` and `predict` take."""

    clips: torch.Tensor
    """uint8 (N, S, T, H, W, C): as stored, decoded and cropped. S segments of each video, T frames of a clip; C is
    R, G, B, or x, y of flow, to which the network adds the magnitude"""
    mirrored: torch.Tensor
    """bool (N,): which ones the network has to mirror"""
    labels: torch.Tensor
    """int64 (N,): label indices; -1 without label"""
    numbers: torch.Tensor
    """int64 (N,): numbers of the items, which are clips or, with segments, videos"""
    unreadable: tuple[str, ...] = ()
    """for each unreadable image whose item was replaced by the next one: what was wrong with it"""


def usable_videos(annotations: Annotations, split: str, store: FrameStore) -> tuple[VideoTable, list[str]]:
    """The videos of a split that have images in this store, and the ids of the videos that have none.

    Raises BadInputError when no video has any.
    """
    # One listing of the store, instead of a question for each of a million videos.
    stored = set(store.video_ids())
    videos = annotations.split(split)
    usable = np.fromiter((video_id in stored for video_id in videos.ids), bool, len(videos)) & (videos.num_frames > 0)
    if not usable.any():
        raise BadInputError(
            f"none of the {counted(len(videos), 'video')} of split {split!r} has images in {store.folder}: "
            f"{how_to_extract(store.root, store.input_type)}; then make the annotations again with twostream annotate"
        )
    return videos[usable], list(videos.ids[~usable])


class Images(Protocol):
    """What data sets read from: a FrameStore, or frames in memory."""

    def read_regions(
        self, video_id: str, frame_indices: list[int], choose: Callable[[int, int], Sequence[Region]], out: np.ndarray
    ) -> None:
        """See `FrameStore.read_regions`."""

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

    The items are all clips, `clip_step` frames apart; or `num_clips` clips of each video, evenly spaced; or, with
    `num_segments` S, the videos, from each of which S clips are drawn. The key of an item is its number or, in
    training, (epoch, number): key and `seed` decide segments, crop and mirroring, so they are the same in any process.

    Either `crop` or `views` is given. With V views, item n fills V rows of its batch, one for each view; in
    `Batch.numbers` these rows are V n ... V n + V - 1.

    An unreadable image is an error. With `max_unreadable`, the next item is read in place of its item, at most that
    often for one item, and the batch says why.

    The videos are columns of a table, which loader processes share without copying them.

    Raises BadInputError where the clips need frames that the extraction left out.
    """

    def __init__(
        self, videos: VideoTable, stream: StreamConfig, *, crop: Crop | None = None, views: Sequence[View] = (),
        clip_step: int = 1, num_clips: int = 0, num_segments: int = 0, mirror: bool = False, seed: int = 0,
        max_unreadable: int = 0,
    ):  # fmt: skip
        if (crop is None) == (len(views) == 0):
            raise ValueError("expected either a crop or views")
        self.videos, self.stream, self.mirror = videos, stream, mirror
        self.views = tuple(views) if crop is None else (View(0, crop, mirrored=False),)
        self.crop_size = self.views[0].crop.size
        self.seed, self.max_unreadable = seed, max_unreadable
        self.num_segments = num_segments or 1
        self.geometry = {"clip_len": stream.clip_len, "frame_stride": stream.frame_stride}
        self._check_stored_steps(None if num_segments or num_clips else clip_step)
        self.index: ClipIndex | UniformIndex | SegmentIndex
        if num_segments:
            self.index = SegmentIndex(
                videos.num_frames, videos.stored_step, **self.geometry, num_segments=num_segments
            )  # fmt: skip
        elif num_clips:
            self.index = UniformIndex(videos.num_frames, videos.stored_step, **self.geometry, num_clips=num_clips)
        else:
            self.index = ClipIndex(videos.num_frames, **self.geometry, clip_step=clip_step)

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
        # A clip of one frame needs that frame only; a longer one needs its neighbours too.
        steps = [clip_step] if clip_step is not None else []
        if self.stream.clip_len > 1:
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
        span = (self.stream.clip_len - 1) * self.stream.frame_stride + 1
        is_short = (self.videos.num_frames < span) & (self.videos.num_frames > 0)
        if not is_short.any():
            return ""
        num_clips = int(np.diff(self.index.ends, prepend=0)[is_short].sum())
        return (
            f"{num_clips} of {counted(len(self), 'clip')} repeat frames: {np.count_nonzero(is_short)} of {counted(len(self.videos), 'video is', 'videos are')} "
            f"shorter than the {counted(span, 'frame')} of a clip (--seq_len={self.stream.clip_len}, --gap={self.stream.frame_stride})"
        )

    def labels(self) -> np.ndarray:
        """Label index of each item, (number of items,); -1 without label."""
        return np.repeat(self.videos.label_index, np.diff(self.index.ends, prepend=0))

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
        mirrored = torch.tensor([[item.mirrored or view.mirrored for view in self.views] for item in items])
        labels = torch.tensor([int(self.videos.label_index[item.video]) for item in items])
        numbers = torch.tensor([item.number for item in items])[:, None] * num_views + torch.arange(num_views)
        return contents, (
            mirrored.flatten(), labels.repeat_interleave(num_views), numbers.flatten(), tuple(unreadable)
        )  # fmt: skip

    def _draw(self, epoch: int, number: int) -> Item:
        rng = item_random(self.seed, epoch, number)
        video, starts = self.index.draw(number, rng)
        num_frames = int(self.videos.num_frames[video])
        frames = [frame for start in starts for frame in clip_frames(start, num_frames, **self.geometry)]
        mirrored = self.mirror and rng.random() < 0.5

        def choose(height: int, width: int) -> list[Region]:
            return [view.crop(height, width, rng) for view in self.views]

        return Item(number, video, frames, choose, mirrored)


class ClipDataset(Dataset[Batch]):
    """Batches of items whose images are stored: RGB, or flow."""

    def __init__(self, items: Items, store: Images):
        self.items, self.store = items, store

    def __len__(self) -> int:
        return len(self.items)

    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        items, size = self.items, self.items.crop_size
        channels = 3 if items.stream.modality == "rgb" else 2
        shape = len(keys), len(items.views), items.num_segments, items.stream.clip_len, size, size, channels
        clips = torch.empty(shape, dtype=torch.uint8)
        if get_worker_info():
            clips.share_memory_()  # before it is filled: else all of it would be copied when it is sent
        rows = clips.flatten(2, 3).numpy()  # (N, V, S x T, H, W, C), the same memory

        def read_item(row: int, item: Item) -> None:
            self.store.read_regions(items.videos.ids[item.video], item.frames, item.choose, rows[row])

        _, columns = items.read(keys, read_item)
        return Batch(clips.flatten(0, 1), *columns)


def train_loader(dataset: Dataset[Any], order: TrainingOrder, *, num_workers: int, pin_memory: bool) -> DataLoader[Any]:
    """Batches of a ClipDataset or FrameDataset in training order."""
    return _loader(dataset, num_workers, pin_memory, batch_sampler=order)


def eval_loader(dataset: Dataset[Any], *, num_workers: int, pin_memory: bool, **batching: Any) -> DataLoader[Any]:
    """Batches for validation and testing.

    `batching`: batch_size=N for all items in order, or batch_sampler= with the numbers of the items of each batch.
    """
    return _loader(dataset, num_workers, pin_memory, **batching)


def _loader(dataset: Dataset[Any], num_workers: int, pin_memory: bool, **batching: Any) -> DataLoader[Any]:
    # Before the processes are forked: threads that OpenCV had started here would be missing there, and waited for.
    cv2.setNumThreads(1)
    return DataLoader(
        dataset,
        num_workers=num_workers,
        pin_memory=pin_memory,
        collate_fn=_unchanged,
        worker_init_fn=_prepare_worker,
        # A generator of its own: else each pass over a loader would draw from the one that dropout uses, and a
        # resumed run would differ from an undisturbed one.
        generator=torch.Generator().manual_seed(0),
        **batching,
    )


def _unchanged(batch: Any) -> Any:
    """The data set returns whole batches."""
    return batch


def _prepare_worker(worker_number: int) -> None:
    cv2.setNumThreads(1)
    sys.excepthook = _report_unless_the_program_ends


def _report_unless_the_program_ends(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """sys.excepthook of loader processes: no traceback if the program has closed the connection on which it got batches.

    It does so when another loader process was killed, and says so itself, in one line. The error comes from the thread
    of multiprocessing that passes shared memory on.
    """
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)
