"""Commands for runs: parameters as shells give them, leaderboards that programs can read, and models of one's own."""

import json
import textwrap

import pytest
from helpers import ROOT, run_lab

from recsys_lab import book
from recsys_lab.cli import main
from recsys_lab.commands.runs import split_words


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["k=20 seed=1"], ["k=20", "seed=1"]),
        (['22.models=["a", "b"] k=3'], ['22.models=["a", "b"]', "k=3"]),
        ([""], []),
        (["a=1", "b=[1, [2, 3]]"], ["a=1", "b=[1, [2, 3]]"]),
    ],
)
def test_parameters_are_split_outside_brackets(words, parts):
    assert split_words(words) == parts


def test_a_leaderboard_can_be_read_by_programs(capsys):
    assert main(["leaderboard", str(ROOT / "reports" / "shop"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"question", "model", "metric", "value", "low", "high"} <= set(rows[0])
    best = [r for r in rows if r["metric"] == "ndcg" and r["question"] == rows[0]["question"]]
    assert [r["value"] for r in best] == sorted((r["value"] for r in best), reverse=True)
    shown = book.leaderboards(ROOT / "reports" / "shop")
    assert all(f"| {r['model']} |" in shown for r in best)


def test_parameters_can_be_read_by_programs(capsys):
    assert main(["params", "22", "--json"]) == 0
    (chapter,) = json.loads(capsys.readouterr().out).values()
    assert {"name": "k", "type": "int", "default": 10}.items() <= next(p for p in chapter if p["name"] == "k").items()


@pytest.mark.slow
def test_a_model_of_ones_own_is_tuned_judged_and_ranked_with_the_others(tmp_path):
    """In a lab outside the checkout: from a file, by its name, without an edit of the package."""
    lab = tmp_path / "lab"
    assert run_lab("new", str(lab), cwd=tmp_path).returncode == 0
    (lab / "my_models.py").write_text(
        textwrap.dedent(
            """
            import numpy as np
            from recsys_lab import Recommender
            from recsys_lab.models.config import Config, Range, setting


            class DampedConfig(Config):
                damping: float = setting(10.0, "added to the users of an item", Range(1.0, 100.0, True), gt=0)


            class Damped(Recommender):
                name, Config, requires_cooccurrence = "damped", DampedConfig, True

                def _fit(self, dataset):
                    matrix = dataset.matrix().matrix
                    pairs = (matrix.T @ matrix).toarray().astype(float)
                    users = pairs.diagonal().copy()
                    np.fill_diagonal(pairs, 0)
                    return {"weights": (pairs / (users[:, None] + self.config.damping)).astype(np.float32)}

                def _score(self, histories):
                    return histories.matrix(len(self.items)).astype(np.float32) @ self.state["weights"]
            """
        )
    )
    (lab / "my_metric.py").write_text(
        "from recsys_lab.metrics import metric\n\n\n@metric('first_of_run')\ndef first(hits, n_relevant):\n    return hits[:, 0] * 1.0\n"
    )
    words = (
        "run",
        "--size",
        "tiny",
        "--only",
        "21,90",
        "--params",
        "trials=2",
        "--no-book",
        "--model",
        "my_models.py:Damped",
    )
    words = (*words, "--plugin", "my_metric.py")
    done = run_lab(*words, cwd=lab)
    assert done.returncode == 0, done.stderr
    run = lab / "reports" / "shop-tiny"
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"damped", "popularity"} <= {row["model"] for row in metrics}
    assert {"damped", "popularity"} <= {row["model"] for row in metrics if row["metric"] == "first_of_run"}
    trials = [row for row in json.loads((run / "trials.json").read_text()) if row["model"] == "damped"]
    assert len({json.dumps(row["settings"]) for row in trials}) > 2 and any(row["chosen"] for row in trials)
    compared = json.loads((run / "comparisons.json").read_text())
    assert any("damped" in (row["a"], row["b"]) for row in compared)
    assert "damped" in done.stdout and "damped" in (run / "README.md").read_text()
    lists = run_lab(
        "recommend", "--run", str(run), "--model", "my_models.py:Damped", "--out", "lists.csv", "-k", "3", cwd=lab
    )
    assert lists.returncode == 0 and "lists of 3 by damped" in lists.stdout, lists.stderr
    unnamed = run_lab("recommend", "--run", str(run), "--model", "damped", "--out", "lists.csv", cwd=lab)
    assert unnamed.returncode == 2 and "saved by my_models:Damped" in unnamed.stderr
    again = run_lab(*words, "--resume", cwd=lab)
    assert again.returncode == 0
