"""Readers for the lists that data sets come with.

A reader yields `Listed` entries one by one, so that a list of a million entries is never held as objects. It stops at
the first line that it cannot read. Wrong labels and ids can only be found in the whole list: join.py does that.
"""

import csv
import io
import math
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from twostream.annotations.class_names import (
    ClassOrder,
    class_difference,
    numbered_classes,
    parse_classes,
    read_classes,
    suggest_class,
)
from twostream.annotations.folders import ClassFolders
from twostream.annotations.lines import filled_lines, location, read_lines
from twostream.annotations.videos import SPLIT_NAMES, SPLITS
from twostream.counts import counted
from twostream.errors import BadInputError
from twostream.files import read_cell, read_json
from twostream.video.ids import VIDEO_SUFFIXES, check_video_id, find_videos, video_id_of

NO_CLASS = ""
"""label of a video of which the list says that none of the classes occurs in it; only in multi-label lists"""
PART_COLUMNS = ("start_seconds", "end_seconds")
"""of a CSV whose rows may be parts of videos"""
OTHER_TIMES = (
    "start", "end", "begin", "stop", "start_time", "end_time", "time_start", "time_end", "start_frame", "end_frame",
)  # fmt: skip
"""columns that may mean parts of a video, in a unit that nobody knows"""


class Listed(NamedTuple):
    """One entry of a data set's own list. A multi-label list has an entry for each label of a video."""

    ids: tuple[str, ...]
    """ids under which the video may have been extracted: its own and, for a part of a video, the id of the whole video"""
    label: str | None
    """class name; None where the list has none"""
    split: str | None
    """one of SPLITS; None: `assign_splits` decides"""
    path: str
    """the list"""
    line: int = 0
    """counted from 1; 0 where entries are not lines, as in JSON"""
    group: str = ""
    """videos of one group stay in one split; "": none"""
    segment: tuple[float, float] | None = None
    """start and end in seconds; None: the whole file"""

    @property
    def where(self) -> str:
        """File and line, for messages."""
        return location(self.path, self.line)


def read_class_order(kind: str, paths: Iterable[Path]) -> ClassOrder | None:
    """The order of the classes that lists of one kind bring; None where they bring none.

    UCF101 has it in classInd.txt, HMDB51 (as TSN distributes its lists) in class_list.txt, 2D-kinectics in its JSON.
    Raises BadInputError where several lists differ.
    """
    found: ClassOrder | None = None
    for path in paths:
        order = CLASS_ORDERS[kind](path) if kind in CLASS_ORDERS else None
        if order and found and order.names != found.names:
            raise BadInputError(
                f"{path}: {class_difference(order.names, found.names)} from the list before; give one order with --classes FILE"
            )
        found = found or order
    return found


def _order_of_file(name: str) -> Callable[[Path], ClassOrder | None]:
    def read(folder: Path) -> ClassOrder | None:
        path = folder / name
        return ClassOrder(read_classes(path), name) if path.is_file() else None

    return read


def _order_of_2d_kinectics(path: Path) -> ClassOrder:
    return ClassOrder(numbered_classes(_json(path).get("classes"), path), path.name)


def segment_id(source: str, start_seconds: float, end_seconds: float) -> str:
    """Id of a part of a video: `<source>_000012_000022`, as Kinetics crawlers name their files.

    If start or end is not a whole second, both are written with milliseconds: `<source>_000012.345_000022.000`.
    """
    if start_seconds.is_integer() and end_seconds.is_integer():
        return f"{source}_{start_seconds:06.0f}_{end_seconds:06.0f}"
    return f"{source}_{start_seconds:010.3f}_{end_seconds:010.3f}"


def read_folder(
    folder: Path, *, id_from: str = "stem", classes: tuple[str, ...] = (), **_unused: object
) -> Iterator[Listed]:
    """Class folders with videos in them, with or without folders of splits above; see folders.py."""
    if not folder.is_dir():
        raise BadInputError(f"{folder} is not a folder, expected one with a folder of videos for each class")
    videos, _ = find_videos(folder, id_from=id_from)
    above = {video_id: path.relative_to(folder).parts[:-1] for video_id, path in videos.items()}
    tree = ClassFolders(folder, above.values(), classes=classes)
    for video_id, path in videos.items():
        split, label = tree.split_and_label(above[video_id], path.name)
        if _DAMAGED.fullmatch(video_id):
            is_from_folder = id_from == "path" and above[video_id]
            culprit = f"folder {above[video_id][0]!r}" if is_from_folder else f"file {path.name!r}"
            raise BadInputError(
                f"{path}: the video id {video_id!r} would be a formula or a number in a spreadsheet; rename the {culprit}"
            )
        yield Listed((_checked_id(video_id, str(path)),), label, split, str(path))


def id_of_cell(video: str, path: Path, line: int, *, id_from: str) -> str:
    """The id of a video as a CSV names it, by its id or its path. Raises BadInputError with file and line."""
    # An id that begins like a formula is damaged, unless it is written as text, as twostream eval writes it.
    return read_cell(_checked_id(video_id_of(Path(video), id_from=id_from), path, line))


def is_read_as(cell: str, video_id: str, *, id_from: str) -> bool:
    """Does a CSV with this cell name this video? Not if the name is not UTF-8, or looks like 1E+5."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow([cell])
    text.seek(0)
    try:
        cell.encode()
        return list(csv.reader(text)) == [[cell]] and id_of_cell(cell, Path(cell), 0, id_from=id_from) == video_id
    except (UnicodeEncodeError, csv.Error, BadInputError):
        return False


def seconds_cell(seconds: float) -> str:
    """A time as a cell of a CSV: to the millisecond, as in the ids of parts, without zeros at the end."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


def read_csv(
    path: Path, *, id_from: str = "stem", group_by: str = "", multi_label: bool = False, **_unused: object
) -> Iterator[Listed]:
    """CSV with columns video, label, and optionally split and group (or the column that `group_by` names).

    A row with values in columns start_seconds and end_seconds is a part of the video, as in Kinetics' lists. With
    `multi_label`, a label cell may have several labels, separated by semicolons; a semicolon alone says that none of the
    classes occurs.
    """
    columns = ("video", "label", "split", group_by or "group", *PART_COLUMNS)
    required = ("video", "label", *([group_by] if group_by else []))
    with_other_times: set[str] = set()
    for line, (video, label, split, group, start, end, *times) in _csv_rows(
        path, (*columns, *OTHER_TIMES), required=required
    ):
        video_id = id_of_cell(video, path, line, id_from=id_from)
        segment = _part(start, end, path, line) if start or end else None
        if any(times) and not segment and not multi_label:
            if video_id in with_other_times:
                found = " and ".join(column for column, value in zip(OTHER_TIMES, times, strict=True) if value)
                raise BadInputError(
                    f"{location(path, line)}: {video_id!r} is listed twice; if the rows are parts of it, call {found} "
                    f"{' and '.join(PART_COLUMNS)}, and give them in seconds from the start of the video"
                )
            with_other_times.add(video_id)
        cell = read_cell(label)
        names: list[str | None] = [cell or None]
        if multi_label and cell:
            names = [part.strip() for part in cell.split(";") if part.strip()] or [NO_CLASS]
        for name in names:
            yield Listed(
                (segment_id(video_id, *segment), video_id) if segment else (video_id,),
                name,
                _split(split, path, line) if split else None,
                str(path),
                line,
                read_cell(group),
                segment,
            )


def read_kinetics_csv(path: Path, **_unused: object) -> Iterator[Listed]:
    """CSV of Kinetics-400, 600 and 700: label,youtube_id,time_start,time_end,split[,is_cc]; test lists have no label."""
    name = str(path)
    columns = ("youtube_id", "time_start", "time_end", "split", "label")
    for line, (source, start, end, split, label) in _csv_rows(path, columns, required=columns[:-1]):
        segment = _part(start, end, path, line)
        ids = segment_id(_checked_id(source, path, line), *segment), source
        yield Listed(ids, label or None, _split(split, path, line), name, line, "", segment)


def read_ucf101(
    folder: Path, *, id_from: str = "stem", split_number: int = 1, test_split: str = "val", **_unused: object
) -> Iterator[Listed]:
    """Folder with classInd.txt, trainlist0N.txt and testlist0N.txt; the label is the folder in each path.

    The clips of a group (`_g08_` in their names) were cut from one video. The test lists become `test_split`: it is
    usual to train on the train list, and to validate and report on the test list.
    """
    if folder.is_file():
        raise BadInputError(
            f"{folder} is a file, expected the folder of classInd.txt and trainlist{split_number:02d}.txt"
        )
    classes = read_classes(folder / "classInd.txt")
    for name, split in (("trainlist", "train"), ("testlist", test_split)):
        path = folder / f"{name}{split_number:02d}.txt"
        for line, text in filled_lines(path):
            video, numbers = _video_and_rest(text)
            if len(numbers) > 1 or not all(re.fullmatch(r"\d{1,9}", number) for number in numbers):
                raise BadInputError(f"{location(path, line)}: {text!r}, expected a video and perhaps one class number")
            label = Path(video).parent.name
            if label not in classes:
                raise BadInputError(
                    f"{location(path, line)}: class {label!r} is not in classInd.txt{suggest_class(label, classes)}"
                )
            if numbers and int(numbers[0]) != classes.index(label) + 1:
                raise BadInputError(
                    f"{location(path, line)}: class number {numbers[0]}, expected {classes.index(label) + 1}, "
                    f"which is {label!r} in classInd.txt"
                )
            video_id = _checked_id(video_id_of(Path(video), id_from=id_from), path, line)
            group = re.search(r"_g\d+(?=_c\d+$)", video_id)
            yield Listed((video_id,), label, split, str(path), line, f"{label}{group[0]}" if group else "")


def read_hmdb51(
    folder: Path, *, id_from: str = "stem", split_number: int = 1, test_split: str = "val", **_unused: object
) -> Iterator[Listed]:
    """Folder with <class>_test_splitN.txt, lines `file 0|1|2`: 0 is unused, 1 is "train", 2 (the test set) is `test_split`.

    The group of a clip is the video that it was cut from: what its name has before the class.
    """
    suffix = f"_test_split{split_number}.txt"
    paths = sorted(folder.glob(f"*{suffix}"))
    if not paths:
        raise BadInputError(f"{folder} has no *{suffix}, expected the folder of HMDB51's split files")
    for path in paths:
        label = path.name.removesuffix(suffix)
        for line, text in filled_lines(path):
            video, mark = _video_and_rest(text)
            if mark not in (["0"], ["1"], ["2"]):
                raise BadInputError(f"{location(path, line)}: {text!r}, expected a file name and 0, 1 or 2")
            if mark != ["0"]:
                video_id = _checked_id(video_id_of(Path(label, video), id_from=id_from), path, line)
                source = Path(video).name.rpartition(f"_{label}_")[0]
                yield Listed((video_id,), label, "train" if mark == ["1"] else test_split, str(path), line, source)


def read_mmaction2_frames(
    path: Path,
    *,
    id_from: str = "stem",
    classes: tuple[str, ...] = (),
    multi_label: bool = False,
    **_unused: object,
) -> Iterator[Listed]:
    """Raw-frame lists of MMAction2 and TSN: `dir total_frames label`, or in all lines `dir start total_frames label`.

    With a start, the entry's own id is `<dir>_<start>_<end>`, in frames with six digits each. With `multi_label`, lines
    are `dir total_frames label label ...`.
    """
    if multi_label:
        yield from _multi_label_frames(path, id_from=id_from, classes=classes)
        return
    num_fields = 0
    for line, text in filled_lines(path):
        folder, fields = _path_and_rest(text)
        if len(fields) not in (2, 3) or not re.fullmatch(r"\d{1,9}", fields[-2]) or not int(fields[-2]):
            raise BadInputError(
                f"{location(path, line)}: {text!r}, expected a folder, its number of frames and one label"
            )
        if len(fields) != (num_fields := num_fields or len(fields)):
            raise BadInputError(
                f"{location(path, line)}: {text!r} has {counted(len(fields), 'number')}, the lines before have {num_fields}; expected a "
                "folder, its number of frames and one label; if videos have several labels, use --multi_label of twostream annotate"
            )
        source = "__".join(Path(folder).parts) if id_from == "path" else Path(folder).name
        _checked_id(source, path, line)
        ids: tuple[str, ...] = (source,)
        if num_fields == 3:
            start, count = int(fields[0]), int(fields[1])
            ids = (f"{source}_{start:06d}_{start + count:06d}", source)
        yield Listed(ids, _numbered_label(fields[-1], classes, path, line), None, str(path), line)


def _multi_label_frames(path: Path, *, id_from: str, classes: tuple[str, ...]) -> Iterator[Listed]:
    """Lines of a folder, its number of frames, and one label or more."""
    for line, text in filled_lines(path):
        folder, fields = _path_and_rest(text)
        if len(fields) < 2 or not re.fullmatch(r"\d{1,9}", fields[0]) or not int(fields[0]):
            raise BadInputError(
                f"{location(path, line)}: {text!r}, expected a folder, its number of frames and one label or more"
            )
        video_id = _checked_id("__".join(Path(folder).parts) if id_from == "path" else Path(folder).name, path, line)
        for label in fields[1:]:
            yield Listed((video_id,), _numbered_label(label, classes, path, line), None, str(path), line)


def read_mmaction2_videos(
    path: Path,
    *,
    id_from: str = "stem",
    classes: tuple[str, ...] = (),
    multi_label: bool = False,
    **_unused: object,
) -> Iterator[Listed]:
    """Video lists of MMAction2 and SlowFast: `path label`, with blanks or a comma between them.

    With `multi_label`, there may be more labels in a line.
    """
    for line, text in filled_lines(path):
        video, labels = _video_and_rest(text)
        if not labels:
            raise BadInputError(f"{location(path, line)}: {text!r}: no label; expected a video and a label")
        if len(labels) > 1 and not multi_label:
            raise BadInputError(
                f"{location(path, line)}: {text!r}: {len(labels)} labels; expected a video and a label; if videos have several "
                "labels, use --multi_label of twostream annotate"
            )
        video_id = _checked_id(video_id_of(Path(video), id_from=id_from), path, line)
        for label in labels:
            yield Listed((video_id,), _numbered_label(label, classes, path, line), None, str(path), line)


CHARADES_CLASSES = "Charades_v1_classes.txt"
"""beside the lists of Charades: the names of its classes"""


def read_charades(path: Path, **_unused: object) -> Iterator[Listed]:
    """Charades_v1_train.csv, Charades_v1_test.csv: columns id, and actions such as `c092 11.9 21.2;c147 0.0 12.6`.

    An action is the number of its class, and when it happens, which is not used. The names of the classes are in
    CHARADES_CLASSES beside the list; without that file, the labels are c000, c001, ...
    """
    order = _order_of_charades(path)
    for line, (video, actions) in _csv_rows(path, ("id", "actions"), required=("id", "actions")):
        video_id = _checked_id(video, path, line)
        codes = [text.split()[0] for text in actions.split(";") if text.strip()]
        for code in dict.fromkeys(codes) or [NO_CLASS]:
            if code and not re.fullmatch(r"c\d{3}", code):
                raise BadInputError(f"{location(path, line)}: action {code!r}, expected c and three digits, as in c092")
            label = _numbered_label(code[1:], order.names, path, line) if code and order else code
            yield Listed((video_id,), label, None, str(path), line)


def _order_of_charades(path: Path) -> ClassOrder | None:
    """The classes of `c000 Holding some clothes`, `c001 ...`; None without the file."""
    classes = path.parent / CHARADES_CLASSES
    if not classes.is_file():
        return None
    names = [text.partition(" ")[2].strip() for _, text in filled_lines(classes)]
    return ClassOrder(parse_classes(names, classes), CHARADES_CLASSES)


_VIDEO = re.compile(rf"(.*(?:{'|'.join(map(re.escape, sorted(VIDEO_SUFFIXES)))}))(?=[\s,]|$)(.*)", re.IGNORECASE)


def _video_and_rest(text: str) -> tuple[str, list[str]]:
    """The path of the video in a line, and the words behind it.

    The path may have blanks and commas. It ends with the last suffix of a video, or else where `_path_and_rest` says.
    """
    if match := _VIDEO.fullmatch(text):
        return match[1], re.findall(r"[^\s,]+", match[2])
    return _path_and_rest(text, r"[^\s,]+")


def _path_and_rest(text: str, word: str = r"\S+") -> tuple[str, list[str]]:
    """The path in a line, and the words behind it: the last one, and the numbers before that one."""
    words = list(re.finditer(word, text))
    first = len(words) - 1
    while first > 1 and re.fullmatch(r"\d{1,9}", words[first - 1][0]):
        first -= 1
    return (text[: words[first - 1].end()], [match[0] for match in words[first:]]) if first > 0 else (text, [])


def read_activitynet(path: Path, **_unused: object) -> Iterator[Listed]:
    """JSON of ActivityNet, and of the Kinetics releases, which lack its "database" around the videos.

    One entry for each label and segment. ActivityNet 1.3 has a few segments of length 0, which are listed like the
    others.
    """
    content = _json(path)
    if "results" in content and "database" not in content:
        raise BadInputError(
            f'{path}: predictions (it has "results"), expected a list with labels; give predictions to twostream eval by --scores'
        )
    for video_id, video in _entries(path, content.get("database", content)):
        _checked_id(video_id, path)
        where = f"{path}, video {video_id!r}"
        with _structure(where, video, '{"subset": ..., "annotations": [{"label": ..., "segment": [start, end]}]}'):
            split = _split(video["subset"], where)
            annotations = video.get("annotations") or []
            # A label may be listed twice for the same segment.
            labelled = dict.fromkeys(
                (_label(entry.get("label")), _segment(start, end, where))
                for entry in ([annotations] if isinstance(annotations, dict) else annotations)
                for start, end in [entry["segment"]]
            )
        for label, segment in labelled:
            yield Listed((segment_id(video_id, *segment), video_id), label, split, str(path), segment=segment)
        if not labelled:
            yield Listed((video_id,), None, split, str(path))


def read_2d_kinectics(path: Path, **_unused: object) -> Iterator[Listed]:
    """JSON of 2D-kinectics (hfiles/finalannots.json), to make annotations.json for its tree."""
    content = _json(path)
    classes = content.get("classes")
    if not isinstance(classes, dict):
        raise BadInputError(f'{path}: no "classes", expected annotations of 2D-kinectics')
    for video_id, video in _entries(path, content.get("database")):
        _checked_id(video_id, path)
        where = f"{path}, video {video_id!r}"
        with _structure(where, video, '{"subset": ..., "label": ...}'):
            split, label = _split(video["subset"], where), _label(video.get("label"))
            if label not in classes and split != "test":
                raise BadInputError(f'{where}: label {label!r} is not among the "classes" of the file')
        yield Listed((video_id,), label if label in classes else None, split, str(path))


CLASS_ORDERS: dict[str, Callable[[Path], ClassOrder | None]] = {
    "ucf101": _order_of_file("classInd.txt"),
    "hmdb51": _order_of_file("class_list.txt"),
    "charades": _order_of_charades,
    "2d-kinectics": _order_of_2d_kinectics,
}
"""kinds of lists that bring an order of the classes"""

READERS: dict[str, Callable[..., Iterator[Listed]]] = {
    "folder": read_folder,
    "csv": read_csv,
    "kinetics_csv": read_kinetics_csv,
    "ucf101": read_ucf101,
    "hmdb51": read_hmdb51,
    "mmaction2_frames": read_mmaction2_frames,
    "mmaction2_videos": read_mmaction2_videos,
    "activitynet": read_activitynet,
    "charades": read_charades,
    "2d-kinectics": read_2d_kinectics,
}


def read_lists(
    kind: str,
    files: Iterable[tuple[str | None, Path]],
    *,
    id_from: str = "stem",
    group_by: str = "",
    split_number: int = 1,
    test_split: str = "val",
    classes: tuple[str, ...] = (),
    multi_label: bool = False,
) -> Iterator[Listed]:
    """Entries of several files of one kind, a key of `READERS`.

    `files`: the split that all entries of a file are in (None: the list itself says it, or has no splits), and the path.
    `id_from` as in `find_videos`; `group_by` names the CSV column of the groups; `split_number` is the split of UCF101
    and HMDB51, 1 to 3, and `test_split` what their test lists become; `classes` are the names of the class numbers in
    MMAction2's lists, and of class folders. `multi_label` reads several labels in a line or cell. Raises BadInputError with
    file and line.
    """
    for split, path in files:
        entries = READERS[kind](
            path, id_from=id_from, group_by=group_by, split_number=split_number, test_split=test_split, classes=classes,
            multi_label=multi_label,
        )  # fmt: skip
        for entry in entries:
            if split and entry.split not in (None, split):
                raise BadInputError(f"{entry.where}: split {entry.split}, but the list was given as {split}={path}")
            yield entry._replace(split=split) if split else entry


def _csv_rows(
    path: Path, columns: tuple[str, ...], *, required: tuple[str, ...]
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line numbers and the values of these columns ("" where the file lacks one) of a CSV file with a header."""
    reader = csv.reader(read_lines(path), strict=True)
    try:
        header = next(reader, [])
        if missing := [name for name in required if name not in header]:
            separator = "; found semicolons between the columns, expected commas" if ";" in "".join(header) else ""
            raise BadInputError(
                f"{location(path, 1)}: header {','.join(header)!r} lacks {', '.join(missing)}{separator}"
            )
        values = itemgetter(*(header.index(name) if name in header else len(header) for name in columns))
        for row in filter(None, reader):  # without blank lines
            if len(row) != len(header):
                where = location(path, reader.line_num)
                raise BadInputError(
                    f"{where}: {counted(len(row), 'column')}, expected {counted(len(header), 'column')} as in the header"
                )
            row.append("")
            yield reader.line_num, values(row)
    except csv.Error as error:
        raise BadInputError(f"{location(path, reader.line_num)}: {error}; expected comma-separated values") from None


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise BadInputError(f"{path}: no such list")
    return read_json(path)


def _entries(path: Path, database: Any) -> Iterable[tuple[str, Any]]:
    if not isinstance(database, dict):
        raise BadInputError(
            f"{path}: the videos are a {type(database).__name__}, expected a JSON object of videos by id"
        )
    return database.items()


@contextmanager
def _structure(where: str, found: Any, expected: str) -> Iterator[None]:
    """While an entry of a JSON file is read: an entry of another structure becomes a BadInputError that names it."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError):
        raise BadInputError(
            f"{where}: {reprlib.repr(found)}, expected {expected}; check --format and the file"
        ) from None


def _label(name: Any) -> str | None:
    """The label in a JSON file; None where it is empty."""
    if not isinstance(name, str | None):
        raise TypeError(f"label {name!r}")
    return name or None


# Nearly all ids: they pass all checks below.
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,100}")
# An error value, a formula or a number in place of an id: to a spreadsheet, an id that begins with "-" is a formula.
_DAMAGED = re.compile(r"#(NAME\?|REF!|VALUE!|DIV/0!|N/A|NUM!|NULL!)|=.*|\d(\.\d+)?E\+\d+", re.DOTALL)


def _checked_id(video_id: str, path: str | Path, line: int = 0) -> str:
    """The id itself; BadInputError with file and line where it cannot name a folder or a spreadsheet has damaged it."""
    if _PLAIN.fullmatch(video_id):
        return video_id
    if _DAMAGED.fullmatch(video_id):
        where = location(path, line)
        raise BadInputError(f"{where}: video id {video_id!r}, damaged by a spreadsheet program; use the original list")
    try:
        return check_video_id(video_id)
    except BadInputError as error:
        raise BadInputError(f"{location(path, line)}: {error}") from None


def _split(text: str, path: str | Path, line: int = 0) -> str:
    split = SPLIT_NAMES.get(text.lower())
    if split is None:
        raise BadInputError(f"{location(path, line)}: split {text!r}, expected {', '.join(SPLITS)}")
    return split


def _segment(start: str | float, end: str | float, path: str | Path, line: int = 0) -> tuple[float, float]:
    """Start and end in seconds; they may be equal."""
    try:
        segment = float(start), float(end)
    except (ValueError, OverflowError):
        segment = math.nan, math.nan
    if 0 <= segment[0] <= segment[1] < math.inf:
        return segment
    raise BadInputError(f"{location(path, line)}: time {start!r} to {end!r}, expected seconds, 0 <= start <= end")


def _part(start: str, end: str, path: Path, line: int) -> tuple[float, float]:
    """Start and end of a part in seconds, which is not empty."""
    segment = _segment(start, end, path, line)
    if segment[0] == segment[1]:
        raise BadInputError(f"{location(path, line)}: time {start!r} to {end!r}, expected a later end")
    return segment


def _numbered_label(text: str, classes: tuple[str, ...], path: Path, line: int) -> str:
    """The name of a class number; without a class list, the number as text; a name stays as it is."""
    if not re.fullmatch(r"-?\d{1,9}", text):
        return text
    number = int(text)
    if number < 0 or classes and number >= len(classes):
        expected = f"0 to {len(classes) - 1}, the indices in the class list" if classes else "0 or more"
        raise BadInputError(f"{location(path, line)}: class number {number}, expected {expected}")
    return classes[number] if classes else str(number)
