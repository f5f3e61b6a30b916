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
    """One policy for the explored place of one arm. logged: what the place earned as it was filled.

    over_own: the policy minus the arm's own item, by the same choices (doubly robust); None for that itself.
    """

    arm: str
    policy: str
    value: PolicyValue
    logged: Estimate
    over_own: Estimate | None = None


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


def policies_in_log(
    choices: pl.DataFrame,
    popularity: Mapping[str, int],
    others: Mapping[str, Mapping[str, str]] | None = None,
) -> list[PolicyInLog]:
    """For each arm that explores, the value of three policies over the pool drawn from, and of others.

    own: the arm's own best item, as without exploration. popular: the item of the pool with the most people
    (`popularity`, by item; a tie to the better rank). even: each item of the pool alike. others: by name, the
    item that a policy would have put into the place of each request that it was asked about; one outside
    the pool was never tried, and counts as no reward and as missing support. choices: of
    `choices_left_to_chance`; rows without a pool are left out. The reward model of the doubly robust estimate
    is the item's own rate over the people of the other fold. O(N·pool) time and memory.
    """
    told = choices.filter(pl.col("pool").list.len() > 0)
    found = []
    for (arm,), rows in sorted(told.group_by("arm"), key=lambda part: str(part[0][0])):
        asked = _Asked.of(str(arm), rows)
        picks = {
            "popular": _most_popular(asked.pools, popularity),
            "even": 1 / asked.pools["size"].to_numpy(),
        }
        found += [asked.valued("own", asked.own)]
        found += [asked.valued(name, chance) for name, chance in picks.items()]
        for name, wanted in (others or {}).items():
            part = rows.filter(pl.col("request_id").is_in(list(wanted)))
            if part.height:
                known = _Asked.of(str(arm), part)
                found.append(known.valued(name, known.likely(wanted)))
    return found


@dataclass(frozen=True)
class _Asked:
    """Choices of one arm. pools: of `_pools`. rates: the guessed reward of each of its lines."""

    arm: str
    rows: pl.DataFrame
    pools: pl.DataFrame
    rates: NDArray[np.float64]

    @classmethod
    def of(cls, arm: str, rows: pl.DataFrame) -> _Asked:
        pools = _pools(rows)
        return cls(arm, rows, pools, _guessed(rows, pools))

    @property
    def own(self) -> NDArray[np.float64]:
        """The chance of each line of the pools under the arm's own ranking."""
        return (self.pools["place"] == 0).to_numpy().astype(np.float64)

    def likely(self, wanted: Mapping[str, str]) -> NDArray[np.float64]:
        """The same under a policy that wants one item for each request."""
        items = pl.Series([wanted[request] for request in self.rows["request_id"]], dtype=pl.String)
        meant = self.pools["item_id"] == items.gather(self.pools["row"])
        return meant.to_numpy().astype(np.float64)

    def valued(self, policy: str, chance: NDArray[np.float64]) -> PolicyInLog:
        person, one = self.rows["person"].to_numpy(), np.ones(self.rows.height)
        logged = ratio_estimate(*sums_by_user(person, self.rows["reward"].to_numpy(), one))
        over = None
        if policy != "own":
            more = self._corrected(chance) - self._corrected(self.own)
            over = ratio_estimate(*sums_by_user(person, more, one))
        return PolicyInLog(self.arm, policy, self._value(chance), logged, over)

    def _sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of each row's lines."""
        row = self.pools["row"].to_numpy().astype(np.int64)
        return np.bincount(row, values, minlength=self.rows.height).astype(np.float64)

    @property
    def _shown(self) -> NDArray[np.bool_]:
        return (self.pools["item_id"] == self.pools["shown"]).to_numpy()

    def _corrected(self, chance: NDArray[np.float64]) -> NDArray[np.float64]:
        """The doubly robust reward of each row."""
        error = self.rows["reward"].to_numpy() - self._sums(self.rates * self._shown)
        weight = self._sums(chance * self._shown) / self.rows["propensity"].to_numpy()
        corrected: NDArray[np.float64] = self._sums(chance * self.rates) + weight * error
        return corrected

    def _value(self, chance: NDArray[np.float64]) -> PolicyValue:
        return evaluate_policy(
            self.rows["reward"],
            self.rows["propensity"],
            self._sums(chance * self._shown),
            users=self.rows["person"].to_numpy(),
            predicted=self._sums(self.rates * self._shown),
            predicted_target=self._sums(chance * self.rates),
            unsupported=(1 - self._sums(chance)).clip(0, 1).round(9),
        )


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


def _most_popular(pools: pl.DataFrame, popularity: Mapping[str, int]) -> NDArray[np.float64]:
    people = [popularity.get(item, 0) for item in pools["item_id"]]
    ranked = pools.select("row", "place").with_columns(people=pl.Series(people, dtype=pl.Int64))
    best = pl.col("place").sort_by(["people", "place"], descending=[True, False]).first().over("row")
    return ranked.select(pl.col("place") == best).to_series().to_numpy().astype(np.float64)


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
        over: Cell = "–" if line.over_own is None else _figure(line.over_own)
        estimates = (_figure(value.ips), _figure(value.snips), robust, over, _figure(line.logged))
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
        "over own",
        "as logged",
        "doubts",
    )
    note = (
        "mean events an explored place would have earned; own: without exploration, popular: the pool's most "
    )
    note += "popular item, even: any of the pool; a release: what it would have put there. over own: the "
    note += "difference, doubly robust. effective: how many even choices the weights are worth."
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
