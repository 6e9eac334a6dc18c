"""Bounds on bodies and on requests at a time, request ids, errors that show nothing of themselves."""

import json
import re

import pytest
from fastapi.testclient import TestClient

from recsys_lab.serving.api import create_app
from recsys_lab.serving.schemas import MOST_BODY
from recsys_lab.serving.service import Settings

pytest.importorskip("fastapi_offline")


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


def test_more_than_it_can_hold_is_turned_away(folder):
    app = create_app(Settings(bundle=str(folder), every=0), wait=True)
    with TestClient(app) as c:
        app.state.service.at_work = 10_000
        answer = c.get("/health")
        assert answer.status_code == 503 and answer.headers["connection"] == "close"
        app.state.service.at_work = 0
        assert c.get("/health").status_code == 200
