"""Words of a text, and what is typed as an expression of words."""

import sqlite3

from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_lab.lexical import match_expression


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200))
def test_whatever_is_typed_is_an_expression_of_quoted_words(text):
    asked = match_expression(text)
    with sqlite3.connect(":memory:") as c:
        c.execute("CREATE VIRTUAL TABLE words USING fts5(title)")
        c.execute("INSERT INTO words VALUES ('pen')")
        if asked:
            c.execute("SELECT * FROM words WHERE words MATCH ?", (asked,)).fetchall()
        assert c.execute("SELECT count(*) FROM words").fetchone() == (1,)
    c.close()
