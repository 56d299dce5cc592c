"""Segments of videos from files: timelines of twostream predict or of other toolkits, and their truth."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from twostream.annotations.videos import SPLIT_NAMES
from twostream.errors import BadInputError
from twostream.files import read_json_value
from twostream.metrics.detection import Segments
from twostream.video.ids import video_id_of

Entry = tuple[str, dict[str, Any]]
"""video id; label, segment and perhaps score"""


def read_timelines(path: Path) -> dict[str, Segments]:
    """Predicted segments by class: what `twostream predict --timeline --json` writes, or ActivityNet's results.

    Raises BadInputError naming the file, and the video where a segment is not as expected.
    """
    content = _read(path)
    if isinstance(content, list):
        entries = [(video.get("source"), video.get("segments")) for video in content if isinstance(video, dict)]
    else:
        results = content.get("results") if isinstance(content, dict) else None
        entries = list(results.items()) if isinstance(results, dict) else []
    if not entries:
        raise BadInputError(
            f'{path}: found no timelines, expected the list of twostream predict --timeline --json, or ActivityNet\'s "results"'
        )
    return _by_class(path, _flat(path, entries), needs_score=True)


def read_truth(path: Path, split: str) -> dict[str, Segments]:
    """True segments of a split by class, from an ActivityNet file {"database": {id: {"subset", "annotations"}}}.

    Raises BadInputError naming the file, and the video where a segment is not as expected; and for a split without any.
    """
    content = _read(path)
    database = content.get("database") if isinstance(content, dict) else None
    if not isinstance(database, dict):
        raise BadInputError(f'{path}: found no "database", expected a file as ActivityNet has it')
    entries = [
        (video_id, video.get("annotations"))
        for video_id, video in database.items()
        if isinstance(video, dict) and SPLIT_NAMES.get(str(video.get("subset")).lower()) == split
    ]
    found = _by_class(path, _flat(path, entries), needs_score=False)
    if not found:
        raise BadInputError(f"{path}: no segments in split {split!r}; choose another --split")
    return found


def _read(path: Path) -> Any:
    try:
        return read_json_value(path)
    except FileNotFoundError:
        raise BadInputError(f"{path}: no such file") from None


def _flat(path: Path, entries: Iterable[tuple[Any, Any]]) -> Iterator[Entry]:
    for video, segments in entries:
        if not isinstance(video, str) or not isinstance(segments, list):
            raise BadInputError(f"{path}: video {json.dumps(video)[:80]}: expected a name and a list of segments")
        for segment in segments:
            if not isinstance(segment, dict):
                raise BadInputError(f"{path}: video {video!r}: found {json.dumps(segment)[:80]}, expected a segment")
            yield video_id_of(video, id_from="stem"), segment


def _by_class(path: Path, entries: Iterable[Entry], *, needs_score: bool) -> dict[str, Segments]:
    rows: dict[str, list[tuple[str, float, float, float]]] = defaultdict(list)
    for video_id, part in entries:
        try:
            start, end = (float(value) for value in part["segment"])
            score = float(part["score"]) if needs_score else 0.0
            is_valid = isinstance(part["label"], str) and np.isfinite([start, end, score]).all() and 0 <= start <= end
        except (KeyError, TypeError, ValueError, OverflowError):
            is_valid = False
        if not is_valid:
            expected = '{"label": name, "segment": [start, end]' + (', "score": number}' if needs_score else "}")
            raise BadInputError(
                f"{path}: video {video_id!r}: found {json.dumps(part)[:120]}, expected {expected} in seconds"
            )
        rows[part["label"]].append((video_id, start, end, score))
    return {label: _segments(parts) for label, parts in rows.items()}


def _segments(rows: list[tuple[str, float, float, float]]) -> Segments:
    ids, starts, ends, scores = zip(*rows, strict=True)
    return Segments(np.array(ids), np.stack([starts, ends], axis=1).astype(np.float64), np.array(scores, np.float64))
