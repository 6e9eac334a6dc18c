"""Answers kept in Redis."""

import re
import time

import pytest
from fastapi.testclient import TestClient
from helpers import eventually, packed, redis_server

from recsys_lab.serving.api import create_app
from recsys_lab.serving.lean import free_port
from recsys_lab.serving.service import Settings

pytest.importorskip("fastapi_offline")


@pytest.mark.slow
def test_answers_are_kept_in_redis_and_it_may_go_and_come_back(fits, shop, tmp_path):
    place, port = tmp_path / "b", free_port()
    packed(fits, shop, place)
    app = create_app(Settings(bundle=str(place), redis_url=f"redis://127.0.0.1:{port}/0", every=0.05), wait=True)
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
            lengths = [len(c.get(f"/recommend/{user}?n={n}").json()["recommendations"]) for n in (3, 7, 3)]
            assert lengths == [3, 7, 3]  # what is kept belongs to the length that was asked for
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
