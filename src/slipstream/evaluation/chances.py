"""What a home's log of chance can tell: other policies for the explored place, and interleaved releases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipstream.evaluation.counterfactual import PolicyValue, evaluate_policy
from slipstream.evaluation.estimates import Estimate, ratio_estimate, sums_by_user
from slipstream.evaluation.experiments import credit, preference
from slipstream.evaluation.tables import Cell, Figure, Table
from slipstream.events.impressions import Attributed

FOLDS = 2
PRIOR_CHOICES = 20.0
"""The reward model draws an item's rate towards the mean of all as if it had been chosen so often before."""


@dataclass(frozen=True)
class PolicyInLog:
    """One policy for the explored place of one arm. logged: what the place earned as it was filled."""

    arm: str
    policy: str
    value: PolicyValue
    logged: Estimate


@dataclass(frozen=True)
class Duel:
    """An interleaved arm. preferred: mean credit in [−1, 1], above 0 for the arm's own release."""

    arm: str
    first: str
    second: str
    lists: int
    wins: int
    losses: int
    preferred: Estimate


def policies_in_log(choices: pl.DataFrame, popularity: Mapping[str, int]) -> list[PolicyInLog]:
    """For each arm that explores, the value of three policies over the pool that was drawn from.

    own: the arm's own best item, as without exploration. popular: the item of the pool with the most people
    (`popularity`, by item; a tie to the better rank). even: each item of the pool alike. choices: of
    `choices_left_to_chance`; rows without a pool are left out. The reward model of the doubly robust estimate
    is the item's own rate over the people of the other fold. O(N·pool) time and memory.
    """
    told = choices.filter(pl.col("pool").list.len() > 0)
    found = []
    for (arm,), rows in sorted(told.group_by("arm"), key=lambda part: str(part[0][0])):
        pools, logged = _pools(rows), _logged(rows)
        rates = _guessed(rows, pools)
        picks = {
            "own": [float(place == 0) for place in pools["place"]],
            "popular": _most_popular(pools, popularity),
            "even": (1 / pools["size"]).to_list(),
        }
        found += [
            PolicyInLog(str(arm), name, _value(rows, pools, chance, rates), logged)
            for name, chance in picks.items()
        ]
    return found


def _pools(rows: pl.DataFrame) -> pl.DataFrame:
    """One line for each item that could have been drawn: row, item_id, place in the pool, size of it."""
    return (
        rows.select("item_id", "pool")
        .with_row_index("row")
        .rename({"item_id": "shown"})
        .explode("pool")
        .with_columns(place=pl.int_range(pl.len()).over("row"), size=pl.len().over("row"))
        .rename({"pool": "item_id"})
    )


def _most_popular(pools: pl.DataFrame, popularity: Mapping[str, int]) -> list[float]:
    people = [popularity.get(item, 0) for item in pools["item_id"]]
    ranked = pools.select("row", "place").with_columns(people=pl.Series(people, dtype=pl.Int64))
    best = pl.col("place").sort_by(["people", "place"], descending=[True, False]).first().over("row")
    return ranked.select((pl.col("place") == best).cast(pl.Float64)).to_series().to_list()


def _folds(rows: pl.DataFrame) -> NDArray[np.int64]:
    """By person, so that nobody's rewards are guessed from their own."""
    return rows["person"].hash(seed=0).to_numpy().astype(np.uint64).astype(np.int64) % FOLDS


def _guessed(rows: pl.DataFrame, pools: pl.DataFrame) -> NDArray[np.float64]:
    """The reward that each line of the pools would bring, by the people of the other fold."""
    row, fold = pools["row"].to_numpy().astype(np.int64), _folds(rows)
    rates = np.zeros(pools.height)
    for own in range(FOLDS):
        others = rows.filter(pl.Series(fold != own))
        mean = float(others["reward"].sum()) / max(others.height, 1)
        rate = (pl.col("reward").sum() + PRIOR_CHOICES * mean) / (pl.len() + PRIOR_CHOICES)
        known = others.group_by("item_id").agg(rate=rate)
        found = pools.select("item_id").join(known, on="item_id", how="left", maintain_order="left")
        lines = fold[row] == own
        rates[lines] = found["rate"].fill_null(mean).to_numpy()[lines]
    return rates


def _value(
    rows: pl.DataFrame, pools: pl.DataFrame, chance: Sequence[float], rates: NDArray[np.float64]
) -> PolicyValue:
    """chance: of each line of the pools, under the policy; rates: the guessed reward of each line."""
    row, likely = pools["row"].to_numpy().astype(np.int64), np.asarray(chance, np.float64)
    shown = (pools["item_id"] == pools["shown"]).to_numpy()

    def sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(row, values, minlength=rows.height).astype(np.float64)

    return evaluate_policy(
        rows["reward"],
        rows["propensity"],
        sums(likely * shown),
        users=rows["person"].to_numpy(),
        predicted=sums(rates * shown),
        predicted_target=sums(likely * rates),
    )


def _logged(rows: pl.DataFrame) -> Estimate:
    person, one = rows["person"].to_numpy(), np.ones(rows.height)
    return ratio_estimate(*sums_by_user(person, rows["reward"].to_numpy(), one))


def duels(served: pl.DataFrame, attributed: Attributed) -> list[Duel]:
    """The interleaved arms of a log, by arm and pair of releases; answers without feedback count as ties."""
    lists = served.unique("request_id", keep="first", maintain_order=True).filter(pl.col("teams") != "")
    clicks = attributed.events.group_by("request_id").agg(pl.col("place").unique())
    joined = lists.join(clicks, on="request_id", how="left", maintain_order="left")
    found = []
    for (arm, pair), rows in sorted(joined.group_by("arm", "release"), key=lambda part: str(part[0])):
        credits = [
            credit([team == "a" for team in teams], [at in set(places or ()) for at in range(len(teams))])
            for teams, places in rows.select("teams", "place").iter_rows()
        ]
        first, _, second = str(pair).partition("+")
        wins, losses = credits.count(1), credits.count(-1)
        value = preference(rows["person"].to_numpy(), credits)
        found.append(Duel(str(arm), first, second, len(credits), wins, losses, value))
    return found


def policies_table(found: Sequence[PolicyInLog]) -> Table:
    """With 95 % intervals; what speaks against an estimate stands beside it."""
    rows: list[tuple[Cell, ...]] = []
    for line in found:
        value = line.value
        robust: Cell = "–" if value.doubly_robust is None else _figure(value.doubly_robust)
        estimates = (_figure(value.ips), _figure(value.snips), robust, _figure(line.logged))
        doubts = "; ".join(value.warnings) or "none"
        rows.append(
            (line.arm, line.policy, f"{value.rows:,}", f"{value.effective_rows:,.0f}", *estimates, doubts)
        )
    columns = (
        "arm",
        "policy",
        "choices",
        "effective",
        "IPS",
        "SNIPS",
        "doubly robust",
        "as logged",
        "doubts",
    )
    note = (
        "mean events an explored place would have earned; own: without exploration, popular: the pool's most "
    )
    note += "popular item, even: any of the pool. effective: how many even choices the weights are worth."
    return Table("what other policies would have earned in the explored place", columns, tuple(rows), note)


def duels_table(found: Sequence[Duel]) -> Table:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            duel.arm,
            duel.first,
            duel.second,
            f"{duel.lists:,}",
            f"{duel.wins:,}",
            f"{duel.losses:,}",
            _figure(duel.preferred),
        )
        for duel in found
    )
    columns = ("arm", "first", "second", "lists", "first won", "second won", "preference")
    note = "preference: mean credit of the lists, −1 to 1, above 0 for the first; by clicks on one's picks."
    return Table("interleaved releases", columns, rows, note)


def _figure(estimate: Estimate) -> Figure:
    return Figure(estimate.value, estimate.interval())
