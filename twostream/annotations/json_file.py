"""annotations.json and the annotation file of 2D-kinectics, read and written."""

import codecs
import json
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from twostream.annotations.videos import SPLIT_NAMES, Annotations, Video, collect, make_annotations
from twostream.errors import BadInputError
from twostream.files import DECODER, read_json, write_file
from twostream.video.ids import check_video_id

FILE_NAME = "annotations.json"


JSON_SPACE = b" \t\r\n"
FIRST_LINE = b'{"version": 1,'
VIDEOS_LINE = b'"videos": {'
FIRST_VIDEO = 4  # number of its line


def write_annotations(path: str | Path, annotations: Annotations) -> None:
    """One video a line, so that the file can be read and compared by people too."""
    write_file(path, lambda file: file.writelines(text.encode() for text in _texts(annotations)))


def _texts(annotations: Annotations) -> Iterator[str]:
    """The file in pieces, all ASCII; `_read_lines` knows this layout."""
    yield f'{{"version": 1,\n "classes": {json.dumps(list(annotations.classes))},\n "videos": {{\n'
    labels = {
        label: json.dumps(label) for label in (*annotations.classes, None)
    }  # a whole dict a video takes twice as long
    separator = ""
    for video in annotations.videos:
        step = f', "frame_step": {video.stored_step}' if video.stored_step != 1 else ""
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
            return collect(videos, _class_list(path, classes), path, lambda position: _line(path, position))
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
