"""The choice of a validation split."""

import random
from collections import Counter

import pytest

from twostream.annotations.lists import Listed
from twostream.annotations.splits import assign_splits
from twostream.errors import BadInputError


def without_split(num: int = 40, *, groups: int = 0) -> list[Listed]:
    return [
        Listed((f"v{k:03d}",), f"class{k % 4}", None, "list", k + 1, f"g{k % groups}" if groups else "")
        for k in range(num)
    ]


def val_ids(listed: list[Listed], **keywords) -> set[str]:
    options = {"val_fraction": 0.25, "seed": 1} | keywords
    return {entry.ids[0] for entry in assign_splits(listed, **options) if entry.split == "val"}


def test_fraction_applies_to_each_class():
    listed = without_split()
    chosen = val_ids(listed)
    labels = Counter(entry.label for entry in listed if entry.ids[0] in chosen)
    assert labels == {f"class{k}": 2 for k in range(4)}  # a quarter of ten, rounded to even


@pytest.mark.parametrize("groups", [0, 7])
def test_split_depends_only_on_ids_and_seed(groups):
    listed = without_split(groups=groups)
    mixed = random.Random(0).sample(listed, len(listed))
    assert val_ids(listed) == val_ids(mixed)
    assert any(val_ids(listed) != val_ids(listed, seed=seed) for seed in (2, 3, 4))


@pytest.mark.parametrize("fraction", [0.01, 0.25, 0.6, 0.99])
@pytest.mark.parametrize("seed", range(5))
def test_groups_are_never_split_and_some_are_left_for_training(fraction, seed):
    listed = without_split(41, groups=5)
    chosen = val_ids(listed, val_fraction=fraction, seed=seed)
    groups = {side: {e.group for e in listed if (e.ids[0] in chosen) == side} for side in (True, False)}
    assert groups[True] and groups[False] and not groups[True] & groups[False]


@pytest.mark.parametrize("groups", [0, 5])
def test_fraction_0_chooses_no_video(groups):
    assert val_ids(without_split(groups=groups), val_fraction=0) == set()


def test_only_video_of_a_class_is_for_training():
    assert val_ids(without_split(4), val_fraction=0.9) == set()


def test_given_splits_are_kept_and_incomplete_ones_refused():
    listed = without_split(4)
    given = [entry._replace(split="test") for entry in listed]
    assert list(assign_splits(given, val_fraction=0.5, seed=0)) == given
    assert list(assign_splits([], val_fraction=0.5, seed=0)) == []
    for mixed in ([given[0], *listed[1:]], [listed[0], *given[1:]]):
        with pytest.raises(BadInputError, match="line [12]: no split"):
            list(assign_splits(mixed, val_fraction=0.5, seed=0))
