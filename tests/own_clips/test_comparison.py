"""A trained stream wins only by more than the chance of a draw."""

import pytest

from twostream.own_clips.comparison import Comparison


@pytest.mark.parametrize(
    "first, second, different, wins",
    [(10, 10, 0, False), (10, 11, 1, False), (10, 12, 2, False), (10, 13, 3, True), (10, 11, 5, False), (10, 8, 2, False),
     (8, 14, 18, True), (8, 13, 17, False)],
)  # fmt: skip
def test_wins(first, second, different, wins):
    """Of a fair coin: 2 heads of 2 in 25 % of cases, 3 of 3 in 12.5 %; 12 or more of 18 in 11.9 %, 11 or more of 17 in 16.6 %."""
    assert Comparison(20, first, second, different).second_is_clearly_better == wins
