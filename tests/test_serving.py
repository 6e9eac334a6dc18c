"""The service as its callers meet it: a server in a process of its own, its bundles, faults, swaps, and parity with the evaluation."""

import asyncio
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import requests
from conftest import FEW_SOURCES, LEAN, ROOT, TWO_STAGE, free_port, packed, quick, serving
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi_offline")
from fastapi.testclient import TestClient

from recsys_lab import datasets, evaluation, products, runs, splits
from recsys_lab.datasets import DataError
from recsys_lab.models.als import ALS
from recsys_lab.models.base import MODELS, model_class
from recsys_lab.ranking.hybrid import HybridTuned
from recsys_lab.serving import bundle as bundles
from recsys_lab.serving.api import MOST_BODY, MOST_HISTORY, Settings, create_app, replay_requests, share_of
from recsys_lab.serving.bundle import Bundle, Ids, Texts, pack, verify


@pytest.fixture(scope="module")
def client(folder):
    with TestClient(create_app(Settings(str(folder), token="secret", every=0), wait=True)) as c:
        yield c


@pytest.fixture(scope="module")
def someone(fits):
    known = fits[2].known
    return int(known.user_ids[np.argmax(np.diff(known.indptr))])


def eventually(holds, seconds=30):
    """Whether something holds within some seconds."""
    end = time.time() + seconds
    while time.time() < end:
        if holds():
            return True
        time.sleep(0.05)
    return False


# What a bundle is


@given(st.lists(st.text(max_size=5), max_size=20))
def test_texts_survive(texts):
    told = Texts.of(texts)
    wanted = [t.encode("utf-8", "replace").decode() for t in texts]
    assert len(told) == len(texts) and [told[i] for i in range(len(told))] == wanted


@given(
    st.sets(st.integers(-(2**62), 2**62), min_size=1, max_size=30), st.lists(st.integers(-(2**62), 2**62), max_size=9)
)
def test_ids_are_found_as_an_index_finds_them(there, asked):
    import pandas as pd

    ids = np.array(sorted(there))
    asked = np.array([*asked, *ids[:3]], np.int64)
    assert Ids(ids).get_indexer(asked).tolist() == pd.Index(ids).get_indexer(asked).tolist()
    assert [Ids(ids).find(str(i)) for i in ids if abs(i) < 10**18] == [n for n, i in enumerate(ids) if abs(i) < 10**18]


@given(st.text(max_size=12))
def test_no_text_is_a_wrong_id(text):
    ids = Ids(np.array([1, 22, 333]))
    assert ids.find(text) == ({1: 0, 22: 1, 333: 2}.get(int(text), -1) if re.fullmatch(r"-?[0-9]{1,18}", text) else -1)
    words = Ids(np.array(["", "a", "b"]))
    assert words.find(text) == {"": 0, "a": 1, "b": 2}.get(text, -1)


def test_a_bundle_is_the_same_twice_and_whole_or_not_at_all(fits, shop, folder, tmp_path, monkeypatch):
    first = packed(fits, shop, tmp_path / "b")
    assert first["version"] == verify(folder)["version"]

    def broken(*told):
        raise OSError("no space left")

    monkeypatch.setattr(bundles, "write_catalogue", broken)
    with pytest.raises(OSError, match="no space left"):
        packed(fits, shop, tmp_path / "b")
    assert verify(tmp_path / "b") == first and [p.name for p in tmp_path.iterdir()] == ["b"]


def test_an_equal_fit_makes_an_equal_bundle(fits, shop, folder, tmp_path):
    """Whatever time it took: the version stands for what is served."""
    from dataclasses import asdict

    again = HybridTuned(**asdict(fits[2].config)).fit(splits.make(shop).known("test"))
    assert again.fit_seconds != fits[2].fit_seconds
    made = pack(
        again.save(tmp_path / "fit"), shop, tmp_path / "b", {"item_knn": fits[1]}, {"dataset": "shop", "size": "tiny"}
    )
    assert made["version"] == verify(folder)["version"], bundles.difference(folder, tmp_path / "b")


def test_every_damage_is_refused_by_name(folder, tmp_path):
    for damage in ("truncated", "edited", "missing"):
        for name in ("model/model.json", "model/state/booster.npy", "catalogue/words.db", "others/item_knn/items.npy"):
            copy = tmp_path / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(folder, copy)
            whole = (copy / name).read_bytes()
            if damage == "missing":
                (copy / name).unlink()
            else:
                (copy / name).write_bytes(whole[:-1] if damage == "truncated" else whole[:-1] + bytes([whole[-1] ^ 1]))
            with pytest.raises(DataError, match=re.escape(name) + ".*recsys-lab bundle"):
                Bundle(copy)


def test_other_manifests_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "b")
    path = tmp_path / "b" / "manifest.json"
    told = json.loads(path.read_text())
    for change, why in (
        ({"format": 99}, "has format 99"),
        (
            {"code": {**told["code"], "ranking.features:pair_columns": "0"}},
            "recsys_lab.ranking.features:pair_columns is",
        ),
        ({"code": {**told["code"], "ranking.features:gone": "0"}}, "recsys_lab.ranking.features:gone is not"),
        ({"files": {"../../etc/passwd": {"sha256": "", "bytes": 1}}}, "is missing from the bundle"),
        ({"files": 3}, "is no bundle"),
    ):
        path.write_text(json.dumps({**told, **change}))
        with pytest.raises(DataError, match=why):
            verify(tmp_path / "b")
    path.write_text("{")
    with pytest.raises(DataError, match="is no bundle"):
        verify(tmp_path / "b")


def test_a_feature_function_that_changes_refuses_the_bundle(folder, tmp_path, monkeypatch):
    """Another body of `price_columns` on disk: refused by its name; another comment: not."""
    package = tmp_path / "recsys_lab"
    shutil.copytree(ROOT / "recsys_lab", package)
    monkeypatch.setattr(bundles, "package_folder", lambda: package)
    path = package / "ranking" / "features.py"
    source = path.read_text()
    path.write_text(source.replace("def price_columns", "# a comment\ndef price_columns"))
    verify(folder)
    assert "price[b.c.items] - usual" in source
    path.write_text(source.replace("price[b.c.items] - usual", "usual - price[b.c.items]"))
    with pytest.raises(DataError, match=r"recsys_lab\.ranking\.features:price_columns is not as it was"):
        verify(folder)


def test_without_fits_the_command_that_makes_them_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="recsys-lab run --dataset NAME --out"):
        bundles.bundle_run(tmp_path, tmp_path / "b")
    with pytest.raises(FileNotFoundError, match=r"there is no run .*nowhere; name the folder of one"):
        bundles.bundle_run(tmp_path / "nowhere", tmp_path / "b")
    with pytest.raises(ValueError, match="there is no model 'lightfn'; there are"):
        bundles.fit_of(tmp_path, ("lightfn",))
    rows = [{"model": "hybrid_tuned", "fit": "hybrid_tuned-0"}]
    (tmp_path / "fits.json").write_text(json.dumps(rows))
    (tmp_path / "provenance.json").write_text(json.dumps({"dataset": {"name": "shop", "size": "small"}}))
    with pytest.raises(
        FileNotFoundError, match="hybrid_tuned-0 is not there any more; say: recsys-lab run --dataset shop --size small"
    ):
        bundles.bundle_run(tmp_path, tmp_path / "b")


def test_a_model_with_another_catalogue_is_not_bundled(fits, shop, tmp_path):
    known = splits.make(shop).known("test")
    wide = model_class("content")().fit(known).save(tmp_path / "content")
    with pytest.raises(ValueError, match="content cannot be bundled beside hybrid_tuned: its catalogue is not"):
        pack(fits[0], shop, tmp_path / "b", {"content": wide})


def test_a_url_is_copied_once_and_checked(folder, tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in folder.rglob("*"):
        if path.is_file():
            memory.pipe_file(f"/shelf/{path.relative_to(folder)}", path.read_bytes())
    place = bundles.local("memory://shelf", tmp_path)
    assert verify(place)["version"] == place.name and bundles.local("memory://shelf", tmp_path) == place
    memory.pipe_file("/shelf/model/popular.npy", b"no numbers")
    assert bundles.local("memory://shelf", tmp_path) == place  # the copy that is whole is used
    with pytest.raises(DataError, match=r"popular\.npy is not as it was written"):
        bundles.local("memory://shelf", tmp_path / "other")
    assert not list((tmp_path / "other" / "bundles").iterdir())


def test_commands(fits, shop, folder, tmp_path, capsys):
    from recsys_lab.cli import main

    packed(fits, shop, tmp_path / "b")
    packed(fits, shop, tmp_path / "b", exact_up_to=100)
    assert (tmp_path / "b" / "near" / "als.faiss").exists() and main(["bundle", "verify", str(tmp_path / "b")]) == 0
    assert main(["bundle", "diff", str(folder), str(tmp_path / "b")]) == 0
    told = capsys.readouterr().out
    assert "is whole" in told and "file near/als.faiss: None ->" in told
    assert main(["bundle", "rollback", str(tmp_path / "b")]) == 0
    assert verify(tmp_path / "b")["version"] == verify(folder)["version"]
    assert main(["bundle", "verify"]) == 2 and main(["bundle", str(tmp_path)]) == 2
    assert main(["bundle", str(tmp_path), "-o", str(tmp_path / "c")]) == 2
    assert "holds no fit of hybrid_tuned" in capsys.readouterr().err


# One process, small


def test_a_server_holds_no_large_library(folder):
    ask = (
        "from recsys_lab.serving.lean import lean, ABSENT; lean(); lean()\n"
        "import sys\n"
        f"from recsys_lab.serving.bundle import Bundle; b = Bundle({str(folder)!r})\n"
        "import recsys_lab.serving.api\n"
        "[b.rank(b.history(u), 10, name) for u in (-1, 0, 5) for name in b.models]\n"
        "b.find('lamp', 3); b.similar(0, 3, 'als')\n"
        "assert all(getattr(sys.modules[n], 'stand_in', False) for n in ABSENT), ABSENT\n"
        "print('lean')"
    )
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "lean", done.stderr


def test_every_single_model_is_served_as_it_ranks_in_a_small_process(fits, shop, tmp_path):
    """Stored vectors, neighbours, filters, graphs: the lists of known users by name are those of `recommend`."""
    known = splits.make(shop).known("test")
    settings = {
        "lightfm": {"factors": 4, "epochs": 2},
        "bpr": {"factors": 4, "iterations": 3},
        "lightgcn": {"factors": 4, "epochs": 1},
        "gf_cf": {"factors": 8},
        "graph_filter": {"factors": 8},
        "content": {"new_items": False},
    }
    names = [n for n in MODELS if n not in TWO_STAGE | {"oracle", "lightfm_hybrid"}]  # whose catalogue is larger
    models = {n: model_class(n)(**settings.get(n, {})).fit(known) for n in names}
    others = {n: m.save(tmp_path / "fits" / n) for n, m in models.items()}
    pack(fits[0], shop, tmp_path / "b", others)
    users = known.users[::30].tolist()
    ask = (
        "from recsys_lab.serving.lean import lean; lean()\n"
        "import json, sys\n"
        "from recsys_lab.serving.bundle import Bundle\n"
        f"b = Bundle({str(tmp_path / 'b')!r})\n"
        f"found = {{n: [b.rank(b.history(b.users.find(u)), 10, n, 'seen') for u in {users}] for n in {names}}}\n"
        "items = {n: b.models[n].items for n in found}\n"
        "told = {n: [[[i.item() for i in items[n][r.codes]], r.scores.tolist()] for r in rs] for n, rs in found.items()}\n"
        "print(json.dumps(told))"
    )
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    for name, model in models.items():
        wanted = model.recommend(users, 10, "seen")
        size = np.nanmax(np.abs(wanted.scores), initial=0)
        for row, (ids, scores) in enumerate(told[name]):
            assert ids == wanted.items[wanted.codes[row]].tolist(), name
            np.testing.assert_allclose(np.array(scores, float), wanted.scores[row], rtol=0, atol=1e-6 * max(1, size))


# Parity


def test_a_thousand_visitors_over_http_get_what_was_evaluated(tmp_path_factory):
    """A hybrid of the small shop, by reference the evaluated pipeline; ids equal, scores to 1e-6, with and without the index of vectors."""
    place = tmp_path_factory.mktemp("parity")
    log = datasets.load("shop", size="small")
    split = splits.make(log)
    hybrid = HybridTuned(
        **quick("hybrid_tuned") | {"sources": FEW_SOURCES | {"als": 10}, "settings": {"als": {"factors": 16}}}
    )
    hybrid.fit(split.known("test"))
    protocol, target, exclude = runs.questions(split)[0]
    cases = evaluation.make_cases(split, protocol, target, "test", exclude)
    full = np.flatnonzero((cases.history > 0) & (cases.history <= MOST_HISTORY))
    first = full[np.unique(cases.user_ids[full], return_index=True)[1]][:1000]
    cases = cases.subset(np.sort(first), np.ones(len(cases.relevant), bool))
    asked = cases.histories(slice(0, len(cases)))
    assert len(cases) == 1000
    fit = hybrid.save(place / "fit")
    for name, above in (("exact", 50_000), ("indexed", 1000)):
        manifest = pack(fit, log, place / name, about={"dataset": "shop", "size": "small"}, exact_up_to=above)
        assert bool(manifest["near"]) == (name == "indexed")
        wanted = bundles.served_model(place / name).rank(asked, 10, exclude)
        with serving(place / name, "--quiet") as (url, _):
            session = requests.Session()

            def post(path, body, url=url, session=session):
                return session.post(f"{url}{path}", json=body).json()

            codes, scores = replay_requests(post, asked, 10, exclude, hybrid.items)
            assert (codes == wanted.codes).all() and (np.isnan(scores) == np.isnan(wanted.scores)).all()
            worst = np.nanmax(np.abs(scores - wanted.scores))
            assert worst <= 1e-6
    exact = hybrid.rank(asked, 10, exclude)
    assert (bundles.served_model(place / "exact").rank(asked, 10, exclude).codes == exact.codes).all()


def test_known_users_are_answered_as_rank_does(client, fits):
    hybrid = fits[2]
    users = hybrid.known.user_ids[:150]
    wanted = hybrid.recommend(users, 10, hybrid.config.exclude)
    for row, user in enumerate(users.tolist()):
        found = client.get(f"/recommend/{user}?n=10").json()
        assert [f["itemid"] for f in found["recommendations"]] == wanted.items[wanted.codes[row]].tolist()
        assert found["user_type"] == "warm" and found["user_id"] == user


def test_alpha_is_the_share_of_the_collaborative_half(client, someone):
    ends = {}
    for alpha, half in ((0, "ranker_score"), (1, "collaborative_score")):
        found = client.get(f"/recommend/{someone}?n=20&alpha={alpha}").json()["recommendations"]
        halves = [f[half] for f in found if f[half] is not None]
        assert halves == sorted(halves, reverse=True) and len(halves) > 3
        ends[alpha] = [f["itemid"] for f in found]
    assert ends[0] != ends[1]


# The contract


def test_routes_answer_as_they_say(client, someone, fits):
    health = client.get("/health").json()
    assert health["status"] == "ok" and health["mode"] == "single" and health["stats"]["total_events"] > 1000
    assert set(health["model"]) == {"version", "features", "mf_users", "mf_items", "hybrid_alpha"}
    assert set(client.get("/status").json()) == {"database", "matrix_factorization", "similarity_search"}
    assert client.get("/metadata").json()["factors"] == 8 and client.get("/ready").status_code == 200
    assert "recsys_requests_total" in client.get("/metrics").text
    stats = client.get(f"/user/{someone}/stats").json()
    assert stats["total_events"] >= stats["unique_items_viewed"] >= stats["unique_categories_viewed"] >= 1
    mine = fits[2].known.take(np.array([np.argmax(np.diff(fits[2].known.indptr))]))
    bought = set(mine.items[mine.events == mine.event_names.index("transaction")].tolist())
    assert stats["conversion_rate"] == pytest.approx(len(bought) / len(set(mine.items.tolist())), abs=1e-7)
    assert stats["purchases"] == (mine.events == mine.event_names.index("transaction")).sum()
    item = client.get("/").json()["examples"]["item_id"]
    for path, body in ((f"/similar/{item}?k=5", None), ("/matrix_factor/similar", {"item_id": item, "n": 5})):
        found = (client.get(path) if body is None else client.post(path, json=body)).json()["recommendations"]
        assert len(found) == 5 and item not in [f["item_id"] for f in found]
    liked = client.post("/matrix_factor/user", json={"user_id": someone, "n": 20}).json()["recommendations"]
    met = client.post("/matrix_factor/user", json={"user_id": someone, "n": 20, "filter_already_liked": False}).json()
    assert [f["item_id"] for f in liked] != [f["item_id"] for f in met["recommendations"]]
    for name, strategy in (("als", "als"), ("knn", "item_knn"), ("item_knn", "item_knn"), ("popularity", "popularity")):
        rows = client.get(f"/recommend/{name}/{someone}?k=3").json()
        assert len(rows) == 3 and {"product", "score", "strategy"} == set(rows[0])
        assert {r["strategy"] for r in rows} <= {strategy, "popular"}
    assert client.get("/search").status_code == 405


def test_strangers_and_what_is_not_there(client):
    cold = client.get("/recommend/nobody").json()
    assert cold["user_type"] == "cold" and len(cold["recommendations"]) == 5
    assert (
        cold["recommendations"]
        == client.post("/recommend/explain", json={"history": [], "k": 5}).json()["recommendations"]
    )
    for path in ("/user/nobody/stats", "/similar/nobody", "/similar/1?model=nobody", "/recommend/nobody/1", "/nowhere"):
        answer = client.get(path)
        assert answer.status_code == 404 and set(answer.json()["error"]) == {"code", "message", "request_id"}
    assert client.post("/matrix_factor/user", json={"user_id": "nobody"}).status_code == 404
    assert client.get("/recommend/1?model=nobody").status_code == 404


@pytest.mark.parametrize(
    "ask",
    [
        {"k": 5},
        {"user_id": 1, "k": 0},
        {"user_id": 1, "k": 51},
        {"user_id": 1, "k": "many"},
        {"user_id": 1, "colour": "red"},
        {"history": [1] * 201},
        {"history": [{"item_id": 1, "event": "stole"}]},
        {"history": [{"item_id": 1, "time": 5}, {"item_id": 1, "time": 4}]},
        {"history": [{"item_id": 1, "time": -1}]},
        {"history": [[1]]},
        {"user_id": 1, "exclude": "everything"},
        {"user_id": 1, "alpha": 2},
        {"user_id": "x" * 129},
        {"user_id": 10**30},
        {"history": [10**30]},
        [],
        "text",
    ],
)
def test_what_is_out_of_range_is_refused_with_a_sentence(client, ask):
    answer = client.post("/recommend", json=ask)
    error = answer.json()["error"]
    assert (
        answer.status_code in (400, 422) and error["code"] in ("invalid", "bad_request") and len(error["message"]) > 5
    )
    assert "Traceback" not in answer.text and "Error" not in error["message"]


@pytest.mark.parametrize(
    "user",
    ["../../etc/passwd", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "😀", str(10**30), "-1", "%00", "'; DROP TABLE", "%ff"],
)
def test_strange_ids(client, user):
    for path in (f"/recommend/{user}", f"/user/{user}/stats", f"/similar/{user}", f"/recommend/als/{user}"):
        answer = client.get(path)
        assert answer.status_code in (200, 404, 422), (path, answer.status_code)
        assert "root:" not in answer.text


def test_bodies_are_bounded(client):
    for kind in (b"x" * 10_000_000, (b"x" * 100_000 for _ in range(100))):
        answer = client.post("/recommend", content=kind, headers={"content-type": "application/json"})
        assert answer.status_code == 413 and answer.json()["error"]["code"] == "too_large"
    just = json.dumps({"user_id": 1, "model": "x" * (MOST_BODY - 100)}).encode()
    assert client.post("/recommend", content=just, headers={"content-type": "application/json"}).status_code == 422
    for body in (b"{", b"\xff\xfe", b'{"user_id": "\\ud800"}', b'{"user_id": NaN}', b"[" * 50_000):
        answer = client.post("/recommend", content=body, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 422) and "error" in answer.json()


def test_requests_have_an_id_and_a_time(client):
    answer = client.get("/health", headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1" and float(answer.headers["x-response-time-ms"]) >= 0
    for told in ("a b", "x" * 65, "é".encode()):
        assert re.fullmatch(
            "[0-9a-f]{32}", client.get("/health", headers={"x-request-id": told}).headers["x-request-id"]
        )
    wrong = client.get("/nowhere", headers={"x-request-id": "mine-2"})
    assert wrong.json()["error"]["request_id"] == wrong.headers["x-request-id"] == "mine-2"


def test_an_exception_shows_nothing_of_itself(folder):
    app = create_app(Settings(str(folder), every=0), wait=True)
    with TestClient(app, raise_server_exceptions=False) as c:
        app.state.service.arms[0].bundle.model.reasons = None
        answer = c.get(f"/recommend/{c.get('/').json()['examples']['user_id']}")
        assert answer.status_code == 500 and answer.json()["error"]["code"] == "internal"
        assert "NoneType" not in answer.text and answer.headers["x-request-id"] == answer.json()["error"]["request_id"]


def test_not_ready_without_a_bundle(tmp_path):
    with TestClient(create_app(Settings(str(tmp_path / "none"), every=0))) as c:
        assert c.get("/health").json()["mode"] == "starting"
        for path in ("/ready", "/recommend/1", "/"):
            answer = c.get(path)
            assert answer.status_code == 503 and answer.json()["error"]["code"] == "unavailable"
    with pytest.raises(DataError), TestClient(create_app(Settings(str(tmp_path / "none"), every=0), wait=True)):
        pass


def test_more_than_it_can_hold_is_turned_away(folder):
    app = create_app(Settings(str(folder), every=0), wait=True)
    with TestClient(app) as c:
        app.state.service.at_work = 10_000
        answer = c.get("/health")
        assert answer.status_code == 503 and answer.headers["connection"] == "close"
        app.state.service.at_work = 0
        assert c.get("/health").status_code == 200


def test_the_pages_about_the_service_need_no_network(client):
    for path in ("/docs", "/redoc"):
        page = client.get(path).text
        assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", page)
        for local in re.findall(r"""(?:src|href)=["'](/[^"']+\.(?:js|css))""", page):
            assert client.get(local).status_code == 200
    told = client.get("/openapi.json").json()
    assert all("tags" in op for path in told["paths"].values() for op in path.values())
    assert told["components"]["schemas"]["Ask"]["examples"]


def test_whatever_fits_the_schema_never_breaks_it(folder):
    """Cases drawn from the OpenAPI description; `RECSYS_LAB_CASES` draws more."""
    import schemathesis
    from schemathesis.checks import CHECKS, load_all_checks

    load_all_checks()
    with serving(folder, "--quiet") as (url, _):
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        wanted = [
            CHECKS.get_one(name)
            for name in ("not_a_server_error", "response_schema_conformance", "content_type_conformance")
        ]
        each = int(os.environ.get("RECSYS_LAB_CASES", "300")) // len(list(schema.get_all_operations()))
        asked = 0
        for found in schema.get_all_operations():
            operation = found.ok()
            if operation.path == "/training":
                continue

            @settings(max_examples=max(5, each), deadline=None, database=None, derandomize=True)
            @given(case=operation.as_strategy())
            def ask(case):
                nonlocal asked
                asked += 1
                case.call_and_validate(checks=wanted)

            ask()
        assert asked > 0
        print(f"{asked} cases")


# Arms


def test_arms_are_stable_and_told(folder, caplog):
    app = create_app(Settings(str(folder), "item_knn", 0.3, every=0), wait=True)
    with TestClient(app) as c:
        arms = {}
        for user in range(200):
            answer = c.get(f"/recommend/{user}")
            arms[user] = answer.json()["arm"]
            assert answer.headers["x-arm"] == arms[user] == ("b" if share_of(str(user)) < 0.3 else "a")
            assert answer.json()["model"] == ("item_knn" if arms[user] == "b" else "hybrid_tuned")
        assert set(arms.values()) == {"a", "b"} and c.get("/health").json()["mode"] == "split"
        assert re.search(r'recsys_requests_total\{arm="b",route="/recommend/\{user_id\}"', c.get("/metrics").text)
        body = {"user_id": 7, "k": 3}
        assert c.post("/recommend", json=body).json()["arm"] == arms[7]
        caplog.set_level(logging.INFO, "recsys_lab.serve")
        caplog.clear()
        c.get("/recommend/7", headers={"x-request-id": "seven"})
        (line,) = [json.loads(r.message) for r in caplog.records if r.name == "recsys_lab.serve"]
        assert line.pop("ms") >= 0 and line == {
            "request_id": "seven",
            "method": "GET",
            "route": "/recommend/{user_id}",
            "status": 200,
            "arm": arms[7],
        }


@given(st.text(max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_keeps_those_it_had(user, a, b):
    low, high = min(a, b), max(a, b)
    assert share_of(user) < high or not share_of(user) < low
    assert 0 <= share_of(user) < 1


def test_two_bundles_side_by_side(fits, shop, folder, tmp_path):
    known = splits.make(shop).known("test")
    other = HybridTuned(**quick("hybrid_tuned"), alpha=1.0).fit(known).save(tmp_path / "fit")
    pack(other, shop, tmp_path / "other")
    with TestClient(create_app(Settings(str(folder), str(tmp_path / "other"), 0.5, every=0), wait=True)) as c:
        told = c.get("/").json()["arms"]
        assert told["a"]["version"] != told["b"]["version"]
        assert {c.get(f"/recommend/{u}").json()["arm"] for u in range(40)} == {"a", "b"}


# Swaps, training, and the end


def test_a_bundle_is_swapped_under_load_without_a_failed_request(fits, shop, tmp_path):
    place = tmp_path / "b"
    first = packed(fits, shop, place)["version"]
    with serving(place, "--workers", "2", "--quiet") as (url, _):
        seen, failed, stop = set(), [], threading.Event()

        def ask():
            session = requests.Session()
            while not stop.is_set():
                answer = session.get(f"{url}/recommend/17?n=3", timeout=10)
                ready = session.get(f"{url}/ready", timeout=10)
                seen.add(ready.json().get("model_version"))
                failed.extend(a.status_code for a in (answer, ready) if a.status_code != 200)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        [t.start() for t in threads]
        try:
            versions = [first]
            for above in (100, 50_000):
                versions.append(packed(fits, shop, place, exact_up_to=above)["version"])
                assert eventually(lambda: versions[-1] in seen)
                seen.discard(first)
        finally:
            stop.set()
            [t.join() for t in threads]
        assert not failed and versions[1] in seen and len(set(versions)) == 2 and versions[2] == first


def test_a_bad_bundle_in_its_place_is_left_alone(fits, shop, tmp_path):
    place = tmp_path / "b"
    first = packed(fits, shop, place)["version"]
    app = create_app(Settings(str(place), every=0.05), wait=True)
    with TestClient(app) as c:
        path = place / "manifest.json"
        told = json.loads(path.read_text())
        path.write_text(json.dumps({**told, "version": "other", "code": {}}))
        time.sleep(0.5)
        assert c.get("/ready").json()["model_version"] == first and c.get("/recommend/17").status_code == 200
        shutil.rmtree(place)
        time.sleep(0.3)
        assert c.get("/recommend/17").status_code == 200


def test_training(fits, shop, tmp_path):
    place = tmp_path / "b"
    first = packed(fits, shop, place)["version"]
    bearer = {"authorization": "Bearer secret"}
    with serving(place, "--token", "secret", "--quiet") as (url, _):
        for headers, status in (
            ({}, 401),
            ({"authorization": "Bearer wrong"}, 401),
            ({"authorization": "secret2"}, 401),
        ):
            assert requests.post(f"{url}/training", json={"model_type": "mf"}, headers=headers).status_code == status
        assert requests.post(f"{url}/training", json={"model_type": "cars"}, headers=bearer).status_code == 422
        mf = requests.post(f"{url}/training", json={"model_type": "mf"}, headers=bearer).json()
        assert mf["status"] == "failed" and "has other items than the bundle" in mf["message"]
        told = {}
        training = threading.Thread(
            target=lambda: told.update(
                requests.post(f"{url}/training", json={"model_type": "hybrid"}, headers=bearer).json()
            )
        )
        training.start()
        busy, slowest = 0, 0.0
        while training.is_alive():
            began = time.time()
            assert requests.get(f"{url}/recommend/17").status_code == 200
            slowest = max(slowest, time.time() - began)
            # only until the first refusal: a training of the factors that came after this one's end would be a second
            if not busy:
                busy += requests.post(f"{url}/training", json={"model_type": "mf"}, headers=bearer).status_code == 409
            time.sleep(0.1)
        assert told["status"] == "trained" and told["stats"]["total_events"] == len(shop), told
        assert busy > 0 and slowest < 3
        second = verify(place)["version"]
        assert eventually(lambda: requests.get(f"{url}/ready").json()["model_version"] == second)
        assert second != first and verify(f"{place}.previous")["version"] == first
        again = requests.post(f"{url}/training", json={"model_type": "hybrid"}, headers=bearer).json()
        assert again["status"] == "unchanged"
        mf = requests.post(f"{url}/training", json={"model_type": "mf", "force_retrain": True}, headers=bearer).json()
        assert mf["status"] == "trained" and verify(place)["about"]["trained_on"].keys() == {"hybrid", "mf"}
    assert bundles.roll_back(place) == second
    with TestClient(create_app(Settings(str(place), every=0), wait=True)) as c:
        assert (
            c.post("/training", json={"model_type": "mf"}, headers=bearer).status_code == 403
        )  # no token, no training


def test_new_factors_need_the_same_catalogue(fits, shop, tmp_path, monkeypatch):
    packed(fits, shop, tmp_path / "b")
    half = shop.before(int(np.median(shop.moments)))
    monkeypatch.setattr(datasets, "load", lambda *a, **k: half)
    with pytest.raises(ValueError, match=r"has other items than the bundle.*train the hybrid"):
        bundles.refit(tmp_path / "b", "mf")
    known = splits.make(shop).known("test")
    monkeypatch.setattr(datasets, "load", lambda *a, **k: known)
    assert bundles.refit(tmp_path / "b", "mf")["status"] == "trained"
    als = ALS(**{"factors": 8}).fit(known)
    served = Bundle(tmp_path / "b").models["als"]
    assert np.array_equal(served.state["item_vectors"], als.state["item_vectors"])


def test_it_ends_when_told_and_answers_what_it_had_begun(folder, shop, tmp_path):
    """Requests that wait for a locked database are at work when the signal comes."""
    import sqlite3

    products.store(shop, f"sqlite:///{tmp_path}/p.db")
    with serving(folder, "--quiet", "--db", f"sqlite:///{tmp_path}/p.db") as (url, done):
        assert requests.get(f"{url}/status").json()["database"]["status"] == "ok"
        lock = sqlite3.connect(tmp_path / "p.db", isolation_level=None)
        lock.execute("PRAGMA journal_mode = DELETE")  # in which a writer keeps readers out
        lock.execute("BEGIN EXCLUSIVE")
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(requests.get(f"{url}/status"))) for _ in range(5)]
        [t.start() for t in threads]
        time.sleep(0.4)
        assert not answers
        done.send_signal(signal.SIGTERM)
        [t.join() for t in threads]
        assert [a.json()["database"]["status"] for a in answers] == ["unavailable"] * 5
        assert done.wait(15) in (0, -signal.SIGTERM)
        lock.close()


def test_callers_who_hang_up_do_no_harm(folder):
    with serving(folder, "--quiet") as (url, done):
        port = int(url.rpartition(":")[2])
        for part in (
            b"GET /recommend/17 HTTP/1.1\r\nHost: x\r\n\r\n",
            b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{",
            b"GE",
        ):
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", port)) as s:
                    s.sendall(part)
        assert requests.get(f"{url}/recommend/17").status_code == 200 and done.poll() is None


# Redis and the database


@contextmanager
def redis_server(port, place):
    if not shutil.which("redis-server"):
        pytest.skip("no redis-server")
    words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(place)]
    done = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port), 0.2).close()
                break
            except OSError:
                time.sleep(0.05)
        yield done
    finally:
        done.terminate()
        done.wait(10)


def test_answers_are_kept_in_redis_and_it_may_go_and_come_back(fits, shop, tmp_path):
    place, port = tmp_path / "b", free_port()
    packed(fits, shop, place)
    app = create_app(Settings(str(place), redis=f"redis://127.0.0.1:{port}/0", every=0.05), wait=True)
    with TestClient(app) as c:
        cache, user = app.state.service.cache, c.get("/").json()["examples"]["user_id"]
        cache.rest = 0.3
        without = c.get(f"/recommend/{user}").json()  # there is no Redis yet

        def kept():
            return re.search(r'recsys_cache_total\{found="yes"\} (\d+)', c.get("/metrics").text)

        def hits():
            return int(kept()[1]) if kept() else 0

        with redis_server(port, tmp_path):
            time.sleep(0.4)
            before = hits()
            assert eventually(lambda: c.get(f"/recommend/{user}").json() == without and hits() > before)
            version = c.get("/ready").json()["model_version"]
            packed(fits, shop, place, exact_up_to=100)
            assert eventually(lambda: c.get("/ready").json()["model_version"] != version)
            before = hits()
            c.get(f"/recommend/{user}")
            assert hits() == before  # another bundle, another key
        began = time.time()
        assert [c.get(f"/recommend/{user}").status_code for _ in range(5)] == [200] * 5 and time.time() - began < 2
        with redis_server(port, tmp_path):
            time.sleep(0.5)
            before = hits()
            assert eventually(lambda: c.get(f"/recommend/{user}").status_code == 200 and hits() > before)


def test_status_tells_of_a_database_that_may_be_away(folder, shop, tmp_path):
    url = f"sqlite:///{tmp_path}/p.db"
    app = create_app(Settings(str(folder), database=url, every=0), wait=True)
    with TestClient(app) as c:
        assert c.get("/status").json()["database"]["status"] == "unavailable"
        products.store(shop, url)
        told = c.get("/status").json()["database"]
        facts = products.facts(url)
        assert told == {"status": "ok", **{k: facts[k] for k in ("n_ratings", "n_users", "n_products", "avg_rating")}}
        for path in tmp_path.glob("p.db*"):
            path.unlink()
        assert c.get("/status").json()["database"]["status"] == "unavailable"
        assert c.get("/recommend/1").status_code == 200
        products.store(shop, url)
        assert c.get("/status").json()["database"]["status"] == "ok"


def test_a_bundle_knows_no_ratings(client, fits):
    """A log of views, carts and purchases has none, and nothing is made up from the kinds of event."""
    assert "ratings" not in bundles.facts_of(fits[2]) and "avg_rating" not in bundles.facts_of(fits[2])
    told = client.get("/status").json()["database"]
    assert told["n_ratings"] is None and told["avg_rating"] is None and told["n_users"] > 0


def test_the_loop_is_not_blocked_by_a_slow_database(folder, monkeypatch):
    from recsys_lab.serving import api

    monkeypatch.setattr(api, "database_facts", lambda url: time.sleep(0.5) or {})
    app = create_app(Settings(str(folder), database="sqlite:///x", every=0), wait=True)

    async def both():
        import httpx

        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as c,
        ):
            slow = asyncio.create_task(c.get("/status"))
            await asyncio.sleep(0.05)
            began = time.perf_counter()
            assert (await c.get("/health")).status_code == 200
            quick_one = time.perf_counter() - began
            await slow
            return quick_one

    assert asyncio.run(both()) < 0.4


def test_what_is_asked_for_wrongly_at_the_start(folder):
    for words in (["--share", "2"], ["--workers", "0"], []):
        done = subprocess.run(
            [*LEAN, *([str(folder)] if words else []), *words], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 2 and "usage" in done.stderr
    done = subprocess.run([*LEAN, "nowhere"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and done.stderr.startswith("recsys-lab: nowhere is no bundle")


def test_paths_of_the_package():
    assert Path(bundles.package_folder()).name == "recsys_lab"
