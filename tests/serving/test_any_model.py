"""A bundle of any model: of one stage, a blend, a sequence model that needs no torch to answer, on a log of any kind."""

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import arrived_split, quick, untimed_sessions

from recsys_lab import splits
from recsys_lab.histories import Histories
from recsys_lab.lifecycle.store import FeatureFeed
from recsys_lab.models.base import load_model, model_class
from recsys_lab.provenance import provenance_of
from recsys_lab.serving import bundle as bundles
from recsys_lab.serving.bundle import Bundle, pack, served_model
from recsys_lab.serving.service import metadata_of

pytest.importorskip("fastapi_offline")


@pytest.fixture(scope="module", params=["item_knn", "ials", "session_walk", "blend", "sasrec"])
def single(request, shop, shop_split, tmp_path_factory):
    """(a model of one stage, the folder of its bundle)."""
    if request.param == "sasrec":
        pytest.importorskip("torch")
    place = tmp_path_factory.mktemp(request.param)
    model = model_class(request.param)(**quick(request.param)).fit(shop_split.known("test"))
    pack(model.save(place / "fit"), shop, place / "b", about={"dataset": "shop", "size": "tiny"})
    return model, place / "b"


def test_lists_are_those_of_the_model(single, shop_split):
    model, folder = single
    b = Bundle(folder)
    cases = splits.make_cases(shop_split, "next_item", part="test").first_visitors(20, 0)
    histories = cases.histories(slice(0, len(cases)))
    wanted = model.rank(histories, 10, "none")
    for row in range(len(cases)):
        history = cases.histories(slice(row, row + 1)).encode(model.items)
        listed = b.rank(history, 10, exclude="none")
        kept = wanted.codes[row][wanted.codes[row] >= 0]
        assert listed.codes.tolist() == kept.tolist()
        np.testing.assert_allclose(listed.scores, wanted.scores[row][: len(kept)], rtol=1e-6)
    nobody = b.rank(Histories.from_lists([[]]).encode(model.items), 5, exclude="none")
    assert not nobody.warm and len(nobody.codes) == 5


def test_the_service_answers_with_it(single):
    from fastapi.testclient import TestClient

    from recsys_lab.serving.api import create_app
    from recsys_lab.serving.service import Settings

    model, folder = single
    with TestClient(create_app(Settings(bundle=str(folder), every=0), wait=True)) as client:
        health = client.get("/health").json()
        assert health["model"]["features"] == 0 and health["model"]["hybrid_alpha"] is None
        assert client.get("/status").json()["features"]["store"] == "none"
        user = client.get("/metadata").json()
        assert user["models"][0] == model.name
        known = str(model.known.user_ids[int(np.argmax(np.diff(model.known.indptr)))])
        listed = client.post("/recommend/explain", json={"user_id": known, "k": 5}).json()
        assert listed["model"] == model.name and len(listed["recommendations"]) == 5
        assert listed["recommendations"][0]["ranker_score"] is None
        first = listed["recommendations"][0]["itemid"]
        why = client.post("/explain", json={"user_id": known, "item_id": first})
        assert why.status_code == 200 and why.json()["model"] == model.name
        assert client.get(f"/user/{known}/stats").status_code == 200


def test_a_refit_keeps_model_and_settings(single, shop):
    model, folder = single
    kept = bundles.verify(folder)
    fit, others = bundles.refit_models(folder, kept, shop, "hybrid", folder.parent)
    again = load_model(fit)
    assert (
        again.name == model.name and again.config == model.config and not others and again.fitted_on == shop.fingerprint
    )


def test_a_sequence_model_answers_without_torch(shop, shop_split, tmp_path):
    pytest.importorskip("torch")
    model = model_class("gru4rec")(**quick("gru4rec")).fit(shop_split.known("test"))
    pack(model.save(tmp_path / "fit"), shop, tmp_path / "b", about={"dataset": "shop", "size": "tiny"})
    seen = model.known.items[: min(6, model.known.indptr[1])]
    code = (
        "import sys, json\nsys.modules['torch'] = None\n"
        "from recsys_lab.serving.bundle import Bundle, encode_history\n"
        f"b = Bundle({str(tmp_path / 'b')!r})\n"
        f"listed = b.rank(encode_history(b, {seen.tolist()}), 10)\n"
        "print(json.dumps([listed.codes.tolist(), listed.scores.tolist()]))"
    )
    answer = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)
    b = Bundle(tmp_path / "b")
    here = b.rank(bundles.encode_history(b, seen), 10)
    assert answer[0] == here.codes.tolist()
    np.testing.assert_allclose(answer[1], here.scores, rtol=1e-6)


@pytest.mark.parametrize("log", [arrived_split(0), untimed_sessions(0)], ids=["split", "sessions"])
def test_logs_without_times_or_products_are_bundled(log, tmp_path):
    model = model_class("item_knn")().fit(log)
    made = pack(model.save(tmp_path / "fit"), log, tmp_path / "b")
    assert made["facts"]["start"] is None and made["facts"]["unique_items"] == len(log.items)
    b = Bundle(tmp_path / "b")
    assert len(b.rank(b.history(0), 3).codes) == 3 and b.shown(0)["title"] == str(log.items[0])


def test_what_a_search_chose_is_bundled_unless_another_is_named(fits, shop, tmp_path):
    run = tmp_path / "best-shop"
    knn = load_model(fits[1])
    knn.save(run / "model")
    (run / "best.json").write_text(json.dumps({"chosen": "item_knn"}))
    facts = provenance_of(shop)
    facts["dataset"] |= {"folder": str(shop.source)}
    (run / "provenance.json").write_text(json.dumps(facts))
    assert bundles.bundle_run(run, tmp_path / "b")["model"] == "item_knn"
    b = Bundle(tmp_path / "b")
    assert b.manifest["about"]["folder"] == str(shop.source) and "folder" not in metadata_of(b)["about"]
    made = bundles.refit(tmp_path / "b", force=True)
    assert made["status"] == "trained" and made["stats"]["total_events"] == len(shop)
    with pytest.raises(FileNotFoundError, match="holds no fit of als"):
        bundles.bundle_run(run, tmp_path / "c", model="als")


def test_an_index_of_its_own_vectors(shop, shop_split, tmp_path):
    """A factor model of many items is served from the index of its vectors, as a part of a hybrid is."""
    pytest.importorskip("faiss")
    model = model_class("ials")(factors=16, iterations=3).fit(shop_split.known("test"))
    made = pack(model.save(tmp_path / "fit"), shop, tmp_path / "b", exact_up_to=100)
    assert list(made["near"]) == ["ials"] and served_model(tmp_path / "b").near["index"] is not None
    b = Bundle(tmp_path / "b")
    user = int(np.argmax(np.diff(b.known.indptr)))
    exact = model.lists(b.history(user), 10, "none")[0][0]
    assert len(set(exact) & set(b.rank(b.history(user), 10, exclude="none").codes)) >= 9


def test_values_that_nobody_reads_are_not_fetched(fits):
    """The feed of a model of one stage says so, and takes nothing over."""
    feed, model = FeatureFeed(), load_model(fits[1])
    assert feed.state(model)["store"] == "none" and feed.state(fits[2])["store"] == "bundle"
