"""Score files of other toolkits, read as score tables and written.

Most of them name no video: their rows are in the order of the list that was tested, which has to be given. What a file
says about labels is compared with the split, so that a wrong list is noticed. Which kind a file is shows in its content.
"""

import re
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from twostream.annotations.class_names import class_difference
from twostream.errors import BadInputError
from twostream.scores.foreign_formats import Found, recognise
from twostream.scores.npz import UNREADABLE, read_scores
from twostream.scores.table import ScoreTable

SMALLEST = 1e-12
"""a probability of nothing, so that its logarithm is finite"""
BELOW_LISTED = 10.0
"""a class that a file does not list is so much below the last one that it does"""


@dataclass(frozen=True)
class Split:
    """The videos a file is about: the official list."""

    name: str
    classes: tuple[str, ...]
    video_ids: np.ndarray
    """(V,) str, sorted"""
    labels: np.ndarray
    """(V,) label indices; -1 without label"""

    @classmethod
    def of_table(cls, table: ScoreTable) -> "Split":
        return cls(table.split, tuple(table.classes), table.video_ids, table.labels)


def on_split(path: str | Path, table: ScoreTable, split: Split, *, intersect: bool = False) -> ScoreTable:
    """The table with the videos of the official list, also those that it does not list: they are without scores.

    BadInputError where classes or a label differ, and for videos that the list has not, unless `intersect`.
    """
    if table.split != split.name:
        raise BadInputError(
            f"{path}: scores of split {table.split!r}, asked is {split.name!r}; name the other by --split"
        )
    if tuple(table.classes) != split.classes:
        difference = class_difference(table.classes, split.classes)
        raise BadInputError(f"{path} and the annotations have {difference}; name those it was scored with")
    _, ours, theirs = np.intersect1d(table.video_ids, split.video_ids, assume_unique=True, return_indices=True)
    other = table.labels[ours] != split.labels[theirs]
    if other.any():
        video, one, official = (a[other][0] for a in (table.video_ids[ours], table.labels[ours], split.labels[theirs]))
        raise BadInputError(
            f"{path}: {other.sum()} videos have another label than in the annotations (first {str(video)!r}: {one}, not "
            f"{official}); score them with test.py again, or name the annotations they were scored with"
        )
    if len(ours) < len(table.video_ids) and not intersect:
        unknown = np.setdiff1d(table.video_ids, split.video_ids).tolist()
        raise BadInputError(
            f"{path}: {len(unknown)} videos are not in the annotations (first {', '.join(map(repr, unknown[:5]))}); "
            "name the annotations they were scored with, or add --intersect to leave them out"
        )
    table = table.only(split.video_ids)
    places = np.searchsorted(split.video_ids, table.video_ids).astype(np.int32)
    return replace(
        table, video_ids=split.video_ids, labels=split.labels.astype(np.int32), video_index=places[table.video_index]
    )


def read_result(
    path: str | Path, *, split: Split | None = None, names: Sequence[str] | None = None, intersect: bool = False
) -> ScoreTable:
    """Our own score file, or another toolkit's: then `split` is needed, and for most `names`, the list that was tested.

    With `intersect`, videos that are not in the split are left out. BadInputError names what does not fit.
    """
    path = Path(path)
    if is_own(path):
        return read_scores(path)
    found = recognise(path)
    if split is None:
        raise BadInputError(
            f"{path} is a file of {found.kind}, which names neither classes nor the split: add --annotations=<data root>, "
            "or a score file of test.py"
        )
    return _table(path, found, split, names, intersect)


def read_names(path: str | Path) -> list[str]:
    """The videos of a list: one a line, as a path or an id; numbers of frames and labels behind it are left out."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise BadInputError(
            f"{path}: {error.strerror}; --names is the list that was tested, one video a line"
        ) from None
    except ValueError:
        raise BadInputError(
            f"{path}: no text in UTF-8; --names is the list that was tested, one video a line"
        ) from None
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise BadInputError(f"{path}: no names; expected the list that was tested, one video a line")
    return names


def is_own(path: Path) -> bool:
    """Also what is no file, or no known one: `read_scores` says what is wrong."""
    try:
        with open(path, "rb") as file:
            start = file.read(2)
        if start != b"PK":
            return path.suffix == ".npz" or not start.strip(b"\0")
        with zipfile.ZipFile(path) as parts:
            return "scores.npy" not in parts.namelist()
    except (OSError, *UNREADABLE):
        return True


def _table(path: Path, found: Found, split: Split, names: Sequence[str] | None, intersect: bool) -> ScoreTable:
    if found.kind == "the challenge":
        _fill_unlisted(path, found, split.classes)
    given = _names(path, found, names)
    for order in found.orders:
        found_names = given if order == "list" else sorted(given, key=lambda name: name.split()[0])
        places = places_of(path, found_names, split.video_ids)
        other = _first_other_label(found, places, split)
        if other is None:
            break
    else:
        raise BadInputError(
            f"{path}: row {other}, video {found_names[other]!r}: label {found.labels[other]}, in split {split.name!r} it is "
            f"{split.labels[places[other]]}; name the list that was tested, with classes in the same order"
        )
    unknown = [name for name, place in zip(found_names, places, strict=True) if place < 0]
    if unknown and not intersect or len(unknown) == len(found_names):
        raise BadInputError(
            f"{path}: {len(unknown)} of {len(found_names)} videos are not in split {split.name!r} "
            f"(first {', '.join(map(repr, unknown[:5]))}); name the right list, or add --intersect to leave them out"
        )
    kept = [number for number, place in enumerate(places) if place >= 0]
    starts = [found.starts[n] if found.starts else np.arange(len(found.videos[n])) for n in kept]
    logits = _logits(path, found, kept, found_names, len(split.classes))
    table = ScoreTable(
        stream={"input_type": path.stem, "backbone": found.kind, "classes": list(split.classes)},
        split=split.name,
        video_ids=split.video_ids,
        labels=split.labels,
        video_index=np.repeat([places[n] for n in kept], [len(part) for part in starts]).astype(np.int32),
        start=np.concatenate(starts).astype(np.int32),
        view=np.zeros(len(logits), np.int16),
        logits=logits,
        provenance={"file": path.name, "kind": found.kind, "level": found.level, "order": order},
    ).sorted()
    same = (np.diff(table.video_index) == 0) & (np.diff(table.start) == 0)
    if same.any():
        row = int(np.argmax(same))
        video = str(table.video_ids[table.video_index[row]])
        raise BadInputError(f"{path}: video {video!r} has frame {table.start[row] + 1} more than once; export it again")
    return table


def _names(path: Path, found: Found, names: Sequence[str] | None) -> list[str]:
    """Of each video of the file."""
    if found.names is not None:
        return found.names
    if names is None:
        raise BadInputError(
            f"{path}: a file of {found.kind} names no videos; add --names=<the list that was tested, one video a line>"
        )
    last = max(found.places) if found.places else len(found.videos) - 1
    if last >= len(names) or (found.places is None and last + 1 < len(names)):
        raise BadInputError(f"{path}: {last + 1} videos, but --names lists {len(names)}; take the list that was tested")
    return [names[place] for place in found.places] if found.places else list(names)


def places_of(path: Path, names: Sequence[str], video_ids: np.ndarray) -> list[int]:
    """Of each name the place of its video in the split; -1 for none. Two names of one video are refused."""
    known = {video_id: place for place, video_id in enumerate(video_ids.tolist())}
    places, taken = [], {}
    for name in names:
        place = next((known[form] for form in _forms(name) if form in known), -1)
        if place >= 0 and place in taken:
            raise BadInputError(
                f"{path}: video {str(video_ids[place])!r} stands there twice, as {taken[place]!r} and {name!r}"
            )
        taken[place] = name
        places.append(place)
    return places


def _forms(name: str) -> Iterable[str]:
    """What the id of a line of a list may be: itself; its path; the name of the file, or of the folder of frames; the
    same without the suffix, without the times of a Kinetics segment, and without the "v_" of UCF101."""
    yield name
    path = re.sub(r"([ ,]+-?\d+)+$", "", name)
    yield path
    last = path.rstrip("/").rpartition("/")[2]
    for text in (path, last):
        stem = re.sub(r"\.\w{1,5}$", "", text)
        yield from (text, stem, re.sub(r"_\d{6}_\d{6}$", "", stem), f"v_{stem}")


def _first_other_label(found: Found, places: Sequence[int], split: Split) -> int | None:
    """Number of the first video whose label in the file is not that of the split."""
    for number, (label, place) in enumerate(zip(found.labels or (), places, strict=False)):
        if place >= 0 and label >= 0 and split.labels[place] >= 0 and label != split.labels[place]:
            return number
    return None


def _fill_unlisted(path: Path, found: Found, classes: Sequence[str]) -> None:
    """The challenge's entries {class: score} become rows of all classes."""
    numbers = {name: number for number, name in enumerate(classes)}
    listed = found.videos
    probabilities = all(min(e.values()) >= 0 and sum(e.values()) <= 1.001 for e in listed)
    for video, (name, entries) in enumerate(zip(found.names, listed, strict=True)):
        unknown = [label for label in entries if label not in numbers]
        if unknown:
            raise BadInputError(f"{path}: video {name!r} lists class {unknown[0]!r}, which is not in the split")
        row = np.full((1, len(classes)), 0.0 if probabilities else min(entries.values()) - BELOW_LISTED)
        row[0, [numbers[label] for label in entries]] = list(entries.values())
        if probabilities:  # what is left belongs to the others
            rest = max(0.0, 1 - row.sum())
            row[0, row[0] == 0] = rest / max(1, (row == 0).sum())
        found.videos[video] = row


def _logits(path: Path, found: Found, kept: Sequence[int], names: Sequence[str], num_classes: int) -> np.ndarray:
    """Rows of the videos that are kept, as float32 logits; logarithms where all rows are probabilities."""
    row = 0
    for number in kept:
        scores = found.videos[number]
        what = f"{path}: row {row}, video {names[number]!r}"
        if scores.shape[1] != num_classes:
            raise BadInputError(f"{what}: {scores.shape[1]} classes, the split has {num_classes}; export it again")
        finite = np.isfinite(scores.astype(np.float32, copy=False)).all(axis=1)
        if not finite.all():
            what = f"{path}: row {row + int(np.argmin(finite))}, video {names[number]!r}"
            raise BadInputError(f"{what}: scores that are not finite; export it again")
        row += len(scores)
    logits = np.concatenate([found.videos[number] for number in kept]).astype(np.float32)
    if logits.min() >= 0 and np.allclose(logits.sum(axis=1), 1, atol=1e-3):
        logits = np.log(np.maximum(logits, SMALLEST))
    return logits
