"""Bundles: the same twice, whole or not at all, and refused by name when anything in them is not as it was."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import requests
from helpers import ROOT, packed, serving
from hypothesis import given
from hypothesis import strategies as st

from recsys_lab import files, splits
from recsys_lab.files import DataError
from recsys_lab.models.base import MODELS, model_class
from recsys_lab.ranking.hybrid import HybridTuned
from recsys_lab.registry import import_plugin
from recsys_lab.search import Texts
from recsys_lab.serving import bundle as bundles
from recsys_lab.serving.bundle import Bundle, Ids, pack, verify

pytest.importorskip("fastapi_offline")


@given(st.lists(st.text(max_size=5), max_size=20))
def test_texts_survive(texts):
    told = Texts.of(texts)
    wanted = [t.encode("utf-8", "replace").decode() for t in texts]
    assert len(told) == len(texts) and [told[i] for i in range(len(told))] == wanted


@given(
    st.sets(st.integers(-(2**62), 2**62), min_size=1, max_size=30), st.lists(st.integers(-(2**62), 2**62), max_size=9)
)
def test_ids_are_found_as_an_index_finds_them(there, asked):
    import pandas as pd

    ids = np.array(sorted(there))
    asked = np.array([*asked, *ids[:3]], np.int64)
    assert Ids(ids).get_indexer(asked).tolist() == pd.Index(ids).get_indexer(asked).tolist()
    assert [Ids(ids).find(str(i)) for i in ids if abs(i) < 10**18] == [n for n, i in enumerate(ids) if abs(i) < 10**18]


@given(st.text(max_size=12))
def test_no_text_is_a_wrong_id(text):
    ids = Ids(np.array([1, 22, 333]))
    assert ids.find(text) == ({1: 0, 22: 1, 333: 2}.get(int(text), -1) if re.fullmatch(r"-?[0-9]{1,18}", text) else -1)
    words = Ids(np.array(["", "a", "b"]))
    assert words.find(text) == {"": 0, "a": 1, "b": 2}.get(text, -1)


def test_a_bundle_is_the_same_twice_and_whole_or_not_at_all(fits, shop, folder, tmp_path, monkeypatch):
    first = packed(fits, shop, tmp_path / "b")
    assert first["version"] == verify(folder)["version"]

    def broken(*told, **named):
        raise OSError("no space left")

    monkeypatch.setattr(bundles, "write_index", broken)
    with pytest.raises(OSError, match="no space left"):
        packed(fits, shop, tmp_path / "b")
    assert verify(tmp_path / "b") == first and [p.name for p in tmp_path.iterdir()] == ["b"]


def test_an_equal_fit_makes_an_equal_bundle(fits, shop, folder, tmp_path):
    """Whatever time it took: the version stands for what is served."""
    again = HybridTuned(**fits[2].config.model_dump()).fit(splits.make(shop).known("test"))
    assert again.fit_seconds != fits[2].fit_seconds
    made = pack(
        again.save(tmp_path / "fit"), shop, tmp_path / "b", {"item_knn": fits[1]}, {"dataset": "shop", "size": "tiny"}
    )
    assert made["version"] == verify(folder)["version"], bundles.difference(folder, tmp_path / "b")


@pytest.mark.slow
def test_every_damage_is_refused_by_name(folder, tmp_path):
    for damage in ("truncated", "edited", "missing"):
        for name in ("model/model.json", "model/state/booster.npy", "catalogue/words.db", "others/item_knn/items.npy"):
            copy = tmp_path / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(folder, copy)
            whole = (copy / name).read_bytes()
            if damage == "missing":
                (copy / name).unlink()
            else:
                (copy / name).write_bytes(whole[:-1] if damage == "truncated" else whole[:-1] + bytes([whole[-1] ^ 1]))
            with pytest.raises(DataError, match=re.escape(name) + ".*recsys-lab bundle"):
                Bundle(copy)


def test_other_manifests_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "b")
    path = tmp_path / "b" / "manifest.json"
    told = json.loads(path.read_text())
    for change, why in (
        ({"format": 99}, "has format 99"),
        (
            {"code": {**told["code"], "ranking.features:pair_columns": "0"}},
            "recsys_lab.ranking.features:pair_columns is",
        ),
        ({"code": {**told["code"], "ranking.features:gone": "0"}}, "recsys_lab.ranking.features:gone is not"),
        ({"files": {"../../etc/passwd": {"sha256": "", "bytes": 1}}}, "is missing from the bundle"),
        ({"files": 3}, "is no bundle"),
    ):
        path.write_text(json.dumps({**told, **change}))
        with pytest.raises(DataError, match=why):
            verify(tmp_path / "b")
    path.write_text("{")
    with pytest.raises(DataError, match="is no bundle"):
        verify(tmp_path / "b")


def test_a_feature_function_that_changes_refuses_the_bundle(folder, tmp_path, monkeypatch):
    """Another body of `price_columns` on disk: refused by its name; another comment: not."""
    package = tmp_path / "recsys_lab"
    shutil.copytree(ROOT / "recsys_lab", package)
    monkeypatch.setattr(files, "package_folder", lambda: package)
    path = package / "ranking" / "features.py"
    source = path.read_text()
    path.write_text(source.replace("def price_columns", "# a comment\ndef price_columns"))
    verify(folder)
    assert "price[b.c.items] - usual" in source
    path.write_text(source.replace("price[b.c.items] - usual", "usual - price[b.c.items]"))
    with pytest.raises(DataError, match=r"recsys_lab\.ranking\.features:price_columns is not as it was"):
        verify(folder)


def test_without_fits_the_command_that_makes_them_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="recsys-lab run --dataset NAME --out"):
        bundles.bundle_run(tmp_path, tmp_path / "b")
    with pytest.raises(FileNotFoundError, match=r"there is no run .*nowhere; name the folder of one"):
        bundles.bundle_run(tmp_path / "nowhere", tmp_path / "b")
    with pytest.raises(ValueError, match="there is no model 'lightfn'; did you mean 'lightfm'"):
        bundles.fit_of(tmp_path, ("lightfn",))
    rows = [{"model": "hybrid_tuned", "fit": "hybrid_tuned-0"}]
    (tmp_path / "fits.json").write_text(json.dumps(rows))
    (tmp_path / "provenance.json").write_text(json.dumps({"dataset": {"name": "shop", "size": "small"}}))
    with pytest.raises(
        FileNotFoundError, match="hybrid_tuned-0 is not there any more; say: recsys-lab run --dataset shop --size small"
    ):
        bundles.bundle_run(tmp_path, tmp_path / "b")


def test_a_model_with_another_catalogue_is_not_bundled(fits, shop, tmp_path):
    known = splits.make(shop).known("test")
    wide = model_class("content")().fit(known).save(tmp_path / "content")
    with pytest.raises(ValueError, match="content cannot be bundled beside hybrid_tuned: its catalogue is not"):
        pack(fits[0], shop, tmp_path / "b", {"content": wide})


def test_a_url_is_copied_once_and_checked(folder, tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in folder.rglob("*"):
        if path.is_file():
            memory.pipe_file(f"/shelf/{path.relative_to(folder)}", path.read_bytes())
    place = bundles.local_copy("memory://shelf", tmp_path)
    assert verify(place)["version"] == place.name and bundles.local_copy("memory://shelf", tmp_path) == place
    memory.pipe_file("/shelf/model/popular.npy", b"no numbers")
    assert bundles.local_copy("memory://shelf", tmp_path) == place  # the copy that is whole is used
    with pytest.raises(DataError, match=r"popular\.npy is not as it was written"):
        bundles.local_copy("memory://shelf", tmp_path / "other")
    assert not list((tmp_path / "other" / "bundles").iterdir())


@pytest.mark.slow
def test_commands(fits, shop, folder, tmp_path, capsys):
    from recsys_lab.cli import main

    packed(fits, shop, tmp_path / "b")
    packed(fits, shop, tmp_path / "b", exact_up_to=100)
    assert (tmp_path / "b" / "near" / "als.faiss").exists() and main(["bundle", "verify", str(tmp_path / "b")]) == 0
    assert main(["bundle", "diff", str(folder), str(tmp_path / "b")]) == 0
    told = capsys.readouterr().out
    assert "is whole" in told and "file near/als.faiss: None ->" in told
    assert main(["bundle", "rollback", str(tmp_path / "b")]) == 0
    assert verify(tmp_path / "b")["version"] == verify(folder)["version"]
    for words in (["verify"], ["create", str(tmp_path)], []):
        assert main(["bundle", *words]) == 2
    assert main(["bundle", "create", str(tmp_path), "-o", str(tmp_path / "c")]) == 2
    assert "holds no fit of hybrid_tuned" in capsys.readouterr().err


def test_what_happened_at_the_moment_of_the_request_is_not_yet_known(folder):
    """A known user who asks at the time of an event is answered from what came strictly before it."""
    b = Bundle(folder)
    user = int(np.argmax(np.diff(b.known.indptr)))
    times = b.known.times[slice(*b.known.indptr[user : user + 2].tolist())]
    distinct = np.flatnonzero(np.diff(times) > 0)[2] + 1  # a time that is not that of the event before
    for at, before in ((int(times[distinct]), distinct), (int(times[distinct]) + 1, (times <= times[distinct]).sum())):
        assert len(b.history(user, at).items) == before
    assert len(b.history(user, int(times[0])).items) == 0 and len(b.history(user).items) == len(times)


def test_a_bundle_lists_only_what_is_allowed_and_leaves_out_what_its_model_does(folder, fits):
    b, hybrid = Bundle(folder), fits[2]
    user = int(np.argmax(np.diff(b.known.indptr)))
    allowed = np.arange(len(b.items)) % 4 == 1
    for name in b.models:
        listed = b.rank(b.history(user), 9, name, "none", None, allowed)
        assert len(listed.codes) == 9 and allowed[listed.codes].all(), name
        usual = b.rank(b.history(user), 9, name, b.models[name].default_exclude)
        assert b.rank(b.history(user), 9, name).codes.tolist() == usual.codes.tolist()
    assert allowed[b.rank(b.history(-1), 9, "", "none", None, allowed).codes].all()
    assert b.rank(b.history(user), 9).codes.tolist() == hybrid.recommend([b.users[user]], 9).codes[0].tolist()


OWN = """
from recsys_lab import Recommender


class Together(Recommender):
    name = "together_of_test"

    def _fit(self, dataset):
        matrix = dataset.matrix().matrix
        return {"pairs": (matrix.T @ matrix).tocsr()}

    def _score(self, histories):
        return (histories.matrix(len(self.items)) @ self.state["pairs"]).tocsr()
"""


@pytest.mark.slow
def test_a_model_of_ones_own_is_bundled_and_served(fits, shop, tmp_path):
    """Its code counts as the package's does; a server that was not told of it refuses the bundle, and imports nothing."""
    path = tmp_path / "own_of_test.py"
    path.write_text(OWN)
    try:
        known = splits.make(shop).known("test")
        model = import_plugin(f"{path}:Together")().fit(known)
        manifest = bundles.pack(fits[0], shop, tmp_path / "b", {"together_of_test": model.save(tmp_path / "fit")})
        assert any(name.startswith("file:own_of_test:Together") for name in manifest["code"])
        user = int(known.users[5])
        wanted = model.recommend([user], k=4, exclude="none").frame().item_id.tolist()
        with serving(tmp_path / "b", RECSYS_LAB_PLUGINS=str(path)) as (url, _):
            body = {"user_id": user, "k": 4, "model": "together_of_test", "exclude": "none"}
            answer = requests.post(f"{url}/recommend/explain", json=body, timeout=30).json()
            assert [r["itemid"] for r in answer["recommendations"]] == wanted
            assert answer["recommendations"][0]["because"]
        ask = f"from recsys_lab.serving.bundle import verify; verify({str(tmp_path / 'b')!r})"
        done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False)
        assert done.returncode and "the bundle's models are not known here" in done.stderr
        path.write_text(OWN.replace("matrix.T @ matrix", "matrix.T @ matrix * 2"))
        env = os.environ | {"RECSYS_LAB_PLUGINS": str(path)}
        done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False, env=env)
        assert "own_of_test:Together is not as it was when the bundle was made" in done.stderr
    finally:
        MODELS.discard("together_of_test")
        sys.modules.pop("own_of_test", None)
