"""The product database: files people have, crashes half-way, and both databases.

SQLite always; PostgreSQL where RECSYS_LAB_POSTGRES names an empty one (`make test-postgres` starts it).
"""

import csv
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa
from helpers import T0, item, real_data, review, write_json_lines

from recsys_lab import loading, products, splits
from recsys_lab.evaluation import evaluate
from recsys_lab.files import DataError
from recsys_lab.models.popularity import Popularity
from recsys_lab.products import PRODUCTS, RATINGS, connect
from recsys_lab.readers import amazon, reviews

POSTGRES = os.environ.get("RECSYS_LAB_POSTGRES", "")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/db/products.db"
    if not POSTGRES:
        pytest.skip("RECSYS_LAB_POSTGRES names no database")
    engine = connect(POSTGRES)
    products.METADATA.drop_all(engine)
    engine.dispose()
    return POSTGRES


def table(url, which):
    engine = connect(url)
    with engine.connect() as c:
        frame = pd.read_sql(sa.select(which).order_by(*which.primary_key.columns), c)
    engine.dispose()
    return frame


def test_a_load_holds_what_the_files_hold(url, tmp_path):
    meta = write_json_lines(tmp_path / "meta.json.gz", [item("b", price="$2.50"), item("a", brand="Ink &amp; Co")])
    reviews = write_json_lines(
        tmp_path / "r.json", [review("u1", "a"), review("u2", "a", 1.0), review("u1", "b", 4.0, T0 + 9)]
    )
    done = products.load_products(url, reviews, meta)
    assert done.counts == {"products": 2, "products known from reviews only": 0, "reviews": 3, "ratings": 3}
    assert done.side_file is None and not done.rejected
    assert table(url, PRODUCTS)[["product_id", "brand", "price"]].astype(object).where(
        lambda f: f.notna(), None
    ).values.tolist() == [
        ["a", "Ink & Co", None],
        ["b", "", 2.5],
    ]
    assert table(url, RATINGS)[["user_id", "product_id", "rating", "rated_at"]].values.tolist() == [
        ["u1", "a", 5.0, T0 * 1000],
        ["u1", "b", 4.0, (T0 + 9) * 1000],
        ["u2", "a", 1.0, T0 * 1000],
    ]
    assert products.database_counts(url) == {
        "n_ratings": 3,
        "n_users": 2,
        "n_products": 2,
        "avg_rating": pytest.approx(10 / 3, abs=1e-4),
    }


def test_loading_again_changes_nothing(url, tmp_path):
    meta = write_json_lines(tmp_path / "meta.json", [item("a"), item("a", title="Later")])
    reviews = write_json_lines(tmp_path / "r.json", [review("u", "a", 2.0), review("u", "a", 5.0, T0 + 1), "{"])
    first = products.load_products(url, reviews, meta)
    before = table(url, PRODUCTS), table(url, RATINGS)
    assert products.load_products(url, reviews, meta) == first
    assert all(x.equals(y) for x, y in zip(before, (table(url, PRODUCTS), table(url, RATINGS)), strict=True))
    assert before[0].title.tolist() == ["Later"]  # of several lines of a product the last


def test_updating_a_product_keeps_its_ratings(url, tmp_path):
    """INSERT OR REPLACE would delete the row first, and its ratings with it."""
    products.load_products(
        url,
        write_json_lines(tmp_path / "r.json", [review("u", "a")]),
        write_json_lines(tmp_path / "m.json", [item("a")]),
    )
    products.load_products(url, None, write_json_lines(tmp_path / "m2.json", [item("a", title="New", price=3)]))
    assert table(url, PRODUCTS)[["title", "price"]].values.tolist() == [["New", 3.0]]
    assert len(table(url, RATINGS)) == 1


def test_ratings_need_their_product(url, tmp_path):
    products.load_products(url, write_json_lines(tmp_path / "r.json", [review("u", "a")]), None)
    assert table(url, PRODUCTS)[["product_id", "title"]].values.tolist() == [["a", "a"]]  # known from a review only
    engine = connect(url)
    row = {"user_id": "u", "product_id": "nowhere", "rating": 3, "place": 1, "reviews": 1}
    for wrong in (row, {**row, "product_id": "a"}, {**row, "user_id": "v", "product_id": "a", "rating": 9}):
        with pytest.raises(sa.exc.IntegrityError), engine.begin() as c:
            c.execute(RATINGS.insert(), wrong)
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as c:
        c.execute(PRODUCTS.delete())
    engine.dispose()


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_of_several_reviews_of_a_pair_the_latest_counts(url, tmp_path, batch):
    """Within a batch, across batches, across loads; of equally late ones the one further down."""
    rows = [review("u", "a", s, at) for s, at in ((1, T0 + 5), (2, T0 + 7), (3, T0 + 7), (4, T0), (5, T0 + 6))]
    products.load_products(url, write_json_lines(tmp_path / "r.json", rows), None, batch=batch)
    assert table(url, RATINGS)[["rating", "reviews", "place"]].values.tolist() == [[3.0, 5, 3]]
    products.load_products(url, write_json_lines(tmp_path / "older.json", [review("u", "a", 1, T0 + 6)]), None)
    assert table(url, RATINGS).rating.tolist() == [3.0]
    products.load_products(url, write_json_lines(tmp_path / "newer.json", [review("u", "a", 1, T0 + 8)]), None)
    assert table(url, RATINGS).rating.tolist() == [1.0]


class Crash(Exception):
    pass


@pytest.mark.parametrize("where", ["reading", "publishing"])
def test_a_crash_leaves_the_last_complete_state_and_the_next_attempt_goes_on(url, tmp_path, monkeypatch, where):
    products.load_products(
        url,
        write_json_lines(tmp_path / "r0.json", [review("u", "a")]),
        write_json_lines(tmp_path / "m0.json", [item("a")]),
    )
    before = table(url, PRODUCTS), table(url, RATINGS)
    rows = [review(f"u{n}", f"p{n % 7}", 1 + n % 5, T0 + n) for n in range(50)]
    rows[30] = "not JSON"
    files = (
        write_json_lines(tmp_path / "r.json.gz", rows),
        write_json_lines(tmp_path / "m.json", [item(f"p{n}") for n in range(7)]),
    )
    with monkeypatch.context() as patch:
        if where == "reading":
            real, seen = amazon.rating_of, []

            def fails(*told):
                seen.append(1)
                if len(seen) == 38:
                    raise Crash
                return real(*told)

            patch.setattr(products, "rating_of", fails)
        else:
            calls, forget = [], products.forget_load
            # once to begin anew, and once when all is public but not yet committed
            patch.setattr(
                products, "forget_load", lambda c: calls.append(1) or (forget(c) if len(calls) == 1 else 1 / 0)
            )
        with pytest.raises((Crash, ZeroDivisionError)):
            products.load_products(url, *files, batch=10)
    assert all(x.equals(y) for x, y in zip(before, (table(url, PRODUCTS), table(url, RATINGS)), strict=True))
    again, real = [], amazon.rating_of
    monkeypatch.setattr(products, "rating_of", lambda *told: again.append(1) or real(*told))
    done = products.load_products(url, *files, batch=10)
    assert len(again) == {"reading": 19, "publishing": 0}[where]  # the batches that were committed are not read again
    assert done.counts["reviews"] == 49 and done.rejected == {"r.json.gz: the line is not JSON": 1}
    monkeypatch.undo()
    fresh = f"sqlite:///{tmp_path}/fresh.db"
    products.load_products(fresh, tmp_path / "r0.json", tmp_path / "m0.json")
    products.load_products(fresh, *files)
    for which in (PRODUCTS, RATINGS):  # as if nothing had happened
        pd.testing.assert_frame_equal(table(url, which), table(fresh, which), check_dtype=False)


def test_a_load_of_other_files_begins_anew(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/p.db"
    monkeypatch.setattr(products, "publish", lambda engine: (_ for _ in ()).throw(Crash()))
    with pytest.raises(Crash):
        products.load_products(url, write_json_lines(tmp_path / "wrong.json", [review("x", "y")]), None)
    monkeypatch.undo()
    products.load_products(url, write_json_lines(tmp_path / "right.json", [review("u", "a")]), None)
    assert table(url, RATINGS).user_id.tolist() == ["u"]


def test_a_killed_process_leaves_a_whole_database(tmp_path):
    """The process itself is gone, in the middle of reading."""
    url = f"sqlite:///{tmp_path}/p.db"
    products.load_products(url, write_json_lines(tmp_path / "r0.json", [review("u", "a")]), None)
    files = write_json_lines(tmp_path / "r.json", [review(f"u{n}", "b", 1 + n % 5, T0 + n) for n in range(500)])
    code = f"""
import os
from recsys_lab import products
real, seen = products.rating_of, []
def dies(*told):
    seen.append(1)
    if len(seen) == 333:
        os._exit(9)
    return real(*told)
products.rating_of = dies
products.load_products({url!r}, {str(files)!r}, None, batch=50)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert table(url, RATINGS).user_id.tolist() == ["u"]
    assert products.load_products(url, files, None, batch=50).counts["ratings"] == 500
    assert len(table(url, RATINGS)) == 501


BAD = [
    ('{"reviewerID": "u"', "the line is not JSON"),
    ("[1, 2]", "the line is no JSON object"),
    ("[" * 100_000, "the line is not JSON"),
    (review("", "a"), "reviewerID is missing or is no id"),
    (review("u", None), "asin is missing or is no id"),
    (review("u", ["a"]), "asin is missing or is no id"),
    (review("u\u0000", "a"), "reviewerID is missing or is no id"),
    (review("u", "x" * 201), "asin is missing or is no id"),
    (review("u", "a", 0), "overall is not a number of stars from 1 to 5"),
    (review("u", "a", "five"), "overall is not a number of stars from 1 to 5"),
    (review("u", "a", True), "overall is not a number of stars from 1 to 5"),
    (review("u", "a", float("nan")), "overall is not a number of stars from 1 to 5"),
    (review("u", "a", 5, 99), "unixReviewTime is no time between 1990 and 2100 in s"),
    (review("u", "a", 5, T0 * 1000), "unixReviewTime is no time between 1990 and 2100 in s"),
    (review("u", "a", 5, 1e400), "unixReviewTime is no time between 1990 and 2100 in s"),
]


def test_bad_lines_are_set_aside_with_their_number_and_reason(url, tmp_path):
    rows = [x for bad, _ in BAD for x in (review(f"u{len(str(bad))}", "a"), bad, "")]
    done = products.load_products(
        url, write_json_lines(tmp_path / "r.json", rows), None, rejected=tmp_path / "side.csv", batch=4
    )
    side = list(csv.DictReader(open(tmp_path / "side.csv", encoding="utf-8")))
    assert [(int(row["line"]), row["reason"]) for row in side] == [(3 * n + 2, why) for n, (_, why) in enumerate(BAD)]
    assert sum(done.rejected.values()) == len(BAD) and done.counts["reviews"] == len(BAD)
    products.load_products(
        url, write_json_lines(tmp_path / "good.json", [review("u", "a")]), None, rejected=tmp_path / "side.csv"
    )
    assert not (tmp_path / "side.csv").exists()  # of a load without bad lines none is left


def test_files_that_hold_nothing_good_are_refused_whole(tmp_path):
    url = f"sqlite:///{tmp_path}/p.db"
    with pytest.raises(DataError, match=r"r\.json: there is no good line in it; .*not JSON"):
        products.load_products(url, write_json_lines(tmp_path / "r.json", ["x"]), None)
    with pytest.raises(DataError, match="it is empty"):
        products.load_products(url, write_json_lines(tmp_path / "e.json", []), None)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        products.load_products(f"sqlite:///{tmp_path}/none.db", tmp_path / "nowhere.json", None)
    assert not (tmp_path / "none.db").exists()
    whole = gzip.compress(b"".join(json.dumps(review(f"u{n}", "a")).encode() + b"\n" for n in range(2000)))
    (tmp_path / "cut.json.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.json\.gz: the compressed file is damaged or cut short"):
        products.load_products(url, tmp_path / "cut.json.gz", None, batch=10)
    assert not len(table(url, RATINGS))


def test_any_csv_by_a_mapping(url, tmp_path):
    (tmp_path / "r.csv").write_text(
        'who,what,stars,when\nann,7,5,1500000000\n"b, ob",7,3,1500000001\nx,7\neve,8,2,1500000002\n'
    )
    (tmp_path / "p.csv").write_text('sku,name,cost\n7,"Cup\nand saucer","12,50"\n8,,\n')
    columns = {"user_id": "who", "product_id": "what", "rating": "stars", "timestamp": "when"}
    done = products.load_products(
        url,
        tmp_path / "r.csv",
        tmp_path / "p.csv",
        columns,
        {"product_id": "sku", "title": "name", "price": "cost"},
        "s",
    )
    assert done.rejected == {"r.csv: it has not 4 fields": 1}
    told = table(url, PRODUCTS)
    assert told.title.tolist() == ["Cup and saucer", "8"] and told.price.tolist()[0] == 12.5 and pd.isna(told.price[1])
    assert table(url, RATINGS).user_id.tolist() == ["ann", "b, ob", "eve"]
    with pytest.raises(
        ValueError, match="columns: there is no 'stars'; there are user_id, product_id, rating, timestamp"
    ):
        products.load_products(url, tmp_path / "r.csv", None, {"stars": "stars"})
    with pytest.raises(ValueError, match="columns must say which field is product_id"):
        products.load_products(url, tmp_path / "r.csv", None, {"user_id": "who"})


def test_stars_become_events_by_the_stated_rule(url, tmp_path):
    rows = [review("u", f"p{n}", s, T0 + n) for n, s in enumerate((1, 2, 3, 4, 5))] + [review("u", "p4", 5, T0 + 9)]
    meta = [item(f"p{n}", category=["Root", f"C{n % 2}"], price=n) for n in range(5)]
    products.load_products(
        url, write_json_lines(tmp_path / "r.json", rows), write_json_lines(tmp_path / "m.json", meta)
    )
    log = reviews.to_dataset(url, "rated")
    assert log.events[["item_id", "event"]].astype(str).values.tolist() == [
        ["p2", "view"],
        ["p3", "transaction"],
        ["p4", "transaction"],
    ]
    assert log.notices["ratings below 3 stars, left out"] == 2
    assert log.notices["reviews of a pair beside its latest, left out"] == 1
    assert log.item_property("categoryid").to_dict()["p3"] == "Root > C1"
    assert log.categories.set_index("category").parent.dropna().to_dict() == {"Root > C0": "Root", "Root > C1": "Root"}
    assert {"times", "categories", "properties", "purchases"} <= log.offers
    assert len(reviews.to_dataset(url, "rated", liked=5.0, met=1.0)) == 5
    with pytest.raises(ValueError, match="met <= liked"):
        reviews.to_dataset(url, "rated", liked=2.0)


def test_the_shop_goes_in_and_comes_out(url, shop):
    counts = products.store(shop, url)
    assert counts == products.store(shop, url)
    assert counts["ratings"] == shop.matrix().matrix.nnz
    assert counts["products"] == len(shop.items.union(shop.item_property("title").index))
    told = table(url, PRODUCTS).set_index("product_id")
    last = shop.item_property("title")
    assert told.title[last.index.astype(str)].tolist() == last.tolist()
    furthest = (
        shop.events.event.astype(str).map(products.STARS).groupby([shop.events.user_id, shop.events.item_id]).max()
    )
    assert sorted(table(url, RATINGS).rating) == sorted(furthest)
    back = reviews.to_dataset(url, "shop", liked=5.0)
    assert set(zip(back.events.user_id, back.events.item_id, strict=True)) == {
        (str(u), str(i)) for u, i in furthest.index
    }
    shown = products.titles(url, [*shop.items[:3], "none"])
    assert shown.index.tolist() == [*map(str, shop.items[:3]), "none"] and shown.title.isna().tolist() == [
        False
    ] * 3 + [True]


def test_real_reviews_are_a_log_like_any_other(tmp_path):
    """Counts as the files have them, and a model judged on what comes out."""
    real_data("retailrocket-buyers")  # a skip where there are no real data
    folder = Path(os.environ["RECSYS_LAB_DATA"]) / "amazon-gift-cards"
    url = f"sqlite:///{tmp_path}/p.db"
    done = products.load_products(url, folder / "Gift_Cards_5.json.gz", folder / "meta_Gift_Cards.json.gz")
    assert done.counts == {"products": 1547, "products known from reviews only": 0, "reviews": 2972, "ratings": 2965}
    assert products.database_counts(url) | {"avg_rating": 0} == {
        "n_ratings": 2965,
        "n_users": 458,
        "n_products": 1547,
        "avg_rating": 0,
    }
    log = reviews.to_dataset(url, "amazon-gift-cards")
    assert loading.load("amazon-gift-cards").fingerprint == log.fingerprint  # the folder is a dataset like any other
    assert evaluate(Popularity(), splits.make(log), "next_item", ks=(10,)).mean("recall", 10) > 0


def test_a_reader_sees_the_old_state_while_a_load_writes(tmp_path):
    url = f"sqlite:///{tmp_path}/p.db"
    products.load_products(url, write_json_lines(tmp_path / "r0.json", [review("u", "a")]), None)
    seen, real = [], products.keep_state

    def looks(*told):
        seen.append(products.database_counts(url)["n_ratings"])
        return real(*told)

    products.keep_state = looks
    try:
        products.load_products(
            url, write_json_lines(tmp_path / "r.json", [review(f"u{n}", "a") for n in range(30)]), None, batch=10
        )
    finally:
        products.keep_state = real
    assert set(seen) == {1} and products.database_counts(url)["n_ratings"] == 31


@pytest.mark.slow
def test_the_command(tmp_path):
    write_json_lines(tmp_path / "r.json", [review("u", "a"), "x"]), write_json_lines(tmp_path / "m.json", [item("a")])
    command = [str(Path(sys.executable).with_name("recsys-lab")), "products"]

    def run(*words):
        return subprocess.run([*command, *words], capture_output=True, text=True, check=False, cwd=tmp_path)

    done = run("load", "r.json", "m.json", "--db", "sqlite:///p.db")
    assert done.returncode == 0, done.stderr
    assert (
        "set aside, r.json: the line is not JSON" in done.stdout
        and "n_ratings 1, n_users 1, n_products 1" in done.stdout
    )
    assert "n_ratings 1" in run("facts", "--db", "sqlite:///p.db").stdout
    for words, message in (
        (("load",), "say which file"),
        (("load", "r.json", "nowhere.json"), "nowhere.json"),
        (("facts", "--db", "sqlite:///typo.db"), "typo.db: there is no such database"),
        (("load", "r.json", "--columns", "user"), "--columns takes NAME=FIELD"),
        (("facts", "--db", "products.db"), "is no database URL"),
    ):
        failed = run(*words)
        assert failed.returncode == 2 and message in failed.stderr and "Traceback" not in failed.stderr
    assert not (tmp_path / "typo.db").exists()


def test_the_service_tells_the_facts_of_the_database(url, shop):
    pytest.importorskip("fastapi_offline")
    from recsys_lab.serving.service import database_facts

    products.store(shop, url)
    assert database_facts(url) == products.database_counts(url)


def test_pictures_go_along_with_a_log(url, tmp_path):
    meta = write_json_lines(
        tmp_path / "m.json", [item("a", imageURLHighRes=["https://pictures.example/a.jpg"]), item("b")]
    )
    products.load_products(
        url, write_json_lines(tmp_path / "r.json", [review("u", "a"), review("u", "b", 5.0, T0 + 1)]), meta
    )
    log = reviews.to_dataset(url, "shown")
    assert log.item_property("image_url").to_dict() == {"a": "https://pictures.example/a.jpg"}
    assert products.catalogue_rows(log)["image_url"].tolist() == ["https://pictures.example/a.jpg", ""]
