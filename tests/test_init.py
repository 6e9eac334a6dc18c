"""The names at the top of the package: few, lazy, and the same things as in their modules."""

import subprocess
import sys

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from helpers import ROOT, random_log

import recsys_lab as rl
from recsys_lab import evaluation, loading, splits
from recsys_lab.models.linear import EASE


def test_names_are_those_of_the_modules():
    assert rl.load is loading.load and rl.split is splits.make and rl.evaluate is evaluation.evaluate
    assert rl.EASE is EASE is rl.model("ease") and rl.compare is evaluation.compare_all
    assert all(getattr(rl, name) is not None for name in rl.__all__)
    assert {"EASE", "ItemKNN", "load"} <= set(dir(rl))


def test_a_wrong_name_is_told():
    with pytest.raises(AttributeError, match="recsys_lab has no 'evalute'; it has"):
        rl.evalute  # noqa: B018
    with pytest.raises(AttributeError, match="recsys_lab has no 'EASY'"):
        rl.EASY  # noqa: B018
    with pytest.raises(ImportError):
        from recsys_lab import nothing_of_this_name  # noqa: F401


def test_importing_the_package_imports_nothing_large():
    ask = "import sys, recsys_lab; print([m for m in ('numpy', 'pandas', 'pydantic', 'torch', 'lightgbm') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_frames_in_and_out():
    """pandas, polars and Arrow go in and come out, with the same events and the same lists."""
    log = random_log(0)
    frame = log.events[["user_id", "item_id", "event", "timestamp"]].astype({"event": str})
    logs = [
        rl.Dataset.from_frame(f)
        for f in (frame, pl.DataFrame(frame), pa.Table.from_pandas(frame, preserve_index=False))
    ]
    assert len({one.fingerprint for one in logs}) == 1
    lists = [rl.ItemKNN().fit(one).recommend(one.users[:5], k=3) for one in logs]
    for one in lists:
        pd.testing.assert_frame_equal(pl.DataFrame(one).to_pandas(), one.frame(), check_dtype=False)
        assert pa.table(one).num_rows == 15
        pd.testing.assert_frame_equal(one.frame(), lists[0].frame())
    again = rl.Dataset.from_frame(pl.DataFrame(logs[0]))
    assert again.fingerprint == logs[0].fingerprint
    assert rl.ItemKNN().fit(log).recommend(pl.Series(log.users[:5]), k=3).codes.shape == (5, 3)
