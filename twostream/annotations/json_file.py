"""annotations.json and the annotation file of 2D-kinectics, read and written."""

import codecs
import json
import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from twostream.annotations.lines import location
from twostream.annotations.videos import NO_GROUP, SPLIT_NAMES, Annotations, Label, Video, collect, make_annotations
from twostream.errors import BadInputError
from twostream.files import DECODER, read_json, write_file
from twostream.video.ids import check_video_id

FILE_NAME = "annotations.json"
"""in the data root"""

JSON_SPACE = b" \t\r\n"
FIRST_LINE = b'{"version": 1,'
VIDEOS_LINE = b'"videos": {'


def write_annotations(path: str | Path, annotations: Annotations) -> None:
    """Write annotations.json, one video per line, so that people can read and compare it too.

    Raises EnvironmentFaultError where the file cannot be written; then the old one is kept.
    """
    write_file(path, lambda file: file.writelines(text.encode() for text in _texts(annotations)))


def _texts(annotations: Annotations) -> Iterator[str]:
    """The text of the file in pieces, all ASCII; `_read_lines` relies on this layout."""
    yield f'{{"version": 1,\n "classes": {json.dumps(list(annotations.classes))},\n'
    if annotations.class_order:
        yield f' "class_order": {json.dumps(annotations.class_order)},\n'
    if annotations.annotate_flags:
        yield f' "annotate_flags": {json.dumps(list(annotations.annotate_flags))},\n'
    yield ' "videos": {\n'
    # Encoding a whole dict for each video would take twice as long.
    labels: dict[Label, str] = {label: json.dumps(label) for label in (*annotations.classes, None)}
    separator = ""
    for video in annotations.videos:
        step = f', "frame_step": {video.stored_step}' if video.stored_step != 1 else ""
        group = f', "group": {video.group}' if video.group != NO_GROUP else ""
        entry = f'"split": "{video.split}", "label": {labels.get(video.label) or json.dumps(video.label)}, "num_frames": {video.num_frames}, "fps": {video.fps}'
        yield f"{separator}  {json.dumps(video.id)}: {{{entry}{step}{group}}}"
        separator = ",\n"
    yield "\n }\n}\n"


def find_root(root: str | Path, dataset: str) -> Path:
    """The folder that holds the annotations: `root`, or `root`/`dataset` as in 2D-kinectics.

    Raises BadInputError where neither of them holds any.
    """
    candidates = [Path(root), Path(root, dataset)]
    for candidate in candidates:
        if (candidate / FILE_NAME).is_file() or (candidate / "hfiles").is_dir():
            return candidate
    raise BadInputError(
        f"{root} has no {FILE_NAME} and no hfiles/, and neither has {candidates[1]}: run twostream annotate first"
    )


def read_annotations(root: str | Path, *, datasubset: str = "") -> Annotations:
    """Annotations of a data root: `annotations.json`, else the JSON of 2D-kinectics in `hfiles/`.

    `datasubset` N reads `hfiles/Annots_N.json`. Raises BadInputError naming file and line (or video) where the file is
    missing or wrong.
    """
    old_names = [f"Annots_{datasubset}.json"] if datasubset else ["finalannots.json"]
    paths = [Path(root, "hfiles", name) for name in old_names]
    if not datasubset:
        paths.insert(0, Path(root, FILE_NAME))
    for path in paths:
        if path.is_file():
            return _read_lines(path) or _read_whole(path)
    raise BadInputError(f"no annotations: looked for {', '.join(map(str, paths))}")


def _read_lines(path: Path) -> Annotations | None:
    """A file in the layout of `write_annotations`, read line by line; None for any other layout, which may be valid JSON.

    A line that is the only member of an object when read alone is the same member between other lines, so a file can
    never mean one thing here and another to a JSON parser.
    """
    try:
        with open(path, "rb") as file:
            if file.readline().strip(JSON_SPACE).removeprefix(codecs.BOM_UTF8) != FIRST_LINE:
                return None
            header: dict[str, Any] = {}
            while (line := file.readline().strip(JSON_SPACE)) != VIDEOS_LINE:
                name, value = _member(line.removesuffix(b","))
                if not line.endswith(b",") or name in ("version", "videos", *header):
                    return None
                header[name] = value
            if "classes" not in header:
                return None
            first_video = len(header) + 3  # its line
            classes = _class_list(path, header["classes"])
            annotations = collect(
                _videos_of_lines(path, file, first_video, classes),
                classes,
                path,
                lambda position: location(path, first_video + position),
            )
            return _with_origin(annotations, header)
    except (ValueError, RecursionError):  # invalid JSON: the whole-file parser reports what is wrong, and where
        return None


def _videos_of_lines(path: Path, file: BinaryIO, first_line: int, classes: Sequence[str]) -> Iterator[Video]:
    """The videos, one per line, and then the end of the file; ValueError where the layout is another."""
    expects_more, text = True, b""
    for number, line in enumerate(file, start=first_line):
        text = line.strip(JSON_SPACE)
        if not expects_more:
            break
        expects_more = text.endswith(b",")
        yield _video(*_member(text.removesuffix(b",")), location(path, number), classes)
    if expects_more or text != b"}" or file.read().strip(JSON_SPACE) != b"}":
        raise ValueError("the videos and the file are not closed")


def _member(line: bytes) -> tuple[str, Any]:
    """Name and value of a line that is exactly one member of a JSON object; ValueError where it is not."""
    ((name, value),) = DECODER.decode("{" + line.decode() + "}").items()
    return name, value


def _read_whole(path: Path) -> Annotations:
    content = read_json(path)
    reader = _from_2d_kinectics if "database" in content and "videos" not in content else _from_content
    return reader(path, content)


MALFORMED = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError)
"""what reading raises where JSON holds other things than expected"""


def _from_content(path: Path, content: dict[str, Any]) -> Annotations:
    if content.get("version") != 1:
        raise BadInputError(
            f"{path}: version {reprlib.repr(content.get('version'))}, expected 1; run twostream annotate"
        )
    videos = content.get("videos")
    if not isinstance(videos, dict):
        raise BadInputError(f'{path}: "videos" is a {type(videos).__name__}, expected a JSON object with ids as names')
    classes = _class_list(path, content.get("classes"))
    annotations = make_annotations(
        (_video(video_id, entry, str(path), classes) for video_id, entry in videos.items()),
        classes=classes,
        path=path,
    )
    return _with_origin(annotations, content)


def _with_origin(annotations: Annotations, content: dict[str, Any]) -> Annotations:
    """With what the file says about how it was made; BadInputError where that has another type."""
    try:
        return replace(
            annotations,
            class_order=_text(content.get("class_order", "")),
            annotate_flags=tuple(map(_text, _list(content.get("annotate_flags", [])))),
        )
    except TypeError as error:
        raise BadInputError(f"{annotations.path}: {error}; run twostream annotate again") from None


def _class_list(path: Path, names: object) -> list[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadInputError(f'{path}: "classes" is {reprlib.repr(names)}, expected a list of names')
    return names


def _video(video_id: str, entry: Any, where: str, classes: Sequence[str]) -> Video:
    """The video of one member of "videos"; BadInputError naming file and line where it is none."""
    try:
        if not isinstance(entry, dict):
            raise TypeError(f"{reprlib.repr(entry)} is not a JSON object")
        return Video(
            check_video_id(video_id),
            _text(entry["split"]),
            _label(entry["label"], classes),
            _whole_number(entry["num_frames"]),
            _number(entry.get("fps", 0)),
            _whole_number(entry.get("frame_step", 1)),
            _whole_number(entry.get("group", NO_GROUP)),
        )
    except BadInputError as error:
        raise BadInputError(f"{where}: {error}") from None
    except MALFORMED as error:
        raise BadInputError(f"{where}: video {video_id!r}: {_problem(error)}; run twostream annotate again") from None


def _label(value: Any, classes: Sequence[str]) -> Label:
    """A name, or a list of names or label indices, which is a set: their order and repetitions mean nothing."""
    if value is None or type(value) is str:
        return value
    if isinstance(value, list):
        return tuple(dict.fromkeys(_class_name(part, classes) for part in value))
    return _text(value)


def _class_name(value: Any, classes: Sequence[str]) -> str:
    if type(value) is not int:
        return _text(value)
    if not 0 <= value < len(classes):
        raise ValueError(f"label index {value}, expected 0 to {len(classes) - 1}")
    return classes[value]


def _problem(error: Exception) -> str:
    """An error of MALFORMED, for people."""
    return f"no {error}" if isinstance(error, KeyError) else str(error)


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError(f"{reprlib.repr(value)} is not text")
    return value


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise TypeError(f"{reprlib.repr(value)} is not a list")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"{reprlib.repr(value)} is not a number")
    return float(value)


def _whole_number(value: Any) -> int:
    if type(value) is not int and not _number(value).is_integer():
        raise TypeError(f"{value} is not a whole number")
    return int(value)


def _from_2d_kinectics(path: Path, content: dict[str, Any]) -> Annotations:
    """{"database": {id: {label, cls, subset, isthere, numf}}, "classes": {name: number}}; numbers from 1 or from 0."""
    try:
        numbers = {name: _whole_number(number) for name, number in content["classes"].items()}
        classes = tuple(sorted(numbers, key=numbers.__getitem__))
        if sorted(numbers.values()) != list(range(min(numbers.values()), min(numbers.values()) + len(numbers))):
            raise ValueError("class numbers have gaps")
        videos = []
        for video_id, entry in content["database"].items():
            if not isinstance(entry, dict) or _text(entry["subset"]) not in SPLIT_NAMES:
                raise ValueError(f"video {video_id!r} is {reprlib.repr(entry)}, without a split")
            split = SPLIT_NAMES[entry["subset"]]
            num_frames = _whole_number(entry.get("numf", 0)) if entry.get("isthere", "numf" in entry) else 0
            label = _text(entry["label"]) if split != "test" or entry.get("label") in numbers else None
            videos.append(Video(check_video_id(video_id), split, label, num_frames))
    except BadInputError as error:
        raise BadInputError(f"{path}: {error}") from None
    except MALFORMED as error:
        raise BadInputError(f"{path}: {_problem(error)}; expected annotations of 2D-kinectics") from None
    return make_annotations(videos, classes=classes, path=path)
