"""Fixtures that tests share, fitted once a session."""

import os
import shutil

import numpy as np
import pytest
from helpers import FEW_SOURCES, ROOT, packed, quick
from hypothesis import settings

from recsys_lab import datasets, loading, splits
from recsys_lab.models.neighbours import ItemKNN

settings.register_profile("lab", deadline=None)  # how long an example takes is no matter of a test


settings.load_profile("lab")


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch):
    """Chapters and datasets are found from the checkout, wherever pytest was started."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="session")
def shop() -> datasets.Dataset:
    os.chdir(ROOT)
    return loading.load("shop", size="tiny")


@pytest.fixture(scope="session")
def shop_split(shop) -> splits.Split:
    return splits.make(shop)


@pytest.fixture(scope="session")
def fits(shop, tmp_path_factory):
    """A hybrid and item KNN of the tiny shop, saved."""
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


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium, or a skip where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("no chromium with its driver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for word in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
    ):
        options.add_argument(word)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()
