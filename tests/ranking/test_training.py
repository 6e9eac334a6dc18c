"""Training rows: windows, negatives, and users that never teach."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers import STAGE, arrived_split, ms, quick, random_log, tiny_log

from recsys_lab import evaluation, leakage, splits
from recsys_lab.datasets import Dataset
from recsys_lab.histories import Histories
from recsys_lab.models.base import model_class
from recsys_lab.ranking import boosting, candidates, features, training


def test_a_row_never_feeds_itself(shop, monkeypatch):
    """Training rows of a window: facts end before it, and each history ends before its request."""
    seen = []
    real = features.feature_block

    def watched(facts, h, c, names, threads=1):
        seen.append((int(facts["end"]), h))
        return real(facts, h, c, names, threads)

    monkeypatch.setattr(training, "feature_block", watched)
    rows = training.training_rows(shop, replace(STAGE, seed=5))
    assert seen and len(rows.label)
    for end, h in seen:
        assert (h.at > end).all() and (h.times < h.at[h.rows]).all()


def test_rows_agree_with_the_log(shop):
    """Labels by hand: a row is met if that visitor's next event in the window is of the item."""
    rows = training.training_rows(shop, STAGE)
    met = np.bincount(rows.request, rows.label)
    assert (met == 1).all()  # next item: one relevant item a request
    assert rows.block.dtype == np.float32 and rows.block.shape == (len(rows.label), len(rows.names))
    assert (np.diff(rows.request) >= 0).all() and rows.request[-1] + 1 == len(rows.user) == len(rows.window)
    assert (np.bincount(rows.request) <= 6).all()
    half = rows.take(rows.window == 0)
    assert len(half.user) == (rows.window == 0).sum() and half.request.max() + 1 == len(half.user)


def test_hard_negatives_are_new_to_the_visitor_and_launched(shop):
    split = splits.make(shop)
    known = split.known("test")
    facts = features.item_statistics(known)
    cases = training.sample_training_cases(training.rolling_splits(known, 1, 0.1)[0], replace(STAGE, max_requests=150))
    h = cases.histories(slice(0, len(cases))).encode(known.items)
    code = known.items.get_indexer(cases.items)[cases.relevant]
    row, item = training.hard_negatives(facts, h, code, np.arange(len(code)), 15, 0)
    met = set(zip(h.rows.tolist(), h.items.tolist(), strict=True)) | set(
        zip(range(len(code)), code.tolist(), strict=True)
    )
    assert len(row) > 5 * len(code) and not met & set(zip(row.tolist(), item.tolist(), strict=True))
    assert (facts["first"][item] < h.at[row]).all()
    early = replace(h, at=np.full(len(h), int(np.median(facts["first"]))))
    row, item = training.hard_negatives(facts, early, code, np.arange(len(code)), 15, 0)
    assert (facts["first"][item] < early.at[0]).all() and len(item)


def test_the_watching_users_never_teach(shop_split, monkeypatch):
    """What the trees learn from, stop by and are calibrated on, as they are handed over."""
    handed = {}

    def spy(name, function):
        def called(*words):
            handed[name] = words
            return function(*words)

        return called

    monkeypatch.setattr(boosting, "train_booster", spy("train_booster", boosting.train_booster))
    monkeypatch.setattr(boosting, "isotonic", spy("isotonic", boosting.isotonic))
    model = boosting.Boosting(**quick("lightgbm")).fit(shop_split.known("test"))
    learn, stop, _ = handed["train_booster"]
    assert len(learn.user) and not boosting.is_held_out(learn.user).any()
    assert len(stop.user) and boosting.is_held_out(stop.user).all()
    label, score = handed["isotonic"]  # calibrated on the watching users' lists
    assert (label == stop.label).all() and (score == model.predict(stop.block)).all()
    lists = np.bincount(stop.request)
    assert np.median(lists) > 2 * np.median(np.bincount(learn.request))  # whole lists, as served


def test_logs_without_windows_or_positives_are_refused():
    with pytest.raises(ValueError, match="a given split allows"):
        model_class("lr")(**quick("lr")).fit(arrived_split(1))
    with pytest.raises(ValueError, match="no row lies in a window"):
        training.rolling_splits(arrived_split(1), 1, 1e-9)
    with pytest.raises(ValueError, match="ask for fewer or longer windows"):
        training.rolling_splits(random_log(1, n=8), 2, 0.45)
    log = random_log(1)
    views = log.where((log.events.event == "view").to_numpy())
    with pytest.raises(splits.NoCases, match="no case for protocol next_item, target purchase"):
        model_class("lr")(**quick("lr") | {"target": "purchase"}).fit(views)


@pytest.mark.parametrize("seed", range(3))
def test_windows_of_a_log_that_arrived_split_are_drawn_rows(seed):
    """Each row is judged in one window at most, is not known there, and every visitor keeps a row."""
    log = splits.given(arrived_split(seed)).known("test")
    windows = training.rolling_splits(log, 3, 0.2)
    judged = []
    for window in windows:
        known, drawn = (part.events[["user_id", "item_id"]] for part in (window.known("test"), window.judged("test")))
        assert len(known) + len(drawn) == len(log) and 0.1 * len(log) < len(drawn) < 0.3 * len(log)
        assert set(known.user_id) == set(log.users) and not len(known.merge(drawn))
        judged.append(drawn)
    assert not pd.concat(judged).duplicated().any()


@pytest.mark.parametrize("name", ["lr_enriched", "lightgbm"])
def test_two_stages_need_no_times_and_no_categories(name):
    """On a log that arrived split: no feature reads an order that means nothing, and what is learned beats what is popular."""
    rng = np.random.default_rng(0)
    rows = [(u, i + 20 * (u % 2)) for u in range(200) for i in rng.permutation(20)[:10]]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id"]).assign(event="view")
    part = pd.Categorical(np.where(rng.random(len(frame)) < 0.2, "test", "train"), ["train", "test"])
    split = splits.make(Dataset("groups", frame.assign(part=part), has_times=False))
    stage = {
        "protocol": "given",
        "exclude": "seen",
        "sources": {"user_knn": 15, "popularity": 15},
        "n_windows": 1,
        "window_fraction": 0.2,
    }
    model = model_class(name)(**stage, max_requests=200).fit(split.known("test"))
    assert not {"item_since", "item_age", "item_trend", "item_recent", "pair_near", "sim_last"} & set(model.first.names)
    found, popular = (
        evaluation.evaluate(m, split, ks=(10,)).mean("ndcg", 10) for m in (model, model_class("popularity")())
    )
    assert found > popular + 0.1


def test_a_cutoff_outside_the_log_is_refused(shop):
    with pytest.raises(ValueError, match="nothing to check"):
        leakage.check(lambda log, at: np.zeros((3, 1)), shop, "2031-01-01")
    with pytest.raises(ValueError, match="no event of shop lies before the cutoff"):
        splits.make(shop, test="1999-01-01")


def test_one_candidate_more_changes_no_other_draw(shop_split):
    """What is drawn for a candidate belongs to it: another list of another source leaves the rest of the sample as it was."""
    first = training.first_stage_of(shop_split.train, STAGE)
    asking = shop_split.train.histories().encode(shop_split.train.items).take(slice(0, 60))
    c = candidates.gather(first.sources, first.widths, asking, "none")
    label = c.items % 7 == 0
    whole = training.sample_rows(c, label, 2, 3, 100)
    gone = np.flatnonzero(~label & ~whole)[::5]
    less = np.ones(len(c.items), bool)
    less[gone] = False
    again = training.sample_rows(c.keep(less), label[less], 2, 3, 100)
    assert len(gone) > 10 and (again == whole[less]).all()
    parts = [
        training.sample_rows(c.take(slice(s, s + 20)), label[c.indptr[s] : c.indptr[s + 20]], 2, 3, 100 + s)
        for s in (0, 20, 40)
    ]
    assert (np.concatenate(parts) == whole).all()  # nor does the block matter
    assert (training.sample_rows(c, label, 2, 4, 100) != whole).any()


def test_no_negative_was_first_met_at_the_moment_of_the_request():
    log = tiny_log()
    facts = features.item_statistics(log)
    for at, there in (("2024-01-03 09:30", False), ("2024-01-03 09:31", True)):
        h = replace(Histories.from_lists([[20]], [["view"]]), at=np.array([ms(at)]), times=np.array([0]))
        code = log.items.get_indexer([30])
        _, item = training.hard_negatives(facts, h.encode(log.items), code, np.zeros(1, int), 60, 0)
        assert (40 in log.items[item]) == there


def test_negatives_keep_the_rank_that_they_were_served_at(shop):
    """A candidate that sources named has their ranks and scores; a drawn one that none named has zeros."""
    stage = replace(STAGE, negative_sampling="hard")
    window = training.rolling_splits(shop, 1, 0.1)[0]
    first = training.first_stage_of(window.known("test"), stage)
    cases = training.sample_training_cases(window, stage)
    items, rows = next(iter(first.sources.values())).items, slice(0, 60)
    asking = cases.histories(rows).encode(items)
    served = candidates.gather(first.sources, first.widths, asking, stage.exclude)
    out, _ = training.add_hard_negatives(first, asking, served, cases, rows, stage)
    there = {
        (r, i): (ranks.tolist(), scores.tolist())
        for r, i, ranks, scores in zip(served.rows, served.items, served.ranks, served.scores, strict=True)
    }
    nothing = ([0] * len(out.sources), [0.0] * len(out.sources))
    drawn = 0
    for r, i, ranks, scores in zip(out.rows, out.items, out.ranks, out.scores, strict=True):
        drawn += (r, i) not in there
        assert (ranks.tolist(), scores.tolist()) == there.get((r, i), nothing)
    assert 0 < drawn < len(out.items)
