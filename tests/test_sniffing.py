"""What is in a file that nobody has described: each layout is recognised, and what fits two readings is a question."""

import json

import pytest

from recsys_lab.files import DataError
from recsys_lab.importing import propose
from recsys_lab.readers.tables import Table
from recsys_lab.sniffing import Question, layouts, look_at, role_of, sniff_encoding, sniff_separator, sniff_time

SAMPLES = {  # a few rows of our own in each layout: (file, rows)
    "retailrocket": (
        "events.csv",
        "timestamp,visitorid,event,itemid,transactionid\n1433221332117,257597,view,355908,\n1433224214164,992329,addtocart,248676,\n",
    ),
    "movielens-100k": ("u.data", "196\t242\t3\t881250949\n186\t302\t4\t891717742\n"),
    "movielens-1m": ("ratings.dat", "1::1193::5::978300760\n1::661::3::978302109\n"),
    "movielens-csv": ("ratings.csv", "userId,movieId,rating,timestamp\n1,1,4.0,964982703\n1,3,4.5,964981247\n"),
    "amazon-2014-ratings": (
        "ratings_Beauty.csv",
        "A39HTATAQ9V7YF,0205616461,5.0,1369699200\nA3JM6GV9MNOF9X,B0058UI9AG,3.0,1355443200\n",
    ),
    "amazon-2018-ratings": (
        "Beauty.csv",
        "0205616461,A39HTATAQ9V7YF,5.0,1369699200\nB0058UI9AG,A3JM6GV9MNOF9X,3.0,1355443200\n",
    ),
    "amazon-2018-reviews": (
        "Beauty_5.json",
        '{"reviewerID": "A1", "asin": "B1", "overall": 5.0, "unixReviewTime": 1369699200, "reviewText": "a, b"}\n' * 2,
    ),
    "amazon-2023-ratings": (
        "Beauty.csv",
        "user_id,parent_asin,rating,timestamp\nAGKH,B01CUPMQZE,5.0,1588687728923\nAGKI,B01CUPMQZF,4.0,1588687728924\n",
    ),
    "amazon-2023-reviews": (
        "Beauty.jsonl",
        '{"rating": 5.0, "title": "x", "asin": "B1", "parent_asin": "B0", "user_id": "AG", "timestamp": 1588687728923, "verified_purchase": true}\n',  # noqa: E501
    ),
    "rees46": (
        "2019-Oct.csv",
        "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"
        "2019-10-01 00:00:00 UTC,view,44600062,2103807459595387724,,shiseido,35.79,541312140,72d76fde\n"
        "2019-10-01 00:00:01 UTC,remove_from_cart,3900821,2053013552326770905,appliances.environment.water_heater,aqua,33.20,554748717,9333dfbd\n",  # noqa: E501
    ),
    "taobao": ("UserBehavior.csv", "1,2268318,2520377,pv,1511544070\n1,2333346,2520771,fav,1511561733\n"),
    "yoochoose-clicks": (
        "yoochoose-clicks.dat",
        "1,2014-04-07T10:51:09.277Z,214536502,0\n1,2014-04-07T10:54:09.868Z,214536500,S\n",
    ),
    "yoochoose-buys": (
        "yoochoose-buys.dat",
        "420374,2014-04-06T18:44:58.314Z,214537888,12462,1\n420374,2014-04-06T18:44:58.325Z,214537850,10471,1\n",
    ),
    "diginetica-views": (
        "train-item-views.csv",
        "sessionId;userId;itemId;timeframe;eventdate\n1;NA;81766;526309;2016-05-09\n1;NA;31331;1031018;2016-05-09\n",
    ),
    "diginetica-purchases": (
        "train-purchases.csv",
        "sessionId;userId;timeframe;eventdate;ordernumber;itemId\n150;18278;17100868;2016-05-06;16421;25911\n",
    ),
    "hm": (
        "transactions_train.csv",
        "t_dat,customer_id,article_id,price,sales_channel_id\n2018-09-20,000058a1,0663713001,0.0508,2\n2018-09-20,000058a1,0541518023,0.0304,2\n",
    ),
    "instacart": ("instacart.csv", "user_id,order_number,product_id,add_to_cart_order\n1,1,196,1\n1,1,14084,2\n"),
    "online-retail": (
        "OnlineRetail.csv",
        "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n536365,85123A,WHITE HOLDER,6,12/1/2010 8:26,2.55,17850,UK\n"  # noqa: E501
        "C536379,D,Discount,-1,12/13/2010 9:41,27.5,14527.0,UK\n",
    ),
    "online-retail-2": (
        "online_retail_II.csv",
        "Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID,Country\n489434,85048,LIGHTS,12,2009-12-01 07:45:00,6.95,13085.0,UK\n",  # noqa: E501
    ),
    "lastfm-360k": (
        "usersha1-artmbid-artname-plays.tsv",
        f'{"0a" * 20}\t3bd73256-3905-4f3a-97e2-8b341527f805\tbetty "blowtorch"\t2137\n{"0b" * 20}\t\tdie ärzte\t1099\n',
    ),
    "recbole": ("ml.inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n"),
    "lightgcn-adjacency": ("train.txt", "0 1 2 3\n1 5\n"),
    "sessions": ("sessions.txt", "1 2 1\n3 4\n"),
}


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_every_layout_is_recognised_by_its_rows(tmp_path, name):
    file, rows = SAMPLES[name]
    (tmp_path / file).write_text(rows)
    proposal = propose([tmp_path / file])
    assert proposal.layout is not None and proposal.layout.name == name
    assert proposal.layout.title


def test_every_layout_has_a_sample_here():
    assert set(layouts()) == {*SAMPLES, "instacart-products"}


def test_a_layout_that_cannot_be_read_alone_says_what_to_do(tmp_path):
    (tmp_path / "order_products__prior.csv").write_text(
        "order_id,product_id,add_to_cart_order,reordered\n2,33120,1,1\n"
    )
    with pytest.raises(DataError, match="the visitor stands in another file, orders\\.csv; join them first"):
        propose([tmp_path / "order_products__prior.csv"])


@pytest.mark.parametrize(
    ("text", "separator", "quote"),
    [
        ("a;b;c\n1;2,5;x\n2;3,5;y\n", ";", '"'),
        ("a\tb\n1\tx, y\n", "\t", '"'),
        ("1::2::3\n4::5::6\n", "::", '"'),
        ('a,b\n"x, y",2\n', ",", '"'),
        ('1\t"weird al\n2\tb\n', "\t", ""),
        ("a|b|c\n1|2|3\n", "|", '"'),
    ],
)
def test_separators(tmp_path, text, separator, quote):
    (tmp_path / "a.txt").write_text(text)
    assert sniff_separator(Table(tmp_path / "a.txt")) == (separator, quote)


def test_records_that_nothing_splits_alike_are_a_question(tmp_path):
    (tmp_path / "a.txt").write_text("one two\nthree four five\nsix\n")
    with pytest.raises(Question, match="--separator TEXT"):
        sniff_separator(Table(tmp_path / "a.txt"))


@pytest.mark.parametrize(
    ("encoding", "told"), [("utf-8", "utf-8"), ("cp1252", "cp1252"), ("utf-16", "utf-16"), ("ascii", "utf-8")]
)
def test_encodings(tmp_path, encoding, told):
    text = "who,what\n" + ("abc" if encoding == "ascii" else "jörg €") + ",1\n"
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    assert sniff_encoding(tmp_path / "a.csv") == told


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["1433193132", "1433193133"], {"time_unit": "s"}),
        (["1433193132535", "1433193133535"], {"time_unit": "ms"}),
        (["1433193132.5", "1433193133"], {"time_unit": "s"}),
        (["2024-01-02", "2024-01-03 10:00"], {}),
        (["2019-10-01 00:00:00 UTC"] * 2, {}),
        (["20240131", "20240201"], {}),
        (["13.01.2023 10:00", "14.01.2023 9:05"], {"time_format": "%d.%m.%Y %H:%M"}),
        (["1/13/2010 8:26", "1/2/2010 8:26"], {"time_format": "%m/%d/%Y %H:%M"}),
        (["13/1/2010 8:26", "1/2/2010 8:26"], {"time_format": "%d/%m/%Y %H:%M"}),
        (["01/13/2010 08:26:01 PM"] * 2, {"time_format": "%m/%d/%Y %I:%M:%S %p"}),
        (["Wed Oct 10 20:19:24 +0000 2018"] * 2, {"time_format": "%a %b %d %H:%M:%S %z %Y"}),
        (["09 13, 2009", "10 01, 2009"], {"time_format": "%m %d, %Y"}),
    ],
)
def test_ways_of_writing_times(tmp_path, values, words):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"who": "a", "what": 1, "when": v}) + "\n" for v in values))
    assert sniff_time(look_at([tmp_path / "a.jsonl"], {}, tmp_path), "when") == words


def test_dates_that_fit_two_ways_are_a_question_only_while_the_whole_file_does(tmp_path):
    rows = ["01/02/2024"] * 30_000
    path = tmp_path / "a.csv"
    path.write_text("who,what,when\n" + "".join(f"a,1,{v}\n" for v in rows))
    with pytest.raises(
        Question, match=r"(?s)can be read in 2 ways.*--time-format '%m/%d/%Y'.*--time-format '%d/%m/%Y'"
    ):
        sniff_time(look_at([path], {}, tmp_path), "when")
    path.write_text(path.read_text() + "a,1,25/02/2024\n")  # far behind the rows that are looked at first
    assert sniff_time(look_at([path], {}, tmp_path), "when") == {"time_format": "%d/%m/%Y"}


def test_names_of_columns():
    known = {
        "visitorid": "user_id",
        "Customer ID": "user_id",
        "product_id": "item_id",
        "t_dat": "timestamp",
        "item_id:token": "item_id",
        "colour": None,
    }
    assert {name: role_of(name) for name in known} == known
