"""The lab's own answer: what is chosen, on whom, within which time, and what happens when it is interrupted."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import arrived_split, random_log, untimed_sessions

from recsys_lab import best as lab
from recsys_lab.best import (
    Search,
    Trial,
    choose,
    decide_best,
    find_best,
    held_settings,
    in_first_half,
    kept_log,
    next_settings,
    open_search,
    racing_models,
    select_members,
)
from recsys_lab.datasets import Dataset
from recsys_lab.files import DataError
from recsys_lab.models import graph_filter
from recsys_lab.models.base import MODELS, load_model, model_class
from recsys_lab.registry import LOADED
from recsys_lab.tuning import contains, distributions

ROOT = Path(__file__).parents[1]


def nothing(line):
    pass


@pytest.fixture(autouse=True)
def few_settings(monkeypatch):
    monkeypatch.setattr(lab, "MOST_SETTINGS", 2)


@pytest.fixture(scope="module")
def board():
    """A log on which item KNN must beat popularity: two groups of users with items of their own."""
    rng = np.random.default_rng(0)
    rows = [(u, i + 20 * (u % 2)) for u in range(120) for i in rng.permutation(20)[:9]]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id"]).assign(event="view")
    part = np.where(rng.random(len(frame)) < 0.2, "test", "train")
    return Dataset("groups", frame.assign(part=pd.Categorical(part, ["train", "test"])), has_times=False)


@pytest.fixture(scope="module")
def searched(board, tmp_path_factory):
    """(what a search found, its folder); tests that go on with it copy the folder."""
    place = tmp_path_factory.mktemp("searched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lab, "MOST_SETTINGS", 2)
        return find_best(board, place, 300.0, ["popularity", "item_knn"], k=10, judged=1000, report=nothing), place


@pytest.mark.slow
def test_the_better_model_is_chosen_fitted_and_judged(searched):
    found, place = searched
    assert found.model.name in ("item_knn", "blend") and found.test is not None
    single = found.table.set_index("model")
    assert single.judged_on["item_knn"] > single.judged_on["popularity"] + 0.1
    assert load_model(place / "model").fitted_on == found.model.fitted_on
    told = json.loads((place / "best.json").read_text())
    assert told["chosen"] == found.model.name and told["test"]["ndcg@10"] == pytest.approx(
        found.test.mean("ndcg", 10), abs=1e-6
    )
    page = (place / "README.md").read_text()
    assert f"**{found.model.name}**" in page and f"ndcg@10 {found.test.mean('ndcg', 10):.4f} [" in page
    assert all(f"| {name} |" in page for name in ("popularity", "item_knn"))
    assert json.loads((place / "provenance.json").read_text())["dataset"]["name"] == "groups"


@pytest.mark.slow
def test_a_search_goes_on_where_it_was_stopped(board, searched, tmp_path):
    shutil.copytree(searched[1], tmp_path, dirs_exist_ok=True)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "search").glob("*/*.json")}
    find_best(board, tmp_path, 300.0, ["popularity", "item_knn", "user_knn"], k=10, judged=1000, report=nothing)
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "search").glob("*/*.json")}
    assert all(after[p] == t for p, t in before.items() if p.parent.name != "blend")
    assert any(p.parent.name == "user_knn" for p in after)
    with pytest.raises(DataError, match="another seed"):
        find_best(board, tmp_path, 300.0, ["popularity"], k=10, judged=1000, seed=1, report=nothing)


@pytest.mark.slow
def test_what_does_not_end_is_stopped_and_named(board, tmp_path, monkeypatch):
    """A model that would take an hour costs its share of the budget and no more."""
    slow = "import time; from recsys_lab.models.popularity import Popularity; Popularity._fit = lambda *a: time.sleep(3600); "
    monkeypatch.setattr(lab, "WORKER", slow + lab.WORKER)
    start = time.time()
    found = find_best(board, tmp_path, 120.0, ["popularity", "item_knn"], k=10, judged=1000, report=nothing)
    assert found.model.name == "item_knn" and found.left_out == ["popularity: not done within its time"]
    assert time.time() - start < 120


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
def test_a_worker_ends_when_its_search_is_killed(board, tmp_path):
    """A search that is killed outright leaves no process behind that works on."""
    search = open_search(board, tmp_path, 10, "ndcg", 500, 0)
    lab.keep_log(board, search)
    slow = "import time; from recsys_lab.models.popularity import Popularity; Popularity._fit = lambda *a: time.sleep(3600); "
    program = f"""if True:
        import time
        from pathlib import Path
        from recsys_lab import best as lab
        lab.WORKER = {slow + lab.WORKER!r}
        search = lab.Search(Path({str(search.folder)!r}), ("given", "any", "seen"), "ndcg", 10, 500, 0)
        lab.run_jobs(search, [lab.Job("popularity", "try_settings", ("popularity", 0, 1), 600.0, time.time() + 600)], 1)
    """
    began = subprocess.Popen([sys.executable, "-c", program])

    def workers():
        """Ids of processes whose command line names the search's folder and that are no zombies."""
        named = [p for p in Path("/proc").glob("[0-9]*") if p.name != str(began.pid)]
        return [p.name for p in named if str(search.folder) in said(p / "cmdline") and " Z " not in said(p / "stat")]

    wait_for(workers)
    time.sleep(1)
    began.kill()
    began.wait()
    wait_for(lambda: not workers())


def said(path):
    """The text of a file of /proc; nothing where the process is gone."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def wait_for(condition, seconds=60):
    until = time.time() + seconds
    while not condition():
        assert time.time() < until, "it did not come about"
        time.sleep(0.2)


def test_why_a_model_was_left_out_is_said(board, tmp_path, monkeypatch):
    monkeypatch.setenv("RECSYS_LAB_MEMORY_GB", "0.000001")
    with pytest.raises(ValueError, match="no model could be tried: ease: needs about"):
        find_best(board, tmp_path, 300.0, ["ease"], k=10, judged=1000, report=nothing)


def a_trial(number, values, model="als"):
    """A trial with these values of each visitor's NDCG."""
    evaluation = lab.Evaluation(
        {"model": model},
        (10,),
        "",
        np.arange(len(values)),
        np.zeros((len(values), 10), np.int32),
        np.arange(len(values) + 1),
        np.zeros(len(values), int),
        {},
        {("ndcg", 10): np.asarray(values, float)},
        {},
        {},
    )
    return Trial(model, number, {"nr": number}, 1.0, evaluation)


def a_search(tmp_path):
    return Search(tmp_path, ("given", "any", "seen"), "ndcg", 10, 1000, 0)


def test_only_what_is_better_by_more_than_a_standard_error_replaces_the_defaults(tmp_path):
    rng = np.random.default_rng(1)
    usual = rng.random(2000)
    first = in_first_half(np.arange(2000), 0)
    noise = rng.normal(0, 0.5, 2000)
    error = noise[first].std(ddof=1) / np.sqrt(first.sum())
    shift = noise - noise[first].mean()
    hardly, clearly = usual + shift + 0.5 * error, usual + shift + 2 * error
    search = a_search(tmp_path)
    assert choose([a_trial(0, usual), a_trial(1, hardly)], search).number == 0
    assert choose([a_trial(0, usual), a_trial(1, clearly), a_trial(2, hardly)], search).number == 1
    stopped = a_trial(3, clearly[:500] + 9)
    assert choose([a_trial(0, usual), stopped], search).number == 0  # judged on few visitors
    assert choose([], search) is None


@pytest.mark.parametrize(("gain", "wanted"), [(0.5, "als"), (3.0, "blend")])
def test_a_blend_must_be_better_for_visitors_on_whom_nothing_was_chosen(tmp_path, gain, wanted):
    rng = np.random.default_rng(2)
    usual = rng.random(2000)
    second = ~in_first_half(np.arange(2000), 0)
    noise = rng.normal(0, 0.3, 2000)
    noise[second] += gain * noise[second].std(ddof=1) / np.sqrt(second.sum()) - noise[second].mean()
    noise[~second] += 5  # however good it looks where it was chosen
    search = a_search(tmp_path)
    for trial in (a_trial(0, usual), a_trial(0, usual + noise, "blend"), a_trial(0, usual - 0.5, "ease")):
        (tmp_path / trial.model).mkdir()
        lab.keep_trial(search, trial)
    best, table = decide_best(search, ["als", "ease"])
    assert best.model == wanted
    assert table.rival.sum() == (1 if wanted == "als" else 0)
    assert not table.set_index("model").rival["ease"]


def test_selection_takes_what_helps_and_nothing_else():
    class Fixed:
        scores = dict.fromkeys(("a", "b", "c"))

        def ndcg(self, weights, k):
            share = {n: w / sum(weights.values()) for n, w in weights.items()}
            return 1 - (share.get("a", 0) - 2 / 3) ** 2 - (share.get("b", 0) - 1 / 3) ** 2 - share.get("c", 0)

    assert select_members(Fixed(), "a", 10) == {"a": 0.6667, "b": 0.3333}
    seconds = {"a": 50.0, "b": 60.0, "c": 1.0}  # what cannot be fitted in time is not chosen, whatever it would add
    assert select_members(Fixed(), "a", 10, seconds, 110.0) == {"a": 0.6667, "b": 0.3333}
    assert select_members(Fixed(), "a", 10, seconds, 109.0) == {"a": 1.0}
    assert select_members(Fixed(), "a", 10, seconds, 10.0) == {"a": 1.0}


def test_order_counts_only_where_the_data_say_so(tmp_path):
    log = arrived_split(1)
    assert "ordered" not in log.offers and "session_walk" not in racing_models(log)
    assert held_settings("graph_filter", log, a_search(tmp_path))["position_decay"] == 0.0
    held = held_settings("lightgbm", log, a_search(tmp_path))
    assert (held["protocol"], held["exclude"]) == ("given", "seen") and "session_walk" not in held["sources"]
    log = arrived_split(1)
    log = arrived_split(1)
    log.ordered = True
    assert "ordered" in log.offers and "session_walk" in racing_models(log)
    assert "position_decay" not in held_settings("graph_filter", log, a_search(tmp_path))
    assert "factors" in held_settings("graph_filter", log, a_search(tmp_path))  # vectors are made once
    assert {"session_walk", "gru4rec"} <= set(racing_models(untimed_sessions(1)))
    assert [model_class(name).name for name in lab.CANDIDATES] == list(lab.CANDIDATES)


def test_starts_are_those_that_were_measured():
    """The settings tried after the defaults are those of the benchmark's results, and each can be drawn by a search."""
    found = json.loads((ROOT / "benchmarks" / "results" / "defaults.json").read_text())["models"]
    assert {name: told["starts"] for name, told in found.items()} == lab.STARTS
    for name, starts in lab.STARTS.items():
        space = distributions(model_class(name).search_space())
        assert all(contains(space[n], v) for setting in starts for n, v in setting.items())


def test_what_is_tried_next_depends_on_what_came_of_the_others(board, tmp_path):
    search = open_search(board, tmp_path, 10, "ndcg", 500, 0)
    usual = model_class("item_knn")().config
    asked = [next_settings("item_knn", board, search)]
    assert asked[0] == {name: getattr(usual, name) for name in model_class("item_knn").search_space()}  # the defaults
    lab.try_settings(board, search, "item_knn", 0, 3, time.time() + 300)
    assert [t.settings | lab.STARTS["item_knn"][n] for n, t in enumerate(search.trials("item_knn")[1:])] == [
        t.settings for t in search.trials("item_knn")[1:]
    ]
    held = held_settings("lightgbm", board, search)
    chosen = search.chosen("item_knn").settings
    assert held["settings"]["item_knn"] == {
        n: v for n, v in chosen.items() if n != "repeat_weight"
    }  # its sources are searched too
    assert held["settings"]["ials"] == lab.ARRIVED["settings"]["ials"]
    assert next_settings("item_knn", board, search) == next_settings(
        "item_knn", board, search
    )  # a search that goes on does the same
    assert len({repr(t.settings) for t in search.trials("item_knn")}) == 3
    lab.try_settings(board, search, "popularity", 0, 3, time.time() + 300)
    assert (
        len(search.trials("popularity")) == 1 and next_settings("popularity", board, search) is None
    )  # it has no settings


def test_a_filter_is_tried_with_vectors_that_are_made_once(board, tmp_path, monkeypatch):
    made, before = [], graph_filter.smooth_basis
    monkeypatch.setattr(graph_filter, "smooth_basis", lambda *a: made.append(a) or before(*a))
    search = open_search(board, tmp_path, 10, "ndcg", 500, 0)
    lab.try_settings(board, search, "graph_filter", 0, 4, time.time() + 300)
    assert len(search.trials("graph_filter")) == 4 and len(made) == 1
    assert len({t.settings["in_exponent"] for t in search.trials("graph_filter")}) == 4


def test_a_blend_of_a_large_catalogue_scores_the_best_items_alone(board, tmp_path, monkeypatch):
    search = open_search(board, tmp_path, 10, "ndcg", 500, 0)
    for name in ("item_knn", "user_knn", "ease"):
        lab.try_settings(board, search, name, 0, 1, time.time() + 300)
    scales = {}
    for most in (lab.DENSE_UP_TO, 10):
        monkeypatch.setattr(lab, "DENSE_UP_TO", most)
        monkeypatch.setattr(lab, "select_members", lambda pool, first, *rest: {first: 0.5, "ease": 0.5})
        lab.try_blend(board, search, ["item_knn", "user_knn", "ease"], 300.0, time.time() + 300)
        (tried,) = search.trials("blend")
        scales[most] = tried.settings["scale"]
        assert tried.settings["weights"] == {"item_knn": 0.5, "ease": 0.5}
    assert scales[10] == "top"
    assert held_settings("gf_cf", board, search)["items"] == 10


@pytest.mark.parametrize("log", [random_log(3), untimed_sessions(3), arrived_split(3)], ids=lambda log: log.name)
def test_a_process_reads_the_log_that_was_kept(log, tmp_path):
    log.ordered = True
    search = open_search(log, tmp_path, 10, "ndcg", 100, 0)
    lab.keep_log(log, search)
    again = kept_log(search.folder)
    assert again.fingerprint == log.fingerprint and again.offers == log.offers


def test_long_vectors_are_tried_where_there_is_time(board, tmp_path, monkeypatch):
    search, measured = open_search(board, tmp_path, 10, "ndcg", 500, 0), lab.how_much_longer
    monkeypatch.setattr(lab, "how_much_longer", lambda *a: 1e9)
    lab.try_settings(board, search, "ials", 0, 3, time.time() + 300)
    assert [(t.number, t.settings["factors"]) for t in search.trials("ials")] == [(0, 0)]
    monkeypatch.setattr(lab, "how_much_longer", lambda setting, *a: 1e9 if setting["factors"] else 1.0)
    lab.try_settings(board, search, "ials", 0, 3, time.time() + 300)
    assert [t.number for t in search.trials("ials")] == [0, 20]  # others do not wait for it
    assert search.trials("ials")[1].settings.items() >= lab.STARTS["ials"][0].items()
    monkeypatch.setattr(lab, "how_much_longer", measured)
    lab.try_settings(board, search, "ials", 0, 4, time.time() + 300)
    assert [t.number for t in search.trials("ials")] == [0, 10, 20, 30]
    assert search.trials("ials")[1].settings["factors"] == lab.LONG_VECTORS["ials"][0]["factors"]
    assert search.trials("ials")[3].settings.items() >= lab.STARTS["ials"][1].items()
    usual, long = [Trial("als", 0, {"factors": 64}, 1.0, None)], {"factors": 512}
    assert measured(long, usual, board) == 8**1.5 and measured({"factors": 32}, usual, board) == 1
    assert measured({"factors": 0}, usual, board) == 1 and measured({"shrinkage": 5.0}, usual, board) == 1


def test_vectors_are_as_long_as_was_measured_to_help():
    """On logs of many users and items the longest vectors that were tried are at most 1% behind the best; there are such in a search."""
    found = json.loads((ROOT / "benchmarks" / "results" / "factors.json").read_text())
    rows = pd.DataFrame(found["rows"])
    for name, (long,) in lab.LONG_VECTORS.items():
        for log in ("gowalla", "retailrocket-sessions"):
            values = rows[(rows["model"] == name) & (rows["log"] == log)].set_index("factors")["ndcg@20"]
            assert values[long["factors"]] > 0.99 * values.max() > 1.1 * values[64]
        assert long["factors"] in model_class(name).search_space()["factors"]


OWN_MODEL = """
from recsys_lab.models.config import Config, Range, setting
from recsys_lab.models.base import Recommender

class GroupConfig(Config):
    shift: float = setting(0.0, "added to all scores", Range(0.0, 1.0))

class Groups(Recommender):
    name = "groups_of_test"
    Config = GroupConfig
    def _fit(self, dataset):
        return {"popular": self.popular}
    def _score(self, histories):
        import numpy as np
        met = histories.matrix(len(self.items)).toarray()
        return (met @ np.equal.outer(self.items.to_numpy() // 20, self.items.to_numpy() // 20)).astype(np.float32) + self.config.shift
"""


def test_a_model_of_one_s_own_races_too(board, tmp_path, monkeypatch):
    """One that a plugin brings is raced in processes of its own, with its search space, and beats what it is better than."""
    assert lab.plugin_models() == []
    (tmp_path / "groups_of_test.py").write_text(OWN_MODEL)
    monkeypatch.setenv("RECSYS_LAB_PLUGINS", str(tmp_path / "groups_of_test.py"))
    try:
        assert lab.plugin_models() == ["groups_of_test"] and racing_models(board)[-1] == "groups_of_test"
        search = open_search(board, tmp_path / "out", 10, "ndcg", 500, 0)
        lab.keep_log(board, search)
        jobs = [
            lab.Job(n, "try_settings", (n, 0, 2), 120.0, time.time() + 120) for n in ("groups_of_test", "popularity")
        ]
        lab.run_jobs(search, jobs, 2)
        tried = search.trials("groups_of_test")
        assert len(tried) == 2 and tried[0].settings["shift"] == 0.0 != tried[1].settings["shift"]
        best, _ = decide_best(search, ["groups_of_test", "popularity"])
        assert best.model == "groups_of_test"
    finally:
        sys.modules.pop("groups_of_test", None)
        MODELS.discard("groups_of_test")
        LOADED.discard(str(tmp_path / "groups_of_test.py"))
