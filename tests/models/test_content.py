"""Recommending by content: the definition, items that nobody has met, and content as a source of candidates."""

import numpy as np
import pandas as pd
import pytest
from helpers import FEW_SOURCES, quick
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from recsys_lab import evaluation, splits
from recsys_lab.datasets import Dataset
from recsys_lab.histories import Histories
from recsys_lab.lexical import COMMON
from recsys_lab.models import content
from recsys_lab.models.base import load_model, model_class
from recsys_lab.models.content import Content, path_vectors, text_vectors, word_vectors
from recsys_lab.models.neighbours import ItemKNN

WORDS = ["pen", "ink", "cup", "blue", "mesh", "the"]


def described(titles, categories=None, met=3):
    """A log in which each of the first `met` items was met once, with titles and categories of all."""
    stamp = pd.Timestamp("2024-01-01", tz="UTC")
    rows = [(n, "title", t) for n, t in enumerate(titles)] + [
        (n, "categoryid", c) for n, c in enumerate(categories or [])
    ]
    known = pd.DataFrame(rows, columns=["item_id", "property", "value"]).assign(timestamp=stamp)
    events = pd.DataFrame({"user_id": range(met), "item_id": range(met), "event": "view"})
    return Dataset("said", events.assign(timestamp=pd.date_range("2024-01-02", periods=met, tz="UTC")), known)


@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join), min_size=1, max_size=9))
def test_word_vectors_are_tf_idf_of_length_one(texts):
    found = word_vectors(texts).toarray()
    size = np.linalg.norm(found, axis=1)
    telling = np.array([bool(set(t.split()) - COMMON) for t in texts])
    np.testing.assert_allclose(size, telling.astype(float), atol=1e-6)
    if telling.any():
        usual = TfidfVectorizer(sublinear_tf=True, stop_words=["the"], token_pattern=r"\w+").fit_transform(texts)
        np.testing.assert_allclose(found @ found.T, (usual @ usual.T).toarray(), atol=1e-6)


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=4).map(" > ".join), min_size=1, max_size=9))
def test_paths_are_like_each_other_as_far_as_they_share_their_beginning(paths):
    vectors = path_vectors(paths)
    like = (vectors @ vectors.T).toarray()
    np.testing.assert_allclose(like.diagonal(), [float(bool(p)) for p in paths], atol=1e-6)
    for i, a in enumerate(paths):
        for j, b in enumerate(paths):
            assert (like[i, j] > 0) == (bool(a) and bool(b) and a.split(" > ")[0] == b.split(" > ")[0])


def test_scores_are_the_definition():
    titles = ["blue pen", "pen ink", "mesh cup", "blue cup", "ink"]
    model = Content(category_weight=0.5, decay=2.0).fit(described(titles, ["1", "1", "2", "2", "1"], met=5))
    history = Histories.from_lists([[2, 0, 2, 4]])
    found = model._score(history.encode(model.items))[0]
    frame = pd.DataFrame({"title": titles, "brand": "", "category": "", "description": ""})
    text, shelf = text_vectors(frame, "words").toarray(), path_vectors(["1", "1", "2", "2", "1"]).toarray()
    weight = {4: 1.0, 2: np.exp(-1 / 2), 0: np.exp(-2 / 2)}  # by the latest time of each
    wanted = sum(w * (text @ text[i] + 0.5 * shelf @ shelf[i]) for i, w in weight.items())
    np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_what_nobody_has_met_is_recommended_and_judged(shop_split):
    known = shop_split.known("test")
    model = Content().fit(known)
    unmet = model.items[model.popular == 0]
    assert len(unmet) and set(known.items) < set(model.items)
    found = {}
    for one in (model, ItemKNN().fit(known)):
        e = evaluation.evaluate(one, shop_split, "next_item", ks=(20,))
        by = e.by("item_popularity", ("recall",), (20,)).set_index("slice").value
        found[one.name] = by["item_popularity=unseen"]
    assert found["content"] > 0 and found["item_knn"] == 0
    assert model.similar_items([unmet[0]], 5).frame().item_id.nunique() == 5
    listed = Content(new_items=False).fit(known).recommend(known.users[:50], 20).frame()
    assert set(listed.item_id) <= set(known.items)


def test_a_sentence_encoder_gives_dense_vectors(monkeypatch, tmp_path):
    asked = []

    def encoder(name):
        def encode(texts):
            asked.append(len(texts))
            out = np.array([[t.lower().count(w) + 0.01 for w in WORDS] for t in texts], np.float32)
            return out / np.linalg.norm(out, axis=1, keepdims=True)

        return encode

    monkeypatch.setattr("recsys_lab.encoders.encoder", encoder)
    content.encode_texts.cache_clear()
    log = described(["blue pen", "pen", "mesh cup", "blue blue pen", "cup cup"])
    model = Content(encoder="a-model").fit(log)
    assert model.state["text"].shape == (5, len(WORDS))
    assert model.recommend([0, 2], 1).frame().item_id.tolist() == [3, 4]
    Content(encoder="a-model", decay=1.0).fit(log)
    assert asked == [5]  # the second fit takes the vectors of the first
    back = load_model(model.save(tmp_path / "m"))
    assert (back.recommend([0, 2], 3).codes == model.recommend([0, 2], 3).codes).all()
    content.encode_texts.cache_clear()


def test_content_is_a_source_of_candidates(shop_split):
    settings = quick("hybrid") | {"sources": FEW_SOURCES | {"content": 15}}
    model = model_class("hybrid")(**settings).fit(shop_split.train)
    h = shop_split.train.histories(shop_split.train.users[:200])
    named = model.reasons(h.encode(model.items), 10, "none").named
    assert named[..., list(model.parts).index("content")].any()


@pytest.mark.slow
def test_the_two_stage_list_may_name_what_nobody_has_met(shop_split, tmp_path):
    """The catalogue is that of the properties, what is counted of such items is nothing, and their rates and times are unknown."""
    log = shop_split.train
    settings = quick("hybrid") | {"sources": FEW_SOURCES | {"content": 20, "als": 10}}
    settings |= {"settings": {"content": {"new_items": True}, "als": {"factors": 4}}}
    model = model_class("hybrid")(**settings).fit(log)
    assert model.items.equals(log.with_unmet_items().items) and len(model.items) > len(log.items)
    unmet = ~model.items.isin(log.items)
    assert (
        (model.popular[unmet] == 0).all() and (model.popular[~unmet] > 0).all() and model.fitted_on == log.fingerprint
    )
    h = log.histories(log.users[:300])
    lists, block = model.short_lists(h.encode(model.items), "none")
    table = pd.DataFrame(block, columns=model.state["names"].tolist())[unmet[lists.items]]
    sources = np.array(lists.sources)
    assert len(table) and {"content"} <= {s for row in lists.ranks[unmet[lists.items]] for s in sources[row > 0]}
    assert (table["item_users"] == 0).all() and table[["item_since", "item_age", "item_buy_rate"]].isna().all(axis=None)
    shown = model.rank_with_reasons(h, 40)
    new = shown[shown.item_id.isin(model.items[unmet])]
    assert len(new) and new.collaborative_score.isna().all() and new.sources.str.contains("content").all()
    cold = model.rank_with_reasons(log.histories(["nobody"]), 20)
    assert cold.item_id.isin(log.items).all()
    back = load_model(model.save(tmp_path / "m"))
    assert back.rank_with_reasons(h, 40).equals(shown)
    bare = model_class("hybrid")(**settings | {"settings": {"als": {"factors": 4}}}).fit(log)
    assert bare.items.equals(log.items)  # only where it is asked for


def test_a_log_with_unmet_items(shop_split):
    log = shop_split.train
    wide = log.with_unmet_items()
    assert wide is log.with_unmet_items() and wide.with_unmet_items() is wide
    assert wide.items[wide.item_codes].equals(log.items[log.item_codes]) and wide.items.is_monotonic_increasing
    assert set(wide.items) == set(log.items) | set(log.properties["item_id"])
    assert wide.fingerprint != log.fingerprint and wide.events.equals(log.events)
    half = wide.before(int(np.median(log.moments)))
    assert half.unmet and set(half.items) == set(half.events["item_id"]) | set(half.properties["item_id"])
    bare = Dataset("bare", log.events)
    assert bare.with_unmet_items() is bare


def test_a_validation_part_that_arrives_is_kept():
    part = ["train"] * 6 + ["valid"] * 2 + ["test"] * 2
    frame = pd.DataFrame({"user_id": [1, 1, 1, 2, 2, 2, 1, 2, 1, 2], "item_id": range(10), "event": "view"})
    log = Dataset("told", frame.assign(part=pd.Categorical(part, ["train", "valid", "test"])), has_times=False)
    split = splits.make(log, valid=0.5)
    assert [len(split.train), len(split.valid), len(split.test)] == [6, 2, 2] and len(split.known("test")) == 8
