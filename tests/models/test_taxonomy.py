"""Items of the same category and of those around it."""

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_lab.catalogue import Tree
from recsys_lab.models import taxonomy


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=4), st.integers(1, 40))
def test_fair_turns_give_each_ring_its_share_at_any_length(sizes, length):
    """With shares s, any prefix holds of each ring that has enough about s times its length, never off by more than one of each."""
    from scipy import sparse

    shares = np.arange(1, len(sizes) + 1) / sum(range(1, len(sizes) + 1))
    width, start, rings = max(1, sum(sizes)), 0, []
    for size in sizes:
        ring = np.zeros((1, width))
        ring[0, start : start + size] = np.arange(size, 0, -1)
        start += size
        rings.append(sparse.csr_matrix(ring))
    merged = taxonomy.interleave(rings, shares, width).toarray()[0]
    order = np.lexsort((np.arange(width), -merged))[: int((merged > 0).sum())]
    assert len(order) == sum(sizes)
    owner = np.repeat(np.arange(len(sizes)), sizes)[order]
    for at in range(len(sizes)):
        mine = order[owner == at]
        assert (np.diff(mine) > 0).all()  # a ring keeps its own order
        if min(sizes) >= length:  # nobody runs out
            assert abs((owner[:length] == at).sum() - shares[at] * length) <= 1.5


def test_the_rings_of_a_category():
    parents = {"r": None, "g": "r", "p": "g", "u": "g", "a": "p", "b": "p", "c": "u", "far": "r", "x": "far"}
    grown = Tree.of(pd.DataFrame({"category": list(parents), "parent": list(parents.values())}))
    names = pd.Index(["a", "b", "c", "p", "x"])
    rings = [ring.toarray()[0] for ring in taxonomy.category_rings(grown, names)]
    assert [names[r > 0].tolist() for r in rings] == [["a"], ["p"], ["b"], ["c"]]
