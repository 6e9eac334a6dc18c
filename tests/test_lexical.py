"""Words of a text, what is typed as an expression of words, and which word a mistyped one stands for."""

import sqlite3

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_lab.lexical import WORD_WEIGHTS, Words, correct, match_expression, meant_words, plain_text, write_words


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


@pytest.fixture
def shelf(tmp_path):
    table = pd.DataFrame({name: "" for name in WORD_WEIGHTS}, index=range(4))
    table["title"] = ["Papier-mâché kit", "Notebooks, ruled", "Stapler HP-83", "Magnetic clips"]
    write_words(table, tmp_path / "words.db")
    return Words(tmp_path / "words.db")


def test_words_with_errors_find_what_was_meant(shelf):
    for typed, code in (("notebok", 1), ("stpaler", 2), ("magentic", 3), ("mache", 0), ("notebooking", 1)):
        assert shelf.search(typed, 5).codes.tolist() == [code], typed
    for typed in ("xyz", "sta", "binoculars", "hp84"):  # of a code nothing is forgiven: another one is another product
        assert shelf.search(typed, 5).codes.tolist() == [], typed


def test_what_exists_is_no_mistake(shelf, tmp_path):
    knows = Words(tmp_path / "words.db", lambda word: word == "stabler")
    assert (
        shelf.search("Stabler", 5).meant == {"Stabler": ["stapler"]} and knows.search("Stabler", 5).codes.tolist() == []
    )


def test_a_filter_keeps_corrections(shelf):
    assert shelf.search("notebok stapler", 5, np.array([True, True, False, False])).codes.tolist() == [1]


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=30), st.lists(st.text("abcdeé", min_size=1, max_size=9), max_size=20))
def test_a_meant_word_is_near_and_of_the_vocabulary(word, known):
    from rapidfuzz.distance import OSA

    by_length = {}
    for one in known:
        by_length.setdefault(len(one), {})[one] = 1
    for near in meant_words(word, lambda letters: by_length.get(letters, {})):
        assert near in known and OSA.distance(plain_text(word), near) <= (1 if len(plain_text(word)) < 7 else 2)


@given(st.text(max_size=60))
def test_a_correction_of_nothing_changes_nothing(text):
    assert correct(text, {}) == text
