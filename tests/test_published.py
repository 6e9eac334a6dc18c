"""The ledger of published figures."""

import numpy as np
import pytest
from helpers import ROOT, real_data

from recsys_lab import published


def test_the_ledger_is_whole_and_says_what_its_figures_say():
    table = published.read_ledger(ROOT / published_path())
    assert len(table) == len(published.FIGURES) and not published.missing_recipes(ROOT / published_path())
    for row, figure in zip(table.itertuples(), published.FIGURES, strict=True):
        assert (row.dataset, row.metric, row.k) == (figure.dataset, figure.metric, figure.k)
        assert np.isclose(row.published, figure.published, equal_nan=True)
        share = row.ours / row.published
        if row.status == "reference":  # nothing to compare, or another model that is not shown to be better
            assert np.isnan(share) or "not comparable" in row.source or not published.RECIPES[row.recipe].reproduces
        elif row.status.startswith("surpassed by "):
            assert row.status == f"surpassed by {row.recipe}" and row.low > row.published
            assert not published.RECIPES[row.recipe].reproduces
        else:
            assert row.status == ("reproduced" if share >= 0.98 else "missed") and "not comparable" not in row.source
            assert published.RECIPES[row.recipe].reproduces
        assert row.test_looks == len(row.looked_at.split()) and (row.test_looks > 0) == (row.ours == row.ours)
        assert row.tolerance <= 0.02 and (np.isnan(row.ours) or row.low <= row.ours <= row.high)
        assert np.isnan(row.ours) == (figure.recipe == "")


def published_path():

    return published.LEDGER_FILE


@pytest.mark.slow
def test_a_row_of_the_ledger_can_be_made_again():
    """The cheapest recipe gives what the committed ledger says; it searches nothing, however many trials are asked for."""
    made = published.compute("s_knn", real_data("retailrocket-sessions"), trials=2)
    table = published.read_ledger(ROOT / published_path()).query("model == 'S-KNN'")
    assert [row["ours"] for row in made] == table.ours.tolist()
