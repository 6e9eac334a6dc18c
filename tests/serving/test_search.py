"""Search over HTTP: the hits of the lab, by words, by meaning and by both; what nobody has met; bad input; other products."""

import json
import shutil

import numpy as np
import pytest
from fastapi.testclient import TestClient
from helpers import packed, tiny_encoder

from recsys_lab.datasets import Dataset
from recsys_lab.files import DataError, file_hash
from recsys_lab.search import Filters, Search
from recsys_lab.serving import bundle as bundles
from recsys_lab.serving.api import create_app
from recsys_lab.serving.bundle import Bundle
from recsys_lab.serving.service import Settings

pytest.importorskip("fastapi_offline")
pytest.importorskip("onnxruntime")
WORDS = ["bowl", "mug", "vase", "chair", "tray", "red", "blue", "bright"]


@pytest.fixture(scope="module")
def unmet(shop):
    """The shop with two products that nobody has met."""
    import pandas as pd

    first = shop.properties["timestamp"].min()
    rows = [
        (n, name, value, first)
        for n, title in ((900_001, "Blue bowl"), (900_002, "Red vase"))
        for name, value in (("title", title), ("available", "1"))
    ]
    new = pd.DataFrame(rows, columns=["item_id", "property", "value", "timestamp"]).astype(
        shop.properties.dtypes.to_dict()
    )
    return Dataset(
        shop.name,
        shop.events,
        pd.concat([shop.properties, new], ignore_index=True),
        shop.categories,
        source=shop.source,
    )


@pytest.fixture(scope="module")
def searching(fits, unmet, tmp_path_factory):
    place = tmp_path_factory.mktemp("searching")
    packed(fits, unmet, place / "b", encode=tiny_encoder(place, WORDS))
    return place / "b"


@pytest.fixture(scope="module")
def caller(searching):
    with TestClient(create_app(Settings(bundle=str(searching), every=0), wait=True)) as c:
        yield c


def search(caller, query, **more):
    return caller.post("/search", json={"query": query, **more})


@pytest.mark.parametrize("mode", ["lexical", "semantic", "hybrid"])
def test_the_service_finds_what_the_lab_finds(caller, searching, mode):
    lab = Search(searching / "catalogue")
    for query in ("red lamp", "bowll", "a vase for my mother", "17", "🖊️ mug"):
        wanted = lab.hits(query, 20, mode)
        told = search(caller, query, mode=mode, top_k=20).json()
        assert [r["product_id"] for r in told["results"]] == lab.ids[wanted.codes].tolist() and told["mode"] == mode
        assert [r["score"] for r in told["results"]] == pytest.approx(wanted.scores.tolist(), abs=1e-6)
        assert [r["found_by"] for r in told["results"]] == wanted.found_by
    assert search(caller, "bowll").json()["corrected"] == {"bowll": "bowl"}


def test_filters_over_http(caller, searching):
    lab = Search(searching / "catalogue")
    known = lab.price[np.isfinite(lab.price)]
    most, shelf = float(np.quantile(known, 0.2)), lab.category(3)
    for given in (
        {"max_price": most},
        {"min_price": most},
        {"in_stock": True},
        {"category": shelf},
        {"category": "none such"},
    ):
        told = search(caller, "lamp", top_k=50, **given).json()["results"]
        ok = lab.allowed(Filters(**given))
        codes = [int(np.flatnonzero(lab.ids == r["product_id"])[0]) for r in told]
        assert ok[codes].all() and bool(told) == bool(ok.any())


def test_a_bundle_without_vectors_says_that_it_is_lexical(client):
    for mode in ("lexical", "semantic", "hybrid"):
        told = search(client, "bowl", mode=mode).json()
        assert (
            told["mode"] == "lexical" and all(r["found_by"] == ["lexical"] for r in told["results"]) and told["results"]
        )
    assert client.get("/status").json()["search"] == {
        "mode": "lexical",
        "products": len(told["results"]) and client.get("/status").json()["search"]["products"],
        "encoder": None,
        "vectors": None,
    }
    assert client.get("/similar/1?model=content").status_code == 404


def test_what_nobody_has_met_is_found_and_has_neighbours(caller, searching):
    found = [r["product_id"] for r in search(caller, "blue bowl", top_k=5).json()["results"]]
    assert 900_001 in found
    like = caller.get("/similar/900001?model=content&k=6").json()["recommendations"]
    assert (
        len(like) == 6 and 900_001 not in [r["item_id"] for r in like] and all("bowl" in r["title"] for r in like[:2])
    )
    refused = caller.get("/similar/900001")
    assert (
        refused.status_code == 404
        and "nobody has met that item yet; ask for model=content" in refused.json()["error"]["message"]
    )
    assert "no product of that id" in caller.get("/similar/900003?model=content").json()["error"]["message"]
    met = Bundle(searching).items[0]
    told = caller.get(f"/similar/{met}?model=content&k=50").json()["recommendations"]
    assert [r["score"] for r in told] == sorted((r["score"] for r in told), reverse=True)
    status = caller.get("/status").json()["search"]
    assert (
        status["mode"] == "hybrid"
        and status["encoder"]["name"] == "tiny"
        and status["vectors"] == {"kind": "exact", "recall": 1.0}
    )


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"query": ""}, 200, ""),
        ({"query": "   "}, 200, ""),
        ({"query": "x" * 500}, 200, ""),
        ({"query": "x" * 501}, 422, "query"),
        ({"query": "🖊️🖊️"}, 200, ""),
        ({"query": "'; DROP TABLE words; --"}, 200, ""),
        ({"query": '" OR title:* NEAR('}, 200, ""),
        ({"query": "a\x00b\x07\x1b[31m"}, 200, ""),
        ({"query": "\ud800"}, 422, "query"),
        ({"query": None}, 422, "query"),
        ({}, 422, "query"),
        ({"query": "pen", "mode": "magic"}, 422, "mode"),
        ({"query": "pen", "top_k": 51}, 422, "top_k"),
        ({"query": "pen", "max_price": -1}, 422, "max_price"),
        ({"query": "pen", "min_price": 5, "max_price": 4}, 422, "min_price must not be above max_price"),
        ({"query": "pen", "colour": "red"}, 422, "colour"),
    ],
)
def test_bad_input_has_a_clear_answer(caller, body, status, message):
    answer = caller.post("/search", content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == status
    if status == 200:
        assert set(answer.json()) == {"results", "mode", "corrected"}
    else:
        told = answer.json()["error"]["message"]
        assert message in told and "Traceback" not in told and "Error(" not in told


def test_a_catalogue_of_other_products_is_refused_by_name(searching, tmp_path):
    """Also where somebody made all the hashes right."""
    shutil.copytree(searching, tmp_path / "b")
    path = tmp_path / "b" / "catalogue" / "ids.npy"
    ids = np.load(path)
    other = int(ids[4])
    ids[4] = 999_999
    np.save(path, ids)
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    manifest["files"]["catalogue/ids.npy"] |= {"sha256": file_hash(path), "bytes": path.stat().st_size}
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=f"catalogue is of other products than the model, from item {other} on"):
        Bundle(tmp_path / "b")


def test_a_bundle_made_again_keeps_its_encoder_and_its_vectors(fits, unmet, searching, tmp_path, monkeypatch):
    from recsys_lab import encoders, loading

    shutil.copytree(searching, tmp_path / "b")
    monkeypatch.setattr(loading, "load", lambda *a, **k: unmet)
    seen = []
    real = encoders.Encoder.__call__
    monkeypatch.setattr(
        encoders.Encoder, "__call__", lambda self, texts, *kind: seen.extend(texts) or real(self, texts, *kind)
    )
    assert bundles.refit(tmp_path / "b", "ss")["status"] == "trained" and not seen
    again, before = Bundle(tmp_path / "b"), Bundle(searching)
    assert again.manifest["search"] == before.manifest["search"]
    n = len(again.catalogue)
    assert np.array_equal(again.catalogue.vectors.reconstruct_n(0, n), before.catalogue.vectors.reconstruct_n(0, n))
    assert (
        packed(fits, unmet, tmp_path / "c", encode=encoders.Encoder(searching / "catalogue" / "encoder"))["version"]
        == before.manifest["version"]
    )
