"""Flow that is on no disk: made from the RGB frames of a batch, on the device that trains or tests with it.

Loader processes decode the frames, grey and whole, and choose the regions, with the draws that stored flow has. The
device computes the flow of the whole frames, codes it as levels, cuts and scales: what prep/extract.py, flow.FlowCoding
and jpeg.decode_regions do with stored flow. What comes out is the usual Batch, and nobody below knows the difference;
what is missing is what JPEG does to flow images.

A GPU does this on the stream that computes the network: while it trains it has no cores to spare for another one.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, groupby, product
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import get_worker_info

from twostream.annotations.videos import VideoTable
from twostream.clips.dataset import Batch, ClipDataset
from twostream.errors import BadInputError
from twostream.flow.farneback import Farneback, encode
from twostream.flow.methods import FarnebackParameters, FlowSettings
from twostream.frames.jpeg import Header, Region, averages_area, choose_reduction, reduce_region
from twostream.frames.store import FrameStore
from twostream.stream import StreamConfig

CROPPED_AT_ONCE = 64  # pictures; bounds the memory of those that are being cut


class Group(NamedTuple):
    """What frames of one size a batch has, and what becomes of their flow."""

    height: int
    width: int
    num_frames: int
    num_pairs: int
    cuts: tuple[tuple[int, int, int], ...]
    """(reduction, taps, number) of pictures that are scaled alike, see `Cut`"""


class FrameBatch(NamedTuple):
    """A batch as loaders yield it; few tensors, since each costs a file in shared memory. Groups lie one after the other."""

    frames: Tensor
    """uint8, all pixels of all frames, grey"""
    pairs: Tensor
    """int64 (P, 2): numbers of first and second frame, in the group"""
    pictures: Tensor
    """int64 (Q, 6): place in the batch's clips; number of the pair, in the group; y, x, height, width (reduced)"""
    groups: tuple[Group, ...]
    mirrored: Tensor
    labels: Tensor
    numbers: Tensor
    unreadable: tuple[str, ...]
    """these four as in Batch"""


class Clip(NamedTuple):
    """Of an item."""

    frames: np.ndarray
    """uint8 (F, H, W), each that is needed once"""
    pairs: list[tuple[int, int]]
    """each that is needed once, as numbers of frames"""
    pictures: list[int]
    """number of its pair, for each of S x T"""
    regions: list[Region]
    """one for each view"""


class Cut(NamedTuple):
    """How a region becomes a picture of the network: reduced by an integer, as JPEG's decoder does, then scaled."""

    reduction: int
    taps: int
    """pixels that have a share along each side: 2, bilinear; more, by areas"""
    region: Region
    """in the reduced picture"""

    @classmethod
    def choose(cls, height: int, width: int, regions: Sequence[Region], size: int) -> "list[Cut]":
        """Those of all views, as for flow that is stored as planes."""
        reduction = choose_reduction(Header(height, width, is_planes=True), regions, size)
        parts = [reduce_region(region, reduction) for region in regions]
        return [
            cls(reduction, -(-max(part.height, part.width) // size) + 1 if averages_area(part, size) else 2, part)
            for part in parts
        ]


class FrameDataset(ClipDataset):
    """The items of a ClipDataset as frames whose flow is still to be computed; `store` is that of the RGB frames."""

    def __init__(self, videos: VideoTable, store: FrameStore, stream: StreamConfig, **words):
        for place in np.flatnonzero(videos.stored_step != 1)[:1]:
            raise BadInputError(
                f"video {videos.ids[place]!r} was extracted with --frame_step={videos.stored_step[place]}, so the frames "
                "next to those are not there, and --flow=online needs them: extract again with --frame_step=1, or store "
                "the flow, too, and leave --flow out"
            )
        super().__init__(videos, store, stream, **words)

    def __getitems__(self, keys: list[int] | list[tuple[int, int]]) -> FrameBatch:
        clips: list[list[Clip]] = [[] for _ in keys]
        rest = self._read_items(keys, clips)
        return _pack([clip for (clip,) in clips], *rest, size=self.views[0].crop.size)

    def _fill(
        self, target: list[Clip], place: int, frames: list[int], choose: Callable[[int, int], list[Region]]
    ) -> None:
        # The last frame has the flow of the pair before it, as in a tree; a single frame does not move.
        last = int(self.videos.num_frames[place]) - 1
        firsts = [max(min(frame, last - 1), 0) for frame in frames]
        pairs = sorted({(first, min(first + 1, last)) for first in firsts})
        needed = sorted({frame for pair in pairs for frame in pair})
        grey = self.store.read_grey(self.videos.ids[place], needed)
        numbers = {frame: number for number, frame in enumerate(needed)}
        by_first = {first: number for number, (first, _) in enumerate(pairs)}
        target[:] = [
            Clip(
                grey,
                [(numbers[first], numbers[second]) for first, second in pairs],
                [by_first[first] for first in firsts],
                choose(*grey.shape[1:]),
            )
        ]


def _pack(clips: list[Clip], *rest, size: int) -> FrameBatch:
    """The clips of a batch, ordered by the size of their frames, and their pictures by the way they are scaled."""
    frames = torch.empty(sum(clip.frames.size for clip in clips), dtype=torch.uint8)
    if get_worker_info():
        frames.share_memory_()  # before it is filled: else all of it would be copied when it is sent
    np.concatenate([clips[item].frames.ravel() for item in _by_size(clips)], out=frames.numpy())
    pairs, pictures, groups = [], [], []
    for (height, width), items in groupby(_by_size(clips), lambda item: clips[item].frames.shape[1:]):
        rows, num_frames, first_pair = [], 0, len(pairs)
        for item in items:
            clip = clips[item]
            cuts, pair = Cut.choose(height, width, clip.regions, size), len(pairs) - first_pair
            place = item * len(cuts) * len(clip.pictures)
            rows += [
                ((cut.reduction, cut.taps), (place + k, pair + number, *cut.region))
                for k, (cut, number) in enumerate(product(cuts, clip.pictures))
            ]
            pairs += [(num_frames + first, num_frames + second) for first, second in clip.pairs]
            num_frames += len(clip.frames)
        rows.sort()
        pictures += [row for _, row in rows]
        kinds = tuple((*kind, len(list(alike))) for kind, alike in groupby(rows, lambda row: row[0]))
        groups.append(Group(height, width, num_frames, len(pairs) - first_pair, kinds))
    return FrameBatch(frames, torch.tensor(pairs), torch.tensor(pictures), tuple(groups), *rest)


def _by_size(clips: list[Clip]) -> list[int]:
    return sorted(range(len(clips)), key=lambda item: clips[item].frames.shape[1:])


class OnlineFlow:
    """Batches of frames, as they come, as batches of flow on a device."""

    newest: Batch | None = None
    """the last one that was given"""

    def __init__(self, batches: Iterable[FrameBatch], stream: StreamConfig, device: torch.device):
        self.batches, self.stream, self.device = batches, stream, device
        self.settings = FlowSettings.from_json(stream.with_flow("stored").flow_coding)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            self.newest = self.compute(batch)
            yield self.newest

    @torch.no_grad()
    def compute(self, batch: FrameBatch) -> Batch:
        """The usual batch, its clips on the device."""
        size, groups = self.stream.input_size, batch.groups
        clips = torch.empty(len(batch.pictures), size, size, 2, dtype=torch.uint8, device=self.device)
        # Copied from pinned memory, and not waited for: Python runs ahead of a GPU.
        frames, pairs, pictures = (
            values.split([count(group) for group in groups])
            for values, count in (
                (batch.frames.to(self.device, non_blocking=True), lambda g: g.num_frames * g.height * g.width),
                (batch.pairs, lambda g: g.num_pairs),
                (batch.pictures.to(self.device, non_blocking=True), lambda g: sum(number for *_, number in g.cuts)),
            )
        )
        for group, *parts in zip(groups, frames, pairs, pictures, strict=True):
            levels = self._levels(parts[0].view(-1, group.height, group.width), parts[1])
            ends = accumulate(number for *_, number in group.cuts)
            for (reduction, taps, number), end in zip(group.cuts, ends, strict=True):
                smaller = reduce(levels, reduction)
                for rows in parts[2][end - number : end].split(CROPPED_AT_ONCE):
                    clips[rows[:, 0]] = cut_out(smaller[rows[:, 1]], rows[:, 2:], size, taps=taps)
        clips = clips.unflatten(0, (len(batch.labels), -1, self.stream.clip_len))
        return Batch(clips, batch.mirrored, batch.labels, batch.numbers, tuple(batch.unreadable))

    def _levels(self, frames: Tensor, pairs: Tensor) -> Tensor:
        """Frames (F, H, W) and their pairs (P, 2) -> x and y, uint8 (P, 2, H, W), as flow.FlowCoding codes them."""
        method = farneback(*frames.shape[1:], self.device, self.settings.farneback)
        levels = frames.new_empty(len(pairs), 2, *frames.shape[1:])
        done = 0
        for flow in method.between(frames, pairs):
            part = levels[done : done + len(flow)]
            part.copy_(encode(flow, scale=self.settings.coding.scale).view_as(part))
            done += len(flow)
        return levels


@functools.lru_cache(maxsize=64)
def farneback(height: int, width: int, device: torch.device, parameters: FarnebackParameters) -> Farneback:
    """With its tables, which are kept for the sizes that came last."""
    return Farneback(height, width, device=device, fused=device.type == "cuda", **vars(parameters))


def reduce(levels: Tensor, reduction: int) -> Tensor:
    """uint8 (P, 2, H, W) -> means of squares of that side, (P, 2, H / reduction, W / reduction), both rounded up."""
    if reduction == 1:
        return levels
    right, below = -levels.shape[3] % reduction, -levels.shape[2] % reduction
    padded = F.pad(levels.float(), (0, right, 0, below), mode="replicate")
    return F.avg_pool2d(padded, reduction).round_().to(torch.uint8)


def cut_out(pictures: Tensor, regions: Tensor, size: int, *, taps: int) -> Tensor:
    """uint8 (Q, 2, H, W) and regions (Q, 4) -> uint8 (Q, size, size, 2), scaled as cv2.resize scales what is cut."""
    y, x, height, width = regions.unbind(1)
    for dim, start, length in ((2, y, height), (3, x, width)):
        total = None
        for index, weight in zip(*_shares(start, length, size, taps), strict=True):
            shape = [len(index), 1, 1, 1]
            shape[dim] = size
            index = index.view(shape).expand(*pictures.shape[:dim], size, *pictures.shape[dim + 1 :])
            part = pictures.gather(dim, index) * weight.view(shape)
            total = part if total is None else total.add_(part)
        pictures = total
    return pictures.round_().to(torch.uint8).permute(0, 2, 3, 1)


def _shares(start: Tensor, length: Tensor, size: int, taps: int) -> tuple[Tensor, Tensor]:
    """Which pixels of a line (Q,) have which share in each of `size` new ones: indices, weights, both (taps, Q, size)."""
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
    # Beyond the ends, the pixel there stands in.
    index = torch.minimum(pixel.long().clamp_(min=0), length[:, None] - 1) + start[:, None]
    return index, weight
