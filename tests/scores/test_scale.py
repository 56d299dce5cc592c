"""What rows of scores are read as, and the logits that come of it; truth by NumPy from how the rows were made."""

import numpy as np
import pytest

from twostream.scores.scale import SUM_OF_SOFTMAX, parse_scale, to_logits, to_multi_label_logits


def where(row):
    return f"row {row}"


@pytest.fixture
def softmax():
    """(50, 7) probabilities."""
    e = np.exp(np.random.default_rng(3).normal(size=(50, 7)) * 2)
    return (e / e.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("factor", "scale", "text"),
    [
        (1, "auto", "probabilities"), (1, "probabilities", "probabilities"), (1, SUM_OF_SOFTMAX, "probabilities"),
        (30, SUM_OF_SOFTMAX, "sum of 30 views"), (30, "auto", "sum of 30 views"), (30, "sum-30", "sum of 30 views"),
        (100, "auto", "sum of 100 views"), (0.4, "probabilities", "probabilities"),
    ],
)  # fmt: skip
def test_probabilities_and_their_sums(softmax, factor, scale, text):
    logits, found = to_logits(softmax * np.float32(factor), scale, where)
    assert found == text and logits.dtype == np.float32
    np.testing.assert_allclose(np.exp(logits), softmax, rtol=1e-5)


def test_half_precision_is_still_probabilities(softmax):
    logits, found = to_logits(softmax.astype(np.float16), "auto", where)
    assert found == "probabilities"
    np.testing.assert_allclose(np.exp(logits), softmax, rtol=2e-3, atol=1e-5)


def test_views_that_are_missing(softmax):
    """Videos of which PySlowFast could not read all views."""
    counts = np.random.default_rng(0).integers(11, 31, len(softmax))
    logits, found = to_logits(softmax * counts[:, None], SUM_OF_SOFTMAX, where)
    assert found == f"sum of {counts.min()} to {counts.max()} views"
    np.testing.assert_allclose(np.exp(logits), softmax, rtol=1e-5)


def test_maxima_over_views():
    views = np.random.default_rng(4).dirichlet(np.ones(5), size=(40, 6))
    maxima = views.max(axis=1)
    logits, found = to_logits(maxima, SUM_OF_SOFTMAX, where)
    assert found == "maximum over views"
    np.testing.assert_array_equal(logits.argsort(axis=1), maxima.argsort(axis=1))


@pytest.mark.parametrize("scale", ["auto", "logits"])
def test_logits_stay_as_they_are(scale):
    rows = np.random.default_rng(1).normal(size=(30, 4)) * 5
    rows[7] = [0.25, 0.25, 0.25, 0.25]  # by chance
    logits, found = to_logits(rows, scale, where)
    assert found == "logits"
    np.testing.assert_array_equal(logits, rows.astype(np.float32))


def test_whole_numbers_are_logits():
    rows = np.array([[1, 2, 3, 4], [4, 3, 2, 1]])
    assert to_logits(rows, "auto", where)[1] == "logits"


def test_sums_of_logits_are_divided():
    rows = np.random.default_rng(1).normal(size=(30, 4)) * 50
    logits, found = to_logits(rows, "sum-25", where)
    assert found == "sum of 25 views"
    np.testing.assert_allclose(logits, rows / 25, rtol=1e-6)


def test_a_row_that_is_none_among_probabilities_is_named(softmax):
    softmax[12] *= 0.6
    message = (
        "row 12: its scores sum to 0.6, but 49 of 50 rows are probabilities.*--scale=probabilities or --scale=logits"
    )
    with pytest.raises(ValueError, match=message):
        to_logits(softmax, "auto", where)
    assert to_logits(softmax, "probabilities", where)[1] == "probabilities"
    assert to_logits(softmax, "logits", where)[1] == "logits"
    softmax[3, 2] = -0.5
    with pytest.raises(ValueError, match="row 3: a score below 0"):
        to_logits(softmax, "probabilities", where)


@pytest.mark.parametrize("text", ["", "softmax", "sum", "sum-0", "sum-x", "sum-30.5", "Logits", "sum-1000000"])
def test_other_scales_are_refused(text):
    with pytest.raises(ValueError, match="expected auto, logits, probabilities, or sum-N"):
        parse_scale(text)


def test_multi_label_rows_are_sigmoids_or_logits():
    logits = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32) * 3
    shares = 1 / (1 + np.exp(-logits))
    for rows, scale, text in (
        (shares, "auto", "probabilities"),
        (logits, "auto", "logits"),
        (shares, "logits", "logits"),
    ):
        found, name = to_multi_label_logits(rows, scale, where)
        assert name == text and found.dtype == np.float32
        np.testing.assert_allclose(found, logits if text == "probabilities" else rows, rtol=1e-3, atol=1e-5)
    assert np.isfinite(to_multi_label_logits(np.array([[0.0, 1.0]]), "auto", where)[0]).all()
    with pytest.raises(ValueError, match=r"row \d+: a score below 0 or above 1"):
        to_multi_label_logits(logits, "probabilities", where)
    for scale in ("sum-3", SUM_OF_SOFTMAX):
        with pytest.raises(ValueError, match="several labels, so say --scale=probabilities or --scale=logits"):
            to_multi_label_logits(shares, scale, where)
