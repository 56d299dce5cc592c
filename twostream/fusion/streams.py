"""Streams joined by video id, and their weighted fusion."""

from collections.abc import Sequence
from functools import reduce

import numpy as np

from twostream.annotations.class_names import class_difference
from twostream.errors import BadInputError
from twostream.scores.table import ScoreTable


def fuse(scores: list[np.ndarray], weights: tuple[float, ...]) -> np.ndarray:
    """Weighted mean of S arrays (..., K) whose rows mean the same; NaN where one of them has none."""
    total = sum(weights)
    return sum(weight / total * array for weight, array in zip(weights, scores, strict=True))


def join(
    tables: list[ScoreTable], names: list[str], *, intersect: bool = False
) -> tuple[list[ScoreTable], dict[str, list[str]]]:
    """The tables, with the same videos in the same order; and by sentence the ids by which they differed.

    Videos and clips that not all tables list are refused (BadInputError), or left out with `intersect`; another split,
    other classes or another label of a video are refused always. A video of the split that a table has no clip of is
    no difference: it stays, without score.
    """
    first = tables[0]
    for table, name in zip(tables[1:], names[1:], strict=True):
        pair = f"{names[0]} and {name} cannot be fused"
        if table.split != first.split:
            raise BadInputError(f"{pair}: splits {first.split!r} and {table.split!r}; score the same one")
        if table.classes != first.classes:
            raise BadInputError(f"{pair}: {class_difference(first.classes, table.classes)}; train on the same ones")
        _, ours, theirs = np.intersect1d(first.video_ids, table.video_ids, assume_unique=True, return_indices=True)
        other = first.labels[ours] != table.labels[theirs]
        if other.any():
            raise BadInputError(
                f"{pair}: {other.sum()} videos have other labels ({_first_five(first.video_ids[ours][other])}); "
                "score the same annotations"
            )
    differences = {}
    common = reduce(np.intersect1d, [table.video_ids for table in tables])
    for table, name in zip(tables, names, strict=True):
        if len(table.video_ids) > len(common):
            differences[f"videos listed by {name} and not by all"] = np.setdiff1d(table.video_ids, common).tolist()
    if differences and not (intersect and len(common)):
        raise BadInputError(_mismatch(names, differences, "score the same annotations"))
    tables = [table.only(common) for table in tables]

    frames = [(table, name) for table, name in zip(tables, names, strict=True) if table.level == "frames"]
    for table, name in frames[1:]:
        if len(other := _videos_of_other_clips(frames[0][0], table)):
            sentence = f"videos of which {frames[0][1]} and {name} scored different frames"
            differences[sentence] = table.video_ids[other].tolist()
            if not intersect:
                raise BadInputError(
                    _mismatch(names, differences, "score with the same --frame_step or --num_clips, and --views")
                )
    return tables, differences


def _first_five(ids: Sequence[str]) -> str:
    return "first " + ", ".join(repr(str(video_id)) for video_id in ids[:5])


def _mismatch(names: list[str], differences: dict[str, list[str]], remedy: str) -> str:
    found = "; ".join(f"{len(ids)} {sentence} ({_first_five(ids)})" for sentence, ids in differences.items())
    return f"{' and '.join(names)} cannot be fused: {found}; {remedy}, or add --intersect to take what all have"


def _videos_of_other_clips(one: ScoreTable, other: ScoreTable) -> np.ndarray:
    """Places of the videos that both tables scored, but not by the same clips.

    Where clips of one are longer, they end earlier in the video, so that the last starts of the other are its own.
    """
    if all(np.array_equal(getattr(one, key), getattr(other, key)) for key in ("video_index", "start", "view")):
        return np.array([], int)
    differing = np.zeros(len(one.video_ids), bool)
    for (table, longer), common in zip(((one, other), (other, one)), common_rows([one, other]), strict=True):
        alone = np.ones(len(table.start), bool)
        alone[common] = False
        last = np.full(len(table.video_ids), -1)
        last[longer.video_index] = longer.start  # rows are in order: the last one stays
        alone &= last[table.video_index] >= 0
        if longer.clip_extent > table.clip_extent:
            alone &= table.start < last[table.video_index]
        differing[table.video_index[alone]] = True
    return np.flatnonzero(differing)


def common_rows(tables: list[ScoreTable]) -> list[np.ndarray]:
    """For each table the rows whose (video, start, view) all tables have, in the same order."""
    keys = [(table.video_index, table.start, table.view) for table in tables]
    extent = [1 + max(int(part.max()) for part in parts) for parts in zip(*keys, strict=True)]
    packed = [np.ravel_multi_index(key, extent) for key in keys]  # one ascending integer a row: tables are sorted
    common = packed[0]
    for other in packed[1:]:
        common = np.intersect1d(common, other, assume_unique=True)
    return [np.searchsorted(rows, common) for rows in packed]
