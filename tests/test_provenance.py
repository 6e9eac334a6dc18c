"""What a run was made with, and what a comparison tells of two."""

import json
import os
import platform
import subprocess
import sys

import pytest
from helpers import ROOT

from recsys_lab import cli, provenance, runs

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
