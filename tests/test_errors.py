"""Messages of other libraries come out short, on one line, and never empty."""

from urllib.error import URLError

import pytest

from featpipe.errors import first_line, one_line


@pytest.mark.parametrize("shorten", [one_line, first_line])
@pytest.mark.parametrize("text", ["", " ", "\n", "\n\n \t"])
def test_an_error_without_words_has_its_name(shorten, text):
    assert shorten(EOFError(text)) == "EOFError"


@pytest.mark.parametrize("shorten", [one_line, first_line])
def test_a_message_is_one_line_of_two_hundred_characters_at_most(shorten):
    line = shorten(ValueError("\n  " + "word " * 90 + "\nand more"))
    assert line == ("word " * 40)[:200]
    assert "and more" in one_line(ValueError("first\nand more"))
    assert first_line(ValueError("first\nand more")) == "first"


@pytest.mark.parametrize("shorten", [one_line, first_line])
def test_a_key_that_is_missing_comes_with_the_name_of_the_error(shorten):
    assert shorten(KeyError(1785425525)) == "KeyError: 1785425525"


def test_the_address_of_an_object_is_left_out():
    error = ValueError(f"cannot identify {object()!r} of 'a.png'")
    assert one_line(error) == "cannot identify it of 'a.png'"


@pytest.mark.parametrize("shorten", [one_line, first_line])
def test_a_system_error_has_its_words_alone(shorten):
    refused = ConnectionRefusedError(111, "Connection refused")
    assert shorten(refused) == "Connection refused"
    assert shorten(URLError(refused)) == "Connection refused"
    missing = FileNotFoundError(2, "No such file or directory", "a.png")
    assert shorten(missing) == "No such file or directory: 'a.png'"
