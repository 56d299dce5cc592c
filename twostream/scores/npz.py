"""Score files as .npz, and the result file of the Kinetics challenge."""

import json
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from twostream.errors import BadInputError
from twostream.files import write_file, write_text
from twostream.scores.table import ROWS_AT_ONCE, ScoreTable, ascending
from twostream.stream import StreamConfig

FORMAT = 1
"""so that what is computed from all rows of a large file stays small"""
ARRAYS = {
    "video_ids": (np.str_, 1),
    "labels": (np.int32, 1),
    "video_index": (np.int32, 1),
    "start": (np.int32, 1),
    "view": (np.int16, 1),
    "logits": (np.float32, 2),
}
"""type and number of dimensions of each array in a file"""

UNREADABLE = (
    zipfile.BadZipFile, zlib.error, tokenize.TokenError, OSError, EOFError, LookupError,
    ValueError, TypeError, AttributeError, RuntimeError, MemoryError, struct.error,
)  # fmt: skip
"""what zipfile, numpy and json raise for damaged or foreign content"""


def write_scores(path: str | Path, table: ScoreTable, logits: Iterable[np.ndarray] | None = None) -> None:
    """Write a table as .npz, without pickle, whole or not at all.

    `logits` are those of all rows, piece by piece, for a table that is sorted and has none itself, so that they need
    not be in memory together.
    """
    if logits is None:
        table = table.sorted()
        logits = [table.logits]
    header = {"format": FORMAT, "stream": table.stream, "split": table.split}
    header |= {"split_fingerprint": table.split_fingerprint, "provenance": table.provenance}
    arrays = {
        name: getattr(table, name).astype(kind, copy=False) for name, (kind, _) in ARRAYS.items() if name != "logits"
    }

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
                    raise ValueError(f"{rows} rows of logits for a table of {shape[0]}")

    write_file(path, fill)


def read_scores(path: str | Path) -> ScoreTable:
    """Read a table and check it; BadInputError names what is wrong: the array, or the video and the row."""
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as parts:
            if damaged := parts.testzip():
                raise BadInputError(f"{path}: {damaged} does not match its checksum; run test.py again")
            logits = _map_array(path, parts.getinfo("logits.npy"))
        with np.load(path, allow_pickle=False) as file:
            # What is no array at all, NumPy hands out as bytes.
            small = {name: np.asarray(file[name]) for name in ("header", *ARRAYS) if name != "logits"}
        arrays = small | {"logits": logits}
        header = json.loads(str(arrays.pop("header")))
        if header["format"] != FORMAT:
            raise BadInputError(
                f"{path}: format {header['format']!r}, expected {FORMAT}; run test.py again, and with the same version"
            )
        table = ScoreTable(header["stream"], header["split"], provenance=header["provenance"], **arrays)
        written = header.get("split_fingerprint")  # version 0.1.0 wrote none
        if not isinstance(table.split, str) or not isinstance(table.provenance, dict):
            raise ValueError("split or provenance of another type")
        num_classes = len(StreamConfig.from_json(table.stream).classes)
    except FileNotFoundError:
        raise BadInputError(f"{path}: there is no such file; run test.py first") from None
    except PermissionError:
        raise  # the machine's fault, not the file's
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInputError(f"{path}: no score file ({reason}); run test.py again") from None
    _check(path, table, num_classes)
    if written not in (None, table.split_fingerprint):
        raise BadInputError(
            f"{path}: its classes, videos and labels have fingerprint {table.split_fingerprint}, written beside them is "
            f"{written!r}; the file was changed: run test.py again"
        )
    return table.sorted()


def _map_array(path: Path, part: zipfile.ZipInfo) -> np.ndarray:
    """An array of an archive, mapped into memory; ValueError where its header says other things than there are."""
    if part.compress_type != zipfile.ZIP_STORED:
        with np.load(path, allow_pickle=False) as file:
            return np.asarray(file[part.filename.removesuffix(".npy")])
    with open(path, "rb") as file:
        file.seek(part.header_offset)
        # The last two numbers of a local header are the lengths of the name and of the extra field behind it.
        file.seek(sum(struct.unpack("<26x2H", file.read(30))), 1)
        start = file.tell()
        major, _ = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read_header(file)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != part.file_size - (file.tell() - start):
            raise ValueError(f"{part.filename}: {part.file_size} bytes are no array of {dtype} and shape {shape}")
        if not math.prod(shape):
            return np.empty(shape, dtype)
        order = "F" if fortran_order else "C"
        return np.asarray(np.memmap(path, dtype, "r", file.tell(), shape, order))


def _check(path: Path, table: ScoreTable, num_classes: int) -> None:
    def refuse(what: str):
        raise BadInputError(f"{path}: {what}; run test.py again")

    for name, (kind, dimensions) in ARRAYS.items():
        array = getattr(table, name)
        if array.dtype.type is not kind or array.ndim != dimensions:
            expected = f"{dimensions} dimensions of {kind.__name__}"
            refuse(f"{name} has type {array.dtype} and shape {array.shape}, expected {expected}")
    rows, videos = len(table.logits), len(table.video_ids)
    if {len(table.video_index), len(table.start), len(table.view)} != {rows} or len(table.labels) != videos:
        refuse(f"lengths of its arrays differ from {rows} rows and {videos} videos")
    if rows == 0 or table.logits.shape[1] != num_classes or num_classes == 0:
        refuse(f"logits have shape {table.logits.shape}, expected rows for {num_classes} classes")
    if len(np.unique(table.video_ids)) < videos:
        refuse("a video id occurs twice")
    for name, lowest, end in (
        ("video_index", 0, videos), ("labels", -1, num_classes), ("start", 0, None), ("view", 0, None),
    ):  # fmt: skip
        array = getattr(table, name)
        wrong = (array < lowest) | (array >= end if end is not None else False)
        if wrong.any():
            place = int(np.argmax(wrong))
            limit = "" if end is None else f" and below {end}"
            refuse(f"{name}[{place}] is {array[place]}, expected {lowest} or more{limit}")
    for chunk in table.chunks():
        finite = np.isfinite(table.logits[chunk]).all(axis=1)
        if not finite.all():
            row = chunk.start + int(np.argmin(finite))
            refuse(f"row {row}, video {str(table.video_ids[table.video_index[row]])!r}: scores that are not finite")
    keys = (table.video_index, table.start, table.view)
    if not ascending(*keys):
        order = np.lexsort(keys[::-1])
        same = np.all([key[order[1:]] == key[order[:-1]] for key in keys], axis=0)
        if same.any():
            one, other = np.sort(order[np.argmax(same) :][:2])
            video = str(table.video_ids[table.video_index[one]])
            refuse(f"rows {one} and {other}: video {video!r} has frame {table.start[one]} more than once")


def write_challenge_json(
    path: str | Path, video_ids: np.ndarray, scores: np.ndarray, classes: list[str], *, details: str, top: int = 5
) -> None:
    """Video scores (V, K) as the Kinetics/ActivityNet challenge's result file: the best `top` classes of each video.

    Videos without scores (rows of NaN) are left out, which its evaluator counts as wrong.
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
