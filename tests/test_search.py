"""Search: what typed text may do, agreement of the graph with the exact search, updates, fused lists, and how the fusion is learned."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT, real_data, real_folder, tiny_encoder
from hypothesis import given
from hypothesis import strategies as st

from recsys_lab import encoders, files, products, search
from recsys_lab.files import DataError
from recsys_lab.search import Filters, Search, build_index, lexical_weight, nearest, reciprocal_rank_fusion

pytest.importorskip("onnxruntime")
WORDS = ["pen", "ink", "paper", "desk", "cup"]


def goods(titles, **columns):
    base = {"brand": "", "category": "", "description": "", "price": 1.0, "in_stock": True, "image_url": ""}
    return pd.DataFrame({"product_id": [f"p{n}" for n in range(len(titles))], "title": titles, **(base | columns)})


@pytest.fixture
def index(tmp_path, monkeypatch):
    monkeypatch.setattr(
        search, "encoder", lambda name: tiny_encoder(tmp_path.parent / f"{tmp_path.name}-encoders", WORDS)
    )

    def make(table, **told):
        build_index(table, tmp_path / "index", **told)
        return Search(tmp_path / "index")

    return make


def test_codes_are_found_by_words_and_meaning_by_vectors(index):
    found = index(goods(["Ink CF283AD", "Ink CF283X", "Pen", "Paper cup"]))
    assert found.find("cf283ad", mode="lexical").product_id.tolist() == ["p0"]
    assert found.find("CF283AD ink", 1).product_id.tolist() == ["p0"]
    assert found.find("cup", 1, "semantic").product_id.tolist() == ["p3"]
    assert found.find("no such word", mode="lexical").empty and len(found.find("pen", mode="semantic")) == 4


def test_words_count_by_their_column(index):
    """A word of the title weighs more than one of the description; accents and endings do not matter."""
    found = index(goods(["Cafe", "Other"], description=["", "café cafés"]))
    assert found.find("cafés", mode="lexical").product_id.tolist() == ["p0", "p1"]


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
    for mode in search.MODES:
        assert len(found.find(query, 2, mode)) <= 2
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
        assert np.flatnonzero(found.allowed(filters)).tolist() == right
        for mode in search.MODES:
            assert sorted(found.find("pen", 10, mode, filters).product_id) == [f"p{n}" for n in right]
        assert set(found.like(0, 10, filters)[0]) == set(right) - {0}


def test_only_what_changed_is_encoded_again(index, tmp_path, monkeypatch):
    table = goods(["Pen", "Ink", "Paper"])
    first = index(table).vectors.reconstruct_n(0, 3)
    seen, real = [], encoders.Encoder.__call__
    monkeypatch.setattr(
        encoders.Encoder, "__call__", lambda self, texts, *kind: seen.extend(texts) or real(self, texts, *kind)
    )
    assert build_index(table.assign(price=9.0), tmp_path / "index") == 0 and not seen
    changed = pd.concat([table.iloc[[2, 0]], goods(["Desk"]).assign(product_id="new")], ignore_index=True)
    assert build_index(changed, tmp_path / "index") == 1 and seen == ["Desk"]
    assert np.array_equal(Search(tmp_path / "index").vectors.reconstruct_n(0, 2), first[[2, 0]])
    another = tiny_encoder(tmp_path.parent / f"{tmp_path.name}-another", WORDS[::-1])
    monkeypatch.setattr(search, "encoder", lambda name: another)
    assert build_index(table, tmp_path / "index") == 3  # another encoder: all of it
    assert [p.name for p in tmp_path.iterdir()] == ["index"]


def test_a_failed_build_leaves_the_index_as_it_was(index, tmp_path, monkeypatch):
    index(goods(["Pen"]))
    monkeypatch.setattr(search, "write_words", lambda *told: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build_index(goods(["Pen", "Ink"]), tmp_path / "index")
    assert len(Search(tmp_path / "index")) == 1 and [p.name for p in tmp_path.iterdir()] == ["index"]


@pytest.mark.parametrize(
    "name", ["vectors.faiss", "title.npy", "words.db", "keys.npy", "ids.npy", "encoder/model.onnx"]
)
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
    with pytest.raises(DataError, match="format 99, and this version reads 2"):
        Search(tmp_path / "index")


def test_an_index_without_vectors_is_searched_by_words_and_says_so(tmp_path):
    with files.whole_folder(tmp_path / "index") as beside:
        search.write_index(goods(["Pen", "Ink"]), beside)
    found = Search(tmp_path / "index")
    for mode in search.MODES:
        hits = found.hits("pen ink", mode=mode)
        assert (hits.mode, hits.codes.tolist(), hits.found_by) == ("lexical", [0, 1], [["lexical"]] * 2)
    with pytest.raises(ValueError, match="the index has no vectors"):
        found.like(0)


def test_vectors_beside_another_encoder_are_refused_by_its_name(index, tmp_path):
    """Also where somebody made the hashes right."""
    index(goods(["Pen"]))
    other = tiny_encoder(tmp_path.parent / f"{tmp_path.name}-other", WORDS[::-1])
    folder, path = tmp_path / "index", tmp_path / "index" / "manifest.json"
    told = json.loads(path.read_text())
    for name in ("model.onnx", "tokenizer.json", "encoder.json"):
        (folder / "encoder" / name).write_bytes((other.folder / name).read_bytes())
        told["files"][f"encoder/{name}"] = files.file_hash(folder / "encoder" / name)
    path.write_text(json.dumps(told))
    with pytest.raises(DataError, match=r"the vectors are of the encoder tiny.*and beside them lies tiny"):
        Search(folder)


def test_hits_say_which_half_found_them(index):
    found = index(goods(["Pen", "Ink", "Pencil case", "Desk"]))
    hits = found.hits("pencil pen")
    by = dict(zip(hits.codes.tolist(), hits.found_by, strict=True))
    assert by[0] == ["lexical", "semantic"] and by[2] == ["lexical", "semantic"] and by[1] == ["semantic"]
    assert all(names == ["lexical"] for names in found.hits("pencil pen", mode="lexical").found_by)
    assert found.find("ink", 1).found_by.tolist() == ["lexical, semantic"]


def test_what_is_mistyped_is_found_by_both_halves(index):
    found = index(goods(["Desk", "Paper", "Cup"]))
    for mode in search.MODES:
        hits = found.hits("papre", mode=mode)
        assert hits.codes[0] == 1 and hits.meant == {"papre": ["paper"]}
    assert found.hits("cap", mode="lexical").codes.tolist() == []  # three letters are too few to know what was meant


def test_the_graph_finds_what_the_exact_search_finds(tmp_path, monkeypatch):
    """Recall of the ten nearest against comparing all, also among the products that a filter leaves; what is written down is so."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, 32))
    vectors = (centres[rng.integers(0, 50, 4000)] + rng.normal(0, 0.4, (4000, 32))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    facts = search.write_vectors(vectors, tmp_path / "graph.faiss", 100)
    assert facts["kind"] == "hnsw" and facts["recall"] > 0.95
    assert search.write_vectors(vectors, tmp_path / "again.faiss", 100) == facts
    assert (tmp_path / "again.faiss").read_bytes() == (tmp_path / "graph.faiss").read_bytes()
    assert search.write_vectors(vectors, tmp_path / "flat.faiss", 4000) == {"kind": "exact", "recall": 1.0}
    graph, flat = search.read_vectors(tmp_path / "graph.faiss"), search.read_vectors(tmp_path / "flat.faiss")
    monkeypatch.setattr(search, "EXACT_SEARCH_UP_TO", 100)
    ok = rng.random(4000) < 0.5
    for mask in (None, ok, np.arange(4000) < 50, np.zeros(4000, bool)):
        shared = total = 0
        for query in vectors[rng.choice(4000, 100)] + rng.normal(0, 0.05, (100, 32)).astype(np.float32):
            codes, scores = nearest(flat, query, 10, mask)
            allowed = np.arange(4000) if mask is None else np.flatnonzero(mask)
            wanted = np.sort(vectors[allowed] @ query)[::-1][:10]
            assert np.allclose(scores, wanted, atol=2e-3) and np.isin(codes, allowed).all()
            found, _ = nearest(graph, query, 10, mask)
            assert np.isin(found, allowed).all()
            shared, total = shared + len(set(codes) & set(found)), total + len(codes)
        assert shared >= 0.95 * total


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


@given(st.text("abcdefghijklmnopqrstuvwxyz", min_size=4, max_size=12), st.integers(0, 99))
def test_an_error_is_one_error(word, seed):
    """Swapped, missing, doubled or neighbouring: one step of the distance by which it is forgiven, and never the first letter."""
    from rapidfuzz.distance import OSA

    wrong = search.mistype(word, np.random.default_rng(seed))
    assert OSA.distance(word, wrong) <= 1 and wrong[0] == word[0]


def test_typo_queries_are_of_the_title_and_drawn_by_the_seed():
    table = goods(["Heavy duty stapler black", "Ink", "Paper clips silver large"])
    told = search.typo_queries(table, 9, seed=1)
    assert told.product_id.tolist() == ["p0", "p2"] and told.equals(search.typo_queries(table, 9, seed=1))
    right = [
        w == o
        for q, t in zip(told["query"], table.title[[0, 2]], strict=True)
        for w, o in zip(q.split(), t.lower().split(), strict=True)
    ]
    assert 3 <= sum(right) <= 5  # half of the four words are mistyped; a doubled letter may be swapped with itself


def test_a_query_may_have_several_right_answers(index):
    found = index(goods(["Pen", "Ink", "Pen cup"]))
    asked = pd.DataFrame({"product_id": ["p2 p1", "p0", "nowhere"], "query": ["pen", "pen", "pen"]})
    assert search.judge_queries(found, asked, "lexical").mrr.tolist() == [0.5, 1.0, 0.0]


def test_the_weight_is_a_probability_that_was_learned(index):
    """Where words decide a code and meaning a misleading word, the fusion learns which to trust."""
    names = ["Pen AB123", "Ink CD456", "Paper EF789", "Desk GH012", "Cup IJ345"]
    found = index(goods([f"{name}{n}" for n in range(8) for name in names]))
    codes = pd.DataFrame(
        {"product_id": [f"p{n}" for n in range(40)], "query": [f"{names[n % 5].split()[1]}{n // 5}" for n in range(40)]}
    )
    every = [" ".join(f"p{n}" for n in range(kind, 40, 5)) for kind in range(5)]
    misled = pd.DataFrame(
        {
            "product_id": every * 4,
            "query": [f"{w} {w} {w} {names[(k + 1) % 5].split()[1]}0" for k, w in enumerate(WORDS)] * 4,
        }
    )
    fusion, table = search.learn_fusion(found, {"codes": codes, "misled": misled})
    assert set(fusion) == {"intercept", *search.FUSION} and table.weight.between(0, 1).all()
    own = table[table.set == "codes"]
    assert own.weight.mean() > 0.5 and (own.lexical == 1).all()
    assert lexical_weight({name: 0.0 for name in fusion}, fusion) == pytest.approx(
        1 / (1 + np.exp(-fusion["intercept"]))
    )


def test_what_is_seen_of_a_query(index):
    found = index(goods(["Pen AB123", "Ink", "Paper"]))
    seen = found.halves("AB123 papper nowhere", 10, None).seen
    assert set(seen) | {"intercept"} == set(search.FUSION)
    assert seen["code"] == 1 and seen["known"] == pytest.approx(1 / 3) and seen["corrected"] == pytest.approx(1 / 3)
    assert seen["words"] == pytest.approx(np.log(3)) and found.halves("cup", 10, None).seen["agree"] == 0


@pytest.mark.slow
def test_the_real_encoder_puts_near_what_means_the_same(tmp_path):
    pytest.importorskip("sentence_transformers")
    table = goods(["Mesh pencil holder", "Laser printer toner", "Office chair mat"])
    build_index(table, tmp_path / "index")
    found = Search(tmp_path / "index")
    for query, right in (("something to put my pens in", "p0"), ("floor protection for a rolling seat", "p2")):
        assert found.find(query, 1, "semantic").product_id.tolist() == [right]
        assert found.find(query, 1).product_id.tolist() == [right]
    with pytest.raises(ValueError, match="'no/such-model' is no sentence encoder that can be loaded here"):
        search.encoder("no/such-model")


@pytest.mark.slow
def test_the_committed_fusion_holds_on_queries_that_nothing_was_learned_from(tmp_path):
    """On each set of queries over real products not shown to be .01 below the better half; on all of them better than either."""
    pytest.importorskip("sentence_transformers")
    real_folder("amazon-office")
    products.store(real_data("amazon-office"), f"sqlite:///{tmp_path}/p.db")
    table = search.catalogue(f"sqlite:///{tmp_path}/p.db")
    build_index(table, tmp_path / "index")
    found, asked = Search(tmp_path / "index"), pd.read_csv(ROOT / "benchmarks" / "queries.csv", dtype="str")
    sets = {kind: own for kind, own in asked.groupby("kind")} | {"typo": search.typo_queries(table, 100)}
    sets |= {"description": search.description_queries(table, 300), "code": search.code_queries(table, 300)}
    assert {kind: len(own) for kind, own in sets.items()} == {
        "paraphrase": 300,
        "language": 100,
        "word": 100,
        "typo": 100,
        "description": 300,
        "code": 300,
    }
    judged = {m: [search.judge_queries(found, own.iloc[1::2], m).mrr for own in sets.values()] for m in search.MODES}
    means = pd.DataFrame({m: [float(v.mean()) for v in of] for m, of in judged.items()}, index=list(sets))
    for (
        kind,
        row,
    ) in means.iterrows():  # not shown to be more than .01 below, for another processor rounds its eight bits otherwise
        better = "lexical" if row.lexical >= row.semantic else "semantic"
        gap = judged["hybrid"][list(sets).index(kind)] - judged[better][list(sets).index(kind)]
        assert gap.mean() + 1.64 * gap.std() / np.sqrt(len(gap)) > -0.01 and gap.mean() > -0.03, (kind, means)
    whole = pd.DataFrame({m: np.concatenate(of) for m, of in judged.items()})
    gain = whole.hybrid - whole.lexical
    assert gain.mean() > 2 * gain.std() / np.sqrt(len(gain)) and whole.lexical.mean() > whole.semantic.mean()


@pytest.mark.slow
def test_the_commands(tmp_path):
    pytest.importorskip("sentence_transformers")
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
    assert "Blue pen" in run("find", "blu", "pne", "--index", "i", "--mode", "semantic").stdout
    exported = run("encoder", "all-MiniLM-L6-v2", "-o", "mine", "--json")
    assert json.loads(exported.stdout)["dimension"] == 384, exported.stderr
    assert "0 of them encoded anew" in run("index", "--db", url, "--index", "i", "--encoder", "mine").stdout
    for words, message in (
        (("find", "x", "--index", "nowhere"), "holds no search index"),
        (("find", "--index", "i"), "missing argument 'query'"),
    ):
        failed = run(*words)
        assert failed.returncode == 2 and message in failed.stderr
