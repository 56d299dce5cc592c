"""Class names: which are nearly identical, which is suggested, and how two lists differ."""

import pytest

from twostream.annotations.class_names import class_difference, normalised_name, suggest_class


@pytest.mark.parametrize(
    ("name", "same"), [("Long_Jump", "long  jump"), ("Straße", "STRASSE"), ("r\u00f6ck", "ro\u0308ck"), (" a ", "a")]
)
def test_case_blanks_and_unicode_form_do_not_count(name, same):
    assert normalised_name(name) == normalised_name(same)


def test_another_letter_counts():
    assert normalised_name("röck") != normalised_name("rock")


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("Jump", "; it and the class 'jump' differ only in case, blanks, underscores or Unicode form"),
        ("jmup", "; the nearest class is 'jump'"),
        ("swimming", ""),
    ],
)
def test_the_class_that_was_meant_is_suggested(name, end):
    assert suggest_class(name, ("run", "jump")) == end


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        (("a", "b", "c"), ("a", "x", "y"), "3 and 3 classes that differ, first 'b' and 'x'"),
        (("a",), ("a", "b"), "1 and 2 classes that differ"),
    ],
)
def test_difference_of_two_class_lists(first, second, text):
    assert class_difference(first, second) == text
