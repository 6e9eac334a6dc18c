"""What is chosen, with what beside it and against what, on values whose answer is known beforehand."""

import re
from dataclasses import replace

import numpy as np
import pytest

from recsys_lab import decision
from recsys_lab.evaluation import Evaluation
from recsys_lab.runs import QUESTIONS

N = 400  # visitors, one case each
NEXT, NEW, PERIOD, _ = QUESTIONS["temporal"]


def answers(model: str, part: str, mean: float, question=NEXT, seed: int = 0, n: int = N) -> Evaluation:
    """NDCG of the same visitors for every model: common luck, a mean, and a little of its own."""
    rng, own = np.random.default_rng(seed), np.random.default_rng(sum(map(ord, model)))
    noise = own.normal(0, 0.02, n)
    values = rng.uniform(0.2, 0.5, n) + mean + noise - noise.mean()
    about = dict(zip(("protocol", "target", "exclude"), question, strict=True))
    about |= {"model": model, "dataset": "hand", "part": part, "scoring": "at_request"}
    users = np.array([f"u{i}" for i in range(n)], dtype=object)
    return Evaluation(
        about,
        (10,),
        part + "".join(question),
        users,
        np.zeros((n, 10), np.int32),
        np.arange(n + 1),
        np.zeros(n, np.int32),
        {},
        {("ndcg", 10): values},
        {},
        {},
    )


def both(valid: dict[str, float], test: dict[str, float], question=NEXT) -> list[Evaluation]:
    found = [answers(m, "valid", v, question) for m, v in valid.items()]
    return found + [answers(m, "test", v, question, seed=1) for m, v in test.items()]


def test_validation_chooses_and_test_only_measures():
    """The model that is best on test is not chosen, nor the best baseline there taken."""
    valid = {"hybrid": 0.10, "lightgbm": 0.05, "item_knn": 0.02, "ease": 0.01, "popularity": 0.0}
    test = {"hybrid": 0.05, "lightgbm": 0.15, "item_knn": 0.01, "ease": 0.04, "popularity": 0.0}
    (row,) = decision.decide(both(valid, test))
    assert (row["chosen"], row["baseline"], row["models"]) == ("hybrid", "item_knn", 5)
    assert (row["a"], row["b"], row["family"], row["n_users"]) == ("hybrid", "item_knn", 1, N)
    assert row["difference"] == pytest.approx(0.04, abs=1e-9) and row["low"] > 0
    assert row["confidence_set"] == []
    said = decision.decision_sentence(row, {"hybrid": 12.34, "item_knn": 1.0})
    assert "validation chooses hybrid of 5 models; it is better there than every other" in said
    assert "hybrid is better." in said and "It holds 12.3 MB, the baseline 1.0." in said


def test_what_cannot_be_told_apart_is_named_best_first():
    valid = {"als": 0.1000, "bpr": 0.0996, "svd": 0.0998, "ease": 0.05}
    (row,) = decision.decide(both(valid, valid))
    assert row["chosen"] == "als" and row["confidence_set"] == ["svd", "bpr"] and row["baseline"] == "ease"
    assert "cannot be told apart there from svd, bpr" in decision.decision_sentence(row)
    table = decision.validation_table([answers(m, "valid", v) for m, v in valid.items()])
    assert table.model.tolist() == ["als", "svd", "bpr", "ease"]
    assert table.confidence_set.tolist() == [True, True, True, False] and table.p.iloc[0] == 1
    assert table.value.to_numpy() == pytest.approx(sorted(table.value, reverse=True))


def test_a_baseline_that_is_chosen_has_nothing_to_compare():
    valid = {"ease": 0.10, "item_knn": 0.02, "lightgbm": 0.05}
    (row,) = decision.decide(both(valid, {"ease": 0.0, "item_knn": 0.1, "lightgbm": 0.2}))
    assert row["chosen"] == row["baseline"] == "ease" and "difference" not in row
    assert "there is nothing to compare" in decision.decision_sentence(row)
    (row,) = decision.decide(both({"lightgbm": 0.1}, {"lightgbm": 0.1}))
    assert row["baseline"] is None and "No simple baseline" in decision.decision_sentence(row)


def test_what_cannot_be_deployed_or_was_asked_once_is_not_chosen():
    valid = {"oracle": 0.3, "only_valid": 0.2, "lightgbm": 0.10, "ease": 0.02}
    test = {"oracle": 0.3, "only_test": 0.4, "lightgbm": 0.10, "ease": 0.02}
    (row,) = decision.decide(both(valid, test))
    assert row["chosen"] == "lightgbm" and row["models"] == 2
    assert decision.decide([answers("lightgbm", "test", 0.1)]) == []


def test_questions_are_corrected_together_and_their_order_is_no_matter():
    """A gap that one question alone would show is not shown among three."""
    big, small = {"als": 0.1, "ease": 0.0}, {"als": 0.0022, "ease": 0.0}
    rows = [
        *both(big, big),
        *both({"als": 0.1, "ease": 0.0}, small, NEW),
        *both({"als": 0.1, "ease": 0.0}, small, PERIOD),
    ]
    found = decision.decide(rows)
    alone = decision.decide(both({"als": 0.1, "ease": 0.0}, small, NEW))[0]
    assert [r["family"] for r in found] == [3, 3, 3] and alone["family"] == 1
    assert found[1]["p"] == alone["p"] and found[1]["p_adjusted"] == pytest.approx(2 * alone["p"])
    assert found[1]["low"] < alone["low"] and found[1]["high"] > alone["high"]
    assert decision.decide(rows[::-1]) == found


def test_a_difference_that_is_not_shown_names_no_winner():
    same = {"als": 0.0001, "ease": 0.0}
    (row,) = decision.decide(both({"als": 0.1, "ease": 0.0}, same))
    said = decision.decision_sentence(row)
    assert row["low"] < 0 < row["high"] and "not shown" in said and not re.search("als is better", said)


def test_a_loss_on_test_is_told_as_one():
    (row,) = decision.decide(both({"als": 0.1, "ease": 0.0}, {"als": -0.1, "ease": 0.0}))
    assert row["high"] < 0 and re.search("ease is better|als is worse", decision.decision_sentence(row))


def test_other_visitors_are_refused():
    a, b = answers("als", "valid", 0.1), answers("ease", "valid", 0.1, NEW)
    with pytest.raises(ValueError, match="different questions"):
        decision.validation_table([a, b])


def of_seeds(model: str, means, noise=0.0) -> list[Evaluation]:
    """A trained model with several seeds, whose values for visitors differ by their means alone (and by noise of visitors)."""
    out = []
    for number, mean in enumerate(means):
        e = answers(model, "test", mean)
        own = np.random.default_rng(number).normal(0, noise, N) if noise else np.zeros(N)
        out.append(replace(e, values={("ndcg", 10): e.values["ndcg", 10] + own - own.mean()}))
    return out


def test_a_win_of_one_seed_is_none_of_the_method():
    other = answers("ease", "test", 0.0)
    steady = decision.seed_claims({"a": of_seeds("a", [0.02] * 5)}, [other]).iloc[0]
    assert (steady.claim, steady.wins, steady.disappears) == ("better", 5, False)
    assert steady.difference == pytest.approx(0.02)
    lucky = decision.seed_claims({"b": of_seeds("b", [0.02, -0.02, 0.021, -0.019, 0.0])}, [other]).iloc[0]
    assert lucky.claim == "not shown" and lucky.wins == 2 and lucky.losses == 2 and lucky.disappears
    table = decision.seed_table({"b": of_seeds("b", [0.02, -0.02, 0.0])}).iloc[0]
    assert table.deviation == pytest.approx(0.02) and (table.most - table.least) == pytest.approx(0.04)


def test_claims_with_seeds_are_wrong_as_rarely_as_they_say():
    """No true difference, seeds that scatter: one seed alone wins or loses often, the claim in about 5% of the cases."""
    rng, other = np.random.default_rng(1), answers("ease", "test", 0.0)
    claims = [decision.seed_claims({"m": of_seeds("m", rng.normal(0, 0.01, 5))}, [other]).iloc[0] for _ in range(300)]
    false = np.mean([c.claim != "not shown" for c in claims])
    alone = np.mean([(c.wins + c.losses) / 5 for c in claims])
    assert alone > 0.3 and false < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


def test_another_question_is_not_compared():
    assert not len(decision.seed_claims({"a": of_seeds("a", [0, 0.1])}, [answers("ease", "test", 0, NEW)]))
