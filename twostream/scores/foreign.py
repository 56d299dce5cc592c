"""Score files of other toolkits as score tables.

Most of them do not name their videos: their rows are in the order of the list that was tested, which has to be given. The
labels in a file are compared with the split, so that a wrong list is noticed.
"""

import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from twostream.annotations.class_names import class_difference
from twostream.errors import BadInputError
from twostream.scores.foreign_formats import ForeignScores, recognise
from twostream.scores.npz import UNREADABLE, read_scores
from twostream.scores.table import ScoreTable

SMALLEST = 1e-12
"""a probability of 0 becomes this, so that its logarithm is finite"""
BELOW_LISTED = 10.0
"""a class that a file does not list scores this much less than the last class that it lists"""


@dataclass(frozen=True)
class Split:
    """The official list of a split's videos."""

    name: str
    classes: tuple[str, ...]
    video_ids: np.ndarray
    """(V,) str, sorted"""
    labels: np.ndarray
    """(V,) label indices; -1 without a label"""

    @classmethod
    def from_table(cls, table: ScoreTable) -> "Split":
        """The split that a score file lists."""
        return cls(table.split, tuple(table.classes), table.video_ids, table.labels)


def apply_split(path: str | Path, table: ScoreTable, split: Split, *, intersect: bool = False) -> ScoreTable:
    """The table with exactly the videos of the official list; those that the table does not list have no scores.

    BadInputError if classes or labels differ, or if the table has videos that are not in the list, unless `intersect`
    says to leave those out. `path` is the table's file, for messages.
    """
    if table.split != split.name:
        raise BadInputError(
            f"{path}: it has scores of split {table.split!r}, expected {split.name!r}; choose the split with --split"
        )
    if tuple(table.classes) != split.classes:
        difference = class_difference(table.classes, split.classes)
        raise BadInputError(
            f"{path} and the annotations have {difference}; give the annotations that it was scored with"
        )
    _, ours, theirs = np.intersect1d(table.video_ids, split.video_ids, assume_unique=True, return_indices=True)
    differs = table.labels[ours] != split.labels[theirs]
    if differs.any():
        video, label, official = (
            column[differs][0] for column in (table.video_ids[ours], table.labels[ours], split.labels[theirs])
        )
        raise BadInputError(
            f"{path}: {differs.sum()} videos have another label than in the annotations (first {str(video)!r}: {label}, "
            f"not {official}); run twostream test again, or give the annotations that it was scored with"
        )
    if len(ours) < len(table.video_ids) and not intersect:
        unknown = np.setdiff1d(table.video_ids, split.video_ids).tolist()
        raise BadInputError(
            f"{path}: {len(unknown)} videos are not in the annotations (first {', '.join(map(repr, unknown[:5]))}); "
            "give the annotations that it was scored with, or add --intersect to leave these videos out"
        )
    table = table.only(split.video_ids)
    indices = np.searchsorted(split.video_ids, table.video_ids).astype(np.int32)
    return replace(
        table, video_ids=split.video_ids, labels=split.labels.astype(np.int32), video_index=indices[table.video_index]
    )


def read_result(
    path: str | Path, *, split: Split | None = None, names: Sequence[str] | None = None, intersect: bool = False
) -> ScoreTable:
    """Read our own score file, or another toolkit's.

    Another toolkit's file needs `split`, and mostly `names`, the list that was tested. With `intersect`, videos that
    are not in the split are left out. BadInputError says what is wrong.
    """
    path = Path(path)
    if is_own_file(path):
        return read_scores(path)
    found = recognise(path)
    if split is None:
        raise BadInputError(
            f"{path} is a file of {found.kind}, which names neither its classes nor its split: add --annotations=<data "
            "root>, or a score file of twostream test"
        )
    return _to_table(path, found, split, names, intersect)


def read_names(path: str | Path) -> list[str]:
    """Lines of the list that was tested: a path or an id, perhaps followed by a number of frames and a label."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}; --names expects the tested list, one video a line") from None
    except ValueError:
        raise BadInputError(f"{path}: not UTF-8 text; --names expects the tested list, one video a line") from None
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise BadInputError(f"{path}: the file is empty; --names expects the tested list, one video a line")
    return names


def is_own_file(path: Path) -> bool:
    """Is it a score file of ours? True also if it is missing or damaged: `read_scores` then says what is wrong."""
    try:
        with open(path, "rb") as file:
            start = file.read(2)
        if start != b"PK":
            return path.suffix == ".npz" or not start.strip(b"\0")
        with zipfile.ZipFile(path) as parts:
            return "scores.npy" not in parts.namelist()
    except (OSError, *UNREADABLE):
        return True


def _to_table(
    path: Path, found: ForeignScores, split: Split, names: Sequence[str] | None, intersect: bool
) -> ScoreTable:
    if found.entries is not None:
        found = replace(found, videos=_rows_of_entries(path, found, split.classes))
    video_names, indices, order = _match_videos(path, found, split, names)
    unknown = [name for name, index in zip(video_names, indices, strict=True) if index < 0]
    if unknown and not intersect or len(unknown) == len(video_names):
        raise BadInputError(
            f"{path}: {len(unknown)} of {len(video_names)} videos are not in split {split.name!r} "
            f"(first {', '.join(map(repr, unknown[:5]))}); give the right list, or add --intersect to leave them out"
        )
    kept = [number for number, index in enumerate(indices) if index >= 0]
    starts = [found.starts[n] if found.starts else np.arange(len(found.videos[n])) for n in kept]
    logits = _to_logits(path, found, kept, video_names, len(split.classes))
    table = ScoreTable(
        stream={"input_type": path.stem, "backbone": found.kind, "classes": list(split.classes)},
        split=split.name,
        video_ids=split.video_ids,
        labels=split.labels,
        video_index=np.repeat([indices[n] for n in kept], [len(part) for part in starts]).astype(np.int32),
        start=np.concatenate(starts).astype(np.int32),
        view=np.zeros(len(logits), np.int16),
        logits=logits,
        provenance={"file": path.name, "kind": found.kind, "level": found.level, "order": order},
    ).sorted()
    is_repeated = (np.diff(table.video_index) == 0) & (np.diff(table.start) == 0)
    if is_repeated.any():
        row = int(np.argmax(is_repeated))
        video = str(table.video_ids[table.video_index[row]])
        raise BadInputError(f"{path}: video {video!r} has frame {table.start[row] + 1} more than once; export it again")
    return table


def _match_videos(
    path: Path, found: ForeignScores, split: Split, names: Sequence[str] | None
) -> tuple[list[str], list[int], str]:
    """Names of the file's videos, their indices in the split (-1: not there), and the order in which the labels agree."""
    listed = _video_names(path, found, names)
    for order in found.orders:
        video_names = listed if order == "list" else sorted(listed, key=lambda name: name.split()[0])
        indices = video_indices(path, video_names, split.video_ids)
        labels = found.labels or [-1] * len(indices)
        wrong = [n for n, pair in enumerate(zip(labels, indices, strict=False)) if _disagree(*pair, split)]
        if not wrong:
            return video_names, indices, order
    row = wrong[0]
    raise BadInputError(
        f"{path}: row {row}, video {video_names[row]!r}: label {labels[row]}, but {split.labels[indices[row]]} in split "
        f"{split.name!r}; give the list that was tested, with classes in the same order"
    )


def _disagree(label: int, index: int, split: Split) -> bool:
    """Do a label and that of a video of the split differ? Not if one of them is missing."""
    return index >= 0 and label >= 0 and split.labels[index] >= 0 and bool(label != split.labels[index])


def _video_names(path: Path, found: ForeignScores, names: Sequence[str] | None) -> list[str]:
    """The name of each video of the file, from the file or from the list that was tested."""
    if found.names is not None:
        return found.names
    if names is None:
        raise BadInputError(
            f"{path}: a file of {found.kind} does not name its videos; add --names=<the tested list, one video a line>"
        )
    indices = found.list_indices or range(len(found.videos))
    num_needed = max(indices, default=-1) + 1
    if num_needed > len(names) or (found.list_indices is None and num_needed < len(names)):
        raise BadInputError(
            f"{path}: {num_needed} videos, but --names lists {len(names)}; give the list that was tested"
        )
    return [names[index] for index in indices]


def video_indices(path: Path, names: Sequence[str], video_ids: np.ndarray) -> list[int]:
    """For each name the index of its video in the sorted ids, -1 if there is none.

    BadInputError if two names belong to one video. `path` is the file that the names are for.
    """
    index_of_id = {video_id: index for index, video_id in enumerate(video_ids.tolist())}
    indices = []
    name_of_index: dict[int, str] = {}
    for name in names:
        index = next((index_of_id[video_id] for video_id in _possible_ids(name) if video_id in index_of_id), -1)
        if index >= 0 and index in name_of_index:
            raise BadInputError(
                f"{path}: video {str(video_ids[index])!r} is listed twice, as {name_of_index[index]!r} and {name!r}; "
                "remove one of them from the list"
            )
        name_of_index[index] = name
        indices.append(index)
    return indices


def _possible_ids(name: str) -> Iterator[str]:
    """Ids that a line of a list may stand for: the line itself; its path; the last part of the path, which is a file or
    a folder of frames; both without suffix, without the times of a Kinetics segment, and with the "v_" of UCF101."""
    yield name
    path = re.sub(r"([ ,]+-?\d+)+$", "", name)
    yield path
    last = path.rstrip("/").rpartition("/")[2]
    for text in (path, last):
        stem = re.sub(r"\.\w{1,5}$", "", text)
        yield from (text, stem, re.sub(r"_\d{6}_\d{6}$", "", stem), f"v_{stem}")


def _rows_of_entries(path: Path, found: ForeignScores, classes: Sequence[str]) -> list[np.ndarray]:
    """The challenge's entries {class: score} of each video as a row (1, K) with all classes."""
    assert found.entries is not None and found.names is not None, "the challenge's file has both"
    index_of_class = {name: index for index, name in enumerate(classes)}
    are_probabilities = all(min(e.values()) >= 0 and sum(e.values()) <= 1.001 for e in found.entries)
    rows = []
    for name, scores in zip(found.names, found.entries, strict=True):
        unknown = [label for label in scores if label not in index_of_class]
        if unknown:
            raise BadInputError(f"{path}: video {name!r} lists class {unknown[0]!r}, which is not in the split")
        unlisted = 0.0 if are_probabilities else min(scores.values()) - BELOW_LISTED
        row = np.full((1, len(classes)), unlisted)
        row[0, [index_of_class[label] for label in scores]] = list(scores.values())
        if are_probabilities:  # the unlisted classes share the rest
            rest = max(0.0, 1 - row.sum())
            row[0, row[0] == 0] = rest / max(1, (row == 0).sum())
        rows.append(row)
    return rows


def _to_logits(
    path: Path, found: ForeignScores, kept: Sequence[int], names: Sequence[str], num_classes: int
) -> np.ndarray:
    """Rows (M, K) of the kept videos as float32 logits: logarithms if all rows are probabilities.

    BadInputError if the number of classes is wrong or scores are not finite.
    """
    row = 0
    for number in kept:
        scores = found.videos[number]
        if scores.shape[1] != num_classes:
            raise BadInputError(
                f"{path}: row {row}, video {names[number]!r}: {scores.shape[1]} classes, the split has {num_classes}; "
                "export it again"
            )
        is_finite = np.isfinite(scores.astype(np.float32, copy=False)).all(axis=1)
        if not is_finite.all():
            raise BadInputError(
                f"{path}: row {row + int(np.argmin(is_finite))}, video {names[number]!r}: scores that are not finite; "
                "export it again"
            )
        row += len(scores)
    logits = np.concatenate([found.videos[number] for number in kept]).astype(np.float32)
    if logits.min() >= 0 and np.allclose(logits.sum(axis=1), 1, atol=1e-3):
        logits = np.log(np.maximum(logits, SMALLEST))
    return logits
