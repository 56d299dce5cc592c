"""Lists of data sets joined with what is extracted below a data root; and the faults of labels and ids found in them."""

import functools
import itertools
from array import array
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from twostream.annotations.class_names import NEAR_DUPLICATE, normalised_name, suggest_class
from twostream.annotations.json_file import FILE_NAME
from twostream.annotations.lists import Listed, place_of
from twostream.annotations.videos import SPLITS, Annotations, Video, make_annotations
from twostream.errors import BadInputError
from twostream.frames.stores import image_stores

SHOWN = 20
"""lines printed of each kind of finding"""


def build_annotations(
    listed: Iterable[Listed], root: str | Path, *, classes: tuple[str, ...] = ()
) -> tuple[Annotations, list[str]]:
    """Join a list (whose entries all have a split) with what is extracted below a data root; and warnings to print.

    Classes are `classes` in their order, else the labels in alphabetical order. Videos that were not extracted stay,
    with 0 frames. An entry is the extracted video of its own id; or of the id of the whole video, if no other entry is
    a part of that. Raises BadInputError with all faults of labels and ids, a line each with its place.
    """
    extracted = {video_id: store for store in reversed(image_stores(root)) for video_id in store.video_ids()}
    table = ListedTable(listed, extracted)
    faults = [*table.label_faults(classes), *table.repeated()]
    if faults:
        raise BadInputError(
            faults[0] if len(faults) == 1 else "\n  ".join(["the lists need mending, nothing was written:", *faults])
        )
    names = classes or _class_order(name for name in table.label_names if name is not None)
    if not names:
        raise BadInputError(f"{table.where(0)}: no entry has a label; give the train list too, or --classes FILE")
    videos = (
        Video(video_id, split, label, *(extracted[video_id].facts(video_id) if video_id in extracted else (0,)))
        for video_id, split, label in table.rows(table.order)
    )
    warnings = [*table.one_sided(), *table.torn(), *table.unmatched()]
    return make_annotations(videos, classes=names, path=Path(root, FILE_NAME)), warnings


def _class_order(names: Iterable[str]) -> tuple[str, ...]:
    names = sorted(names)
    return tuple(sorted(names, key=int) if all(name.isdecimal() for name in names) else names)


class ListedTable:
    """Entries of all lists as columns (about 110 bytes each), and what is wrong with them."""

    def __init__(self, listed: Iterable[Listed], extracted: Container[str]):
        self.extracted = extracted
        self.ids: list[str] = []
        self.label_names: dict[str | None, int] = {}
        self.paths: dict[str, int] = {}
        # Of the id of the whole video its hash is enough, in 64 bits: it is only compared.
        split, label, path, line, source = (array(kind) for kind in "biiiq")
        whole: dict[int, str] = {}  # row -> id of the whole video, where that is extracted and the part is not
        for row, entry in enumerate(listed):
            self.ids.append(entry.ids[0])
            split.append(SPLITS.index(entry.split))
            label.append(self.label_names.setdefault(entry.label, len(self.label_names)))
            path.append(self.paths.setdefault(entry.path, len(self.paths)))
            line.append(entry.line)
            source.append(hash(entry.ids[-1]))
            if entry.ids[0] not in extracted and entry.ids[-1] in extracted:
                whole[row] = entry.ids[-1]
        self.split, self.label, self.path, self.line, self.source = map(np.asarray, (split, label, path, line, source))
        self.ambiguous = []
        if whole:
            _, inverse, counts = np.unique(self.source, return_inverse=True, return_counts=True)
            for row, video_id in whole.items():
                if counts[inverse[row]] == 1:
                    self.ids[row] = video_id
                else:
                    self.ambiguous.append(row)

    @functools.cached_property
    def order(self) -> np.ndarray:
        """Rows in order of id, those of one id in order of the list."""
        return np.array(sorted(range(len(self.ids)), key=self.ids.__getitem__), np.int32)

    def rows(self, numbers: np.ndarray) -> Iterator[tuple[str, str, str | None]]:
        """Id, split and label of entries."""
        names = list(self.label_names)
        for first in range(0, len(numbers), 1000):
            block = numbers[first : first + 1000]
            for row, split, label in zip(
                *(n.tolist() for n in (block, self.split[block], self.label[block])), strict=True
            ):
                yield self.ids[row], SPLITS[split], names[label]

    def where(self, row: int) -> str:
        """File and line of an entry."""
        return place_of(list(self.paths)[self.path[row]], int(self.line[row]))

    def label_faults(self, classes: tuple[str, ...]) -> Iterator[str]:
        """Entries without label, labels that are not in the class list, and labels that are nearly the same."""
        unlabelled = np.flatnonzero(
            (self.label == self.label_names.get(None, -1)) & (self.split != SPLITS.index("test"))
        )
        yield from _first(
            unlabelled,
            lambda row: (
                f"{self.where(row)}: video {self.ids[row]!r} has no label, expected one in split "
                f"{SPLITS[self.split[row]]}"
            ),
        )
        known, unknown, twins = {}, [], []
        for name in self.label_rows:
            if classes and name not in classes:
                unknown.append(name)
            elif known.setdefault(normalised_name(name), name) != name:
                twins.append(name)
        yield from _first(
            unknown, lambda name: f"{self.label_text(name)} is not in the class list{suggest_class(name, classes)}"
        )
        yield from _first(
            twins,
            lambda name: (
                f"{self.label_text(name)} and {known[normalised_name(name)]!r} "
                f"({self.where(self.label_rows[known[normalised_name(name)]])}) {NEAR_DUPLICATE}; write both in one way"
            ),
        )

    @functools.cached_property
    def label_rows(self) -> dict[str, int]:
        """Row in which each label stands first."""
        _, rows = np.unique(self.label, return_index=True)
        return {name: int(rows[code]) for name, code in self.label_names.items() if name is not None}

    @functools.cached_property
    def label_counts(self) -> np.ndarray:
        """Entries of each label in each split: (labels, splits)."""
        cells = self.label.astype(np.int64) * len(SPLITS) + self.split
        return np.bincount(cells, minlength=len(self.label_names) * len(SPLITS)).reshape(-1, len(SPLITS))

    def label_text(self, name: str) -> str:
        count = self.label_counts[self.label_names[name]].sum()
        return f"{self.where(self.label_rows[name])}: label {name!r} ({count} videos)"

    def repeated(self) -> Iterator[str]:
        """Entries whose id an earlier one has."""
        pairs = sorted((b, a) for a, b in itertools.pairwise(self.order.tolist()) if self.ids[a] == self.ids[b])

        def text(pair: tuple[int, int]) -> str:
            rows = list(self.rows(np.array(pair)))
            changes = "".join(f", {b!r} here and {a!r} there" for b, a in zip(*rows, strict=True) if a != b)
            place = f"{self.where(pair[0])}: video {rows[0][0]!r}"
            return f"{place} is listed already, in {self.where(pair[1])}{changes}; remove one"

        yield from _first(pairs, text)

    def one_sided(self) -> Iterator[str]:
        """Warnings of classes that are only trained or only judged."""
        train, held_out = self.label_counts[:, 0], self.label_counts[:, 1:].sum(1)
        labels = [name for name in self.label_names if name is not None]
        if not all(any(counts[self.label_names[name]] for name in labels) for counts in (train, held_out)):
            return
        for counts, where in ((train, "no train videos"), (held_out, "train videos only")):
            names = [name for name in sorted(labels) if counts[self.label_names[name]] == 0]
            if names:
                yield "\n  ".join([f"{len(names)} classes have {where}:", *_first(names, self.label_text)])

    def torn(self) -> Iterator[str]:
        """Warning of parts of one video in several splits, which makes results look better than they are."""
        order = np.lexsort((np.arange(len(self.ids)), self.split, self.source))
        sources, splits = self.source[order], self.split[order]
        places = np.flatnonzero((sources[1:] == sources[:-1]) & (splits[1:] != splits[:-1]))
        if len(places):
            pairs = np.stack([order[places], order[places + 1]], 1)
            pairs = pairs[pairs[:, 0].argsort()]

            def text(pair: np.ndarray) -> str:
                ids = [f"{video_id!r} ({split}; {self.where(row)})"
                       for row, (video_id, split, _) in zip(pair, self.rows(pair), strict=True)]  # fmt: skip
                return " and ".join(ids)

            count = len(np.unique(sources[places]))
            title = f"{count} videos have parts in more than one split, harmless only where those show other scenes:"
            yield "\n  ".join([title, *_first(pairs, text, shown=5)])

    def unmatched(self) -> Iterator[str]:
        """Warnings of images that are there, but under ids that say not which entry they are."""
        if self.ambiguous:
            yield "\n  ".join(
                [
                    f"{len(self.ambiguous)} entries are parts of videos that were extracted whole; "
                    "extract these with --trim, or name their files <id>_<start>_<end>:",
                    *_first(self.ambiguous, lambda row: f"{self.where(row)}: {self.ids[row]!r}"),
                ]
            )
        if self.ids and not any(video_id in self.extracted for video_id in self.ids):
            there = next(iter(self.extracted), None)
            yield (
                f"no listed video is extracted: the list has {self.ids[0]!r}, there is "
                f"{'nothing' if there is None else repr(there)}; compare the ids (--ids), or run prep/extract.py"
            )


def _first(items: Sequence, text: Callable[..., str], *, shown: int = SHOWN) -> Iterator[str]:
    """Texts of the first items, and how many more there are."""
    yield from (text(item) for item in items[:shown])
    if len(items) > shown:
        yield f"... and {len(items) - shown} more of these"
