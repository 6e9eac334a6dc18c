"""What models with user vectors share: the estimate for a cold-start user, and who is scored by which vector."""

import numpy as np
import pytest
from helpers import make_quick, random_log

from recsys_lab.histories import Histories
from recsys_lab.models.factors import cosines, fold_map, mean_vectors, stored_rows


def test_a_linear_law_is_found():
    rng = np.random.default_rng(0)
    means = np.append(rng.normal(size=(50, 4)), np.ones((50, 1)), axis=1).astype(np.float32)
    law = rng.normal(size=(5, 3))
    np.testing.assert_allclose(means @ fold_map(means, means @ law, 1e-12), means @ law, atol=1e-4)


def test_means_are_over_distinct_items():
    vectors = np.array([[1.0, 0.0], [0.0, 4.0]], np.float32)
    means = mean_vectors(Histories.from_lists([[0, 0, 1], []]), vectors)
    assert means.tolist() == [[0.5, 2.0, 1.0], [0.0, 0.0, 1.0]]


def test_zero_vectors_are_similar_to_nothing():
    vectors = np.array([[3.0, 4.0], [0.0, 0.0], [4.0, -3.0]], np.float32)
    np.testing.assert_allclose(cosines(vectors, np.array([0, 1])), [[1, 0, 0], [0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("name", ["bpr", "lightfm", "lightgcn"])
def test_only_unchanged_known_users_are_scored_by_their_vector(name):
    log = random_log(2)
    model = make_quick(name, **({"epochs": 2})).fit(log)
    users = log.users[:3]
    same = model.histories(users)
    more = Histories.from_lists([[*same.take([i]).items, log.items[0]] for i in range(3)], user_ids=users)
    assert stored_rows(model, same).tolist() == [0, 1, 2]
    assert stored_rows(model, more).tolist() == [-1, -1, -1]
    assert stored_rows(model, Histories.from_lists([[log.items[0]]])).tolist() == [-1]
