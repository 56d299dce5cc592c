"""Detection measures against ActivityNet's evaluator, written out as its loops define it."""

import numpy as np
import pytest

from twostream.metrics.detection import TIOU_THRESHOLDS, Segments, average_precision, average_recall, overlap


def segments(rng, count, videos, *, decimals=None) -> Segments:
    start = rng.uniform(0, 50, count)
    times = np.stack([start, start + rng.uniform(0.5, 30, count)], axis=1)
    if decimals is not None:
        times = np.round(times, decimals)
    return Segments(rng.choice(videos, count).astype(str), times, rng.permutation(count) / max(count, 1))


def tiou(a, b):
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return shared / ((a[1] - a[0]) + (b[1] - b[0]) - shared)


def official_precision(truth, predicted):
    """Loops over predictions, thresholds and true segments; the area by the staircase of the PASCAL VOC devkit."""
    ap = []
    order = sorted(range(len(predicted.scores)), key=lambda k: -predicted.scores[k])
    for threshold in TIOU_THRESHOLDS:
        taken, hits = set(), []
        for k in order:
            mine = [j for j in range(len(truth.scores)) if truth.video_ids[j] == predicted.video_ids[k]]
            mine.sort(key=lambda j: -tiou(predicted.times[k], truth.times[j]))
            hit = False
            for j in mine:
                if tiou(predicted.times[k], truth.times[j]) < threshold:
                    break
                if j not in taken:
                    taken.add(j)
                    hit = True
                    break
            hits.append(hit)
        right = np.cumsum(hits)
        recall, precision = right / len(truth.scores), right / np.arange(1, len(hits) + 1)
        recall, precision = np.r_[0, recall, 1], np.r_[0, precision, 0]
        for i in range(len(precision) - 2, -1, -1):
            precision[i] = max(precision[i], precision[i + 1])
        ap.append(sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall))))
    return np.array(ap)


def official_recall(truth, predicted, per_video):
    videos = sorted(set(truth.video_ids))
    ratio = per_video * len(videos) / len(predicted.scores)
    kept = {}
    for video in videos:
        mine = [k for k in range(len(predicted.scores)) if predicted.video_ids[k] == video]
        mine.sort(key=lambda k: -predicted.scores[k])
        kept[video] = mine[: min(int(len(mine) * ratio), len(mine))]
    total = sum(map(len, kept.values()))
    shares = np.arange(1, 101) / 100 * (per_video * len(videos) / total)
    recall = np.zeros(100)
    for threshold in TIOU_THRESHOLDS:
        for point, share in enumerate(shares):
            for j in range(len(truth.scores)):
                mine = kept[truth.video_ids[j]]
                mine = mine[: min(int(len(mine) * share), len(mine))]
                recall[point] += any(tiou(predicted.times[k], truth.times[j]) >= threshold for k in mine)
    return shares * total / len(videos), recall / len(truth.scores) / len(TIOU_THRESHOLDS)


@pytest.mark.parametrize("seed", range(8))
def test_both_measures_are_those_of_the_official_evaluator(seed):
    rng = np.random.default_rng(seed)
    truth = segments(rng, int(rng.integers(1, 30)), ["a", "b", "c"])
    predicted = segments(rng, int(rng.integers(1, 60)), ["a", "b", "c", "elsewhere"])
    if seed % 2:  # predictions near the truth, several of the same segment
        chosen = rng.integers(0, len(truth.scores), len(predicted.scores))
        times = truth.times[chosen] + rng.normal(0, 0.7, (len(chosen), 2))
        predicted = Segments(truth.video_ids[chosen], np.sort(times, axis=1), predicted.scores)
    np.testing.assert_allclose(average_precision(truth, predicted), official_precision(truth, predicted), atol=1e-9)
    for per_video in (100, 5):
        ours, theirs = (
            average_recall(truth, predicted, per_video=per_video),
            official_recall(truth, predicted, per_video),
        )
        for values, expected in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(values, expected, atol=1e-9)


def test_perfect_and_empty_predictions():
    truth = segments(np.random.default_rng(0), 10, ["a", "b"])
    nothing = truth.of(np.zeros(10, bool))
    assert average_precision(truth, truth).tolist() == [1.0] * len(TIOU_THRESHOLDS)
    assert average_precision(truth, nothing).tolist() == [0.0] * len(TIOU_THRESHOLDS)
    assert average_recall(truth, truth)[1][-1] == 1
    assert average_recall(truth, nothing)[1].tolist() == [0.0] * 100


def test_overlap_of_known_segments():
    assert overlap(np.array([[0.0, 4.0]]), np.array([[2.0, 6.0], [4.0, 5.0], [0.0, 4.0]])).tolist() == [[1 / 3, 0, 1]]
