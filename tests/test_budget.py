"""What a run may try in a given time: shares, extrapolation, and what is left out."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_lab import budget
from recsys_lab.budget import Cost, extrapolate, parse_budget, seconds_needed, share_out, usual_budget
from recsys_lab.files import UserError
from recsys_lab.models.base import model_class
from recsys_lab.schedule import apart

COSTS = st.dictionaries(
    st.sampled_from([f"m{i}" for i in range(12)]),
    st.builds(Cost, st.floats(0.001, 500), st.floats(0.001, 50)),
    min_size=1,
)


@given(COSTS, st.floats(1, 5000), st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_a_plan_never_grants_more_than_there_is_and_forgets_nobody(costs, seconds, questions):
    plan = share_out(costs, seconds, questions)
    assert set(plan) == set(costs)
    spent = sum(seconds_needed(costs[n], p.trials, questions) for n, p in plan.items() if p.trials)
    assert spent <= seconds * (1 + 1e-9)
    for name, planned in plan.items():
        assert bool(planned.left_out) == (planned.trials == 0)
        if planned.left_out:
            assert seconds_needed(costs[name], 1, questions) > seconds / len(costs)


@given(COSTS, st.floats(1, 500))
@settings(max_examples=100, deadline=None)
def test_more_time_leaves_out_no_more_models(costs, seconds):
    few, more = (share_out(costs, s, 4) for s in (seconds, 2 * seconds))
    assert sum(p.trials == 0 for p in more.values()) <= sum(p.trials == 0 for p in few.values())


def test_models_that_cost_the_same_are_granted_the_same():
    plan = share_out({name: Cost(3.0, 0.5) for name in "abcd"}, 200.0, 4)
    assert len({p.trials for p in plan.values()}) == 1 and plan["a"].trials > 1


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
def test_a_power_law_is_continued(power):
    sizes = [1000, 4000]
    assert np.isclose(extrapolate(sizes, [(n / 1000) ** power for n in sizes], 64_000), 64**power)


def test_what_is_faster_than_the_clock_of_a_busy_machine_does_not_explode():
    assert extrapolate([1000, 4000], [0.001, 0.03], 4_000_000) < 100


def test_what_hardly_grows_on_small_parts_is_not_taken_for_what_never_grows():
    """A learned model of sequences was planned with seconds so, and was at work until the budget was spent."""
    assert extrapolate([1000, 4000], [3.6, 3.7], 256_000) > 20 * 3.7


def test_a_budget_is_a_time():
    assert [parse_budget(t) for t in ("90s", "30m", "1.5h", "2", "none")] == [90, 1800, 5400, 120, 0]
    for wrong in ("", "0", "-1m", "soon", "1d", "0s"):
        with pytest.raises(UserError, match="--budget must be a time"):
            parse_budget(wrong)


def test_costs_are_measured_once(shop, monkeypatch, tmp_path):
    monkeypatch.setenv("RECSYS_LAB_CACHE", str(tmp_path))
    first = budget.measured_costs(shop, {"item_knn": {}}, 500, 1.0, "here")
    monkeypatch.setattr(budget, "measure_cost", lambda *args: pytest.fail("measured again"))
    assert budget.measured_costs(shop, {"item_knn": {}}, 500, 1.0, "here") == first
    monkeypatch.undo()
    monkeypatch.setenv("RECSYS_LAB_CACHE", str(tmp_path))
    other = budget.measured_costs(shop, {"item_knn": {}}, 500, 1.0, "elsewhere")
    assert set(other) == {"item_knn"}


def test_a_model_too_large_for_the_memory_is_left_out_with_the_figure(shop, monkeypatch, tmp_path):
    monkeypatch.setenv("RECSYS_LAB_CACHE", str(tmp_path))
    monkeypatch.setenv("RECSYS_LAB_MEMORY_GB", "0.003")
    plan = budget.plan_models(shop, {"ease": {}, "popularity": {}}, 60.0, 2, 500, "here")
    assert plan["ease"]["trials"] == 0 and "ease needs about" in plan["ease"]["left_out"]
    assert plan["popularity"]["trials"] > 0


def test_a_log_has_a_usual_budget(shop):
    assert usual_budget(len(shop)) == 600.0 and model_class("item_knn").needs == ()


def test_a_plan_made_in_a_process_of_its_own_is_the_same(shop, monkeypatch, tmp_path):
    monkeypatch.setenv("RECSYS_LAB_CACHE", str(tmp_path))  # costs measured by the one are known to the other
    told = ({"popularity": {}, "item_knn": {}}, 60.0, 2, 300, "machine")
    here = budget.plan_models(shop, *told)
    assert apart(budget.load_and_do, budget.plan_models, "shop", "tiny", told) == here and set(here) == {
        "popularity",
        "item_knn",
    }


def test_what_goes_by_the_size_of_a_log_is_timed_as_it_will_be_on_the_whole(shop, monkeypatch):
    """On a part of the log iALS would be penalised otherwise, and on a large one its vectors would be shorter: too cheap a fit."""
    tried = []

    def timed(model, log):
        tried.append((model.config, len(log)))
        return Cost(1.0, 0.0)

    monkeypatch.setattr(budget, "time_model", timed)
    kind = model_class("ials")
    budget.measure_cost(kind, shop, 100, 1e9)
    whole = kind().config.for_size(len(shop.users), len(shop.items))
    assert {n for _, n in tried} != {len(shop)} and all(config == whole for config, _ in tried)
    small = min(n for _, n in tried)
    assert kind().config.for_size(len(shop.users) * small // len(shop), len(shop.items) // 2) != whole
    tried.clear()
    budget.measure_cost(kind, shop, 100, 1e9, {"factors": 8, "regularization": 0.03})
    assert all((config.factors, config.regularization) == (8, 0.03) for config, _ in tried)


@pytest.mark.parametrize("rounds", [5, 100])
def test_a_cost_is_what_all_rounds_take_on_one_core(shop, monkeypatch, rounds):
    """What the first fit makes for all does not hide what a round costs."""
    spent = [0.0]
    monkeypatch.setattr(
        budget, "time", SimpleNamespace(process_time=lambda: spent[0])
    )  # and no clock that a busy machine slows

    def prepare():
        spent[0] += 0.3
        return True

    class Counted(model_class("bpr")):
        def _vectors(self, dataset):
            dataset.kept("prepared", prepare, 1)
            spent[0] += 0.05 * self.config.epochs
            return super()._vectors(dataset)

    cost = budget.time_model(Counted(epochs=rounds), shop.where(np.ones(len(shop), bool)))
    assert cost.fit == pytest.approx(0.3 + 0.05 * rounds) and cost.rank == 0
