"""SimpleX: its losses against plain loops, its batches, what it learns, and what it cannot be fitted on."""

import numpy as np
import pandas as pd
import pytest
from helpers import untimed_sessions
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_lab.datasets import Dataset
from recsys_lab.histories import Histories
from recsys_lab.models.simplex import (
    SimpleX,
    SimpleXConfig,
    SimpleXLearner,
    history_weights,
    simplex_step,
    visitor_batches,
)


def unit(vector):
    return vector / np.linalg.norm(vector)


def loss_by_loops(learner, visitors, drawn):
    """The mean loss over the pairs of some visitors, one pair and one drawn item at a time."""
    c, losses = learner.config, []
    items, summed = (t.detach().numpy().astype(float) for t in (learner.weights["items"], learner.history))
    for visitor in visitors:
        row = learner.matrix[visitor]
        parts = {i: w * summed[i] for i, w in zip(row.indices, row.data, strict=True)}
        whole = unit(sum(parts.values()))
        others = [whole @ unit(items[j]) for j in drawn if j not in parts]
        for i in parts:
            right = unit(sum(p for j, p in parts.items() if j != i)) @ unit(items[i])
            if c.loss == "softmax":
                scale = len(items) / len(drawn)
                rest = scale * sum(np.exp(value / c.temperature) for value in others)
                losses.append(np.log(np.exp(right / c.temperature) + rest) - right / c.temperature)
            else:
                above = sum(max(0.0, value - c.margin) for value in others) / len(drawn)
                losses.append(1 - right + c.negative_weight * above)
    return np.mean(losses)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("loss", ["softmax", "contrastive"])
@pytest.mark.parametrize("negatives", [7, 100])
def test_the_loss_of_a_step_is_that_of_its_formula(loss, tied, negatives):
    log = untimed_sessions(3, sessions=40)
    met = log.histories().encode(log.items).matrix(len(log.items))
    config = SimpleXConfig(factors=8, loss=loss, margin=0.1, tie_weights=tied, negatives=negatives, learning_rate=0.05)
    learner = SimpleXLearner(history_weights(met, np.bincount(met.indices), 0.3), config)
    visitors = visitor_batches(learner.counts, 60, np.random.default_rng(0))[0]
    simplex_step(learner, visitors, np.random.default_rng(0))  # vectors of their own are no longer those of the items
    drawn = np.sort(np.random.default_rng(9).choice(len(log.items), min(negatives, len(log.items)), replace=False))
    wanted = loss_by_loops(learner, visitors, drawn)
    assert simplex_step(learner, visitors, np.random.default_rng(9)) == pytest.approx(wanted, rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), most=st.integers(1, 50))
def test_batches_hold_each_visitor_with_two_items_once(seed, most):
    rng = np.random.default_rng(seed)
    counts = rng.geometric(0.3, rng.integers(1, 80)) - 1
    batches = visitor_batches(counts, most, rng)
    assert sorted(np.concatenate(batches).tolist()) == np.flatnonzero(counts > 1).tolist()
    assert all(counts[b].sum() < most + counts.max() for b in batches)
    assert len(batches) <= counts[counts > 1].sum() // most + 1


@pytest.mark.parametrize(("loss", "tied"), [("softmax", True), ("softmax", False), ("contrastive", True)])
def test_groups_of_items_are_learned(loss, tied):
    """Known answer: visitors keep to one of four groups of ten items; what is missing is in their own."""
    rng = np.random.default_rng(0)
    rows = [(u, 10 * (u % 4) + i) for u in range(200) for i in rng.choice(10, 5, replace=False)]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id"]).assign(event="view")
    log = Dataset("groups", frame, has_times=False)
    model = SimpleX(
        factors=8, epochs=40, batch_size=256, loss=loss, tie_weights=tied, margin=0.3, negative_weight=2.0
    ).fit(log)
    found = model.recommend(range(200), k=5).frame()
    assert (found.item_id // 10 == found.user_id % 4).all()
    if tied:  # two tables of vectors for 1,000 pairs learn some of them by heart
        near = model.similar_items(range(40), k=5).frame()
        assert (near.item_id // 10 == near.target_item_id // 10).all()


def test_a_stranger_with_a_known_history_gets_the_same_list():
    log = untimed_sessions(5)
    model = SimpleX(factors=8, negatives=16, epochs=2).fit(log)
    known = log.histories(log.users[:20])
    strangers = Histories.from_lists(
        [known.items[a:b].tolist() for a, b in zip(known.indptr[:-1], known.indptr[1:], strict=True)]
    )
    assert np.array_equal(model.rank(known, 10).codes, model.rank(strangers, 10).codes)


def test_popularity_is_added_to_the_cosine():
    log = untimed_sessions(5)
    plain, both = (SimpleX(factors=8, negatives=16, epochs=2, popularity_weight=w).fit(log) for w in (0.0, 0.3))
    histories = log.histories(log.users[:20]).encode(plain.items)
    visitors = log.events.groupby("item_id").user_id.nunique().reindex(plain.items).to_numpy()
    np.testing.assert_allclose(
        both._score(histories) - plain._score(histories), np.tile(0.3 * np.log(visitors + 1), (20, 1)), atol=1e-5
    )


def test_what_cannot_be_learned_is_refused_in_a_sentence():
    single = Dataset(
        "single", pd.DataFrame({"user_id": range(5), "item_id": [1, 1, 2, 2, 3], "event": "view"}), has_times=False
    )
    with pytest.raises(ValueError, match="at least two items"):
        SimpleX(epochs=1).fit(single)
    with pytest.raises(ValueError, match="learning_rate"):
        SimpleX(epochs=2, learning_rate=1e38).fit(untimed_sessions(3))
