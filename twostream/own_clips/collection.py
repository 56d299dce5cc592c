"""The clips that a user has: a folder of videos or a list, and the file, label, split and group of each."""

import csv
import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from twostream.annotations.class_names import NEAR_DUPLICATE, normalised_name
from twostream.annotations.lists import Listed, is_read_as, read_lists, seconds_cell
from twostream.counts import counted
from twostream.errors import BadInputError
from twostream.files import check_regular, write_cell, write_text
from twostream.video.ids import find_videos

GROUP_COLUMNS = ("group", "person", "subject", "actor", "player", "source", "sequence", "scene", "session")
"""columns of a CSV that say which clips belong together; the first that is there"""
SHOWN = 3
"""names in a sentence"""


@dataclass(frozen=True)
class Clip:
    """A labelled video, or a labelled part of one."""

    id: str
    path: Path
    label: str
    split: str | None
    """one of SPLITS; None where the list has none"""
    group: str
    """clips of one group must not be both trained and tested on; "": unknown"""
    segment: tuple[float, float] | None = None
    """start and end in seconds; None: the whole file"""


@dataclass(frozen=True)
class Collection:
    """The labelled clips of one folder."""

    folder: Path
    """that the files lie below"""
    id_from: str
    """how ids are made of file names, see `find_videos`"""
    clips: list[Clip]
    group_column: str
    """of the list; "" where it has none"""
    notes: tuple[str, ...]
    """a sentence for each thing that was left out"""

    @property
    def classes(self) -> list[str]:
        """Names of the classes, sorted."""
        return sorted({clip.label for clip in self.clips})


def find_clips(source: Path, *, videos: Path | None = None, list_format: str = "csv") -> Collection:
    """The labelled clips of a folder of class folders, of a folder with a CSV in it, or of a list.

    The files of a list lie below `videos` (None: the folder videos/ beside the list, or the list's own folder). Raises
    BadInputError where there is nothing to learn from: no videos, no labels, or a single class.
    """
    given = source
    if source.is_dir() and list_format == "csv" and (found := _list_in(source)):
        source = found
    if not source.exists():
        raise BadInputError(f"{source} does not exist, expected a folder of videos or a list of them, such as a CSV")
    is_folder = source.is_dir() and list_format == "csv"
    folder = source if is_folder else videos or _videos_beside(source)
    column = "" if is_folder or list_format != "csv" else _group_column(source)
    files, entries, id_from = _read(source, folder, kind="folder" if is_folder else list_format, group_by=column)
    clips, notes = _clips_of(entries, files, source, folder, id_from=id_from)
    _check_repeated(clips)
    _check_classes(sorted({clip.label for clip, _ in clips}), given, folder, notes)
    return Collection(folder.absolute(), id_from, [clip for clip, _ in clips], column, tuple(notes))


def _clips_of(
    entries: Sequence[Listed], files: dict[str, Path], source: Path, folder: Path, *, id_from: str
) -> tuple[list[tuple[Clip, Listed]], list[str]]:
    """The clips that can be used, each with its entry; and a sentence for each kind of those that cannot."""
    clips: list[tuple[Clip, Listed]] = []
    missing, unlabelled = [], 0
    unwritable: dict[Path, str] = {}
    for listed in entries:
        file_id = next((video_id for video_id in listed.ids if video_id in files), None)
        if file_id is None:
            missing.append(listed.ids[-1])
        elif listed.label is None:
            unlabelled += 1
        elif not is_read_as(_cell(files[file_id], folder), file_id, id_from=id_from):
            unwritable[files[file_id]] = str(files[file_id].relative_to(folder))
        else:
            is_part = listed.segment is not None and file_id != listed.ids[0]
            clip_id, segment = (listed.ids[0], listed.segment) if is_part else (file_id, None)
            clip = Clip(clip_id, files[file_id], listed.label, listed.split, listed.group, segment)
            clips.append((clip, listed))
    notes = []
    if missing:
        notes.append(f"{counted(len(missing), 'listed video')} not found below {folder}: {shown(missing)}")
    if unlabelled:
        notes.append(f"{counted(unlabelled, 'video')} without a label")
    if unwritable:
        names = shown(list(unwritable.values()))
        notes.append(f"left out: {counted(len(unwritable), 'video')} whose names no CSV can hold: {names}; rename them")
    used = {clip.path for clip, _ in clips} | unwritable.keys()
    if unlisted := len(set(files.values()) - used) - unlabelled:
        notes.append(f"{counted(unlisted, 'video')} below {folder} not in {source}")
    return clips, notes


def _list_in(folder: Path) -> Path | None:
    """The CSV of videos and labels in a folder, if there is exactly one."""
    lists = [path for path in sorted(folder.glob("*.csv")) if {"video", "label"} <= set(_columns(path))]
    return lists[0] if len(lists) == 1 else None


def _columns(path: Path) -> list[str]:
    try:
        check_regular(path)
        with open(path, encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file), [])
    except (OSError, BadInputError, UnicodeDecodeError, csv.Error):  # reading the list will name the fault
        return []


def _group_column(path: Path) -> str:
    columns = _columns(path)
    return next((name for name in GROUP_COLUMNS if name in columns), "")


def _videos_beside(source: Path) -> Path:
    folder = source if source.is_dir() else source.parent
    return folder / "videos" if (folder / "videos").is_dir() else folder


def _read(source: Path, folder: Path, *, kind: str, group_by: str) -> tuple[dict[str, Path], list[Listed], str]:
    """Video files by id, the entries of the list, and how the ids are made: so that the most entries have a file."""
    readings = []
    for id_from in ("path",) if kind == "folder" else ("path", "stem"):
        try:
            files, num_others = find_videos(folder, id_from=id_from)
        except BadInputError:  # two files have the same stem
            if id_from == "path":
                raise
            continue
        if not files:
            raise BadInputError(
                f"{folder} holds no video files ({counted(num_others, 'other file')}), expected {folder}/<class>/<video>, or a "
                "CSV with columns video and label"
            )
        if kind == "folder" and (loose := [path for path in files.values() if path.parent == folder]):
            raise BadInputError(
                f"{folder} has {counted(len(loose), 'video')} in no class folder, such as {loose[0].name}; expected {folder}/<class>/<video>, "
                f"or a CSV of labels, which {shlex.join(['twostream', 'label', str(folder)])} writes"
            )
        entries = list(read_lists(kind, [(None, source)], id_from=id_from, group_by=group_by))
        num_found = sum(any(video_id in files for video_id in listed.ids) for listed in entries)
        readings.append((num_found, files, entries, id_from))
    num_found, files, entries, id_from = max(readings, key=lambda reading: reading[0])
    if not num_found:
        raise BadInputError(
            f"none of the {counted(len(entries), 'video')} listed in {source} is below {folder}; say where they are: "
            f"{shlex.join(['twostream', 'start', str(source)])} --videos=VIDEOS"
        )
    return files, entries, id_from


def _check_repeated(clips: list[tuple[Clip, Listed]]) -> None:
    first: dict[str, tuple[Clip, Listed]] = {}
    for clip, listed in clips:
        other, entry = first.setdefault(clip.id, (clip, listed))
        if other.label != clip.label:
            raise BadInputError(
                f"{listed.where}: {clip.id} has the labels {other.label!r} and {clip.label!r}, expected one label a video; for several, run the "
                "programs one by one, with --multi_label of twostream annotate"
            )
        if other is not clip:
            raise BadInputError(
                f"{listed.where}: video {clip.id!r} is already listed in {entry.where}; remove one of the two"
            )


def _check_classes(classes: list[str], source: Path, folder: Path, notes: list[str]) -> None:
    spelling: dict[str, str] = {}
    for name in classes:
        if (other := spelling.setdefault(normalised_name(name), name)) != name:
            raise BadInputError(
                f"{source}: the classes {other!r} and {name!r} {NEAR_DUPLICATE}; spell both the same way"
            )
    if len(classes) < 2:
        found = f"one class, {classes[0]!r}" if classes else "no labelled videos"
        raise BadInputError(
            f"{source} has {found}, expected two classes or more: {folder}/<class>/<video>, or a CSV with columns video and "
            f"label, which {shlex.join(['twostream', 'label', str(folder)])} writes{''.join(f'; {note}' for note in notes)}"
        )


def shown(names: Sequence[str]) -> str:
    """The first names, for a sentence."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def write_list(path: Path, clips: Sequence[Clip], *, folder: Path) -> None:
    """Write the clips as a CSV that `twostream annotate --format=csv` reads, with the files relative to `folder`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    parts = any(clip.segment for clip in clips)
    writer.writerow(["video", "label", "split", "group", *(["start_seconds", "end_seconds"] if parts else [])])
    for clip in clips:
        ends = [seconds_cell(end) for end in clip.segment] if clip.segment else ["", ""]
        cells = [_cell(clip.path, folder), write_cell(clip.label), clip.split, write_cell(clip.group)]
        writer.writerow([*cells, *(ends if parts else [])])
    write_text(path, text.getvalue())


def _cell(path: Path, folder: Path) -> str:
    return write_cell(str(path.absolute().relative_to(folder.absolute())))
