"""The lists that data sets come with: read, given splits, and written.

A reader yields `Listed` entries one by one, so that a list of a million is never held as objects; it stops at the first
line that it cannot read. Faults of labels and ids, which need the whole list, are found in join.py.
"""

import csv
import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from twostream.annotations.class_names import normalised_name, suggest_class
from twostream.annotations.videos import SPLIT_NAMES, SPLITS
from twostream.errors import BadInputError
from twostream.files import read_json
from twostream.video.ids import check_video_id, find_videos, video_id_of


class Listed(NamedTuple):
    """One entry of a data set's own list."""

    ids: tuple[str, ...]
    """ids under which the video may have been extracted: its own, and the one of the whole video it is a part of"""
    label: str | None
    split: str | None
    """None: to be decided by `assign_splits`"""
    path: str
    line: int = 0
    """from 1; 0 where the place is not a line, as in JSON"""
    group: str = ""
    """videos of one group stay in one split; "" for none"""
    segment: tuple[float, float] | None = None
    """start and end in seconds; None: the whole file"""

    @property
    def where(self) -> str:
        """File and line, for messages."""
        return place_of(self.path, self.line)


def segment_id(source: str, start_seconds: float, end_seconds: float) -> str:
    """Id of a part of a video: `<source>_000012_000022`, as Kinetics crawlers name their files.

    Where start or end is no whole second, both have milliseconds: `<source>_000012.345_000022.000`.
    """
    if start_seconds.is_integer() and end_seconds.is_integer():
        return f"{source}_{start_seconds:06.0f}_{end_seconds:06.0f}"
    return f"{source}_{start_seconds:010.3f}_{end_seconds:010.3f}"


def read_folder(folder: Path, *, id_from: str = "stem", **_unused) -> Iterator[Listed]:
    """Class folders with videos in them, with or without train/val/test folders above."""
    if not folder.is_dir():
        raise BadInputError(f"{folder} is no folder, expected one with a folder of videos for each class")
    try:
        videos, _ = find_videos(folder, id_from=id_from)
    except ValueError as error:
        raise BadInputError(f"{error}: rename one, or add --ids=path (here and to extract.py)") from None
    tops = {path.relative_to(folder).parts[0] for path in videos.values()}
    has_splits = bool(tops) and all(top.lower() in SPLIT_NAMES for top in tops)
    for video_id, path in videos.items():
        parts = path.relative_to(folder).parts
        split = SPLIT_NAMES[parts[0].lower()] if has_splits else None
        if len(parts) < 2 + has_splits:
            raise BadInputError(f"{path} is in no class folder, expected {folder}/<class>/<video>")
        yield Listed((_sound_id(video_id, str(path)),), parts[has_splits], split, str(path))


def read_csv(path: Path, *, id_from: str = "stem", group_by: str = "", **_unused) -> Iterator[Listed]:
    """Columns video, label, and optionally split and group (or the column named by `group_by`)."""
    columns = ("video", "label", "split", group_by or "group")
    required = ("video", "label", *([group_by] if group_by else []))
    for line, (video, label, split, group) in _csv_rows(path, columns, required=required):
        video_id = _sound_id(video_id_of(Path(video), id_from=id_from), path, line)
        yield Listed((video_id,), label or None, _split(split, path, line) if split else None, str(path), line, group)


def read_kinetics_csv(path: Path, **_unused) -> Iterator[Listed]:
    """label,youtube_id,time_start,time_end,split[,is_cc] of Kinetics-400, 600 and 700; test lists have no label."""
    name = str(path)
    columns = ("youtube_id", "time_start", "time_end", "split", "label")
    for line, (source, start, end, split, label) in _csv_rows(path, columns, required=columns[:-1]):
        segment = _segment(start, end, path, line)
        if segment[0] == segment[1]:
            raise BadInputError(f"{place_of(path, line)}: time {start!r} to {end!r}, expected a later end")
        ids = segment_id(_sound_id(source, path, line), *segment), source
        yield Listed(ids, label or None, _split(split, path, line), name, line, "", segment)


def read_ucf101(folder: Path, *, id_from: str = "stem", split_number: int = 1, **_unused) -> Iterator[Listed]:
    """Folder with classInd.txt, trainlist0N.txt and testlist0N.txt; the label is the folder in each path.

    The test lists become "val": the field trains on the one, and validates and reports on the other.
    """
    classes = read_classes(folder / "classInd.txt")
    for name, split in (("trainlist", "train"), ("testlist", "val")):
        path = folder / f"{name}{split_number:02d}.txt"
        for line, text in _text_lines(path):
            video, number = re.fullmatch(r"(.+?)(?:\s+(\d{1,9}))?", text).groups()
            label = Path(video).parent.name
            if label not in classes:
                raise BadInputError(
                    f"{place_of(path, line)}: class {label!r} is not in classInd.txt{suggest_class(label, classes)}"
                )
            if number and int(number) != classes.index(label) + 1:
                raise BadInputError(
                    f"{place_of(path, line)}: class number {number}, expected {classes.index(label) + 1}, "
                    f"which is {label!r} in classInd.txt"
                )
            yield Listed(
                (_sound_id(video_id_of(Path(video), id_from=id_from), path, line),), label, split, str(path), line
            )


def read_hmdb51(folder: Path, *, id_from: str = "stem", split_number: int = 1, **_unused) -> Iterator[Listed]:
    """Folder with <class>_test_splitN.txt of `file 0|1|2`: 0 is not used, 1 is "train", 2 (the test set) is "val"."""
    suffix = f"_test_split{split_number}.txt"
    paths = sorted(folder.glob(f"*{suffix}"))
    if not paths:
        raise BadInputError(f"{folder} has no *{suffix}, expected the folder with the split files of HMDB51")
    for path in paths:
        label = path.name.removesuffix(suffix)
        for line, text in _text_lines(path):
            video, *mark = text.rsplit(None, 1)
            if mark not in (["0"], ["1"], ["2"]):
                raise BadInputError(f"{place_of(path, line)}: {text!r}, expected a file name and 0, 1 or 2")
            if mark != ["0"]:
                video_id = _sound_id(video_id_of(Path(label, video), id_from=id_from), path, line)
                yield Listed((video_id,), label, "train" if mark == ["1"] else "val", str(path), line)


def read_mmaction2_frames(
    path: Path, *, id_from: str = "stem", classes: tuple[str, ...] = (), **_unused
) -> Iterator[Listed]:
    """Raw-frame lists of MMAction2 and TSN: `dir total_frames label`, or `dir start total_frames label`.

    With a start, the entry's own id is `<dir>_<start>_<end>` in frames, of six digits each.
    """
    for line, text in _text_lines(path):
        folder, *numbers = text.rsplit(None, 2)
        if len(numbers) < 2 or not re.fullmatch(r"\d{1,9}", numbers[0]):
            raise BadInputError(
                f"{place_of(path, line)}: {text!r}, expected a folder, its number of frames and a label"
            )
        folder, *start = folder.rsplit(None, 1) if re.search(r"\s\d{1,9}$", folder) else [folder]
        source = "__".join(Path(folder).parts) if id_from == "path" else Path(folder).name
        _sound_id(source, path, line)
        ids = (source,)
        if start:
            ids = (f"{source}_{int(start[0]):06d}_{int(start[0]) + int(numbers[0]):06d}", source)
        yield Listed(ids, _numbered_label(numbers[1], classes, path, line), None, str(path), line)


def read_mmaction2_videos(
    path: Path, *, id_from: str = "stem", classes: tuple[str, ...] = (), **_unused
) -> Iterator[Listed]:
    """Video lists of MMAction2 and SlowFast: `path label`."""
    for line, text in _text_lines(path):
        video, *label = text.rsplit(None, 1)
        if not label:
            raise BadInputError(f"{place_of(path, line)}: {text!r}, expected a video and a label")
        video_id = _sound_id(video_id_of(Path(video), id_from=id_from), path, line)
        yield Listed((video_id,), _numbered_label(label[0], classes, path, line), None, str(path), line)


def read_activitynet(path: Path, **_unused) -> Iterator[Listed]:
    """JSON of ActivityNet, and of the Kinetics releases, which lack its "database" around the videos.

    One entry for each label and segment. ActivityNet 1.3 has a few segments of no length; they are listed like others.
    """
    content = _json(path)
    for video_id, video in _entries(path, content.get("database", content)):
        _sound_id(video_id, path)
        with _structure(f"{path}, video {video_id!r}") as place:
            split = _split(video["subset"], place)
            annotations = video.get("annotations") or []
            # The same label may stand there twice for one segment.
            labelled = dict.fromkeys(
                (_label(entry.get("label")), _segment(start, end, place))
                for entry in ([annotations] if isinstance(annotations, dict) else annotations)
                for start, end in [entry["segment"]]
            )
        for label, segment in labelled:
            yield Listed((segment_id(video_id, *segment), video_id), label, split, str(path), segment=segment)
        if not labelled:
            yield Listed((video_id,), None, split, str(path))


def read_2d_kinectics(path: Path, **_unused) -> Iterator[Listed]:
    """JSON of 2D-kinectics (hfiles/finalannots.json), to index its tree again."""
    content = _json(path)
    classes = content.get("classes")
    if not isinstance(classes, dict):
        raise BadInputError(f'{path}: no "classes", expected annotations of 2D-kinectics')
    for video_id, video in _entries(path, content.get("database")):
        _sound_id(video_id, path)
        with _structure(f"{path}, video {video_id!r}") as place:
            split, label = _split(video["subset"], place), _label(video.get("label"))
            if label not in classes and split != "test":
                raise BadInputError(f'{place}: label {label!r} is not among the "classes" of the file')
        yield Listed((video_id,), label if label in classes else None, split, str(path))


READERS: dict[str, Callable[..., Iterator[Listed]]] = {
    "folder": read_folder,
    "csv": read_csv,
    "kinetics_csv": read_kinetics_csv,
    "ucf101": read_ucf101,
    "hmdb51": read_hmdb51,
    "mmaction2_frames": read_mmaction2_frames,
    "mmaction2_videos": read_mmaction2_videos,
    "activitynet": read_activitynet,
    "2d-kinectics": read_2d_kinectics,
}


def read_lists(
    kind: str,
    files: Iterable[tuple[str | None, Path]],
    *,
    id_from: str = "stem",
    group_by: str = "",
    split_number: int = 1,
    classes: tuple[str, ...] = (),
) -> Iterator[Listed]:
    """Entries of several files of one kind of `READERS`, each with the split that its entries are in, if one is given.

    `classes` name the numbers that stand for labels in MMAction2's lists. Raises BadInputError with file and line.
    """
    for split, path in files:
        entries = READERS[kind](path, id_from=id_from, group_by=group_by, split_number=split_number, classes=classes)
        for entry in entries:
            if split and entry.split not in (None, split):
                raise BadInputError(f"{entry.where}: split {entry.split}, but the list was given as {split}={path}")
            yield entry._replace(split=split) if split else entry


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names, one a line in the order of their numbers; or `number name`, as UCF101 has it."""
    return parse_classes(list(_lines(path)), path)


def parse_classes(lines: Iterable[str], path: Path) -> tuple[str, ...]:
    names = "\n".join(line.strip() for line in lines).rstrip("\n").split("\n")
    numbered = [re.fullmatch(r"(\d{1,9})\s+(.+)", name) for name in names]
    if all(numbered):
        first = min(int(numbered[0][1]), 1)
        if [int(match[1]) for match in numbered] == list(range(first, first + len(names))):
            names = [match[2] for match in numbered]
    lines_of: dict[str, int] = {}
    for line, name in enumerate(names, start=1):
        if not name:
            raise BadInputError(f"{place_of(path, line)}: empty, expected the name of a class")
        if (other := lines_of.setdefault(normalised_name(name), line)) != line:
            raise BadInputError(f"{place_of(path, line)}: class {name!a} is {names[other - 1]!a} of line {other} again")
    return tuple(names)


def place_of(path: str | Path, line: int = 0) -> str:
    return f"{path}, line {line}" if line else str(path)


def _lines(path: Path) -> Iterator[str]:
    """Lines of a text in UTF-8, with their ends, whatever those are; without a byte order mark."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            for line, text in enumerate(file, start=1):
                if "\0" in text:
                    raise BadInputError(f"{place_of(path, line)}: zero bytes, as in UTF-16; save it as text in UTF-8")
                yield text
    except FileNotFoundError:
        raise BadInputError(f"{path}: there is no such list") from None
    except (IsADirectoryError, NotADirectoryError):
        raise BadInputError(f"{path}: expected a file") from None
    except UnicodeDecodeError as error:
        place = place_of(path, _undecodable_line(path))
        raise BadInputError(f"{place}: {error.reason}, expected text in UTF-8; save it as that") from None


def _undecodable_line(path: Path) -> int:
    """The decoder works in blocks, so that its error does not tell the line."""
    with open(path, "rb") as file:
        return next((line for line, data in enumerate(file, start=1) if "\ufffd" in data.decode(errors="replace")), 0)


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers and lines that are not blank."""
    for line, text in enumerate(_lines(path), start=1):
        if text := text.strip():
            yield line, text


def _csv_rows(
    path: Path, columns: tuple[str, ...], *, required: tuple[str, ...]
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line numbers, and the values of these columns ("" where there is none), of a CSV file with a header."""
    reader = csv.reader(_lines(path), strict=True)
    try:
        header = next(reader, [])
        if missing := [name for name in required if name not in header]:
            raise BadInputError(f"{place_of(path, 1)}: header {','.join(header)!r} lacks {', '.join(missing)}")
        values = itemgetter(*(header.index(name) if name in header else len(header) for name in columns))
        for row in filter(None, reader):  # without blank lines
            if len(row) != len(header):
                place = place_of(path, reader.line_num)
                raise BadInputError(f"{place}: {len(row)} columns, expected {len(header)} columns as in the header")
            row.append("")
            yield reader.line_num, values(row)
    except csv.Error as error:
        raise BadInputError(f"{place_of(path, reader.line_num)}: {error}; expected CSV with commas") from None


def _json(path: Path) -> dict:
    if not path.is_file():
        raise BadInputError(f"{path}: there is no such list")
    return read_json(path)


def _entries(path: Path, database: object) -> Iterable[tuple[str, dict]]:
    if not isinstance(database, dict):
        raise BadInputError(f"{path}: the videos are a {type(database).__name__}, expected a JSON object of them by id")
    return database.items()


@contextmanager
def _structure(place: str) -> Iterator[str]:
    """An entry of JSON that is built otherwise than its format says -> BadInputError naming the place."""
    try:
        yield place
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BadInputError(f"{place}: {type(error).__name__} {error}; expected another form") from None


def _label(name: object) -> str | None:
    """Of a JSON file; none where it is empty."""
    if not isinstance(name, str | None):
        raise TypeError(f"label {name!r}")
    return name or None


# Nearly all ids; nothing below could say a word against them.
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,100}")
# An error value, a formula, or a number instead of an id: an id that begins with "-" is a formula to a spreadsheet.
_DAMAGED = re.compile(r"#(NAME\?|REF!|VALUE!|DIV/0!|N/A|NUM!|NULL!)|=.*|\d(\.\d+)?E\+\d+", re.DOTALL)


def _sound_id(video_id: str, path: str | Path, line: int = 0) -> str:
    """The id itself; BadInputError with the place where it can name no folder, or a spreadsheet has damaged it."""
    if _PLAIN.fullmatch(video_id):
        return video_id
    if _DAMAGED.fullmatch(video_id):
        place = place_of(path, line)
        raise BadInputError(f"{place}: video id {video_id!r}, damaged by a spreadsheet program; take the original list")
    try:
        return check_video_id(video_id)
    except BadInputError as error:
        raise BadInputError(f"{place_of(path, line)}: {error}") from None


def _split(text: str, path: str | Path, line: int = 0) -> str:
    split = SPLIT_NAMES.get(text.lower())
    if split is None:
        raise BadInputError(f"{place_of(path, line)}: split {text!r}, expected {', '.join(SPLITS)}")
    return split


def _segment(start: str | float, end: str | float, path: str | Path, line: int = 0) -> tuple[float, float]:
    """Seconds; the end may be the start."""
    try:
        segment = float(start), float(end)
    except (ValueError, OverflowError):
        segment = math.nan, math.nan
    if 0 <= segment[0] <= segment[1] < math.inf:
        return segment
    raise BadInputError(f"{place_of(path, line)}: time {start!r} to {end!r}, expected seconds from 0, in order of time")


def _numbered_label(text: str, classes: tuple[str, ...], path: Path, line: int) -> str:
    """Name of a class number; the number itself as text without class list, and a name as it is."""
    if not re.fullmatch(r"-?\d{1,9}", text):
        return text
    number = int(text)
    if number < 0 or classes and number >= len(classes):
        expected = f"0 to {len(classes) - 1}, the places in the class list" if classes else "0 or more"
        raise BadInputError(f"{place_of(path, line)}: class number {number}, expected {expected}")
    return classes[number] if classes else str(number)
