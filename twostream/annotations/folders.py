"""Trees of class folders: which folder is the class of each video, and which is its split.

These are understood, where <split> is a word such as train, or has one in its name, as in kinetics_train:

    <class>/<video>                       perhaps beside test/, with or without class folders in it
    <split>/<class>/<video>               the videos of a test folder may lie directly in it: they have no label
    <folder>/<class>/<video>              one folder around all classes, as in UCF-101/; also below the split

Below a class folder that holds videos, there may be more folders. Everything else could mean several things. It is
refused with what was found, unless a class list says which folders are classes.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from twostream.annotations.videos import SPLIT_NAMES
from twostream.errors import BadInputError

SHOWN = 5
"""folders that a message lists"""

Folders = tuple[str, ...]
"""names of the folders above a video, from the outermost"""


class ClassFolders:
    """The split and the label of the videos in a tree of folders."""

    def __init__(self, root: Path, videos: Iterable[Folders], *, classes: Sequence[str] = ()):
        """`videos`: the folders of each video below `root`; `classes`: the class list, if there is one.

        Raises BadInputError where the tree cannot be understood.
        """
        self.root = root
        self.counts = Counter(videos)
        """videos directly in each folder"""
        self.classes = frozenset(classes)
        tops = sorted({folders[0] for folders in self.counts if folders} - self.classes)
        self.split_of = self._splits(tops)
        """outermost folder -> its split"""
        in_classes = Counter({self._below_split(folders): n for folders, n in self.counts.items() if folders})
        self.num_around = 0 if self.classes else self._num_around([f for f in in_classes if f])
        """folders around all classes"""
        if not self.classes:
            self._check_classes(in_classes)

    def split_and_label(self, folders: Folders, name: str) -> tuple[str | None, str | None]:
        """Split (None: the tree does not say it) and label of a video with this file name, below these folders.

        Test videos may have no label, which is None. Raises BadInputError where another video has none.
        """
        split = self.split_of.get(folders[0]) if folders else None
        inner = self._below_split(folders)
        if self.classes:
            labels = [name for name in inner if name in self.classes] or inner[-1:]
            if len(labels) > 1:
                raise BadInputError(
                    f"{self.root.joinpath(*folders)}: the class list has {' and '.join(map(repr, labels))}; rename one folder"
                )
        else:
            labels = list(inner[self.num_around : self.num_around + 1])
        if not labels and split != "test":
            raise self._not_understood(f"{'/'.join((*folders, name))} in no class folder")
        return split, labels[0] if labels else None

    def _below_split(self, folders: Folders) -> Folders:
        return folders[1:] if folders and folders[0] in self.split_of else folders

    def _splits(self, tops: list[str]) -> dict[str, str]:
        named = {top: SPLIT_NAMES[top.lower()] for top in tops if top.lower() in SPLIT_NAMES}
        others = [top for top in tops if top not in named]
        # "crash_test" may be a class: a longer name is that of a split only if all folders have one, each its own.
        longer = {top: split for top in others if (split := _split_in(top))}
        if len(longer) == len(others) and not self.counts.keys() & {(top,) for top in others}:
            splits = [*named.values(), *longer.values()]
            if len(set(splits)) == len(splits) > 1:
                return named | longer
        if others and set(named.values()) - {"test"}:
            raise self._not_understood(f"{', '.join(named)} beside other folders")
        return named

    def _num_around(self, inner: list[Folders]) -> int:
        """The number of folders, one in the other, that hold all others and no video."""
        number = 0
        while inner and min(map(len, inner)) > number + 1 and len({folders[number] for folders in inner}) == 1:
            number += 1
        return number

    def _check_classes(self, in_classes: Counter[Folders]) -> None:
        """Each class folder must hold a video directly."""
        names = {folders[self.num_around] for folders in in_classes if len(folders) > self.num_around}
        with_videos = {folders[-1] for folders in in_classes if len(folders) == self.num_around + 1}
        if only_folders := sorted(names - with_videos):
            raise self._not_understood(f"folders without videos of their own ({_shown(only_folders)})")

    def _not_understood(self, problem: str) -> BadInputError:
        tops = Counter[str]()
        for folders, count in sorted(self.counts.items()):
            tops["/".join(folders[:2]) + "/" if folders else "the folder itself"] += count
        found = _shown([f"{folder} ({count})" for folder, count in tops.items()])
        expected = f"{self.root}/<class>/<video>, or train/, val/ and test/ with such class folders"
        return BadInputError(
            f"{self.root} has {problem}; it has videos in {found}, expected {expected}: move them, or name the class "
            f"folders with --classes FILE, one per line"
        )


def _split_in(name: str) -> str | None:
    """The split that a longer name has as one of its words, as in kinetics_train; None without or with several."""
    splits = {SPLIT_NAMES[word] for word in re.split(r"[^a-z]+", name.lower()) if word in SPLIT_NAMES}
    return splits.pop() if len(splits) == 1 else None


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
