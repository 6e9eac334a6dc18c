"""Shared small logs, and where the real data are."""

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import requests
from hypothesis import settings

from recsys_lab import datasets, histories, loading, splits

settings.register_profile("lab", deadline=None)  # how long an example takes is no matter of a test
settings.load_profile("lab")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch):
    """Chapters and datasets are found from the checkout, wherever pytest was started."""
    monkeypatch.chdir(ROOT)


def real_data(name: str) -> datasets.Dataset:
    """A real dataset, or a skip where RECSYS_LAB_DATA does not hold it."""
    folder = os.environ.get("RECSYS_LAB_DATA")
    if not folder or not (ROOT / folder / name).is_dir():
        pytest.skip(f"RECSYS_LAB_DATA holds no {name}")
    return loading.read_folder(ROOT / folder / name, name)


def random_log(seed: int, n: int = 400, users: int = 40, items: int = 25, text: bool = False) -> datasets.Dataset:
    """A log of random events in a month, with carts and purchases; ids are numbers or text."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "user_id": rng.integers(0, users, n),
            "item_id": rng.zipf(1.4, n) % items,
            "event": rng.choice(histories.EVENTS, n, p=[0.8, 0.12, 0.08]),
            "timestamp": pd.to_datetime(rng.integers(1_700_000_000, 1_702_600_000, n) * 1000, unit="ms", utc=True),
        }
    )
    if text:
        frame = frame.assign(user_id="u" + frame.user_id.astype(str), item_id="i" + frame.item_id.astype(str))
    return datasets.Dataset("random", frame)


def untimed_sessions(seed: int, sessions: int = 300, items: int = 40) -> datasets.Dataset:
    """Sessions in order, without times."""
    rng = np.random.default_rng(seed)
    length = rng.integers(2, 8, sessions)
    frame = pd.DataFrame(
        {"user_id": np.repeat(np.arange(sessions), length), "item_id": rng.integers(0, items, length.sum())}
    )
    return datasets.Dataset("sessions", frame.assign(event="view"), has_times=False)


def arrived_split(seed: int) -> datasets.Dataset:
    """A log that arrives split into train and test."""
    log = untimed_sessions(seed).events.drop_duplicates(["user_id", "item_id"])
    part = np.where(np.random.default_rng(seed).random(len(log)) < 0.2, "test", "train")
    return datasets.Dataset(
        "arrived", log.assign(part=pd.Categorical(part, ["train", "test"])).drop(columns="timestamp"), has_times=False
    )


TWO_STAGE = {"lr", "lr_enriched", "lightgbm", "hybrid", "hybrid_tuned"}
FEW_SOURCES = {"revisits": 10, "session_walk": 20, "item_knn": 10, "popularity": 10}


def quick(name: str) -> dict:
    """Settings under which a two-stage model is fitted in a moment; none for other models."""
    rows = {"sources": FEW_SOURCES, "requests": 200, "windows": 2, "window": 0.1, "negatives": 5}
    trees = {"rounds": 15, "min_rows": 5} if name in TWO_STAGE - {"lr", "lr_enriched"} else {}
    return {**rows, **trees} if name in TWO_STAGE else {}


@pytest.fixture(scope="session")
def shop() -> datasets.Dataset:
    os.chdir(ROOT)
    return loading.load("shop", size="tiny")


@pytest.fixture(scope="session")
def shop_split(shop) -> splits.Split:
    return splits.make(shop)


LEAN = [sys.executable, "-m", "recsys_lab.serving.lean"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def serving(folder, *words, **env):
    """A server in a process of its own, ready; yields its URL and its process."""
    port = free_port()
    done = subprocess.Popen(
        [*LEAN, str(folder), "--port", str(port), *words],
        cwd=ROOT,
        env=os.environ | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            assert done.poll() is None, done.stdout.read()
            try:
                if requests.get(f"{url}/ready", timeout=2).status_code == 200:
                    break
            except requests.ConnectionError:
                pass
            time.sleep(0.1)
        else:
            raise AssertionError("the server is not ready after 20 seconds")
        yield url, done
    finally:
        if done.poll() is None:
            done.terminate()
        done.communicate(timeout=30)


def packed(fits, shop, out, **more):
    """A bundle of `fits` at a place; returns its manifest."""
    from recsys_lab.serving.bundle import pack

    return pack(fits[0], shop, out, {"item_knn": fits[1]}, {"dataset": "shop", "size": "tiny"}, **more)


@pytest.fixture(scope="session")
def fits(shop, tmp_path_factory):
    """A hybrid and item KNN of the tiny shop, saved."""
    from recsys_lab.models.neighbours import ItemKNN
    from recsys_lab.ranking.hybrid import HybridTuned

    place, known = tmp_path_factory.mktemp("fits"), splits.make(shop).known("test")
    sources = FEW_SOURCES | {"als": 10}
    hybrid = HybridTuned(**quick("hybrid_tuned") | {"sources": sources, "settings": {"als": {"factors": 8}}}).fit(known)
    return hybrid.save(place / "hybrid"), ItemKNN().fit(known).save(place / "knn"), hybrid


@pytest.fixture(scope="session")
def folder(fits, shop, tmp_path_factory):
    """A bundle that tests read and leave alone."""
    place = tmp_path_factory.mktemp("bundle") / "b"
    packed(fits, shop, place)
    return place


@pytest.fixture(scope="session")
def client(folder):
    """A caller of the service with the bundle of `folder`."""
    pytest.importorskip("fastapi_offline")
    from fastapi.testclient import TestClient

    from recsys_lab.serving.api import create_app
    from recsys_lab.serving.service import Settings

    with TestClient(create_app(Settings(bundle=str(folder), token="secret", every=0), wait=True)) as c:
        yield c


@pytest.fixture(scope="session")
def someone(fits):
    """The user who did most."""
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
