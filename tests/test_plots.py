"""What is drawn is what was computed: positions, intervals and colours of the figures."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from helpers import random_log
from matplotlib.colors import to_rgba

from recsys_lab import plots, runs, splits
from recsys_lab.evaluation import compare_all
from recsys_lab.models.base import MODELS
from recsys_lab.models.neighbours import ItemKNN, UserKNN
from recsys_lab.models.popularity import Popularity


@pytest.fixture(scope="module")
def judged():
    split = splits.make(random_log(3, n=1500, users=150))
    return runs.first_question(runs.judge(None, [Popularity(), ItemKNN(), UserKNN()], split, k=10))


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def headline(judged):
    rows = pd.concat([e.summary().assign(model=e.model) for e in judged])
    return rows.query("metric == 'ndcg' and k == 10")


def points(axis):
    """(x, y, colour) of the dots of an axis."""
    return [
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]), to_rgba(line.get_color()))
        for line in axis.lines
        if line.get_marker() == "o" and len(line.get_xdata()) == 1
    ]


def test_every_model_has_a_colour_of_its_own():
    told = [plots.colour(name) for name in MODELS.own()]
    assert len(set(map(to_rgba, told))) == len(told)
    assert plots.colour("a model of yours") == plots.colour("a model of yours")


def test_a_leaderboard_is_drawn_best_on_top(judged):
    rows = headline(judged)
    axis = plots.leaderboard(rows.sample(frac=1, random_state=1)).axes[0]
    best_first = rows.sort_values(["value", "model"], ascending=False)
    drawn = sorted(points(axis), key=lambda p: -p[1])
    assert [p[0] for p in drawn] == pytest.approx(best_first.value.tolist())
    assert [p[2] for p in drawn] == [to_rgba(plots.colour(m)) for m in best_first.model]
    assert [t.get_text() for t in axis.get_yticklabels()][::-1] == best_first.model.tolist()
    bars = {tuple(line.get_xdata()) for line in axis.lines if len(line.get_xdata()) == 2}
    assert bars == {(r.low, r.high) for r in rows.itertuples()}


def test_differences_that_hold_zero_are_grey(judged):
    table = compare_all(judged)
    table.loc[0, ["low", "high"]] = [0.1, 0.3]  # one that is shown and one that is not, whatever the log
    table.loc[1, ["low", "high"]] = [-0.1, 0.3]
    axis = plots.differences(table).axes[0]
    ordered = table.sort_values("difference").reset_index(drop=True)
    for x, y, tone in points(axis):
        row = ordered.loc[int(y)]
        holds_zero = row.low <= 0 <= row.high
        assert x == row.difference and (tone == to_rgba("#aaaaaa")) == holds_zero


def test_a_matrix_of_pairs_is_antisymmetric(judged):
    table = compare_all(judged)
    axis = plots.pairs(table).axes[0]
    names = [t.get_text() for t in axis.get_yticklabels()]
    shown = {(int(t.get_position()[1]), int(t.get_position()[0])): float(t.get_text()) for t in axis.texts}
    assert len(shown) == len(names) * (len(names) - 1)
    for (y, x), value in shown.items():
        assert shown[x, y] == -value
        row = table[(table.a == names[y]) & (table.b == names[x])]
        if len(row):
            assert value == pytest.approx(row.difference.item(), abs=0.0006)


def test_curves_and_slices_show_every_value(judged):
    axis = plots.curves(judged, "recall").axes[0]
    for line, e in zip(axis.lines, judged, strict=True):
        table = e.summary().query("metric == 'recall'").sort_values("k")
        assert np.allclose(line.get_ydata(), table.value) and list(line.get_xdata()) == table.k.tolist()
    axis = plots.slices(judged, "user_history", "ndcg", 10).axes[0]
    for line, e in zip(axis.lines, judged, strict=True):
        assert np.allclose(line.get_ydata(), e.by("user_history", ["ndcg"], [10]).value)


def test_names_beside_points_do_not_lie_on_each_other():
    rows = pd.DataFrame({"model": ["als", "bpr", "ease"], "cost": 1.0, "value": [0.2, 0.2, 0.201]})
    rows = rows.assign(metric="ndcg", k=10, low=rows.value - 0.01, high=rows.value + 0.01)
    figure = plots.quality_cost(rows, "seconds")
    figure.canvas.draw()
    boxes = [t.get_window_extent() for t in figure.axes[0].texts]
    assert len(boxes) == 3 and not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_trials_circle_what_was_chosen():
    table = pd.DataFrame(
        {"trial": range(3), "factors": [16, 32, 64], "ndcg@10": [0.1, 0.3, 0.2], "chosen": [False, True, False]}
    )
    [axis] = plots.trials(table).axes
    every, best = axis.lines
    assert list(every.get_ydata()) == [0.1, 0.3, 0.2] and (best.get_xdata()[0], best.get_ydata()[0]) == (32, 0.3)
