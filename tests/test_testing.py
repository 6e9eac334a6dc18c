"""The contract suite: the lab's models keep it, and each rule notices a model that breaks it, and only that rule's mistake."""

import numpy as np
import pytest
from helpers import quick
from scipy import sparse

from recsys_lab.models.base import MODELS, Recommender, model_class
from recsys_lab.models.config import Config, setting
from recsys_lab.testing import CHECKS, ContractError, check_recommender, contract_log


@pytest.mark.parametrize("name", sorted(set(MODELS.own()) - {"oracle"}))
def test_the_labs_models_keep_the_contract(name):
    assert check_recommender(model_class(name), **quick(name))["passed"].all()


def test_the_log_has_what_models_need():
    log = contract_log()
    assert {"times", "carts", "purchases", "categories", "returning"} <= set(log.offers)
    assert log.fingerprint == contract_log().fingerprint != contract_log(1).fingerprint


class Good(Recommender):
    """Co-occurrence with the history: what the broken ones are made from."""

    name = "good_of_test"

    def _fit(self, dataset):
        matrix = dataset.matrix().matrix
        return {"pairs": (matrix.T @ matrix).tocsr()}

    def _score(self, histories):
        return (histories.matrix(len(self.items)) @ self.state["pairs"]).tocsr()


def broken(**members):
    """A subclass with a mistake, under a name of its own."""
    return type("Broken", (Good,), {"name": "broken_of_test", "__module__": __name__, **members})


@pytest.fixture(autouse=True)
def forget():
    yield
    MODELS.discard("broken_of_test")


class Silent(Config):
    depth: int = 3


class Spoken(Config):
    depth: int = setting(3, "of nothing")


def unseeded(self, dataset):
    return {**Good._fit(self, dataset), "noise": np.random.default_rng().random(1)}


def noisy(self, histories):
    return (Good._score(self, histories) * (1 + self.state["noise"][0])).tocsr()


def sticky(self, dataset):
    self.first = (
        getattr(self, "first", None) if getattr(self, "first", None) is not None else Good._fit(self, dataset)["pairs"]
    )
    return {"pairs": self.first}


def spoils(self, dataset):
    dataset._events.iloc[0, dataset._events.columns.get_loc("item_id")] = 39
    return Good._fit(self, dataset)


def by_batch(self, histories):
    return (Good._score(self, histories) * len(histories)).tocsr()


def infinite(self, histories):
    dense = Good._score(self, histories).toarray()
    dense[:, 0] = np.inf
    return dense


def remembers(self, histories):
    self.calls = getattr(self, "calls", 0) + 1
    return (Good._score(self, histories) * self.calls).tocsr()


def ignores_exclusion(self, encoded, k, exclude, allowed=None, answer=None):
    return Recommender.lists(self, encoded, k, "none", allowed, answer)


def ignores_allowed(self, encoded, k, exclude, allowed=None, answer=None):
    return Recommender.lists(self, encoded, k, exclude, None, answer)


def doubled(self, encoded, k, exclude, allowed=None, answer=None):
    codes, scores, sources = Recommender.lists(self, encoded, k, exclude, allowed, answer)
    return codes[:, [0, *range(k - 1)]], scores[:, [0, *range(k - 1)]], sources


def short(self, encoded, k, exclude, allowed=None, answer=None):
    return tuple(a[:, : min(k, 12)] for a in Recommender.lists(self, encoded, k, exclude, allowed, answer))


def unknown_counts(self, encoded, k, exclude, allowed=None, answer=None):
    codes, scores, sources = Recommender.lists(self, encoded, k, exclude, allowed, answer)
    return codes, scores, np.zeros_like(sources)  # says that the model scored what it did not


def likes_itself(self, item_ids, k=10, items=None):
    top = Recommender.similar_items(self, item_ids, k, items)
    top.codes[:, 0] = self.items.get_indexer(np.asarray(item_ids))
    return top


def wrong_terms(self, history, codes):
    return history.items[:1], np.full((1, len(codes)), 7.0)


def forgets(self, path):
    from recsys_lab.models import base

    saved = dict(self.state)
    try:
        self.state = {"pairs": sparse.csr_matrix(saved["pairs"].shape, dtype=np.float32)}
        return Recommender.save(self, path)
    finally:
        self.state = saved
        assert base


MISTAKES = {
    "it has a name in snake_case": {"name": "Broken Name"},
    "every setting has a meaning": {"Config": Silent},
    "it says how a history": {"fold_in": "perhaps"},
    "it refuses to rank before": {"check_ready": lambda self, k: None},
    "it refuses a log without events": {
        "fit": lambda self, dataset, progress=False: Recommender.fit(self, dataset if len(dataset) else contract_log())
    },
    "fit returns the model": {"_fit": lambda self, dataset: {**Good._fit(self, dataset), "names": {"a": 1}}},
    "fitting changes nothing": {"_fit": spoils},
    "two fits give the same lists": {"_fit": unseeded, "_score": noisy},
    "two fits give the same lists, also after another log": {"_fit": sticky},
    "lists are as long as k": {"lists": doubled},
    "lists are as long as k, with finite scores": {"_score": infinite},
    "what is excluded": {"lists": ignores_exclusion},
    "k beyond the catalogue": {"lists": short},
    "only items that are allowed": {"lists": ignores_allowed},
    "a request has the same list alone": {"_score": by_batch},
    "a request has the same list alone, the second time too": {"_score": remembers},
    "an unknown user": {"lists": unknown_counts},
    "similar items never": {"similar_items": likes_itself},
    "terms of an explanation": {"_contributions": wrong_terms},
    "a saved model": {"save": forgets},
}


def test_the_good_one_is_good():
    assert check_recommender(Good)["passed"].all()


@pytest.mark.parametrize("rule", MISTAKES)
def test_each_rule_notices_its_mistake(rule):
    kind = broken(**MISTAKES[rule])
    try:
        with pytest.raises(ContractError) as caught:
            check_recommender(kind)
    finally:
        MODELS.discard(kind.name)
    violated = [sentence for sentence, _ in caught.value.violations]
    assert any(sentence.startswith(rule.partition(",")[0]) for sentence in violated), violated
    assert all(text for _, text in caught.value.violations)


def test_every_rule_has_a_mistake_that_it_notices():
    missed = [s for s in CHECKS if not any(s.startswith(rule.partition(",")[0]) for rule in MISTAKES)]
    assert missed == []


def test_a_class_that_cannot_be_fitted_says_why():
    with pytest.raises(ContractError, match="it can be made and fitted: ValueError: good_of_test has no setting"):
        check_recommender(Good, colour="red")
    with pytest.raises(ContractError, match=r"1 of .* rules"):
        check_recommender(broken(_fit=lambda self, dataset: 1 / 0))


def test_some_rules_alone():
    one = next(iter(CHECKS))
    assert check_recommender(Good, only=[one])["check"].tolist() == [one]
