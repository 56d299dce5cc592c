"""Annotations + sampling + frames + crops, as a torch data set of whole batches; and its loaders."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from twostream.annotations.splits import hold_out
from twostream.annotations.videos import Annotations, VideoTable
from twostream.clips.items import Columns, Images, Items, Key
from twostream.clips.sampling import TrainingOrder, is_rate
from twostream.counts import counted
from twostream.errors import BadInputError
from twostream.frames.store import FrameStore
from twostream.frames.stores import how_to_extract


class Batch(NamedTuple):
    """What loaders yield, and what `fit` and `predict` take."""

    clips: torch.Tensor
    """uint8 (N, S, T, H, W, C): as stored, decoded and cropped. S segments of each video, T frames of a clip; C is
    R, G, B, or x, y of flow, to which the network adds the magnitude"""
    mirrored: torch.Tensor
    """bool (N,): which ones the network has to mirror"""
    labels: torch.Tensor
    """int64 (N,): label indices; -1 without label. Multi-label: int64 (N, K), see `VideoTable.labels`"""
    numbers: torch.Tensor
    """int64 (N,): numbers of the items, which are clips or, with segments, videos"""
    unreadable: tuple[str, ...] = ()
    """for each unreadable image whose item was replaced by the next one: what was wrong with it"""


def usable_videos(
    annotations: Annotations, split: str, store: FrameStore, *, frame_rate: float = 0.0
) -> tuple[VideoTable, list[str]]:
    """The videos of a split that have images in this store, and the ids of the videos that have none.

    Raises BadInputError when no video has any, or if clips are to be resampled to a `frame_rate` and the rate of a video is
    unknown.
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
    if frame_rate and len(unknown := np.flatnonzero(usable & ~is_rate(videos.fps))):
        raise BadInputError(
            f"{annotations.path}: {counted(len(unknown), 'video')} of split {split!r} without a known frame rate (first "
            f"{videos.ids[unknown[0]]!r}), which --frame_rate={frame_rate:g} needs; if that is 25 a second, say so with "
            f"{annotations.annotate_command('--fps=25')}"
        )
    return videos[usable], list(videos.ids[~usable])


def hold_out_fold(annotations: Annotations, fold: tuple[int, int], *, seed: int) -> tuple[Annotations, Annotations]:
    """The training videos outside fold I of N, and those in it, each as the split "train" of annotations.

    The fold is drawn from all videos with frames, also those without images of some input type: so all streams, and all
    programs, hold out the same ones. Raises BadInputError where there are no such videos, or too few; see `hold_out`.
    """
    videos = annotations.split("train")
    if not (videos.num_frames > 0).any():
        raise BadInputError(
            f"{annotations.path}: no training video has frames: extract them, then make the annotations again: "
            f"{annotations.annotate_command()}"
        )
    others, held_out = hold_out(videos[videos.num_frames > 0], fold, seed=seed)
    return replace(annotations, videos=others), replace(annotations, videos=held_out)


class ClipDataset(Dataset[Batch]):
    """Batches of items whose images are stored: RGB, or flow."""

    def __init__(self, items: Items, store: Images):
        self.items, self.store = items, store

    def __len__(self) -> int:
        return len(self.items)

    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        clips = torch.empty(self.items.clips_shape(keys, self.store), dtype=torch.uint8)
        if get_worker_info():
            clips.share_memory_()  # before it is filled: else all of it would be copied when it is sent
        columns = self.items.read_clips(keys, self.store, clips.numpy())
        return Batch(clips, *tensors(columns))


def tensors(columns: Columns) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[str, ...]]:
    """The columns of a batch as `Batch` has them."""
    mirrored, labels, numbers, unreadable = columns
    return torch.from_numpy(mirrored), torch.from_numpy(labels), torch.from_numpy(numbers), unreadable


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
