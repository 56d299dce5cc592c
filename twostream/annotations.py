"""What is known of each video: split, class, number of frames; the file that says it.

`annotations.json` is written by prep/build_annotations.py from a data set's own list and what was extracted:

    {"version": 1, "classes": ["walk", ...], "videos": {"id": {"split": "train", "label": "walk", "num_frames": 240, ...}}}

Files made by 2D-kinectics (`hfiles/finalannots.json`, classes counted from 1 or from 0) are read as they are.
"""

import codecs
import hashlib
import json
import math
import re
import reprlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice, pairwise
from operator import eq
from pathlib import Path
from typing import BinaryIO

import numpy as np

from twostream import atomic
from twostream.errors import BadInputError

FILE_NAME = "annotations.json"
SPLITS = ("train", "val", "test")
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "validation": "val", "valid": "val"}
SPLIT_NAMES |= {"validate": "val", "test": "test", "testing": "test"}

MAX_COUNT = 2**31 - 1
"""of frames, as wide as a column"""


def check_video_id(video_id: str) -> str:
    """The id itself, if it can name a folder and nothing else; else BadInputError."""
    if not video_id or video_id.startswith(".") or re.search(r"[/\\\0]", video_id):
        raise BadInputError(f"video id {video_id!r}, expected a plain file name: no slash, no leading dot; rename it")
    return video_id


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
    frame_step: int = 1
    """only frames 0, frame_step, ... are stored"""


# ------------------------------------------------------------------------------------------------ a million videos


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
    frame_step: np.ndarray

    @classmethod
    def of(cls, videos: Iterable[Video], classes: Sequence[str] | None = None) -> "VideoTable":
        """Columns of these videos, in their order; classes are the sorted labels where they are not given."""
        data, ends = bytearray(), array("q", [0])
        split_index, label_index, num_frames, fps, frame_step = (array(kind) for kind in "biidi")
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
            frame_step.append(video.frame_step)
        ends = np.asarray(ends)
        table = cls(
            tuple(places)[1:], IdColumn(bytes(data), ends[:-1], ends[1:]),
            *map(np.asarray, (split_index, label_index, num_frames, fps, frame_step)),
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
            columns = (self.split_index, self.label_index, self.num_frames, self.fps, self.frame_step)
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
    return _collect(videos, classes, path, lambda position: str(path))


def _collect(
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
            0 <= video.num_frames <= MAX_COUNT and 1 <= video.frame_step <= MAX_COUNT and 0 <= video.fps < math.inf
        ):
            problem = (
                f"has {video.num_frames} frames, step {video.frame_step}, {video.fps} fps; expected counts and a rate"
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


# ---------------------------------------------------------------------------------------------- annotations.json

JSON_SPACE = b" \t\r\n"
FIRST_LINE = b'{"version": 1,'
VIDEOS_LINE = b'"videos": {'
FIRST_VIDEO = 4  # number of its line


def write_annotations(path: str | Path, annotations: Annotations) -> None:
    """One video a line, so that the file can be read and compared by people too."""
    atomic.write_file(path, lambda file: file.writelines(text.encode() for text in _texts(annotations)))


def _texts(annotations: Annotations) -> Iterator[str]:
    """The file in pieces, all ASCII; `_read_lines` knows this layout."""
    yield f'{{"version": 1,\n "classes": {json.dumps(list(annotations.classes))},\n "videos": {{\n'
    labels = {
        label: json.dumps(label) for label in (*annotations.classes, None)
    }  # a whole dict a video takes twice as long
    separator = ""
    for video in annotations.videos:
        step = f', "frame_step": {video.frame_step}' if video.frame_step != 1 else ""
        entry = f'"split": "{video.split}", "label": {labels[video.label]}, "num_frames": {video.num_frames}, "fps": {video.fps}'
        yield f"{separator}  {json.dumps(video.id)}: {{{entry}{step}}}"
        separator = ",\n"
    yield "\n }\n}\n"


def find_root(root: str | Path, dataset: str) -> Path:
    """The data root itself: `root`, or `root`/`dataset` as 2D-kinectics has it; told by the annotations in it."""
    candidates = [Path(root), Path(root, dataset)]
    for candidate in candidates:
        if (candidate / FILE_NAME).is_file() or (candidate / "hfiles").is_dir():
            return candidate
    raise BadInputError(
        f"{root} has no {FILE_NAME} (nor hfiles/, nor has {candidates[1]}): run prep/build_annotations.py first"
    )


def read_annotations(root: str | Path, *, datasubset: str = "") -> Annotations:
    """Annotations of a data root: `annotations.json`, else the JSON of 2D-kinectics in `hfiles/`."""
    old_names = [f"Annots_{datasubset}.json"] if datasubset else ["finalannots.json"]
    paths = [Path(root, "hfiles", name) for name in old_names]
    if not datasubset:
        paths.insert(0, Path(root, FILE_NAME))
    for path in paths:
        if path.is_file():
            return _read_lines(path) or _read_whole(path)
    raise BadInputError(f"no annotations: looked for {', '.join(map(str, paths))}")


def _read_lines(path: Path) -> Annotations | None:
    """A file in the layout of `write_annotations`, a line at a time; None for any other, which may be good JSON too.

    A line that is by itself the one member of an object is that beside other lines as well, so no file means one
    thing here and another to a JSON parser.
    """
    try:
        with open(path, "rb") as file:
            first, second, third = (file.readline().strip(JSON_SPACE) for _ in range(3))
            if first.removeprefix(codecs.BOM_UTF8) != FIRST_LINE or third != VIDEOS_LINE or second[-1:] != b",":
                return None
            name, classes = _member(second[:-1])
            if name != "classes":
                return None
            videos = _videos_of_lines(path, file)
            return _collect(videos, _class_list(path, classes), path, lambda position: _line(path, position))
    except (ValueError, RecursionError):  # of JSON: the whole-file parser says what is wrong, and where
        return None


def _videos_of_lines(path: Path, file: BinaryIO) -> Iterator[Video]:
    """The videos of the lines, and what closes the file; ValueError where the layout is another."""
    more = True
    for position, line in enumerate(file):
        text = line.strip(JSON_SPACE)
        if not more:
            break
        more = text.endswith(b",")
        yield _video(*_member(text.removesuffix(b",")), _line(path, position))
    if more or text != b"}" or file.read().strip(JSON_SPACE) != b"}":
        raise ValueError("no end of the videos and of the file")


def _line(path: Path, position: int) -> str:
    return f"{path}, line {FIRST_VIDEO + position}"


def _member(line: bytes) -> tuple[str, object]:
    """Name and value of a line that is one member of a JSON object, and nothing else; else ValueError."""
    ((name, value),) = DECODER.decode("{" + line.decode() + "}").items()
    return name, value


def _read_whole(path: Path) -> Annotations:
    content = read_json(path)
    reader = _from_2d_kinectics if "database" in content and "videos" not in content else _from_content
    return reader(path, content)


def read_json(path: Path) -> dict:
    """A JSON file that holds an object; BadInputError with line and column otherwise."""
    try:
        content = DECODER.decode(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: {error}; expected JSON, make it again") from None
    if not isinstance(content, dict):
        raise BadInputError(f"{path}: found a {type(content).__name__}, expected a JSON object")
    return content


def _object(pairs: list[tuple[str, object]]) -> dict:
    """A JSON object, whose names must differ: of two videos with one id, the first would vanish."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return content


DECODER = json.JSONDecoder(object_pairs_hook=_object)
MALFORMED = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError)
"""what comes of JSON that holds other things than expected"""


def _from_content(path: Path, content: dict) -> Annotations:
    if content.get("version") != 1:
        raise BadInputError(
            f"{path}: version {reprlib.repr(content.get('version'))}, expected 1; run prep/build_annotations.py"
        )
    videos = content.get("videos")
    if not isinstance(videos, dict):
        raise BadInputError(f"{path}: videos are a {type(videos).__name__}, expected a JSON object of them by id")
    return make_annotations(
        (_video(video_id, entry, str(path)) for video_id, entry in videos.items()),
        classes=_class_list(path, content.get("classes")),
        path=path,
    )


def _class_list(path: Path, names: object) -> list[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadInputError(f"{path}: classes are {reprlib.repr(names)}, expected a list of names")
    return names


def _video(video_id: str, entry: dict, where: str) -> Video:
    """The video of one member of "videos"; BadInputError naming the place where it is none."""
    try:
        return Video(
            check_video_id(video_id),
            _text(entry["split"]),
            None if entry["label"] is None else _text(entry["label"]),
            _whole_number(entry["num_frames"]),
            _number(entry.get("fps", 0)),
            _whole_number(entry.get("frame_step", 1)),
        )
    except BadInputError as error:
        raise BadInputError(f"{where}: {error}") from None
    except MALFORMED as error:
        raise BadInputError(
            f"{where}: video {video_id!r}: {type(error).__name__} {error}; run prep/build_annotations.py again"
        ) from None


def _text(value: object) -> str:
    if type(value) is not str:
        raise TypeError(f"{reprlib.repr(value)} is no text")
    return value


def _number(value: object) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"{reprlib.repr(value)} is no number")
    return float(value)


def _whole_number(value: object) -> int:
    if type(value) is not int and not _number(value).is_integer():
        raise TypeError(f"{value} is no whole number")
    return int(value)


def _from_2d_kinectics(path: Path, content: dict) -> Annotations:
    """{"database": {id: {label, cls, subset, isthere, numf}}, "classes": {name: number}}; numbers from 1 or from 0."""
    try:
        numbers = {name: _whole_number(number) for name, number in content["classes"].items()}
        classes = tuple(sorted(numbers, key=numbers.__getitem__))
        if sorted(numbers.values()) != list(range(min(numbers.values()), min(numbers.values()) + len(numbers))):
            raise ValueError("class numbers have gaps")
        videos = []
        for video_id, entry in content["database"].items():
            split = SPLIT_NAMES[entry["subset"]]
            num_frames = _whole_number(entry.get("numf", 0)) if entry.get("isthere", "numf" in entry) else 0
            label = _text(entry["label"]) if split != "test" or entry.get("label") in numbers else None
            videos.append(Video(check_video_id(video_id), split, label, num_frames))
    except BadInputError as error:
        raise BadInputError(f"{path}: {error}") from None
    except MALFORMED as error:
        raise BadInputError(f"{path}: {type(error).__name__} {error}; expected annotations of 2D-kinectics") from None
    return make_annotations(videos, classes=classes, path=path)
