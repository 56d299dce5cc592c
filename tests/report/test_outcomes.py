"""Outcomes of rows against loops over the videos, and against the metrics."""

import numpy as np
import pytest

from twostream.fusion.consensus import softmax
from twostream.metrics import accuracy
from twostream.report.outcomes import Outcomes, quadrants


def make_outcomes(
    seed: int, *, videos=60, classes=7, name="RGB", labels=None
) -> tuple[Outcomes, np.ndarray, np.ndarray]:
    """Outcomes, scores and labels: random, with ties, with videos without scores and videos without a label."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (videos, classes)).astype(float)
    scores[rng.random(videos) < 0.2] = np.nan
    labels = rng.integers(-1, classes, videos) if labels is None else labels
    return Outcomes.from_scores(name, scores, softmax(scores), labels), scores, labels


@pytest.mark.parametrize("seed", range(5))
def test_outcomes_equal_a_loop_over_the_videos(seed):
    outcomes, scores, labels = make_outcomes(seed)
    before = scores.copy()
    for v, (row, label) in enumerate(zip(scores, labels, strict=True)):
        if np.isnan(row).any():
            assert not outcomes.is_scored[v] and not outcomes.is_correct[v] and outcomes.predicted[v] == -1
            continue
        others = [score for k, score in enumerate(row) if k != label]
        assert outcomes.is_correct[v] == (label >= 0 and row[label] > max(others))
        if outcomes.is_correct[v]:
            assert outcomes.predicted[v] == label
        else:
            assert outcomes.predicted[v] != label and row[outcomes.predicted[v]] == row.max()
        rest = [score for k, score in enumerate(row) if k != outcomes.predicted[v]]
        assert outcomes.runner_up[v] != outcomes.predicted[v] and row[outcomes.runner_up[v]] == max(rest)
        assert outcomes.confidence[v] == pytest.approx(np.exp(row.max()) / np.exp(row).sum())
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("seed", range(5))
def test_outcomes_agree_with_the_metrics(seed):
    outcomes, scores, labels = make_outcomes(seed)
    has_label = labels >= 0
    assert outcomes.is_correct[has_label].mean() == accuracy.top_k_accuracy(scores[has_label], labels[has_label], 1)
    class_accuracy = outcomes.class_accuracy(7)
    assert np.nanmean(class_accuracy) == pytest.approx(
        accuracy.mean_class_accuracy(scores[has_label], labels[has_label])
    )
    matrix = outcomes.confusion(7)
    assert np.trace(matrix) == outcomes.is_correct.sum() and matrix.sum() == (outcomes.is_scored & has_label).sum()
    bins = np.array(outcomes.reliability())
    gap = (bins[:, 0] * np.abs(bins[:, 1] - bins[:, 2])).sum() / bins[:, 0].sum()
    assert gap == pytest.approx(accuracy.calibration_error(softmax(scores)[has_label], labels[has_label]), abs=1e-12)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_quadrants_divide_the_videos_that_all_streams_scored(number):
    labels = np.random.default_rng(9).integers(-1, 7, 60)
    streams = [make_outcomes(seed, name=f"S{seed}", labels=labels)[0] for seed in range(number)]
    parts = quadrants(streams)
    assert len(parts) == (2 if number == 1 else 4)
    scored_by_all = np.all([s.is_scored for s in streams], axis=0) & (labels >= 0)
    np.testing.assert_array_equal(np.sum([quadrant.videos for quadrant in parts], axis=0), scored_by_all)
    for quadrant in parts:
        for word, stream in zip(quadrant.title.split(", "), streams, strict=False):
            assert (stream.is_correct[quadrant.videos] == (word == f"{stream.name} right")).all()


def test_one_class_and_no_videos():
    one = Outcomes.from_scores("RGB", np.ones((2, 1)), np.ones((2, 1)), np.array([0, -1]))
    assert one.is_correct.tolist() == [True, False] and one.confusion(1).tolist() == [[1]]
    none = Outcomes.from_scores("RGB", np.ones((0, 3)), np.ones((0, 3)), np.array([], int))
    assert np.isnan(none.class_accuracy(3)).all() and none.confusion(3).sum() == 0 and len(none.reliability()) == 15
