"""Pages of models: what stands on them is what the run's files hold."""

import json
import re

import pytest
from helpers import ROOT

from recsys_lab import book
from recsys_lab.model_pages import (
    against,
    chosen_by_question,
    cost_frame,
    judged_models,
    model_page,
    model_pages,
    models_index,
    published_rows,
    rows_of,
    settings_frame,
    standings,
)
from recsys_lab.models.base import model_class
from recsys_lab.runs import MEANING

SHOP = ROOT / "reports" / "shop"


@pytest.fixture(scope="module")
def shop_rows():
    return rows_of(SHOP)


def test_places_and_values_are_those_of_the_leaderboard(shop_rows):
    board = [row for row in book.leaderboard_rows(SHOP, 10) if row["metric"] == "ndcg"]
    for model in ("session_walk", "lightgbm", "popularity"):
        found = standings(shop_rows, model, 10).set_index("question")
        assert list(found.index) == [
            q for q in MEANING.values() if any(r["question"] == q and r["model"] == model for r in board)
        ]
        for question, line in found.iterrows():
            values = {r["model"]: r["value"] for r in board if r["question"] == question}
            place, of = map(int, re.fullmatch(r"(\d+) of (\d+)", line["place"]).groups())
            assert of == len(values) and place == sorted(values.values(), reverse=True).index(values[model]) + 1
            assert line["NDCG"].startswith(f"{values[model]:.4f} [")


def test_a_difference_is_told_from_both_sides(shop_rows):
    """Whoever A is shown to be better than says that it is shown to be worse than A, and nobody is on two sides."""
    names = judged_models(shop_rows)
    told = {name: against(shop_rows, name, 10).set_index("question") for name in names}
    seen = 0
    for name in names:
        for question, line in told[name].iterrows():
            better, worse = (
                set(line[word].split(", ")) - {"none"} for word in ("shown better than", "shown worse than")
            )
            assert not better & worse and name not in better | worse
            for other in better & set(names):
                assert name in told[other].loc[question, "shown worse than"].split(", ")
                seen += 1
    assert seen > 100
    assert (told["oracle"]["shown worse than"] == "none").all()


def test_settings_and_costs_are_those_of_the_files(shop_rows):
    chosen = chosen_by_question(shop_rows, "ease")
    table = settings_frame(shop_rows, "ease").set_index("setting")
    assert list(table.index) == list(model_class("ease").Config.model_fields) and chosen
    for question, settings in chosen.items():
        assert float(table.loc["regularization", MEANING[question]]) == pytest.approx(
            settings["regularization"], rel=1e-3
        )
    costs = cost_frame(shop_rows, "ease")
    held = [r for r in json.loads((SHOP / "costs.json").read_text()) if (r["model"], r["part"]) == ("ease", "test")]
    assert len(costs) == len({(r["protocol"], r["target"], r["exclude"]) for r in held}) == costs["question"].nunique()
    assert costs["seconds to fit"].iloc[-1] == held[-1]["fit_seconds"]


def test_every_judged_model_has_a_page_and_others_are_refused(shop_rows):
    for name in judged_models(shop_rows):
        page = model_page(SHOP, name, rows=shop_rows)
        assert page.startswith(f"# {name}\n\n{model_class(name).__doc__.split(chr(10))[0]}")
        assert page.count("## Where it stands") == page.count("## Settings") == 1
    with pytest.raises(ValueError, match="has no result of 'taxonomy'; it has those of als, "):
        model_page(SHOP, "taxonomy")
    index = models_index(SHOP, judged_models(shop_rows))
    assert all(f"[{name}]({name}.md)" in index for name in judged_models(shop_rows))


def test_the_ledger_beside_a_run_is_told_and_nothing_where_there_is_none(tmp_path):
    assert {"recall", "ndcg"} == set(published_rows(SHOP, "ials")["metric"])
    assert published_rows(SHOP, "hybrid").empty and published_rows(tmp_path / "run", "ials").empty
    assert "## On logs of the literature" in model_page(SHOP, "ials")


def test_a_run_of_a_few_files_has_pages_too(tmp_path):
    """Metrics alone, as a run has that searched nothing and compared nothing."""
    (tmp_path / "run").mkdir()
    rows = [r for r in json.loads((SHOP / "metrics.json").read_text()) if r["model"] == "ease"]
    (tmp_path / "run" / "metrics.json").write_text(json.dumps(rows))
    page = model_page(tmp_path / "run", "ease")
    assert "| 1 of 1 |" in page and "## Against" not in page and "## What it cost" not in page
    assert set(model_pages(tmp_path / "run")) == {"ease", "models"}
    (tmp_path / "nothing").mkdir()
    assert model_pages(tmp_path / "nothing") == {}


def test_the_book_has_the_pages_and_leads_to_them(tmp_path):
    groups = {"models": model_pages(SHOP), "commands": {}}
    book.write_sources(SHOP, tmp_path, None, groups)
    assert {p.stem for p in (tmp_path / "models").iterdir()} == {*groups["models"]} and len(groups["models"]) > 25
    cover = (tmp_path / "index.md").read_text()
    assert ":caption: Models\n\nmodels/models\n" in cover and "commands" not in cover.partition(":caption: Library")[2]
