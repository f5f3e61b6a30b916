"""What the served answers earned: clicks, conversions, revenue and the offline metrics, from the log.

The same `metrics` as offline, over the lists as they were shown. The user is the unit of every interval
(`estimates`); an answer to a request without a user id stands for itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipstream.dataset.queries import Holdout, Queries
from slipstream.dataset.snapshot import Snapshot
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.errors import UsageError
from slipstream.evaluation.estimates import Estimate, ratio_estimate, sums_by_user
from slipstream.evaluation.metrics import ItemLists, accuracy, coverage, novelty
from slipstream.evaluation.scores import popularity_in
from slipstream.evaluation.tables import Cell, Figure, Table
from slipstream.events.impressions import DAY_US, NOBODY, Attributed
from slipstream.events.times import time_text

GROUPS = ("release", "arm", "tier", "segment", "day")
CONVERSIONS = ("purchase",)
SHOWN = ("NDCG", "Precision", "Recall", "MRR")
DWELL = "dwell_s"
"""Where the context of an event tells how long the person stayed, in seconds."""
FRESH_DAYS = 7


@dataclass(frozen=True)
class Earned:
    """One group of answers. estimates: by name, users as the unit. whole: figures of the group as a whole."""

    group: str
    answers: int
    people: int
    estimates: dict[str, Estimate]
    whole: dict[str, float]


@dataclass(frozen=True)
class _Lists:
    """Answers as arrays, Q of them: items by number [Q, K] (-1: none), who saw each [Q]."""

    items: ItemLists
    person: NDArray[np.int64]
    clicked: NDArray[np.float64]  # items of the answer with an event
    converted: NDArray[np.float64]  # 1 where the answer led to a conversion
    revenue: NDArray[np.float64]
    accuracy: dict[str, NDArray[np.float64]]  # NaN where nothing was clicked
    novelty: NDArray[np.float64] | None
    fresh: NDArray[np.float64] | None  # the part of the places with an item of the last FRESH_DAYS
    dwell: tuple[NDArray[np.float64], NDArray[np.float64]] | None  # seconds of events that tell; how many

    def shown(self) -> NDArray[np.float64]:
        lengths: NDArray[np.float64] = np.sum(self.items >= 0, axis=1, dtype=np.float64)
        return lengths


def measure(
    served: pl.DataFrame,
    attributed: Attributed,
    *,
    by: str = "release",
    k: int = 10,
    conversions: Sequence[str] = CONVERSIONS,
    snapshot: Snapshot | None = None,
    segment_of: Mapping[int, str] | None = None,
) -> list[Earned]:
    """One `Earned` for each release, arm, tier, segment or day (UTC), in order. O(S·K·log) time.

    segment_of: the segment of each person, for `by="segment"`; others stand under the empty name.

    CTR: items with an event ÷ items shown. Conversion: answers that led to a conversion ÷ answers. Revenue:
    values of conversions per 1,000 answers. NDCG@k and the others: over answers with an event, whose targets
    are the items with one; what was not shown cannot be a target, so they tell how well a slate is ordered.
    Coverage@k: of the snapshot's items, else of the items in the log. Novelty@k: only with a snapshot.
    Fresh@k: the part of the places whose item the snapshot saw first in the week before the answer, or never;
    only where its events have times. Dwell s: mean seconds of the events that tell them (`DWELL`).
    """
    if by not in GROUPS:
        raise UsageError(f"a report is by {', '.join(GROUPS)}, not by {by!r}")
    answers = served.unique("request_id", keep="first", maintain_order=True)
    names = _names(answers, by, segment_of or {})
    vocabulary = snapshot.items if snapshot is not None else _items_of(answers)
    lists = _lists(answers, attributed, vocabulary, k, conversions, snapshot)
    possible = max(len(vocabulary), int(lists.items.max(initial=-1)) + 1)
    groups = sorted(set(names.to_list()))
    return [_earned(group, lists, (names == group).to_numpy(), k, possible) for group in groups]


def choices_left_to_chance(served: pl.DataFrame, attributed: Attributed) -> pl.DataFrame:
    """One row for each place that was drawn (`recommend.exploration`): what `evaluate_policy` asks for.

    Columns: request_id, person, time_us, arm, item_id, place (0 = first), propensity, reward (1.0 with an
    event), pool (what was drawn from, its own item first; empty where a version logged that kept none), shown
    (the whole answer).
    """
    rows = served.unique("request_id", keep="first", maintain_order=True).filter(
        pl.col("propensities").list.len() > 0
    )
    kept = ("request_id", "person", "time_us", "arm", "pool")
    wide = rows.select(*kept, shown="items", item_id="items", propensity="propensities")
    each = wide.explode("item_id", "propensity").with_columns(
        place=pl.int_range(pl.len()).over("request_id").cast(pl.UInt32)
    )
    clicked = attributed.events.select("request_id", "place").unique().with_columns(reward=pl.lit(1.0))
    return (
        each.filter(pl.col("propensity") < 1)
        .join(clicked, on=["request_id", "place"], how="left", maintain_order="left")
        .with_columns(pl.col("reward").fill_null(0.0), pl.col("propensity").cast(pl.Float64))
        .select(*kept[:4], "item_id", "place", "propensity", "reward", "pool", "shown")
    )


def _names(answers: pl.DataFrame, by: str, segment_of: Mapping[int, str]) -> pl.Series:
    if by == "segment":
        return pl.Series([segment_of.get(person, "") for person in answers["person"]], dtype=pl.String)
    return _day(answers) if by == "day" else answers[by]


def _day(answers: pl.DataFrame) -> pl.Series:
    return pl.Series([time_text(time_us)[:10] for time_us in answers["time_us"].to_list()], dtype=pl.String)


def _items_of(answers: pl.DataFrame) -> Vocabulary:
    return Vocabulary.of(answers["items"].explode().drop_nulls().unique().sort())


def _lists(
    answers: pl.DataFrame,
    attributed: Attributed,
    vocabulary: Vocabulary,
    k: int,
    conversions: Sequence[str],
    snapshot: Snapshot | None,
) -> _Lists:
    items = _matrix(answers["items"], vocabulary)
    row_of = pl.DataFrame({"request_id": answers["request_id"]}).with_row_index("answer")
    events = attributed.events.join(row_of, on="request_id", how="inner", maintain_order="left")
    rows, places = events["answer"].to_numpy().astype(np.int64), events["place"].to_numpy().astype(np.int64)
    hit = np.zeros(items.shape, bool)
    hit[rows, places] = True
    sold = events["kind"].is_in(list(conversions)).to_numpy()
    value = events["value"].fill_null(0.0).to_numpy()
    count = len(answers)
    scores = accuracy(items, _targets(items, hit), [k])
    people = answers["person"].to_numpy()
    return _Lists(
        items=items,
        # real persons are 64-bit hashes: a row number does not meet one
        person=np.where(people == NOBODY, np.arange(1, count + 1), people),
        clicked=hit.sum(axis=1).astype(np.float64),
        converted=(np.bincount(rows[sold], minlength=count) > 0).astype(np.float64),
        revenue=np.bincount(rows[sold], weights=value[sold], minlength=count).astype(np.float64),
        accuracy={name: scores[name] for name in (f"{metric}@{k}" for metric in SHOWN)},
        novelty=None if snapshot is None else _novelty(items, k, snapshot),
        fresh=None if snapshot is None else _fresh(items[:, :k], answers["time_us"].to_numpy(), snapshot),
        dwell=_dwell(events, rows, count),
    )


def _dwell(
    events: pl.DataFrame, rows: NDArray[np.int64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Seconds and how many events told them, of each answer; None where no event does."""
    told = events["context"].str.json_path_match(f"$.{DWELL}").cast(pl.Float64, strict=False)
    seconds = told.fill_null(np.nan).to_numpy()
    good = np.isfinite(seconds) & (seconds >= 0)
    if not good.any():
        return None
    sums = np.bincount(rows[good], weights=seconds[good], minlength=count).astype(np.float64)
    return sums, np.bincount(rows[good], minlength=count).astype(np.float64)


def _fresh(items: ItemLists, shown_us: NDArray[np.int64], past: Snapshot) -> NDArray[np.float64] | None:
    """[Q], NaN for an answer without items; None where the snapshot has no times."""
    if past.time_us is None:
        return None
    newest = np.iinfo(np.int64).max
    first_us = np.full(max(past.item_count, int(items.max(initial=-1)) + 1), newest)
    np.minimum.at(first_us, past.item, past.time_us)
    there = items >= 0
    young = there & (first_us[items] >= (shown_us - FRESH_DAYS * DAY_US)[:, None])
    places = there.sum(axis=1)
    return np.where(places > 0, young.sum(axis=1) / np.maximum(places, 1), np.nan)


def _novelty(items: ItemLists, k: int, past: Snapshot) -> NDArray[np.float64]:
    """As offline; an item that is newer than the snapshot was touched by nobody."""
    touched, people = popularity_in(past)
    newer = max(0, int(items.max(initial=-1)) + 1 - len(touched))
    return novelty(items, k, np.concatenate([touched, np.zeros(newer, np.int64)]), people)


def _matrix(lists: pl.Series, vocabulary: Vocabulary) -> ItemLists:
    """[Q, K]. An item that the vocabulary does not hold gets a number after it, so that it still counts."""
    lengths = lists.list.len().to_numpy().astype(np.int64)
    flat = lists.explode().drop_nulls()
    numbers = vocabulary.numbers(flat)
    new = numbers < 0
    if new.any():
        numbers = numbers.copy()
        numbers[new] = len(vocabulary) + np.unique(flat.to_numpy()[new], return_inverse=True)[1]
    items = np.full((len(lengths), int(lengths.max(initial=0))), -1, np.int32)
    row = np.repeat(np.arange(len(lengths)), lengths)
    items[row, np.arange(len(row)) - np.repeat(lengths.cumsum() - lengths, lengths)] = numbers
    return items


def _targets(items: ItemLists, hit: NDArray[np.bool_]) -> Holdout:
    """The items with an event as the targets of each answer, in the shape of a board."""
    offsets = np.concatenate([[0], hit.sum(axis=1).cumsum()]).astype(np.int64)
    nothing = np.zeros(len(items) + 1, np.int64)
    queries = Queries(np.full(len(items), -1, np.int32), nothing, np.zeros(0, np.int32))
    return Holdout(queries, offsets, items[hit])


def _earned(group: str, lists: _Lists, own: NDArray[np.bool_], k: int, item_count: int) -> Earned:
    person, one = lists.person[own], np.ones(int(own.sum()))
    columns = {
        "CTR": (lists.clicked[own], lists.shown()[own]),
        "Conversion": (lists.converted[own], one),
        "Revenue/1000": (1000 * lists.revenue[own], one),
    }
    means = {name: values[own] for name, values in lists.accuracy.items()}
    if lists.novelty is not None:
        means[f"Novelty@{k}"] = lists.novelty[own]
    if lists.fresh is not None:
        means[f"Fresh@{k}"] = lists.fresh[own]
    for name, values in means.items():
        defined = ~np.isnan(values)
        columns[name] = (np.where(defined, values, 0.0), defined.astype(np.float64))
    if lists.dwell is not None:
        columns["Dwell s"] = (lists.dwell[0][own], lists.dwell[1][own])
    estimates = {}
    for name, (above, below) in columns.items():
        x, y = sums_by_user(person, above, below)
        there = y > 0
        estimates[name] = ratio_estimate(x[there], y[there])
    whole = {f"Coverage@{k}": coverage(lists.items[own], k, item_count)}
    return Earned(group, len(one), len(np.unique(person)), estimates, whole)


def online_table(earned: Sequence[Earned], by: str) -> Table:
    """Groups as rows, with 95 % intervals over users."""
    if not earned:
        return Table("answers and what they led to", (by,), ())
    first = earned[0]
    columns = (by, "answers", "people", *first.estimates, *first.whole)
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            row.group or "–",
            f"{row.answers:,}",
            f"{row.people:,}",
            *(Figure(e.value, e.interval()) for e in row.estimates.values()),
            *(Figure(value) for value in row.whole.values()),
        )
        for row in earned
    )
    note = "95 % intervals over people, for one look; an answer without a user id counts as a person."
    return Table("answers and what they led to", columns, rows, note)
