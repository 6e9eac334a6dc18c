"""SASRec and GRU4Rec: losses against PyTorch's, serving without torch, no look ahead, order that matters, checkpoints."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import ROOT, random_log, same_lists, untimed_sessions
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_lab.datasets import Dataset
from recsys_lab.histories import Histories
from recsys_lab.models.base import load_model
from recsys_lab.models.sequential import (
    GRU4Rec,
    GRU4RecConfig,
    SASRec,
    SASRecConfig,
    SequenceLearner,
    cut_windows,
    gap_classes,
    gbce_loss,
    gbce_power,
    length_batches,
    softmax_loss_of,
)
from recsys_lab.models.simplex import SimpleX, SimpleXLearner

QUICK = {"factors": 8, "negatives": 16, "epochs": 2, "batch_size": 64}
KINDS = pytest.mark.parametrize("kind", [SASRec, GRU4Rec])
LEARNED = pytest.mark.parametrize("kind", [SASRec, GRU4Rec, SimpleX])  # what is learned by the same loop


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=12), most=st.integers(1, 9))
def test_every_event_but_the_first_is_a_target_once(lengths, most):
    histories = Histories.from_lists([list(range(n)) for n in lengths])
    windows = cut_windows(histories, most)
    assert ((windows.lengths >= 1) & (windows.lengths <= most)).all()
    targets = np.concatenate([np.arange(a + 1, b) for a, b in zip(*windows, strict=True)] or [np.zeros(0, int)])
    wanted = np.concatenate(
        [np.arange(a + 1, b) for a, b in zip(histories.indptr[:-1], histories.indptr[1:], strict=True)]
    )
    assert np.sort(targets).tolist() == wanted.tolist()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), most=st.integers(1, 100))
def test_batches_hold_each_window_once_and_keep_to_their_size(seed, most):
    rng = np.random.default_rng(seed)
    lengths = rng.geometric(0.1, rng.integers(1, 200))
    batches = length_batches(lengths, most, rng)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert all(len(b) == 1 or len(b) * lengths[b].max() <= most for b in batches)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), block=st.integers(1, 9), drawn=st.integers(1, 12))
def test_the_drawn_softmax_and_its_gradient_are_those_of_autograd(seed, block, drawn):
    """Items drawn twice count twice, and a target among the drawn ones counts once."""
    rng = np.random.default_rng(seed)
    table, queries = (torch.from_numpy(rng.normal(size=s)).requires_grad_() for s in ((6, 3), (7, 3)))
    targets, codes = (torch.from_numpy(rng.integers(0, 6, n)) for n in (7, drawn))
    correction = torch.from_numpy(rng.normal(size=drawn))
    mine = softmax_loss_of(queries, targets, table[targets], table[codes], codes, correction, block)
    against = (queries @ table[codes].T + correction).masked_fill(targets[:, None] == codes, -torch.inf)
    right = (queries * table[targets]).sum(1)
    theirs = (torch.logsumexp(torch.cat([right[:, None], against], 1), 1) - right).mean()
    assert mine.item() == pytest.approx(theirs.item(), rel=1e-10)
    for a, b in zip(*(torch.autograd.grad(loss, (table, queries)) for loss in (mine, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_many_draws_by_any_chances_come_to_the_whole_softmax():
    """Within five standard errors of the sum over the catalogue that the draws estimate; the target stands for itself."""
    rng, drawn = np.random.default_rng(3), 200_000
    table, query = (torch.from_numpy(rng.normal(size=s)) for s in ((50, 4), (1, 4)))
    chance = rng.random(50) + 0.1
    chance /= chance.sum()
    codes = rng.choice(50, drawn, p=chance)
    target = torch.tensor([7])
    correction = torch.from_numpy(-np.log(chance[codes] * drawn))
    found = softmax_loss_of(query, target, table[target], table[codes], torch.from_numpy(codes), correction)
    whole = torch.nn.functional.cross_entropy(query @ table.T, target)
    size = np.exp((query @ table.T)[0].numpy())
    error = np.sqrt((size**2 / chance).sum() / drawn) / size.sum()
    assert abs(found.item() - whole.item()) < 5 * error < 0.05


def test_gbce_with_calibration_0_is_binary_cross_entropy():
    rng = np.random.default_rng(0)
    table, queries = torch.from_numpy(rng.normal(size=(9, 4))), torch.from_numpy(rng.normal(size=(5, 4)))
    targets, codes = torch.arange(5), torch.tensor([6, 7, 8])
    logits = torch.cat([(queries * table[targets]).sum(1)[:, None], queries @ table[codes].T], 1)
    labels = torch.zeros_like(logits)
    labels[:, 0] = 1
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    found = gbce_loss(queries, targets, table[targets], table[codes], codes, gbce_power(3 / 8, 0.0))
    assert found.item() == pytest.approx(wanted.item(), rel=1e-10)


@KINDS
@pytest.mark.parametrize("normalize", [True, False])
def test_numpy_serves_what_torch_learned(kind, normalize):
    """Queries of all lengths, with kinds and gaps, are those of the network at the last position."""
    log = random_log(5)
    model = kind(**QUICK, normalize=normalize, use_gaps=True, max_history=12).fit(log)
    known = model.known.encode(model.items)
    learner = SequenceLearner(model.config, known, len(model.items), True)
    for name, tensor in learner.weights.items():
        tensor.data.copy_(torch.from_numpy(model.state["item_vectors" if name == "items" else f"network/{name}"]))
    found = model._factors(known)[0]
    for row in range(0, len(known), 5):
        stop = known.indptr[row + 1]
        entries = learner.read.at(np.arange(max(known.indptr[row], stop - 12), stop)[None])
        with torch.no_grad():
            wanted = learner.queries(entries, learner.table(), False)[0, -1].numpy()
        np.testing.assert_allclose(found[row], wanted, rtol=0, atol=2e-4 * np.abs(wanted).max())


@KINDS
def test_what_comes_later_is_not_seen(kind):
    """A changed last event changes no query before it."""
    log = random_log(5)
    config = {SASRec: SASRecConfig, GRU4Rec: GRU4RecConfig}[kind](**QUICK)
    known = log.histories().encode(log.items)
    learner = SequenceLearner(config, known, len(log.items), False)
    rows = np.flatnonzero(np.diff(known.indptr) >= 6)[:10]
    read = learner.read.at(known.indptr[rows][:, None] + np.arange(6))
    other = read._replace(items=np.concatenate([read.items[:, :-1], (read.items[:, -1:] + 1) % len(log.items)], 1))
    a, b = (learner.queries(r, learner.table(), False).detach() for r in (read, other))
    assert torch.equal(a[:, :-1], b[:, :-1]) and not torch.allclose(a[:, -1], b[:, -1])


def cycles(seed: int, sessions: int = 400) -> Dataset:
    """Sessions that walk round a ring of 12 items, up or down: only the order tells what comes next."""
    import pandas as pd

    rng = np.random.default_rng(seed)
    start, way = rng.integers(0, 12, sessions), rng.choice([-1, 1], sessions)
    items = (start[:, None] + way[:, None] * np.arange(6)) % 12
    frame = pd.DataFrame({"user_id": np.repeat(np.arange(sessions), 6), "item_id": items.ravel(), "event": "view"})
    return Dataset("cycles", frame, has_times=False)


@KINDS
@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax", "gbce"])
def test_the_direction_of_a_walk_is_learned(kind, loss):
    """Known answer: up or down the ring. No model that takes a history as a set can tell."""
    model = kind(factors=16, epochs=30, negatives=6, loss=loss, dropout=0.0, batch_size=256, learning_rate=0.01).fit(
        cycles(1)
    )
    asked = Histories.from_lists([[3, 4, 5], [5, 4, 3], [10, 11, 0], [1, 0, 11]])
    assert model.rank(asked, 1, "none").codes[:, 0].tolist() == [6, 2, 1, 10]


@LEARNED
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(kind):
    log = untimed_sessions(3)
    one, two, other = (kind(**QUICK, seed=seed).fit(log) for seed in (0, 0, 1))
    assert all(np.array_equal(one.state[n], two.state[n], equal_nan=True) for n in one.state if n != "curve")
    assert not np.array_equal(one.state["item_vectors"], other.state["item_vectors"])


def test_learning_leaves_the_random_state_of_torch_alone():
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    SASRec(**QUICK).fit(untimed_sessions(1))
    assert torch.equal(torch.rand(3), wanted)


@LEARNED
def test_a_broken_off_fit_goes_on_from_its_checkpoint(kind, tmp_path):
    log = untimed_sessions(3)
    whole = kind(**QUICK | {"epochs": 4}).fit(log)
    steps = []

    class BrokenOff(Exception):
        pass

    learner_class = SimpleXLearner if kind is SimpleX else SequenceLearner
    epoch = learner_class.epoch

    def stops(learner):
        if len(steps) == 2:
            raise BrokenOff
        steps.append(1)
        return epoch(learner)

    model = kind(**QUICK | {"epochs": 4})
    model.checkpoint = tmp_path / "point.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner_class, "epoch", stops)
        with pytest.raises(BrokenOff):
            model.fit(log)
    again = kind(**QUICK | {"epochs": 4})
    again.checkpoint = model.checkpoint
    again.fit(log)
    assert all(np.array_equal(whole.state[n], again.state[n]) for n in whole.state if n != "curve")
    assert again.curve.epoch.tolist() == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="written for log"):
        again.fit(untimed_sessions(4))
    model.checkpoint.write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="is no checkpoint of a fit"):
        again.fit(log)


@KINDS
def test_held_back_events_end_the_learning_at_its_best(kind):
    model = kind(**QUICK | {"epochs": 30, "learning_rate": 0.01}, validation_fraction=0.3, patience=2).fit(cycles(2))
    hits = model.curve.hits
    assert len(hits) < 30 and hits.notna().all() and hits.max() > 0.9
    with pytest.raises(ValueError, match=r"validation_fraction 0\.01 holds out nothing"):
        kind(**QUICK, validation_fraction=0.01).fit(untimed_sessions(1, sessions=10))


def test_gaps_are_read_where_a_log_has_times_and_make_a_difference():
    log = random_log(9)
    model = SASRec(**QUICK, use_gaps=True).fit(log)
    assert model.reads == ("times",) and SASRec(**QUICK).fit(log).reads == ()
    asked = log.histories(log.users[:20])
    late = replace(asked, times=asked.times + np.arange(len(asked.times)) * 3_600_000)
    assert not same_lists(model.rank(asked, 10), model.rank(late, 10))
    assert "network/gaps" not in SASRec(**QUICK, use_gaps=True).fit(untimed_sessions(1)).state
    assert gap_classes(Histories.from_lists([[], [1, 2], []])).tolist() == [0, 1]


def test_kinds_are_read_by_their_names():
    """A caller whose kinds of event stand in another order gets the same lists."""
    log = random_log(9)
    model = GRU4Rec(**QUICK).fit(log)
    asked = log.histories(log.users[:20])
    names = asked.event_names[::-1]
    turned = replace(asked, event_names=names, events=(len(names) - 1 - asked.events).astype(np.int8))
    assert same_lists(model.rank(asked, 10), model.rank(turned, 10))
    alone = replace(asked, events=np.zeros_like(asked.events))
    assert not same_lists(model.rank(asked, 10), model.rank(alone, 10))


@LEARNED
def test_a_saved_network_is_asked_without_torch(kind, tmp_path):
    log = untimed_sessions(3)
    model = kind(**QUICK).fit(log)
    model.save(tmp_path / "fit")
    asked = Histories.from_lists([[1, 2], [5, 5, 7]])
    wanted = model.rank(asked, 5, "none")
    ask = (
        "import sys; sys.modules['torch'] = None\n"
        "import json; from recsys_lab.models.base import load_model; from recsys_lab.histories import Histories\n"
        f"m = load_model({str(tmp_path / 'fit')!r})\n"
        "print(json.dumps(m.rank(Histories.from_lists([[1, 2], [5, 5, 7]]), 5, 'none').codes.tolist()))"
    )
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, cwd=ROOT)
    assert json.loads(done.stdout) == wanted.codes.tolist(), done.stderr
    assert same_lists(load_model(tmp_path / "fit").rank(asked, 5, "none"), wanted)


def test_a_log_of_single_events_is_refused_in_a_sentence():
    log = untimed_sessions(3).where(slice(0, 1))
    with pytest.raises(ValueError, match="at least two items"):
        SASRec(**QUICK).fit(log)
    twice = untimed_sessions(3)
    with pytest.raises(ValueError, match="learning_rate"):
        GRU4Rec(**QUICK | {"learning_rate": 1e30}, normalize=False).fit(twice)
