"""The choice of a validation split, and of folds."""

import random
from collections import Counter

import numpy as np
import pytest

from twostream.annotations.splits import choose_folds, choose_val, draw_folds, hold_out
from twostream.annotations.videos import NO_GROUP, Video, VideoTable
from twostream.errors import BadInputError

Videos = list[tuple[str, str, str]]
"""id, label, group"""


def videos(num: int = 40, *, groups: int = 0) -> Videos:
    """Ten videos of each of four classes; groups go across the classes."""
    return [(f"v{k:03d}", f"class{k % 4}", f"g{k % groups}" if groups else f"v{k:03d}") for k in range(num)]


def val_ids(listed: Videos, *, fraction: float = 0.25, seed: int = 1) -> set[str]:
    chosen = choose_val(listed, fraction=fraction, seed=seed)
    return {video_id for video_id, _, group in listed if group in chosen}


def test_fraction_applies_to_each_class():
    chosen = val_ids(videos())
    labels = Counter(label for video_id, label, _ in videos() if video_id in chosen)
    assert labels == {f"class{k}": 2 for k in range(4)}  # a quarter of ten, rounded to even


def test_the_choice_for_a_seed_stays():
    """Written down from the first version: another choice would mix old validation videos into training."""
    assert sorted(val_ids(videos())) == ["v011", "v017", "v024", "v030", "v031", "v032", "v033", "v034"]


@pytest.mark.parametrize("groups", [0, 7])
def test_split_depends_only_on_ids_and_seed(groups):
    listed = videos(groups=groups)
    mixed = random.Random(0).sample(listed, len(listed))
    assert val_ids(listed) == val_ids(mixed)
    assert any(val_ids(listed) != val_ids(listed, seed=seed) for seed in (2, 3, 4))


@pytest.mark.parametrize("fraction", [0.01, 0.25, 0.6, 0.99])
@pytest.mark.parametrize("seed", range(5))
def test_groups_are_never_split_and_some_are_left_for_training(fraction, seed):
    listed = videos(41, groups=5)
    chosen = val_ids(listed, fraction=fraction, seed=seed)
    groups = {side: {group for v, _, group in listed if (v in chosen) == side} for side in (True, False)}
    assert groups[True] and groups[False] and not groups[True] & groups[False]


@pytest.mark.parametrize("seed", range(5))
def test_no_class_loses_its_last_group(seed):
    """Groups of one class, of two and of all, and a class with one group only."""
    generator = random.Random(seed)
    listed = [(f"v{k}", f"class{generator.randrange(6)}", f"g{generator.randrange(9)}") for k in range(60)]
    listed += [("lonely", "class6", "g0")]
    chosen = val_ids(listed, fraction=0.9, seed=seed)
    assert chosen and {label for v, label, _ in listed if v not in chosen} == {f"class{k}" for k in range(7)}


def test_groups_are_chosen_per_class():
    listed = [(f"{c}{k:03d}", f"class{c}", f"{c}g{k // 4}") for c in range(30) for k in range(40)]
    chosen = val_ids(listed, fraction=0.2)
    labels = Counter(label for video_id, label, _ in listed if video_id in chosen)
    assert labels == {f"class{c}": 8 for c in range(30)}  # two of ten groups, of four videos each


@pytest.mark.parametrize("groups", [0, 5])
def test_fraction_0_chooses_no_video(groups):
    assert val_ids(videos(groups=groups), fraction=0) == set()


def test_only_video_of_a_class_is_for_training():
    assert val_ids(videos(4), fraction=0.9) == set()


# --------------------------------------------------------------------------------------------------------------- folds


@pytest.mark.parametrize("seed", range(3))
def test_folds_keep_groups_together_and_classes_even(seed):
    """Forty videos of four classes: in groups of two of a class, and alone."""
    labels = np.arange(40) % 4
    for groups in (np.full(40, NO_GROUP), np.arange(40) % 20):
        folds = choose_folds(labels, groups, num_folds=5, seed=seed)
        assert sorted(set(folds)) == [0, 1, 2, 3, 4]
        assert all(Counter(labels[folds == fold]) == {0: 2, 1: 2, 2: 2, 3: 2} for fold in range(5))
        assert all(len(set(folds[groups == group])) == 1 for group in set(groups) - {NO_GROUP})
    assert (choose_folds(labels, groups, num_folds=5, seed=seed) == folds).all()


@pytest.mark.parametrize(
    ("labels", "groups", "expected"),
    [
        ([0] * 9 + [1] * 3, [NO_GROUP] * 12, 3),  # as many as the smallest class has groups
        ([0] * 9 + [1] * 3, [*range(9), 0, 0, 1], 2),
        ([0, 0, 0, 1], [NO_GROUP] * 4, 2),  # a class of one video is allowed
        ([0, 0, 1, 1], [0, 1, 0, 1], 2),  # two people who do everything
    ],
)
def test_fewer_folds_where_a_class_has_few_groups(labels, groups, expected):
    folds = choose_folds(np.array(labels), np.array(groups), num_folds=5)
    assert sorted(set(folds)) == list(range(expected))


def test_draws_of_the_folds_differ():
    """With two people there is only one way to divide the videos, whatever the folds are called."""
    labels, alone = np.arange(40) % 4, np.full(40, NO_GROUP)
    draws = draw_folds(labels, alone, num_folds=5, num_draws=3, seed=7)
    assert draws.shape == (3, 40) and (draws[1] == choose_folds(labels, alone, num_folds=5, seed=8)).all()
    person = np.arange(40) // 20
    assert (draw_folds(labels, person, num_folds=5, num_draws=9, seed=7) == [person]).all() or (
        draw_folds(labels, person, num_folds=5, num_draws=9, seed=7) == [1 - person]
    ).all()


@pytest.mark.parametrize(("labels", "groups"), [([0, 0, 1, 1], [3] * 4), ([0, 1, 2], [NO_GROUP] * 3)])
def test_what_cannot_be_divided_is_refused(labels, groups):
    with pytest.raises(BadInputError, match="expected a class with at least 2, so that one can be held out"):
        choose_folds(np.array(labels), np.array(groups), num_folds=5)


@pytest.mark.parametrize("several", [False, True])
def test_a_fold_is_held_out_whole(several):
    """Of videos with one label, and of some with several, whose sets of labels differ everywhere."""
    names = [f"class{k % 3}" for k in range(12)]
    labels = [(name, f"x{k}") if several else name for k, name in enumerate(names)]
    videos = VideoTable.of(Video(f"v{k:02}", "train", labels[k], 9, group=k // 2) for k in range(12))
    parts = [hold_out(videos, (fold, 2)) for fold in range(2)]
    assert sorted(parts[0][1].ids) == sorted(parts[1][0].ids) and len(parts[0][0]) + len(parts[0][1]) == 12
    assert not set(parts[0][0].group) & set(parts[0][1].group)
