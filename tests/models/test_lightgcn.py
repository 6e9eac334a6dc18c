"""LightGCN against PyTorch Geometric's, its draws, its checkpoints, and what it does without torch."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import random_log
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from torch_geometric.nn import LightGCN as TheirLightGCN

from recsys_lab.histories import Histories
from recsys_lab.models.base import load_model
from recsys_lab.models.lightgcn import (
    BPRMF,
    Learner,
    LightGCN,
    LightGCNConfig,
    PositivePairs,
    as_tensor,
    bpr_loss,
    draw_items,
    held_out_hit_rate,
    initial_vectors,
    normalize_adjacency,
    propagate,
    propagate_from,
    propagate_to,
    sample_negatives,
    step,
    symmetric_adjacency,
)


def random_graph(seed, users=12, items=9, share=0.4):
    rng = np.random.default_rng(seed)
    graph = sparse.csr_matrix((rng.random((users, items)) < share).astype(np.float32))
    graph.sort_indices()
    return graph


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), layers=st.integers(1, 5))
def test_vectors_and_gradients_are_those_of_pytorch_geometric(seed, layers):
    graph, rng = random_graph(seed), np.random.default_rng(seed)
    mix = rng.random(layers + 1).astype(np.float32)
    ours = Learner(graph, LightGCNConfig(factors=5, layers=layers, layer_weights=mix.tolist(), seed=seed % 100))
    theirs = TheirLightGCN(sum(graph.shape), 5, layers, alpha=torch.from_numpy(mix))
    theirs.embedding.weight.data = ours.own()
    users, items = (torch.from_numpy(a.astype(np.int64)) for a in graph.nonzero())
    items = items + graph.shape[0]
    table = theirs.get_embedding(torch.stack([torch.cat([users, items]), torch.cat([items, users])]))
    smooth = ours.smooth()
    assert torch.allclose(smooth, table, rtol=0, atol=1e-5 * float(table.detach().abs().max()))
    others = torch.from_numpy(rng.integers(0, graph.shape[1], len(users))) + graph.shape[0]
    nodes = torch.cat([users, items, others])
    leaves = smooth[nodes].requires_grad_()
    user, item, other = leaves.split([len(users)] * 3)
    bpr_loss(user, item, other[:, None]).backward()
    mine = ours.smooth(torch.zeros_like(smooth).index_add_(0, nodes, leaves.grad))
    bpr_loss(table[users], table[items], table[others][:, None]).backward()
    right = theirs.embedding.weight.grad
    assert torch.allclose(mine, right, rtol=0, atol=1e-5 * float(right.abs().max()))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), layers=st.integers(0, 5))
def test_what_a_batch_needs_is_what_the_whole_graph_gives(seed, layers):
    """Vectors of some nodes, and a gradient from some nodes, without the products that these do not need."""
    graph, rng = random_graph(seed), np.random.default_rng(seed)
    mix = rng.random(layers + 1).tolist()
    whole = symmetric_adjacency(normalize_adjacency(graph))
    adjacency, table = as_tensor(whole), torch.from_numpy(rng.normal(size=(21, 4)).astype(np.float32))
    room = (torch.full((21, 4), torch.nan), torch.full((21, 4), torch.nan))  # whatever stood there before
    some = np.sort(rng.choice(21, rng.integers(1, 21), replace=False))
    nodes = torch.from_numpy(some)
    right = propagate(adjacency, table, mix)[nodes]
    found = propagate_to(adjacency, as_tensor(whole[some]), nodes, table, mix, room)
    assert torch.allclose(found, right, rtol=0, atol=1e-5)
    room = (torch.full((21, 4), torch.nan), torch.full((21, 4), torch.nan))
    gradient = torch.from_numpy(rng.normal(size=(len(some), 4)).astype(np.float32))
    right = propagate(adjacency, torch.zeros_like(table).index_add_(0, nodes, gradient), mix)
    found = propagate_from(adjacency, as_tensor(whole[some].T.tocsr()), nodes, gradient, mix, room)
    assert torch.allclose(found, right, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("sampling", ["uniform", "hard"])
def test_a_step_is_what_autograd_over_all_of_it_would_do(layers, sampling, monkeypatch):
    """Pairs and items that repeat in a batch count each time."""
    graph, rows = random_graph(5), np.array([0, 3, 3, 7, 11, 0])
    config = LightGCNConfig(factors=5, layers=layers, regularization=0.1, negative_sampling=sampling, seed=2)
    learner, seen = Learner(graph, config), {}
    monkeypatch.setattr(learner.adam, "step", lambda: seen.update(grad=learner.table.grad.to_dense()[learner.at]))
    loss = step(learner, rows, np.random.default_rng(4))
    table = learner.own().requires_grad_()
    dense = torch.from_numpy(symmetric_adjacency(normalize_adjacency(graph)).toarray())
    smooth = sum(w * torch.linalg.matrix_power(dense, n) @ table for n, w in enumerate(config.mix))
    users = learner.pairs.users[rows]
    others, _ = sample_negatives(learner, users, smooth.detach()[learner.order], np.random.default_rng(4))
    nodes = [users, 12 + learner.pairs.items[rows], 12 + others]
    user, item, other = (smooth[torch.from_numpy(a)] for a in nodes)
    own = torch.cat([table[torch.from_numpy(a.ravel())] for a in nodes])
    whole = bpr_loss(user, item, other) + own.square().sum() * config.regularization / (2 * len(rows))
    whole.backward()
    found = seen["grad"]
    assert abs(loss - bpr_loss(user, item, other).item()) < 1e-6
    assert torch.allclose(found, table.grad, rtol=0, atol=1e-6 * float(table.grad.abs().max()) + 1e-8)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), popular=st.booleans(), n=st.integers(1, 4))
def test_nothing_drawn_was_met(seed, popular, n):
    graph = random_graph(seed, share=0.7)
    graph[0] = 1  # someone who met everything has no pair, and nothing to draw
    graph.sort_indices()
    pairs = PositivePairs.of(graph)
    assert 0 not in pairs.users and len(pairs.users) == graph[1:].nnz - sum(
        graph.shape[1] for row in graph[1:] if row.nnz == graph.shape[1]
    )
    if len(pairs.users):
        drawn = draw_items(pairs, pairs.users, n, np.random.default_rng(seed), popular)
        assert not graph.toarray()[pairs.users[:, None], drawn].any()


def test_even_draws_are_even_over_what_was_not_met():
    graph = sparse.csr_matrix(np.array([[1, 0, 0, 1, 0]], np.float32))
    drawn = draw_items(PositivePairs.of(graph), np.zeros(30_000, int), 1, np.random.default_rng(1))
    share = np.bincount(drawn.ravel(), minlength=5) / 30_000
    assert (share[[0, 3]] == 0).all()
    assert np.abs(share[[1, 2, 4]] - 1 / 3).max() < 4 * (2 / 9 / 30_000) ** 0.5


def test_without_layers_a_step_changes_the_rows_of_its_batch_only():
    graph = random_graph(3, users=40, items=30, share=0.1)
    learner = Learner(graph, LightGCNConfig(factors=4, layers=0))
    before = learner.table.clone()
    step(learner, np.arange(3), np.random.default_rng(0))
    users = learner.pairs.users[:3]
    moved = set(np.flatnonzero((learner.table != before).any(1).numpy()).tolist())
    assert set(users.tolist()) <= moved and len(moved) <= len(set(users.tolist())) + 6


@pytest.mark.parametrize("sampling", ["uniform", "popularity", "hard"])
@pytest.mark.parametrize("loss", ["bpr", "softmax"])
@pytest.mark.parametrize("start", ["normal", "spectral"])
@pytest.mark.slow
def test_every_way_of_learning_learns(loss, sampling, start):
    """Two tastes that share no item: after training everybody's own taste is on top."""
    if (loss, sampling) == ("softmax", "hard"):
        pytest.skip("refused by name")
    rng = np.random.default_rng(0)
    taste = np.repeat([0, 1], 30)
    met = (rng.random((60, 20)) < 0.5) & (np.repeat([0, 1], 10)[None] == taste[:, None])
    graph = sparse.csr_matrix(met.astype(np.float32))
    config = LightGCNConfig(
        factors=8,
        epochs=40,
        batch_size=64,
        loss=loss,
        negative_sampling=sampling,
        init=start,
        negatives=4,
        n_candidates=5,
        lr_schedule="cosine",
    )
    learner = Learner(graph, config)
    losses = [learner.epoch() for _ in range(40)]
    table = learner.smooth().numpy()
    scores = table[:60] @ table[60:].T
    right = scores[:, :10].mean(1) > scores[:, 10:].mean(1)
    assert losses[-1] < losses[0] and (right == (taste == 0)).all()


def test_isolated_nodes_have_no_vector_and_are_not_recommended():
    log = random_log(5, n=600)
    model = LightGCN(event_weights={"view": 0.0, "addtocart": 1.0, "transaction": 3.0}, epochs=3, factors=4).fit(log)
    lonely = model.state["degrees"] == 0
    graph = random_graph(1)
    graph[:, 2] = 0
    graph.eliminate_zeros()
    assert (initial_vectors(normalize_adjacency(graph), LightGCNConfig(factors=4))[graph.shape[0] + 2] == 0).all()
    scores = model._score(model.known.encode(model.items))
    assert np.isneginf(scores[:, lonely]).all() and np.isfinite(scores[:, ~lonely]).all()
    assert lonely.any() == (len(log.items) > log.events.query("event != 'view'").item_id.nunique())


def test_a_fit_that_was_broken_off_goes_on_where_it_stood(tmp_path, monkeypatch, shop_split):
    known, told = shop_split.known("test"), {"factors": 6, "epochs": 5, "seed": 3, "lr_schedule": "cosine"}
    at_once = LightGCN(**told).fit(known)
    broken = LightGCN(**told)
    broken.checkpoint = tmp_path / "point.safetensors"
    epoch = Learner.epoch

    def third_fails(self):
        if self.epochs_done == 2:
            raise KeyboardInterrupt
        return epoch(self)

    monkeypatch.setattr(Learner, "epoch", third_fails)
    with pytest.raises(KeyboardInterrupt):
        broken.fit(known)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["point.safetensors"]
    broken.fit(known)
    for name in ("user_vectors", "item_vectors", "spread"):
        assert (broken.state[name] == at_once.state[name]).all()
    assert broken.curve.epoch.tolist() == [1, 2, 3, 4, 5]


def test_the_search_for_the_number_of_epochs_resumes_too(tmp_path, shop_split):
    known, told = shop_split.known("test"), {"factors": 6, "epochs": 4, "validation_fraction": 0.3, "patience": 4}
    model = BPRMF(**told)
    model.checkpoint = tmp_path / "point.safetensors"
    model.fit(known)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["point.safetensors", "point.search.safetensors"]
    again = BPRMF(**told)
    again.checkpoint = model.checkpoint
    again.fit(known)  # nothing is left to do
    assert (again.state["item_vectors"] == model.state["item_vectors"]).all()
    assert model.curve.hits.between(0, 1).all()


@pytest.mark.parametrize("fault", ["cut", "text", "other settings", "other log"])
def test_a_checkpoint_that_does_not_belong_is_refused_by_name(tmp_path, shop_split, fault):
    path = tmp_path / "point.safetensors"
    model = LightGCN(factors=4, epochs=1)
    model.checkpoint = path
    model.fit(shop_split.known("test"))
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    elif fault == "text":
        path.write_text("not arrays")
    other = LightGCN(factors=5 if fault == "other settings" else 4, epochs=2)
    other.checkpoint = path
    log = shop_split.known("valid" if fault == "other log" else "test")
    named = {"other settings": "settings", "other log": "for log"}.get(fault, "is no checkpoint of a fit")
    with pytest.raises(ValueError, match=named) as error:
        other.fit(log)
    assert str(path) in str(error.value)


def test_early_stopping_judges_what_was_held_back():
    graph = random_graph(8, users=30, items=25, share=0.3)
    learner = Learner(graph, LightGCNConfig(factors=4))
    rows, items = np.arange(30), np.zeros(30, np.int64)
    scores = (learner.smooth()[:30] @ learner.smooth()[30:].T).numpy()
    scores[graph.nonzero()] = -np.inf
    wanted = np.mean(
        [(scores[u] > scores[u, 0]).sum() < 20 if not graph[u, 0] else (scores[u] > -np.inf).sum() < 20 for u in rows]
    )
    assert held_out_hit_rate(learner, rows, items) == pytest.approx(wanted)


def test_a_fold_in_without_layer_0_is_the_stored_vector(shop_split):
    model = LightGCN(factors=8, epochs=2, layers=3, layer_weights=[0.0, 1.0, 0.5, 0.25]).fit(shop_split.known("test"))
    known = model.known.encode(model.items)
    stored, guessed = model._score(known), model._score(replace(known, user_ids=None))
    assert np.abs(stored - guessed).max() < 1e-5 * np.abs(stored).max()


WITHOUT_TORCH = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torch_geometric", "safetensors"):
            raise ImportError(f"no {name} here")

sys.meta_path.insert(0, Missing())
from recsys_lab import cli, datasets
from recsys_lab.models.base import MODELS, load_model, model_class
for name in MODELS.own():
    model_class(name)
model = load_model(sys.argv[1])
print(model.rank(model.known.take(slice(0, 5)), 3).codes.tolist())
"""


@pytest.mark.slow
def test_a_fitted_model_serves_without_torch(tmp_path, shop_split):
    model = LightGCN(factors=4, epochs=1).fit(shop_split.known("test"))
    model.save(tmp_path / "fit")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path / "fit")], capture_output=True, text=True, check=False
    )
    wanted = load_model(tmp_path / "fit").rank(model.known.take(slice(0, 5)), 3).codes.tolist()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(wanted)


def test_learning_without_torch_names_the_extra(monkeypatch):
    monkeypatch.setattr("recsys_lab.models.lightgcn.torch", None)
    with pytest.raises(ImportError, match=r"recsys_lab\[torch\]"):
        LightGCN(factors=4, epochs=1).fit(random_log(1))


def test_the_core_does_not_import_torch():
    code = "import sys; from recsys_lab import cli, evaluation, tuning, runs; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_event_weights_are_weights_of_edges():
    log = random_log(2)
    even, heavy = (LightGCN(factors=4, epochs=1, event_weights={"transaction": w}).fit(log) for w in (1.0, 10.0))
    bought = log.events.query("event == 'transaction'").groupby("item_id").size().reindex(log.items, fill_value=0)
    assert np.allclose(heavy.state["degrees"] - even.state["degrees"], 9 * bought)
    asked = Histories.from_lists([[log.items[0]]] * 2, [["view"], ["transaction"]], event_names=log.event_names)
    scores = heavy._score(asked.encode(heavy.items))
    assert not np.allclose(scores[0], scores[1])
