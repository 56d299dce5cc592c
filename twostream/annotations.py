"""What is known of each video: split, class, number of frames; the file that says it.

`annotations.json` is written by prep/build_annotations.py from a data set's own list and what was extracted:

    {"version": 1, "classes": ["walk", ...], "videos": {"id": {"split": "train", "label": "walk", "num_frames": 240, ...}}}

Files made by 2D-kinectics (`hfiles/finalannots.json`, classes counted from 1 or from 0) are read as they are.
"""

import hashlib
import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from twostream import atomic
from twostream.errors import BadInputError
from twostream.frame_store import check_video_id

FILE_NAME = "annotations.json"
SPLITS = ("train", "val", "test")
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "validation": "val", "valid": "val"}
SPLIT_NAMES |= {"validate": "val", "test": "test", "testing": "test"}


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


@dataclass(frozen=True)
class Annotations:
    """Classes in the order of their label indices (from 0), and videos in order of id."""

    classes: tuple[str, ...]
    videos: tuple[Video, ...]
    path: Path | None = None

    def split(self, name: str) -> tuple[Video, ...]:
        """Videos of a split, in order of id; raises BadInputError when there are none."""
        videos = tuple(video for video in self.videos if video.split == name)
        if not videos:
            there = ", ".join(f"{split} {count}" for split, count in Counter(v.split for v in self.videos).items())
            raise BadInputError(f"{self.path}: no videos in split {name!r}; it has {there or 'no videos at all'}")
        return videos

    def label_index(self, video: Video) -> int:
        """Place of the video's class in `classes`; -1 without label."""
        return -1 if video.label is None else self.classes.index(video.label)


def fingerprint(classes: tuple[str, ...], video_ids: list[str], label_indices: list[int]) -> str:
    """16 hexadecimal digits that agree for two splits exactly when classes, ids and labels do."""
    content = json.dumps([list(classes), sorted(zip(video_ids, map(int, label_indices), strict=True))])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


# ---------------------------------------------------------------------------------------------- annotations.json


def write_annotations(path: str | Path, annotations: Annotations) -> None:
    """One video a line, so that the file can be read and compared by people too."""
    lines = []
    for video in annotations.videos:
        entry = {"split": video.split, "label": video.label, "num_frames": video.num_frames, "fps": video.fps}
        if video.frame_step != 1:
            entry["frame_step"] = video.frame_step
        lines.append(f"  {json.dumps(video.id)}: {json.dumps(entry)}")
    classes = json.dumps(list(annotations.classes))
    videos = ",\n".join(lines)
    atomic.write_text(path, f'{{"version": 1,\n "classes": {classes},\n "videos": {{\n{videos}\n }}\n}}\n')


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
            content = read_json(path)
            reader = _from_2d_kinectics if "database" in content else _from_content
            return reader(path, content)
    raise BadInputError(f"no annotations: looked for {', '.join(map(str, paths))}")


def read_json(path: Path) -> dict:
    """A JSON file that holds an object; BadInputError with line and column otherwise."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: {error}; expected JSON, make it again") from None
    if not isinstance(content, dict):
        raise BadInputError(f"{path}: found a {type(content).__name__}, expected a JSON object")
    return content


def _object(pairs: list[tuple[str, object]]) -> dict:
    """A JSON object, whose names must differ: of two videos with one id, the first would vanish."""
    content = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"{name!r} stands there twice")
        content[name] = value
    return content


def _from_content(path: Path, content: dict) -> Annotations:
    if content.get("version") != 1:
        raise BadInputError(f"{path}: version {content.get('version')!r}, expected 1; run prep/build_annotations.py")
    try:
        classes = tuple(content["classes"])
        videos = [
            Video(
                check_video_id(video_id),
                entry["split"],
                entry["label"],
                int(entry["num_frames"]),
                float(entry.get("fps", 0)),
                int(entry.get("frame_step", 1)),
            )
            for video_id, entry in content["videos"].items()
        ]
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise BadInputError(f"{path}: {type(error).__name__} {error}; run prep/build_annotations.py again") from None
    return checked(path, classes, videos)


def _from_2d_kinectics(path: Path, content: dict) -> Annotations:
    """{"database": {id: {label, cls, subset, isthere, numf}}, "classes": {name: number}}; numbers from 1 or from 0."""
    try:
        numbers = {name: int(number) for name, number in content["classes"].items()}
        classes = tuple(sorted(numbers, key=numbers.__getitem__))
        if sorted(numbers.values()) != list(range(min(numbers.values()), min(numbers.values()) + len(numbers))):
            raise ValueError("class numbers have gaps")
        videos = []
        for video_id, entry in content["database"].items():
            split = SPLIT_NAMES[entry["subset"]]
            num_frames = int(entry.get("numf", 0)) if entry.get("isthere", "numf" in entry) else 0
            label = entry.get("label") if split != "test" or entry.get("label") in numbers else None
            videos.append(Video(check_video_id(video_id), split, label, num_frames))
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise BadInputError(f"{path}: {type(error).__name__} {error}; expected annotations of 2D-kinectics") from None
    return checked(path, classes, videos)


def checked(path: Path | None, classes: tuple[str, ...], videos: list[Video]) -> Annotations:
    for name in (*classes, *(video.label for video in videos if video.label is not None)):
        if not isinstance(name, str):
            raise BadInputError(f"{path}: class {name!r} is a {type(name).__name__}, expected a name")
    known = set(classes)
    if len(known) < len(classes) or not classes:
        raise BadInputError(f"{path}: {len(classes)} classes of which {len(known)} differ; expected different ones")
    for video in videos:
        if video.split not in SPLITS:
            raise BadInputError(f"{path}: video {video.id!r} is in split {video.split!r}, expected {', '.join(SPLITS)}")
        if video.label not in known and not (video.label is None and video.split == "test"):
            raise BadInputError(f"{path}: video {video.id!r} has label {video.label!r}, which is not in the class list")
        if video.num_frames < 0 or video.frame_step < 1 or not 0 <= video.fps < math.inf:
            raise BadInputError(
                f"{path}: video {video.id!r} has {video.num_frames} frames, step {video.frame_step}, "
                f"{video.fps} fps; expected counts and a rate"
            )
    return Annotations(classes, tuple(sorted(videos, key=lambda video: video.id)), path)
