"""Every model under every split passes the check; pipelines that leak on purpose fail it."""

import numpy as np
import pandas as pd
import pytest
from helpers import TWO_STAGE, arrived_split, quick, random_log, untimed_sessions

from recsys_lab import datasets, leakage, loading, splits, tuning
from recsys_lab.models.base import MODELS, model_class
from recsys_lab.models.neighbours import ItemKNN
from recsys_lab.models.popularity import Popularity, RecentPopularity, Revisits

LOGS = {"temporal": None, "sequence": untimed_sessions, "given": arrived_split}


NEEDS = {
    "oracle": {"truth"},
    "popularity_category": {"categories"},
    "lightfm_hybrid": {"categories"},
    "taxonomy": {"categories"},
    "content": {"categories"},
    "reranked": {"catalogue"},
}
NEEDS |= {name: {"order"} for name in TWO_STAGE}


def log_and_cutoff(kind, shop):
    log = shop if LOGS[kind] is None else LOGS[kind](2)
    split = splits.make(log, valid=0.34 if kind == "given" else 0.1)
    return log, split.cutoff("test") if split.cutoffs else "test"


def known_before(log, cutoff):
    return splits.make(log, test=cutoff, valid=0.34 if cutoff == "test" else 0.1).known("test")


@pytest.mark.parametrize("kind", sorted(LOGS))
@pytest.mark.parametrize("name", sorted(MODELS.own()))
@pytest.mark.slow
def test_every_model_and_split_pass(kind, name, shop):
    log, cutoff = log_and_cutoff(kind, shop)
    if not NEEDS.get(name, set()) <= log.offers:
        pytest.skip(f"{name} cannot be fitted on this log")

    def pipeline(log, cutoff):
        known = known_before(log, cutoff)
        return model_class(name)(**quick(name)).fit(known).recommend(known.users[:100], k=10)

    leakage.check(pipeline, log, cutoff, name=name, may_read_source=name == "oracle").raise_if_leaky()


@pytest.mark.parametrize("name", sorted(set(MODELS.own()) - {"oracle"}))
@pytest.mark.slow
def test_every_model_answers_from_before_the_request(name, shop):
    """Whole logs are handed over, and each request's own event and all that follows it is changed."""
    split = splits.make(shop)
    cases = splits.make_cases(split, "next_item")
    model = model_class(name)(**quick(name), **({} if name == "revisits" else {"repeat_weight": 1.0}))
    model.fit(split.known("test"))

    def pipeline(log, cutoff, requests):
        return model.rank(leakage.request_histories(log, requests), 10, "none")

    requests = pd.DataFrame({"user_id": cases.user_ids, "at": cases.at})
    leakage.check_requests(pipeline, shop, split.cutoff("test"), requests, sample=2).raise_if_leaky()


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
        cases = splits.make_cases(parts, "next_item")
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
        kept = other.before(cutoff)
        assert kept.events.equals(past.events)
        assert (
            kept.properties.reset_index(drop=True)
            .astype(str)
            .equals(past.properties.reset_index(drop=True).astype(str))
        )
        assert (other.fingerprint == shop.fingerprint) == (name == "intact")
        assert name == "intact" or (other.name != shop.name and not other.source.exists())
    tree = leakage.later_tree(shop, cutoff, np.random.default_rng(0)).categories
    assert len(tree) > len(shop.categories)  # grown, and what was in use stands where it stood
    used = set(past.item_property("categoryid"))
    parent = dict(zip(tree.category, tree.parent, strict=True))
    old = dict(zip(shop.categories.category, shop.categories.parent, strict=True))
    assert all(parent[name] == old[name] or pd.isna(old[name]) for name in used)
    burst = leakage.at_cutoff(shop, cutoff, np.random.default_rng(0))
    assert (burst.moments == cutoff).sum() > 100 and (burst.properties.timestamp == at_time(cutoff)).sum() > 100
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


def at_time(cutoff):
    return pd.Timestamp(cutoff, unit="ms", tz="UTC")


def honest_pipeline(log, cutoff):
    known = splits.make(log, test=cutoff).known("test")
    return ItemKNN().fit(known).recommend(known.users[:80], k=10)


CACHE: dict = {}


def from_a_cache(log, cutoff):
    """Popularity of the whole log, kept under the log's name."""
    if log.name not in CACHE:
        CACHE[log.name] = Popularity().fit(log)
    return CACHE[log.name].rank(log.before(cutoff).histories().take(slice(0, 50)), 10)


def from_the_source(log, cutoff):
    """The log read again from where it came."""
    whole = loading.load(str(log.source))
    return Popularity().fit(whole).rank(log.before(cutoff).histories().take(slice(0, 50)), 10)


def properties_until(log, cutoff):
    """The categories of items up to and with the moment of the cutoff."""
    rows = log.properties[(log.properties.timestamp <= at_time(cutoff)) & (log.properties.property == "categoryid")]
    last = rows.groupby("item_id").value.last()
    return pd.DataFrame({"category": last.reindex(log.before(cutoff).items).to_numpy()})


def events_until(log, cutoff):
    """Counts up to and with the moment of the cutoff."""
    known, upto = log.before(cutoff), log.where(log.moments <= cutoff)
    return upto.events.item_id.value_counts().reindex(known.items).to_frame()


def width_of_the_tree(log, cutoff):
    """For each category in use how many children it has in the whole tree."""
    used = sorted(set(log.before(cutoff).item_property("categoryid")))
    parents = log.categories.set_index("category").parent
    counts = log.categories.parent.value_counts()
    return pd.DataFrame({"children": [counts.get(parents.get(name), 0) for name in used]})


def other_column(log, cutoff):
    """The mean of a further column over the whole log, for each user of the past."""
    mean = log.events.groupby("user_id").amount.mean()
    return mean.reindex(log.before(cutoff).users).to_frame()


LEAKS = {
    "a cache keyed by the name": from_a_cache,
    "read again from the source": from_the_source,
    "properties at the cutoff": properties_until,
    "events at the cutoff": events_until,
    "a later tree": width_of_the_tree,
    "a further column": other_column,
}


@pytest.mark.parametrize("share", [0.15, 0.4, 0.7])
@pytest.mark.parametrize("name", sorted(LEAKS))
@pytest.mark.slow
def test_planted_leaks_are_found_at_any_cutoff(name, share, shop):
    CACHE.clear()
    amounts = np.random.default_rng(0).random(len(shop)).round(3)
    log = datasets.Dataset(
        shop.name, shop.events.assign(amount=amounts), shop.properties, shop.categories, source=shop.source
    )
    cutoff = splits.temporal(log, test=share).cutoff("test")
    assert not leakage.check(LEAKS[name], log, cutoff, name=name).passed
    leakage.check(honest_pipeline, log, cutoff).raise_if_leaky()


def encoded_with_its_own_label(log, cutoff, requests):
    """The mean label of the request's item over the whole log: a target encoding that holds the label it is to tell."""
    bought = log.events.assign(bought=log.events.event == "transaction").groupby("user_id").bought.mean()
    return bought.reindex(requests.user_id).to_frame()


def encoded_before(log, cutoff, requests):
    """The same from events before each request."""
    out = []
    for user, at in zip(requests.user_id, requests["at"], strict=True):
        mine = log.events[(log.events.user_id == user).to_numpy() & (log.moments < at)]
        out.append((mine.event == "transaction").mean() if len(mine) else -1.0)
    return np.array(out)


def lists_after(late):
    def pipeline(log, cutoff, requests):
        model = Revisits().fit(log.before(cutoff))
        return model.rank(leakage.request_histories(log, requests, late), 10, "none")

    return pipeline


@pytest.mark.parametrize("share", [0.15, 0.5])
@pytest.mark.slow
def test_requests_are_checked_one_by_one(share, shop):
    split = splits.temporal(shop, test=share)
    cases = splits.make_cases(split, "next_item")
    warm = np.flatnonzero(cases.history > 1)
    bought = warm[cases.events[warm] == shop.event_names.index("transaction")][:40]
    requests = pd.DataFrame({"user_id": cases.user_ids, "at": cases.at}).iloc[np.r_[warm[:40], bought]]
    for honest in (lists_after(0), encoded_before):
        leakage.check_requests(honest, shop, split.cutoff("test"), requests, sample=6).raise_if_leaky()
    for leaky in (lists_after(1), encoded_with_its_own_label):
        report = leakage.check_requests(leaky, shop, split.cutoff("test"), requests, sample=6)
        assert not report.passed
        assert not report.rows.query("future == 'intact'").differing.any()
    with pytest.raises(ValueError, match="requests must be rows of user_id and at"):
        leakage.check_requests(encoded_before, shop, split.cutoff("test"), requests[["user_id"]])


def test_who_is_ranked_is_declared(shop):
    """Visitors of the test period, taken from outside, are no leak; drawn from the log by the pipeline they are one."""
    split = splits.make(shop)
    cutoff, visitors = split.cutoff("test"), split.test.users[:60]

    def declared(log, cutoff, ranked):
        return ItemKNN().fit(log.before(cutoff)).recommend(ranked, k=10)

    def guessed(log, cutoff):
        return ItemKNN().fit(log.before(cutoff)).recommend(log.between(cutoff).users[:60], k=10)

    leakage.check(declared, shop, cutoff, ranked=visitors).raise_if_leaky()
    assert not leakage.check(guessed, shop, cutoff).passed
