"""Every model under every split passes the check; pipelines that leak on purpose fail it."""

import numpy as np
import pandas as pd
import pytest
from conftest import TWO_STAGE, arrived_split, quick, random_log, untimed_sessions

from recsys_lab import evaluation, leakage, splits, tuning
from recsys_lab.models.base import MODELS, model_class
from recsys_lab.models.neighbours import ItemKNN
from recsys_lab.models.popularity import Popularity, RecentPopularity

LOGS = {"temporal": None, "sequence": untimed_sessions, "given": arrived_split}


NEEDS = {
    "oracle": {"truth"},
    "popularity_category": {"categories"},
    "lightfm_hybrid": {"categories"},
    "taxonomy": {"categories"},
    "content": {"categories"},
}
NEEDS |= {name: {"order"} for name in TWO_STAGE}


def log_and_cutoff(kind, shop):
    log = shop if LOGS[kind] is None else LOGS[kind](2)
    split = splits.make(log, valid=0.34 if kind == "given" else 0.1)
    return log, split.cutoff("test") if split.cutoffs else "test"


def known_before(log, cutoff):
    return splits.make(log, test=cutoff, valid=0.34 if cutoff == "test" else 0.1).known("test")


@pytest.mark.parametrize("kind", sorted(LOGS))
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_and_split_pass(kind, name, shop):
    log, cutoff = log_and_cutoff(kind, shop)
    if not NEEDS.get(name, set()) <= log.offers:
        pytest.skip(f"{name} cannot be fitted on this log")

    def pipeline(log, cutoff):
        known = known_before(log, cutoff)
        return model_class(name)(**quick(name)).fit(known).recommend(known.users[:100], k=10)

    leakage.check(pipeline, log, cutoff, name=name).raise_if_leaky()


@pytest.mark.parametrize("kind", ["temporal", "sequence"])
def test_tuning_and_validation_pass(kind, shop):
    """The whole way: split, tune on validation, fit on all that is known, rank."""
    log, cutoff = log_and_cutoff(kind, shop)

    def pipeline(log, cutoff):
        split = splits.make(log, test=cutoff, valid=0.1)
        trials = tuning.tune(RecentPopularity, split, "next_item", 3)
        known = split.known("test")
        return RecentPopularity(**tuning.best_setting(trials)).fit(known).recommend(known.users[:50], k=10)

    leakage.check(pipeline, log, cutoff).raise_if_leaky()


def test_next_item_lists_do_not_know_what_follows_them(shop):
    """Cases of the test part up to a moment in its middle: what comes after that moment must not move their lists."""
    split = splits.make(shop)
    start, middle = split.cutoff("test"), int(np.median(split.test.moments))

    def pipeline(log, cutoff):
        past = log.before(cutoff)
        parts = splits.temporal(past, test=start)
        cases = evaluation.make_cases(parts, "next_item")
        model = ItemKNN().fit(parts.known("test"))
        return model.rank(cases.histories(slice(0, 300)), 10, "none")

    leakage.check(pipeline, shop, middle).raise_if_leaky()


@pytest.mark.parametrize("kind", sorted(LOGS))
def test_leaky_pipelines_fail(kind, shop):
    log, cutoff = log_and_cutoff(kind, shop)
    pipelines = {
        "popularity": leakage.leaky_popularity(Popularity, 100),
        "id map": leakage.leaky_id_map,
        "filter": leakage.leaky_filter(Popularity, 100),
    }
    if "categories" in log.offers:
        pipelines["category"] = leakage.leaky_category
    for name, pipeline in pipelines.items():
        report = leakage.check(pipeline, log, cutoff, name=name)
        assert not report.passed, name
        with pytest.raises(leakage.LeakageError, match=f"{name} depends on what happens after the cutoff"):
            report.raise_if_leaky()


def test_a_leak_of_one_row_is_found(shop):
    cutoff = splits.make(shop).cutoff("test")

    def pipeline(log, cutoff):
        known = log.before(cutoff)
        block = np.zeros((50, 3))
        block[17, 1] = (log.events.event == "transaction").sum() - (known.events.event == "transaction").sum()
        return block

    report = leakage.check(pipeline, shop, cutoff)
    assert report.rows.set_index("future").differing["deleted"] == 1


def test_futures_leave_the_past_alone_and_change_the_rest(shop):
    cutoff = splits.make(shop).cutoff("test")
    past = shop.before(cutoff)
    for name, change in leakage.FUTURES.items():
        other = change(shop, cutoff, np.random.default_rng(0))
        assert other.before(cutoff).fingerprint == past.fingerprint
        assert (other.fingerprint == shop.fingerprint) == (name == "intact")
    noisy = leakage.noise(shop, cutoff, np.random.default_rng(0))
    assert not noisy.between(cutoff).events.item_id.isin(shop.items).all()
    later = noisy.properties[noisy.properties.timestamp >= pd.Timestamp(cutoff, unit="ms", tz="UTC")]
    assert len(later)


def test_a_check_of_nothing_is_refused(shop):
    with pytest.raises(ValueError, match="nothing to check"):
        leakage.check(lambda log, cutoff: np.zeros((3, 1)), shop, "2030-01-01")
    with pytest.raises(ValueError, match="returned no row"):
        leakage.check(lambda log, cutoff: np.zeros((0, 1)), shop, splits.make(shop).cutoff("test"))


def test_a_leaky_filter_is_found_where_everyone_is_active():
    """A fixed threshold would keep every user of such a log and the mistake would go unseen."""
    log = random_log(3, n=3000, users=30, items=200)
    cutoff = splits.make(log).cutoff("test")
    assert log.before(cutoff).events.user_id.value_counts().min() > 20
    assert not leakage.check(leakage.leaky_filter(Popularity, 30), log, cutoff).passed
