"""Lists of data sets joined with what is extracted below a data root; checks of their labels and ids."""

import functools
import itertools
import re
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from twostream.annotations.class_names import ALPHABETICAL, NEAR_DUPLICATE, ClassOrder, normalised_name, suggest_class
from twostream.annotations.json_file import FILE_NAME
from twostream.annotations.lines import location
from twostream.annotations.lists import Listed
from twostream.annotations.splits import VAL_FRACTION, choose_val
from twostream.annotations.videos import NO_GROUP, SPLITS, Annotations, Label, Video, make_annotations
from twostream.counts import counted
from twostream.errors import BadInputError
from twostream.frames.store import FrameStore
from twostream.frames.stores import image_stores

SHOWN = 20
"""lines printed for each kind of fault"""
MAX_NUMBERED = 100_000
"""classes that have numbers instead of names: a larger number is a mistake"""
NO_SPLIT = -1
"""split index of an entry without a split, until `assign_splits`"""


class Joined(NamedTuple):
    """What `build_annotations` returns."""

    annotations: Annotations
    notes: list[str]
    """what was decided where the lists do not say it"""
    warnings: list[str]
    """what may be wrong"""
    lacks_parts: bool
    """is a part of a video listed that was not extracted?"""


def build_annotations(
    listed: Iterable[Listed],
    root: str | Path,
    *,
    classes: ClassOrder | None = None,
    are_numbers: bool = False,
    multi_label: bool = False,
    val_fraction: float | None = None,
    seed: int = 0,
    annotate_flags: Sequence[str] = (),
    progress: Callable[[Iterable[Video], int], Iterable[Video]] = lambda videos, total: videos,
) -> Joined:
    """Annotations from a list and what is extracted below a data root.

    The classes are `classes` in their order. Without them, the labels are label indices if `are_numbers` (then a number
    that no video has is a class too), or names in alphabetical order. With `multi_label`, a video has the labels of all of
    its entries; otherwise it may have only one. Where the list has no val, it is held out of the
    train videos, or of those without a split: `val_fraction` of the groups of each class (None: `VAL_FRACTION`).
    Videos that were not extracted are kept, with 0 frames. An entry is matched with the extracted video of its own id,
    or of the id of the whole video if no other entry is a part of that one. `progress` may show how many of the videos
    are done. Raises BadInputError with all wrong labels and ids, one per line with its file and line.
    """
    extracted = {video_id: store for store in reversed(image_stores(root)) for video_id in store.video_ids()}
    table = ListedTable(listed, extracted, multi_label=multi_label)
    notes = [*table.assign_splits(val_fraction, seed)]
    faults = [*table.label_faults(classes.names if classes else ()), *table.repeated()]
    if faults:
        raise BadInputError(
            faults[0]
            if len(faults) == 1
            else "\n  ".join(["fix these faults of the lists; nothing was written:", *faults])
        )
    order = classes or _class_order([name for name in table.label_names if name], are_numbers=are_numbers)
    if not order.names:
        raise BadInputError(f"{table.where(0)}: no entry has a label; add the train list, or --classes FILE")
    groups = table.groups()
    videos = (
        Video(video_id, split, label, *_frames(extracted.get(video_id), video_id), group=groups[video_id])
        for video_id, split, label in table.videos()
    )
    annotations = make_annotations(
        progress(videos, table.count_videos(table.order)), classes=order.names, path=Path(root, FILE_NAME)
    )
    return Joined(
        replace(annotations, class_order=order.source, annotate_flags=tuple(annotate_flags)),
        notes,
        [
            *table.classes_without_videos(order.names),
            *table.one_sided_classes(),
            *table.parts_in_several_splits(),
            *table.unmatched(),
        ],
        table.lacks_parts(),
    )


def _frames(store: FrameStore | None, video_id: str) -> tuple[int, float, int]:
    """Number of frames, rate and stored step of a video; 0 frames where it was not extracted."""
    return store.facts(video_id) if store else (0, 0.0, 1)


def _class_order(names: list[str], *, are_numbers: bool) -> ClassOrder:
    """The order of labels that come without a class list."""
    are_decimal = all(re.fullmatch(r"\d{1,9}", name) for name in names)
    if are_numbers and are_decimal and names:
        num_classes = max(map(int, names)) + 1
        if num_classes > MAX_NUMBERED:
            raise BadInputError(
                f"class number {num_classes - 1}, expected less than {MAX_NUMBERED}: check the lists, or name the "
                "classes with --classes FILE"
            )
        return ClassOrder(tuple(map(str, range(num_classes))), "class numbers of the lists")
    return ClassOrder(tuple(sorted(sorted(names), key=int) if are_decimal else sorted(names)), ALPHABETICAL)


class ListedTable:
    """Entries of all lists as columns (about 110 bytes for each), and what is wrong with them."""

    def __init__(self, listed: Iterable[Listed], extracted: Collection[str], *, multi_label: bool = False):
        """`extracted` are the ids of the extracted videos; with `multi_label`, several entries are one video."""
        self.extracted, self.multi_label = extracted, multi_label
        self.ids: list[str] = []
        self.label_names: dict[str | None, int] = {}
        self.paths: dict[str, int] = {}
        # Ids of whole videos are only compared, so a hash of 64 bits is enough.
        split, is_part, label, path, line, source, group = (array(kind) for kind in "bbiiiqq")
        whole: dict[int, str] = {}  # row -> id of the whole video, where that is extracted and the part is not
        for row, entry in enumerate(listed):
            self.ids.append(entry.ids[0])
            split.append(NO_SPLIT if entry.split is None else SPLITS.index(entry.split))
            is_part.append(entry.segment is not None)
            label.append(self.label_names.setdefault(entry.label, len(self.label_names)))
            path.append(self.paths.setdefault(entry.path, len(self.paths)))
            line.append(entry.line)
            source.append(hash(entry.ids[-1]))
            group.append(hash(f"/{entry.group}" if entry.group else entry.ids[-1]))  # no id has a slash
            if entry.ids[0] not in extracted and entry.ids[-1] in extracted:
                whole[row] = entry.ids[-1]
        self.split, self.label, self.path, self.line = map(np.asarray, (split, label, path, line))
        self.source, self.group, self.is_part = map(np.asarray, (source, group, is_part))
        self.ambiguous: list[int] = []
        """rows that are parts of one extracted video, which therefore is none of them"""
        self.are_cut = False
        """was a part found by the id of its video?"""
        if whole:
            own = np.fromiter(map(hash, self.ids), np.int64, len(self.ids))
            parts = np.unique(np.stack([self.source, own], axis=1), axis=0)  # of each whole video
            sources, counts = np.unique(parts[:, 0], return_counts=True)
            for row, video_id in whole.items():
                if counts[np.searchsorted(sources, self.source[row])] == 1:
                    self.ids[row], self.are_cut = video_id, True
                else:
                    self.ambiguous.append(row)

    @functools.cached_property
    def order(self) -> np.ndarray:
        """int32 (rows,): rows sorted by id; rows with the same id keep the order of the list."""
        return np.array(sorted(range(len(self.ids)), key=self.ids.__getitem__), np.int32)

    def rows(self, selected: np.ndarray) -> Iterator[tuple[str, str, str | None]]:
        """Id, split and label of the selected rows."""
        names = list(self.label_names)
        for first in range(0, len(selected), 1000):
            block = selected[first : first + 1000]
            for row, split, label in zip(
                *(n.tolist() for n in (block, self.split[block], self.label[block])), strict=True
            ):
                yield self.ids[row], SPLITS[split], names[label]

    def groups(self) -> dict[str, int]:
        """Group of each video by id: numbered from 0 in the order of ids, where several videos share one."""
        row_of = {self.ids[row]: row for row in self.order.tolist()}  # a multi-label video may have several entries
        _, inverse, counts = np.unique(self.group[list(row_of.values())], return_inverse=True, return_counts=True)
        numbers: dict[int, int] = {}
        return {
            video_id: numbers.setdefault(code, len(numbers)) if counts[code] > 1 else NO_GROUP
            for video_id, code in zip(row_of, inverse.tolist(), strict=True)
        }

    def videos(self) -> Iterator[tuple[str, str, Label]]:
        """Id, split and label of each video, in order of id."""
        if not self.multi_label:
            yield from self.rows(self.order)
            return
        for (video_id, split), entries in itertools.groupby(self.rows(self.order), key=itemgetter(0, 1)):
            names = {name for _, _, name in entries}
            yield video_id, split, None if names == {None} else tuple(sorted(filter(None, names)))

    def count_videos(self, rows: np.ndarray) -> int:
        """The number of videos that these entries are about."""
        return len({self.ids[row] for row in rows.tolist()}) if self.multi_label else len(rows)

    def where(self, row: int) -> str:
        """File and line of an entry, for messages."""
        return location(list(self.paths)[self.path[row]], int(self.line[row]))

    def assign_splits(self, val_fraction: float | None, seed: int) -> Iterator[str]:
        """Give every entry a split, and hold val out where the lists have none; yield a sentence about it.

        Entries without a split may stand beside test entries. Raises BadInputError where they stand beside others.
        """
        has_none, is_train, is_val = (self.split == code for code in (NO_SPLIT, 0, 1))
        if has_none.any() and (is_train | is_val).any():
            where, other = (self.where(int(np.argmax(rows))) for rows in (has_none, is_train | is_val))
            raise BadInputError(f"{where}: no split, but {other} has one; give a split to all or none")
        self.split[has_none] = 0
        candidates = np.flatnonzero(has_none | is_train)
        if is_val.any() or not len(candidates):
            if val_fraction is not None:
                yield "the lists have val videos or no train videos, so --val_fraction is not used"
            return
        fraction = VAL_FRACTION if val_fraction is None else val_fraction
        names = [name or "" for name in self.label_names]
        videos = [
            (self.ids[row], names[label], group)
            for row, label, group in zip(
                candidates.tolist(), self.label[candidates].tolist(), self.group[candidates].tolist(), strict=True
            )
        ]
        chosen = choose_val(videos, fraction=fraction, seed=seed)
        held_out = candidates[np.isin(self.group[candidates], np.array(list(chosen), np.int64))]
        self.split[held_out] = 1
        num_groups, num_videos = len({group for _, _, group in videos}), self.count_videos(candidates)
        kept_together = f" in {len(chosen)} of {counted(num_groups, 'group')}" if num_groups < num_videos else ""
        yield (
            f"no {'splits' if has_none.any() else 'val'} in the lists: {self.count_videos(held_out)} of "
            f"{counted(num_videos, 'train video')}{kept_together} are held out as val "
            f"(--val_fraction={fraction:g} --seed={seed})"
        )

    def label_faults(self, classes: tuple[str, ...]) -> Iterator[str]:
        """Entries without a label, labels that are not in the class list, and labels that are nearly the same."""
        no_class = "; in a csv, a semicolon alone says that none of the classes occurs" if self.multi_label else ""
        unlabelled = np.flatnonzero(
            (self.label == self.label_names.get(None, -1)) & (self.split != SPLITS.index("test"))
        )
        yield from _first(
            unlabelled,
            lambda row: (
                f"{self.where(row)}: video {self.ids[row]!r} has no label, expected one in split "
                f"{SPLITS[self.split[row]]}{no_class}"
            ),
        )
        spelling: dict[str, str] = {}  # normalised name -> its first spelling
        unknown, duplicates = [], []
        for name in self.label_rows:
            if classes and name not in classes:
                unknown.append(name)
            elif spelling.setdefault(normalised_name(name), name) != name:
                duplicates.append(name)
        yield from _first(
            unknown, lambda name: f"{self.label_text(name)} is not in the class list{suggest_class(name, classes)}"
        )

        def duplicate_text(name: str) -> str:
            first = spelling[normalised_name(name)]
            return (
                f"{self.label_text(name)} and {first!r} ({self.where(self.label_rows[first])}) {NEAR_DUPLICATE}; "
                "spell both the same way"
            )

        yield from _first(duplicates, duplicate_text)

    @functools.cached_property
    def label_rows(self) -> dict[str, int]:
        """The first row of each label."""
        _, rows = np.unique(self.label, return_index=True)
        return {name: int(rows[code]) for name, code in self.label_names.items() if name}

    @functools.cached_property
    def label_counts(self) -> np.ndarray:
        """int64 (labels, splits): entries of each label in each split."""
        cells = self.label.astype(np.int64) * len(SPLITS) + self.split
        return np.bincount(cells, minlength=len(self.label_names) * len(SPLITS)).reshape(-1, len(SPLITS))

    def label_text(self, name: str) -> str:
        """A label with its first place and its number of videos, for messages."""
        count = self.label_counts[self.label_names[name]].sum()
        return f"{self.where(self.label_rows[name])}: label {name!r} ({counted(int(count), 'video')})"

    def repeated(self) -> Iterator[str]:
        """Entries with the id of an earlier entry; if these are other labels of one video, only with another split."""
        pairs = sorted(
            (b, a)
            for a, b in itertools.pairwise(self.order.tolist())
            if self.ids[a] == self.ids[b] and not (self.multi_label and self.split[a] == self.split[b])
        )

        def text(pair: tuple[int, int]) -> str:
            rows = list(self.rows(np.array(pair)))
            changes = "".join(f", {b!r} here and {a!r} there" for b, a in zip(*rows, strict=True) if a != b)
            entry = f"{self.where(pair[0])}: video {rows[0][0]!r}"
            has_two_labels = rows[0][1] == rows[1][1] and rows[0][2] != rows[1][2]
            remedy = ", or add --multi_label if videos have several labels" if has_two_labels else ""
            return f"{entry} is already listed in {self.where(pair[1])}{changes}; remove one{remedy}"

        yield from _first(pairs, text)

    def classes_without_videos(self, classes: Sequence[str]) -> Iterator[str]:
        """Warnings about classes that no entry has, and about a single class."""
        if len(classes) == 1:
            yield f"{classes[0]!r} is the only class: every prediction will be right"
        if names := [name for name in classes if name not in self.label_rows]:
            texts = _first(names, repr, shown=5)
            yield f"{len(names)} of {counted(len(classes), 'class', 'classes')} without videos in the lists: {', '.join(texts)}"

    def one_sided_classes(self) -> Iterator[str]:
        """Warnings about classes that are only in the train split, or not in it."""
        train, held_out = self.label_counts[:, 0], self.label_counts[:, 1:].sum(1)
        labels = [name for name in self.label_names if name]
        if not all(any(counts[self.label_names[name]] for name in labels) for counts in (train, held_out)):
            return
        for counts, where in ((train, "no train videos"), (held_out, "train videos only")):
            names = [name for name in sorted(labels) if counts[self.label_names[name]] == 0]
            if names:
                yield "\n  ".join(
                    [f"{counted(len(names), 'class has', 'classes have')} {where}:", *_first(names, self.label_text)]
                )

    def parts_in_several_splits(self) -> Iterator[str]:
        """Warning about parts of one video in several splits, which make results look better than they are."""
        order = np.lexsort((np.arange(len(self.ids)), self.split, self.source))
        sources, splits = self.source[order], self.split[order]
        indices = np.flatnonzero((sources[1:] == sources[:-1]) & (splits[1:] != splits[:-1]))
        if len(indices):
            pairs = np.stack([order[indices], order[indices + 1]], 1)
            pairs = pairs[pairs[:, 0].argsort()]

            def text(pair: np.ndarray) -> str:
                ids = [f"{video_id!r} ({split}; {self.where(row)})"
                       for row, (video_id, split, _) in zip(pair, self.rows(pair), strict=True)]  # fmt: skip
                return " and ".join(ids)

            count = len(np.unique(sources[indices]))
            title = (
                f"{counted(count, 'video has', 'videos have')} parts in more than one split, which is harmless only if the "
                "parts show different scenes:"
            )
            yield "\n  ".join([title, *_first(pairs, text, shown=5)])

    def lacks_parts(self) -> bool:
        """Whether parts of longer videos are missing, which extraction has to cut out by the list.

        Not where parts were found by the ids of their videos: then the files are cut already, as those of Kinetics often are.
        """
        if self.ambiguous or self.are_cut:
            return bool(self.ambiguous)
        return any(self.ids[row] not in self.extracted for row in np.flatnonzero(self.is_part).tolist())

    def unmatched(self) -> Iterator[str]:
        """Warnings about extracted videos whose ids match no entry, or several."""
        if self.ambiguous:
            yield "\n  ".join(
                [
                    f"{counted(len(self.ambiguous), 'entry is part of a video that was', 'entries are parts of videos that were')} extracted whole; "
                    "extract these with --trim, or name their files <id>_<start>_<end>:",
                    *_first(self.ambiguous, lambda row: f"{self.where(row)}: {self.ids[row]!r}"),
                ]
            )
        near = self.other_spellings()
        if near:
            yield "\n  ".join(
                [
                    f"{counted(len(near), 'listed video is', 'listed videos are')} extracted under an id of another spelling; change the list, or rename "
                    "the videos and extract them again:",
                    *_first(
                        near, lambda pair: f"{self.where(pair[0])}: {self.ids[pair[0]]!r}, extracted as {pair[1]!r}"
                    ),
                ]
            )
        elif self.ids and not any(video_id in self.extracted for video_id in self.ids):
            extracted = next((repr(video_id) for video_id in self.extracted), "nothing")
            yield (
                f"no listed video is extracted: the list has {self.ids[0]!r}, extracted is {extracted}; "
                "compare the ids (--ids), or run twostream extract"
            )

    def other_spellings(self) -> list[tuple[int, str]]:
        """Rows that are not extracted, each with an extracted id that differs only in case or in "v_" before it."""
        unlisted = {_plain_id(video_id): video_id for video_id in set(self.extracted).difference(self.ids)}
        if not unlisted:
            return []
        missing = ((row, video_id) for row, video_id in enumerate(self.ids) if video_id not in self.extracted)
        return [(row, unlisted[_plain_id(video_id)]) for row, video_id in missing if _plain_id(video_id) in unlisted]


def _plain_id(video_id: str) -> str:
    """Equal for `v_Id`, as ActivityNet and UCF101 name their files, `id` and `Id`."""
    return video_id.casefold().removeprefix("v_")


def _first(items: Sequence[Any] | np.ndarray, text: Callable[[Any], str], *, shown: int = SHOWN) -> Iterator[str]:
    """Texts of the first items, and how many more there are."""
    yield from (text(item) for item in items[:shown])
    if len(items) > shown:
        yield f"... and {len(items) - shown} more"
