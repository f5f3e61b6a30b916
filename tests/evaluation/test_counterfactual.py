"""Counterfactual estimates: they cover a known truth, agree with hand-worked sums, and say when to doubt."""

from __future__ import annotations

import numpy as np
import pytest

from slipstream.errors import UsageError
from slipstream.evaluation.counterfactual import PolicyValue, evaluate_policy

CONTEXTS, ACTIONS = 6, 4
_RANDOM = np.random.default_rng(11)
REWARD = _RANDOM.uniform(0.05, 0.6, (CONTEXTS, ACTIONS))
LOGGING = _RANDOM.dirichlet(np.full(ACTIONS, 3.0), CONTEXTS)
TARGET = _RANDOM.dirichlet(np.full(ACTIONS, 3.0), CONTEXTS)
TRUTH = float((TARGET * REWARD).sum(axis=1).mean())
GUESS = REWARD + _RANDOM.normal(0, 0.05, REWARD.shape)  # a reward model that is a little wrong


def logged(rows: int, seed: int, logging: np.ndarray = LOGGING) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    context = random.integers(CONTEXTS, size=rows)
    action = (random.random((rows, 1)) > logging.cumsum(axis=1)[context]).sum(axis=1).clip(0, ACTIONS - 1)
    return {
        "rewards": (random.random(rows) < REWARD[context, action]).astype(float),
        "propensities": logging[context, action],
        "target": TARGET[context, action],
        "predicted": GUESS[context, action],
        "predicted_target": (TARGET * GUESS).sum(axis=1)[context],
    }


def test_intervals_cover_the_true_value_93_to_97_times_in_100() -> None:
    runs = 1000
    inside = dict.fromkeys(("ips", "snips", "doubly_robust"), 0)
    widths = dict.fromkeys(inside, 0.0)
    for seed in range(runs):
        got = evaluate_policy(**logged(1500, seed))
        for name in inside:
            interval = getattr(got, name).interval()
            inside[name] += interval.low <= TRUTH <= interval.high
            widths[name] += interval.high - interval.low
    for name, count in inside.items():
        assert 0.93 <= count / runs <= 0.97, name
    assert widths["doubly_robust"] < widths["ips"]
    assert widths["snips"] < widths["ips"]


def test_hand_worked_sums() -> None:
    got = evaluate_policy(
        [1, 0, 1],
        [0.5, 0.25, 0.5],
        [0.25, 0.5, 0.5],
        predicted=[0.5, 0.5, 0.5],
        predicted_target=[0.4, 0.4, 0.4],
    )
    # weights 1/2, 2, 1
    assert got.ips.value == pytest.approx(1.5 / 3)
    assert got.snips.value == pytest.approx(1.5 / 3.5)
    assert got.doubly_robust is not None
    assert got.doubly_robust.value == pytest.approx(0.4 + (0.25 - 1 + 0.5) / 3)
    assert got.effective_rows == pytest.approx(3.5**2 / 5.25)
    assert got.weight.value == pytest.approx(3.5 / 3)


def test_the_old_policy_itself_is_valued_at_its_mean() -> None:
    rows = logged(500, 1)
    got = evaluate_policy(rows["rewards"], rows["propensities"], rows["propensities"])
    assert got.ips.value == got.snips.value == pytest.approx(rows["rewards"].mean())
    assert got.effective_rows == pytest.approx(500)
    assert got.doubly_robust is None
    assert got.warnings == ()


def test_the_doubly_robust_estimate_survives_wrong_propensities_and_a_wrong_model() -> None:
    rows = logged(40_000, 2)
    exact = {
        **rows,
        "predicted": _expected(rows, "logged"),
        "predicted_target": _expected(rows, "target"),
        "propensities": np.full(40_000, 0.15),
    }
    wrong = evaluate_policy(**exact)
    right_model = wrong.doubly_robust
    no_model = {**rows, "predicted": np.zeros(40_000), "predicted_target": np.zeros(40_000)}
    right_propensities = evaluate_policy(**no_model).doubly_robust
    assert right_model is not None
    assert right_propensities is not None
    assert right_model.value == pytest.approx(TRUTH, abs=0.012)
    assert right_propensities.value == pytest.approx(TRUTH, abs=0.012)
    assert abs(wrong.ips.value - TRUTH) > 0.1


def _expected(rows: dict[str, np.ndarray], of: str) -> np.ndarray:
    """The true reward of the logged choice, or of the new policy, found back by the model's guess."""
    if of == "logged":
        return REWARD.ravel()[np.abs(GUESS.ravel()[None] - rows["predicted"][:, None]).argmin(axis=1)]
    guesses, truths = (TARGET * GUESS).sum(axis=1), (TARGET * REWARD).sum(axis=1)
    return truths[np.abs(guesses[None] - rows["predicted_target"][:, None]).argmin(axis=1)]


def test_users_are_the_unit() -> None:
    rows = logged(300, 3)
    once = evaluate_policy(**rows)
    ten = {name: np.repeat(column, 10) for name, column in rows.items()}
    as_users = evaluate_policy(**ten, users=[f"u{n // 10}" for n in range(3000)])
    as_rows = evaluate_policy(**ten)
    assert as_users.ips.variance == pytest.approx(once.ips.variance)
    assert as_rows.ips.variance < once.ips.variance / 9
    assert as_users.ips.users == 300


def test_missing_support_is_told() -> None:
    narrow = LOGGING.copy()
    narrow[:, 0] = 0
    narrow /= narrow.sum(axis=1, keepdims=True)
    rows = logged(4000, 4, narrow)
    got = evaluate_policy(**rows)
    assert said(got, "support is missing")
    assert evaluate_policy(**logged(4000, 4)).warnings == ()
    known = evaluate_policy(**rows, unsupported=np.full(4000, 0.25))
    assert said(known, "25.0% of what the new policy does was never tried")


def test_a_few_heavy_rows_are_told() -> None:
    propensities = np.full(1000, 0.5)
    propensities[0] = 0.0005
    got = evaluate_policy(np.ones(1000), propensities, np.full(1000, 0.5))
    assert said(got, "one row carries 50% of the weight")
    assert said(got, "1,000 rows weigh as much as 4")
    nothing = evaluate_policy(np.ones(5), np.full(5, 0.5), np.zeros(5))
    assert said(nothing, "support is missing")


def said(value: PolicyValue, words: str) -> bool:
    return any(words in warning for warning in value.warnings)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(UsageError, match="above 0 and at most 1"):
        evaluate_policy([1, 1], [0.5, 0], [0.5, 0.5])
    with pytest.raises(UsageError, match="one number for each row"):
        evaluate_policy([1, 1], [0.5], [0.5, 0.5])
    with pytest.raises(UsageError, match="one number for each row"):
        evaluate_policy([], [], [])
    with pytest.raises(UsageError, match="between 0 and 1"):
        evaluate_policy([1], [0.5], [1.5])
    with pytest.raises(UsageError, match="must be finite"):
        evaluate_policy([np.nan], [0.5], [0.5])
