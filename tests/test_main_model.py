"""Classes defined in `__main__`, as in a notebook's own exported cells, go through everything beside the packaged ones."""

import subprocess
import sys

from helpers import ROOT

SCRIPT = """
import json, sys, numpy as np
from recsys_lab import evaluation, loading, runs, splits
from recsys_lab.models import base, neighbours, popularity

cells = json.load(open("nbs/22_neighbours.ipynb"))["cells"]  # the chapter's exported cells, run as __main__
exported = ["".join(c["source"]) for c in cells if "#| export" in "".join(c["source"])]
source = "\\n".join(exported).replace("from __future__ import annotations", "")
exec(compile("from __future__ import annotations\\n" + source, "cells", "exec"), globals())
assert ItemKNN.__module__ == "__main__" and ItemKNN is not neighbours.ItemKNN
split = splits.make(loading.load("shop", size="tiny"))
known = split.known("test")
mine = ItemKNN(shrinkage=5.0).fit(known)
found = evaluation.evaluate(mine, split, "next_period", ks=(10,))
theirs = evaluation.evaluate(neighbours.ItemKNN(shrinkage=5.0), split, "next_period", ks=(10,))
assert found.compare(theirs)["difference"] == 0
back = base.load_model(mine.save(sys.argv[1] + "/model"))
assert type(back) is neighbours.ItemKNN and back.config.shrinkage == 5.0
assert (back.recommend(known.users[:50]).codes == mine.recommend(known.users[:50]).codes).all()
run = runs.Run(sys.argv[1] + "/run", "22_neighbours")
kept, again = run.fit(mine, known), run.fit(ItemKNN(shrinkage=5.0), known)
assert (kept.recommend(known.users[:9]).codes == again.recommend(known.users[:9]).codes).all()
run.record(found)
assert evaluation.Evaluation.load(next(run.folder.glob("evaluations/*.npz"))).compare(found)["difference"] == 0
print("ok")
"""


def test_a_model_of_main_is_evaluated_saved_and_loaded(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stdout.strip() == "ok", done.stderr
