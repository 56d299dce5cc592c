"""Streams aligned by video id, and their weighted fusion."""

from collections.abc import Sequence
from functools import reduce
from itertools import combinations
from typing import Any

import numpy as np

from twostream.annotations.class_names import class_difference
from twostream.counts import counted
from twostream.errors import BadInputError
from twostream.metrics.accuracy import labels_differ
from twostream.scores.table import ScoreTable


def fuse(scores: list[np.ndarray], weights: tuple[float, ...]) -> np.ndarray:
    """Weighted mean of S arrays (..., K) with corresponding rows; the weights are divided by their sum.

    A row is NaN if it is NaN in any of the arrays.
    """
    total = sum(weights)
    return np.asarray(sum(weight / total * array for weight, array in zip(weights, scores, strict=True)))


def align_tables(
    tables: list[ScoreTable], names: list[str], *, intersect: bool = False
) -> tuple[list[ScoreTable], dict[str, list[str]]]:
    """The tables restricted to the videos that all of them list; and the ids that differ, by a sentence that says how.

    BadInputError if splits, classes or labels differ. The same if only some of the tables list a video or a clip,
    unless `intersect` says to leave those out. Other clips are no difference where `are_joined_by_video` is true. A listed
    video without clips is no difference: it stays, without a score.
    """
    _check_same_annotations(tables, names)
    differences = {}
    common = reduce(np.intersect1d, [table.video_ids for table in tables])
    for table, name in zip(tables, names, strict=True):
        if len(table.video_ids) > len(common):
            differences[f"videos listed by {name} and not by all"] = np.setdiff1d(table.video_ids, common).tolist()
    if differences and not (intersect and len(common)):
        raise BadInputError(_mismatch(names, differences, "score them with the same annotations"))
    tables = [table.only(common) for table in tables]

    with_frames = [(table, name) for table, name in zip(tables, names, strict=True) if table.level == "frames"]
    for number, (table, name) in enumerate(with_frames):
        comparable = (pair for pair in with_frames[:number] if not are_joined_by_video([pair[0], table]))
        first_table, first_name = next(comparable, (table, name))
        videos = _videos_with_other_clips(first_table, table)
        if len(videos):
            sentence = f"videos of which {first_name} and {name} scored different frames"
            differences[sentence] = table.video_ids[videos].tolist()
            if not intersect:
                raise BadInputError(
                    _mismatch(names, differences, "score them with the same --frame_step or --num_clips, and --views")
                )
    return tables, differences


def _check_same_annotations(tables: list[ScoreTable], names: list[str]) -> None:
    """BadInputError if splits, classes or labels of the videos in common differ."""
    first = tables[0]
    for table, name in zip(tables[1:], names[1:], strict=True):
        pair = f"{names[0]} and {name} cannot be fused"
        if table.split != first.split:
            raise BadInputError(f"{pair}: they score splits {first.split!r} and {table.split!r}; score the same split")
        if table.classes != first.classes:
            difference = class_difference(first.classes, table.classes)
            raise BadInputError(f"{pair}: they have {difference}; train both on the same classes")
        if table.is_multi_label != first.is_multi_label:
            raise BadInputError(
                f"{pair}: the videos have a list of labels in one of them, and one label in the other; train both on the "
                "same annotations"
            )
        _, ours, theirs = np.intersect1d(first.video_ids, table.video_ids, assume_unique=True, return_indices=True)
        differs = labels_differ(first.labels[ours], table.labels[theirs])
        if differs.any():
            raise BadInputError(
                f"{pair}: {counted(int(differs.sum()), 'video has', 'videos have')} different labels ({_first_five(first.video_ids[ours][differs])}); "
                "score them with the same annotations"
            )


def _first_five(ids: Sequence[str]) -> str:
    return "first " + ", ".join(repr(str(video_id)) for video_id in ids[:5])


def counted_difference(ids: Sequence[str], sentence: str) -> str:
    """A difference that `align_tables` found, with its number: "1 video listed by ..."."""
    return f"{counted(len(ids), 'video')}{sentence.removeprefix('videos')}"


def _mismatch(names: list[str], differences: dict[str, list[str]], remedy: str) -> str:
    found = "; ".join(
        f"{counted_difference(ids, sentence)} ({_first_five(ids)})" for sentence, ids in differences.items()
    )
    return f"{' and '.join(names)} cannot be fused: {found}; {remedy}, or add --intersect to use only what all streams have"


def _videos_with_other_clips(first: ScoreTable, second: ScoreTable) -> np.ndarray:
    """Indices of the videos that both tables scored, but with different clips.

    Longer clips end earlier in a video, so the last starts of shorter clips may be in one table only.
    """
    if all(np.array_equal(getattr(first, key), getattr(second, key)) for key in ("video_index", "start", "view")):
        return np.array([], int)
    differs = np.zeros(len(first.video_ids), bool)
    pairs = ((first, second), (second, first))
    for (table, partner), common in zip(pairs, common_rows([first, second]), strict=True):
        is_alone = np.ones(len(table.start), bool)
        is_alone[common] = False
        last_start = np.full(len(table.video_ids), -1)
        last_start[partner.video_index] = partner.start  # rows are in order: the last assignment of a video stays
        is_alone &= last_start[table.video_index] >= 0
        is_shorter = partner.clip_extents > table.clip_extents
        is_alone &= ~is_shorter[table.video_index] | (table.start < last_start[table.video_index])
        differs[table.video_index[is_alone]] = True
    return np.flatnonzero(differs)


def are_joined_by_video(tables: Sequence[ScoreTable]) -> bool:
    """May two of the tables have other clips of a video, so that only videos are fused?

    They may if they have the same number of evenly spaced clips (--num_clips) in the same views: where these differ in
    length, they begin at other frames, but are the same parts of the video. And they may if clips of another length were
    chosen in another way on purpose: a stream of frames with --frame_step=2 beside one of clips with --num_clips=10.
    """
    return any(_are_spread_alike(*pair) or _were_chosen_otherwise(*pair) for pair in combinations(tables, 2))


def _are_spread_alike(first: ScoreTable, second: ScoreTable) -> bool:
    choices = {(t.provenance.get("num_clips"), *np.unique(t.view).tolist()) for t in (first, second)}
    return len(choices) == 1 and None not in next(iter(choices))


def _were_chosen_otherwise(first: ScoreTable, second: ScoreTable) -> bool:
    def length(table: ScoreTable) -> tuple[int, int]:
        return table.stream.get("clip_len", 1), table.stream.get("frame_stride", 1)

    def choice(table: ScoreTable) -> list[Any]:
        return [table.provenance.get(name) for name in ("num_clips", "frame_step", "spread", "views")]

    is_recorded = any(choice(first)[:2]) and any(choice(second)[:2])
    return is_recorded and length(first) != length(second) and choice(first) != choice(second)


def common_rows(tables: list[ScoreTable]) -> list[np.ndarray]:
    """For each table the indices of the rows whose (video, start, view) all tables have, in the same order."""
    keys = [(table.video_index, table.start, table.view) for table in tables]
    extent = [1 + max(int(part.max()) for part in parts) for parts in zip(*keys, strict=True)]
    packed = [np.ravel_multi_index(key, extent) for key in keys]  # one ascending integer a row: tables are sorted
    common = packed[0]
    for rows in packed[1:]:
        common = np.intersect1d(common, rows, assume_unique=True)
    return [np.searchsorted(rows, common) for rows in packed]
