"""The choice of a validation split, and of folds for cross-validation."""

import random
import warnings
from collections import defaultdict
from collections.abc import Hashable, Iterable

import numpy as np

from twostream.annotations.videos import NO_GROUP, VideoTable
from twostream.counts import counted
from twostream.errors import BadInputError

VAL_FRACTION = 0.2
"""share of the videos that becomes val, unless --val_fraction says otherwise"""


def choose_val(
    videos: Iterable[tuple[str, str, Hashable]], *, fraction: float = VAL_FRACTION, seed: int = 0
) -> set[Hashable]:
    """The groups that become "val", of videos given as (id, label, group); the others become "train".

    The videos of a group stay together; a video that is in no group is its own. Of the groups of each class, about
    `fraction` are chosen: at least one, and never all of them. The result depends only on the ids, the groups and the
    seed, not on the order of the videos.
    """
    first_id: dict[Hashable, str] = {}  # by group; it orders the groups
    groups_of: defaultdict[str, set[Hashable]] = defaultdict(set)  # by label
    labels_of: defaultdict[Hashable, set[str]] = defaultdict(set)  # by group
    for video_id, label, group in videos:
        first_id[group] = min(video_id, first_id.get(group, video_id))
        groups_of[label].add(group)
        labels_of[group].add(label)
    shuffler = random.Random(seed)
    num_train = {label: len(groups) for label, groups in groups_of.items()}
    chosen: set[Hashable] = set()
    for label in sorted(groups_of):
        groups = sorted(groups_of[label], key=first_id.__getitem__)
        shuffler.shuffle(groups)
        count = min(max(round(len(groups) * fraction), 1), len(groups) - 1) if fraction > 0 else 0
        for group in groups:
            if len(groups) - num_train[label] >= count:  # also groups that were chosen for another class
                break
            if group not in chosen and all(num_train[name] > 1 for name in labels_of[group]):
                chosen.add(group)
                for name in labels_of[group]:
                    num_train[name] -= 1
    return chosen


def choose_folds(labels: np.ndarray, groups: np.ndarray, *, num_folds: int, seed: int = 0) -> np.ndarray:
    """The fold, 0 ... F - 1, of each of V videos, int64 (V,), for cross-validation.

    `labels` are label indices (V,), and `groups` (V,) numbers of groups, NO_GROUP for a video of its own. The videos of a
    group share a fold, and each fold has about the same share of each class. F is `num_folds`, or less where a class has
    fewer groups, so that the other folds can still teach it; but at least 2. Raises BadInputError where all videos are in
    one group.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    own = np.where(groups == NO_GROUP, -1 - np.arange(len(groups)), groups)
    groups_of_classes = [len(np.unique(own[labels == label])) for label in np.unique(labels)]
    if len(np.unique(own)) < 2 or max(groups_of_classes) < 2:
        raise BadInputError(
            f"{counted(len(labels), 'training video')} in {counted(len(np.unique(own)), 'group')}, at most {max(groups_of_classes)} "
            "of a class; expected a class with at least 2, so that one can be held out: add videos of other sources or people"
        )
    splitter = StratifiedGroupKFold(max(min(num_folds, *groups_of_classes), 2), shuffle=True, random_state=seed)
    folds = np.zeros(len(labels), np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with a single group, which this allows
        for fold, (_, held_out) in enumerate(splitter.split(labels, labels, own)):
            folds[held_out] = fold
    return np.unique(folds, return_inverse=True)[1]  # large groups may leave a fold empty


def draw_folds(labels: np.ndarray, groups: np.ndarray, *, num_folds: int, num_draws: int, seed: int) -> np.ndarray:
    """Several draws of `choose_folds`, int64 (draws, V); of equal ones, as where there are few groups, only the first."""
    draws = np.stack(
        [choose_folds(labels, groups, num_folds=num_folds, seed=seed + number) for number in range(num_draws)]
    )
    first_videos = np.stack([np.unique(draw, return_index=True)[1][draw] for draw in draws])  # of each video's fold
    return draws[np.sort(np.unique(first_videos, axis=0, return_index=True)[1])]


def hold_out(videos: VideoTable, fold: tuple[int, int], *, seed: int = 0) -> tuple[VideoTable, VideoTable]:
    """The videos outside fold I of N, and those in it; see `choose_folds`.

    Raises BadInputError where the videos make fewer folds, as their smallest class has fewer groups.
    """
    number, num_folds = fold
    labels = (
        np.zeros(len(videos), np.int64) if videos.is_multi_label else videos.label_index
    )  # sets of labels hardly repeat
    folds = choose_folds(labels, videos.group, num_folds=num_folds, seed=seed)
    if num_folds != folds.max() + 1:
        raise BadInputError(
            f"--fold={number}/{num_folds}: the training videos make {folds.max() + 1} folds, because a class has no more groups of videos than "
            f"that; expected --fold=0/{folds.max() + 1} up to --fold={folds.max()}/{folds.max() + 1}"
        )
    return videos[folds != number], videos[folds == number]
