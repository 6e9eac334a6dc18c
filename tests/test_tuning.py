"""Equal budgets, on validation only; and the ledger that rests on them."""

import json
from copy import copy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from helpers import LOG

from recsys_lab import evaluation, intervals, leakage, runs, splits, tuning
from recsys_lab.models.base import MODELS, model_class
from recsys_lab.models.config import Config, Range
from recsys_lab.models.linear import EASE
from recsys_lab.models.neighbours import ItemKNN, SequentialRules, SessionWalk
from recsys_lab.models.popularity import Popularity, Revisits
from recsys_lab.tuning import REPEATS, with_memory


def test_every_model_with_settings_has_a_space():
    free = {"oracle", "blend"}  # the truth has nothing to tune; a blend is weighed once its members are fitted
    free |= {"reranked"}  # how varied lists are to be is decided, not searched: NDCG would always take no variety
    shared = set(Config.model_fields)  # what a visitor has met is weighed by the search itself
    settable = {name for name in MODELS.own() if set(model_class(name).Config.model_fields) - shared} - free
    assert {name for name in MODELS.own() if model_class(name).search_space()} == settable
    assert set(tuning.space_table().model) == settable


@pytest.mark.parametrize("name", ["als", "ials", "item_knn"])
def test_the_defaults_are_tried_first_also_where_they_go_by_the_size_of_the_log(name, shop_split):
    """A default that stands for a value by size was drawn at random once, since the space does not hold what stands for it."""
    kind = model_class(name)
    sized = kind().config.for_size(len(shop_split.train.users), len(shop_split.train.items))
    wanted = {n: getattr(sized, n) for n in kind.search_space()}
    tried = tuning.tune(kind, shop_split, "next_item", trials=1, seed=5)
    assert {n: tried[n][0] for n in wanted} == wanted
    ((first, _), *_) = next(iter(tuning.search_model(kind, shop_split, 1, 5).values()))
    assert {n: first[n] for n in wanted} == wanted


HILL = {"x": Range(0.0, 1.0), "y": Range(0.001, 1.0, True), "kind": ("a", "b")}


def height(setting):
    """Highest at x = .3, y = .03 and kind b."""
    return -((setting["x"] - 0.3) ** 2) - (np.log10(setting["y"] / 0.03) / 3) ** 2 - 0.1 * (setting["kind"] == "a")


def climbed(seed, trials=25, held=None):
    """Settings proposed one after the other, with their heights."""
    tried = []
    for _ in range(trials):
        setting = tuning.propose_next(SimpleNamespace(x=0.9, y=0.5, kind="a"), HILL, tried, seed, held)
        tried.append((setting, height(setting)))
    return tried


@pytest.mark.parametrize("torch", [True, False])
def test_proposals_go_by_what_came_of_those_before(torch, monkeypatch):
    if not torch:
        monkeypatch.setattr(tuning, "find_spec", lambda name: None)
    usual = SimpleNamespace(x=0.9, y=0.5, kind="a")
    tops = {"random": [], "by values": []}
    for seed in range(4):
        tried = climbed(seed)
        assert tried[0][0] == {"x": 0.9, "y": 0.5, "kind": "a"}
        assert tuning.propose_next(usual, HILL, tried[:7], seed) == tried[7][0]  # a search that goes on does the same
        tops["by values"].append(max(value for _, value in tried))
        tops["random"].append(max(height(s) for s in tuning.propose(usual, HILL, 25, seed)))
    assert np.mean(tops["by values"]) > (0.3 if torch else 0.7) * np.mean(tops["random"])  # they are below 0, the top


def test_what_is_held_is_not_proposed_and_strange_values_are_passed_over():
    held = {"kind": "a", "items": 5}
    assert all(s["kind"] == "a" and s["items"] == 5 for s, _ in climbed(1, 8, held))
    strange = [({"x": 7.0, "y": 0.5, "kind": "a"}, 9.0)]  # a default that the space does not hold
    found = tuning.propose_next(SimpleNamespace(x=7.0, y=0.5, kind="a"), HILL, strange)
    assert 0 <= found["x"] <= 1 and 0.001 <= found["y"] <= 1 and found["kind"] in ("a", "b")


@pytest.mark.slow
def test_every_question_has_its_own_search_and_the_defaults_come_first(shop_split):
    kinds = [Popularity, Revisits, ItemKNN, SequentialRules]
    found = tuning.tune_models(runs.Run(""), kinds, shop_split, trials=3)
    asked = runs.questions(shop_split, "valid")
    assert list(found) == [kind.name for kind in kinds] and all(list(tables) == asked for tables in found.values())
    for kind in kinds:
        for question, table in found[kind.name].items():
            weights = 1 if question[2] == "seen" or kind is Revisits else len(tuning.REPEATS)
            assert len(table) == weights + (2 if kind.search_space() else 0)
            assert table.trial.tolist() == list(range(len(table))) and table.chosen.sum() == 1
            first = table.iloc[0]
            assert all(first[name] == getattr(kind().config, name) for name in kind.search_space())
            protocol, target, exclude = question
            for row in (0, len(table) - 1):
                settings = tuning.best_setting(table.assign(chosen=table.index == row))
                again = evaluation.evaluate(kind(**settings), shop_split, protocol, target, "valid", exclude, ks=(10,))
                assert table["ndcg@10"][row] == pytest.approx(again.mean("ndcg", 10), abs=1e-12)


def test_no_trial_beats_the_defaults_by_luck(shop_split):
    """Nothing but the defaults is chosen unless its paired gain is more than one standard error."""
    found = tuning.search_model(ItemKNN, shop_split, 4)
    for tried in found.values():
        table = tuning.trial_table(tried, "ndcg", 10)
        best, chosen = int(table["ndcg@10"].idxmax()), int(table.chosen.idxmax())
        codes = pd.factorize(tried[0][1].user_ids)[0]
        values = np.stack([e.values["ndcg", 10] for _, e in tried], axis=1)
        gaps = intervals.user_means(values[:, [best]] - values, codes)
        within = gaps.mean(0) <= gaps.std(0, ddof=1) / np.sqrt(len(gaps))
        assert within[chosen] and not within[:chosen].any()  # the first that the best does not beat by an error


def test_what_is_chosen_is_fitted_for_its_question(shop_split):
    run = runs.Run("")
    found = tuning.tune_models(run, [ItemKNN], shop_split, trials=3)
    repeating = next(iter(found["item_knn"]))
    better = found["item_knn"][repeating].assign(chosen=[n == 2 for n in range(len(found["item_knn"][repeating]))])
    chosen = tuning.fit_chosen(run, [ItemKNN], {"item_knn": {**found["item_knn"], repeating: better}}, shop_split)
    for question, [model] in chosen.items():
        table = better if question == repeating else found["item_knn"][question]
        assert model.config == ItemKNN(**tuning.best_setting(table)).config
    results = runs.judge(None, chosen, shop_split, k=10)
    assert [runs.question_of(e.about) for e in results] == runs.questions(shop_split)


def test_the_test_part_is_not_looked_at(shop, shop_split):
    """Another future, the same trials to the last bit."""
    cutoff = shop_split.cutoff("test")
    other = leakage.noise(shop, cutoff, np.random.default_rng(1))
    again = splits.make(other, test=cutoff, valid=shop_split.cutoff("valid"))
    first, second = (tuning.tune(ItemKNN, s, "next_item", 3) for s in (shop_split, again))
    pd.testing.assert_frame_equal(first, second)


def test_settings_stay_in_their_space(shop_split):
    space = {"n_neighbors": Range(5, 9), "user_norm": (0.0, 1.0), "shrinkage": Range(0.01, 100.0, True)}
    trials = tuning.tune(ItemKNN, shop_split, "next_item", 8, seed=3, space=space)
    assert trials.n_neighbors.between(5, 9).all() and set(trials.user_norm) <= {0.0, 1.0}
    assert trials.shrinkage.between(0.01, 100).all() and trials.chosen.sum() == 1
    chosen = ItemKNN(**tuning.best_setting(trials)).config
    assert isinstance(chosen.n_neighbors, int) and isinstance(chosen.shrinkage, float)
    held = tuning.tune(ItemKNN, shop_split, "next_item", 2, fixed={"n_neighbors": 7}, space=space)
    assert (held.n_neighbors == 7).all() and tuning.best_setting(held)["n_neighbors"] == 7


def test_trials_are_kept_in_the_run(shop_split, tmp_path):
    run = runs.Run(tmp_path / "run", "22_neighbours")
    found = tuning.tune_models(run, [ItemKNN], shop_split, trials=2)["item_knn"]
    rows = json.loads((tmp_path / "run" / "trials.json").read_text())
    assert len(rows) == sum(map(len, found.values())) and sum(row["chosen"] for row in rows) == len(found)
    first = next(iter(found.values()))
    assert rows[0]["settings"]["n_neighbors"] == 100 and rows[1]["value"] == pytest.approx(
        first["ndcg@10"][1], abs=1e-6
    )
    kept = {runs.question_of(e.about): e for e in run.evaluations()}
    assert set(kept) == set(found) and {e.about["part"] for e in kept.values()} == {"valid"}
    for question, table in found.items():
        assert kept[question].mean("ndcg", 10) == pytest.approx(table["ndcg@10"][table.chosen].item())
    runs.Run(tmp_path / "run", "22_neighbours")  # a chapter that starts again forgets them
    assert json.loads((tmp_path / "run" / "trials.json").read_text()) == []


def test_wrong_budgets_and_models_without_a_space_are_refused(shop_split):
    with pytest.raises(ValueError, match=r"trials must be a whole number of at least 0, not 1\.5"):
        tuning.tune(ItemKNN, shop_split, "next_item", 1.5)
    with pytest.raises(ValueError, match="popularity has no setting that a search tries"):
        tuning.tune(Popularity, shop_split, "next_item", 1)
    with pytest.raises(ValueError, match="there is no model 'svd'; there are als"):
        model_class("svd")


def test_a_race_stops_the_hopeless_and_changes_no_choice(shop_split, monkeypatch):
    kinds, seen = [ItemKNN, SessionWalk], []
    monkeypatch.setattr(tuning, "RUNGS", (10**9,))
    whole = tuning.tune_models(runs.Run(""), kinds, shop_split, trials=6)
    monkeypatch.setattr(tuning, "RUNGS", (60, 200))
    raced = tuning.tune_models(runs.Run(""), kinds, shop_split, trials=6)
    for kind in kinds:
        for question, table in whole[kind.name].items():
            other = raced[kind.name][question]
            assert tuning.best_setting(other) == tuning.best_setting(table)
            asked = table.visitors.max()
            assert (table.visitors == asked).all() and set(other.visitors) <= {60, 200, asked}
            assert other.visitors[other.chosen].item() == asked  # who was judged on few is not chosen
            seen.append((other.visitors < asked).sum())
    assert sum(seen) > 0


def test_a_search_ends_when_its_time_is_up(shop_split):
    found = tuning.search_model(ItemKNN, shop_split, 50, seconds=1e-6)
    assert all(
        len({s["shrinkage"] for s, _ in tried}) == 1 for tried in found.values()
    )  # the defaults are always tried


def test_fixed_settings_are_kept_in_every_trial(shop_split, tmp_path):
    run = runs.Run(tmp_path, "22_neighbours")
    fixed = {"item_knn": {"min_cooccurrence": 2}}
    found = tuning.tune_models(run, [ItemKNN], shop_split, {"item_knn": 2}, fixed=fixed, seconds={"item_knn": 100.0})
    assert all((table.min_cooccurrence == 2).all() for table in found["item_knn"].values())
    models = tuning.fit_chosen(run, [ItemKNN], found, shop_split, fixed)
    assert {m.config.min_cooccurrence for [m] in models.values()} == {2}
    [spent] = run.rows("spent")
    assert (
        spent["model"] == "item_knn" and spent["planned"] == 100.0 and spent["settings"] >= 2 and spent["seconds"] > 0
    )


@pytest.mark.parametrize("kind", [ItemKNN, EASE])
def test_scores_of_a_block_are_computed_once_for_all_weights_where_they_are_sparse(kind):
    plain, calls = kind().fit(LOG), []
    counted = copy(plain)
    counted.__dict__["_answer"] = lambda *given: calls.append(1) or plain._answer(*given)
    remembering, asked = with_memory(counted), LOG.histories()
    for weight in REPEATS:
        one, other = (m.with_repeats(weight).rank(asked, 5, exclude="none") for m in (remembering, plain))
        np.testing.assert_array_equal(one.codes, other.codes)
        np.testing.assert_array_equal(one.scores, other.scores)
    assert len(calls) == (1 if kind is ItemKNN else len(REPEATS))
    remembering.rank(asked.take(slice(0, 3)), 5, exclude="none")  # another block, and items that are allowed
    remembering.rank(asked, 5, exclude="none", items=LOG.items[:4])
    assert len(calls) == (3 if kind is ItemKNN else len(REPEATS) + 2)
