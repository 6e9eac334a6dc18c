"""Routes answer as they say."""

import asyncio
import json
import time

import numpy as np
import pytest
from fastapi.testclient import TestClient

from recsys_lab import products
from recsys_lab.files import DataError
from recsys_lab.lifecycle.feedback import list_outcomes, read_rows, team_draft, visitor_key
from recsys_lab.serving import bundle as bundles
from recsys_lab.serving.api import create_app
from recsys_lab.serving.service import Service, Settings, read_settings, write_settings

pytest.importorskip("fastapi_offline")


def test_alpha_is_the_share_of_the_collaborative_half(client, someone):
    ends = {}
    for alpha, half in ((0, "ranker_score"), (1, "collaborative_score")):
        found = client.get(f"/recommend/{someone}?n=20&alpha={alpha}").json()["recommendations"]
        halves = [f[half] for f in found if f[half] is not None]
        assert halves == sorted(halves, reverse=True) and len(halves) > 3
        ends[alpha] = [f["itemid"] for f in found]
    assert ends[0] != ends[1]


def test_routes_answer_as_they_say(client, someone, fits):
    health = client.get("/health").json()
    assert health["status"] == "ok" and health["mode"] == "single" and health["stats"]["total_events"] > 1000
    assert set(health["model"]) == {"version", "features", "mf_users", "mf_items", "hybrid_alpha"}
    assert set(client.get("/status").json()) == {
        "database",
        "matrix_factorization",
        "similarity_search",
        "search",
        "features",
    }
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
    listed = [item["item_id"] for item in stats["recent_items"]]
    newest_first = list(dict.fromkeys(mine.items[::-1].tolist()))[:8]
    assert (
        listed == [fits[2].items[i] for i in newest_first] if mine.items.dtype == np.int32 else listed == newest_first
    )
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


def test_reasons_are_those_of_the_evaluated_model(client, someone, fits):
    """`because` and `/explain` say what `Recommender.explain` says of the fitted hybrid, for an id and for a history."""
    hybrid = fits[2]
    listed = client.post("/recommend/explain", json={"user_id": someone, "k": 5}).json()["recommendations"]
    source = hybrid.config.collaborative
    for entry in listed:
        ask = {"user_id": someone, "item_id": entry["itemid"]}
        told = client.post("/explain", json=ask).json()
        why = hybrid.explain(hybrid.histories([someone]), entry["itemid"])
        assert told["exact"] and told["score"] == pytest.approx(why.score, abs=1e-6)
        assert told["score"] == pytest.approx(entry["score"], abs=1e-5)
        assert [(t["kind"], t["id"]) for t in told["terms"]] == [(p.kind, p.id) for p in why.parts]
        assert sum(t["value"] for t in told["below"]["ranker"]) == pytest.approx(entry["ranker_score"], abs=1e-4)
        behind = [p for p in why.below[source].parts if p.kind in ("history item", "repeat")]
        total = sum(p.value for p in behind if p.value > 0)
        assert [r["item_id"] for r in entry["because"]] == [p.id for p in behind[:3]]
        assert [r["share"] for r in entry["because"]] == pytest.approx([p.value / total for p in behind[:3]], abs=1e-3)
    one = client.post(
        "/explain", json={"history": [listed[0]["itemid"]], "item_id": listed[1]["itemid"], "model": "knn"}
    ).json()
    assert (
        one["model"] == "item_knn"
        and {t["kind"] for t in one["terms"]} <= {"history item"}
        and one["terms"][0]["title"]
    )
    assert client.post("/recommend/explain", json={"history": [], "k": 3}).json()["recommendations"][0]["because"] == []
    cold = client.post("/explain", json={"history": [], "item_id": listed[0]["itemid"]}).json()
    assert [t["kind"] for t in cold["terms"]] == ["popularity"]
    unknown = client.post("/explain", json={"user_id": someone, "item_id": 10**9})
    assert unknown.status_code == 404 and "no item of that id" in unknown.json()["error"]["message"]
    assert client.post("/explain", json={"item_id": 1}).status_code == 422
    assert client.post("/explain", json={"user_id": someone, "item_id": 2**70}).status_code == 422


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


def test_status_tells_of_a_database_that_may_be_away(folder, shop, tmp_path):
    url = f"sqlite:///{tmp_path}/p.db"
    app = create_app(Settings(bundle=str(folder), database=url, every=0), wait=True)
    with TestClient(app) as c:
        assert c.get("/status").json()["database"]["status"] == "unavailable"
        products.store(shop, url)
        told = c.get("/status").json()["database"]
        facts = products.database_counts(url)
        assert told == {"status": "ok", **{k: facts[k] for k in ("n_ratings", "n_users", "n_products", "avg_rating")}}
        for path in tmp_path.glob("p.db*"):
            path.unlink()
        assert c.get("/status").json()["database"]["status"] == "unavailable"
        assert c.get("/recommend/1").status_code == 200
        products.store(shop, url)
        assert c.get("/status").json()["database"]["status"] == "ok"


def test_a_bundle_knows_no_ratings(client, fits):
    """A log of views, carts and purchases has none, and nothing is made up from the kinds of event."""
    assert "ratings" not in bundles.facts_of(fits[2], True) and "avg_rating" not in bundles.facts_of(fits[2], True)
    told = client.get("/status").json()["database"]
    assert told["n_ratings"] is None and told["avg_rating"] is None and told["n_users"] > 0


def test_the_loop_is_not_blocked_by_a_slow_database(folder, monkeypatch):
    from recsys_lab.serving import service

    monkeypatch.setattr(service, "database_facts", lambda url: time.sleep(0.5) or {})
    app = create_app(Settings(bundle=str(folder), database="sqlite:///x", every=0), wait=True)

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


@pytest.fixture()
def logging_client(folder, tmp_path):
    """A client of a service that keeps a log, and the log's folder."""
    settings = Settings(bundle=str(folder), every=0, quiet=True, log=str(tmp_path / "log"))
    with TestClient(create_app(settings, wait=True)) as c:
        yield c, tmp_path / "log"


def test_every_list_that_is_served_is_written_down(logging_client, someone):
    client, place = logging_client
    item = client.get("/").json()["examples"]["item_id"]
    asked = [
        client.get(f"/recommend/{someone}?n=4"),
        client.get(f"/recommend/als/{someone}?k=3"),
        client.get("/recommend/nobody-knows-me?n=2"),
        client.post("/recommend", json={"user_id": someone, "k": 6}),
        client.post("/recommend", json={"history": [item], "k": 2}),
        client.post("/recommend/explain", json={"history": [item], "k": 2}),
        client.post("/matrix_factor/user", json={"user_id": someone, "n": 3}),
        client.get(f"/similar/{item}?k=2"),
        client.post("/matrix_factor/similar", json={"item_id": item, "n": 2}),
        client.post("/search", json={"query": "bowl", "top_k": 2}),
    ]
    assert all(answer.status_code == 200 for answer in asked)
    client.get("/recommend/none-such/1"), client.get("/similar/none"), client.get("/health")  # no lists
    state = client.get("/status").json()["feedback"]
    assert state["accepted"] == len(asked) and state["dropped"] == 0 and state["folder"] == str(place)
    client.__exit__(None, None, None)
    lists = read_rows(place, "lists").set_index("request_id")
    assert len(lists) == len(asked)
    for answer in asked:
        row = lists.loc[answer.headers["x-request-id"]]
        told = answer.json()
        entries = told if isinstance(told, list) else told.get("recommendations", told.get("results"))
        ids = [
            e if not isinstance(e, dict) else e.get("itemid", e.get("item_id", e.get("product", e.get("product_id"))))
            for e in entries
        ]
        assert row["items"].tolist() == [str(i) for i in ids] and row.chances.tolist() == [1.0] * len(ids)
        assert row.bundle and row.model
    assert lists.user_type.value_counts().to_dict() == {"warm": 6, "": 3, "cold": 1}
    assert set(lists.user) == {str(someone), "nobody-knows-me", ""}
    assert lists.loc[asked[0].headers["x-request-id"], "route"] == "/recommend/{user_id}"


def test_visitors_are_hashed_where_there_is_a_key_and_the_key_is_not_shown(folder, tmp_path, someone):
    settings = Settings(
        bundle=str(folder), every=0, quiet=True, log=str(tmp_path), log_key="se-cret", feedback_token="to-ken"
    )
    assert "se-cret" not in repr(settings) and "to-ken" not in repr(settings)
    write_settings(settings, tmp_path / "settings.json")
    assert read_settings(tmp_path / "settings.json") == settings  # workers have them
    with TestClient(create_app(settings, wait=True)) as client:
        client.get(f"/recommend/{someone}")
        event = {"events": [{"request_id": "r", "item_id": 1, "event": "click"}]}
        assert client.post("/feedback", json=event).status_code == 401
        assert client.post("/feedback", json=event, headers={"authorization": "Bearer wrong"}).status_code == 401
        assert client.post("/feedback", json=event, headers={"authorization": "Bearer to-ken"}).status_code == 200
    assert read_rows(tmp_path, "lists").user.tolist() == [visitor_key(someone, "se-cret")]
    lines = b"".join(path.read_bytes() for path in tmp_path.rglob("*~*"))
    assert f'"user":"{someone}"'.encode() not in lines and b"se-cret" not in lines


def test_feedback_comes_back_by_the_request_and_counts_once(logging_client, someone):
    client, place = logging_client
    answer = client.get(f"/recommend/{someone}?n=4")
    request, items = answer.headers["x-request-id"], [e["itemid"] for e in answer.json()["recommendations"]]
    click = {"request_id": request, "item_id": items[0], "event": "click"}
    buy = {
        "request_id": request,
        "item_id": items[1],
        "event": "purchase",
        "price": 3.5,
        "quantity": 2,
        "id": "order-1",
    }
    assert client.post("/feedback", json={"events": [click, buy]}).json() == {"accepted": 2, "repeated": 0}
    assert client.post("/feedback", json={"events": [buy, click, click]}).json() == {"accepted": 0, "repeated": 3}
    client.__exit__(None, None, None)
    out, missed = list_outcomes(read_rows(place, "lists"), read_rows(place, "events"))
    assert out.click.tolist() == [True] and out.revenue.tolist() == [7.0] and set(missed.values()) == {0}


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"event": "view"}, "events.0.event"),
        ({"request_id": "a b"}, "events.0.request_id"),
        ({"request_id": "x" * 65}, "events.0.request_id"),
        ({"item_id": None}, "events.0.item_id"),
        ({"item_id": "\ud800"}, "events.0.item_id"),
        ({"price": -1}, "events.0.price"),
        ({"price": "NaN"}, "events.0.price"),
        ({"quantity": 0}, "events.0.quantity"),
        ({"time": -5}, "events.0.time"),
        ({"time": 4_000_000_000_000}, "events.0.time: lies in the future"),
        ({"more": 1}, "events.0.more"),
    ],
)
def test_feedback_that_cannot_be_is_refused_by_name_and_none_of_it_is_taken(logging_client, event, said):
    client, _ = logging_client
    good = {"request_id": "r", "item_id": 1, "event": "click"}
    words = {"content-type": "application/json"}
    answer = client.post("/feedback", content=json.dumps({"events": [good | event, good]}), headers=words)
    assert answer.status_code == 422 and said in answer.json()["error"]["message"]
    assert client.get("/status").json()["feedback"]["accepted"] == 0
    many = client.post("/feedback", json={"events": [good] * 201})
    assert many.status_code == 422 and client.post("/feedback", json={"events": []}).status_code == 422


def test_feedback_is_pushed_back_when_too_much_waits_and_refused_without_a_log(logging_client, client, monkeypatch):
    event = {"events": [{"request_id": "r", "item_id": 1, "event": "click"}]}
    off = client.post("/feedback", json=event)
    assert off.status_code == 404 and "--log DIR" in off.json()["error"]["message"]
    mine, _ = logging_client
    monkeypatch.setattr(mine.app.state.service.feedback, "free", lambda: 0)
    full = mine.post("/feedback", json=event)
    assert full.status_code == 503 and "again in a moment" in full.json()["error"]["message"]
    monkeypatch.undo()
    assert mine.post("/feedback", json=event).json() == {"accepted": 1, "repeated": 0}  # it was not remembered


def test_places_are_left_to_chance_as_stated_and_what_stands_there_is_told(folder, tmp_path, someone, client):
    usual = [e["itemid"] for e in client.get(f"/recommend/{someone}?n=5").json()["recommendations"]]
    settings = Settings(bundle=str(folder), every=0, quiet=True, log=str(tmp_path), explore=0.3)
    served = []
    with TestClient(create_app(settings, wait=True)) as exploring:
        for n in range(200):
            answer = exploring.get(f"/recommend/{someone}?n=5", headers={"x-request-id": f"r{n}"})
            served.append([e["itemid"] for e in answer.json()["recommendations"]])
            assert len(set(served[-1])) == 5
        again = exploring.get(f"/recommend/{someone}?n=5", headers={"x-request-id": "r7"}).json()["recommendations"]
        assert [e["itemid"] for e in again] == served[7]
    lists = read_rows(tmp_path, "lists").drop_duplicates("request_id").set_index("request_id")
    stays = np.array([np.array(mine) == np.array(usual) for mine in served])
    chances = np.stack(lists.loc[[f"r{n}" for n in range(200)], "chances"].tolist())
    np.testing.assert_allclose(chances, np.where(stays, 0.7, 0.3 / 50), atol=1e-9)
    assert abs(stays.mean() - 0.7) < 4.5 * np.sqrt(0.7 * 0.3 / 1000)
    assert [[str(i) for i in mine] for mine in served] == [lists.loc[f"r{n}", "items"].tolist() for n in range(200)]
    with pytest.raises(ValueError, match="explore needs log"):
        Settings(bundle=str(folder), explore=0.1)


def test_arms_of_one_bundle_are_interleaved_and_the_log_tells_whose_each_item_is(folder, tmp_path, someone, client):
    mine = [e["itemid"] for e in client.get(f"/recommend/{someone}?n=6").json()["recommendations"]]
    other = [e["product"] for e in client.get(f"/recommend/item_knn/{someone}?k=6").json()]
    place = tmp_path / "log"
    words = {"bundle": str(folder), "every": 0, "quiet": True, "log": str(place), "interleave": True}
    with TestClient(create_app(Settings(**words, challenger="item_knn"), wait=True)) as mixed:
        for n in range(40):
            answer = mixed.get(f"/recommend/{someone}?n=6", headers={"x-request-id": f"r{n}"})
            assert answer.json()["arm"] == answer.headers["x-arm"] == "a+b"
        alone = mixed.get(f"/recommend/item_knn/{someone}?k=6").json()  # who asks for a model gets it
    assert [e["product"] for e in alone] == other
    lists = read_rows(place, "lists").set_index("request_id")
    assert lists.teams.isna().sum() == 1
    started = set()
    for n in range(40):
        items, teams = lists.loc[f"r{n}", ["items", "teams"]]
        assert (items.tolist(), teams.tolist()) == team_draft(
            [str(i) for i in mine], [str(i) for i in other], 6, f"r{n}"
        )
        started.add(teams[0])
    assert started == {"a", "b"}
    for wrong, said in (
        ({"challenger": ""}, "needs a challenger"),
        ({"challenger": "item_knn", "explore": 0.1}, "cannot be joined with explore"),
        ({"challenger": "item_knn", "log": ""}, "interleave needs log"),
    ):
        with pytest.raises(ValueError, match=said):
            Settings(**words | wrong)
    with pytest.raises(DataError, match="only models of one bundle can be interleaved"):
        Service(Settings(**words, challenger=str(tmp_path))).open()
