"""Importing: the right proposal or a clear question, and nothing written where a log cannot be read."""

import inspect
import tomllib

import numpy as np
import pandas as pd
import pytest
from helpers import real_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_lab import loading, splits
from recsys_lab.cli import main
from recsys_lab.commands.data import import_files
from recsys_lab.files import DataError
from recsys_lab.importing import import_command, import_log, propose, toml_text
from recsys_lab.readers.logs import LogOptions, find_files
from recsys_lab.sniffing import Question, map_kinds


def write(folder, text, name="log.csv"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


LAYOUTS = {  # events, users and items that the files of each layout hold, and how many notices tell of what was left out
    "amazon-2023": (906, 40, 60),
    "amazon-ratings": (906, 40, 60),
    "diginetica": (1500, 40, 60),
    "german": (1500, 40, 60),
    "hm": (1500, 40, 60),
    "instacart": (1500, 40, 60),
    "jsonl": (1500, 40, 60),
    "lastfm": (1500, 40, 60),
    "ml-ratings": (906, 40, 60),
    "ml-udata": (906, 40, 60),
    "online-retail": (1440, 40, 64),
    "parquet-folder": (1500, 40, 60),
    "parquet-tz": (1500, 40, 60),
    "recbole-inter": (906, 40, 60),
    "rees46": (1500, 40, 60),
    "taobao": (1496, 40, 60),
    "yoochoose": (1500, 40, 60),
}


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_every_shared_layout_is_imported_without_an_option(tmp_path, name):
    folder = real_folder("layouts") / name
    files = find_files(folder)
    proposal = propose([folder / "log"] if name == "parquet-folder" else files)
    log = import_log("mine", proposal, tmp_path)
    assert (len(log), len(log.users), len(log.items)) == LAYOUTS[name]
    assert len(log) + sum(n for t, n in log.notices.items() if "left out" in t or "set aside" in t) == 1500
    assert loading.read_folder(tmp_path / "mine", "mine").fingerprint == log.fingerprint


def test_files_that_no_layout_knows(tmp_path):
    """Other names, another order of columns, another dialect: the right proposal."""
    path = write(
        tmp_path,
        "price|Order_Date|qty|SKU|colour|Client ID|session\n4,99|13.05.2024 10:00:00|1|00012|red|17850.0|s1\n5,00|14.05.2024 11:00:00|2|00013|blue||s2\n",  # noqa: E501
    )
    proposal = propose([path])
    assert proposal.words["columns"] == {
        "price": "price",
        "timestamp": "Order_Date",
        "quantity": "qty",
        "item_id": "SKU",
        "user_id": "Client ID",
        "session_id": "session",
    }
    assert {k: proposal.words[k] for k in ("separator", "time_format", "decimal", "missing_ids")} == {
        "separator": "|",
        "time_format": "%d.%m.%Y %H:%M:%S",
        "decimal": ",",
        "missing_ids": "drop",
    }
    log = import_log("mine", proposal, tmp_path / "data")
    assert log.events.item_id.tolist() == ["00012"] and log.users.tolist() == [17850]
    assert log.item_property("price").to_dict() == {"00012": "n4.990"}


def test_files_without_a_name_that_says_anything_are_a_question(tmp_path):
    path = write(tmp_path, "alpha,beta,gamma\n7,tea,1700000000\n8,hat,1700000001\n")
    with pytest.raises(Question) as question:
        propose([path])
    assert "--columns user_id=alpha   # as '7'" in str(question.value)
    with pytest.raises(Question, match="--columns item_id=beta"):
        propose([path], {"columns": {"user_id": "alpha"}})
    told = propose([path], {"columns": {"user_id": "alpha", "item_id": "beta", "timestamp": "gamma"}})
    assert told.words["time_unit"] == "s"
    with pytest.raises(Question, match="--header yes"):
        propose([write(tmp_path, "ann,tea\nbob,hat\n")])


def test_two_columns_that_could_be_one_are_a_question(tmp_path):
    path = write(tmp_path, "user,visitor,item\n1,2,3\n4,5,6\n")
    with pytest.raises(
        Question,
        match=r"(?s)'user' and 'visitor' could each be the user_id.*--columns user_id=user.*--columns user_id=visitor",
    ):
        propose([path])
    empty = write(tmp_path, "user,visitor,item\nNA,2,3\nNA,5,6\n")
    assert propose([empty]).words["columns"]["user_id"] == "visitor"  # only one of them says anything


def test_kinds_that_say_nothing_are_a_question():
    assert map_kinds({"View": 1, "ATC": 1, "delete_item": 2}, {}) == {
        "View": "view",
        "ATC": "addtocart",
        "delete_item": "ignore",
    }
    with pytest.raises(Question, match=r"(?s)'stroke' \(3 rows\).*--event stroke=view.*--event stroke=ignore"):
        map_kinds({"stroke": 3}, {})


def test_ratings_that_look_like_adjacency_and_binary_files(tmp_path):
    write(tmp_path, "196\t242\t3\t881250949\n186\t302\t3\t891717742\n", "train.txt")
    assert propose([tmp_path / "train.txt"]).layout.name == "movielens-100k"  # by what the lines hold, not by the name
    write(tmp_path, "196\t303\t4\t881250950\n", "test.txt")
    with pytest.raises(DataError, match="looks like user, item, rating and time"):
        loading.read_folder(tmp_path, "mine")
    with pytest.raises(DataError, match="neither text nor Parquet"):
        propose([write(tmp_path, b"\x00\x01\x02" * 100, "log.bin")])
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        propose([tmp_path / "nothing.csv"])


@pytest.mark.parametrize(
    "words",
    [
        ("log.csv",),
        ("log.csv", "--name", "../x"),
        (),
        ("log.csv", "--name", "a", "--like", "nothing"),
        ("log.csv", "--name", "a", "--columns", "user_id"),
    ],
)
def test_wrong_commands_are_one_sentence(tmp_path, words, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "user,item\na,1\nb,2\n")
    assert main(["data", "import", *words]) == 2
    assert capsys.readouterr().err.startswith("recsys-lab: ") and not (tmp_path / "data").exists()


def test_the_command_writes_once_and_a_dry_run_never(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "user,item,time\n" + "".join(f"u{i % 7},{i % 5},{1_700_000_000 + i}\n" for i in range(50)))
    assert main(["data", "import", "log.csv", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "numbers in s since 1970" in shown and "nothing was written" in shown and not (tmp_path / "data").exists()
    for wrong, refusal in (("--since", "since and until are times"), ("--visitors", "visitors must be a share")):
        value = "lastweek" if wrong == "--since" else "7"
        assert main(["data", "import", "log.csv", "--dry-run", wrong, value]) == 2  # also what only reading would use
        assert refusal in capsys.readouterr().err
    assert main(["data", "import", "log.csv", "--name", "mine", "--test", "0.2"]) == 0
    assert "next: recsys-lab run --dataset mine" in capsys.readouterr().out
    assert tomllib.loads((tmp_path / "data" / "mine" / "dataset.toml").read_text())["test"] == 0.2
    assert loading.load("mine").cutoffs == {"test": 0.2}
    assert main(["data", "import", "log.csv", "--name", "mine"]) == 2  # other words: nothing is overwritten
    assert "is there already and says something else" in capsys.readouterr().err
    assert main(["data", "import", "log.csv", "--name", "mine", "--test", "0.2"]) == 0


def test_a_log_that_cannot_be_read_leaves_nothing(tmp_path):
    path = write(tmp_path, "user,item,time\n" + "a,1,2024-01-01\n" * 30 + "b,,2024-01-01\nc,2,yesterday\n")
    proposal = propose([path])
    with pytest.raises(DataError, match="line 33, column 'time': 'yesterday' is not a time"):
        import_log("mine", proposal, tmp_path / "data")
    assert not (tmp_path / "data" / "mine").exists()
    log = import_log("mine", propose([path], {"on_error": "quarantine"}), tmp_path / "data")
    assert len(log) == 30 and (tmp_path / "data" / "mine" / "log.csv.rejected.csv").exists()
    assert not (path.parent / "log.csv.rejected.csv").exists()  # nothing is left beside other people's files


def test_items_in_a_second_file(tmp_path):
    write(tmp_path, "movieId,title,genres\n1,Toy Story (1995),Animation|Comedy\n", "movies.csv")
    path = write(tmp_path, "userId,movieId,rating,timestamp\n1,1,4.0,964982703\n2,1,5,964981247\n", "ratings.csv")
    log = import_log("ml", propose([path]), tmp_path / "data")
    assert log.item_property("title").to_dict() == {1: "Toy Story (1995)"}
    write(tmp_path, "sku,name,cost\n7,Tea,3\n", "goods.csv")
    other = write(tmp_path, "user,sku,time\na,7,2024-01-01\n", "sales.csv")
    assert '[items]\n  file = "' in import_command([other], "x", dry_run=True, items=tmp_path / "goods.csv")


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.one_of(
            st.text(max_size=12),
            st.booleans(),
            st.integers(-9, 9),
            st.floats(0.1, 9, allow_nan=False),
            st.lists(st.text(max_size=5), max_size=3),
            st.dictionaries(st.text(min_size=1, max_size=4), st.text(max_size=6), max_size=3),
        ),
        max_size=6,
    )
)
@settings(max_examples=150, deadline=None)
def test_what_is_written_as_toml_is_read_as_it_was(words):
    assert tomllib.loads(toml_text(words)) == words


def test_large_logs_come_out_of_the_cache_as_they_went_in(tmp_path, monkeypatch):
    monkeypatch.setenv("RECSYS_LAB_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    n = 60_000
    frame = pd.DataFrame(
        {
            "user": rng.integers(0, 500, n),
            "sku": [f"{i:05d}" for i in rng.integers(0, 90, n)],
            "action": rng.choice(["view", "cart", "purchase"], n),
            "when": 1_700_000_000 + rng.integers(0, 10**6, n),
            "price": rng.choice(["4.5", "5.0"], n),
            "category": rng.choice(["a.b", "a.c"], n),
            "colour": "red",
        }
    )
    frame.to_csv(tmp_path / "log.csv", index=False)
    proposal = propose([tmp_path / "log.csv"])
    log = import_log("mine", proposal, tmp_path / "data")
    assert any((tmp_path / "cache").iterdir())
    whole = loading.read_folder(tmp_path / "data" / "mine", "mine")
    assert whole.fingerprint == log.fingerprint and whole.notices == log.notices
    pd.testing.assert_frame_equal(whole.events, log.events)
    pd.testing.assert_frame_equal(whole.properties, log.properties)
    (tmp_path / "log.csv").write_text((tmp_path / "log.csv").read_text().replace(",red", ",blue", 1))
    assert (
        loading.load.__module__
        and loading.read_cached(tmp_path / "data" / "mine", "mine").fingerprint == log.fingerprint
    )  # colours are not read


def test_toml_text_is_what_the_reader_knows(tmp_path):
    path = write(tmp_path, "user,item\na,1\nb,2\n")
    words = propose([path]).words
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "dataset.toml").write_text(toml_text(words))
    assert len(loading.read_folder(folder, "mine")) == 2


def test_folders_in_formats_of_their_own():
    """Reviews come with their products, sequences with their items, and a shop with its catalogue."""
    for name, kind in (
        ("amazon-gift-cards", "reviews"),
        ("amazon-office", "sequences"),
        ("retailrocket-sample", "retailrocket"),
        ("gowalla", "adjacency"),
    ):
        folder = real_folder(name)
        assert propose([folder]).words == {"format": kind, "folder": str(folder.resolve())}
    reviews = real_folder("amazon-gift-cards") / "Gift_Cards_5.json.gz"
    assert propose([reviews]).words["format"] == "reviews"
    assert propose([reviews], like="amazon-2018-reviews").words["columns"]["user_id"] == "reviewerID"


def test_cutoffs_may_be_shares_times_and_rows(tmp_path):
    write(tmp_path, "user,item,time\n" + "".join(f"u{i % 7},{i % 5},2024-01-{1 + i // 4:02d}\n" for i in range(100)))
    (tmp_path / "mine").mkdir()
    for valid, test, parts in (
        ("0.2", "0.2", (60, 20, 20)),
        ('"2024-01-20"', '"2024-01-23"', (76, 12, 12)),
        ("80", "88", (80, 8, 12)),
    ):
        words = propose([tmp_path / "log.csv"]).words
        (tmp_path / "mine" / "dataset.toml").write_text(f"valid = {valid}\ntest = {test}\n" + toml_text(words))
        split = splits.make(loading.read_folder(tmp_path / "mine", "mine"))
        assert tuple(len(p) for p in (split.train, split.valid, split.test)) == parts
    (tmp_path / "mine" / "dataset.toml").write_text("test = 1000\n" + toml_text(words))
    with pytest.raises(DataError, match="test = 1000 is no row of mine, which has 100"):
        loading.read_folder(tmp_path / "mine", "mine")


def test_a_log_that_cannot_fit_is_refused_with_the_figure(tmp_path, monkeypatch):
    monkeypatch.setenv("RECSYS_LAB_CACHE", str(tmp_path / "cache"))
    path = write(
        tmp_path, "user,item,time\n" + "".join(f"u{i % 70},{i % 50},{1_700_000_000 + i}\n" for i in range(70_000))
    )
    monkeypatch.setattr(loading, "BYTES_PER_EVENT", 10**9)
    with pytest.raises(
        DataError, match=r"mine has 70,000 events: .* about 70000\.0 GB, .*--since, --until, --visitors"
    ):
        import_log("mine", propose([path]), tmp_path / "data")


@pytest.mark.parametrize(
    ("text", "error", "told"),
    [
        ("", DataError, "the file is empty"),
        ("user,item,time\n", DataError, "there is no row in it"),
        ("user,item,item\n1,2,3\n", DataError, r"column\(s\) \['item'\] appear more than once"),
        (
            "user,item,rating\n1,2,0\n1,3,5\n",
            Question,
            r"(?s)1 of 2 ratings are 0.*--on-error quarantine.*--columns rating=NONE",
        ),
        ("user,item,rating\n1,2,500\n1,3,5\n", Question, "ratings go up to 500"),
        ("user,item,event\n" + "".join(f"1,{i},k{i}\n" for i in range(200)), Question, "holds 200 different values"),
        ("1:\n1488844,3,2005-09-06\n822109,5,2005-05-13\n", Question, "not split alike"),
    ],
)
def test_files_that_cannot_be_proposed_say_why(tmp_path, text, error, told):
    with pytest.raises(error, match=told):
        propose([write(tmp_path, text)])


def test_what_is_not_used_is_said_and_the_usual_word_counts(tmp_path):
    path = write(tmp_path, "user,category_id,category_code,item,colour\n1,7,a.b,2,red\n2,7,a.b,3,blue\n")
    proposal = propose([path])
    assert (
        proposal.words["columns"]["category"] == "category_code"
        and "not used: 'category_id', 'colour'" in proposal.assumed
    )
    utf16 = write(tmp_path, "User\tItem\tDate\nann\t7\t13.01.2024\nböb\t8\t14.01.2024\n".encode("utf-16"), "excel.txt")
    words = propose([utf16]).words
    assert (words["encoding"], words["separator"], words["time_format"]) == ("utf-16", "\t", "%d.%m.%Y")
    assert import_log("excel", propose([utf16]), tmp_path / "data").users.tolist() == ["ann", "böb"]
    rated = write(tmp_path, "user;movie;rating;timestamp\n1;2;4,5;964982703\n2;3;3,0;964982704\n", "rated.csv")
    assert import_log("rated", propose([rated]), tmp_path / "data").events.event.tolist() == ["transaction", "view"]


def test_every_option_of_dataset_toml_is_an_option_of_the_command(tmp_path, capsys):
    words = set(LogOptions.__dataclass_fields__) - {
        "columns",
        "events",
        "quarantine",
    }  # --columns, --event; the place is data/NAME
    flags = set(inspect.signature(import_files).parameters)
    assert words <= flags | {"event"}, words - flags
    path = write(tmp_path, "7,tea,5\n8,hat,3\n")
    words = ["--header", "no", "--names", "user,item,stars", "--liked", "5", "--dry-run", "--columns", "rating=stars"]
    assert main(["data", "import", str(path), *words]) == 0
    shown = capsys.readouterr().out
    assert '"stars"' in shown and "liked = 5.0" in shown
