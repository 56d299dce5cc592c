"""A trained stream wins only by more than the chance of a draw."""

import pytest

from twostream.own_clips.comparison import Comparison


@pytest.mark.parametrize(
    "first, second, different, wins",
    [(10, 10, 0, False), (10, 11, 1, True), (10, 11, 5, False), (10, 14, 4, True), (10, 8, 2, False), (8, 12, 16, True), (8, 11, 17, False)],
)  # fmt: skip
def test_wins(first, second, different, wins):
    assert Comparison(20, first, second, different).second_is_clearly_better == wins
