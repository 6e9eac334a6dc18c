"""Values of Open Bandit Pipeline's estimators on random logs, which `test_ope.py` compares with ours.

Open Bandit Pipeline pins old libraries, so it is no requirement. To make the file again:

    pip install --no-deps --target build/obp obp==0.4.1 pyieoe==0.1.1
    PYTHONPATH=build/obp python tests/obp_reference.py
"""

import json
from pathlib import Path

import numpy as np

PLACE = Path(__file__).with_suffix(".json")
ROUNDS, ACTIONS, PLACES = 300, 6, 3


def logs(seed: int) -> dict[str, np.ndarray]:
    """A random log of single items and one of lists, with target policies and guessed rewards."""
    rng = np.random.default_rng(seed)
    behaviour = rng.dirichlet(np.ones(ACTIONS), ROUNDS)
    action = np.array([rng.choice(ACTIONS, p=p) for p in behaviour])
    log = {"action": action, "pscore": behaviour[np.arange(ROUNDS), action], "reward": rng.binomial(1, 0.3, ROUNDS)}
    log |= {"target": rng.dirichlet(np.ones(ACTIONS), ROUNDS), "guess": rng.random((ROUNDS, ACTIONS))}
    log |= {"even_action": rng.integers(0, ACTIONS, ROUNDS), "choice": rng.integers(0, ACTIONS, ROUNDS)}
    log |= {"slate_pscore": rng.uniform(0.1, 1, (ROUNDS, PLACES)), "slate_target": rng.uniform(0, 1, (ROUNDS, PLACES))}
    return log | {"slate_reward": rng.binomial(1, 0.3, (ROUNDS, PLACES))}


def values(seed: int) -> dict[str, float]:
    """What Open Bandit Pipeline estimates."""
    from obp.ope import (
        DirectMethod,
        DoublyRobust,
        InverseProbabilityWeighting,
        ReplayMethod,
        SlateIndependentIPS,
        SlateRewardInteractionIPS,
        SlateStandardIPS,
    )
    from obp.ope import SelfNormalizedInverseProbabilityWeighting as SelfNormalized

    log = logs(seed)
    common = {
        "reward": log["reward"],
        "action": log["action"],
        "pscore": log["pscore"],
        "action_dist": log["target"][:, :, None],
    }
    guess = {"estimated_rewards_by_reg_model": log["guess"][:, :, None]}
    found = {"ips": InverseProbabilityWeighting().estimate_policy_value(**common)}
    found["snips"] = SelfNormalized().estimate_policy_value(**common)
    found["dr"] = DoublyRobust().estimate_policy_value(**common, **guess)
    found["dm"] = DirectMethod().estimate_policy_value(action_dist=log["target"][:, :, None], **guess)
    chosen = np.eye(ACTIONS)[log["choice"]][:, :, None]
    found["replay"] = ReplayMethod().estimate_policy_value(
        reward=log["reward"], action=log["even_action"], action_dist=chosen
    )
    flat = {"slate_id": np.repeat(np.arange(ROUNDS), PLACES), "position": np.tile(np.arange(PLACES), ROUNDS)}
    flat["reward"] = log["slate_reward"].ravel()
    was, will = log["slate_pscore"], log["slate_target"]
    found["independent"] = SlateIndependentIPS(len_list=PLACES).estimate_policy_value(
        **flat, pscore_item_position=was.ravel(), evaluation_policy_pscore_item_position=will.ravel()
    )
    found["standard"] = SlateStandardIPS(len_list=PLACES).estimate_policy_value(
        **flat, pscore=np.repeat(was.prod(1), PLACES), evaluation_policy_pscore=np.repeat(will.prod(1), PLACES)
    )
    found["cascade"] = SlateRewardInteractionIPS(len_list=PLACES).estimate_policy_value(
        **flat, pscore_cascade=np.cumprod(was, 1).ravel(), evaluation_policy_pscore_cascade=np.cumprod(will, 1).ravel()
    )
    return {name: float(value) for name, value in found.items()}


if __name__ == "__main__":
    PLACE.write_text(json.dumps({str(seed): values(seed) for seed in range(5)}, indent=1) + "\n")
