"""Search: what typed text may do, agreement of the graph with the exact search, updates, and fused lists."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_lab import products, search
from recsys_lab.files import DataError
from recsys_lab.search import Filters, Search, build_index, filter_mask, reciprocal_rank_fusion, semantic

pytest.importorskip("sentence_transformers")
WORDS = {"pen": 0, "ink": 1, "paper": 2, "desk": 3, "cup": 4}


def tiny_encoder(name):
    """Counts of five words: a stand-in that is known by heart, for what does not depend on the encoder."""

    def encode(texts):
        out = np.full((len(texts), len(WORDS)), 0.01, np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                if word in WORDS:
                    out[row, WORDS[word]] += 1
        return out / np.linalg.norm(out, axis=1, keepdims=True)

    return encode


def goods(titles, **columns):
    base = {"brand": "", "category": "", "description": "", "price": 1.0, "in_stock": True, "image_url": ""}
    return pd.DataFrame({"product_id": [f"p{n}" for n in range(len(titles))], "title": titles, **(base | columns)})


@pytest.fixture
def index(tmp_path, monkeypatch):
    monkeypatch.setattr(search, "encoder", tiny_encoder)

    def make(table, **told):
        build_index(table, tmp_path / "index", **told)
        return Search(tmp_path / "index")

    return make


def test_codes_are_found_by_words_and_meaning_by_vectors(index):
    found = index(goods(["Ink CF283AD", "Ink CF283X", "Pen", "Paper cup"]))
    assert found.find("cf283ad", how="lexical").product_id.tolist() == ["p0"]
    assert found.find("CF283AD ink", 1).product_id.tolist() == ["p0"]
    assert found.find("cup", 1, "semantic").product_id.tolist() == ["p3"]
    assert found.find("no such word", how="lexical").empty and len(found.find("pen", how="semantic")) == 4


def test_words_count_by_their_column(index):
    """A word of the title weighs more than one of the description; accents and endings do not matter."""
    found = index(goods(["Cafe", "Other"], description=["", "café cafés"]))
    assert found.find("cafés", how="lexical").product_id.tolist() == ["p0", "p1"]


@pytest.mark.parametrize(
    "query",
    [
        '"; DROP TABLE words; --',
        "title:*",
        "NEAR(a b, 1",
        "' OR 1=1",
        "\x00",
        "\ud800 pen",
        "pen " * 5000,
        "ручка",
        "筆",
        "🖊️",
    ],
)
def test_odd_queries_are_safe(index, query):
    found = index(goods(["Pen", "Ink"]))
    for how in search.MODES:
        assert len(found.find(query, 2, how)) <= 2
    assert found.find("pen", 1).product_id.tolist() == ["p0"]  # all is still there


def test_filters_keep_what_passes_and_no_unknown(index):
    table = goods(
        ["Pen"] * 5,
        category=["A > B", "A > B > C", "A > Bx", "A", ""],
        price=[1.0, 2.0, 3.0, None, 5.0],
        in_stock=pd.array([True, False, None, True, True], "boolean"),
    )
    found = index(table)
    for filters, right in (
        (Filters(category="A > B"), [0, 1]),
        (Filters(category="A"), [0, 1, 2, 3]),
        (Filters(min_price=2.0), [1, 2, 4]),
        (Filters(max_price=2.0), [0, 1]),
        (Filters(in_stock=True), [0, 3, 4]),
        (Filters(category="A", max_price=2.0, in_stock=True), [0]),
        (Filters(category="none"), []),
    ):
        assert np.flatnonzero(filter_mask(table, filters)).tolist() == right
        for how in search.MODES:
            assert sorted(found.find("pen", 10, how, filters).product_id) == [f"p{n}" for n in right]


def test_only_what_changed_is_encoded_again(index, tmp_path, monkeypatch):
    table = goods(["Pen", "Ink", "Paper"])
    first = index(table).vectors.copy()
    seen = []

    def watched(name):
        return lambda texts: seen.extend(texts) or tiny_encoder(name)(texts)

    monkeypatch.setattr(search, "encoder", watched)
    assert build_index(table.assign(price=9.0), tmp_path / "index") == 0 and not seen
    changed = pd.concat([table.iloc[[2, 0]], goods(["Desk"]).assign(product_id="new")], ignore_index=True)
    assert build_index(changed, tmp_path / "index") == 1 and seen == ["Desk"]
    assert np.array_equal(Search(tmp_path / "index").vectors[:2], first[[2, 0]])
    assert build_index(table, tmp_path / "index", model="another") == 3  # another encoder: all of it
    assert [p.name for p in tmp_path.iterdir()] == ["index"]


def test_a_failed_build_leaves_the_index_as_it_was(index, tmp_path, monkeypatch):
    index(goods(["Pen"]))
    monkeypatch.setattr(search, "write_words", lambda *told: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build_index(goods(["Pen", "Ink"]), tmp_path / "index")
    assert len(Search(tmp_path / "index")) == 1 and [p.name for p in tmp_path.iterdir()] == ["index"]


@pytest.mark.parametrize("name", ["vectors.npy", "products.parquet", "words.db", "keys.npy"])
@pytest.mark.parametrize("fault", ["cut", "gone", "edited"])
def test_damaged_indexes_are_refused_by_name(index, tmp_path, name, fault):
    index(goods(["Pen", "Ink"]))
    path = tmp_path / "index" / name
    whole = path.read_bytes()
    path.unlink() if fault == "gone" else path.write_bytes(whole[:-3] if fault == "cut" else whole[:-1] + b"\x07")
    with pytest.raises(DataError, match=f"{name} is missing or not as it was written"):
        Search(tmp_path / "index")


def test_indexes_of_another_format_and_empty_ones(index, tmp_path):
    empty = index(goods([]))
    assert empty.find("pen").empty
    path = tmp_path / "index" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(DataError, match="format 99, and this version reads 1"):
        Search(tmp_path / "index")


def test_the_graph_finds_what_the_exact_search_finds(tmp_path):
    """Recall of the ten nearest against comparing all, also among the products that a filter leaves."""
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, 32))
    vectors = (centres[rng.integers(0, 50, 4000)] + rng.normal(0, 0.4, (4000, 32))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    search.write_graph(vectors, tmp_path / "graph.faiss")
    graph = search.read_graph(tmp_path / "graph.faiss")
    ok = rng.random(4000) < 0.5
    for mask in (None, ok):
        shared = 0
        for query in vectors[rng.choice(4000, 100)] + rng.normal(0, 0.05, (100, 32)).astype(np.float32):
            exact, scores = semantic(vectors, None, query, 10, mask)
            assert (np.diff(scores) <= 0).all() and (mask is None or mask[exact].all())
            old, search.EXACT_SEARCH_UP_TO = search.EXACT_SEARCH_UP_TO, 100
            found, _ = semantic(vectors, graph, query, 10, mask)
            search.EXACT_SEARCH_UP_TO = old
            assert mask is None or mask[found].all()
            shared += len(set(exact) & set(found))
        assert shared / 1000 > 0.95


@given(st.lists(st.permutations(range(8)), min_size=2, max_size=2))
def test_fusion_knows_ranks_only(orders):
    a, b = (np.array(o) for o in orders)
    codes, scores = reciprocal_rank_fusion([(a, np.zeros(8)), (b, np.zeros(8))], [1.0, 1.0])
    assert sorted(codes) == list(range(8)) and (np.diff(scores) <= 0).all()
    again, _ = reciprocal_rank_fusion([(b, np.ones(8)), (a, np.ones(8))], [1.0, 1.0])
    assert codes.tolist() == again.tolist()  # neither list comes first, and scores do not count
    if a[0] == b[0]:
        assert codes[0] == a[0]


def test_generated_queries_have_one_right_answer():
    table = goods(
        ["HP 83A (CF283AD)", "HP 83A (CF283AD) twin", "Part 1234567", "Plain pen"],
        description=["words about a laser printer cartridge black toner page yield"] * 2 + ["", "short text"],
        brand="HP",
    )
    assert search.code_queries(table, 9)["query"].tolist() == ["1234567"]  # a code of two titles tells no product
    told = search.description_queries(table, 9)
    assert told.product_id.tolist() == ["p0", "p1"] and "HP" not in told["query"].iloc[0].split()
    assert len(search.description_queries(table, 1, seed=3)) == 1


@pytest.mark.slow
def test_the_real_encoder_puts_near_what_means_the_same(tmp_path):
    table = goods(["Mesh pencil holder", "Laser printer toner", "Office chair mat"])
    build_index(table, tmp_path / "index")
    found = Search(tmp_path / "index")
    for query, right in (("something to put my pens in", "p0"), ("floor protection for a rolling seat", "p2")):
        assert found.find(query, 1, "semantic").product_id.tolist() == [right]
    with pytest.raises(ValueError, match="'no/such-model' is no sentence encoder that can be loaded here"):
        search.encoder("no/such-model")


@pytest.mark.slow
def test_the_commands(tmp_path):
    (tmp_path / "m.json").write_text(
        '{"asin": "a", "title": "Blue pen", "price": 2}\n{"asin": "b", "title": "Desk", "price": 90}\n'
    )
    url = f"sqlite:///{tmp_path}/p.db"
    products.load_products(url, None, tmp_path / "m.json")
    command = [str(Path(sys.executable).with_name("recsys-lab")), "search"]

    def run(*words):
        return subprocess.run([*command, *words], capture_output=True, text=True, check=False, cwd=tmp_path)

    made = run("index", "--db", url, "--index", "i")
    assert made.returncode == 0 and "2 products in i, 2 of them encoded anew" in made.stdout, made.stderr
    assert "Blue pen" in run("find", "something", "to", "write", "with", "--index", "i", "-k", "1").stdout
    assert "Blue pen" not in run("find", "pen", "--index", "i", "--min-price", "50").stdout
    for words, message in (
        (("find", "x", "--index", "nowhere"), "holds no search index"),
        (("find", "--index", "i"), "missing argument 'query'"),
    ):
        failed = run(*words)
        assert failed.returncode == 2 and message in failed.stderr


def test_without_the_extra_the_message_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    search.encoder.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'recsys_lab\[search\]'"):
        search.encoder()
    search.encoder.cache_clear()
