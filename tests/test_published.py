"""The ledger of published figures."""

import json

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT, real_data, untimed_sessions

from recsys_lab import published, splits
from recsys_lab.cli import main
from recsys_lab.datasets import Dataset
from recsys_lab.evaluation import evaluate
from recsys_lab.files import DataError
from recsys_lab.models.neighbours import ItemKNN


def test_the_ledger_is_whole_and_says_what_its_figures_say():
    table = published.read_ledger(ROOT / published_path())
    assert len(table) == len(published.FIGURES) and not published.missing_recipes(ROOT / published_path())
    for row, figure in zip(table.itertuples(), published.FIGURES, strict=True):
        assert (row.dataset, row.metric, row.k) == (figure.dataset, figure.metric, figure.k)
        assert np.isclose(row.published, figure.published, equal_nan=True)
        share = row.ours / row.published
        if row.status == "reference":  # nothing to compare, or another model that is not shown to be better
            assert np.isnan(share) or "not comparable" in row.source or not published.RECIPES[row.recipe].reproduces
        elif row.status.startswith("surpassed by "):
            assert row.status == f"surpassed by {row.recipe}" and row.low > row.published
            assert not published.RECIPES[row.recipe].reproduces
        else:
            assert row.status == ("reproduced" if share >= 0.98 else "missed") and "not comparable" not in row.source
            assert published.RECIPES[row.recipe].reproduces
        assert row.test_looks == len(row.looked_at.split()) and (row.test_looks > 0) == (row.ours == row.ours)
        assert row.tolerance <= 0.02 and (np.isnan(row.ours) or row.low <= row.ours <= row.high)
        assert np.isnan(row.ours) == (figure.recipe == "")


def published_path():

    return published.LEDGER_FILE


@pytest.mark.slow
def test_a_row_of_the_ledger_can_be_made_again():
    """The cheapest recipe gives what the committed ledger says; it searches nothing, however many trials are asked for."""
    made = published.compute("s_knn", real_data("retailrocket-sessions"), trials=2)
    table = published.read_ledger(ROOT / published_path()).query("model == 'S-KNN'")
    assert [row["ours"] for row in made] == table.ours.tolist()


def given_split(seed):
    """A log that arrives split, with users of 20 items and more."""
    rng = np.random.default_rng(seed)
    rows = [
        (u, i)
        for u in range(40)
        for i in rng.choice(60, int(rng.integers(20, 30)), replace=False, p=np.arange(1, 61) / 1830)
    ]
    part = np.where(rng.random(len(rows)) < 0.2, "test", "train")
    frame = pd.DataFrame(rows, columns=["user_id", "item_id"]).assign(event="view")
    return Dataset("given", frame.assign(part=pd.Categorical(part, ["train", "test"])), has_times=False)


ROWS = "source,model,metric,k,value\nA,Best,recall,20,0.5\nB,Other,recall,20,0.4\nA,Best,ndcg,10,0.9\n"


def test_a_table_of_any_split_is_what_evaluate_says(tmp_path):
    """The defaults asked once about test: the means over cases, the intervals, and the best of the published rows of that metric."""
    log, lines = given_split(3), []
    (tmp_path / "rows.csv").write_text(ROWS)
    rows = published.read_published(tmp_path / "rows.csv")
    table = published.judge_models(log, ["item_knn"], tmp_path / "t.csv", 0, published=rows, told=lines.append)
    split = splits.make(log)
    wanted = evaluate(ItemKNN().fit(split.known("test")), split, "given", ks=(20,))
    of = table.set_index("metric")
    for metric in published.JUDGED_METRICS:
        assert (
            of.ours[metric] == pytest.approx(np.mean(wanted.values[metric, 20]))
            and of.low[metric] <= of.ours[metric] <= of.high[metric]
        )
    assert (of.published["recall"], of.published_model["recall"], of.source["recall"]) == (0.5, "Best", "A")
    assert of.ratio["recall"] == pytest.approx(of.ours["recall"] / 0.5, abs=1e-4)
    assert (
        np.isnan(of.published["ndcg"]) and table.carved.str.fullmatch(r"a random 19% of the rows, user by user").all()
    )
    assert (table.settings == "{}").all() and (table.exclude == "seen").all() and "(" in lines[0]


def test_a_table_is_resumed_and_rows_of_other_data_are_kept(tmp_path, monkeypatch):
    asked, real = [], published.judge_model
    monkeypatch.setattr(published, "judge_model", lambda name, *more: asked.append(name) or real(name, *more))
    place, quiet = tmp_path / "deep" / "t.csv", lambda line: None
    published.judge_models(given_split(3), ["popularity"], place, 2, told=quiet)
    both = published.judge_models(given_split(3), ["popularity", "item_knn"], place, 2, told=quiet)
    assert asked == ["popularity", "item_knn"] and len(both) == 8
    other = published.judge_models(untimed_sessions(1), ["popularity"], place, 2, told=quiet)
    assert len(other) == 12 and other.carved.iloc[-1] == "by order, as test" and other.protocol.nunique() == 2
    pd.testing.assert_frame_equal(published.read_table(place), other, check_dtype=False)
    assert published.judge_models(given_split(4), ["popularity"], place, 2, told=quiet).fingerprint.nunique() == 3


def test_what_cannot_be_judged_has_a_row_that_says_why(tmp_path):
    table = published.judge_models(
        given_split(3), ["taxonomy", "popularity"], tmp_path / "t.csv", 0, told=lambda line: None
    )
    assert "categor" in table.note.iloc[0] and np.isnan(table.ours.iloc[0]) and len(table) == 5
    with pytest.raises(ValueError, match="no_such_model"):
        published.judge_models(given_split(3), ["popularity", "no_such_model"], tmp_path / "u.csv")
    assert not (tmp_path / "u.csv").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source,model,metric,value\n", "the column 'k' is missing; the columns are source, model, metric, k, value"),
        (
            "source,model,metric,k,value\na,b,auc,20,1\n",
            "line 2: metric must be one of recall, ndcg, hit_rate, mrr, not 'auc'",
        ),
        (
            "source,model,metric,k,value\na,b,ndcg,20,.1\na,b,ndcg,ten,1\n",
            "line 3: k must be a number above 0, not 'ten'",
        ),
        ("source,model,metric,k,value\na,b,ndcg,20,-1\n", "line 2: value must be a number above 0, not '-1'"),
    ],
)
def test_wrong_published_rows_are_told_by_their_line(tmp_path, text, message):
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        published.read_published(tmp_path / "rows.csv")


@pytest.mark.slow
def test_the_command_takes_a_folder_and_a_file_of_published_rows(tmp_path, capsys):
    """As a user would: an adjacency split in a folder of its own, and no code."""
    (tmp_path / "mine").mkdir()
    frame = given_split(5).events
    for part in ("train", "test"):
        own = frame[frame["part"] == part].groupby("user_id")["item_id"].agg(list)
        (tmp_path / "mine" / f"{part}.txt").write_text(
            "".join(f"{u} {' '.join(map(str, items))}\n" for u, items in own.items())
        )
    (tmp_path / "rows.csv").write_text(ROWS)
    words = ["ledger", "run", "--dataset", str(tmp_path / "mine"), "--models", "popularity,item_knn", "--trials", "2"]
    words += ["--published", str(tmp_path / "rows.csv"), "--out", str(tmp_path / "t.csv")]
    assert main([*words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {r["model"] for r in rows} == {"popularity", "item_knn"} and {r["dataset"] for r in rows} == {"mine"}
    assert main(words) == 0 and "popularity: is in" in capsys.readouterr().out
    assert main(["ledger", "run", "--dataset", "nowhere", "--models", "popularity"]) == 2
