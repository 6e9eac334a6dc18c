"""What commands share: words in any order, JSON that programs can read, pages made from the commands."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_lab.cli import main
from recsys_lab.commands.base import (
    EXIT_CODES,
    UserError,
    arrange_words,
    command_pages,
    commands_of,
    plain,
    refuse_old_words,
)


@pytest.mark.parametrize(
    ("words", "arranged"),
    [
        (
            ["run", "--params", "k=20", "seed=1", "--resume"],
            ["run", "--params", "k=20", "--params", "seed=1", "--resume"],
        ),
        (["run", "--params", "k=20 seed=1"], ["run", "--params", "k=20 seed=1"]),
        (["run", "--plugin", "a.py", "--only", "22"], ["--plugin", "a.py", "run", "--only", "22"]),
        (["run", "--plugin=a.py"], ["--plugin=a.py", "run"]),
        (["data", "import", "--columns", "a=b", "log.csv"], ["data", "import", "--columns", "a=b", "log.csv"]),
        (["x", "--only", "a=b", "c=d"], ["x", "--only", "a=b", "c=d"]),
    ],
)
def test_words_are_arranged(words, arranged):
    assert arrange_words(words) == arranged
    assert arrange_words(arranged) == arranged


@given(st.lists(st.sampled_from(["run", "--params", "k=1", "--plugin", "p", "--only", "22", "a=b"])))
def test_no_word_is_lost(words):
    out = arrange_words(words)
    assert [w for w in out if w != "--params"].count("k=1") == words.count("k=1") and len(out) >= len(words)
    assert sorted(set(out)) == sorted(set(words))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda s: st.lists(s) | st.dictionaries(st.text(), s),
    )
)
def test_whatever_is_shown_is_json(value):
    json.loads(json.dumps(plain(value), allow_nan=False))


def test_frames_and_arrays_become_rows_and_lists():
    frame = pd.DataFrame({"a": [np.int64(1), 2], "b": [np.nan, 0.5], "c": pd.to_datetime(["2024-01-01", None])})
    assert plain(frame) == [{"a": 1, "b": None, "c": "2024-01-01 00:00:00"}, {"a": 2, "b": 0.5, "c": "NaT"}]
    assert plain({"x": np.float32(0.5), "y": (np.arange(2),)}) == {"x": 0.5, "y": [[0, 1]]}


def test_every_command_has_a_page_with_all_that_it_takes():
    pages = command_pages()
    for path, command in commands_of():
        page = pages[path.replace(" ", "-")]
        assert page.startswith(f"# {path}") and f"({path.replace(' ', '-')}.md)" in pages["commands"]
        assert command.callback.__doc__.splitlines()[0] in page
    assert all(str(code) in pages["commands"] for code in EXIT_CODES)


def test_every_command_has_help_and_every_option_a_meaning(capsys):
    from recsys_lab.commands.base import parameter_rows

    for path, command in commands_of():
        assert main([*path.split()[1:], "--help"]) == 0, path
        assert command.callback.__doc__, path
        silent = [row.name for row in parameter_rows(command) if not row.about]
        assert not silent, (path, silent)


def test_words_of_earlier_versions_name_the_new_ones():
    with pytest.raises(UserError, match="recsys-lab data: get is called fetch now"):
        refuse_old_words(["data", "get"])
    refuse_old_words([])
    refuse_old_words(["bundle", "create", "reports/shop"])
