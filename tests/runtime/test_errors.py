import pytest

from pnseg_runtime.errors import one_line


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("no such operation.", "no such operation"),
        ("\n\n  first  \nsecond", "first"),
        ("", "ValueError"),
        (" \n ", "ValueError"),
        ("name \udcff", "name \udcff"),
    ],
)
def test_of_an_exception_the_first_line_is_told_or_its_type(said, told):
    assert one_line(ValueError(said)) == told
