"""Questions, cases, metrics and lists over a log in many files are those of one machine."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import LOGS_IN_FILES, random_log

from recsys_lab import splits
from recsys_lab.evaluation import evaluate
from recsys_lab.histories import FOREVER
from recsys_lab.models.base import model_class
from recsys_lab.scale import fitting, running, store
from recsys_lab.scale.cluster import Cluster


@pytest.mark.parametrize("kind", ["times", "sessions"])
@pytest.mark.parametrize("judged", [0, 12])
def test_questions_are_those_of_one_machine(tmp_path, kind, judged):
    """Cases, values of each case, slices and measures of all lists are those of `evaluate`, for a sample of visitors too."""
    log, here = LOGS_IN_FILES[kind](3), Cluster()
    kept = store.write_partitions(log, tmp_path / "store", 7)
    job, cut = store.make_job(kept, tmp_path / "work"), store.cut_store(here, kept)
    split = splits.make(log, judged=judged)
    model = model_class("item_knn")().fit(split.known("test"))
    place = fitting.fit_model(here, job, cut.test_at, "item_knn")
    store.count_known(here, job, FOREVER)
    questions = [("next_item", "any", "none"), ("next_item", "any", "seen")]
    for question in (
        questions + [("next_period", "any", "seen"), ("next_period", "purchase", "purchased")] * log.has_times
    ):
        steps = running.ask_question(here, job, cut, question, {"item_knn": place}, judged=judged)["item_knn"]
        ours = running.judge_lists(job, cut, "test", question, *steps, "item_knn", "fold_in", {})
        theirs = evaluate(model, split, question[0], question[1], exclude=question[2])
        assert len(ours.codes) == len(theirs.codes) > 0
        order = [
            np.lexsort((e.relevant[e.indptr[:-1]], e.indptr[1:] - e.indptr[:-1], e.user_ids.astype(str)))
            for e in (ours, theirs)
        ]
        for key, values in theirs.values.items():
            np.testing.assert_allclose(np.sort(ours.values[key]), np.sort(values), rtol=1e-12, err_msg=str(key))
        assert (ours.user_ids[order[0]].astype(str) == theirs.user_ids[order[1]].astype(str)).all()
        for key, value in theirs.lists.items():
            assert ours.lists[key] == pytest.approx(value, rel=1e-12), key
        ours_rows, theirs_rows = (
            pd.DataFrame(e.rows()).set_index(["slice", "metric", "k"])["value"] for e in (ours, theirs)
        )
        pd.testing.assert_series_equal(ours_rows.sort_index(), theirs_rows.sort_index(), rtol=1e-12)


def test_lists_of_all_visitors(tmp_path):
    """Each visitor gets the list that one machine gives, whichever file holds them."""
    log, here = random_log(5), Cluster()
    kept = store.write_partitions(log, tmp_path / "store", 4)
    job, cut = store.make_job(kept, tmp_path / "work"), store.cut_store(here, kept)
    count = running.recommend_all(
        here, job, fitting.fit_model(here, job, cut.test_at, "item_knn"), tmp_path / "lists", 5
    )
    frame = pd.concat([pd.read_parquet(p) for p in Path(tmp_path / "lists").glob("*.parquet")])
    assert count == frame["user_id"].nunique() == len(log.users)
    model = model_class("item_knn")().fit(splits.make(log).known("test"))
    wanted = model.rank(log.histories(), 5, "seen").frame()
    keys = ["user_id", "rank"]
    pd.testing.assert_frame_equal(
        frame.sort_values(keys)[["user_id", "item_id", "rank"]].reset_index(drop=True),
        wanted.sort_values(keys)[["user_id", "item_id", "rank"]].reset_index(drop=True),
        check_dtype=False,
    )
