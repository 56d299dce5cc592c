"""Accuracy and loss of single clips, against a computation without chunks."""

import dataclasses

import numpy as np
import pytest

from tests.tables import make_table
from twostream.fusion.clip_results import clip_ranks, frame_result
from twostream.fusion.consensus import softmax
from twostream.scores import table as table_module


@pytest.fixture(params=[4, 1000])
def chunk_size(request, monkeypatch):
    monkeypatch.setattr(table_module, "ROWS_AT_ONCE", request.param)


def test_frame_result_is_that_of_the_labelled_rows(chunk_size):
    table = make_table(seed=3, labels=(1, -1, 3))
    labels = table.row_labels
    has_label = labels >= 0
    is_hit = np.argsort(-table.logits[has_label], axis=1) == labels[has_label][:, None]
    result = frame_result(table)
    assert result.num_rows == has_label.sum() == 6
    assert result.loss == pytest.approx(-np.log(softmax(table.logits)[has_label, labels[has_label]]).mean(), rel=1e-6)
    assert (result.top1, result.top3) == (is_hit[:, 0].mean(), is_hit[:, :3].any(axis=1).mean())


def test_without_labels_everything_is_nan(chunk_size):
    result = frame_result(make_table(labels=(-1, -1, -1)))
    assert result.num_rows == 0 and np.isnan([result.loss, result.top1, result.top3]).all()


def test_rows_of_whole_videos_have_no_clip_ranks():
    table = dataclasses.replace(make_table(frames=1), provenance={"level": "video"})
    assert clip_ranks(table).shape == (0,)
