"""Readers of the lists that data sets come with, the choice of a val split, and the join with what is extracted."""

import csv
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from twostream.annotations import FILE_NAME, SPLIT_NAMES, SPLITS, Annotations, Video, checked
from twostream.errors import BadInputError
from twostream.frame_store import check_video_id, open_store
from twostream.video import find_videos, video_id_of


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
    stores = [open_store(root, folder.name.removesuffix("-images")) for folder in _image_folders(root)]
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
        num_frames, fps, frame_step = store.facts(video_id) if store else (0, 0.0, 1)
        videos.append(Video(check_video_id(video_id), entry.split, entry.label, num_frames, fps, frame_step))
    classes = tuple(sorted({video.label for video in videos if video.label is not None}))
    return checked(Path(root, FILE_NAME), classes, videos)


def _image_folders(root: str | Path) -> list[Path]:
    """Image folders below a data root; RGB first, whose count of frames decides."""
    folders = [path for path in Path(root).glob("*-images") if path.is_dir()]
    return sorted(folders, key=lambda path: (path.name != "rgb-images", path.name))
