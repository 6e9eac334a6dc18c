"""From new rows to a promoted bundle: appended rows, days that are not trusted, the gate, the guard, and flows that were killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from helpers import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_lab import loading
from recsys_lab.cli import main
from recsys_lab.datasets import Dataset
from recsys_lab.files import DataError, UserError
from recsys_lab.lifecycle import retraining
from recsys_lab.lifecycle.feedback import FeedbackLog, event_key
from recsys_lab.lifecycle.registry import ModelRegistry, Refused
from recsys_lab.lifecycle.retraining import (
    ROW_KEY,
    STEPS,
    Bounds,
    Plan,
    append_rows,
    bad_days,
    check_age,
    check_leakage,
    check_quality,
    day_figures,
    growing_folder,
    newest_window,
    retrain,
    run_gate,
    start_growing,
)
from recsys_lab.models.popularity import Popularity
from recsys_lab.ranking.hybrid import Hybrid
from recsys_lab.serving.bundle import pack, read_manifest

pytest.importorskip("mlflow")
FEW = {
    "sources": {"session_walk": 30, "popularity": 20},
    "max_requests": 200,
    "n_windows": 2,
    "window_fraction": 0.1,
    "num_boost_round": 10,
}
BOUNDS = Bounds(p99_ms=5000, requests=20, visitors=0, leakage_events=3000, ready_seconds=120)
WEEK = pd.Timedelta(days=7)


@pytest.fixture(scope="module")
def opening(shop):
    """Where the shop's last week begins."""
    return (shop.events["timestamp"].iloc[-1] - WEEK).floor("D")


@pytest.fixture(scope="module")
def first(shop, opening, tmp_path_factory):
    """A bundle of the shop before its last week."""
    place = tmp_path_factory.mktemp("first")
    log = shop.before(opening)
    pack(Hybrid(**FEW).fit(log).save(place / "fit"), log, place / "bundle", about={"dataset": "live"})
    return place / "bundle"


@pytest.fixture
def plan(shop, opening, first, tmp_path):
    """A growing log with the last week in its inbox, and a registry whose champion is of the time before."""
    home = start_growing(shop.before(opening), tmp_path / "live")
    shop.events[shop.events["timestamp"] >= opening].to_parquet(home / "inbox" / "week.parquet")
    shop.properties[shop.properties["timestamp"] >= opening].to_parquet(home / "inbox" / "properties.parquet")
    registry = ModelRegistry(str(tmp_path / "registry"))
    registry.promote(registry.register(first), [])
    return Plan(home, registry, bounds=BOUNDS, now=shop.events["timestamp"].iloc[-1])


def rows_of(events):
    """Events as a set."""
    return {tuple(row) for row in events[ROW_KEY].astype({"event": str}).itertuples(index=False)}


@settings(max_examples=15)
@given(st.lists(st.lists(st.integers(0, 199), max_size=60), min_size=1, max_size=4), st.randoms())
def test_deliveries_in_any_order_with_repeats_are_the_same_log(shop, tmp_path_factory, parts, random):
    """The log is the set of what was delivered, whatever came twice and in which order."""
    begin, later = shop.where(slice(0, 1000)), shop.events.iloc[1000:1200]
    home = start_growing(begin, tmp_path_factory.mktemp("grow") / "log")
    new = 0
    for part in parts:
        random.shuffle(part)
        became = append_rows(home, later.iloc[part], shop.events["timestamp"].iloc[-1])
        assert became.new + became.repeated == len(part) and became.late == became.ahead == 0
        new += became.new
    log = loading.read_folder(home, "log")
    given_rows = later.iloc[sorted({at for part in parts for at in part})]
    assert rows_of(log.events) == rows_of(begin.events) | rows_of(given_rows)
    assert len(log) == 1000 + new and log.events["timestamp"].is_monotonic_increasing
    pd.testing.assert_series_equal(log.events.dtypes, begin.events.dtypes)


def test_a_delivery_that_breaks_off_leaves_nothing_half_written(shop, tmp_path, monkeypatch):
    home = start_growing(shop.where(slice(0, 500)), tmp_path / "log")
    before = loading.read_folder(home, "log").fingerprint

    def full(self, path, **words):
        path.write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(OSError, match="No space"):
        append_rows(home, shop.events.iloc[500:600], shop.events["timestamp"].iloc[-1])
    monkeypatch.undo()
    assert loading.read_folder(home, "log").fingerprint == before
    assert not list(home.glob("rows-*")) and not list(home.glob(".rows-*"))


def test_what_cannot_be_appended_is_told(shop, tmp_path):
    home = start_growing(shop.where(slice(0, 500)), tmp_path / "log")
    row = shop.events.iloc[500:501]
    with pytest.raises(DataError, match=r"1 new row\(s\) lack one of"):
        append_rows(home, row.assign(timestamp=pd.to_datetime([None], utc=True)))
    with pytest.raises(DataError, match="user_id of new rows is not of the log's type int64"):
        append_rows(home, row.assign(user_id="who"))
    with pytest.raises(UserError, match="new rows have no place"):
        start_growing(Dataset("rows", row.drop(columns="timestamp"), has_times=False), tmp_path / "other")
    (home / "dataset.json").unlink()
    with pytest.raises(DataError, match="recsys-lab data grow"):
        loading.read_folder(home, "log")
    with pytest.raises(UserError, match="is no growing log; make one: recsys-lab data grow nothing"):
        growing_folder("nothing")


@pytest.mark.parametrize("seed", range(3))
def test_days_are_judged_by_the_days_before_only(seed):
    """A log of even days: none is bad; a day that is made wild is, and changes no judgement of the days before."""
    rng = np.random.default_rng(seed)
    day = np.repeat(np.arange(60), 200)
    frame = pd.DataFrame(
        {"user_id": rng.integers(0, 4000, len(day)), "item_id": rng.integers(0, 300, len(day)), "event": "view"}
    )
    frame["timestamp"] = pd.to_datetime(
        1_700_006_400_000 + day * 86_400_000 + rng.integers(0, 86_400_000, len(day)), unit="ms", utc=True
    )
    figures = day_figures(Dataset("even", frame))
    start = int(figures.index[0])
    assert bad_days(figures, start + 20) == []
    wild = frame[day == 40].assign(user_id=1)
    more = pd.concat([frame, wild, wild, wild])
    found = bad_days(day_figures(Dataset("wild", more)), start + 20)
    assert {bad.day for bad in found} == {start + 40} and {"events", "busiest"} <= {bad.figure for bad in found}
    gone = bad_days(day_figures(Dataset("gap", frame[day != 45])), start + 20)
    assert [(bad.day, bad.figure) for bad in gone] == [(start + 45, "events")]


def test_the_newest_window_is_over(shop):
    start, stop = newest_window(shop, 7)
    last = shop.moments[-1]
    assert stop <= last < stop + 86_400_000 and stop - start == 7 * 86_400_000 and stop % 86_400_000 == 0


class ReadsTheTree(Popularity):
    """A model that depends on what the tree looks like today."""

    name = "reads_the_tree"

    def _fit(self, dataset):
        return {"scores": np.roll(super()._fit(dataset)["scores"], len(dataset.categories))}


def test_a_recipe_that_reads_the_future_is_refused(shop):
    assert check_leakage(Popularity(), shop, 3000).passed
    found = check_leakage(ReadsTheTree(), shop, 3000)
    assert not found.passed and "later tree: " in found.text


def test_a_worse_recipe_is_refused_and_told_by_how_much(shop, first, opening):
    from recsys_lab.models.base import load_model

    champion = load_model(first / "model")
    worse = Hybrid(**FEW | {"sources": {"session_walk": 1, "popularity": 20}, "alpha": 0.9})
    found = check_quality(worse, champion, shop, BOUNDS)
    again = check_quality(champion, champion, shop, BOUNDS)
    assert again.passed and "less is allowed" in again.text
    assert not found.passed and "NDCG@10 0." in found.text and "[-0." in found.text
    assert check_quality(worse, champion, shop, replace(BOUNDS, margin=1.0)).passed
    with pytest.raises(UserError, match="nothing lies before or in the window of 4000 days"):
        check_quality(worse, champion, shop, replace(BOUNDS, window_days=4000))


@pytest.mark.slow
def test_the_gate_names_what_does_not_hold(shop, first, tmp_path):
    tight = replace(BOUNDS, p99_ms=0.01, memory_mb=1, ready_seconds=0.01)
    named = {c.name: c for c in run_gate(first, first, shop, tight)}
    assert [n for n, c in named.items() if not c.passed] == ["latency", "memory", "start"]
    assert "ms, and 0.01 are allowed" in named["latency"].text and "MB, and 1 are allowed" in named["memory"].text
    broken = tmp_path / "broken"
    shutil.copytree(first, broken)
    (broken / "model" / "model.json").write_text("{}")
    (check,) = run_gate(broken, first, shop, BOUNDS)
    assert (check.name, check.passed) == ("bundle", False) and "model.json" in check.text
    manifest = read_manifest(first)
    manifest["facts"]["end"] -= 86_400_000
    (broken / "manifest.json").write_text(json.dumps(manifest))
    assert check_age(broken, first) == ("age", False, "its data ends -1.0 days after the champion's")


@pytest.mark.slow
def test_a_flow_ends_the_same_wherever_it_was_killed(plan, monkeypatch, shop):
    """It is broken off before and after each step, again and again, and ends with one new version that is champion."""
    whole = {name: getattr(retraining, f"step_{name}") for name in STEPS}
    for name in STEPS:
        for after in (False, True):

            def broken(plan, name=name, after=after):
                if after:
                    whole[name](plan)
                raise KeyboardInterrupt

            monkeypatch.setattr(retraining, f"step_{name}", broken)
            with pytest.raises(KeyboardInterrupt):
                retrain(plan)
            monkeypatch.setattr(retraining, f"step_{name}", whole[name])
            if (name, after) == ("promote", True):
                break
    assert retrain(plan)["ended"] == "nothing new: the champion was fitted on this log"
    assert plan.registry.aliases() == {"champion": 2} and len(plan.registry.versions()) == 2
    assert [d["what"] for d in plan.registry.decisions()] == ["promote", "promote"]
    assert plan.log().fingerprint == shop.fingerprint
    assert sorted(p.name for p in (plan.folder / "done").iterdir()) == ["properties.parquet", "week.parquet"]


@pytest.mark.slow
def test_a_flow_that_the_system_kills(plan, tmp_path, first):
    """SIGKILL at several moments of a process; then it is run to its end, which is that of a flow that nobody killed."""
    code = (
        "import sys\nfrom pathlib import Path\nimport pandas as pd\n"
        "from recsys_lab.lifecycle.registry import ModelRegistry\nfrom recsys_lab.lifecycle.retraining import Bounds, Plan, retrain\n"
        "home, store, now = sys.argv[1:]\n"
        "bounds = Bounds(p99_ms=5000, requests=20, visitors=0, leakage_events=3000, ready_seconds=120)\n"
        "print(retrain(Plan(Path(home), ModelRegistry(store), bounds=bounds, now=pd.Timestamp(now))).get('ended', 'promoted'))"
    )
    untouched = (
        tmp_path / "untouched" / "live"
    )  # of the same name, which a log's fingerprint holds not, but its bundle does
    shutil.copytree(plan.folder, untouched)
    other = ModelRegistry(str(tmp_path / "other"))
    other.promote(other.register(first), [])
    retrain(replace(plan, folder=untouched, registry=other))
    words = [sys.executable, "-c", code, str(plan.folder), plan.registry.store, str(plan.now)]
    for seconds in (3.0, 4.0, 5.0, 6.5, 8.0):
        done = subprocess.Popen(
            words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(seconds)
        os.killpg(done.pid, signal.SIGKILL)  # with the server that a gate may have started
        done.wait()
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    assert len(plan.registry.versions()) == 2
    assert (
        read_manifest(plan.registry.folder("champion"))["version"] == read_manifest(other.folder("champion"))["version"]
    )


def test_two_flows_of_one_log_exclude_each_other(plan):
    plan.work.mkdir()
    with FileLock(plan.work / "flow.lock"):
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys; from pathlib import Path; from recsys_lab.lifecycle.retraining import Plan, retrain\n"
                "from recsys_lab.lifecycle.registry import ModelRegistry\n"
                "try: retrain(Plan(Path(sys.argv[1]), ModelRegistry('nowhere')), ['ingest'])\n"
                "except Exception as error: print(type(error).__name__, error)",
                str(plan.folder),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    assert "UserError" in done.stdout and "another retraining is at work; wait for it (--wait)" in done.stdout
    assert (plan.folder / "inbox" / "week.parquet").exists()
    assert retrain(plan, ["ingest"], wait=True)["ingest"]["new"] > 0


def bots(events, n):
    """Views by one robot on a day."""
    rng = np.random.default_rng(0)
    out = events.sample(n, replace=True, random_state=0).assign(event="view", user_id=10**9)
    return out.assign(timestamp=out["timestamp"] + pd.to_timedelta(rng.integers(0, 10**6, n), unit="ms"))


@pytest.mark.slow
def test_a_poisoned_day_is_not_promoted(plan, shop):
    """A robot's day in the delivery: nothing is fitted, the champion stays; set aside, the flow goes on without it."""
    week = pd.read_parquet(plan.folder / "inbox" / "week.parquet")
    day = week["timestamp"].dt.floor("D") == week["timestamp"].iloc[-1].floor("D") - pd.Timedelta(days=2)
    pd.concat([week, bots(week[day], 3000)]).to_parquet(plan.folder / "inbox" / "week.parquet")
    name = str(week["timestamp"][day].iloc[0].date())
    for _ in range(2):  # it does not get through by trying again
        with pytest.raises(Refused, match=rf"new days are not trained on .*--drop DAY.*days: {name}: "):
            retrain(plan)
    assert plan.registry.aliases() == {"champion": 1} and not list(plan.work.glob("bundle-*"))
    done = retrain(replace(plan, drop=(name,)))
    assert done["promote"]["what"] == "promote" and done["validate"]["accepted"] == [name]
    assert not (plan.log().events["user_id"] == 10**9).any()
    aside = pd.concat([pd.read_parquet(p) for p in (plan.folder / "set-aside").glob("*.parquet")])
    assert len(aside) == 3000 + day.sum()
    assert retrain(plan)["ended"].startswith("nothing new")


def test_a_day_that_someone_accepts_is_trained_on(plan):
    week = pd.read_parquet(plan.folder / "inbox" / "week.parquet")
    day = week["timestamp"].dt.floor("D") == week["timestamp"].iloc[-1].floor("D") - pd.Timedelta(days=2)
    pd.concat([week, bots(week[day], 3000)]).to_parquet(plan.folder / "inbox" / "week.parquet")
    name = str(week["timestamp"][day].iloc[0].date())
    with pytest.raises(Refused):
        retrain(plan, ["ingest", "validate"])
    retrain(replace(plan, accept=(name,)), ["validate"])
    assert retrain(plan, ["validate"])["validate"]["accepted"] == [name]  # and it stays accepted


@pytest.mark.slow
def test_a_refused_candidate_leaves_the_champion_and_may_be_forced(plan):
    strict = replace(plan, bounds=replace(BOUNDS, memory_mb=1))
    with pytest.raises(Refused, match=r"version 2 is not promoted: memory: .* MB, and 1 are allowed"):
        retrain(strict)
    assert plan.registry.aliases() == {"champion": 1, "challenger": 2}
    assert retrain(replace(strict, force=True), ["promote"])["promote"]["version"] == 2
    last = plan.registry.decisions()[-1]
    assert (last["what"], last["forced"]) == ("promote", True) and plan.registry.aliases() == {"champion": 2}
    for path in plan.work.glob("gate-*"):
        path.unlink()
    with pytest.raises(UserError, match="has not been through the gate"):
        retrain(plan, ["promote"])


def write_lists(folder, versions, rates, visitors, now):
    """A service's log of `visitors` lists of each bundle, with clicks at the rates."""
    rng = np.random.default_rng(1)
    log = FeedbackLog(folder, compacting=False)
    at = int((now - pd.Timedelta(days=3)).timestamp() * 1000)
    for version, rate in zip(versions, rates, strict=True):
        for n in range(visitors):
            shown = {"time": at + n, "request_id": f"{version}{n}", "user": f"{n}", "user_type": "warm"}
            shown |= {
                "route": "/recommend",
                "arm": "a",
                "model": "hybrid",
                "bundle": version,
                "items": ["1", "2"],
                "scores": [1.0, 0.5],
            }
            log.put("lists", shown)
            if rng.random() < rate:
                row = {
                    "request_id": f"{version}{n}",
                    "item_id": "1",
                    "event": "click",
                    "time": at + n + 1000,
                    "price": None,
                    "quantity": 1,
                }
                log.put("events", {"received": at + n + 1000, "key": event_key(row), **row})
    log.close(60)


@pytest.mark.slow
def test_the_guard_brings_the_champion_before_back(plan, tmp_path):
    done = retrain(plan)
    old, new = (row["bundle"] for row in plan.registry.versions())
    for name, rates, ended in (("alike", (0.2, 0.2), False), ("worse", (0.3, 0.1), True)):
        write_lists(tmp_path / name, (old, new), rates, 3000, plan.now)
        told = retrain(replace(plan, served=str(tmp_path / name)), ["watch"])
        assert ("ended" in told) == ended
    assert "version 2 is rolled back to 1: clicks a list -0.2" in told["ended"] and "by 3,000 visitors" in told["ended"]
    assert plan.registry.aliases()["champion"] == 1 and plan.registry.decisions()[-1]["why"].startswith(
        "the guard: clicks"
    )
    assert done["promote"]["version"] == 2
    assert retrain(plan)["ended"] == f"bundle {new} was rolled back before; it is not offered again"
    assert retrain(replace(plan, served=str(tmp_path / "worse")), ["watch"])["watch"] == {"watched": False}


def test_the_command_line(shop, opening, first, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RECSYS_LAB_REGISTRY", str(tmp_path / "registry"))
    for module in (loading, retraining):
        monkeypatch.setattr(module, "data_folders", lambda: [tmp_path])
    assert main(["retrain", "live"]) == 2 and "recsys-lab data grow live --base DATASET" in capsys.readouterr().err
    start_growing(shop.before(opening), tmp_path / "live")
    shop.events[shop.events["timestamp"] >= opening].to_csv(tmp_path / "new.csv", index=False)
    assert main(["data", "append", "live", str(tmp_path / "new.csv"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told[0]["new"] == int((shop.events["timestamp"] >= opening).sum())
    assert main(["retrain", "live"]) == 2 and "has no champion yet" in capsys.readouterr().err
    assert main(["retrain", "live", "--step", "guess"]) == 2 and "there is no step 'guess'" in capsys.readouterr().err
    assert main(["retrain", "live", "--drop", "monday"]) == 2 and "'monday' is no day" in capsys.readouterr().err
    assert main(["registry", "add", str(first)]) == 0 and "is version 1" in capsys.readouterr().out
    assert main(["registry", "promote", "1", "--dataset", "live", "--memory-mb", "1"]) == 3
    assert "version 1 is not promoted: memory: " in capsys.readouterr().err
    assert main(["registry", "promote", "1", "--dataset", "live", "--p99", "5000"]) == 0
    assert "version 1 is champion" in capsys.readouterr().out
    assert main(["retrain", "live", "--once", "--p99", "5000", "--margin", "0.5"]) == 0
    assert "promote   what promote, version 2, over 1" in capsys.readouterr().out
    assert main(["registry", "list"]) == 0 and "champion" in capsys.readouterr().out
    assert main(["registry", "list", "--decisions"]) == 0 and "refuse 1" in capsys.readouterr().out
    assert main(["registry", "diff", "1", "champion"]) == 0 and "facts: " in capsys.readouterr().out
    assert main(["bundle", "verify", "registry:champion"]) == 0 and "is whole" in capsys.readouterr().out
    assert main(["registry", "rollback", "--why", "a test", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == 1
