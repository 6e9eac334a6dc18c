"""Decisions of a run: five answers for each question, and models that are missing with the reason."""

import json

from helpers import ROOT

from recsys_lab import board
from recsys_lab.runs import MEANING, question_of


def test_the_board_answers_every_question_that_was_decided():
    folder = ROOT / "reports" / "shop"
    decided, answers = json.loads((folder / "decisions.json").read_text()), board.decision_board(folder)
    assert answers.question.tolist() == [MEANING[question_of(row)] for row in decided]
    assert answers["which model"].tolist() == [row["chosen"] for row in decided]
    for (_, line), row in zip(answers.iterrows(), decided, strict=True):
        sure = line["how sure (NDCG)"]
        assert f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}] against {row['baseline']}" in sure
        assert ("not shown" in sure) == (row["p_adjusted"] >= 0.05)
        faster = line["which faster one is as good"].partition(",")[0].partition(" (")[0]
        assert faster in [*row["confidence_set"], "none"]


def test_models_that_are_missing_are_named_with_the_reason(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps([{"model": "popularity"}]))
    chapters = {
        "22_neighbours": {"status": "done"},
        "23_linear": {"status": "done"},
        "40_lightgcn": {"status": "failed"},
    }
    (tmp_path / "provenance.json").write_text(json.dumps({"chapters": chapters}))
    (tmp_path / "params.json").write_text(json.dumps({"23_linear": {"ease_items": 12, "k": 10}}))
    planned = {"bpr": {"trials": 0, "left_out": "its defaults need about 900 s, and each model may take 100 s"}}
    (tmp_path / "plan.json").write_text(json.dumps({"seconds": 360.0, "models": planned}))
    why = board.models_not_judged(tmp_path).set_index("model").why
    assert "popularity" not in why and why["ease"] == "left out by 23_linear (ease_items=12)"
    assert why["item_knn"] == "left out by 22_neighbours" and why["lightgcn"] == "40_lightgcn did not finish"
    assert why["als"] == "24_als was not run" and why["bpr"] == planned["bpr"]["left_out"]
