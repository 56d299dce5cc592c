"""Intervals and tests against SciPy, and against repeated experiments."""

import math

import numpy as np
import pytest
import scipy.stats

from twostream.metrics.significance import bootstrap_interval, compare, mcnemar


@pytest.mark.parametrize(
    ("gained", "lost"), [(0, 0), (1, 0), (5, 5), (0, 6), (10, 3), (3, 10), (40, 61), (500, 580), (2000, 1000)]
)
def test_mcnemar_equals_the_exact_binomial_test(gained, lost):
    expected = scipy.stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("values", [[0, 1], [-1, 0, 1], [0, 0.5, 1]])
def test_interval_equals_scipys_bootstrap(values):
    sample = np.random.default_rng(0).choice(values, size=300)
    expected = scipy.stats.bootstrap(
        (sample,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval
    # Quantiles of 10,000 and of 20,000 resamples differ by a few steps of 1/300.
    assert bootstrap_interval(sample) == pytest.approx((expected.low, expected.high), abs=0.01)


def test_interval_covers_the_truth_in_95_percent():
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(400):
        low, high = bootstrap_interval(rng.random(200) < 0.7, samples=1000)
        covered += low <= 0.7 <= high
    assert 0.91 <= covered / 400 <= 0.98  # 95 %, within three standard deviations and the steps of 200 videos


def test_interval_of_equal_values_and_of_no_values():
    assert bootstrap_interval(np.ones(10)) == (1, 1)
    assert all(math.isnan(end) for end in bootstrap_interval(np.array([])))


def test_the_interval_is_reproducible():
    values = np.random.default_rng(0).random(50) < 0.5
    assert bootstrap_interval(values) == bootstrap_interval(values)


def make_rows(both, gained, lost, neither):
    """Which videos two rows get right, from the counts."""
    counts = [both, gained, lost, neither]
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ((50, 20, 2, 28), "better"),
        ((50, 2, 20, 28), "worse"),
        ((50, 6, 4, 40), "undecided"),
        ((100, 0, 0, 0), "undecided"),
        ((0, 3, 0, 0), "undecided"),  # all of three videos prove nothing
    ],
)
def test_verdicts(counts, verdict):
    fused, best = make_rows(*counts)
    comparison = compare("both", fused, "best", best)
    assert (comparison.gained, comparison.lost) == counts[1:3]
    assert comparison.difference == pytest.approx((counts[1] - counts[2]) / sum(counts))
    low, high = comparison.interval
    assert low <= comparison.difference <= high
    assert comparison.verdict == verdict


@pytest.mark.parametrize(("lost", "text"), [(4, "p = 0.12"), (6, "p = 0.031"), (2000, "p < 1e-99")])
def test_no_p_value_is_printed_as_0(lost, text):
    first, second = make_rows(10, 0, lost, 10)
    assert compare("a", first, "b", second).p_text == text


def test_claims_without_a_difference_are_rare():
    """Two rows that are equally often right by chance: at most about 5 % of the comparisons claim a difference."""
    rng = np.random.default_rng(0)
    claims = sum(
        compare("a", rng.random(150) < 0.6, "b", rng.random(150) < 0.6).verdict != "undecided" for _ in range(300)
    )
    assert claims <= 0.08 * 300
