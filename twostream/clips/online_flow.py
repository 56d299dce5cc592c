"""Flow that was never stored: computed from the RGB frames of a batch, on the device that trains or tests with it.

Loader processes decode whole frames in grey and choose the regions, with the same draws as for stored flow. The device
computes the flow of the whole frames, codes it as grey levels, cuts and scales: what `twostream extract`, FlowCoding
and jpeg.decode_regions do for stored flow. The result is the usual Batch, so the rest of the program sees no
difference; only the losses of storing flow images as JPEG are missing.

A GPU does this on a stream of its own: since Python runs ahead of it, it copies the frames and computes the flow of the
next batch beside the network's work on this one, with the cores that kernels of the network leave free.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, groupby, product
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from twostream.clips.dataset import Batch, ClipDataset, tensors
from twostream.clips.items import Columns, Images, Item, Items, Key
from twostream.clips.vector_images import VectorImages
from twostream.flow.farneback import Farneback
from twostream.flow.methods import FarnebackParameters, FlowSettings
from twostream.frames.jpeg import Header, Region, averages_area, choose_reduction, reduce_region
from twostream.stream import StreamConfig

CROPPED_AT_ONCE = 64
"""pictures; bounds the memory of those that are being cut"""
NUM_SIZES = 64
"""sizes of frames whose tables are kept"""


class SameSizeFrames(NamedTuple):
    """The frames of one size in a batch, and what becomes of their flow."""

    height: int
    width: int
    num_frames: int
    num_pairs: int
    cuts: tuple[tuple[int, int, int], ...]
    """(reduction, taps, number) of pictures that are scaled in the same way, see `Cut`"""

    @property
    def num_pictures(self) -> int:
        return sum(number for *_, number in self.cuts)


class FrameBatch(NamedTuple):
    """A batch as loaders yield it. Few tensors, since each costs a file in shared memory: groups follow one another."""

    frames: Tensor
    """uint8, all pixels of all frames, grey"""
    pairs: Tensor
    """int64 (P, 2): numbers of the first and the second frame within their group"""
    pictures: Tensor
    """int64 (Q, 6): index in the batch's clips; number of the pair within its group; y, x, height, width (reduced)"""
    groups: tuple[SameSizeFrames, ...]
    mirrored: Tensor
    labels: Tensor
    numbers: Tensor
    unreadable: tuple[str, ...]
    """these four as in Batch"""


Frames = dict[int, np.ndarray]
"""frames of a video that items of a batch share, all of one size: frame index -> grey, uint8 (H, W)"""


class ItemFrames(NamedTuple):
    """What one item needs of its video, and what is cut from the flow."""

    frames: Frames
    """the same object for all items that share it; it may have more frames than this item needs"""
    pairs: list[tuple[int, int]]
    """frame indices of the two frames of each of the S x T flow images"""
    regions: list[Region]
    """one for each view"""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its frames."""
        height, width = self.frames[self.pairs[0][0]].shape
        return height, width


class Cut(NamedTuple):
    """How a region becomes a picture of the network: reduced by an integer, as JPEG's decoder does, then scaled."""

    reduction: int
    taps: int
    """pixels along each side that contribute: 2, bilinear; more, by areas"""
    region: Region
    """in the reduced picture"""

    @classmethod
    def choose(
        cls, height: int, width: int, regions: Sequence[Region], size: int, *, is_planes: bool = True
    ) -> "list[Cut]":
        """One for each region of a picture, as for a stored image: flow in planes, or RGB."""
        reduction = choose_reduction(Header(height, width, is_planes), regions, size)
        parts = [reduce_region(region, reduction) for region in regions]
        return [
            cls(reduction, -(-max(part.height, part.width) // size) + 1 if averages_area(part, size) else 2, part)
            for part in parts
        ]


class FrameDataset(Dataset[FrameBatch]):
    """Batches of items of flow, as the RGB frames from which the flow is to be computed; `store` has those frames."""

    def __init__(self, items: Items, store: Images):
        self.items, self.store = items, store

    def __len__(self) -> int:
        return len(self.items)

    def __getitems__(self, keys: Sequence[Key]) -> FrameBatch:
        known: dict[int, Frames] = {}
        contents, columns = self.items.read(keys, lambda row, item: self._read_item(item, known))
        return _pack(contents, columns, size=self.items.crop_size)

    def _read_item(self, item: Item, known: dict[int, Frames]) -> ItemFrames:
        """An item of a batch, with the frames that are not in `known`: index of a video -> its frames."""
        video_id, last = self.items.videos.ids[item.video], int(self.items.videos.num_frames[item.video]) - 1
        pairs = [(first, min(first + 1, last)) for first in item.frames]  # a single frame does not move
        needed = sorted({frame for pair in pairs for frame in pair})
        frames = known.setdefault(item.video, {})
        if missing := [frame for frame in needed if frame not in frames]:
            grey = self.store.read_grey(video_id, missing)
            if frames and grey.shape[1:] != next(iter(frames.values())).shape:
                # Other items of this video have another size. If this one has both, the store says which frame is at fault.
                missing, grey = needed, self.store.read_grey(video_id, needed)
                frames = known[item.video] = {}
            frames.update(zip(missing, grey, strict=True))
        chosen = ItemFrames(frames, pairs, [])
        return chosen._replace(regions=item.choose(*chosen.size))


def _pack(items: list[ItemFrames], columns: Columns, *, size: int) -> FrameBatch:
    """The items of a batch, ordered by the size of their frames, and their pictures by the way they are scaled.

    Items of one video share frames and pairs, so that the flow of a pair is computed once.
    """
    frames: list[np.ndarray] = []
    pairs: list[tuple[int, int]] = []
    pictures: list[tuple[int, ...]] = []
    groups = []
    rows_by_size = sorted(range(len(items)), key=lambda row: items[row].size)
    for (height, width), group_rows in groupby(rows_by_size, lambda row: items[row].size):
        rows = list(group_rows)
        shared = {id(items[row].frames): items[row].frames for row in rows}
        # Frames and pairs are in the order of their videos and times, as Farneback.between wants them.
        frame_numbers = {
            key: number
            for number, key in enumerate((video, frame) for video in shared for frame in sorted(shared[video]))
        }
        pairs_by_row = {
            row: [
                (frame_numbers[id(items[row].frames), first], frame_numbers[id(items[row].frames), second])
                for first, second in items[row].pairs
            ]
            for row in rows
        }
        group_pairs = sorted({pair for row in rows for pair in pairs_by_row[row]})
        pair_numbers = {pair: number for number, pair in enumerate(group_pairs)}
        found: list[tuple[tuple[int, int], tuple[int, ...]]] = []  # (reduction, taps) and row of `pictures`
        for row in rows:
            cuts, own = Cut.choose(height, width, items[row].regions, size), pairs_by_row[row]
            found += [
                ((cut.reduction, cut.taps), (row * len(cuts) * len(own) + k, pair_numbers[pair], *cut.region))
                for k, (cut, pair) in enumerate(product(cuts, own))
            ]
        found.sort()
        frames += [shared[video][frame] for video, frame in frame_numbers]
        pairs += group_pairs
        pictures += [picture for _, picture in found]
        kinds = tuple((*scaling, len(list(same))) for scaling, same in groupby(found, lambda entry: entry[0]))
        groups.append(SameSizeFrames(height, width, len(frame_numbers), len(group_pairs), kinds))
    pixels = torch.empty(sum(frame.size for frame in frames), dtype=torch.uint8)
    if get_worker_info():
        pixels.share_memory_()  # before it is filled: else all of it would be copied when it is sent
    np.concatenate([frame.ravel() for frame in frames], out=pixels.numpy())
    return FrameBatch(pixels, torch.tensor(pairs), torch.tensor(pictures), tuple(groups), *tensors(columns))


def open_dataset(items: Items, store: Images) -> ClipDataset | FrameDataset:
    """The items as a data set: of stored images or, if the stream's flow is made online, of the frames to make it from.

    Motion vectors need no device: their images are made where they are read. Raises BadInputError if `store` has none.
    """
    if not items.stream.is_online:
        return ClipDataset(items, store)
    return (
        ClipDataset(items, VectorImages(store, items.stream))
        if items.stream.reads_vectors
        else FrameDataset(items, store)
    )


class OnlineFlow:
    """Batches of flow on a device, computed from batches of frames as they come."""

    def __init__(self, batches: Iterable[FrameBatch], stream: StreamConfig, device: torch.device):
        coding = stream.with_flow("stored").flow_coding
        assert coding is not None  # with_flow lets only streams through that say how their flow is made
        self.batches, self.stream, self.device = batches, stream, device
        self.settings = FlowSettings.from_json(coding)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            yield self.compute(batch) if self.device.type != "cuda" else self._compute_beside(batch)

    def _compute_beside(self, batch: FrameBatch) -> Batch:
        """The usual batch, for the current stream, which waits for it; earlier work there goes on meanwhile."""
        beside, current = _flow_stream(self.device), torch.cuda.current_stream(self.device)
        with torch.cuda.stream(beside):
            computed = self.compute(batch)
        current.wait_stream(beside)
        computed.clips.record_stream(current)  # so that its memory is not reused before it was used
        return computed

    @torch.no_grad()
    def compute(self, batch: FrameBatch) -> Batch:
        """The usual batch, its clips on the device."""
        size, groups = self.stream.input_size, batch.groups
        clips = torch.empty(len(batch.pictures), size, size, 2, dtype=torch.uint8, device=self.device)
        # Copied from pinned memory without waiting: Python runs ahead of a GPU.
        frames = batch.frames.to(self.device, non_blocking=True)
        pictures = batch.pictures.to(self.device, non_blocking=True)
        for group, group_frames, group_pairs, group_pictures in zip(
            groups,
            frames.split([group.num_frames * group.height * group.width for group in groups]),
            batch.pairs.split([group.num_pairs for group in groups]),
            pictures.split([group.num_pictures for group in groups]),
            strict=True,
        ):
            levels = self._levels(group_frames.view(-1, group.height, group.width), group_pairs)
            ends = accumulate(number for *_, number in group.cuts)
            for (reduction, taps, number), end in zip(group.cuts, ends, strict=True):
                smaller = reduce(levels, reduction)
                for rows in group_pictures[end - number : end].split(CROPPED_AT_ONCE):
                    clips[rows[:, 0]] = cut_out(smaller[rows[:, 1]], rows[:, 2:], size, taps=taps)
        clips = clips.unflatten(0, (len(batch.labels), -1, self.stream.clip_len))
        return Batch(clips, batch.mirrored, batch.labels, batch.numbers, tuple(batch.unreadable))

    def _levels(self, frames: Tensor, pairs: Tensor) -> Tensor:
        """Frames (F, H, W) and their pairs (P, 2) -> grey levels of x and y, uint8 (P, 2, H, W), as FlowCoding has them."""
        height, width = frames.shape[1:]
        method = cached_method(height, width, self.device, self.settings.farneback)
        levels = frames.new_empty(len(pairs), 2, height, width)
        done = 0
        for flow in method.between(frames, pairs):
            part = levels[done : done + len(flow)]
            part.copy_(method.encode(flow, scale=self.settings.coding.scale).view_as(part))
            done += len(flow)
        return levels


def network_inputs(batches: Iterable[Any], stream: StreamConfig, device: torch.device) -> Iterable[Batch]:
    """The batches of `open_dataset`'s loader as the network takes them: as they are, or with flow made on the device."""
    return OnlineFlow(batches, stream, device) if stream.is_online and not stream.reads_vectors else batches


@functools.cache
def _flow_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of a GPU that computes flow: one, because the tables of `cached_method` are filled and read on it."""
    return torch.cuda.Stream(device)


@functools.lru_cache(maxsize=NUM_SIZES)
def cached_method(height: int, width: int, device: torch.device, parameters: FarnebackParameters) -> Farneback:
    """Farneback's method with its tables, which are kept for the sizes that were used last."""
    return Farneback(height, width, device=device, fused=device.type == "cuda", **vars(parameters))


def reduce(levels: Tensor, reduction: int) -> Tensor:
    """uint8 (P, 2, H, W) -> (P, 2, H / reduction, W / reduction), both rounded up: means of squares of that side."""
    if reduction == 1:
        return levels
    right, below = -levels.shape[3] % reduction, -levels.shape[2] % reduction
    padded = F.pad(levels.float(), (0, right, 0, below), mode="replicate")
    return F.avg_pool2d(padded, reduction).round_().to(torch.uint8)


def cut_out(pictures: Tensor, regions: Tensor, size: int, *, taps: int) -> Tensor:
    """uint8 (Q, 2, H, W) and a region of each, int64 (Q, 4): y, x, height, width -> uint8 (Q, size, size, 2).

    Scaled as cv2.resize scales the cut picture; `taps` as in `Cut`.
    """
    y, x, height, width = regions.unbind(1)
    for dim, start, length in ((2, y, height), (3, x, width)):
        total: Tensor | None = None
        for index, weight in zip(*_shares(start, length, size, taps), strict=True):
            shape = [index.shape[0], 1, 1, 1]  # len() would fix the number in an exported graph
            shape[dim] = size
            index = index.view(shape).expand(*pictures.shape[:dim], size, *pictures.shape[dim + 1 :])
            part = pictures.gather(dim, index) * weight.view(shape)
            total = part if total is None else total.add_(part)
        assert total is not None  # there are two taps or more
        pictures = total
    return pictures.round_().to(torch.uint8).permute(0, 2, 3, 1)


def _shares(start: Tensor, length: Tensor, size: int, taps: int) -> tuple[Tensor, Tensor]:
    """Which pixels of a line make each of its `size` new pixels: their indices and weights, both (taps, Q, size).

    The lines begin at `start` and have `length` pixels, both (Q,).
    """
    scale = length[:, None].float() / size
    new = torch.arange(size, device=start.device)
    taps_range = torch.arange(taps, device=start.device).view(-1, 1, 1)
    if taps == 2:
        position = (new + 0.5) * scale - 0.5
        pixel = position.floor() + taps_range
        weight = 1 - (position - pixel).abs()
    else:
        begin = new * scale
        pixel = begin.floor() + taps_range
        weight = (torch.minimum(begin + scale, pixel + 1) - torch.maximum(begin, pixel)).clamp_(min=0) / scale
    # Beyond the ends, the outermost pixel is repeated.
    index = torch.minimum(pixel.long().clamp_(min=0), length[:, None] - 1) + start[:, None]
    return index, weight
