"""Features as of any moment, the same values offline, in a bundle, in Redis and in Feast, and how old they are."""

import json
import subprocess
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import requests
from helpers import FEW_SOURCES, ROOT, eventually, quick, redis_server, serving
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_lab import leakage
from recsys_lab.cli import main
from recsys_lab.files import UserError
from recsys_lab.lifecycle import store
from recsys_lab.lifecycle.store import (
    VIEWS,
    FeatureFeed,
    bundle_features,
    connect,
    export_feast,
    features_as_of,
    item_view,
    pull_features,
    push_features,
    read_head,
    registry_page,
    take_over,
    user_view,
    write_snapshot,
)
from recsys_lab.models.popularity import Popularity
from recsys_lab.ranking.candidates import gather
from recsys_lab.ranking.features import feature_block, item_statistics
from recsys_lab.ranking.hybrid import HybridTuned
from recsys_lab.serving.bundle import Bundle, pack
from recsys_lab.serving.lean import free_port

DAY, HOUR = 86_400_000, 3_600_000
FEAST = ROOT / ".venv-feast" / "bin" / "python"


@contextmanager
def redis_at(place):
    """The URL of a Redis server of one's own."""
    port = free_port()
    with redis_server(port, place):
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture(scope="module")
def end(shop):
    return int(shop.moments[-1]) // DAY * DAY


@pytest.fixture(scope="module")
def snapshots(shop, end, tmp_path_factory):
    """Snapshots of three days, with a gap."""
    place = tmp_path_factory.mktemp("features")
    for back in (5, 4, 1, 0):
        write_snapshot(place, shop, end - back * DAY)
    return place


@pytest.fixture(scope="module")
def early(shop, end, tmp_path_factory):
    """A bundle of the shop four days before its end."""
    place, known = tmp_path_factory.mktemp("early"), shop.before(end - 4 * DAY)
    fit = HybridTuned(**quick("hybrid_tuned") | {"sources": FEW_SOURCES}).fit(known)
    pack(fit.save(place / "fit"), known, place / "bundle", about={"dataset": "shop", "size": "tiny"})
    return place / "bundle"


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(-8 * 24, 3 * 24)), min_size=1, max_size=30))
def test_values_are_those_of_the_newest_snapshot_that_is_young_enough(shop, end, snapshots, asked):
    """By hand: pandas' asof merge of moments, and the frames as they were written."""
    frames = {int(p.stem): pd.read_parquet(p).set_index("item_id") for p in snapshots.glob("item/*/*.parquet")}
    requests_ = pd.DataFrame(asked, columns=["item_id", "at"])
    requests_["at"] = end + requests_["at"] * HOUR + 1
    found = features_as_of(snapshots, "item", requests_)
    assert found[["item_id", "at"]].equals(requests_)
    for row in found.itertuples():
        before = [at for at in frames if at <= row.at]
        at = max(before, default=None)
        known = at is not None and row.at - at <= 24 * HOUR and row.item_id in frames[at].index
        wanted = frames[at].loc[row.item_id] if known else pd.Series(np.nan, VIEWS["item"].names)
        mine = np.array([getattr(row, name) for name in VIEWS["item"].names], float)
        np.testing.assert_array_equal(mine, wanted[VIEWS["item"].names].to_numpy(float))


def test_a_snapshot_does_not_know_what_comes_later(shop, end):
    def made(log, cutoff):
        known = log.before(cutoff)
        return pd.concat([item_view(known).add_prefix("i_"), user_view(known).add_prefix("u_")], axis=1)

    assert leakage.check(made, shop, end - 5 * DAY).raise_if_leaky().passed


def test_the_user_view_is_what_a_ranker_reads(shop):
    """For each visitor with a candidate of their own, at the end of the log."""
    users, facts, h = user_view(shop).set_index("user_id"), item_statistics(shop), shop.histories()
    lists = gather({"popularity": Popularity().fit(shop)}, {"popularity": 1}, h, "none")
    names = VIEWS["user"].names
    block = feature_block(facts, h, lists, names)
    first = lists.indptr[:-1]
    np.testing.assert_allclose(block[first], users.loc[shop.users, names].to_numpy(), atol=1e-3)


def test_offline_bundle_and_redis_have_the_same_values(shop, end, snapshots, early, tmp_path):
    bundle, at = Bundle(early), end - 4 * DAY
    mine = bundle_features(bundle.model)
    asked = pd.DataFrame({"item_id": bundle.items.values, "at": at})
    offline = features_as_of(snapshots, "item", asked)
    with redis_at(tmp_path) as url:
        assert push_features(url, shop, at) == len(shop.before(at).items)
        head = read_head(connect(url))
        online = pull_features(connect(url), bundle.items.values, head)
        strange = pull_features(connect(url), np.array([10**9]), head)
    for name in VIEWS["item"].names:
        np.testing.assert_array_equal(mine.values[name], offline[name].to_numpy(float))
        np.testing.assert_array_equal(mine.values[name], online.values[name])
        assert np.isnan(strange.values[name]).all()
    assert online.shop == mine.shop | {"end": online.shop["end"]} and online.at == at


def test_what_is_taken_over_keeps_what_is_not_known(early):
    bundle = Bundle(early)
    old = bundle_features(bundle.model)
    values = {name: np.where(np.arange(len(v)) % 2, v + 1, np.nan) for name, v in old.values.items()}
    kept = bundle.model.state
    take_over(bundle.model, old._replace(values=values))
    new = bundle_features(bundle.model)
    for name, before in old.values.items():
        odd = np.arange(len(before)) % 2 == 1
        np.testing.assert_array_equal(new.values[name][~odd], before[~odd])
        np.testing.assert_array_equal(new.values[name][odd], (before + 1)[odd])
        assert kept[f"facts/{name}"].dtype == bundle.model.state[f"facts/{name}"].dtype
    assert bundle.model.state is not kept  # requests at work go on with what they had


@pytest.mark.slow
def test_a_server_takes_newer_values_over_and_bears_a_redis_that_is_away(shop, end, early, tmp_path):
    """Staleness is told in /status; lists change with the values, and are those of a model that has them."""
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    bundle = Bundle(early)
    users = [bundle.users[i] for i in range(0, len(bundle.users), 7)]

    def lists(base):
        return [requests.get(f"{base}/recommend/{u}?n=10", timeout=10).json()["recommendations"] for u in users]

    def told(base):
        return requests.get(f"{base}/status", timeout=10).json()["features"]

    with serving(early, "--quiet", "--features", url) as (base, _):
        own = lists(base)
        assert told(base)["store"] == "bundle" and not told(base)["fresh"]
        assert eventually(lambda: "Error" in told(base)["failing"])
        with redis_server(port, tmp_path):
            assert eventually(lambda: told(base)["failing"] == "nothing was pushed yet")
            push_features(url, shop, end)
            assert eventually(lambda: told(base)["store"] == "redis")
            assert (told(base)["at"], told(base)["failing"]) == (end, "")
            newer = lists(base)
            other = {"at": end + DAY, "version": "elsewhere", "names": [], "shop": {}}
            connect(url).set(f"{store.KEY}:item", json.dumps(other))
            assert eventually(lambda: "values of version elsewhere" in told(base)["failing"])
        assert lists(base) == newer and told(base)["at"] == end
    take_over(bundle.model, pull_frame(shop, end, bundle))
    for user, listed in zip(users, newer, strict=True):
        ranked = bundle.rank(bundle.history(bundle.users.find(user)), 10)
        assert [f["itemid"] for f in listed] == bundle.items[ranked.codes].tolist()
    assert own != newer


def pull_frame(log, at, bundle):
    """The item view as of a moment for the items of a bundle, without Redis."""
    known = log.before(at)
    facts = item_statistics(known)
    frame = item_view(known).set_index("item_id").reindex(bundle.items.values)
    values = {name: frame[name].to_numpy(float) for name in VIEWS["item"].names}
    return store.Online(at, values, {name: float(facts[name]) for name in store.SCALARS})


def test_freshness_counts_from_the_moment_of_the_values(early, end):
    model = Bundle(early).model
    last = int(model.state["facts/end"])
    for hours, fresh in ((1, True), (23, True), (25, False)):
        told = FeatureFeed(clock=lambda hours=hours: last + hours * HOUR).state(model)
        assert (told["age_hours"], told["fresh"], told["store"]) == (hours, fresh, "bundle")


def test_a_new_bundle_does_not_inherit_the_moment_of_one_that_is_gone(shop, end, early, tmp_path):
    """Bundles come and go, and Python gives the place of an old model to a new one."""
    with redis_at(tmp_path) as url:
        feed = FeatureFeed(url)
        push_features(url, shop, end)
        for _ in range(20):
            model = Bundle(early).model
            assert feed.state(model)["store"] == "bundle"
            assert feed.refresh([model]) and feed.state(model)["store"] == "redis"
            del model


def test_a_push_that_breaks_off_leaves_what_was_current(shop, end, tmp_path, monkeypatch):
    import redis

    with redis_at(tmp_path) as url:
        push_features(url, shop, end - DAY)
        before = read_head(connect(url))

        def broken(self, *args, **words):
            raise redis.ConnectionError("gone")

        monkeypatch.setattr(redis.Redis, "set", broken)
        with pytest.raises(UserError, match="what was current there is still"):
            push_features(url, shop, end)
        monkeypatch.undo()
        assert read_head(connect(url)) == before
        some = pull_features(connect(url), shop.items.values[:5], before)
        assert not np.isnan(some.values["users"]).all()
        push_features(url, shop, end)
        assert 0 < connect(url).ttl(f"{store.KEY}:item:{before['version']}:{before['at']}") <= 3600


def test_a_snapshot_is_whole_or_not_there(shop, end, tmp_path, monkeypatch):
    def full(self, path, **words):
        path.write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(OSError, match="No space"):
        write_snapshot(tmp_path, shop, end)
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.parquet"))
    with pytest.raises(UserError, match="knows nothing before"):
        write_snapshot(tmp_path, shop, 0)


def test_versions_are_never_mixed(shop, end, snapshots, monkeypatch):
    monkeypatch.setattr(store, "code_fingerprint", lambda *modules: "another" * 4)
    with pytest.raises(UserError, match=r"there is no snapshot of version anotheranoth .there are [0-9a-f]{12}"):
        features_as_of(snapshots, "item", pd.DataFrame({"item_id": [1], "at": [end]}))


def test_the_command_line(snapshots, tmp_path, capsys):
    assert main(["features", "list", "--json"]) == 0
    assert [row["feature"] for row in json.loads(capsys.readouterr().out)] == registry_page()["feature"].tolist()
    words = ["--dataset", "shop", "--size", "tiny", "--at", "2015-09-01"]
    assert main(["features", "write", str(tmp_path / "s"), *words]) == 0 and "rows of item" in capsys.readouterr().out
    assert main(["features", "write", str(tmp_path / "s"), *words]) == 0 and "there already" in capsys.readouterr().out
    assert (
        main(["features", "read", str(tmp_path / "s"), "item", "12", "13", "--at", "2015-09-01T05:00", "--json"]) == 0
    )
    rows = json.loads(capsys.readouterr().out)
    assert [row["item_id"] for row in rows] == [12, 13] and rows[0]["found"] == 1_441_065_600_000
    assert main(["features", "read", str(tmp_path / "s"), "item", "12", "--at", "soon"]) == 2
    assert "'soon' is no time" in capsys.readouterr().err
    assert (
        main(["features", "push", "redis://127.0.0.1:1/0", *words]) == 2
        and "does not answer" in capsys.readouterr().err
    )
    assert main(["features", "push", "nowhere", *words]) == 2 and "is no URL of a Redis" in capsys.readouterr().err
    assert main(["features", "export", str(tmp_path / "s"), "--feast", str(tmp_path / "f")]) == 0
    assert (tmp_path / "f" / "feature_store.yaml").exists()


@pytest.mark.slow
@pytest.mark.skipif(not FEAST.exists(), reason="make test-orchestrators installs Feast")
def test_feast_gives_our_values(shop, end, snapshots, tmp_path):
    """`feast apply`, `materialize` and `get_online_features` in an environment of Feast's own; also its history as of past moments."""
    repo = tmp_path / "repo"
    export_feast(snapshots, repo)
    items, users = shop.items.values[:40].tolist(), shop.users.values[:40].tolist()
    code = """
import json, sys
from datetime import datetime, timedelta, timezone
import pandas as pd
from feast import FeatureStore
end, items, users = json.loads(sys.argv[1])
store = FeatureStore(".")
moment = datetime.fromtimestamp(end / 1000, timezone.utc)
store.materialize(moment - timedelta(days=30), moment + timedelta(seconds=1))
out = {}
for name, key, ids in (("item", "item_id", items), ("user", "user_id", users)):
    names = [f"{name}_features:{f.name}" for f in store.get_feature_view(f"{name}_features").schema if f.name != key]
    out[name] = store.get_online_features(names, [{key: i} for i in ids]).to_dict()
asked = pd.DataFrame({"item_id": items, "event_timestamp": [moment - timedelta(days=3, hours=20)] * len(items)})
past = store.get_historical_features(asked, [n for n in ["item_features:users", "item_features:buy_item"]]).to_df()
out["past"] = past.sort_values("item_id")[["item_id", "users", "buy_item"]].to_dict("list")
print("TOLD", json.dumps(out))
"""
    feast = FEAST.with_name("feast")
    env = {"PATH": f"{FEAST.parent}:/usr/bin:/bin", "HOME": str(tmp_path), "FEAST_USAGE": "False", "IS_TEST": "True"}
    applied = subprocess.run([str(feast), "apply"], cwd=repo, env=env, capture_output=True, text=True, timeout=200)
    assert applied.returncode == 0, applied.stderr[-3000:]
    words = [str(FEAST), "-c", code, json.dumps([end, items, users])]
    done = subprocess.run(words, cwd=repo, env=env, capture_output=True, text=True, timeout=300)
    lines = [line for line in done.stdout.splitlines() if line.startswith("TOLD ")]
    assert lines, done.stderr[-3000:]
    told = json.loads(lines[0].removeprefix("TOLD "))
    frames = {
        "item": item_view(shop.before(end)).set_index("item_id"),
        "user": user_view(shop.before(end)).set_index("user_id"),
    }
    for name, ids in (("item", items), ("user", users)):
        for column in VIEWS[name].names:
            wanted = frames[name].reindex(ids)[column].to_numpy(float)
            np.testing.assert_array_equal(np.array(told[name][column], float), wanted, err_msg=column)
    wanted = features_as_of(snapshots, "item", pd.DataFrame({"item_id": items, "at": end - 92 * HOUR})).set_index(
        "item_id"
    )
    past = told["past"]
    assert wanted["users"].drop(past["item_id"]).isna().all()  # Feast leaves those out that were not known
    for column in ("users", "buy_item"):
        mine = wanted.loc[past["item_id"], column].to_numpy(float)
        np.testing.assert_array_equal(np.array(past[column], float), mine)
