"""What the home knows beside its log: what each release was worth offline, and segments of people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from slipstream.config import Home
from slipstream.dataset.snapshot import Snapshot
from slipstream.errors import NotThere, UsageError
from slipstream.evaluation.estimates import Estimate
from slipstream.evaluation.intervals import Interval
from slipstream.evaluation.online import Earned
from slipstream.evaluation.tables import Cell, Figure, Table
from slipstream.events.sqlite_tables import user_hashes
from slipstream.loop import journal
from slipstream.loop.tables import read_table_of
from slipstream.recommend.live_release import list_releases

ACTIVITY = ((1, "0 events"), (10, "1 to 9 events"), (50, "10 to 49 events"))
MOST_ACTIVE = "50 events or more"
MOST_SEGMENTS = 50


@dataclass(frozen=True)
class Beside:
    """One release, offline and online. None: not measured. trial: NDCG@`trial_k` in its cycle's contest."""

    release: str
    model: str
    validation: float | None
    trial: Interval | None
    trial_k: int | None
    online: Estimate  # NDCG of the lists as shown, of answers with an event
    ctr: Estimate

    def json(self) -> dict[str, Any]:
        about = {"release": self.release, "model": self.model, "validation_ndcg@10": self.validation}
        trial = None if self.trial is None else asdict(self.trial) | {"k": self.trial_k}
        online = {"ndcg": _pair(self.online), "ctr": _pair(self.ctr)}
        return {**about, "trial_ndcg": trial, **online}


def _pair(estimate: Estimate) -> list[float | None]:
    seen = estimate.interval()
    return [None if value != value else value for value in (seen.mean, seen.low, seen.high)]


def offline_beside_online(home: Home, earned: Sequence[Earned], k: int) -> list[Beside]:
    """One for each release that answered, also one that is no longer on the disk. earned: by release."""
    listed = {release.name: release.meta for release in list_releases(home)}
    cycles = {record.name: record for record in journal.records(home)}
    found = []
    for group in earned:
        meta, record = listed.get(group.group, {}), cycles.get(group.group)
        measured = meta.get("metrics") or {}
        trial, trial_k = None, None
        if record is not None and (told := (record.told("trial") or {}).get("candidate")):
            low, high = told["ndcg_interval"]
            trial, trial_k = Interval(told["ndcg"], low, high), int(record.policy["ndcg"]["k"])
        model = str(meta.get("primary") or ((record and record.told("release")) or {}).get("model", ""))
        online, ctr = group.estimates[f"NDCG@{k}"], group.estimates["CTR"]
        validation = measured.get("validation_ndcg@10")
        found.append(Beside(group.group, model, validation, trial, trial_k, online, ctr))
    return found


def beside_table(found: Sequence[Beside]) -> Table:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            line.release,
            line.model or "–",
            "–" if line.validation is None else Figure(line.validation),
            "–" if line.trial is None else Figure(line.trial.mean, line.trial),
            Figure(line.online.value, line.online.interval()),
            Figure(line.ctr.value, line.ctr.interval()),
        )
        for line in found
    )
    columns = ("release", "model", "validation NDCG@10", "trial NDCG", "NDCG as shown", "CTR")
    note = "offline is over what people did later, as shown over what they did with the slate: compare the "
    note += "order of the releases, not the levels."
    return Table("offline beside online", columns, rows, note)


def segments_of(home: Home, snapshot: Snapshot | None, column: str) -> dict[int, str]:
    """The segment of each person by `person_of`: a column of the users' table, or how active they were."""
    if column:
        return _by_column(home, column)
    if snapshot is None:
        return {}
    names = [
        next((name for below, name in ACTIVITY if count < below), MOST_ACTIVE)
        for count in np.diff(snapshot.offsets).tolist()
    ]
    return dict(zip(user_hashes(snapshot.users.to_list()), names, strict=True))


def _by_column(home: Home, column: str) -> dict[int, str]:
    table = read_table_of(home, "users")
    if table is None:
        hint = "`slipstream catalogue --of users FILE` adds one; without --segment the activity is taken"
        raise NotThere(f"{home.root} has no table of users", hint=hint)
    if column not in table.columns or column == "user_id":
        known = ", ".join(name for name in table.columns if name != "user_id")
        raise UsageError(f"the users have no column {column!r}", hint=f"there are: {known}")
    values: Mapping[str, object] = dict(table.select("user_id", column).iter_rows())
    if len({str(value) for value in values.values()}) > MOST_SEGMENTS:
        raise UsageError(f"{column!r} has more than {MOST_SEGMENTS} values: too many for segments")
    names = ["" if value is None else str(value) for value in values.values()]
    return dict(zip(user_hashes(list(values)), names, strict=True))
