"""The values of every model of an earlier version of the lab on the smallest shop, with which CI compares a new one.

`python tests/reference.py build/ci` keeps from a run of `make reports SIZE=tiny BUDGET=none` what a comparison needs: for the first two
questions the NDCG@10 of each request, without the lists. Make it anew when a change is meant to move them, and say so in the commit.
"""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from recsys_lab.evaluation import Evaluation
from recsys_lab.files import whole_folder

PLACE = Path(__file__).parent / "reference"
QUESTIONS = ("next_item__any__none__test", "next_item__any__seen__test")
KEPT = ("ndcg", 10)


def slim(evaluation: Evaluation) -> Evaluation:
    """What is needed to pair it: the questions' hash, visitors and one metric."""
    nothing = np.zeros((len(evaluation.codes), 0), np.int32)
    values = {KEPT: evaluation.values[KEPT]}
    indptr = np.zeros(len(evaluation.codes) + 1, np.int64)
    return replace(
        evaluation,
        codes=nothing,
        indptr=indptr,
        relevant=np.zeros(0, np.int64),
        labels={},
        values=values,
        lists={},
        ks=(10,),
    )


def keep(run: Path) -> int:
    """Write `tests/reference` from a run; returns how many evaluations it holds."""
    paths = [p for p in sorted(run.glob("evaluations/*.npz")) if p.stem.endswith(QUESTIONS)]
    with whole_folder(PLACE) as beside:
        for path in paths:
            slim(Evaluation.load(path)).save(beside / "evaluations" / path.name)
        rows = [r for r in json.loads((run / "metrics.json").read_text()) if (r["slice"], r["part"]) == ("all", "test")]
        kept = [
            r for r in rows if (r["metric"], r["k"]) == KEPT and r["protocol"] == "next_item" and r["target"] == "any"
        ]
        (beside / "metrics.json").write_text("[\n" + ",\n".join(json.dumps(r) for r in kept) + "\n]\n")
        shutil.copy(run / "provenance.json", beside / "provenance.json")
    return len(paths)


if __name__ == "__main__":
    print(f"{keep(Path(sys.argv[1]))} evaluations in {PLACE}")
