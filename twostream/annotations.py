"""What is known of each video (split, class, number of frames), and the readers of the lists it comes from.

`annotations.json` is written by prep/build_annotations.py from a data set's own list and what was extracted:

    {"version": 1, "classes": ["walk", ...], "videos": {"id": {"split": "train", "label": "walk", "num_frames": 240, ...}}}

Files made by 2D-kinectics (`hfiles/finalannots.json`, classes counted from 1 or from 0) are read as they are.
"""

import csv
import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from twostream import atomic
from twostream.errors import BadInputError
from twostream.frame_store import FrameFolders, check_video_id
from twostream.video import find_videos, video_id_of

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
    return _checked(path, classes, videos)


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
    return _checked(path, classes, videos)


def _checked(path: Path | None, classes: tuple[str, ...], videos: list[Video]) -> Annotations:
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


# ------------------------------------------------------------------------------------------ lists of data sets


@dataclass(frozen=True, slots=True)
class Listed:
    """One entry of a data set's own list."""

    ids: tuple[str, ...]
    """ids under which the video may have been extracted; the first is its proper one"""
    label: str | None
    split: str | None
    """None: to be decided by `assign_splits`"""
    group: str
    """videos of one group stay in one split; "" for none"""
    where: str
    """file and line, for messages"""


def read_folder(folder: Path, *, id_from: str = "stem", group_by: str = "") -> list[Listed]:
    """Class folders with videos in them, with or without train/val/test folders above."""
    if not folder.is_dir():
        raise BadInputError(f"{folder} is no folder, expected one with a folder of videos for each class")
    try:
        videos, _ = find_videos(folder, id_from=id_from)
    except ValueError as error:
        raise BadInputError(f"{error}: rename one, or add --ids=path (here and to extract.py)") from None
    tops = {path.relative_to(folder).parts[0] for path in videos.values()}
    has_splits = bool(tops) and all(top.lower() in SPLIT_NAMES for top in tops)
    listed = []
    for video_id, path in videos.items():
        parts = path.relative_to(folder).parts
        split = SPLIT_NAMES[parts[0].lower()] if has_splits else None
        if len(parts) < 2 + has_splits:
            raise BadInputError(f"{path} is in no class folder, expected {folder}/<class>/<video>")
        listed.append(Listed((video_id,), parts[has_splits], split, "", str(path)))
    return listed


def read_csv(path: Path, *, id_from: str = "stem", group_by: str = "") -> list[Listed]:
    """Columns video, label, and optionally split and group (or the column named by `group_by`)."""
    group_column = group_by or "group"
    listed = []
    for where, row in _csv_rows(path, required=("video", "label", *([group_by] if group_by else []))):
        split = row.get("split")
        if split and split.lower() not in SPLIT_NAMES:
            raise BadInputError(f"{where}: split {split!r}, expected {', '.join(SPLITS)}")
        video_id = video_id_of(Path(row["video"]), id_from=id_from)
        listed.append(
            Listed(
                (video_id,),
                row["label"] or None,
                SPLIT_NAMES[split.lower()] if split else None,
                row.get(group_column) or "",
                where,
            )
        )
    return listed


def read_kinetics_csv(path: Path, *, id_from: str = "stem", group_by: str = "") -> list[Listed]:
    """label,youtube_id,time_start,time_end,split[,is_cc]; test lists have no label column.

    Videos are looked for as `<id>_<start>_<end>` with six digits each, as the crawler names them, then as `<id>`.
    """
    listed = []
    for where, row in _csv_rows(path, required=("youtube_id", "time_start", "time_end", "split")):
        try:
            segment = f"{round(float(row['time_start'])):06d}_{round(float(row['time_end'])):06d}"
        except (ValueError, OverflowError):
            raise BadInputError(
                f"{where}: time {row['time_start']!r} to {row['time_end']!r}, expected seconds"
            ) from None
        split = SPLIT_NAMES.get(row["split"].lower())
        if split is None:
            raise BadInputError(f"{where}: split {row['split']!r}, expected {', '.join(SPLITS)}")
        ids = (f"{row['youtube_id']}_{segment}", row["youtube_id"])
        listed.append(Listed(ids, row.get("label") or None, split, "", where))
    return listed


def _csv_rows(path: Path, *, required: tuple[str, ...]):
    """Yield (file and line, row) of a CSV file with a header."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in required if name not in (reader.fieldnames or [])]
            if missing:
                header = ",".join(reader.fieldnames or [])
                raise BadInputError(f"{path}: header {header!r} lacks {', '.join(missing)}")
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise BadInputError(f"{where}: expected {len(reader.fieldnames)} columns, as in the header")
                yield where, row
    except FileNotFoundError:
        raise BadInputError(f"{path}: there is no such list") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: {error}; expected a CSV file in UTF-8") from None


READERS: dict[str, Callable[..., list[Listed]]] = {
    "folder": read_folder,
    "csv": read_csv,
    "kinetics_csv": read_kinetics_csv,
}


def assign_splits(listed: list[Listed], *, val_fraction: float, seed: int) -> list[Listed]:
    """Give every entry a split: its own, or else "val" for about `val_fraction` of them and "train" for the rest.

    Without groups the fraction is taken of each class (at least one video of it, at most all but one); groups go to
    one side whole. The result depends on the ids and the seed only, not on the order of the list.
    """
    without = [entry for entry in listed if entry.split is None]
    if not without:
        return listed
    if len(without) < len(listed):
        raise BadInputError(f"{without[0].where}: no split, but other entries have one; give all or none")
    grouped = any(entry.group for entry in listed)
    chosen = (_choose_groups if grouped else _choose_videos)(listed, val_fraction, random.Random(seed))
    return [
        Listed(entry.ids, entry.label, "val" if entry.ids[0] in chosen else "train", entry.group, entry.where)
        for entry in listed
    ]


def _choose_videos(listed: list[Listed], fraction: float, shuffler: random.Random) -> set[str]:
    chosen: set[str] = set()
    for label in sorted({entry.label or "" for entry in listed}):
        ids = sorted(entry.ids[0] for entry in listed if (entry.label or "") == label)
        shuffler.shuffle(ids)
        count = min(max(round(len(ids) * fraction), 1), len(ids) - 1) if fraction > 0 else 0
        chosen.update(ids[:count])
    return chosen


def _choose_groups(listed: list[Listed], fraction: float, shuffler: random.Random) -> set[str]:
    groups = sorted({entry.group for entry in listed})
    shuffler.shuffle(groups)
    chosen: set[str] = set()
    for group in groups[1:]:  # one group at least is left to train on
        if len(chosen) >= fraction * len(listed):
            break
        chosen.update(entry.ids[0] for entry in listed if entry.group == group)
    return chosen


def build_annotations(listed: list[Listed], root: str | Path) -> Annotations:
    """Join a list (whose entries all have a split) with what is extracted below a data root.

    Classes are in alphabetical order. Videos that were not extracted stay, with 0 frames. Raises BadInputError for
    an id listed twice, naming both places.
    """
    stores = [FrameFolders(root, folder.name.removesuffix("-images")) for folder in _image_folders(root)]
    if not stores:
        raise BadInputError(f"{root} has no images (rgb-images/, farneback-images/, ...): run prep/extract.py first")
    extracted = {video_id: store for store in reversed(stores) for video_id in store.video_ids()}
    seen: dict[str, str] = {}
    videos = []
    for entry in listed:
        video_id = next((video_id for video_id in entry.ids if video_id in extracted), entry.ids[0])
        if video_id in seen:
            raise BadInputError(f"{entry.where}: video {video_id!r} is listed already, in {seen[video_id]}")
        seen[video_id] = entry.where
        if entry.label is None and entry.split != "test":
            raise BadInputError(f"{entry.where}: video {video_id!r} has no label, expected one in split {entry.split}")
        store = extracted.get(video_id)
        record = (store.record(video_id) if store else None) or {}
        videos.append(
            Video(
                check_video_id(video_id),
                entry.split,
                entry.label,
                store.count(video_id) if store else 0,
                record.get("fps", 0.0),
                record.get("settings", {}).get("frame_step", 1),
            )
        )
    classes = tuple(sorted({video.label for video in videos if video.label is not None}))
    return _checked(Path(root, FILE_NAME), classes, videos)


def _image_folders(root: str | Path) -> list[Path]:
    """Image folders below a data root; RGB first, whose count of frames decides."""
    folders = [path for path in Path(root).glob("*-images") if path.is_dir()]
    return sorted(folders, key=lambda path: (path.name != "rgb-images", path.name))
