"""Which clips are from one source or show one person, as far as that can be told, and a validation split that respects it."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from twostream.annotations.splits import VAL_FRACTION, choose_val
from twostream.counts import counted
from twostream.own_clips.collection import Clip, shown

SAME_BITS = 5
"""by how many of 64 bits the fingerprints of first frames may differ, if these are nearly the same picture"""
NUMBERED = re.compile(
    r"(?:^|[^a-z])(person|subject|subj|actor|player|user|people|video|source|scene|session|seq|sequence)[ _-]?(\d+)(?=[^0-9]|$)",
    re.IGNORECASE,
)


def from_names(clips: Sequence[Clip]) -> tuple[list[str], str]:
    """The group of each clip by the names of the files, and a sentence that says what it is; "" and no groups if none fits.

    A rule fits if some clips share a group, and no class has all of its clips in one.
    """
    for rule, sentence in RULES.items():
        groups = [rule(clip) for clip in clips]
        if splits_each_class(groups, [clip.label for clip in clips]):
            return groups, sentence
    return [""] * len(clips), ""


def _ucf_group(clip: Clip) -> str:
    match = re.search(r"(.*_g\d+)_c\d+$", clip.path.stem)
    return match[1] if match else ""


def _numbered_source(clip: Clip) -> str:
    found = NUMBERED.findall(clip.path.stem)
    return " ".join(f"{word.lower()}{int(number)}" for word, number in found[:1])


def _cut_from(clip: Clip) -> str:
    match = re.fullmatch(r"(.+)_\d{6}(?:\.\d+)?_\d{6}(?:\.\d+)?", clip.path.stem)
    return match[1] if match else (clip.path.stem if clip.segment else "")


def _before_class(clip: Clip) -> str:
    label = re.escape(clip.label).replace("\\ ", "[ _-]")
    match = re.match(rf"(.+?)[ _-]+{label}(?![a-z])", clip.path.stem, re.IGNORECASE)
    return match[1] if match else ""


def _before_number(clip: Clip) -> str:
    match = re.fullmatch(r"(.*[^\d ._(-])[ ._-]*(?:clip|part|cut|c|p)?[ ._-]*\(?\d+\)?", clip.path.stem, re.IGNORECASE)
    return match[1] if match else ""


RULES: dict[Callable[[Clip], str], str] = {
    _ucf_group: "the groups of UCF101 in the file names (_g01_c02)",
    _numbered_source: "the person or source in the file names (person03)",
    _cut_from: "the video that clips were cut from",
    _before_class: "what the file names have before the class",
    _before_number: "what the file names have before their last number",
}
"""rule -> what the groups are; the first one that fits is used"""


def splits_each_class(groups: Sequence[str], labels: Sequence[str]) -> bool:
    """Do some clips share a group, while each class with several clips has several groups?"""
    groups_of = defaultdict(list)
    for number, (group, label) in enumerate(zip(groups, labels, strict=True)):
        groups_of[label].append(group or f"/{number}")
    shared = Counter(group for group in groups if group)
    return bool(shared) and max(shared.values()) > 1 and all(
        len(found) == 1 or len(set(found)) > 1 for found in groups_of.values()
    )  # fmt: skip


def join_near_duplicates(groups: Sequence[str], fingerprints: Sequence[int | None], labels: Sequence[str]) -> list[str]:
    """The groups, with those joined whose clips begin with nearly the same picture; unchanged if that splits no class.

    A `fingerprint` is None where it is unknown. Clips of a fixed camera all begin with nearly the same picture; that says
    nothing about their source, so a class that would be one group stays as it is.
    """
    known = np.array([number for number, bits in enumerate(fingerprints) if bits is not None], int)
    values = np.array([bits for bits in fingerprints if bits is not None], np.uint64)
    first: dict[str, int] = {}
    pairs = [(number, first.setdefault(group, number)) for number, group in enumerate(groups) if group]
    for row, number in enumerate(known):
        bits = np.unpackbits((values[row + 1 :] ^ values[row]).view(np.uint8).reshape(-1, 8), axis=1).sum(axis=1)
        pairs += [(number, other) for other in known[row + 1 :][bits <= SAME_BITS]]
    rows, columns = np.array(pairs, int).reshape(-1, 2).T
    graph = csr_array((np.ones(len(rows), bool), (rows, columns)), shape=(len(groups), len(groups)))
    _, component = connected_components(graph, directed=False)
    roots = np.unique(component, return_index=True)[1][component].tolist()  # the first clip of each component
    sizes = Counter(roots)
    joined = [groups[top] or f"like {top}" if sizes[top] > 1 else groups[n] for n, top in enumerate(roots)]
    return joined if splits_each_class(joined, labels) else list(groups)


def hold_out_val(clips: Sequence[Clip], groups: Sequence[str], *, seed: int) -> list[str]:
    """The split of each clip, train or val: about a fifth of the groups of each class is val, and never all of one."""
    keys = [f"/{group}" if group else clip.id for clip, group in zip(clips, groups, strict=True)]
    chosen = choose_val(((clip.id, clip.label, key) for clip, key in zip(clips, keys, strict=True)), seed=seed)
    return ["val" if key in chosen else "train" for key in keys]


def split_clips(
    clips: Sequence[Clip], fingerprints: Mapping[str, int], *, group_column: str, seed: int
) -> tuple[list[tuple[str, str]], list[str]]:
    """The split and the group of each clip, and sentences that say how they were chosen.

    A split that the list gives is kept; test videos take the place of val where there is none. Without one, val is held
    out by groups: those of the list, or else of file names and of first frames that are nearly the same.
    """
    labels, reasons = [clip.label for clip in clips], []
    groups, source = (
        [clip.group for clip in clips],
        f"column {group_column!r}" if group_column else "the groups of the list",
    )
    if not any(groups):
        groups, source = from_names(clips)
        joined = join_near_duplicates(groups, [fingerprints.get(clip.id) for clip in clips], labels)
        if joined != groups:
            groups, source = joined, " and ".join(filter(None, [source, "first frames that are nearly the same"]))
    num_groups = len({group for group in groups if group}) + groups.count("")
    if any(groups):
        reasons.append(
            f"{counted(num_groups, 'source')} by {source}: clips of one source are never both learned from and judged on"
        )
    else:
        reasons.append("each clip counts as a source of its own: file names and first frames do not say more")
    given = {clip.split for clip in clips if clip.split}
    if given & {"val", "test"}:
        judged = "val" if "val" in given else "test"
        splits = ["val" if clip.split == judged else clip.split or "train" for clip in clips]
        where = "" if judged == "val" else ", as the list has no val"
        reasons.append(f"val is the {judged} split of the list, {counted(splits.count('val'), 'clip')}{where}")
    else:
        splits = hold_out_val(clips, groups, seed=seed)
        chosen = len({group or number for number, group in enumerate(groups) if splits[number] == "val"})
        reasons.append(
            f"val: {counted(splits.count('val'), 'clip')} of {len(clips)} held out, {chosen} of {counted(num_groups, 'source')}: about "
            f"{100 * VAL_FRACTION:.0f} % of each class"
        )
    reasons += _lacking(labels, splits)
    to_learn = [number for number, split in enumerate(splits) if split == "train"]
    if not _can_be_folded([groups[n] for n in to_learn], [labels[n] for n in to_learn]):
        groups = ["" if split == "train" else group for split, group in zip(splits, groups, strict=True)]
        reasons.append(
            "too few sources are left to learn from: cross-validation is by clip, which is too hopeful; the val result is not"
        )
    return list(zip(splits, groups, strict=True)), reasons


def _lacking(labels: Sequence[str], splits: Sequence[str]) -> list[str]:
    """A sentence for each split that some class has no clip of."""
    found = set(zip(labels, splits, strict=True))
    meaning = {"train": "it is never predicted", "val": "how often it is recognised stays unknown"}
    absent = {split: sorted(label for label in set(labels) if (label, split) not in found) for split in meaning}
    return [f"no {split} clip of {shown(absent[split])}: {text}" for split, text in meaning.items() if absent[split]]


def _can_be_folded(groups: Sequence[str], labels: Sequence[str]) -> bool:
    """Has a class several groups, so that one can be held out in cross-validation?"""
    groups_of = defaultdict(set)
    for number, (group, label) in enumerate(zip(groups, labels, strict=True)):
        groups_of[label].add(group or number)
    return any(len(found) > 1 for found in groups_of.values())
