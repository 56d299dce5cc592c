"""What rows made of videos: against loops, and the rates of metrics.py."""

import numpy as np
import pytest

from twostream.fusion.consensus import softmax
from twostream.metrics import accuracy
from twostream.metrics.confusion import confusion_order
from twostream.report.outcomes import Outcomes, quadrants


def judge(seed: int, *, videos=60, classes=7, name="RGB", labels=None) -> tuple[Outcomes, np.ndarray, np.ndarray]:
    """Random scores with ties, videos without scores and videos without label."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (videos, classes)).astype(float)
    scores[rng.random(videos) < 0.2] = np.nan
    labels = rng.integers(-1, classes, videos) if labels is None else labels
    return Outcomes.from_scores(name, scores, softmax(scores), labels), scores, labels


@pytest.mark.parametrize("seed", range(5))
def test_each_video_by_a_loop(seed):
    judged, scores, labels = judge(seed)
    before = scores.copy()
    for v, (row, label) in enumerate(zip(scores, labels, strict=True)):
        if np.isnan(row).any():
            assert not judged.is_scored[v] and not judged.is_correct[v] and judged.predicted[v] == -1
            continue
        others = [score for k, score in enumerate(row) if k != label]
        assert judged.is_correct[v] == (label >= 0 and row[label] > max(others))
        if judged.is_correct[v]:
            assert judged.predicted[v] == label
        else:
            assert judged.predicted[v] != label and row[judged.predicted[v]] == row.max()
        rest = [score for k, score in enumerate(row) if k != judged.predicted[v]]
        assert judged.runner_up[v] != judged.predicted[v] and row[judged.runner_up[v]] == max(rest)
        assert judged.confidence[v] == pytest.approx(np.exp(row.max()) / np.exp(row).sum())
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("seed", range(5))
def test_it_agrees_with_the_metrics(seed):
    judged, scores, labels = judge(seed)
    known = labels >= 0
    assert judged.is_correct[known].mean() == accuracy.top_k_accuracy(scores[known], labels[known], 1)
    class_accuracy = judged.class_accuracy(7)
    assert np.nanmean(class_accuracy) == pytest.approx(accuracy.mean_class_accuracy(scores[known], labels[known]))
    matrix = judged.confusion(7)
    assert np.trace(matrix) == judged.is_correct.sum() and matrix.sum() == (judged.is_scored & known).sum()
    bins = np.array(judged.reliability())
    gap = (bins[:, 0] * np.abs(bins[:, 1] - bins[:, 2])).sum() / bins[:, 0].sum()
    assert gap == pytest.approx(accuracy.calibration_error(softmax(scores)[known], labels[known]), abs=1e-12)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_quadrants_part_the_videos_that_all_streams_scored(number):
    labels = np.random.default_rng(9).integers(-1, 7, 60)
    streams = [judge(seed, name=f"S{seed}", labels=labels)[0] for seed in range(number)]
    groups = quadrants(streams)
    assert len(groups) == (2 if number == 1 else 4)
    everywhere = np.all([s.is_scored for s in streams], axis=0) & (labels >= 0)
    np.testing.assert_array_equal(np.sum([group.videos for group in groups], axis=0), everywhere)
    for group in groups:
        for word, stream in zip(group.title.split(", "), streams, strict=False):
            assert (stream.is_correct[group.videos] == (word == f"{stream.name} right")).all()


def test_one_class_and_no_videos():
    one = Outcomes.from_scores("RGB", np.ones((2, 1)), np.ones((2, 1)), np.array([0, -1]))
    assert one.is_correct.tolist() == [True, False] and one.confusion(1).tolist() == [[1]]
    none = Outcomes.from_scores("RGB", np.ones((0, 3)), np.ones((0, 3)), np.array([], int))
    assert np.isnan(none.class_accuracy(3)).all() and none.confusion(3).sum() == 0 and len(none.reliability()) == 15


@pytest.mark.parametrize("seed", range(3))
def test_confused_classes_stand_together(seed):
    """Groups of four that are taken for each other, shuffled: each is found again in one piece."""
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.repeat(np.arange(6), 4))
    matrix = 90 * np.eye(24, dtype=int) + rng.integers(1, 5, (24, 24)) * (group[:, None] == group)
    order = confusion_order(matrix)
    assert sorted(order) == list(range(24))
    found = group[order]
    assert (np.diff(found) != 0).sum() == 5
    assert confusion_order(np.zeros((3, 3), int)) and confusion_order(np.ones((1, 1), int)) == [0]
