"""The tables of the book."""

import pytest

from recsys_lab import book

pytestmark = pytest.mark.slow


def test_markdown_tables_escape_and_align():
    import pandas as pd

    table = book.markdown_table(pd.DataFrame({"a|b": ["x|y"], "n": [1234567]}))
    assert table == "| a\\|b | n |\n|:--|--:|\n| x\\|y | 1,234,567 |"
