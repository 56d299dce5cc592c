"""The labels of a folder of videos: a CSV that `twostream annotate` reads, saved after each change; and the classes.

Other programs may change the file at the same time. Each change names the version of the labels that it was made from,
so it is refused if they are different by now.
"""

import csv
import fcntl
import hashlib
import io
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from twostream.annotations.class_names import (
    NEAR_DUPLICATE,
    normalised_name,
    parse_classes,
    read_classes,
    suggest_class,
)
from twostream.annotations.lines import location, read_lines
from twostream.annotations.lists import PART_COLUMNS, is_read_as, read_csv, seconds_cell
from twostream.errors import BadInputError, EnvironmentFaultError
from twostream.files import write_cell, write_text

COLUMNS = ("video", "label", *PART_COLUMNS, "group")
MAX_NAME = 200
"""characters of a class or a group"""
MAX_SECONDS = 1e6


class Entry(NamedTuple):
    """A class of a video, or of a part of it."""

    label: str
    segment: tuple[float, float] | None = None
    """start and end in seconds, to the millisecond; None: the whole video"""


class Labels(NamedTuple):
    """All that the table says of one video."""

    entries: tuple[Entry, ...]
    group: str
    """videos of one group stay in one split, such as those of one person; "": none"""
    version: str
    """other labels have another version"""


class StaleError(BadInputError):
    """Somebody else has changed the labels of this video."""


@dataclass(frozen=True)
class _Row:
    video_id: str
    entry: Entry | None
    """None: the row has no label"""
    group: str
    cells: Mapping[str, str] = field(default_factory=dict)
    """what the file has in its columns, also in those that we do not know"""


class LabelTable:
    """The CSV and the list of classes. Its methods may be called by several threads, and in several processes."""

    def __init__(
        self, path: Path, videos: Mapping[str, str], *, classes_path: Path, id_from: str = "stem", can_add: bool = True
    ):
        """`videos`: video id -> the cell that stands for it in the file; `id_from` as in `find_videos`.

        The classes are those of `classes_path`, if it exists, in their order, and then those of the CSV. Without
        `can_add`, the CSV may have no others. Raises BadInputError if a file is damaged.
        """
        self.path = Path(os.path.realpath(path))
        self.videos = videos
        self.id_from = id_from
        self.classes_path = classes_path
        self.can_add = can_add
        self.classes: list[str] = []
        self._lock = threading.Lock()
        self._set([], [], ())
        self._read_classes()
        self._read()

    def of(self, video_id: str) -> Labels:
        """The labels of a video."""
        rows = self._rows_of.get(video_id, [])
        entries = tuple(row.entry for row in rows if row.entry)
        group = rows[0].group if rows else ""
        text = json.dumps([entries, group])
        return Labels(entries, group, hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16])

    def refresh(self) -> None:
        """Read the file again, if another program has changed it."""
        with self._lock:
            self._read()

    def num_others(self) -> int:
        """Rows of videos that are not in the folder; they are kept."""
        return sum(row.video_id not in self.videos for row in self._rows)

    def replace(self, video_id: str, entries: Sequence[Entry], group: str, *, version: str) -> Labels:
        """Replace the labels of a video, and save the file; returns the new labels.

        Raises StaleError if the video has labels of another version, and BadInputError if these cannot be: a class that
        is not in the list, two classes at once, times that are none. EnvironmentFaultError: the file cannot be written.
        """
        with self._alone():
            self._read()
            if self.of(video_id).version != version:
                raise StaleError(
                    f"{self.videos[video_id]}: its labels were changed in another window; they are shown now, and this change "
                    "was not saved"
                )
            entries = [Entry(label, _rounded(segment)) for label, segment in entries]
            self._check(entries, group)
            old = self._rows_of.get(video_id, [])
            new = self._new_rows(video_id, old, entries, group)
            place = self._rows.index(old[0]) if old else len(self._rows)
            rows = [row for row in self._rows if row.video_id != video_id]
            self._save([*rows[:place], *new, *rows[place:]])
            return self.of(video_id)

    def add_class(self, name: str) -> None:
        """Add a class at the end of the list, which is saved; nothing happens if it is there.

        Raises BadInputError if classes are given, or this is no name for one.
        """
        with self._alone():
            self._read_classes()
            if name in self.classes:
                return
            if not self.can_add:
                raise BadInputError(f"class {name!a}, expected one of {self.classes_path}")
            twin = next((known for known in self.classes if normalised_name(known) == normalised_name(name)), None)
            if twin is not None:
                raise BadInputError(f"class {name!a} and the class {twin!a} {NEAR_DUPLICATE}")
            _check_name(name, "class")
            names = [*self.classes, name]
            if not any(map(str.isalnum, name)):
                raise BadInputError(f"class {name!a}, expected a name with letters or digits")
            write_text(self.classes_path, self._class_list(names))
            self.classes.append(name)

    def _class_list(self, names: list[str]) -> str:
        """A name per line; or JSON, where lines would be read as something else, as "class 1" as the first class."""
        try:
            is_plain = parse_classes(names, self.classes_path) == tuple(names)
        except BadInputError:
            is_plain = False
        return "\n".join(names) + "\n" if is_plain else json.dumps(names, ensure_ascii=False, indent=1) + "\n"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While this thread of this process changes the files. The lock of the kernel leaves no file behind."""
        with self._lock:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                folder = os.open(self.path.parent, os.O_RDONLY)
            except OSError as error:
                raise EnvironmentFaultError(f"cannot write {self.path}: {error.strerror or error}") from None
            try:
                with suppress(OSError):  # some file systems have no locks
                    fcntl.flock(folder, fcntl.LOCK_EX)
                yield
            finally:
                os.close(folder)

    def _read_classes(self) -> None:
        if self.classes_path.exists() or not self.can_add:
            self.classes += [name for name in read_classes(self.classes_path) if name not in self.classes]

    def _read(self) -> None:
        file = _signature(self.path)
        if file == self._file:
            return
        columns: list[str] = []
        rows: list[_Row] = []
        if file is not None:
            # What a row means is decided where annotate reads it; the cells are read for the columns that stay.
            listed = list(read_csv(self.path, id_from=self.id_from))
            header, *lines = filter(None, csv.reader(read_lines(self.path)))
            columns = header
            for entry, cells in zip(listed, lines, strict=True):
                label = Entry(entry.label, entry.segment) if entry.label else None
                rows.append(_Row(entry.ids[-1], label, entry.group, dict(zip(header, cells, strict=True))))
                if entry.label and entry.label not in self.classes:
                    if not self.can_add:
                        raise BadInputError(
                            f"{location(self.path, entry.line)}: class {entry.label!r} is not in {self.classes_path}"
                            f"{suggest_class(entry.label, self.classes)}"
                        )
                    self.classes.append(entry.label)
        self._set(columns or list(COLUMNS), rows, file)

    def _set(self, columns: list[str], rows: list[_Row], file: tuple[int, ...] | None) -> None:
        self._columns, self._rows, self._file = columns, rows, file
        self._rows_of: dict[str, list[_Row]] = {}
        for row in rows:
            self._rows_of.setdefault(row.video_id, []).append(row)

    def _check(self, entries: Sequence[Entry], group: str) -> None:
        if group:
            _check_name(group, "group")
        for label, segment in entries:
            if label not in self.classes:
                raise BadInputError(f"class {label!a} is not in the list{suggest_class(label, self.classes)}")
            if segment and not 0 <= segment[0] < segment[1] <= MAX_SECONDS:
                raise BadInputError(f"segment {segment[0]:g} to {segment[1]:g} s, expected an end after its start")
        segments = [segment for _, segment in entries]
        if None in segments and len(set(segments)) > 1:
            raise BadInputError(
                "a video has one class, or segments: remove its class (Delete) before you mark segments"
            )
        if len(set(segments)) < len(segments):
            raise BadInputError("there is one class already; select it and remove it (Delete) first")

    def _new_rows(self, video_id: str, old: Sequence[_Row], entries: Sequence[Entry], group: str) -> list[_Row]:
        """Rows of the entries; what other columns say of a segment stays, and a new segment has it from the first row."""
        first = old[0].cells if old else {"video": self.videos[video_id]}
        by_segment = {row.entry.segment: row.cells for row in old if row.entry}
        rows = []
        for entry in entries:
            start, end = map(seconds_cell, entry.segment) if entry.segment else ("", "")
            known = (write_cell(entry.label), start, end, write_cell(group))
            cells = dict(by_segment.get(entry.segment, first)) | dict(zip(COLUMNS[1:], known, strict=True))
            rows.append(_Row(video_id, entry, group, cells))
        if not rows and any(text for column, text in first.items() if column not in COLUMNS):
            rows.append(_Row(video_id, None, group, dict(first) | dict.fromkeys(COLUMNS[1:4], "")))
        return rows

    def _save(self, rows: list[_Row]) -> None:
        columns = list(self._columns)
        columns += [name for name in COLUMNS if name not in columns and any(row.cells.get(name) for row in rows)]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([[row.cells.get(column, "") for column in columns] for row in rows])
        write_text(self.path, text.getvalue())
        self._set(columns, rows, _signature(self.path))


def cell_of(video_id: str, path: Path, *, id_from: str) -> str:
    """The cell that names a video in the CSV. `path` is below the folder of videos.

    Raises BadInputError if no cell is read as this id, such as for names that are not UTF-8 or look like 1E+5.
    """
    cell = write_cell(path.name if id_from == "stem" else str(path))
    if is_read_as(cell, video_id, id_from=id_from):
        return cell
    raise BadInputError(f"{path}: a CSV cannot hold this name; rename the file to label it")


def _signature(path: Path) -> tuple[int, ...] | None:
    """Changes whenever the file does; None: there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _check_name(name: str, noun: str) -> None:
    if len(name) > MAX_NAME or name != name.strip() or not name.isprintable():
        raise BadInputError(f"{noun} {name[:MAX_NAME]!a}, expected one line of at most {MAX_NAME} characters")


def _rounded(segment: tuple[float, float] | None) -> tuple[float, float] | None:
    return (round(float(segment[0]), 3), round(float(segment[1]), 3)) if segment else None
