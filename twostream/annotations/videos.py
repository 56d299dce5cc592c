"""The videos of a data set as a table, with their classes and splits."""

import hashlib
import json
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice, pairwise
from operator import eq
from pathlib import Path

import numpy as np

from twostream.errors import BadInputError

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "validation": "val", "valid": "val"}
SPLIT_NAMES |= {"validate": "val", "test": "test", "testing": "test"}

MAX_COUNT = 2**31 - 1
"""of frames, as wide as a column"""


@dataclass(frozen=True, slots=True)
class Video:
    """One line of the annotations."""

    id: str
    split: str
    label: str | None
    """class name; None where the list has no label (test sets)"""
    num_frames: int
    """0: listed, but not extracted"""
    fps: float = 0.0
    """0: unknown"""
    stored_step: int = 1
    """only frames 0, stored_step, ... are stored"""


class IdColumn(Sequence[str]):
    """Ids of videos, all in one string of bytes: reading one touches no other, so that processes share the memory.

    Any text comes back as it was, also the lone surrogates by which Python names files that are not UTF-8; and bytes
    are in the same order as their texts.
    """

    def __init__(self, data: bytes, starts: np.ndarray, ends: np.ndarray):
        self.data, self.starts, self.ends = data, starts, ends

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, key):
        """An id; with a slice, mask or array of places, the column of those."""
        starts, ends = self.starts[key], self.ends[key]
        if isinstance(key, slice | np.ndarray):
            return IdColumn(self.data, starts, ends)
        return self.data[starts:ends].decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        for start, end in zip(self.starts, self.ends, strict=True):
            yield self.data[start:end].decode("utf-8", "surrogatepass")


@dataclass(frozen=True, eq=False)
class VideoTable(Sequence[Video]):
    """Videos as columns of V numbers, 37 bytes each and the id; a `Video` is made when it is asked for."""

    classes: tuple[str, ...]
    ids: IdColumn
    split_index: np.ndarray
    """place in SPLITS"""
    label_index: np.ndarray
    """place in `classes`; -1 without label"""
    num_frames: np.ndarray
    fps: np.ndarray
    stored_step: np.ndarray

    @classmethod
    def of(cls, videos: Iterable[Video], classes: Sequence[str] | None = None) -> "VideoTable":
        """Columns of these videos, in their order; classes are the sorted labels where they are not given."""
        data, ends = bytearray(), array("q", [0])
        split_index, label_index, num_frames, fps, stored_step = (array(kind) for kind in "biidi")
        places = {None: -1} | {name: place for place, name in enumerate(classes or [])}
        for video in videos:
            data += video.id.encode("utf-8", "surrogatepass")
            ends.append(len(data))
            split_index.append(SPLITS.index(video.split))
            label_index.append(
                places.setdefault(video.label, len(places) - 1) if classes is None else places[video.label]
            )
            num_frames.append(video.num_frames)
            fps.append(video.fps)
            stored_step.append(video.stored_step)
        ends = np.asarray(ends)
        table = cls(
            tuple(places)[1:], IdColumn(bytes(data), ends[:-1], ends[1:]),
            *map(np.asarray, (split_index, label_index, num_frames, fps, stored_step)),
        )  # fmt: skip
        return table._with_sorted_classes() if classes is None else table

    def _with_sorted_classes(self) -> "VideoTable":
        order = sorted(range(len(self.classes)), key=self.classes.__getitem__)
        # One place more than classes: -1, without label, stays -1.
        places = np.full(len(order) + 1, -1, self.label_index.dtype)
        places[order] = np.arange(len(order))
        return replace(self, classes=tuple(sorted(self.classes)), label_index=places[self.label_index])

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key):
        """A video; with a slice, mask or array of places, the table of those."""
        if isinstance(key, slice | np.ndarray):
            columns = {field.name: getattr(self, field.name)[key] for field in fields(self)[1:]}
            return replace(self, **columns)
        place = range(len(self))[key]
        return next(iter(self[place : place + 1]))

    def __iter__(self) -> Iterator[Video]:
        labels = (*self.classes, None)  # -1 is the last
        for first in range(0, len(self), 1000):
            rows = slice(first, first + 1000)
            columns = (self.split_index, self.label_index, self.num_frames, self.fps, self.stored_step)
            for video_id, split, label, *numbers in zip(
                self.ids[rows], *(column[rows].tolist() for column in columns), strict=True
            ):
                yield Video(video_id, SPLITS[split], labels[label], *numbers)

    def __eq__(self, other: object) -> bool:
        """Equal to any sequence of equal videos."""
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))


@dataclass(frozen=True)
class Annotations:
    """Classes in the order of their label indices (from 0), and videos in order of id."""

    classes: tuple[str, ...]
    videos: VideoTable
    """any iterable of `Video` becomes one"""
    path: Path | None = None

    def __post_init__(self):
        if not isinstance(self.videos, VideoTable):
            object.__setattr__(self, "videos", VideoTable.of(self.videos, self.classes))

    def split(self, name: str) -> VideoTable:
        """Videos of a split, in order of id; raises BadInputError when there are none."""
        videos = self.videos[self.videos.split_index == (SPLITS.index(name) if name in SPLITS else -1)]
        if not videos:
            counts = zip(SPLITS, np.bincount(self.videos.split_index, minlength=len(SPLITS)), strict=True)
            there = ", ".join(f"{split} {count}" for split, count in counts if count)
            raise BadInputError(f"{self.path}: no videos in split {name!r}; it has {there or 'no videos at all'}")
        return videos


def make_annotations(
    videos: Iterable[Video], *, classes: Sequence[str] | None = None, path: Path | None = None
) -> Annotations:
    """Annotations of videos in any order, which are gone through once; classes are the sorted labels if not given.

    Raises BadInputError naming `path` and the video that cannot be: a label that is no class, an id twice, ...
    """
    return collect(videos, classes, path, lambda position: str(path))


def collect(
    videos: Iterable[Video], classes: Sequence[str] | None, path: Path | None, where: Callable[[int], str]
) -> Annotations:
    """`make_annotations`, with the place of the video at each position, for messages."""
    table = VideoTable.of(_checked(videos, classes, where), classes)
    classes = table.classes if classes is None else tuple(classes)
    if len(set(classes)) < len(classes) or not classes:
        raise BadInputError(
            f"{path}: {len(classes)} classes of which {len(set(classes))} differ; expected different ones"
        )
    if any(before >= after for before, after in pairwise(table.ids)):
        order = sorted(range(len(table)), key=list(table.ids).__getitem__)
        table = table[np.array(order)]
        for position, (before, after) in zip(order[1:], pairwise(table.ids), strict=True):
            if before == after:
                raise BadInputError(f"{where(position)}: video {after!r} stands there twice")
    return Annotations(classes, table, path)


def _checked(videos: Iterable[Video], classes: Sequence[str] | None, where: Callable[[int], str]) -> Iterator[Video]:
    known = set(classes or ())
    for position, video in enumerate(videos):
        problem = ""
        if video.split not in SPLITS:
            problem = f"is in split {video.split!r}, expected {', '.join(SPLITS)}"
        elif video.label is None and video.split != "test":
            problem = f"has no label, expected one in split {video.split!r}"
        elif video.label is not None and classes is not None and video.label not in known:
            problem = f"has label {video.label!r}, which is not in the class list"
        elif not (
            0 <= video.num_frames <= MAX_COUNT and 1 <= video.stored_step <= MAX_COUNT and 0 <= video.fps < math.inf
        ):
            problem = (
                f"has {video.num_frames} frames, step {video.stored_step}, {video.fps} fps; expected counts and a rate"
            )
        if problem:
            raise BadInputError(f"{where(position)}: video {video.id!r} {problem}")
        yield video


def fingerprint(classes: Sequence[str], video_ids: Sequence[str], label_indices: Sequence[int]) -> str:
    """16 hexadecimal digits that agree for two splits exactly when classes, ids and labels do.

    They are of the JSON text [classes, [[id, label], ...]] with the pairs in order, made piece by piece.
    """
    pairs = zip(video_ids, map(int, label_indices), strict=True)
    if any(before >= after for before, after in pairwise(video_ids)):
        pairs = iter(sorted(pairs))
    digest = hashlib.sha256(f"[{json.dumps(list(classes))}, [".encode())
    separator = ""
    while piece := list(islice(pairs, 1000)):
        digest.update((separator + json.dumps(piece)[1:-1]).encode())
        separator = ", "
    digest.update(b"]]")
    return digest.hexdigest()[:16]
