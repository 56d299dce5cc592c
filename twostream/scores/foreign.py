"""Score files of other toolkits as score tables.

Most of them do not name their videos: their rows are in the order of the list that was tested, which has to be given. Most
do not name their classes: their columns are in the order of a class list, which is that of the split unless another is
given. The labels in a file are compared with the split, so that a wrong list is noticed.
"""

import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from twostream.annotations.class_names import class_difference, normalised_name
from twostream.counts import counted
from twostream.errors import BadInputError
from twostream.files import check_regular
from twostream.metrics.accuracy import labels_differ
from twostream.scores.foreign_formats import ForeignScores, recognise
from twostream.scores.npz import UNREADABLE, read_scores
from twostream.scores.scale import AUTO, LOGITS, PROBABILITIES, to_logits, to_multi_label_logits
from twostream.scores.table import ScoreTable
from twostream.video.ids import VIDEO_SUFFIXES

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
    """as `ScoreTable.labels`"""
    source: str = ""
    """the file that the classes are from, and how it orders them, for messages"""

    @property
    def is_multi_label(self) -> bool:
        """Has a video any number of the classes?"""
        return self.labels.ndim == 2

    @classmethod
    def from_table(cls, table: ScoreTable, source: str = "") -> "Split":
        """The split that a score file lists."""
        return cls(table.split, tuple(table.classes), table.video_ids, table.labels, source)


@dataclass(frozen=True)
class ForeignOptions:
    """What a user says about another toolkit's file."""

    names: Sequence[str] | None = None
    """lines of the list that was tested, for a file that does not name its videos"""
    classes: tuple[str, ...] = ()
    """classes in the order of the file's columns and labels, if that is not the order of the split"""
    classes_source: str = ""
    """the file that these classes are from"""
    scale: str = AUTO
    """what the scores are: see `scale.to_logits`"""
    intersect: bool = False
    """leave out videos that are not in the split"""


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
    if table.is_multi_label != split.is_multi_label:
        kinds = ("one label", "a list of labels")
        raise BadInputError(
            f"{path} has {kinds[table.is_multi_label]} for each video, but the annotations have {kinds[split.is_multi_label]}; "
            "give the annotations that it was scored with"
        )
    differs = labels_differ(table.labels[ours], split.labels[theirs])
    if differs.any():
        video, label, official = (
            column[differs][0] for column in (table.video_ids[ours], table.labels[ours], split.labels[theirs])
        )
        if split.is_multi_label:
            label, official = (np.flatnonzero(row > 0).tolist() for row in (label, official))
        raise BadInputError(
            f"{path}: {counted(int(differs.sum()), 'video has', 'videos have')} another label than in the annotations (first {str(video)!r}: {label}, "
            f"not {official}); run twostream test again, or give the annotations that it was scored with"
        )
    if len(ours) < len(table.video_ids) and not intersect:
        unknown = np.setdiff1d(table.video_ids, split.video_ids).tolist()
        raise BadInputError(
            f"{path}: {counted(len(unknown), 'video is', 'videos are')} not in the annotations (first {', '.join(map(repr, unknown[:5]))}); "
            "give the annotations that it was scored with, or add --intersect to leave these videos out"
        )
    table = table.only(split.video_ids)
    indices = np.searchsorted(split.video_ids, table.video_ids).astype(np.int32)
    labels = split.labels.astype(table.labels.dtype)
    extents = None
    if table.extents is not None:
        extents = np.zeros(len(split.video_ids), table.extents.dtype)  # 0: of videos without scores
        extents[indices] = table.extents
    video_index = indices[table.video_index]
    return replace(table, video_ids=split.video_ids, labels=labels, video_index=video_index, extents=extents)


def read_result(
    path: str | Path, *, split: Split | None = None, options: ForeignOptions = ForeignOptions()
) -> ScoreTable:
    """Read our own score file, or another toolkit's.

    Another toolkit's file needs `split`, and mostly `options.names`. Videos whose scores are all zero have no scores.
    BadInputError says what is wrong.
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
    return _to_table(path, found, split, options)


def read_names(path: str | Path) -> list[str]:
    """Lines of the list that was tested: a path or an id, perhaps followed by a number of frames and a label."""
    check_regular(path, allow_pipe=True)
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


def _to_table(path: Path, found: ForeignScores, split: Split, options: ForeignOptions) -> ScoreTable:
    scale = found.scale if options.scale == AUTO else options.scale
    class_order = "by name"
    if split.is_multi_label:
        found = replace(found, labels=None)  # formats have room for one label a video
    if found.entries is not None and split.is_multi_label:
        raise BadInputError(
            f"{path} is a file of {found.kind}, which lists a few classes of each video, but these videos have several labels, "
            "whose measures need the scores of all classes; export all of them, for example as MMAction2 does"
        )
    if found.entries is not None:
        videos, scale = _rows_of_entries(path, found, split.classes, scale)
        found = replace(found, videos=videos)
    else:
        found = _in_order_of_classes(path, found, split, options)
        class_order = f"in the order of {options.classes_source or split.source}"
    video_names, indices, order = _match_videos(path, found, split, options.names)
    unknown = [name for name, index in zip(video_names, indices, strict=True) if index < 0]
    if unknown and not options.intersect or len(unknown) == len(video_names):
        raise BadInputError(
            f"{path}: not in split {split.name!r}: {len(unknown)} of {counted(len(video_names), 'video')} "
            f"(first {', '.join(map(repr, unknown[:5]))}); give the right list, or add --intersect to leave them out"
        )
    kept = [number for number, index in enumerate(indices) if index >= 0]
    starts = [found.starts[n] if found.starts else np.arange(len(found.videos[n])) for n in kept]
    rows = _rows_of_videos(path, found, kept, video_names, len(split.classes))
    video_index = np.repeat([indices[n] for n in kept], [len(part) for part in starts]).astype(np.int32)
    is_scored = rows.any(axis=1)  # toolkits fill the rows of videos that they could not read with zeros
    if not is_scored.any():
        raise BadInputError(f"{path}: all its scores are 0, so no video has any; export it again")
    rows, video_index = rows[is_scored], video_index[is_scored]
    try:
        logits, scale = (to_multi_label_logits if split.is_multi_label else to_logits)(
            rows,
            scale,
            lambda row: f"row {np.flatnonzero(is_scored)[row]}, video {str(split.video_ids[video_index[row]])!r}",
        )
    except ValueError as error:
        raise BadInputError(f"{path}: {error}") from None
    table = ScoreTable(
        stream={"input_type": path.stem, "backbone": found.kind, "classes": list(split.classes)}
        | ({"multi_label": True} if split.is_multi_label else {}),
        split=split.name,
        video_ids=split.video_ids,
        labels=split.labels,
        video_index=video_index,
        start=np.concatenate(starts)[is_scored].astype(np.int32),
        view=np.zeros(len(logits), np.int16),
        logits=logits,
        provenance={"file": path.name, "kind": found.kind, "level": found.level, "order": order}
        | {"scale": scale, "classes": class_order},
    ).sorted()
    is_repeated = (np.diff(table.video_index) == 0) & (np.diff(table.start) == 0)
    if is_repeated.any():
        row = int(np.argmax(is_repeated))
        video = str(table.video_ids[table.video_index[row]])
        raise BadInputError(f"{path}: video {video!r} has frame {table.start[row] + 1} more than once; export it again")
    return table


def _in_order_of_classes(path: Path, found: ForeignScores, split: Split, options: ForeignOptions) -> ForeignScores:
    """The file with columns and labels in the split's order of classes, and without labels of videos without scores."""
    labels = found.labels
    if labels:  # PySlowFast gives a video that it could not read label 0
        labels = [label if part.any() else -1 for label, part in zip(labels, found.videos, strict=True)]
    if not options.classes:
        return replace(found, labels=labels)
    column_of_name = {normalised_name(name): column for column, name in enumerate(options.classes)}
    columns = [column_of_name.get(normalised_name(name), -1) for name in split.classes]
    if sorted(columns) != list(range(len(options.classes))):
        difference = class_difference(sorted(options.classes), sorted(split.classes))
        raise BadInputError(
            f"{options.classes_source} and {split.source} have {difference}; give the class list of the training of {path}"
        )
    label_of_column = {column: label for label, column in enumerate(columns)}
    return replace(
        found,
        videos=[part[:, columns] if part.shape[1] == len(columns) else part for part in found.videos],
        labels=labels and [label_of_column.get(label, label) for label in labels],
    )


def _match_videos(
    path: Path, found: ForeignScores, split: Split, names: Sequence[str] | None
) -> tuple[list[str], list[int], str]:
    """Names of the file's videos, their indices in the split (-1: not there), and the order in which the labels agree."""
    listed = _video_names(path, found, names)
    remedy = "give the list that was tested with --names"
    for order in found.orders:
        video_names = listed if order == "list" else sorted(listed, key=lambda name: name.split()[0])
        indices = video_indices(path, video_names, split.video_ids)
        labels = found.labels or [-1] * len(indices)
        wrong = [n for n, pair in enumerate(zip(labels, indices, strict=False)) if _disagree(*pair, split)]
        if not wrong:
            return video_names, indices, order
        if _is_other_class_order(labels, indices, split):
            remedy = (
                f"its labels fit the split if its classes are in another order than those of {split.source}: give the class "
                "list of its training with --classes"
            )
    row = wrong[0]
    raise BadInputError(
        f"{path}: row {row}, video {video_names[row]!r}: label {labels[row]}, but {split.labels[indices[row]]} in split "
        f"{split.name!r}; {remedy}"
    )


def _is_other_class_order(labels: Sequence[int], indices: Sequence[int], split: Split) -> bool:
    """Does each label of the file stand for one class of the split, and no other label for the same one?"""
    known = [(label, split.labels[index]) for label, index in zip(labels, indices, strict=False) if index >= 0]
    pairs = {(int(label), int(official)) for label, official in known if label >= 0 and official >= 0}
    return len(dict(pairs)) == len({official for _, official in pairs}) == len(pairs)


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
            f"{path}: {counted(num_needed, 'video')}, but --names lists {len(names)}; give the list that was tested"
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
    a folder of frames; both as ids (without a video's suffix, "__" for "/"), without the times of a Kinetics segment, and
    with the "v_" of UCF101."""
    yield name
    path = re.sub(r"([ ,]+-?\d+)+$", "", name)
    yield path
    last = path.rstrip("/").rpartition("/")[2]
    for text in (path, last):
        stem, suffix = os.path.splitext(text)
        stem = stem if suffix.lower() in VIDEO_SUFFIXES else text
        yield from (text, stem, stem.replace("/", "__"), re.sub(r"_\d{6}_\d{6}$", "", stem), f"v_{stem}")


def _rows_of_entries(
    path: Path, found: ForeignScores, classes: Sequence[str], scale: str
) -> tuple[list[np.ndarray], str]:
    """The challenge's entries {class: score} of each video as a row (1, K) with all classes; and what the rows are."""
    assert found.entries is not None and found.names is not None, "the challenge's file has both"
    index_of_class = {name: index for index, name in enumerate(classes)}
    num_views = int(scale.removeprefix("sum-")) if scale.startswith("sum-") else 1
    entries = [{name: score / num_views for name, score in entry.items()} for entry in found.entries]
    if scale not in (LOGITS, PROBABILITIES):
        scale = _scale_of_entries(path, {n: e for n, e in zip(found.names, entries, strict=True) if any(e.values())})
    rows = []
    for name, scores in zip(found.names, entries, strict=True):
        unknown = [label for label in scores if label not in index_of_class]
        if unknown:
            raise BadInputError(f"{path}: video {name!r} lists class {unknown[0]!r}, which is not in the split")
        row = np.zeros((1, len(classes)))
        if any(scores.values()):
            row += 0.0 if scale == PROBABILITIES else min(scores.values()) - BELOW_LISTED
        row[0, [index_of_class[label] for label in scores]] = list(scores.values())
        if scale == PROBABILITIES and row.any():  # the unlisted classes share the rest
            rest = max(0.0, 1 - row.sum())
            row[0, row[0] == 0] = rest / max(1, (row == 0).sum())
        rows.append(row)
    return rows, scale


def _scale_of_entries(path: Path, entries: dict[str, dict[str, float]]) -> str:
    """Probabilities or logits; BadInputError if most entries are probabilities and some are not."""
    others = [name for name, scores in entries.items() if min(scores.values()) < 0 or sum(scores.values()) > 1.001]
    if not others:
        return PROBABILITIES
    if len(others) > len(entries) / 2:
        return LOGITS
    raise BadInputError(
        f"{path}: the scores of video {others[0]!r} are no probabilities, but those of {len(entries) - len(others)} of "
        f"{counted(len(entries), 'video is', 'videos are')}; export it again, or say what they are: --scale=probabilities or --scale=logits"
    )


def _rows_of_videos(
    path: Path, found: ForeignScores, kept: Sequence[int], names: Sequence[str], num_classes: int
) -> np.ndarray:
    """Rows (M, K) of the kept videos; BadInputError if the number of classes is wrong or scores are not finite."""
    row = 0
    for number in kept:
        scores = found.videos[number]
        if scores.shape[1] != num_classes:
            raise BadInputError(
                f"{path}: row {row}, video {names[number]!r}: {counted(scores.shape[1], 'class', 'classes')}, the split has {num_classes}; "
                "export it again, or give the annotations that it was scored with"
            )
        is_finite = np.isfinite(scores.astype(np.float32, copy=False)).all(axis=1)
        if not is_finite.all():
            raise BadInputError(
                f"{path}: row {row + int(np.argmin(is_finite))}, video {names[number]!r}: scores that are not finite; "
                "export it again"
            )
        row += len(scores)
    return np.concatenate([found.videos[number] for number in kept])
