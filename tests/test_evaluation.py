"""The evaluator against a slow one written from the protocol's words, and its statistics against scipy."""

import numpy as np
import pandas as pd
import pytest
from helpers import arrived_split, random_log, untimed_sessions

from recsys_lab import evaluation, metrics, splits
from recsys_lab.datasets import Dataset
from recsys_lab.evaluation import Evaluation, evaluate
from recsys_lab.models.neighbours import ItemKNN
from recsys_lab.models.popularity import Popularity, RecentPopularity
from recsys_lab.splits import make_cases


def forbidden(past, exclude):
    """The items that a list must leave out after these events."""
    kept = past if exclude == "seen" else past[past.event == "transaction"] if exclude == "purchased" else past[:0]
    return set(kept.item_id)


def slowly(split, protocol, target, exclude):
    """(user, relevant items) of each case, in plain words of the protocol."""
    known, judged = split.known("test").events, split.judged("test")
    chosen = (judged.events.event == "transaction") | (target == "any")
    wanted, asked_at = judged.events[chosen], judged.moments[chosen]
    whole, moments = split.through("test").events, split.through("test").moments
    out = []
    if protocol == "next_item":
        for (_, row), moment in zip(wanted.iterrows(), asked_at, strict=True):
            past = whole[(whole.user_id == row.user_id) & (moments < moment)]
            if row.item_id not in forbidden(past, exclude) and (split.kind != "sequence" or len(past)):
                out.append((row.user_id, {row.item_id}))
        return out
    for user, group in wanted.groupby("user_id", observed=True):
        if relevant := set(group.item_id) - forbidden(known[known.user_id == user], exclude):
            out.append((user, relevant))
    return out


@pytest.mark.parametrize(
    "target, exclude", [("any", "none"), ("any", "seen"), ("purchase", "purchased"), ("purchase", "none")]
)
@pytest.mark.parametrize("protocol", ["next_item", "next_period"])
@pytest.mark.parametrize("text", [False, True])
def test_cases_are_what_the_protocol_says(protocol, target, exclude, text):
    split = splits.make(random_log(7, text=text))
    cases = make_cases(split, protocol, target, "test", exclude)
    found = [
        (u, set(cases.items[cases.relevant[a:b]]))
        for u, a, b in zip(cases.user_ids, cases.indptr[:-1], cases.indptr[1:], strict=True)
    ]
    assert sorted(found, key=str) == sorted(slowly(split, protocol, target, exclude), key=str)


@pytest.mark.parametrize(
    "make, protocol, exclude",
    [
        (untimed_sessions, "next_item", "none"),
        (untimed_sessions, "next_item", "seen"),
        (arrived_split, "given", "seen"),
    ],
)
def test_cases_without_times(make, protocol, exclude):
    split = splits.make(make(3), valid=0.34 if protocol == "given" else 0.05)
    cases = make_cases(split, protocol, "any", "test", exclude)
    found = [
        (u, set(cases.items[cases.relevant[a:b]]))
        for u, a, b in zip(cases.user_ids, cases.indptr[:-1], cases.indptr[1:], strict=True)
    ]
    assert sorted(found, key=str) == sorted(slowly(split, protocol, "any", exclude), key=str)


def test_the_metrics_of_a_model_are_those_of_its_lists(shop_split):
    """End to end: recommend for each user by hand, score by the formula."""
    e = evaluate(ItemKNN(), shop_split, "next_period", ks=(10,))
    known = shop_split.known("test")
    model = ItemKNN().fit(known)
    wanted = dict(slowly(shop_split, "next_period", "any", "seen"))
    for row in range(0, len(e.user_ids), 9):
        user = e.user_ids[row]
        listed = model.recommend([user], k=10, exclude="seen").frame().item_id.tolist()
        hits = len(set(listed) & wanted[user])
        assert e.values["recall", 10][row] == pytest.approx(hits / len(wanted[user]))
    assert e.summary().query("metric == 'recall'").value.item() == pytest.approx(e.values["recall", 10].mean())


def test_next_item_uses_what_was_done_just_before(shop_split):
    e = evaluate(ItemKNN(), shop_split, "next_item", ks=(10,))
    cases = make_cases(shop_split, "next_item")
    model = ItemKNN().fit(shop_split.known("test"))
    whole = shop_split.through("test")
    for row in range(0, len(cases), 97):
        listed = (
            model.rank(whole.histories([cases.user_ids[row]], at=int(cases.at[row])), 10, "none")
            .frame()
            .item_id.tolist()
        )
        assert e.values["hit_rate", 10][row] == float(cases.items[cases.relevant[row]] in listed)


def test_blocks_do_not_change_the_result(shop_split):
    whole = evaluate(ItemKNN(), shop_split, "next_item", ks=(5,), memory_mb=512)
    bits = evaluate(ItemKNN(), shop_split, "next_item", ks=(5,), memory_mb=1)
    assert (whole.codes == bits.codes).all() and whole.units == bits.units


def test_a_model_fitted_on_other_data_is_refused(shop, shop_split):
    for other in (shop, shop_split.train, shop_split.test):
        with pytest.raises(ValueError, match="fitted on other data"):
            evaluate(Popularity().fit(other), shop_split, "next_period")
    evaluate(Popularity().fit(shop_split.train), shop_split, "next_period", part="valid", ks=(5,))


def test_wrong_questions_are_refused(shop_split):
    for wrong, told in (
        ({"protocol": "given"}, "allows"),
        ({"target": "love"}, "target must be"),
        ({"exclude": "all"}, "exclude must be"),
        ({"part": "train"}, "part must be"),
    ):
        with pytest.raises(ValueError, match=told):
            evaluate(Popularity(), shop_split, **{"protocol": "next_period", **wrong})


def test_comparison_is_antisymmetric_and_paired(shop_split):
    a, b = (evaluate(m, shop_split, "next_period", ks=(10,)) for m in (ItemKNN(), Popularity()))
    one, two = a.compare(b), b.compare(a)
    assert one["difference"] == -two["difference"] and one["p"] == two["p"]
    assert one["low"] == pytest.approx(-two["high"]) and one["n_users"] == len(a.user_ids)
    same = a.compare(a)
    assert same["difference"] == 0 and same["p"] == 1 and same["low"] < 0 < same["high"] and not same["n_differing"]
    other = evaluate(Popularity(), shop_split, "next_period", part="valid", ks=(10,))
    with pytest.raises(ValueError, match="different questions"):
        a.compare(other)
    table = evaluation.compare_all(
        [a, b, evaluate(RecentPopularity(), shop_split, "next_period", ks=(10,))], "ndcg", 10
    )
    assert len(table) == 3 and (table.difference >= 0).all() and table.p_adjusted.between(0, 1).all()
    assert a.compare(b, slice="user_history=5+")["n_users"] < one["n_users"]


@pytest.mark.parametrize("protocol", ["next_item", "next_period"])
def test_slices_are_restrictions(shop_split, protocol):
    e = evaluate(Popularity(), shop_split, protocol, ks=(10,))
    cases = make_cases(shop_split, protocol)
    history = e.labels["user_history"]
    for name, (low, high) in {"0": (0, 0), "1": (1, 1), "2-4": (2, 4), "5+": (5, 10**9)}.items():
        rows = (cases.history >= low) & (cases.history <= high)
        assert (rows == (history.codes == history.names.index(name))).all()
    unseen = ~cases.items[cases.relevant].isin(shop_split.known("test").items)
    assert ((e.labels["item_popularity"].codes == 0) == unseen).all()
    bought = e.by("event", ["recall"]).query("slice == 'event=transaction'")
    label = e.labels["event"]
    rows, entries = (
        np.repeat(np.arange(len(cases)), np.diff(cases.indptr)),
        label.codes == label.names.index("transaction"),
    )
    hits = metrics.find_hits(
        e.codes,
        np.concatenate([[0], np.cumsum(np.bincount(rows[entries], minlength=len(cases)))]),
        cases.relevant[entries],
    ).sum(1)
    asked = np.bincount(rows[entries], minlength=len(cases))
    by_case = hits[asked > 0] / asked[asked > 0]
    by_user = pd.Series(by_case).groupby(cases.user_ids[asked > 0]).mean().mean()
    assert bought.value.item() == pytest.approx(by_user) and bought.per_event.item() == pytest.approx(by_case.mean())
    with pytest.raises(ValueError, match="no slices by"):
        e.by("shoe_size")


def test_an_evaluation_survives_saving(tmp_path, shop_split):
    for text in (False, True):
        split = splits.make(random_log(3, text=text))
        e = evaluate(Popularity(), split, "next_item", ks=(5, 10))
        e.save(tmp_path / "e.npz")
        back = Evaluation.load(tmp_path / "e.npz")
        assert str(back.rows()) == str(e.rows())
        assert back.compare(e)["difference"] == 0 and back.user_ids.tolist() == e.user_ids.tolist()
        assert [p.name for p in tmp_path.iterdir()] == ["e.npz"]


def test_a_question_without_cases_is_left_out_and_a_wrong_one_is_not():
    from recsys_lab import runs

    log = random_log(7)
    views = splits.make(log.where((log.events.event == "view").to_numpy()))
    with pytest.raises(splits.NoCases, match="no case for protocol next_period, target purchase"):
        make_cases(views, "next_period", "purchase")
    assert [q for q in runs.questions(splits.make(log)) if q not in runs.questions(views)] == [
        ("next_period", "purchase", "purchased")
    ]
    with pytest.raises(ValueError) as wrong:
        make_cases(views, "next_period", "purchase", "test", "everything")
    assert "exclude must be one of" in str(wrong.value) and not isinstance(wrong.value, splits.NoCases)
    for typo in ({"target": "purchases"}, {"protocol": "next-item"}):  # with an explicit exclude too
        with pytest.raises(ValueError, match="must be one of"):
            make_cases(views, **{"protocol": "next_period", "target": "any", "exclude": "none", **typo})


def bought_again():
    """Two visitors: one who bought item 1 and buys 1 and 2 in the last fifth, one who views item 3 alone."""
    rows = [(1, 1, "view"), (1, 1, "transaction"), *[(2, 3, "view")] * 20]
    rows += [(1, 1, "view"), (1, 1, "transaction"), (1, 2, "view"), (1, 2, "transaction"), (2, 3, "view")]
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "event"])
    events["timestamp"] = pd.date_range("2024-01-01", periods=len(events), freq="h", tz="UTC")
    return splits.make(Dataset("again", events), test=0.2, valid=0.1)


@pytest.mark.parametrize("protocol", ["next_item", "next_period"])
def test_what_was_bought_is_no_answer_where_purchases_are_left_out(protocol):
    def answers(exclude):
        cases = make_cases(bought_again(), protocol, "purchase", "test", exclude)
        return sorted(cases.items[cases.relevant].tolist())

    assert answers("none") == [1, 2]
    assert answers("purchased") == [2]


@pytest.mark.parametrize("exclude", ["none", "seen", "purchased"])
def test_looking_back_is_the_same_in_blocks_of_any_size(shop_split, exclude):
    cases = make_cases(shop_split, "next_item", "any", "test", exclude)
    whole = splits.look_back(cases, len(cases))
    for block in (1 + len(cases) // 7, 300):
        bits = splits.look_back(cases, block)
        assert all((a == b).all() for a, b in zip(whole, bits, strict=True))
    assert (whole[0] == cases.history).all() and not whole[
        1
    ].any()  # an excluded item is not in the questions that are left


def test_age_of_items_in_slices():
    """Known answers: an item is as old as the time since its first event, and new where it has none before the request."""
    day = pd.Timestamp("2024-01-01", tz="UTC")
    first = {1: 0, 2: 50, 3: 58}  # day of each item's first event
    rows = [(i, i, day + pd.Timedelta(days=d)) for i, d in first.items()] + [(1, 9, day)] * 30
    rows += [(5, item, day + pd.Timedelta(days=60, minutes=n)) for n, item in enumerate((1, 2, 3, 4))]
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).assign(event="view")
    split = splits.make(Dataset("ages", events), test=4 / len(rows), valid=0.05)
    cases = make_cases(split, "next_item")
    label = evaluation.make_labels(cases, evaluation.known_items(cases, split.known("test")))["item_age"]
    told = dict(zip(cases.items[cases.relevant].tolist(), (label.names[c] for c in label.codes), strict=True))
    assert told == {1: "over 30 days", 2: "7-30 days", 3: "under 7 days", 4: "new"}


def test_coverage_and_novelty_of_lists(shop_split):
    e = evaluate(ItemKNN(), shop_split, "next_period", ks=(3, 10))
    known = shop_split.known("test")
    users = known.events.groupby("item_id", observed=True).user_id.nunique()
    bits = -np.log2(users / known.events.user_id.nunique())
    items = make_cases(shop_split, "next_period").items
    for k in (3, 10):
        shown = e.codes[:, :k]
        table = e.summary().query("k == @k").set_index("metric").value
        assert table["coverage"] == pytest.approx(len(set(shown[shown >= 0].tolist())) / known.events.item_id.nunique())
        by_hand = [np.mean([bits[items[c]] for c in row if c >= 0]) for row in shown if (row >= 0).any()]
        assert table["novelty"] == pytest.approx(np.mean(by_hand))


def test_a_visitor_with_one_event_is_warm(shop_split):
    cases = make_cases(shop_split, "next_item")
    labels = evaluation.make_labels(cases, evaluation.known_items(cases, shop_split.known("test")))
    kinds = np.asarray(labels["user_type"].names)[labels["user_type"].codes]
    length = np.asarray(labels["user_history"].names)[labels["user_history"].codes]
    bins = np.select([cases.history == 0, cases.history == 1, cases.history < 5], ["0", "1", "2-4"], "5+")
    assert set(cases.history.tolist()) >= {0, 1, 2, 4, 5}
    assert (kinds == np.where(cases.history == 0, "cold", "warm")).all() and (length == bins).all()


def test_taste_of_lists_by_hand():
    """Two visitors, three categories, prices: every measure computed by hand."""
    from recsys_lab.evaluation import taste_measures

    days = pd.to_datetime(["2024-01-01"] * 4 + ["2024-01-09"] * 2, utc=True) + pd.to_timedelta(range(6), unit="min")
    frame = pd.DataFrame(
        {"user_id": [1, 1, 2, 3, 1, 3], "item_id": [10, 11, 12, 10, 11, 12], "event": "view", "timestamp": days}
    )
    facts = [(10, "a", 1.0), (11, "b", 2.0), (12, "c", 4.0)]
    rows = [(i, n, v) for i, c, p in facts for n, v in (("categoryid", c), ("price", f"n{p}"))]
    properties = pd.DataFrame(rows, columns=["item_id", "property", "value"]).assign(
        timestamp=pd.Timestamp("2023-01-01", tz="UTC")
    )
    log = Dataset("two", frame, properties)
    split = splits.window(log, pd.Timestamp("2024-01-08"))
    cases = splits.make_cases(split, "next_item", exclude="none")
    assert cases.items.tolist() == [10, 11, 12] and cases.user_ids.tolist() == [1, 3]
    values, whole = taste_measures(np.array([[0, 1], [2, -1]]), cases, split.known("test"), 2)
    assert values["miscalibration"] == pytest.approx([0, np.log(100)])
    users = np.log2(1 + np.array([2, 1, 1]))
    assert values["popularity_lift"] == pytest.approx([0, users[2] - users[0]])
    assert values["price_lift"] == pytest.approx([0, np.log(4)])
    assert values["unfamiliar_share"] == pytest.approx([0, 1])
    assert whole["category_coverage"] == 1
