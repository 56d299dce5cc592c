"""ScoreTable: order of rows, subsets of videos, chunks."""

import dataclasses

import numpy as np

from tests.tables import assert_same_table, make_table
from twostream.scores import table as table_module
from twostream.scores.table import is_ascending


def shuffled(table, seed=0):
    """The same scores with videos and rows in another order."""
    rng = np.random.default_rng(seed)
    rows, videos = rng.permutation(len(table.logits)), rng.permutation(len(table.video_ids))
    return dataclasses.replace(
        table,
        video_ids=table.video_ids[videos],
        labels=table.labels[videos],
        video_index=np.argsort(videos)[table.video_index][rows].astype(np.int32),
        **{name: getattr(table, name)[rows] for name in ("start", "view", "logits")},
    )


def test_sorting_undoes_any_order():
    table = make_table()
    for seed in range(5):
        assert_same_table(shuffled(table, seed).sorted(), table)
    assert table.sorted() is table, "a sorted table is not copied"


def test_a_table_of_some_videos_has_their_rows():
    table = make_table(video_index=[0, 0, 1, 2, 2])
    part = table.only(np.array(["a", "c", "not listed"]))
    assert part.video_ids.tolist() == ["a", "c"]
    for video_id in part.video_ids:
        rows, part_rows = (t.video_ids[t.video_index] == video_id for t in (table, part))
        np.testing.assert_array_equal(part.logits[part_rows], table.logits[rows])
        np.testing.assert_array_equal(part.row_labels[part_rows], table.row_labels[rows])
    assert table.only(table.video_ids) is table


def test_unscored_videos_are_those_with_a_label_and_no_row():
    table = make_table(video_ids=("a", "b", "c"), labels=(0, 1, -1), video_index=[0])
    assert table.unscored_ids == ["b"]


def test_chunks_cover_all_rows(monkeypatch):
    monkeypatch.setattr(table_module, "ROWS_AT_ONCE", 4)
    table = make_table()
    assert np.concatenate([np.arange(9)[chunk] for chunk in table.chunks()]).tolist() == list(range(9))
    assert max(len(table.logits[chunk]) for chunk in table.chunks()) == 4


def test_clip_extent_is_from_first_to_last_frame():
    table = make_table()
    assert table.clip_extents.tolist() == [0] * len(table.video_ids)
    stacked = dataclasses.replace(table, stream=table.stream | {"clip_len": 5, "frame_stride": 3})
    assert set(stacked.clip_extents.tolist()) == {12}
    assert dataclasses.replace(stacked, extents=np.array([5, 9, 12])).clip_extents.tolist() == [5, 9, 12]


def test_keys_ascend_if_each_row_is_after_the_one_before():
    assert is_ascending(np.array([1, 1, 2]), np.array([1, 2, 0]))
    assert not is_ascending(np.array([1, 1, 2]), np.array([2, 2, 0]))
    assert not is_ascending(np.array([2, 1]), np.array([0, 1]))
    assert is_ascending(np.array([5]))
