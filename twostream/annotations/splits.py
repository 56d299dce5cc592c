"""The choice of a validation split."""

import random
from collections import defaultdict
from collections.abc import Hashable, Iterable

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
