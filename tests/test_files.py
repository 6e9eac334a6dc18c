"""Files whole or not at all, and the code behind a result: what a change of it makes out of date."""

import shutil
from pathlib import Path

import pytest

from recsys_lab import files, loading, runs
from recsys_lab.files import code_fingerprint, imported_modules, modules_behind
from recsys_lab.models.base import MODELS, model_class
from recsys_lab.registry import code_module

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package that fingerprints are taken from, to be edited."""
    shutil.copytree(ROOT / "recsys_lab", tmp_path / "recsys_lab")
    monkeypatch.setattr(files, "package_folder", lambda: tmp_path / "recsys_lab")
    forget()
    yield tmp_path / "recsys_lab"
    forget()


def forget():
    modules_behind.cache_clear()
    code_fingerprint.cache_clear()


def edit(package: Path, module: str, old: str, new: str) -> None:
    path = (package / module.replace(".", "/")).with_suffix(".py")
    text = path.read_text()
    assert text.count(old) >= 1, (module, old)
    path.write_text(text.replace(old, new, 1))
    forget()


@pytest.mark.parametrize(
    "module, old, new",
    [
        (
            "readers.amazon",
            "def parse_price(",
            "def parse_price(text: str = '', *, more: int = 0) -> None: ...\ndef parse_it(",
        ),
        ("readers.times", "PLAUSIBLE = (631_152_000", "PLAUSIBLE = (631_152_001"),
        ("readers.formats", "def drop_repeats(", "def drop_repeats(events): return events, {}\ndef dropped("),
        ("catalogue", "PRICES = ", "PRICES = () or "),
    ],
)
def test_a_parquet_copy_is_out_of_date_when_the_code_that_reads_is_changed(package, tmp_path, module, old, new):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "events.csv").write_text("timestamp\n")
    before = loading.content_key(tmp_path / "log", "log", {})
    assert before == loading.content_key(tmp_path / "log", "log", {})
    edit(package, module, old, new)
    assert loading.content_key(tmp_path / "log", "log", {}) != before


@pytest.mark.parametrize(
    "model, module, old",
    [
        ("taxonomy", "models.neighbours", "def keep_strongest("),
        ("taxonomy", "catalogue", "class Tree"),
        ("oracle", "simulator", "class Truth"),
        ("hybrid", "ranking.features", "def feature_block("),
        ("hybrid", "models.als", "def solve_users("),
        ("lightfm_hybrid", "catalogue", "PRICES = "),
        ("content", "encoders", "ENCODER = "),
        ("blend", "models.graph_filter", "class GraphFilter("),
        ("rp3beta", "numerics", "def round_scores("),
    ],
)
@pytest.mark.slow
def test_a_fit_is_out_of_date_when_what_it_computes_with_is_changed(package, shop, model, module, old):
    known = shop
    one = model_class(model)(**({"members": {"graph_filter": {}, "ease": {}}} if model == "blend" else {}))
    before = runs.fit_key(one, known)
    edit(package, module, old, "MARK = 1\n\n" + old)
    assert runs.fit_key(one, known) != before


def test_comments_and_other_rooms_change_no_fit(package, shop):
    one = model_class("item_knn")()
    before = runs.fit_key(one, shop)
    edit(package, "models.neighbours", "def keep_strongest(", "# a comment\ndef keep_strongest(")
    edit(package, "serving.service", "class Service:", "MARK = 1\n\n\nclass Service:")
    edit(package, "models.lightgcn", "class LightGCN", "MARK = 1\n\n\nclass LightGCN")
    assert runs.fit_key(one, shop) == before


@pytest.mark.parametrize("name", sorted(MODELS.own()))
def test_every_model_names_the_modules_behind_it(name):
    model = model_class(name)()
    behind = modules_behind(model.modules)
    assert {"models.base", "histories", "numerics", code_module(MODELS.place(name))} <= set(behind)
    assert not any(m.startswith("serving") or m in ("cli", "book", "runs") for m in behind)


def test_imports_are_followed_wherever_they_stand():
    assert imported_modules("import recsys_lab.files as f\nfrom recsys_lab.models import als") == {
        "files",
        "models.als",
    }
    assert imported_modules("def late():\n    from .base import load", "models.als") == {"models.base"}
    assert imported_modules("from .. import plots, splits\nimport os", "ranking.hybrid") == {"plots", "splits"}
    assert imported_modules("from recsys_lab import __version__") == set()


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "told.json"
    files.write_text(path, "old")
    monkeypatch.setattr(files.os, "replace", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        files.write_text(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["told.json"] and path.read_text() == "old"
