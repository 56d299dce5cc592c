"""Our score files (.npz), read and written, and the result file of the Kinetics challenge, written."""

import json
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, BinaryIO, Literal

import numpy as np

from twostream.counts import counted
from twostream.errors import BadInputError, one_line
from twostream.files import check_regular, check_zip, write_file, write_text
from twostream.scores.table import ROWS_AT_ONCE, ScoreTable, is_ascending
from twostream.stream import StreamConfig

FORMAT = 1
"""version of the format, in the header of each file"""
ARRAYS: dict[str, tuple[type[np.generic], int]] = {
    "video_ids": (np.str_, 1),
    "labels": (np.int32, 1),
    "video_index": (np.int32, 1),
    "start": (np.int32, 1),
    "view": (np.int16, 1),
    "logits": (np.float32, 2),
}
"""type and number of dimensions of each array in a file"""
MULTI_LABEL_ARRAYS = ARRAYS | {"labels": (np.int8, 2)}
"""the same where videos have any number of classes"""

OPTIONAL_ARRAYS: dict[str, tuple[type[np.generic], int]] = {"extents": (np.int32, 1)}
"""of files of clips that are resampled to a frame rate"""

MAX_EMPTY = 1_000_000
"""rows of an array without numbers"""

UNREADABLE = (
    zipfile.BadZipFile, zlib.error, tokenize.TokenError, OSError, EOFError, LookupError,
    ValueError, TypeError, AttributeError, RuntimeError, MemoryError, ArithmeticError, struct.error,
)  # fmt: skip
"""what zipfile, NumPy and json raise for damaged or foreign content"""


def write_scores(path: str | Path, table: ScoreTable, logits: Iterable[np.ndarray] | None = None) -> None:
    """Write a table as .npz, without pickles, whole or not at all.

    `logits` yields the logits (n, K) of all rows in pieces, for a sorted table without logits: they need not fit into
    memory together.
    """
    if logits is None:
        table = table.sorted()
        logits = [table.logits]
    header = {"format": FORMAT, "stream": table.stream, "split": table.split}
    header |= {"split_fingerprint": table.split_fingerprint, "provenance": table.provenance}
    kinds = {name: kind for name, (kind, _) in _arrays_of(table).items() if name != "logits"}
    arrays = {name: getattr(table, name).astype(kind, copy=False) for name, kind in kinds.items()}

    def fill(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w") as parts:
            for name, array in {"header": np.array(json.dumps(header)), **arrays}.items():
                with parts.open(f"{name}.npy", "w", force_zip64=True) as part:
                    np.lib.format.write_array(part, array, allow_pickle=False)
            with parts.open("logits.npy", "w", force_zip64=True) as part:
                shape = (len(table.start), len(table.classes))
                layout = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(part, layout)
                rows = 0
                for piece in logits:
                    for chunk in np.split(piece, range(ROWS_AT_ONCE, len(piece), ROWS_AT_ONCE)):
                        part.write(np.ascontiguousarray(chunk, "<f4").data)
                    rows += len(piece)
                if rows != shape[0]:
                    raise ValueError(f"{counted(rows, 'row')} of logits for a table of {shape[0]}")

    write_file(path, fill)


def read_scores(path: str | Path) -> ScoreTable:
    """Read a table and check it; the logits stay on disk and are mapped into memory.

    BadInputError names what is wrong: the array, or the video and the row.
    """
    path = Path(path)
    check_regular(path)
    try:
        with zipfile.ZipFile(path) as parts:
            check_zip(parts)
            if damaged := parts.testzip():
                raise _bad_file(path, f"{damaged} does not match its checksum")
            optional = [n for n in OPTIONAL_ARRAYS if f"{n}.npy" in parts.namelist()]
            arrays = {n: _read_array(parts, f"{n}.npy") for n in ("header", *ARRAYS, *optional) if n != "logits"}
            arrays["logits"] = _map_array(path, parts)
        header = json.loads(str(arrays.pop("header")))
        json.dumps(header, allow_nan=False)  # infinities, which a report could not hold
        if header["format"] != FORMAT:
            raise BadInputError(
                f"{path}: format {header['format']!r}, expected {FORMAT}; run twostream test again with this version"
            )
        table = ScoreTable(header["stream"], header["split"], provenance=header["provenance"], **arrays)
        fingerprint = header.get("split_fingerprint")  # missing in files of version 0.1.0
        if not isinstance(table.split, str) or not isinstance(table.provenance, dict):
            raise ValueError("split or provenance has the wrong type")
        num_classes = len(StreamConfig.from_json(table.stream).classes)
    except FileNotFoundError:
        raise BadInputError(f"{path}: there is no such file; run twostream test first") from None
    except PermissionError:
        raise  # a fault of the machine, not of the file
    except UNREADABLE as error:
        raise _bad_file(path, f"not a score file ({one_line(error)})") from None
    _check_arrays(path, table, num_classes)
    _check_values(path, table, num_classes)
    if fingerprint not in (None, table.split_fingerprint):
        raise _bad_file(
            path,
            f"its classes, videos and labels have fingerprint {table.split_fingerprint}, but its header says "
            f"{fingerprint!r}: the file was changed",
        )
    return table.sorted()


def _arrays_of(table: ScoreTable) -> dict[str, tuple[type[np.generic], int]]:
    optional = {name: kind for name, kind in OPTIONAL_ARRAYS.items() if getattr(table, name) is not None}
    return (MULTI_LABEL_ARRAYS if table.is_multi_label else ARRAYS) | optional


def _bad_file(path: Path, found: str) -> BadInputError:
    return BadInputError(f"{path}: {found}; run twostream test again")


def read_header(file: IO[bytes], num_bytes: int) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype]:
    """Shape, order and type of an array in the format .npy of `num_bytes`; the file is then at its numbers.

    Raises ValueError where the array has another size than the file, which only its reader would notice, after it has
    taken the memory. Arrays of objects, which are pickles, are not compared.
    """
    start = file.tell()
    major, _ = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(file)
    found, expected = math.prod(shape) * dtype.itemsize, num_bytes - (file.tell() - start)
    if not dtype.hasobject and (found != expected or max(shape, default=0) > max(found, MAX_EMPTY)):
        raise ValueError(f"{counted(expected, 'byte is', 'bytes are')} not an array of {dtype} and shape {shape}")
    return shape, "F" if fortran_order else "C", dtype


def _read_array(parts: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array of an archive."""
    with parts.open(name) as file:
        shape, order, dtype = read_header(file, parts.getinfo(name).file_size)
        if dtype.hasobject:
            raise ValueError(f"{name} holds objects, expected numbers or text")
        return np.frombuffer(file.read(), dtype).reshape(shape, order=order)


def _map_array(path: Path, parts: zipfile.ZipFile) -> np.ndarray:
    """The logits of an archive, mapped into memory."""
    part = parts.getinfo("logits.npy")
    if part.compress_type != zipfile.ZIP_STORED:
        return _read_array(parts, part.filename)
    with open(path, "rb") as file:
        file.seek(part.header_offset)
        # The last two numbers of a local header are the lengths of the name and of the extra field behind it.
        file.seek(sum(struct.unpack("<26x2H", file.read(30))), 1)
        shape, order, dtype = read_header(file, part.file_size)
        if dtype.hasobject:
            raise ValueError(f"{part.filename} holds objects, expected numbers")
        if not math.prod(shape):
            return np.empty(shape, dtype)
        return np.asarray(np.memmap(path, dtype, "r", file.tell(), shape, order))


def _check_arrays(path: Path, table: ScoreTable, num_classes: int) -> None:
    """Types, shapes and lengths of the arrays."""
    for name, (kind, dimensions) in _arrays_of(table).items():
        array = getattr(table, name)
        if array.dtype.type is not kind or array.ndim != dimensions:
            expected = f"{dimensions} dimensions of {kind.__name__}"
            raise _bad_file(path, f"{name} has type {array.dtype} and shape {array.shape}, expected {expected}")
    num_rows, num_videos = len(table.logits), len(table.video_ids)
    by_video = [len(table.labels), *(len(table.extents) for _ in [table.extents] if table.extents is not None)]
    if {len(table.video_index), len(table.start), len(table.view)} != {num_rows} or {*by_video} != {num_videos}:
        raise _bad_file(
            path, f"lengths of its arrays differ from {counted(num_rows, 'row')} and {counted(num_videos, 'video')}"
        )
    if table.is_multi_label and table.labels.shape[1] != num_classes:
        raise _bad_file(
            path,
            f"labels have shape {table.labels.shape}, expected {counted(num_classes, 'column')}, one for each class",
        )
    if num_rows == 0 or table.logits.shape[1] != num_classes or num_classes == 0:
        raise _bad_file(
            path,
            f"logits have shape {table.logits.shape}, expected rows for {counted(num_classes, 'class', 'classes')}",
        )


def _check_values(path: Path, table: ScoreTable, num_classes: int) -> None:
    """Indices are in range, ids and rows occur once, scores are finite."""
    num_videos = len(table.video_ids)
    if len(np.unique(table.video_ids)) < num_videos:
        raise _bad_file(path, "a video id occurs twice")
    for name, lowest, end in (
        ("video_index", 0, num_videos), ("labels", -1, 2 if table.is_multi_label else num_classes),
        ("start", 0, None), ("view", 0, None),
        *(("extents", 0, None) for _ in [table.extents] if table.extents is not None),
    ):  # fmt: skip
        array = getattr(table, name)
        is_wrong = (array < lowest) | (False if end is None else array >= end)
        if is_wrong.any():
            index = tuple(int(part[0]) for part in np.nonzero(is_wrong))
            limit = "" if end is None else f" and below {end}"
            place = ", ".join(map(str, index))
            raise _bad_file(path, f"{name}[{place}] is {array[index]}, expected {lowest} or more{limit}")
    for chunk in table.chunks():
        is_finite = np.isfinite(table.logits[chunk]).all(axis=1)
        if not is_finite.all():
            row = chunk.start + int(np.argmin(is_finite))
            raise _bad_file(path, f"row {row}, video {_video_of_row(table, row)!r}: scores that are not finite")
    keys = (table.video_index, table.start, table.view)
    if not is_ascending(*keys):
        order = np.lexsort(keys[::-1])
        is_same = np.all([key[order[1:]] == key[order[:-1]] for key in keys], axis=0)
        if is_same.any():
            first, second = np.sort(order[np.argmax(is_same) :][:2])
            video_id, frame = _video_of_row(table, first), table.start[first]
            raise _bad_file(path, f"rows {first} and {second}: video {video_id!r} has frame {frame} more than once")


def _video_of_row(table: ScoreTable, row: int) -> str:
    return str(table.video_ids[table.video_index[row]])


def write_challenge_json(
    path: str | Path, video_ids: np.ndarray, scores: np.ndarray, classes: list[str], *, details: str, top: int = 5
) -> None:
    """Video scores (V, K) as a result file of the Kinetics/ActivityNet challenge: the best `top` classes of each video.

    `details` says how the scores were made. Videos without scores (rows of NaN) are left out; the challenge's evaluator
    counts them as wrong.
    """
    results = {}
    for video_id, row in zip(video_ids.tolist(), scores, strict=True):
        if np.isfinite(row).all():
            best = np.argsort(-row, kind="stable")[:top]
            results[video_id] = [{"label": classes[k], "score": float(row[k])} for k in best]
    content = {
        "version": "KINETICS VERSION 1.0",
        "external_data": {"used": True, "details": details},
        "results": results,
    }
    write_text(path, json.dumps(content))
