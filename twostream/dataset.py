"""Annotations + sampling + frames + crops, as a torch data set; and its loader."""

import math

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from twostream.annotations import Annotations, VideoTable
from twostream.errors import BadInputError
from twostream.frame_store import FrameStore
from twostream.sampling import ClipIndex, TrainingOrder, clip_frames
from twostream.stream import StreamConfig


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

    An item is named by its clip's number, or by (epoch, clip) in training, where the pair and the seed decide the
    crop. It is (clip, label, number): uint8 (3T, S, S), label index (-1: none), the clip's number.

    What it knows of the videos are columns, which loader processes share: they copy none of them.
    """

    def __init__(
        self, videos: VideoTable, store: FrameStore, stream: StreamConfig, *, clip_step: int, transform, seed: int = 0
    ):  # fmt: skip
        self.videos, self.store, self.stream, self.transform, self.seed = videos, store, stream, transform, seed
        # A clip longer than one frame needs its neighbours; a single frame needs itself only.
        needed = clip_step if stream.clip_len == 1 else math.gcd(clip_step, stream.frame_stride)
        for place in np.flatnonzero(needed % videos.frame_step)[:1]:
            video = videos[place]
            raise BadInputError(
                f"video {video.id!r} was extracted with --frame_step={video.frame_step}, so frames at step {needed} "
                f"are not all there; use a --frame_step that is a multiple of {video.frame_step}, or extract again"
            )
        self.index = ClipIndex(
            videos.num_frames, clip_len=stream.clip_len, frame_stride=stream.frame_stride, clip_step=clip_step
        )

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[torch.Tensor, int, int]:
        epoch, clip_number = key if isinstance(key, tuple) else (0, key)
        place, start = map(int, self.index.locate(clip_number))
        video = self.videos[place]
        geometry = {"clip_len": self.stream.clip_len, "frame_stride": self.stream.frame_stride}
        clip = self.store.read(video.id, clip_frames(start, video.num_frames, **geometry))
        cropped = self.transform(clip, np.random.default_rng((self.seed, epoch, clip_number)))
        # (T, S, S, 3) -> (3T, S, S): all channels of frame 0, then all of frame 1 ...
        channels_first = np.ascontiguousarray(cropped.transpose(0, 3, 1, 2)).reshape(-1, *cropped.shape[1:3])
        return torch.from_numpy(channels_first), int(self.videos.label_index[place]), clip_number


def train_loader(dataset: ClipDataset, order: TrainingOrder, *, num_workers: int, pin_memory: bool) -> DataLoader:
    return _loader(dataset, num_workers, pin_memory, batch_sampler=order)


def test_loader(dataset: ClipDataset, *, batch_size: int, num_workers: int, pin_memory: bool) -> DataLoader:
    return _loader(dataset, num_workers, pin_memory, batch_size=batch_size)


test_loader.__test__ = False  # not a test, whatever pytest thinks of its name


def _loader(dataset: ClipDataset, num_workers: int, pin_memory: bool, **batching) -> DataLoader:
    return DataLoader(
        dataset,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=_prepare_worker,
        # A generator of its own: else each pass over a loader would draw from the one that dropout uses, and a
        # resumed run would differ from the undisturbed one.
        generator=torch.Generator().manual_seed(0),
        **batching,
    )


def _prepare_worker(worker_number: int) -> None:
    cv2.setNumThreads(1)
