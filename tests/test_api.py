"""The service as its callers meet it: parity with the evaluation, the contract, faults, and the arms."""

import json
import logging
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import requests
from conftest import FEW_SOURCES, LEAN, ROOT, quick, serving
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi_offline")
from fastapi.testclient import TestClient

from recsys_lab import files, loading, runs, splits
from recsys_lab.files import DataError
from recsys_lab.ranking.hybrid import HybridTuned
from recsys_lab.serving import bundle as bundles
from recsys_lab.serving.api import create_app, replay_requests
from recsys_lab.serving.bundle import pack
from recsys_lab.serving.schemas import MOST_BODY, MOST_HISTORY
from recsys_lab.serving.service import Settings, share_of

# Parity


@pytest.mark.slow
def test_a_thousand_visitors_over_http_get_what_was_evaluated(tmp_path_factory):
    """A hybrid of the small shop, by reference the evaluated pipeline; ids equal, scores to 1e-6, with and without the index of vectors."""
    place = tmp_path_factory.mktemp("parity")
    log = loading.load("shop", size="small")
    split = splits.make(log)
    hybrid = HybridTuned(
        **quick("hybrid_tuned") | {"sources": FEW_SOURCES | {"als": 10}, "settings": {"als": {"factors": 16}}}
    )
    hybrid.fit(split.known("test"))
    protocol, target, exclude = runs.questions(split)[0]
    cases = splits.make_cases(split, protocol, target, "test", exclude)
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
    own = set(fits[2].items[mine.items].tolist()) if mine.items.dtype == np.int32 else set(mine.items.tolist())
    assert not own & {f["item_id"] for f in liked} and own & {f["item_id"] for f in met["recommendations"]}
    assert stats["unique_items_viewed"] == len(own) < stats["total_events"]
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
    app = create_app(Settings(bundle=str(folder), every=0), wait=True)
    with TestClient(app, raise_server_exceptions=False) as c:
        app.state.service.arms[0].bundle.model.reasons = None
        answer = c.get(f"/recommend/{c.get('/').json()['examples']['user_id']}")
        assert answer.status_code == 500 and answer.json()["error"]["code"] == "internal"
        assert "NoneType" not in answer.text and answer.headers["x-request-id"] == answer.json()["error"]["request_id"]


def test_not_ready_without_a_bundle(tmp_path):
    with TestClient(create_app(Settings(bundle=str(tmp_path / "none"), every=0))) as c:
        assert c.get("/health").json()["mode"] == "starting"
        for path in ("/ready", "/recommend/1", "/"):
            answer = c.get(path)
            assert answer.status_code == 503 and answer.json()["error"]["code"] == "unavailable"
    with pytest.raises(DataError), TestClient(create_app(Settings(bundle=str(tmp_path / "none"), every=0), wait=True)):
        pass


def test_more_than_it_can_hold_is_turned_away(folder):
    app = create_app(Settings(bundle=str(folder), every=0), wait=True)
    with TestClient(app) as c:
        app.state.service.at_work = 10_000
        answer = c.get("/health")
        assert answer.status_code == 503 and answer.headers["connection"] == "close"
        app.state.service.at_work = 0
        assert c.get("/health").status_code == 200


@pytest.mark.slow
def test_the_pages_about_the_service_need_no_network(client):
    for path in ("/docs", "/redoc"):
        page = client.get(path).text
        assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", page)
        for local in re.findall(r"""(?:src|href)=["'](/[^"']+\.(?:js|css))""", page):
            assert client.get(local).status_code == 200
    told = client.get("/openapi.json").json()
    assert all("tags" in op for path in told["paths"].values() for op in path.values())
    assert told["components"]["schemas"]["RecommendRequest"]["examples"]


@pytest.mark.slow
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


@pytest.mark.slow
def test_arms_are_stable_and_told(folder, caplog):
    app = create_app(Settings(bundle=str(folder), against="item_knn", share=0.3, every=0), wait=True)
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
        other = next(user for user, arm in arms.items() if arm == "b")  # whose own model is item KNN
        assert c.get(f"/recommend/{other}?model=hybrid").json()["model"] == "hybrid_tuned"
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


@pytest.mark.slow
def test_two_bundles_side_by_side(fits, shop, folder, tmp_path):
    known = splits.make(shop).known("test")
    other = HybridTuned(**quick("hybrid_tuned"), alpha=1.0).fit(known).save(tmp_path / "fit")
    pack(other, shop, tmp_path / "other")
    with TestClient(
        create_app(Settings(bundle=str(folder), against=str(tmp_path / "other"), share=0.5, every=0), wait=True)
    ) as c:
        told = c.get("/").json()["arms"]
        assert told["a"]["version"] != told["b"]["version"]
        assert {c.get(f"/recommend/{u}").json()["arm"] for u in range(40)} == {"a", "b"}


@pytest.mark.slow
def test_what_is_asked_for_wrongly_at_the_start(folder):
    for words in (["--share", "2"], ["--workers", "0"], []):
        done = subprocess.run(
            [*LEAN, *([str(folder)] if words else []), *words], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 2 and "usage" in done.stderr
    done = subprocess.run([*LEAN, "nowhere"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and done.stderr.startswith("recsys-lab: nowhere is no bundle")


def test_paths_of_the_package():
    assert Path(files.package_folder()).name == "recsys_lab"


def test_only_what_is_in_stock_is_recommended(client, someone, fits):
    stocked = fits[2].items[::5].tolist()
    for path in ("/recommend", "/recommend/explain"):
        found = client.post(path, json={"user_id": someone, "k": 6, "items": [*stocked, 10**9]}).json()
        listed = [f["itemid"] if isinstance(f, dict) else f for f in found["recommendations"]]
        assert len(listed) == 6 and set(listed) <= set(stocked)
    mine = fits[2].recommend([someone], 6, items=stocked).frame().item_id.tolist()
    assert listed == mine
    stranger = client.post("/recommend", json={"history": [], "items": stocked[:3], "k": 9}).json()
    assert sorted(stranger["recommendations"]) == sorted(stocked[:3])
    wrong = client.post("/recommend", json={"user_id": someone, "items": [10**9]})
    assert wrong.status_code == 422 and "none of the 1 items is known" in wrong.json()["error"]["message"]


def test_library_and_service_leave_out_the_same(client, someone, fits):
    listed = client.get(f"/recommend/{someone}", params={"n": 9}).json()["recommendations"]
    assert [f["itemid"] for f in listed] == fits[2].recommend([someone], 9).frame().item_id.tolist()
