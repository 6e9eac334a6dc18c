"""Commands for models: a list, the contract of one's own class, and why an item is recommended."""

import json
import textwrap

import pytest
from helpers import random_log, run_lab

from recsys_lab import runs
from recsys_lab.cli import main
from recsys_lab.models.base import MODELS
from recsys_lab.models.neighbours import ItemKNN

MINE = """
    import numpy as np
    from recsys_lab import Recommender

    class Mine(Recommender):
        name = "mine_of_commands"

        def _fit(self, dataset):
            return {"noise": np.random.default_rng(SEED).random(len(dataset.items))}

        def _score(self, histories):
            return self.state["noise"]
"""


@pytest.fixture
def a_run(tmp_path):
    runs.Run(tmp_path / "run", "22_neighbours").fit(ItemKNN(), random_log(5))
    return str(tmp_path / "run")


def test_models_are_listed_with_those_of_plugins(tmp_path):
    (tmp_path / "mine_of_commands.py").write_text(textwrap.dedent(MINE))
    rows = json.loads(run_lab("models", "--json", "--plugin", "mine_of_commands.py", cwd=tmp_path).stdout)
    assert {"als", "mine_of_commands"} <= {row["model"] for row in rows} and len(rows) == len(MODELS.own()) + 1


def test_ones_own_class_is_checked(tmp_path):
    path = tmp_path / "mine_of_commands.py"
    for seed, code, said in (("0", 0, "kept: two fits give the same lists"), ("None", 1, "seed what draws")):
        path.write_text(textwrap.dedent(MINE).replace("SEED", seed))
        done = run_lab("check", "mine_of_commands.py:Mine", cwd=tmp_path)
        assert done.returncode == code and said in done.stdout, done
    assert run_lab("check", "mine_of_commands.py:Yours", cwd=tmp_path).returncode == 2
    assert "name the class in it" in run_lab("check", "mine_of_commands.py", cwd=tmp_path).stderr
    assert "take values" in run_lab("check", "item_knn", "--set", "shrinkage=much").stderr.replace("takes", "take")


def test_an_explanation_can_be_read_by_programs(a_run, capsys):
    log, model = random_log(5), ItemKNN().fit(random_log(5))
    user, item = int(log.users[3]), int(model.recommend([log.users[3]], k=1).frame().item_id[0])
    assert (
        main(["explain", "--run", a_run, "--model", "item_knn", "--user", str(user), "--item", str(item), "--json"])
        == 0
    )
    told = json.loads(capsys.readouterr().out)
    why = model.explain(model.histories([user]), item)
    assert told["score"] == pytest.approx(why.score) and [p["id"] for p in told["parts"]] == [p.id for p in why.parts]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--item", "1"], "say whose list it is"),
        (["--item", "1", "--user", "2", "--history", "3"], "say whose list it is"),
        (["--item", "one", "--user", "2"], "--item must be a whole number"),
        (["--item", "1", "--history", "2,three"], "--history must be a whole number"),
        (["--item", "999999", "--history", "2"], "does not know the item 999999"),
    ],
)
def test_wrong_asks_are_told(a_run, words, told, capsys):
    assert main(["explain", "--run", a_run, "--model", "item_knn", *words]) == 2
    assert told in capsys.readouterr().err
