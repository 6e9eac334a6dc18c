"""Settings are checked when a model is made."""

import inspect
import json

import numpy as np
import pytest
from helpers import random_log

from recsys_lab.datasets import Dataset
from recsys_lab.histories import Histories
from recsys_lab.models.base import MODELS, load_model, model_class
from recsys_lab.models.config import RENAMED, describe_settings


@pytest.mark.parametrize(
    "name, settings, why",
    [
        ("session_walk", {"decay": -3.0}, "session_walk: decay must be at least 0, not -3.0"),
        ("session_walk", {"repeat_decay": -1.0}, "session_walk: repeat_decay must be at least 0"),
        ("session_walk", {"popularity_exponent": 9.0}, "session_walk: popularity_exponent must be at most 1, not 9.0"),
        ("gf_cf", {"alpha": float("nan")}, "gf_cf: alpha must be a finite number, not nan"),
        ("lightgcn", {"learning_rate": float("inf")}, "lightgcn: learning_rate must be a finite number, not inf"),
        ("lightgcn", {"device": "tpu"}, "lightgcn: device must be text that matches .*, not 'tpu'"),
        ("lightgcn", {"layer_weights": ["a", 1.0, 1.0, 1.0]}, "lightgcn: layer_weights.0 must be a number, not 'a'"),
        ("lightgcn", {"loss": "hinge"}, "lightgcn: loss must be 'bpr', 'softmax' or 'contrastive', not 'hinge'"),
        ("rp3beta", {"beta": -3.0}, "rp3beta: beta must be at least 0"),
        ("als", {"event_weights": {"view": -2.0}}, "als: event_weights.view must be at least 0, not -2.0"),
        ("lr", {"C": -1.0}, "lr: C must be above 0, not -1.0"),
        ("item_knn", {"n_neighbors": 10.5}, "item_knn: n_neighbors must be a whole number, not 10.5"),
        ("item_knn", {"n_neighbors": True}, "item_knn: n_neighbors must be a whole number, not True"),
        ("hybrid", {"sources": {"als": 0}}, "hybrid: sources.als must be at least 1, not 0"),
        ("blend", {"weights": {"als": -1.0}}, "blend: weights.als must be at least 0, not -1.0"),
        ("blend", {"members": {"item_knn": {"n_neighbors": 0}}}, "item_knn: n_neighbors must be at least 1, not 0"),
        ("bpr_mf", {"layers": 2}, "bpr_mf: layers must be at most 0, not 2"),
    ],
)
def test_settings_that_mean_nothing_are_refused(name, settings, why):
    with pytest.raises(ValueError, match=why):
        model_class(name)(**settings)


def test_settings_are_seen_before_they_are_set(name):
    """The signature, the limits and the meaning of every setting; the defaults lie within the limits and the search."""
    kind = model_class(name)
    told = inspect.signature(kind).parameters
    assert {n: p.default for n, p in told.items()} == kind().config.model_dump()
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY and p.annotation is not p.empty for p in told.values())
    rows = {row["setting"]: row for row in describe_settings(kind.Config)}
    assert set(rows) == set(told) and all(row["meaning"] for row in rows.values())
    for field in kind.search_space():
        assert rows[field]["searched"]


def test_a_fourth_kind_of_event_can_be_weighed():
    log = random_log(2)
    events = log.events.assign(event=np.where(np.arange(len(log)) % 3 == 0, "wishlist", log.events.event))
    wished = Dataset("wishes", events)
    plain, heavy = (model_class("als")(factors=4, event_weights=w).fit(wished) for w in ({}, {"wishlist": 50.0}))
    assert not np.array_equal(plain.state["item_vectors"], heavy.state["item_vectors"])
    own = Histories.from_lists([list(log.items[:2])], [["view", "wishlist"]], event_names=wished.event_names)
    for weight, best in ((0.1, 0), (9.0, 1)):
        revisits = model_class("revisits")(decay=1000.0, event_weights={"wishlist": weight}).fit(wished)
        assert revisits.rank(own, 1, "none").frame().item_id.item() == log.items[best]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("item_knn", "neighbours", "n_neighbors"),
        ("ease", "penalty", "regularization"),
        ("lr", "penalty", "C"),
        ("gf_cf", "share", "alpha"),
        ("graph_filter", "share", "lowpass_weight"),
        ("bpr", "iterations", "epochs"),
        ("lightgbm", "leaves", "num_leaves"),
        ("hybrid", "sampler", "negative_sampling"),
    ],
)
def test_settings_of_earlier_versions_are_refused_with_the_new_name(name, old, new, tmp_path):
    with pytest.raises(ValueError, match=f"{name} has no setting '{old}': it is called '{new}' now"):
        model_class(name)(**{old: 1})
    (tmp_path / "model.json").write_text(json.dumps({"name": name, "format": 3, "config": {old: 1, "seed": 0}}))
    with pytest.raises(ValueError, match=rf"saved in format 3, .* fit it again \({old} is called {new} now\)"):
        load_model(tmp_path)


def test_no_setting_has_the_name_of_an_earlier_one():
    """A word of `RENAMED` leads to a field of some model, and no model has both."""
    kinds = [model_class(name).Config for name in MODELS.own()]
    for old, words in RENAMED.items():
        for kind in kinds:
            assert not (old in kind.model_fields and set(words) & set(kind.model_fields))
        assert all(any(word in kind.model_fields for kind in kinds) for word in words)
