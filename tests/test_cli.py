"""The command line: lists for many users, help, and mistakes told before anything runs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT, random_log, run_lab

from recsys_lab import cli, runs
from recsys_lab.batches import user_batches
from recsys_lab.commands.base import OLD_WORDS, commands_of, parameter_rows
from recsys_lab.models.neighbours import ItemKNN
from recsys_lab.serving import api

pytestmark = pytest.mark.slow


BIN = Path(sys.executable).parent


@pytest.fixture
def a_run(tmp_path):
    """A run that fitted one model on a log with whole numbers as ids, and one with text."""
    for name, text in (("numbers", False), ("text", True)):
        runs.Run(tmp_path / name, "22_neighbours").fit(ItemKNN(), random_log(5, text=text))
    return tmp_path


def recommend(run, out, *words):
    command = [BIN / "recsys-lab", "recommend", "--run", run, "--model", "item_knn", "--out", out, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ)


def test_batches_give_the_lists_of_recommend(a_run):
    users = pd.Series([*range(0, 40, 3), 999], name="user_id")
    users.to_csv(a_run / "users.csv", index=False)
    model = runs.Run(a_run / "numbers").fitted("item_knn")
    from recsys_lab.models.base import load_model

    wanted = load_model(model).recommend(users, k=4).frame()
    for out in ("recs.parquet", "recs.csv"):
        done = recommend(a_run / "numbers", a_run / out, "--users", a_run / "users.csv", "-k", "4", "--batch", "3")
        assert done.returncode == 0 and "15 users, lists of 4 by item_knn" in done.stdout, done.stderr
        found = pd.read_parquet(a_run / out) if out.endswith("parquet") else pd.read_csv(a_run / out)
        assert found[["user_id", "item_id", "rank", "source"]].to_dict("list") == {
            c: wanted[c].tolist() for c in ("user_id", "item_id", "rank", "source")
        }
        np.testing.assert_allclose(found.score, wanted.score, rtol=1e-5)
    assert found.query("user_id == 999").source.unique().tolist() == ["cold"]


def test_all_known_users_without_a_file_and_text_ids(a_run):
    done = recommend(a_run / "text", a_run / "all.parquet", "-k", "2")
    assert done.returncode == 0, done.stderr
    table = pd.read_parquet(a_run / "all.parquet")
    assert sorted(table.user_id.unique()) == sorted(random_log(5, text=True).users)
    (a_run / "one.csv").write_text("visitor\nu3\n")  # a single column may be called as users usually are
    assert recommend(a_run / "text", a_run / "one.parquet", "--users", a_run / "one.csv").returncode == 0
    assert pd.read_parquet(a_run / "one.parquet").user_id.unique().tolist() == ["u3"]
    (a_run / "one.csv").write_text("whatever\nu3\n")  # a user nobody knows, or a name: it must not vanish
    done = recommend(a_run / "text", a_run / "two.parquet", "--users", a_run / "one.csv")
    assert (
        done.returncode == 2 and "'whatever' is neither a user of the model nor a name of their column" in done.stderr
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("user_id\n1\nnobody\n", "users.csv:3: user_id must be a whole number, as the ids of this model, not 'nobody'"),
        ("user_id\n1\n2\n\n4\n", "users.csv:4: user_id must be a whole number"),
        ("name,age\nx,1\n", "users.csv has no column user_id; it has name, age"),
        ("", "users.csv is empty; it needs a column user_id"),
        ("user_id\n", "there is no user to recommend anything to"),
    ],
)
def test_bad_users_are_named_and_nothing_is_half_written(a_run, content, told):
    (a_run / "users.csv").write_text(content)
    (a_run / "recs.parquet").write_text("what was there before")
    words = ("--users", a_run / "users.csv", "--batch", "1")
    done = recommend(a_run / "numbers", a_run / "recs.parquet", *words)
    assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr
    assert (a_run / "recs.parquet").read_text() == "what was there before"
    assert not list(a_run.glob(".*partial"))


def test_wrong_asks_are_told(a_run):
    done = recommend(a_run / "numbers", a_run / "recs.xlsx")
    assert done.returncode == 2 and "--out must end in .parquet or .csv" in done.stderr
    missing = recommend(a_run / "nowhere", a_run / "recs.csv")
    assert missing.returncode == 2 and "holds no fitted 'item_knn'; it holds none" in missing.stderr
    assert recommend(a_run / "numbers", a_run / "r.csv", "-k", "0").returncode == 2
    gone = recommend(a_run / "numbers", a_run / "recs.csv", "--users", a_run / "nobody.csv")
    assert gone.returncode == 2 and "nobody.csv" in gone.stderr


def test_ids_are_streamed(tmp_path):
    (tmp_path / "users.csv").write_text("user_id\n" + "\n".join(map(str, range(1000))) + "\n")
    batches = user_batches(str(tmp_path / "users.csv"), np.arange(3), 64)
    assert next(batches).tolist() == list(range(64)) and sum(len(b) for b in batches) == 936


@pytest.mark.parametrize(
    "words, told",
    [
        (
            ["run", "--params", "kk=3"],
            "no chapter has the parameter 'kk'; did you mean 'k'? Valid names: alpha, alphas,",
        ),
        (["run", "--params", "k=2.5"], "k must be of type int (as 10), not '2.5'"),
        (["run", "--params", "22.models=5"], "22.models must be of type list"),
        (["run", "--params", "k"], "'k' is not of the form name=value"),
        (["run", "--params", "22.half_lives=[1]"], "chapter 22_neighbours has no parameter 'half_lives'"),
        (["run", "--params", "out=/tmp/x"], "no chapter has the parameter 'out'"),
        (["run", "--only", "100"], "there is no chapter '100'"),
        (["run", "--dataset", "my_log"], "no dataset 'my_log' in"),
        (["run", "--size", "huge"], "'--size': 'huge' is not one of 'tiny', 'small', 'full'"),
        (["book", "reports/none"], "holds no executed chapter; make one with"),
        (["leaderboard", "reports/none"], "there is no run in reports/none; make one with"),
        (["compare", "reports/none", "reports/none"], "has no metrics.json"),
        (["data", "describe"], "say which dataset to describe"),
        (["data", "make", "gowalla"], "is not an embedded dataset"),
    ],
)
def test_mistakes_are_told_in_a_sentence_before_anything_runs(words, told, capsys):
    before = sorted(p.name for p in (ROOT / "reports").iterdir())
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert told in err and err.startswith("recsys-lab: ") and "Traceback" not in err
    assert sorted(p.name for p in (ROOT / "reports").iterdir()) == before


def test_outside_a_checkout_it_says_so(tmp_path):
    done = run_lab("run", cwd=tmp_path)
    assert done.returncode == 2 and "make a lab with `recsys-lab new my_lab`" in done.stderr


def test_help_teaches():
    done = run_lab("--help")
    assert all(word in done.stdout for word in ("run", "params", "data", "Runs and books", "Exit codes"))
    assert "22.trials" in run_lab("run", "--help").stdout
    assert "k: int = 10" in run_lab("params", "22").stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data", "get", "gowalla"], "recsys-lab data: get is called fetch now"),
        (["products", "store", "shop"], "recsys-lab products: store is called import now"),
        (["products", "load", "r.json", "--unit=s"], "recsys-lab products: --unit is called --time-unit now"),
        (
            ["search", "find", "pen", "--index", "i", "--how", "lexical"],
            "recsys-lab search: --how is called --mode now",
        ),
        (["book", "reports/shop", "--k", "20"], "recsys-lab book: --k is called -k now"),
        (["serve", "bundle", "--against", "als"], "recsys-lab serve: --against is called --challenger now"),
        (["serve", "bundle", "--share=0.1"], "recsys-lab serve: --share is called --traffic now"),
        (["bundle", "reports/shop", "-o", "b"], "a run is bundled by bundle create"),
    ],
)
def test_words_of_earlier_versions_are_refused_with_the_new_ones(words, told, capsys):
    assert cli.main(words) == 2 and told in capsys.readouterr().err


def test_no_word_is_both_old_and_new():
    """Each new word is one that its command takes, and the old one is not."""
    taken: dict[str, set[str]] = {}
    for path, command in commands_of():
        group, *rest = path.split()[1:]
        taken.setdefault(group, set()).update(
            rest, *(row.name.replace("`", "").split(", ") for row in parameter_rows(command))
        )
    for command, renamed in OLD_WORDS.items():
        for old, new in renamed.items():
            words = set(taken) if command == "" else taken[command]
            assert new in words and old not in words


def test_the_servers_own_words_are_those_of_the_command():
    """`recsys-lab serve` passes its options on to the server's process, which reads them again."""
    (rows,) = [parameter_rows(command) for path, command in commands_of() if path == "recsys-lab serve"]
    options = {word for row in rows for word in row.name.replace("`", "").split(", ") if word.startswith("--")}
    source = {word for word in api.arguments.__code__.co_consts if isinstance(word, str) and word.startswith("--")}
    assert options == {word for word in source if " " not in word}


def test_help_is_quick_because_nothing_large_is_imported():
    ask = (
        "import sys; from recsys_lab.cli import main; code = main(['run', '--help']); "
        "print([m for m in ('numpy', 'pandas', 'scipy', 'pyarrow', 'matplotlib') if m in sys.modules], code)"
    )
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip().endswith("[] 0")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["rnu"], "did you mean 'run'?"),
        (["bundle", "crate"], "did you mean 'create'?"),
        (["run", "--siz", "tiny"], "possible options: --size"),
        (
            ["recommend", "--run", "r", "--model", "als", "--out", "x.csv", "--exclude", "sen"],
            "'none', 'seen', 'purchased'",
        ),
        (["recommend", "--run", "r", "--model", "als", "--out", "x.csv", "-k", "0"], "greater than or equal to 1"),
        (["serve", "bundle", "--traffic", "2"], "less than or equal to 1"),
        (["params", "22", "23"], "unexpected extra argument"),
    ],
)
def test_a_typo_is_answered_with_what_would_be_right(words, hint, capsys):
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("recsys-lab: ") and hint.lower() in err.lower() and "--help explains it" in err


def test_mistakes_in_the_code_are_not_hidden(monkeypatch):
    """A TypeError or KeyError that no `raise` of the package made is a bug, and shown as one."""
    from recsys_lab import book

    monkeypatch.setattr(book, "leaderboards", lambda folder, k: {}["gone"])
    with pytest.raises(KeyError):
        cli.main(["leaderboard", str(ROOT / "reports" / "shop")])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_offered(shell):
    done = subprocess.run(
        [BIN / "recsys-lab"],
        env={
            **os.environ,
            "_RECSYS_LAB_COMPLETE": f"complete_{shell}",
            "COMP_WORDS": "recsys-lab re",
            "COMP_CWORD": "1",
        }
        | {"_TYPER_COMPLETE_ARGS": "recsys-lab re", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert {"recommend", "reproduce"} <= set(done.stdout.replace('"', " ").replace(":", " ").split()), done
