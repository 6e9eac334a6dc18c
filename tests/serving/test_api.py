"""The service over HTTP: parity with the evaluation, its pages, and what it is started with."""

import re
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import requests
from fastapi.testclient import TestClient
from helpers import FEW_SOURCES, LEAN, ROOT, eventually, quick, serving

from recsys_lab import files, loading, runs, splits
from recsys_lab.files import DataError
from recsys_lab.lifecycle.feedback import read_rows, visitor_key
from recsys_lab.ranking.hybrid import HybridTuned
from recsys_lab.serving import bundle as bundles
from recsys_lab.serving.api import create_app, replay_requests
from recsys_lab.serving.bundle import pack
from recsys_lab.serving.lean import unshared_mb
from recsys_lab.serving.schemas import MOST_HISTORY
from recsys_lab.serving.service import Settings

pytest.importorskip("fastapi_offline")


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


def test_not_ready_without_a_bundle(tmp_path):
    with TestClient(create_app(Settings(bundle=str(tmp_path / "none"), every=0))) as c:
        assert c.get("/health").json()["mode"] == "starting"
        for path in ("/ready", "/recommend/1", "/"):
            answer = c.get(path)
            assert answer.status_code == 503 and answer.json()["error"]["code"] == "unavailable"
    with pytest.raises(DataError), TestClient(create_app(Settings(bundle=str(tmp_path / "none"), every=0), wait=True)):
        pass


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
def test_what_is_asked_for_wrongly_at_the_start(folder):
    for words in (["--traffic", "2"], ["--workers", "0"], []):
        done = subprocess.run(
            [*LEAN, *([str(folder)] if words else []), *words], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 2 and "usage" in done.stderr
    done = subprocess.run([*LEAN, "nowhere"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and done.stderr.startswith("recsys-lab: nowhere is no bundle")


def test_paths_of_the_package():
    assert Path(files.package_folder()).name == "recsys_lab"


def test_library_and_service_leave_out_the_same(client, someone, fits):
    listed = client.get(f"/recommend/{someone}", params={"n": 9}).json()["recommendations"]
    assert [f["itemid"] for f in listed] == fits[2].recommend([someone], 9).frame().item_id.tolist()


def test_what_was_served_before_the_end_is_written_by_all_workers_and_counted(folder, someone, tmp_path):
    place = tmp_path / "log"
    with serving(folder, "--log", str(place), "--workers", "2", RECSYS_LAB_LOG_KEY="secret") as (url, server):
        answers = [requests.post(f"{url}/recommend", json={"user_id": someone, "k": 3}) for _ in range(60)]
        told = [a.headers["x-request-id"] for a in answers]
        for request in told[:5]:
            event = {"request_id": request, "item_id": answers[0].json()["recommendations"][0], "event": "click"}
            assert requests.post(f"{url}/feedback", json={"events": [event]}).json()["accepted"] == 1
        counted = requests.get(f"{url}/metrics").text
        server.terminate()
        server.communicate(timeout=30)
    assert re.search(r'recsys_feedback_records_total\{kind="lists",state="accepted"\} 60\.0', counted)
    lists, events = read_rows(place, "lists"), read_rows(place, "events")
    assert sorted(lists.request_id) == sorted(told) and sorted(events.request_id) == sorted(told[:5])
    assert set(lists.user) == {visitor_key(someone, "secret")}
    assert eventually(lambda: len(list(place.glob("lists/*/*/*.parquet"))) == len(list(place.glob("lists/*/*/*"))) > 0)


def test_a_folder_that_cannot_be_written_to_stops_the_service_before_it_serves(folder, tmp_path):
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [*LEAN, str(folder), "--port", "0", "--log", str(tmp_path / "file" / "log")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode and "cannot be written to" in done.stdout + done.stderr


@pytest.mark.slow
def test_ten_times_the_usual_traffic_loses_no_list(folder, tmp_path):
    """One caller, then ten at once, on a server that writes everything down: each list that was answered is in the log after SIGTERM."""
    answered = []

    def ask(caller, n):
        session = requests.Session()
        for number in range(n):
            answer = session.get(
                f"{url}/recommend/{number}?n=5", headers={"x-request-id": f"c{caller}-{number}"}, timeout=60
            )
            answered.append((answer.status_code, f"c{caller}-{number}"))

    with serving(folder, "--quiet", "--log", str(tmp_path / "log")) as (url, process):
        ask("usual", 40)
        before = unshared_mb(process.pid)
        callers = [threading.Thread(target=ask, args=(caller, 40)) for caller in range(10)]
        for one in callers:
            one.start()
        for one in callers:
            one.join()
        grown = unshared_mb(process.pid) - before
    assert {status for status, _ in answered} == {200} and len(answered) == 440
    assert set(read_rows(tmp_path / "log", "lists")["request_id"]) == {request for _, request in answered}
    assert not grown > 64  # MB, NaN where it cannot be told
