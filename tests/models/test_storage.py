"""Models saved and loaded, and refused where damaged."""

import json

import pytest
from helpers import SHOP_ONLY, make_quick, random_log, same_lists

from recsys_lab.models.base import load_model
from recsys_lab.models.popularity import Popularity

NEEDS_CATEGORIES = {"popularity_category", "lightfm_hybrid", "taxonomy", "content", "reranked"}


def test_save_and_load(fitted, shop_split, tmp_path):
    users = shop_split.known("test").users[:40]
    back = load_model(fitted.save(tmp_path / "model"))
    assert same_lists(back.recommend(users, k=9), fitted.recommend(users, k=9)) and back.fitted_on == fitted.fitted_on
    if fitted.name not in SHOP_ONLY:
        assert same_lists(back.similar_items(fitted.items[:5], k=4), fitted.similar_items(fitted.items[:5], k=4))
    assert repr(back) == repr(fitted) and back.config == fitted.config
    mapped = load_model(tmp_path / "model", mapped=True)
    assert same_lists(mapped.recommend(users, k=9), fitted.recommend(users, k=9))
    fitted.save(tmp_path / "model")  # replaces whole
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_text_ids_survive(name, tmp_path):
    if name in SHOP_ONLY | NEEDS_CATEGORIES:
        pytest.skip("needs a log of its own kind")
    log = random_log(4, text=True)
    model = make_quick(name).fit(log)
    frame = load_model(model.save(tmp_path / "m")).recommend(["u1", "u2"], k=3).frame()
    assert frame.equals(model.recommend(["u1", "u2"], k=3).frame()) and frame.item_id.str.startswith("i").all()


def test_a_damaged_or_foreign_model_is_refused(tmp_path):
    path = Popularity().fit(random_log(0)).save(tmp_path / "m")
    head = json.loads((path / "model.json").read_text())
    (path / "model.json").write_text(json.dumps({**head, "name": "os.system"}))
    with pytest.raises(ValueError, match=r"no model with a known name \(it says 'os.system'\)"):
        load_model(path)
    (path / "model.json").write_text(json.dumps({**head, "format": 2}))
    with pytest.raises(ValueError, match="popularity is saved in format 2, and this version reads 4; fit it again"):
        load_model(path)
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "nowhere")
