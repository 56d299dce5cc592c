"""Numbers with their nouns: one helper, which every message uses."""

import pytest

from twostream.counts import counted


@pytest.mark.parametrize(
    "number, words, text",
    [
        (0, ("video",), "0 videos"),
        (1, ("video",), "1 video"),
        (2, ("video",), "2 videos"),
        (1, ("class", "classes"), "1 class"),
        (12, ("class has", "classes have"), "12 classes have"),
    ],
)
def test_a_number_with_its_noun(number, words, text):
    assert counted(number, *words) == text


def test_a_number_in_another_format():
    assert counted(12_345, "video", spec=",") == "12,345 videos"
