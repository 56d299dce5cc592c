"""The videos of a data set as a table, with their classes and splits."""

import hashlib
import json
import math
import shlex
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice, pairwise
from operator import eq
from pathlib import Path
from typing import overload

import numpy as np

from twostream.counts import counted
from twostream.errors import BadInputError
from twostream.video.ffmpeg import MAX_FRAMES

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "validation": "val", "valid": "val"}
SPLIT_NAMES |= {"validate": "val", "test": "test", "testing": "test"}
"""what lists call the splits -> one of SPLITS"""

MAX_STEP = MAX_GROUP = 2**31 - 1
"""largest stored step and number of a group, as wide as a column"""
NO_LABEL = -1
"""label index of a video without a label"""
NO_GROUP = -1
"""group of a video that belongs to no other"""

Label = str | tuple[str, ...] | None
"""a class name; of multi-label videos, the names of any number of classes; None: unknown, as in test lists"""


@dataclass(frozen=True, slots=True)
class Video:
    """One line of the annotations."""

    id: str
    split: str
    """one of SPLITS"""
    label: Label
    num_frames: int
    """0: listed, but not extracted"""
    fps: float = 0.0
    """frames per second; 0: unknown"""
    stored_step: int = 1
    """only frames 0, stored_step, 2 stored_step ... are stored"""
    group: int = NO_GROUP
    """the videos of one group were cut from one source, or show one person: they must not be both trained and tested on"""


class IdColumn(Sequence[str]):
    """Ids of videos in one string of bytes: reading an id touches no other object, so processes can share the memory.

    Any text is returned unchanged, including the lone surrogates by which Python names files that are not UTF-8. The
    bytes sort in the same order as the texts.
    """

    def __init__(self, data: bytes, starts: np.ndarray, ends: np.ndarray):
        """`data[starts[k]:ends[k]]` is id k; int64 (V,) each."""
        self.data, self.starts, self.ends = data, starts, ends

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, key: int) -> str: ...

    @overload
    def __getitem__(self, key: slice | np.ndarray) -> "IdColumn": ...

    def __getitem__(self, key: int | slice | np.ndarray) -> "str | IdColumn":
        """An id; for a slice, a mask or an array of indices, a column of the selected ids."""
        starts, ends = self.starts[key], self.ends[key]
        if isinstance(key, slice | np.ndarray):
            return IdColumn(self.data, starts, ends)
        return self.data[starts:ends].decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        for start, end in zip(self.starts, self.ends, strict=True):
            yield self.data[start:end].decode("utf-8", "surrogatepass")


@dataclass(frozen=True, eq=False)
class VideoTable(Sequence[Video]):
    """Videos as columns of V numbers, 41 bytes and the id for each; a `Video` is made when it is read.

    All labels are class names, or all are sets of names: then the table is multi-label. Videos without a label fit both.
    """

    classes: tuple[str, ...]
    ids: IdColumn
    split_index: np.ndarray
    """int8 (V,): index in SPLITS"""
    label_index: np.ndarray
    """int32 (V,): index in `classes` or, if there are any, in `label_sets`; NO_LABEL without a label"""
    num_frames: np.ndarray
    """int32 (V,)"""
    fps: np.ndarray
    """float64 (V,)"""
    stored_step: np.ndarray
    """int32 (V,)"""
    group: np.ndarray
    """int32 (V,): from 0; NO_GROUP where a video belongs to no other"""
    label_sets: np.ndarray | None = None
    """int8 (sets + 1, K), for multi-label videos: the different sets of classes, 1 where a class belongs to the set; the
    last row, which NO_LABEL selects, is -1 everywhere"""

    @classmethod
    def of(cls, videos: Iterable[Video], classes: Sequence[str] | None = None) -> "VideoTable":
        """Columns of these videos, in their order; without `classes`, the classes are the sorted labels.

        Raises KeyError for a label that is not in `classes`, ValueError for a split that is not in SPLITS, or if some
        labels are names and some are sets of names.
        """
        data, offsets = bytearray(), array("q", [0])
        split_index, label_index, num_frames, stored_step, group = (array(kind) for kind in "biiii")
        fps = array("d")
        class_index = {name: index for index, name in enumerate(classes or ())}
        set_index: dict[tuple[int, ...], int] = {}
        has_names = False
        for video in videos:
            data += video.id.encode("utf-8", "surrogatepass")
            offsets.append(len(data))
            split_index.append(SPLITS.index(video.split))
            if video.label is None:
                label_index.append(NO_LABEL)
            elif isinstance(video.label, str):
                has_names = True
                if classes is None:
                    class_index.setdefault(video.label, len(class_index))
                label_index.append(class_index[video.label])
            else:
                for name in video.label if classes is None else ():
                    class_index.setdefault(name, len(class_index))
                indices = tuple(sorted({class_index[name] for name in video.label}))
                label_index.append(set_index.setdefault(indices, len(set_index)))
            num_frames.append(video.num_frames)
            fps.append(video.fps)
            stored_step.append(video.stored_step)
            group.append(video.group)
        if set_index and has_names:
            raise ValueError("some labels are a name, and some are a set of names")
        ends = np.asarray(offsets)
        table = cls(
            tuple(class_index), IdColumn(bytes(data), ends[:-1], ends[1:]),
            np.asarray(split_index), np.asarray(label_index), np.asarray(num_frames), np.asarray(fps),
            np.asarray(stored_step), np.asarray(group), _many_hot(set_index, len(class_index)) if set_index else None,
        )  # fmt: skip
        return table._with_sorted_classes() if classes is None else table

    def _with_sorted_classes(self) -> "VideoTable":
        order = sorted(range(len(self.classes)), key=self.classes.__getitem__)
        if self.label_sets is not None:
            return replace(self, classes=tuple(sorted(self.classes)), label_sets=self.label_sets[:, order])
        # One element more than classes, the last: NO_LABEL is -1, indexes it, and so stays -1.
        new_index = np.full(len(order) + 1, NO_LABEL, self.label_index.dtype)
        new_index[order] = np.arange(len(order))
        return replace(self, classes=tuple(sorted(self.classes)), label_index=new_index[self.label_index])

    @property
    def is_multi_label(self) -> bool:
        """Are the labels sets of classes?"""
        return self.label_sets is not None

    def labels(self, rows: slice | Sequence[int] | np.ndarray = slice(None)) -> np.ndarray:
        """Labels of these n videos: label indices (n,), -1 without a label.

        If the table is multi-label, int8 (n, K): 1 for the classes of a video, 0 for others, and a row of -1 without a
        label.
        """
        indices = self.label_index[rows]
        return indices if self.label_sets is None else self.label_sets[indices]

    def occurring(self, rows: slice | np.ndarray = slice(None)) -> set[str | None]:
        """Names of the classes of these videos; None is one of them if a video has no class, or no label."""
        labels = self.labels(rows)
        if not self.is_multi_label:
            return {(*self.classes, None)[index] for index in np.unique(labels).tolist()}
        found: set[str | None] = {self.classes[k] for k in np.flatnonzero((labels > 0).any(axis=0))}
        return found | ({None} if (labels <= 0).all(axis=1).any() else set())

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, key: int) -> Video: ...

    @overload
    def __getitem__(self, key: slice | np.ndarray) -> "VideoTable": ...

    def __getitem__(self, key: int | slice | np.ndarray) -> "Video | VideoTable":
        """A video; for a slice, a mask or an array of indices, a table of the selected videos."""
        if isinstance(key, slice | np.ndarray):
            columns = {field.name: getattr(self, field.name)[key] for field in fields(self)[1:-1]}
            return replace(self, **columns)
        index = range(len(self))[key]
        return next(iter(self[index : index + 1]))

    def __iter__(self) -> Iterator[Video]:
        labels: tuple[Label, ...] = (*self.classes, None)  # NO_LABEL is -1, the last of them
        if self.label_sets is not None:
            labels = (*(tuple(self.classes[k] for k in np.flatnonzero(row)) for row in self.label_sets[:-1]), None)
        for first in range(0, len(self), 1000):
            rows = slice(first, first + 1000)
            columns = (self.split_index, self.label_index, self.num_frames, self.fps, self.stored_step, self.group)
            for video_id, split, label, *numbers in zip(
                self.ids[rows], *(column[rows].tolist() for column in columns), strict=True
            ):
                yield Video(video_id, SPLITS[split], labels[label], *numbers)

    def __eq__(self, other: object) -> bool:
        """Equal to any sequence of equal videos."""
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))


def _many_hot(sets: Iterable[tuple[int, ...]], num_classes: int) -> np.ndarray:
    """`VideoTable.label_sets` from the label indices of each set."""
    sets = list(sets)
    rows = np.zeros((len(sets) + 1, num_classes), np.int8)
    for row, indices in zip(rows, sets, strict=False):
        row[list(indices)] = 1
    rows[-1] = NO_LABEL
    return rows


@dataclass(frozen=True)
class Annotations:
    """Classes in the order of their label indices (from 0), and videos in order of id."""

    classes: tuple[str, ...]
    videos: VideoTable
    """any other iterable of `Video` is converted"""
    path: Path | None = None
    """the file that they were read from, for messages"""
    class_order: str = ""
    """where the order of the classes is from, for people; "" where the file does not say it"""
    annotate_flags: tuple[str, ...] = ()
    """flags of twostream annotate that made the file, less --root; empty where it does not say them"""

    def __post_init__(self) -> None:
        if not isinstance(self.videos, VideoTable):
            object.__setattr__(self, "videos", VideoTable.of(self.videos, self.classes))

    def split(self, name: str) -> VideoTable:
        """Videos of a split, in order of id; raises BadInputError when there are none."""
        in_split: np.ndarray = self.videos.split_index == (SPLITS.index(name) if name in SPLITS else -1)
        videos = self.videos[in_split]
        if not videos:
            counts = zip(SPLITS, np.bincount(self.videos.split_index, minlength=len(SPLITS)), strict=True)
            splits = ", ".join(f"{split} {count}" for split, count in counts if count)
            raise BadInputError(
                f"{self.path}: no videos in split {name!r}; it has {splits or 'no videos at all'}{self._remedy(name)}"
            )
        return videos

    def with_rate(self, fps: float) -> "Annotations":
        """With a rate for the videos whose rate is unknown."""
        videos = replace(self.videos, fps=np.where(self.videos.fps > 0, self.videos.fps, fps))
        return replace(self, videos=videos)

    def _remedy(self, split: str) -> str:
        """End of a message about a split without videos."""
        if self.path is None:
            return ""
        if split == "val" and (self.videos.split_index == SPLITS.index("train")).any():
            return f"; to hold val out of train: {self.annotate_command('--val_fraction=0.2')}"
        return f"; add a list of {split} videos to: {self.annotate_command()}"

    def annotate_command(self, *more_flags: str) -> str:
        """The command that makes the annotations again, with the flags that made them and some more."""
        if self.path is None:
            return annotate_command("ROOT", more_flags=more_flags)
        if self.path.parent.name == "hfiles":  # of 2D-kinectics
            flags = ("--format=2d-kinectics", f"--list={self.path}")
            return annotate_command(self.path.parent.parent, flags, more_flags)
        return annotate_command(self.path.parent, self.annotate_flags, more_flags)


def annotate_command(root: str | Path, flags: Sequence[str] = (), more_flags: Sequence[str] = ()) -> str:
    """The command that makes annotations; FORMAT and LIST stand for flags that are not known."""
    return shlex.join(
        ["twostream", "annotate", f"--root={root}", *(flags or ("--format=FORMAT", "--list=LIST")), *more_flags]
    )


def make_annotations(
    videos: Iterable[Video], *, classes: Sequence[str] | None = None, path: Path | None = None
) -> Annotations:
    """Annotations of videos in any order, which are iterated over once; without `classes`, these are the sorted labels.

    Raises BadInputError naming `path` and the video where it has an unknown label or split, a count out of range, or
    the id of another video.
    """
    return collect(videos, classes, path, lambda position: str(path))


def collect(
    videos: Iterable[Video], classes: Sequence[str] | None, path: Path | None, where: Callable[[int], str]
) -> Annotations:
    """`make_annotations`, where `where(k)` is the file and line of video k, for messages."""
    table = VideoTable.of(_checked(videos, classes, where), classes)
    classes = table.classes if classes is None else tuple(classes)
    if len(set(classes)) < len(classes) or not classes:
        raise BadInputError(
            f"{path}: {counted(len(classes), 'class', 'classes')}, {len(set(classes))} of them distinct; expected distinct ones"
        )
    if any(before >= after for before, after in pairwise(table.ids)):
        order = sorted(range(len(table)), key=list(table.ids).__getitem__)
        table = table[np.array(order)]
        for position, (before, after) in zip(order[1:], pairwise(table.ids), strict=True):
            if before == after:
                raise BadInputError(f"{where(position)}: video {after!r} is listed twice")
    return Annotations(classes, table, path)


def _checked(videos: Iterable[Video], classes: Sequence[str] | None, where: Callable[[int], str]) -> Iterator[Video]:
    known_classes = None if classes is None else set(classes)
    first: Label = None
    for position, video in enumerate(videos):
        problem = ""
        if video.split not in SPLITS:
            problem = f"is in split {video.split!r}, expected {', '.join(SPLITS)}"
        elif video.label is None and video.split != "test":
            problem = f"has no label, expected one in split {video.split!r}"
        elif video.label is not None and (problem := _label_problem(video.label, known_classes, first)):
            pass
        elif not (
            0 <= video.num_frames <= MAX_FRAMES
            and 1 <= video.stored_step <= MAX_STEP
            and 0 <= video.fps < math.inf
            and NO_GROUP <= video.group <= MAX_GROUP
        ):
            problem = (
                f"has {counted(video.num_frames, 'frame')}, step {video.stored_step}, {video.fps} fps, group {video.group}; expected counts, "
                f"of at most {MAX_FRAMES} frames, and a rate: run twostream annotate again"
            )
        if problem:
            raise BadInputError(f"{where(position)}: video {video.id!r} {problem}")
        first = video.label if first is None else first
        yield video


def _label_problem(label: str | tuple[str, ...], known_classes: set[str] | None, first: Label) -> str:
    """What is wrong with a label, where the first label of the file is `first`; "" if nothing is."""
    names = (label,) if isinstance(label, str) else label
    if known_classes is not None and not known_classes.issuperset(names):
        unknown = next(name for name in names if name not in known_classes)
        return f"has label {unknown!r}, which is not in the class list"
    if first is not None and isinstance(label, tuple) != isinstance(first, tuple):
        kinds = ("one label", "a list of labels")
        found, expected = kinds if isinstance(first, tuple) else kinds[::-1]
        return f"has {found}, expected {expected}, as the videos before it have: write all labels in the same way"
    return ""


def fingerprint(classes: Sequence[str], video_ids: Sequence[str], labels: Sequence[int] | np.ndarray) -> str:
    """16 hexadecimal digits that two splits share exactly when their classes, ids and labels are the same.

    They are the beginning of the SHA-256 of the JSON text [classes, [[id, label index], ...]] with the pairs in order,
    which is made piece by piece. `labels` are as `VideoTable.labels` returns them; multi-label videos have a list of label
    indices in place of one.
    """
    plain: Iterable[int | list[int]] = map(int, labels) if np.ndim(labels) == 1 else map(_indices, labels)
    pairs: Iterator[tuple[str, int | list[int]]] = zip(video_ids, plain, strict=True)
    if any(before >= after for before, after in pairwise(video_ids)):
        pairs = iter(sorted(pairs))
    digest = hashlib.sha256(f"[{json.dumps(list(classes))}, [".encode())
    separator = ""
    while piece := list(islice(pairs, 1000)):
        digest.update((separator + json.dumps(piece)[1:-1]).encode())
        separator = ", "
    digest.update(b"]]")
    return digest.hexdigest()[:16]


def _indices(row: np.ndarray) -> int | list[int]:
    """The label indices of a row (K,) of `VideoTable.labels`; NO_LABEL without a label."""
    return NO_LABEL if row[0] < 0 else np.flatnonzero(row).tolist()
