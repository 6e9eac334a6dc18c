"""What the service leans on and can do without: Redis, and the database of products."""

import asyncio
import re
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager

import pytest
from conftest import eventually, free_port, packed

pytest.importorskip("fastapi_offline")
from fastapi.testclient import TestClient

from recsys_lab import products
from recsys_lab.serving import bundle as bundles
from recsys_lab.serving.api import create_app
from recsys_lab.serving.service import Settings


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


def test_status_tells_of_a_database_that_may_be_away(folder, shop, tmp_path):
    url = f"sqlite:///{tmp_path}/p.db"
    app = create_app(Settings(bundle=str(folder), database=url, every=0), wait=True)
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
