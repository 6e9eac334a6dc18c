"""What a run was made with, and what a comparison tells of two."""

import json
import os
import platform
import subprocess
import sys
from dataclasses import replace

import pytest
from helpers import ROOT

from recsys_lab import cli, loading, provenance, runs, splits
from recsys_lab.evaluation import evaluate
from recsys_lab.models.popularity import Popularity, RecentPopularity

pytestmark = pytest.mark.slow


def test_provenance_names_processor_and_kernel_and_runs_say_what_they_were_made_with(tmp_path):
    """The kernel that OpenBLAS was told to take, as a process started with it sees it."""
    ask = "import json; from recsys_lab import provenance; print(json.dumps(provenance.provenance_of()))"
    for name, kernel in (("a", "Nehalem"), ("b", "Haswell")):
        env = os.environ | {"OPENBLAS_CORETYPE": kernel, "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", ask], env=env, cwd=ROOT, capture_output=True, text=True, check=True
        )
        (tmp_path / name).mkdir()
        (tmp_path / name / "provenance.json").write_text(done.stdout)
    told = json.loads((tmp_path / "a" / "provenance.json").read_text())["machine"]
    assert told["cores"] == os.cpu_count() and told["blas"] and isinstance(told["simd"], list)
    if platform.machine() != "x86_64":
        pytest.skip("the kernels are those of x86-64")
    assert all("Nehalem, 1 threads" in lib for lib in told["blas"]) and told["model"]
    table = provenance.provenance_differences(tmp_path / "a", tmp_path / "b")
    assert table.what.tolist() == ["machine.blas"] and "Haswell" in table.b.item()
    assert not len(provenance.provenance_differences(tmp_path / "a", tmp_path / "a"))


def test_a_comparison_tells_what_was_chosen_otherwise(tmp_path, capsys):
    for name, alpha in (("a", 0.1), ("b", 0.0)):
        folder = tmp_path / name
        folder.mkdir()
        fit = {
            "chapter": "34_hybrid_alpha",
            "model": "hybrid_tuned",
            "fit": "x",
            "settings": {"alpha": alpha, "seed": 0},
        }
        (folder / "fits.json").write_text(json.dumps([fit]))
        trial = {"chapter": "22_neighbours", "model": "item_knn", "trial": 0}
        trial |= {"protocol": "next_item", "target": "any", "exclude": "none"}
        (folder / "trials.json").write_text(json.dumps([trial | {"settings": {}, "chosen": name == "a"}]))
        row = dict.fromkeys(runs.METRIC_COLUMNS, "x") | {"value": alpha, "k": 10}
        (folder / "metrics.json").write_text(json.dumps([row]))
    table = provenance.choice_differences(tmp_path / "a", tmp_path / "b")
    assert table.model.tolist() == ["hybrid_tuned", "item_knn"]
    assert table[["a", "b"]].values.tolist() == [[{"alpha": 0.1}, {"alpha": 0.0}], [True, False]]
    assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    told = capsys.readouterr().out
    assert "how the runs were made: no difference" in told and "what was chosen: 2 differences" in told
    assert "1 of 1 values differ" in told


def popularity_run(folder, half_life=None, **shares):
    """A run whose `popularity` is what it says, or only the last of it."""
    split, run = splits.make(loading.load("shop", size="tiny"), **shares), runs.Run(folder, "21_popularity")
    for protocol, target, exclude in runs.questions(split):
        model = Popularity() if half_life is None else RecentPopularity(half_life=half_life)
        found = evaluate(model, split, protocol, target, exclude=exclude)
        run.record(replace(found, about=found.about | {"model": "popularity"}))
    return folder


def test_a_model_that_got_worse_fails_by_name(tmp_path, capsys):
    good, bad = popularity_run(tmp_path / "good"), popularity_run(tmp_path / "bad", 0.005)
    page = tmp_path / "page.html"
    assert cli.main(["compare", str(good), str(good), "--fail-if-worse"]) == 0
    assert "4 same lists" in capsys.readouterr().out
    assert cli.main(["compare", str(good), str(bad), "--fail-if-worse", "--page", str(page)]) == 2
    told = capsys.readouterr()
    assert "worse beyond noise: popularity (21_popularity, " in told.err and page.exists()
    assert cli.main(["compare", str(bad), str(good), "--fail-if-worse"]) == 0  # better is no failure
    paired, left = provenance.pair_runs(good, bad)
    assert (paired["verdict"] == "worse").any() and not len(left)
    assert (paired["low"] <= paired["difference"]).all() and (paired["difference"] <= paired["high"]).all()
    gap = paired["value_b"] - paired["value_a"]
    assert gap.to_numpy() == pytest.approx(paired["difference"].to_numpy())


def test_what_cannot_be_paired_is_said(tmp_path, capsys):
    one, other = popularity_run(tmp_path / "one"), popularity_run(tmp_path / "other", test=0.1)
    (other / "evaluations" / "21_popularity__popularity__next_item__any__seen__test.npz").unlink()
    paired, left = provenance.pair_runs(one, other)
    assert not len(paired) and set(left["why"].str.partition(":")[0]) == {"only in A", "other questions"}
    for path in (one / "evaluations").glob("*.npz"):
        path.unlink()
    assert cli.main(["compare", str(one), str(other), "--fail-if-worse"]) == 2
    assert "holds no evaluations" in capsys.readouterr().err
    page = provenance.write_comparison(one, other, tmp_path / "page.html").read_text()
    assert "holds no evaluations" in page  # the page still tells what else differs
