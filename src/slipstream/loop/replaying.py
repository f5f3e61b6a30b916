"""What a release that did not serve would have put into the explored places of the log.

The release answers each request again as of its moment: with the events up to then, and none that names the
answer. What it learned from must lie before, so places of a time that it was trained on are left out.

Differs from the answer that was: rules and added items are the home's of today, and what a request asked
beside the person (filters, exclude) is not in the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from slipstream.config import Home
from slipstream.events.sqlite import SqliteEventStore
from slipstream.events.sqlite_tables import user_hashes
from slipstream.recommend.pipeline import Pipeline, Request
from slipstream.recommend.release import Release, check_name


@dataclass
class Replayed:
    """One release. own: the item that it would have put into the place of a request, by request id. pool: the
    best it had of those that were drawn from. learned: places of a time that it was trained on. timeless:
    places of people with an event without a time, so that nobody knows what was before. Both were not asked.
    """

    release: str
    own: dict[str, str] = field(default_factory=dict)
    pool: dict[str, str] = field(default_factory=dict)
    learned: int = 0
    timeless: int = 0

    def policies(self) -> dict[str, Mapping[str, str]]:
        """As `policies_in_log` takes them."""
        return {self.release: self.own, f"{self.release}, of the pool": self.pool}

    def line(self) -> str:
        if not self.own and not self.learned and not self.timeless:
            return f"release {self.release}: no place was explored, so the log cannot tell what it would earn"
        left = [
            f"{count:,} {why}"
            for count, why in (
                (self.learned, "of a time that it learned from"),
                (self.timeless, "of people with events without times"),
            )
            if count
        ]
        but = f"; not about {' and '.join(left)}" if left else ""
        return f"release {self.release} was asked about {len(self.own):,} explored places{but}"

    def json(self) -> dict[str, Any]:
        told = {"release": self.release, "asked": len(self.own)}
        return told | {"learned_from": self.learned, "timeless": self.timeless}


def replay(home: Home, name: str, choices: pl.DataFrame, feedback: pl.DataFrame) -> Replayed:
    """Ask the release `name` about each row of `choices`, given the other places of the answer.

    choices: of `choices_left_to_chance`. feedback: the events that name answers. One or two rankings a row.
    Raises NotThere without the release.
    """
    check_name(name)
    release, found = Release.open(home.releases / name), Replayed(name)
    through_us = release.meta.get("through_us")
    after = pl.col("time_us") > (release.created_us if through_us is None else through_us)
    told = choices.filter(pl.col("pool").list.len() > 0)
    rows = told.filter(after)
    found.learned = told.height - rows.height
    first = feedback.group_by("request_id").agg(before_us=pl.col("time_us").min() - 1)
    rows = rows.join(first, on="request_id", how="left", maintain_order="left").with_columns(
        as_of_us=pl.min_horizontal("time_us", "before_us")
    )
    if rows.is_empty():
        return found
    users, timeless = _people(home, set(rows["person"].to_list()))
    store = SqliteEventStore(home.events) if home.events.exists() else None
    try:
        pipeline = Pipeline(release, store, home=home)
        asked = rows.sort("person", maintain_order=True).select(
            "request_id", "person", "as_of_us", "place", "shown", "pool"
        )
        for request, person, as_of_us, place, shown, pool in asked.iter_rows():
            if person in timeless:
                found.timeless += 1
                continue
            others = [item for at, item in enumerate(shown) if at != place]
            plain = {"k": 1, "user_id": users.get(person), "time_us": as_of_us, "exclude": others}
            own = _best(pipeline, Request(**plain))
            found.own[request] = own
            found.pool[request] = own if own in pool else _best(pipeline, Request(**plain, allow=pool))
    finally:
        if store is not None:
            store.close()
    return found


def _best(pipeline: Pipeline, request: Request) -> str:
    """Empty where the release has nothing to show."""
    items = pipeline.recommend(request).items
    return items[0].item_id if items else ""


def _people(home: Home, wanted: set[int]) -> tuple[dict[int, str], set[int]]:
    """The user id of each person that has one in the store, and who has events without a time."""
    users: dict[int, str] = {}
    timeless: set[int] = set()
    if not home.events.exists():
        return users, timeless
    with SqliteEventStore(home.events) as store:
        for chunk in store.scan():
            found = chunk.group_by("user_id").agg(pl.col("time_us").null_count())
            people = user_hashes(found["user_id"].to_list())
            for person, (user_id, without) in zip(people, found.iter_rows(), strict=True):
                if person in wanted:
                    users[person] = user_id
                    if without:
                        timeless.add(person)
    return users, timeless
