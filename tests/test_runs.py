"""The folder of a run: what a chapter keeps there, once, and what it may not mix."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers import random_log

from recsys_lab import evaluation, runs, splits
from recsys_lab.evaluation import compare_pairs
from recsys_lab.models.neighbours import ItemKNN
from recsys_lab.models.popularity import Popularity
from recsys_lab.runs import RunFolder

LOG = random_log(3, n=1500, users=150)
MODELS = [Popularity(), ItemKNN()]


@pytest.fixture(scope="module")
def split():
    return splits.make(LOG)


@pytest.fixture(scope="module")
def judged(split):
    return runs.judge(None, MODELS, split, k=10)


def asked(model, split):
    """The evaluation of a model on the first question."""
    [found] = runs.judge(None, [model], split, 10, runs.questions(split)[:1])
    return found


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_is_kept_comes_back(judged, tmp_path):
    run = runs.Run(tmp_path, "21_popularity")
    for e in judged:
        run.record(e)
    back = {(e.model, runs.question_of(e.about)): e for e in run.evaluations()}
    assert len(back) == len(judged)
    for e in judged:
        other = back[e.model, runs.question_of(e.about)]
        assert (other.codes == e.codes).all() and other.units == e.units
        assert other.mean("ndcg", 10) == e.mean("ndcg", 10)
    rows = run.frame().query("slice == 'all' and metric == 'ndcg' and k == 10")
    by_name = {(e.model, *runs.question_of(e.about)): e.mean("ndcg", 10) for e in judged}
    for row in rows.itertuples():
        assert row.value == pytest.approx(by_name[row.model, row.protocol, row.target, row.exclude], abs=1e-6)


def test_only_the_evaluations_that_are_asked_for_are_read(judged, split, tmp_path, monkeypatch):
    """All of a large log's together took a gigabyte, in a chapter that needed a few."""
    run = runs.Run(tmp_path, "21_popularity")
    odd = replace(judged[0], about=judged[0].about | {"model": "my model__v2"})
    for e in [*judged, odd, *runs.judge(None, [Popularity()], split, 10, part="valid")]:
        run.record(e)
    opened = []
    load = evaluation.Evaluation.load
    monkeypatch.setattr(evaluation.Evaluation, "load", lambda path: opened.append(path) or load(path))
    question, name = runs.questions(split)[0], MODELS[0].name
    for words, wanted in (
        ({"models": [name]}, lambda e: e.model == name),
        ({"models": ["my model__v2"]}, lambda e: e.model == "my model__v2"),
        (
            {"question": question, "part": "test"},
            lambda e: (runs.question_of(e.about), e.about["part"]) == (question, "test"),
        ),
        ({"part": "valid"}, lambda e: e.about["part"] == "valid"),
        ({}, lambda e: True),
    ):
        opened.clear()
        found = run.evaluations(**words)
        assert found and all(map(wanted, found)) and len(opened) == len(found)
        assert len(found) == sum(map(wanted, run.evaluations()))


def test_a_chapter_that_is_run_again_replaces_its_own_and_nothing_else(judged, tmp_path):
    for chapter, e in (("21_popularity", judged[0]), ("22_neighbours", judged[-1])):
        runs.Run(tmp_path, chapter).record(e)
    before = files(tmp_path)
    runs.Run(tmp_path, "22_neighbours").record(judged[-1])
    timeless = {k: v for k, v in files(tmp_path).items() if k.name != "costs.json"}
    assert timeless == {k: v for k, v in before.items() if k.name != "costs.json"}
    runs.Run(tmp_path, "22_neighbours")
    assert {row["chapter"] for row in json.loads((tmp_path / "metrics.json").read_text())} == {"21_popularity"}
    assert not list(tmp_path.glob("evaluations/22_*"))


def test_two_settings_of_one_model_do_not_overwrite_each_other(split, tmp_path):
    run = runs.Run(tmp_path, "22_neighbours")
    run.record(asked(ItemKNN(), split))
    run.record(asked(ItemKNN(), split))  # the same again is no other
    with pytest.raises(ValueError, match=r"another evaluation of item_knn .* a name of their own"):
        run.record(asked(ItemKNN(n_neighbors=1), split))
    named = runs.judge(None, [ItemKNN(), ItemKNN(n_neighbors=1)], split, k=10)
    assert len({e.model for e in named}) == 2


def test_other_shares_do_not_stand_in_one_table(split, tmp_path):
    runs.Run(tmp_path, "21_popularity").record(asked(Popularity(), split))
    other = splits.make(LOG, test=0.4)
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"21_popularity judged popularity .* use the same ones, or another folder"):
        runs.Run(tmp_path, "22_neighbours").record(asked(ItemKNN(), other))
    assert files(tmp_path) == before


def test_a_pair_is_compared_once(split, tmp_path):
    a, b = (asked(m, split) for m in MODELS)
    run = runs.Run(tmp_path, "22_neighbours")
    run.record_comparisons(compare_pairs([(a, b)], "ndcg", 10))
    for again in ((a, b), (b, a)):
        with pytest.raises(ValueError, match=r"(item_knn and popularity|popularity and item_knn) twice"):
            run.record_comparisons(compare_pairs([again], "ndcg", 10))
    assert len(run.rows("comparisons")) == 1
    run.record_comparisons(compare_pairs([(a, b)], "recall", 10))  # another metric is another family


def test_a_fit_is_made_once_for_a_log_and_its_settings(split, tmp_path, monkeypatch):
    run, known, made = runs.Run(tmp_path, "22_neighbours"), split.known("test"), []
    fit = ItemKNN.fit
    monkeypatch.setattr(ItemKNN, "fit", lambda self, log, **more: made.append(self.config) or fit(self, log, **more))
    lists = [run.fit(ItemKNN(), known).recommend(range(20), 5).codes for _ in range(2)]
    assert len(made) == 1 and (lists[0] == lists[1]).all()
    run.fit(ItemKNN(n_neighbors=3), known)
    run.fit(ItemKNN(), split.known("valid"))
    assert len(made) == 3
    assert ItemKNN.load(run.fitted("item_knn")).config == ItemKNN().config
    with pytest.raises(ValueError, match="holds no fitted 'als'; it holds item_knn"):
        run.fitted("als")


def test_a_run_without_a_folder_keeps_nothing(judged, split, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = runs.Run("", "21_popularity")
    run.record(judged[0])
    run.fit(Popularity(), split.known("test"))
    assert run.rows("metrics") == [] and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "kept"),
    [(np.float32(0.5), 0.5), (1 / 3, 0.333333), (1.23456e-7, 1.23e-7), (np.int64(3), 3), (np.nan, None)],
)
def test_json_holds_what_it_can(value, kept):
    assert runs.plain(value) == kept


def test_rows_of_other_chapters_stay_as_they_are_to_the_byte(tmp_path):
    first, second = RunFolder(tmp_path, "21_popularity"), RunFolder(tmp_path, "22_neighbours")
    first._append(
        "costs",
        [{"model": 'a "quoted" name, {"chapter": "22_neighbours"}', "seconds": 0.1}, {"model": "line\u2028end"}],
    )
    before = (tmp_path / "costs.json").read_text(encoding="utf-8")
    for _ in range(2):
        second._append("costs", [{"model": "item_knn"}])
    lines = (tmp_path / "costs.json").read_text(encoding="utf-8").split("\n")
    assert lines[:3] == [*before.split("\n")[:2], before.split("\n")[2] + ","]
    assert [row["model"] for row in second._mine("costs")] == ["item_knn"] * 2
    second.forget()
    assert (tmp_path / "costs.json").read_text(encoding="utf-8") == before


@pytest.mark.parametrize("text", ["[\n{", '[\n{"chapter": "a", "k": }\n]\n', '[\n{"chapter": "a"}\n'])
def test_a_damaged_file_of_rows_is_named(tmp_path, text):
    (tmp_path / "costs.json").write_text(text)
    with pytest.raises(ValueError, match=r"costs\.json: not valid JSON"):
        RunFolder(tmp_path).rows("costs")


def test_rows_written_otherwise_are_read_all_the_same(tmp_path):
    (tmp_path / "costs.json").write_text(json.dumps([{"chapter": "a", "k": 1}, {"k": 2}], indent=1))
    assert [row["k"] for row in RunFolder(tmp_path).rows("costs")] == [1, 2]
