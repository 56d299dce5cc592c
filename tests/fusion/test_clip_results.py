"""Accuracy and loss of single clips, against computations without chunks."""

import dataclasses

import numpy as np
import pytest
from sklearn import metrics

from tests.tables import make_table
from twostream.fusion import clip_results
from twostream.fusion.clip_results import clip_ranks, frame_result, multi_label_frame_result
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


@pytest.mark.parametrize("at_once", [3, 1000])
def test_frame_result_of_multi_label_videos(monkeypatch, at_once):
    """Against scikit-learn, also where rows and classes are read in pieces; rows without a label do not count."""
    monkeypatch.setattr(clip_results, "ROWS_AT_ONCE", at_once)
    monkeypatch.setattr(clip_results, "CLASSES_AT_ONCE", at_once)
    labels = ((0, 1, 0, 1), (1, 0, 0, 1), (-1, -1, -1, -1))
    table = make_table(video_ids=("a", "b", "c"), labels=labels, multi_label=True, frames=5)
    result = multi_label_frame_result(table)
    logits, truth = table.logits[:10].astype(np.float64), np.repeat(labels[:2], 5, axis=0)
    assert result.loss == pytest.approx(np.log1p(np.exp(-np.where(truth == 1, logits, -logits))).mean(), rel=1e-9)
    of_classes = [metrics.average_precision_score(truth[:, k], logits[:, k]) for k in (0, 1, 3)]  # class 2 never occurs
    assert result.mean_average_precision == pytest.approx(np.mean(of_classes), abs=1e-9)
    of_rows = metrics.label_ranking_average_precision_score(truth, logits)
    assert result.mmit_mean_average_precision == pytest.approx(of_rows, abs=1e-9)
    assert len(clip_ranks(table)) == 0
