"""Annotations + sampling + frames + crops, as a torch data set of whole batches; and its loader."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from twostream.annotations.videos import Annotations, VideoTable
from twostream.clips.crops import Crop, View
from twostream.clips.sampling import ClipIndex, SegmentIndex, TrainingOrder, UniformIndex, clip_frames, item_random
from twostream.errors import BadInputError
from twostream.frames.jpeg import Region
from twostream.frames.store import FrameStore
from twostream.stream import StreamConfig


class Batch(NamedTuple):
    """What loaders yield, `fit` and `predict` take."""

    clips: torch.Tensor
    """uint8 (N, S, T, H, W, C): as stored, decoded and cropped; S segments of each video, T frames of a clip; C is
    R, G, B, or x, y of flow, whose magnitude the network adds"""
    mirrored: torch.Tensor
    """bool (N,): what the network is to mirror"""
    labels: torch.Tensor
    """int64 (N,), -1: none"""
    numbers: torch.Tensor
    """int64 (N,), of the items: clips; with segments, videos"""
    unreadable: tuple[str, ...] = ()
    """what was wrong with each image for whose sake another item stands here"""


def usable_videos(annotations: Annotations, split: str, store: FrameStore) -> tuple[VideoTable, list[str]]:
    """Videos of a split that have images of this input type, and the ids of those that have none.

    Raises BadInputError when none has.
    """
    # One listing of the store, not a question for each of a million videos.
    stored = set(store.video_ids())
    videos = annotations.split(split)
    usable = np.fromiter((video_id in stored for video_id in videos.ids), bool, len(videos)) & (videos.num_frames > 0)
    if not usable.any():
        raise BadInputError(
            f"none of the {len(videos)} videos of split {split!r} has images in {store.folder}: "
            f"run prep/extract.py --input_types={store.input_type}, then prep/build_annotations.py"
        )
    return videos[usable], list(videos.ids[~usable])


class ClipDataset(Dataset):
    """The clips of some videos, for one stream and phase.

    Its items are all clips, `clip_step` apart; or `num_clips` of each video, evenly spread; or, with `num_segments` S,
    the videos, of which S clips are drawn. An item is named by its number, or by (epoch, number) in training, where the
    pair and the seed decide segments, crop and mirroring.

    With `views` instead of a `crop`, an item fills V places of its batch, one for each view; in `Batch.numbers` they
    are V n ... V n + V - 1 for item n.

    An image that cannot be read stops the program. With `max_unreadable` the item after it stands in for its item; that
    many images of one item may be bad, and the batch names them.

    What it knows of the videos are columns, which loader processes share: they copy none of them.
    """

    def __init__(
        self, videos: VideoTable, store: FrameStore, stream: StreamConfig, *, crop: Crop | None = None,
        views: Sequence[View] = (), clip_step: int = 1, num_clips: int = 0, num_segments: int = 0, mirror: bool = False,
        seed: int = 0, max_unreadable: int = 0,
    ):  # fmt: skip
        self.videos, self.store, self.stream, self.mirror = videos, store, stream, mirror
        self.views = views or (View(0, crop, mirrored=False),)
        self.seed, self.max_unreadable = seed, max_unreadable
        self.geometry = {"clip_len": stream.clip_len, "frame_stride": stream.frame_stride}
        # A clip longer than one frame needs its neighbours; a single frame needs itself only. Segments are drawn among
        # the frames that are there, so that any step will do.
        at_own_steps = bool(num_segments or num_clips)
        steps = ([] if at_own_steps else [clip_step]) + ([stream.frame_stride] if stream.clip_len > 1 else [])
        needed = math.gcd(*steps)
        for place in np.flatnonzero(needed % videos.stored_step)[:1]:
            video = videos[place]
            raise BadInputError(
                f"video {video.id!r} was extracted with --frame_step={video.stored_step}, so frames at step {needed} "
                f"are not all there; use a {'--gap' if at_own_steps else '--frame_step'} that is a multiple of "
                f"{video.stored_step}, or extract again"
            )
        self.index = (
            SegmentIndex(videos.num_frames, videos.stored_step, **self.geometry, num_segments=num_segments)
            if num_segments
            else UniformIndex(videos.num_frames, videos.stored_step, **self.geometry, num_clips=num_clips)
            if num_clips
            else ClipIndex(videos.num_frames, **self.geometry, clip_step=clip_step)
        )
        self.num_segments = num_segments or 1

    def __len__(self) -> int:
        return len(self.index)

    def labels(self) -> np.ndarray:
        """Label index of each item."""
        return np.repeat(self.videos.label_index, np.diff(self.index.ends, prepend=0))

    def __getitems__(self, keys: list[int] | list[tuple[int, int]]) -> Batch:
        size, channels = self.views[0].crop.size, 3 if self.stream.modality == "rgb" else 2
        shape = len(keys), len(self.views), self.num_segments, self.stream.clip_len, size, size, channels
        clips = torch.empty(shape, dtype=torch.uint8)
        if get_worker_info():
            clips.share_memory_()  # before it is filled: else all of it would be copied when it is sent
        rest = self._read_items(keys, clips.flatten(2, 3).numpy())
        return Batch(clips.flatten(0, 1), *rest)

    def _read_items(
        self, keys: list[int] | list[tuple[int, int]], targets: Iterable
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[str, ...]]:
        """Fill a target with the pictures of each item; returns what a batch has beside them."""
        unreadable: list[str] = []
        items = []
        for key, target in zip(keys, targets, strict=True):
            epoch, number = key if isinstance(key, tuple) else (0, key)
            for attempt in range(self.max_unreadable + 1):
                try:
                    items.append(self._read(epoch, number, target))
                    break
                except (BadInputError, OSError) as error:
                    if attempt == self.max_unreadable:
                        raise
                    unreadable.append(str(error))
                    number = (number + 1) % len(self)
        mirrored, labels, numbers = zip(*items, strict=True)
        places = (torch.tensor(numbers)[:, None] * len(self.views) + torch.arange(len(self.views))).flatten()
        labels = torch.tensor(labels).repeat_interleave(len(self.views))
        return torch.tensor(mirrored).flatten(), labels, places, tuple(unreadable)

    def _read(self, epoch: int, number: int, target: Any) -> tuple[list[bool], int, int]:
        """Fill a target with an item; returns what is to be mirrored, label, number."""
        rng = item_random(self.seed, epoch, number)
        place, starts = self.index.draw(number, rng)
        num_frames = int(self.videos.num_frames[place])
        frames = [frame for start in starts for frame in clip_frames(start, num_frames, **self.geometry)]
        mirrored = self.mirror and rng.random() < 0.5

        def choose(height: int, width: int) -> list[Region]:
            return [view.crop(height, width, rng) for view in self.views]

        self._fill(target, place, frames, choose)
        return [mirrored or view.mirrored for view in self.views], int(self.videos.label_index[place]), number

    def _fill(
        self, target: np.ndarray, place: int, frames: list[int], choose: Callable[[int, int], list[Region]]
    ) -> None:
        """Fill `target` (V, S x T, H, W, C) with V regions of some frames of a video; `place` is the video's."""
        self.store.read_regions(self.videos.ids[place], frames, choose, target)


def train_loader(dataset: ClipDataset, order: TrainingOrder, *, num_workers: int, pin_memory: bool) -> DataLoader:
    return _loader(dataset, num_workers, pin_memory, batch_sampler=order)


def test_loader(dataset: ClipDataset, *, num_workers: int, pin_memory: bool, **batching) -> DataLoader:
    """`batching`: batch_size=N for all clips in order, or batch_sampler= with the numbers of each batch."""
    return _loader(dataset, num_workers, pin_memory, **batching)


test_loader.__test__ = False  # not a test, whatever pytest thinks of its name


def _loader(dataset: ClipDataset, num_workers: int, pin_memory: bool, **batching) -> DataLoader:
    # Before the processes are forked: threads that OpenCV had started here would be missing there, and waited for.
    cv2.setNumThreads(1)
    return DataLoader(
        dataset,
        num_workers=num_workers,
        pin_memory=pin_memory,
        collate_fn=_as_it_is,
        worker_init_fn=_prepare_worker,
        # A generator of its own: else each pass over a loader would draw from the one that dropout uses, and a
        # resumed run would differ from the undisturbed one.
        generator=torch.Generator().manual_seed(0),
        **batching,
    )


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _prepare_worker(worker_number: int) -> None:
    cv2.setNumThreads(1)
