"""The choice of a validation split."""

import itertools
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator

from twostream.annotations.lists import Listed
from twostream.errors import BadInputError


def assign_splits(listed: Iterable[Listed], *, val_fraction: float, seed: int) -> Iterable[Listed]:
    """Give every entry a split: its own, or else "val" for about `val_fraction` of them and "train" for the rest.

    Without groups the fraction is taken of each class (at least one video of it, at most all but one); groups go to
    one side whole. The result depends on the ids and the seed only, not on the order of the list. Entries that have
    splits pass through one by one; to choose, all of them are held.
    """
    listed = iter(listed)
    for first in listed:
        if first.split is None:
            return _chosen_splits([first, *listed], val_fraction, random.Random(seed))
        return _checked_splits(itertools.chain([first], listed))
    return []


def _checked_splits(listed: Iterable[Listed]) -> Iterator[Listed]:
    for entry in listed:
        if entry.split is None:
            raise BadInputError(f"{entry.where}: no split, but other entries have one; give all or none")
        yield entry


def _chosen_splits(listed: list[Listed], val_fraction: float, shuffler: random.Random) -> list[Listed]:
    for entry in listed:
        if entry.split is not None:
            raise BadInputError(f"{listed[0].where}: no split, but {entry.where} has one; give all or none")
    grouped = any(entry.group for entry in listed)
    chosen = (_choose_groups if grouped else _choose_videos)(listed, val_fraction, shuffler)
    return [entry._replace(split="val" if entry.ids[0] in chosen else "train") for entry in listed]


def _choose_videos(listed: list[Listed], fraction: float, shuffler: random.Random) -> set[str]:
    ids_of = defaultdict(list)
    for entry in listed:
        ids_of[entry.label or ""].append(entry.ids[0])
    chosen: set[str] = set()
    for _, ids in sorted(ids_of.items()):
        ids.sort()
        shuffler.shuffle(ids)
        count = min(max(round(len(ids) * fraction), 1), len(ids) - 1) if fraction > 0 else 0
        chosen.update(ids[:count])
    return chosen


def _choose_groups(listed: list[Listed], fraction: float, shuffler: random.Random) -> set[str]:
    ids_of = defaultdict(list)
    for entry in listed:
        ids_of[entry.group].append(entry.ids[0])
    groups = sorted(ids_of)
    shuffler.shuffle(groups)
    chosen: set[str] = set()
    for group in groups[1:]:  # one group at least is left to train on
        if len(chosen) >= fraction * len(listed):
            break
        chosen.update(ids_of[group])
    return chosen
