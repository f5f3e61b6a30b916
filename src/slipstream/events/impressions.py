"""What was shown to whom, and what they did with it: shapes, settings, and the join of the two.

SERVED has a row for each answer, FEEDBACK one for each event that names an answer (`request_id`) or brings a
`context`. A person stands there as 64 bits of a hash of their id (`person_of`), never by name.

This module does not know where the rows are kept (`sqlite_impressions`) or who writes them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import Field, ValidationError

from slipstream.config import Settings
from slipstream.errors import ConfigError
from slipstream.events.sqlite_tables import user_hashes

DAY_US = 86_400_000_000
HOUR_US = 3_600_000_000
CLOCK_SLACK_US = 60_000_000
"""Feedback may be a minute older than the answer it names: two machines, two clocks."""

SERVED_SCHEMA = pl.Schema(
    {
        "request_id": pl.String(),
        "person": pl.Int64(),
        "time_us": pl.Int64(),
        "release": pl.String(),
        "arm": pl.String(),  # of an experiment; empty outside one
        "tier": pl.String(),
        "items": pl.List(pl.String()),  # as shown, best first
        "scores": pl.List(pl.Float32()),
        "propensities": pl.List(pl.Float32()),  # how likely each item was in its place; empty: all certain
        "pool": pl.List(pl.String()),  # what the last place was drawn from, its own item first; empty: not
        "teams": pl.String(),  # an interleaved slate: a or b for each place, whose pick it is; empty: not one
    }
)
FEEDBACK_SCHEMA = pl.Schema(
    {
        "event_id": pl.String(),
        "person": pl.Int64(),
        "request_id": pl.String(),  # empty: the event names no answer
        "item_id": pl.String(),
        "kind": pl.String(),
        "value": pl.Float64(),
        "time_us": pl.Int64(),
        "context": pl.String(),  # JSON; empty: none
    }
)
NOBODY = 0
"""The person of an answer to a request without a user id."""


class FeedbackSettings(Settings):
    """What a home keeps of its answers; `feedback.json` in the home folder."""

    sample: float = Field(default=1.0, ge=0, le=1)
    """The part of the answers that is kept, chosen by a hash of the request id. 0: none."""
    keep_days: int = Field(default=90, ge=1)
    """Days after which answers and feedback are removed, counted in whole days of UTC."""
    window_hours: float = Field(default=24.0, gt=0)
    """How long after an answer an event may still be counted for it."""


SETTINGS_FILE = "feedback.json"


def read_feedback_settings(home: Path) -> FeedbackSettings:
    """The settings in the home folder, else the defaults. Raises ConfigError by name."""
    path = home / SETTINGS_FILE
    try:
        return FeedbackSettings.model_validate(json.loads(path.read_text()))
    except FileNotFoundError:
        return FeedbackSettings()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "settings"
        known = ", ".join(FeedbackSettings.model_fields)
        raise ConfigError(f"{path}: {where}: {first['msg']}", hint=f"known settings: {known}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}", hint='an example: {"keep_days": 30}') from error


def person_of(user_id: str | None) -> int:
    """The number that stands for a person in impressions."""
    return NOBODY if user_id is None else user_hashes([user_id])[0]


def is_sampled(request_id: str, rate: float) -> bool:
    """Whether the answer `request_id` is kept at this rate: the same in every process, now and later."""
    if rate >= 1 or rate <= 0:
        return rate >= 1
    return int.from_bytes(blake2b(request_id.encode(), digest_size=8).digest(), "big") < rate * 2.0**64


@dataclass(frozen=True)
class Attributed:
    """Feedback that belongs to an answer, and why the rest does not.

    events: FEEDBACK's columns, with `place` (UInt32, 0 = first) of the item in its answer. unattributed: rows
    by reason: `repeated` (the event id was there), `no-request`, `unknown-request` (not logged, or removed
    since), `other-person`, `not-shown`, `early` (before the answer by over a minute), `late`.
    """

    events: pl.DataFrame
    unattributed: dict[str, int]


def attribute(served: pl.DataFrame, feedback: pl.DataFrame, window_us: int) -> Attributed:
    """Join feedback with the answers it names. O((S·K + F) log) time; frames in the schemas above.

    An event counts for an answer if it names it, is by the same person, about an item of it, and not later
    than `window_us` after it.
    """
    answers = served.unique("request_id", keep="first", maintain_order=True).select(
        "request_id",
        pl.col("person").alias("shown_to"),
        pl.col("time_us").alias("shown_us"),
        "items",
    )
    once = feedback.unique("event_id", keep="first", maintain_order=True)
    joined = once.join(answers, on="request_id", how="left", maintain_order="left").with_row_index("row")
    places = (
        joined.filter(pl.col("items").is_not_null())
        .select("row", "item_id", "items")
        .explode("items")
        .with_columns(place=pl.int_range(pl.len()).over("row").cast(pl.UInt32()))
        .filter(pl.col("items") == pl.col("item_id"))
        .group_by("row")
        .agg(pl.col("place").min())
    )
    judged = joined.join(places, on="row", how="left", maintain_order="left").with_columns(_why(window_us))
    counts = dict(judged.filter(pl.col("why") != "").group_by("why").len().sort("why").iter_rows())
    if feedback.height > once.height:
        counts["repeated"] = feedback.height - once.height
    kept = judged.filter(pl.col("why") == "").select(*FEEDBACK_SCHEMA.names(), "place")
    return Attributed(kept, counts)


def _why(window_us: int) -> pl.Expr:
    """The first reason against each row; empty for none."""
    age = pl.col("time_us") - pl.col("shown_us")
    reasons: list[tuple[Any, str]] = [
        (pl.col("request_id") == "", "no-request"),
        (pl.col("shown_us").is_null(), "unknown-request"),
        ((pl.col("shown_to") != pl.col("person")) & (pl.col("shown_to") != NOBODY), "other-person"),
        (pl.col("place").is_null(), "not-shown"),
        (age < -CLOCK_SLACK_US, "early"),
        (age > window_us, "late"),
    ]
    said = [pl.when(holds).then(pl.lit(name)) for holds, name in reasons]
    return pl.coalesce(*said, pl.lit("")).alias("why")
