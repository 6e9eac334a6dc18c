"""Two arms and two bundles side by side."""

import json
import logging
import re
import shutil
import threading
import time

import pytest
from fastapi.testclient import TestClient
from helpers import quick
from hypothesis import given
from hypothesis import strategies as st

from recsys_lab import splits
from recsys_lab.ranking.hybrid import HybridTuned
from recsys_lab.serving import bundle
from recsys_lab.serving.api import create_app
from recsys_lab.serving.bundle import pack
from recsys_lab.serving.schemas import LOG
from recsys_lab.serving.service import Settings, share_of

pytest.importorskip("fastapi_offline")


@pytest.mark.slow
def test_arms_are_stable_and_told(folder, caplog):
    app = create_app(Settings(bundle=str(folder), challenger="item_knn", traffic=0.3, every=0), wait=True)
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
        create_app(Settings(bundle=str(folder), challenger=str(tmp_path / "other"), traffic=0.5, every=0), wait=True)
    ) as c:
        told = c.get("/").json()["arms"]
        assert told["a"]["version"] != told["b"]["version"]
        assert {c.get(f"/recommend/{u}").json()["arm"] for u in range(40)} == {"a", "b"}


@pytest.mark.parametrize("damage", ["", "edited", "truncated"])
def test_large_files_are_hashed_after_the_start(folder, tmp_path, monkeypatch, caplog, damage):
    """Visitors need not wait for that; but nothing more is answered from a bundle that is not as it was written."""
    monkeypatch.setattr(bundle, "LARGE", 1000)
    place = tmp_path / "b"
    shutil.copytree(folder, place)
    name = "model/state/booster.npy"
    whole = (place / name).read_bytes()
    assert len(whole) > 1000
    if damage:
        (place / name).write_bytes(whole[:-1] + (bytes([whole[-1] ^ 1]) if damage == "edited" else b""))
    hashed = threading.Event()
    check = bundle.check_file

    def slowly(folder, name, expected, whole=True):
        if whole and expected["bytes"] >= 1000:
            hashed.wait(30)
        check(folder, name, expected, whole)

    monkeypatch.setattr(bundle, "check_file", slowly)
    caplog.set_level(logging.ERROR, "recsys_lab.serve")
    monkeypatch.setattr(LOG, "propagate", True)
    with TestClient(create_app(Settings(bundle=str(place), every=0))) as c:
        service = c.app.state.service
        assert c.get("/ready").status_code == (503 if damage == "truncated" else 200)
        hashed.set()
        closed = time.monotonic() + (30 if damage else 1)
        while service.arms is not None and time.monotonic() < closed:
            time.sleep(0.02)
        assert c.get("/ready").status_code == (503 if damage else 200)
        assert ("booster.npy is not as it was written" in caplog.text) == bool(damage)
