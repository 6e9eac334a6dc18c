"""The category tree and values as of a time, against brute force and pandas."""

import numpy as np
import pandas as pd
import pytest
from helpers import random_log, real_data
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_lab import catalogue, datasets, histories
from recsys_lab.catalogue import AsOf, Tree
from recsys_lab.files import DataError


def frame_of(parent):
    return pd.DataFrame(
        {"category": [f"c{i}" for i in range(len(parent))], "parent": [None if p < 0 else f"c{p}" for p in parent]}
    )


forests = st.lists(st.integers(0, 10**6), min_size=1, max_size=40).map(
    lambda draws: [-1 if d % 4 == 0 or not i else d % i for i, d in enumerate(draws)]
)


@given(forests, st.randoms(use_true_random=False))
def test_a_tree_agrees_with_walking_it(parent, shuffler):
    order = list(range(len(parent)))
    shuffler.shuffle(order)
    tree = Tree.of(frame_of(parent).iloc[order])
    code = {name: c for c, name in enumerate(tree.names)}

    def up(i):
        return [i, *up(parent[i])] if parent[i] >= 0 else [i]

    for i in range(len(parent)):
        way, c = up(i), code[f"c{i}"]
        assert tree.path(c) == [f"c{j}" for j in reversed(way)] and tree.depth[c] == len(way) - 1
        assert tree.root(np.array([c]))[0] == code[f"c{way[-1]}"]
        assert tree.ancestor(np.array([c]), 2)[0] == (code[f"c{way[2]}"] if len(way) > 2 else -1)
        kin = {f"c{j}" for j in range(len(parent)) if parent[j] == parent[i] >= 0 and j != i}
        assert set(tree.names[tree.siblings([c])[0]]) == kin
        assert set(tree.names[tree.children([c])[0]]) == {f"c{j}" for j, p in enumerate(parent) if p == i}
        assert tree.sizes()[c] == sum(i in up(j) for j in range(len(parent)))


def test_rows_tell_whose_siblings_they_are():
    tree = Tree.of(frame_of([-1, 0, 0, 0, 1]))
    found, rows = tree.siblings(tree.codes(["c1", "c0", "nowhere", "c4", "c2"]))
    assert found.tolist() == [2, 3, 1, 3] and rows.tolist() == [0, 0, 4, 4]


@pytest.mark.parametrize(
    "parent, told",
    [([0], "c0 -> c0"), ([1, 0], "-> "), ([-1, 2, 3, 1, 1], "is a cycle"), ([-1, 0, 1, 4, 3], "is a cycle")],
)
def test_cycles_are_refused_by_name(parent, told):
    with pytest.raises(DataError, match="category tree") as error:
        Tree.of(frame_of(parent))
    assert told in str(error.value) and "must not contain one" in str(error.value)


def test_two_parents_and_orphans():
    with pytest.raises(DataError, match="'b' has 2 parents"):
        Tree.of(pd.DataFrame({"category": ["a", "b", "b"], "parent": [None, "a", None]}))
    tree = Tree.of(pd.DataFrame({"category": ["a", "b", "b"], "parent": [None, "gone", "gone"]}))
    assert tree.orphans == ["b"] and tree.parent.tolist() == [-1, -1]


def test_the_published_tree():
    tree = Tree.of(real_data("retailrocket-sample").categories)
    assert (len(tree), (tree.parent < 0).sum(), tree.orphans) == (1669, 25, [])
    assert tree.sizes()[tree.parent < 0].sum() == 1669 and tree.depth.max() == 5
    assert (tree.depth[tree.root(np.arange(len(tree)))] == 0).all()


def property_log(seed, rows=300, items=20, values=5):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "item_id": rng.integers(0, items, rows) * 3,
            "property": "colour",
            "value": rng.integers(0, values, rows).astype(str),
            "timestamp": pd.to_datetime(rng.integers(1_000, 2_000, rows), unit="ms", utc=True),
        }
    )


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
@pytest.mark.slow
def test_as_of_is_the_last_value_before(seed):
    """Strictly before; at equal times the row that comes last in the log counts, as in `item_property`."""
    rows, rng = property_log(seed), np.random.default_rng(seed + 1)
    asked, at = rng.integers(-2, 65, 200), rng.integers(900, 2100, 200)
    found = AsOf(rows, "colour").lookup(asked, at)
    ms = rows.timestamp.dt.tz_localize(None).to_numpy().astype("datetime64[ms]").astype(int)
    for item, moment, value in zip(asked, at, found, strict=True):
        mine = rows[(rows.item_id == item) & (ms < moment)].sort_values("timestamp", kind="stable")
        assert value == (mine.value.iloc[-1] if len(mine) else None)


def test_as_of_agrees_with_merge_asof():
    rows = property_log(7, rows=5000, items=300).drop_duplicates(["item_id", "timestamp"])
    rng = np.random.default_rng(1)
    asked = pd.DataFrame({"item_id": rng.integers(0, 900, 20_000), "ms": np.sort(rng.integers(900, 2100, 20_000))})
    asked["timestamp"] = pd.to_datetime(asked.ms, unit="ms", utc=True)
    rows = rows.astype({"timestamp": asked.timestamp.dtype}).sort_values("timestamp")
    joined = pd.merge_asof(asked, rows, on="timestamp", by="item_id", allow_exact_matches=False)
    found = AsOf(rows, "colour").lookup(asked.item_id, asked.ms)
    assert pd.Series(found).fillna("?").tolist() == joined.value.fillna("?").tolist()


def test_as_of_agrees_with_the_dataset(shop):
    for share in (0.2, 0.7):
        at = int(np.quantile(shop.moments, share))
        known = shop.before(at).item_property("categoryid")
        codes = AsOf(shop.properties, "categoryid").lookup(known.index, at)
        assert codes.tolist() == known.tolist()


def test_text_ids_and_a_single_row():
    rows = pd.DataFrame(
        {"item_id": ["tea"], "property": ["p"], "value": ["x"], "timestamp": pd.to_datetime([5], unit="ms", utc=True)}
    )
    asof = AsOf(rows, "p")
    assert asof.lookup(["tea", "cup", "tea"], [6, 6, 5]).tolist() == ["x", None, None]
    assert asof.codes(["tea"], histories.FOREVER).tolist() == [0] and asof.codes(
        ["tea"], -histories.FOREVER
    ).tolist() == [-1]


def described_log():
    """Two items, one of which moves to another category half-way; each bought once on either side."""
    stamps = pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-04"], utc=True)
    events = pd.DataFrame(
        {"user_id": [1, 1, 2, 2], "item_id": 7, "event": ["view", "transaction"] * 2, "timestamp": stamps}
    )
    properties = pd.DataFrame(
        {
            "item_id": [7, 7, 8, 7],
            "property": ["categoryid", "categoryid", "categoryid", "price"],
            "value": ["a1", "b1", "b1", "n12.500"],
            "timestamp": pd.to_datetime(
                ["2023-12-01", "2024-01-02T12:00", "2023-12-01", "2023-12-01"], utc=True, format="ISO8601"
            ),
        }
    )
    categories = pd.DataFrame({"category": ["a", "a1", "b", "b1"], "parent": [None, "a", None, "b"]})
    return datasets.Dataset("described", events, properties, categories)


def test_sales_count_for_the_category_of_the_moment():
    log = described_log()
    tree = Tree.of(log.categories)
    sales = catalogue.category_sales(log, tree, prior=10)
    assert sales.events.to_dict() == {"a": 2, "b": 2} and sales.bought.to_dict() == {"a": 1, "b": 1}
    assert sales.conversion.tolist() == [1.0, 1.0]
    assert catalogue.category_sales(log, tree, "own").index.tolist() == ["a1", "b1"]


def test_coverage_churn_prices_and_descriptions():
    log = described_log()
    covered = catalogue.coverage(log)
    assert covered.loc["categoryid", ["rows", "items", "of the catalogue"]].tolist() == [3, 2, 1.0]
    assert covered.loc["price", "of the catalogue"] == 0.5 and covered.loc["categoryid", "changes an item"] == 0.5
    assert catalogue.churn(log)[["first", "changed", "same"]].sum().tolist() == [3, 1, 0]
    assert catalogue.prices(log)[["item_id", "price"]].to_numpy().tolist() == [[7, 12.5]]
    table = catalogue.describe_items(log, [7, 9], datasets.to_moment("2024-01-02", True))
    assert table.category.fillna("?").tolist() == ["a / a1", "?"] and table.price.tolist()[0] == 12.5


def test_price_changes_are_ratios_to_the_price_before(shop):
    priced = catalogue.prices(shop)
    changes = priced.ratio.dropna()
    assert set(changes.round(1)) <= {0.8, 0.9, 1.1, 1.2, 1.3} and len(priced) - len(changes) == priced.item_id.nunique()


def test_availability_follows_launches_and_withdrawals(shop):
    from recsys_lab.simulator import DAY_MS, START_MS, Truth

    items = Truth.load(shop.source).items
    days = np.array([10, 70, 130])
    table = catalogue.availability(shop, START_MS + days * DAY_MS + 1)
    for day, row in zip(days, table.itertuples(), strict=True):
        assert row.available == ((items.launch <= day) & (items.gone > day)).sum()
        assert row.unknown == (items.launch > day).sum()


def test_what_is_not_there_is_named():
    with pytest.raises(ValueError, match="no item has the property 'categoryid'"):
        AsOf(None, "categoryid")
    assert not len(catalogue.coverage(random_log(0))) and not len(catalogue.prices(random_log(0)))
