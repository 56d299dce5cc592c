"""Intervals and tests against SciPy's, and against what repeated experiments say."""

import math

import numpy as np
import pytest
import scipy.stats

from twostream.metrics.significance import bootstrap_interval, compare, mcnemar


@pytest.mark.parametrize(
    ("gained", "lost"), [(0, 0), (1, 0), (5, 5), (0, 6), (10, 3), (3, 10), (40, 61), (500, 580), (2000, 1000)]
)
def test_mcnemar_is_the_exact_binomial_test(gained, lost):
    expected = scipy.stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("values", [[0, 1], [-1, 0, 1], [0, 0.5, 1]])
def test_interval_is_scipys_bootstrap(values):
    sample = np.random.default_rng(0).choice(values, size=300)
    expected = scipy.stats.bootstrap(
        (sample,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval
    # Two draws of 10,000 and 20,000: their quantiles differ by a few of the steps of 1/300.
    assert bootstrap_interval(sample) == pytest.approx((expected.low, expected.high), abs=0.01)


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(400):
        low, high = bootstrap_interval(rng.random(200) < 0.7, samples=1000)
        covered += low <= 0.7 <= high
    assert 0.91 <= covered / 400 <= 0.98  # 95 %, give or take three deviations, and the steps of 200 videos


def test_interval_of_certainty_and_of_nothing():
    assert bootstrap_interval(np.ones(10)) == (1, 1)
    assert all(math.isnan(end) for end in bootstrap_interval(np.array([])))


def test_same_seed_same_interval():
    values = np.random.default_rng(0).random(50) < 0.5
    assert bootstrap_interval(values) == bootstrap_interval(values)


def rights(both, gained, lost, neither):
    one = np.repeat([True, True, False, False], [both, gained, lost, neither])
    other = np.repeat([True, False, True, False], [both, gained, lost, neither])
    return one, other


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ((50, 20, 2, 28), "better"),
        ((50, 2, 20, 28), "worse"),
        ((50, 6, 4, 40), "undecided"),
        ((100, 0, 0, 0), "undecided"),
        ((0, 3, 0, 0), "undecided"),  # all of three videos, and no proof
    ],
)
def test_verdicts(counts, verdict):
    one, other = rights(*counts)
    comparison = compare("both", one, "best", other)
    assert (comparison.gained, comparison.lost) == counts[1:3]
    assert comparison.difference == pytest.approx((counts[1] - counts[2]) / sum(counts))
    low, high = comparison.interval
    assert low <= comparison.difference <= high
    assert comparison.verdict == verdict


@pytest.mark.parametrize(("lost", "text"), [(4, "p = 0.12"), (6, "p = 0.031"), (2000, "p < 1e-99")])
def test_no_p_is_printed_as_0(lost, text):
    one, other = rights(10, 0, lost, 10)
    assert compare("a", one, "b", other).p_text == text


def test_nothing_is_claimed_where_nothing_is_there():
    """Two ways that are right at random alike: claims stay near the 5 % that chance allows, mostly below."""
    rng = np.random.default_rng(0)
    claims = sum(
        compare("a", rng.random(150) < 0.6, "b", rng.random(150) < 0.6).verdict != "undecided" for _ in range(300)
    )
    assert claims <= 0.08 * 300
