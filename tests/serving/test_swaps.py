"""New bundles while the old one answers: swaps, training, and the end of a server."""

import json
import shutil
import signal
import socket
import threading
import time

import numpy as np
import pytest
import requests
from fastapi.testclient import TestClient
from helpers import eventually, packed, serving

from recsys_lab import loading, products, splits
from recsys_lab.models.als import ALS
from recsys_lab.serving import bundle as bundles
from recsys_lab.serving.api import create_app
from recsys_lab.serving.bundle import Bundle, verify
from recsys_lab.serving.service import Settings

pytest.importorskip("fastapi_offline")


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_bad_bundle_in_its_place_is_left_alone(fits, shop, tmp_path):
    place = tmp_path / "b"
    first = packed(fits, shop, place)["version"]
    app = create_app(Settings(bundle=str(place), every=0.05), wait=True)
    with TestClient(app) as c:
        path = place / "manifest.json"
        told = json.loads(path.read_text())
        path.write_text(json.dumps({**told, "version": "other", "code": {}}))
        time.sleep(0.5)
        assert c.get("/ready").json()["model_version"] == first and c.get("/recommend/17").status_code == 200
        shutil.rmtree(place)
        time.sleep(0.3)
        assert c.get("/recommend/17").status_code == 200


@pytest.mark.slow
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
    with TestClient(create_app(Settings(bundle=str(place), every=0), wait=True)) as c:
        assert (
            c.post("/training", json={"model_type": "mf"}, headers=bearer).status_code == 403
        )  # no token, no training


@pytest.mark.slow
def test_new_factors_need_the_same_catalogue(fits, shop, tmp_path, monkeypatch):
    packed(fits, shop, tmp_path / "b")
    half = shop.before(int(np.median(shop.moments)))
    monkeypatch.setattr(loading, "load", lambda *a, **k: half)
    with pytest.raises(ValueError, match=r"has other items than the bundle.*train the hybrid"):
        bundles.refit(tmp_path / "b", "mf")
    known = splits.make(shop).known("test")
    monkeypatch.setattr(loading, "load", lambda *a, **k: known)
    assert bundles.refit(tmp_path / "b", "mf")["status"] == "trained"
    als = ALS(**{"factors": 8}).fit(known)
    served = Bundle(tmp_path / "b").models["als"]
    assert np.array_equal(served.state["item_vectors"], als.state["item_vectors"])


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--workers", "2"]])
def test_the_token_is_in_no_environment_and_not_on_disk_afterwards(folder, tmp_path, words):
    psutil = pytest.importorskip("psutil")
    with serving(folder, "--token", "s3cret", "--quiet", *words, TMPDIR=str(tmp_path)) as (_, process):
        (kept,) = tmp_path.glob("recsys-serve-*/settings.json")
        assert kept.stat().st_mode & 0o077 == 0 and "s3cret" in kept.read_text()
        own = psutil.Process(process.pid)
        assert not [p for p in (own, *own.children(recursive=True)) if "s3cret" in str(p.environ())]
        process.terminate()
        process.wait(30)
    assert not list(tmp_path.glob("recsys-serve-*"))
