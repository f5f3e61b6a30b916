"""What the served answers earned, from the home's own log."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from slipstream.config import Home
from slipstream.dataset.snapshot import Snapshot
from slipstream.errors import NotThere
from slipstream.evaluation.chances import (
    Duel,
    PolicyInLog,
    duels,
    duels_table,
    policies_in_log,
    policies_table,
)
from slipstream.evaluation.estimates import Estimate
from slipstream.evaluation.experiments import SampleRatio, sample_ratio
from slipstream.evaluation.intervals import Interval
from slipstream.evaluation.online import (
    CONVERSIONS,
    Earned,
    choices_left_to_chance,
    measure,
    online_table,
)
from slipstream.evaluation.readout import ArmReadout, plan_from, read_out, readout_table
from slipstream.evaluation.scores import popularity_in
from slipstream.evaluation.tables import Table
from slipstream.events.event import counts_text
from slipstream.events.impressions import (
    DAY_US,
    HOUR_US,
    NOBODY,
    Attributed,
    attribute,
    read_feedback_settings,
)
from slipstream.events.sqlite_impressions import SqliteImpressionStore
from slipstream.loop.beside import Beside, beside_table, offline_beside_online, segments_of
from slipstream.loop.replaying import Replayed, replay
from slipstream.recommend.experiment import read_experiment


@dataclass(frozen=True)
class OnlineReport:
    """earned: one for each group. unattributed: feedback that belongs to no answer, by reason.

    ratio: whether the people of the running experiment split as they should; only by arm. policies, duels:
    what chance in the answers tells, where there was any; replayed: releases that were asked about it.
    beside: each release offline and online; only by release. arms: each arm against the first; only by arm.
    """

    earned: list[Earned]
    by: str
    feedback: int
    unattributed: dict[str, int]
    ratio: SampleRatio | None = None
    policies: Sequence[PolicyInLog] = ()
    replayed: Sequence[Replayed] = ()
    duels: Sequence[Duel] = ()
    beside: Sequence[Beside] = ()
    arms: Sequence[ArmReadout] = ()

    def tables(self) -> list[Table]:
        """The figures, and what else there is to tell."""
        more = [
            (self.arms, readout_table(self.arms)),
            (self.beside, beside_table(self.beside)),
            (self.policies, policies_table(self.policies)),
            (self.duels, duels_table(self.duels)),
        ]
        return [online_table(self.earned, self.by), *(table for found, table in more if found)]

    def lines(self) -> list[str]:
        lost = f"; not counted: {counts_text(self.unattributed)}" if self.unattributed else ""
        told = [f"{self.feedback:,} events name their answer or bring a context{lost}"]
        if self.ratio is not None:
            seen = ", ".join(
                f"{arm} {count:,} people, {self.ratio.expected[arm]:,.0f} expected"
                for arm, count in self.ratio.seen.items()
            )
            fault = ": the split or the log is at fault, trust no difference" if self.ratio.mismatch else ""
            told.append(f"split: {seen} (p = {self.ratio.p_value:.2g}){fault}")
        return told + [replayed.line() for replayed in self.replayed]

    def json(self) -> dict[str, Any]:
        """Plain values; an interval that is not known is null."""
        groups = [
            {
                self.by: e.group,
                "answers": e.answers,
                "people": e.people,
                "metrics": {name: _known(x.value) for name, x in e.estimates.items()} | e.whole,
                "intervals": {
                    name: [_known(x.interval().low), _known(x.interval().high)]
                    for name, x in e.estimates.items()
                },
            }
            for e in self.earned
        ]
        ratio = None if self.ratio is None else vars(self.ratio) | {"mismatch": self.ratio.mismatch}
        told = {"by": self.by, "groups": groups, "feedback": self.feedback, "unattributed": self.unattributed}
        more = {
            "policies": [_policy_json(p) for p in self.policies],
            "replayed": [replayed.json() for replayed in self.replayed],
            "duels": [{**vars(d), "preferred": _estimate_json(d.preferred)} for d in self.duels],
            "offline_beside_online": [b.json() for b in self.beside],
            "arms": [_arm_json(arm) for arm in self.arms],
        }
        return told | more | ({} if ratio is None else {"sample_ratio": ratio})


def _policy_json(line: PolicyInLog) -> dict[str, Any]:
    value = line.value
    robust = value.doubly_robust
    return {
        "arm": line.arm,
        "policy": line.policy,
        "choices": value.rows,
        "effective_choices": value.effective_rows,
        "ips": _estimate_json(value.ips),
        "snips": _estimate_json(value.snips),
        "doubly_robust": None if robust is None else _estimate_json(robust),
        "over_own": None if line.over_own is None else _estimate_json(line.over_own),
        "as_logged": _estimate_json(line.logged),
        "doubts": list(value.warnings),
    }


def _arm_json(line: ArmReadout) -> dict[str, Any]:
    rails = [
        {"metric": r.metric, "allowed": r.allowed, "interval": _ends(r.difference), "state": r.state}
        for r in line.guardrails
    ]
    told = {**vars(line), "difference": _estimate_json(line.difference), "daily": _ends(line.daily)}
    return told | {"detectable": _known(line.detectable), "guardrails": rails}


def _ends(seen: Interval) -> list[float | None]:
    """An end that is nowhere is null."""
    return [end if math.isfinite(end) else None for end in (seen.low, seen.high)]


def _estimate_json(estimate: Estimate) -> dict[str, Any]:
    seen = estimate.interval()
    return {"value": _known(seen.mean), "interval": [_known(seen.low), _known(seen.high)]}


def _known(value: float) -> float | None:
    return None if value != value else value


@dataclass(frozen=True)
class LoggedHome:
    """What a home's log holds, read once. feedback: how many events name an answer or bring a context.

    releases: those to ask what they would have put into the explored places.
    """

    home: Home
    served: pl.DataFrame
    attributed: Attributed
    feedback: int
    snapshot: Snapshot | None
    k: int
    conversions: tuple[str, ...]
    segment: str
    releases: tuple[str, ...] = ()

    def earned(self, by: str, served: pl.DataFrame | None = None) -> list[Earned]:
        """`measure` over these answers, or a part of them."""
        return measure(
            self.served if served is None else served,
            self.attributed,
            by=by,
            k=self.k,
            conversions=self.conversions,
            snapshot=self.snapshot,
            segment_of=self.segments if by == "segment" else None,
        )

    @cached_property
    def segments(self) -> dict[int, str]:
        return segments_of(self.home, self.snapshot, self.segment)

    def new_people_per_day(self, answers: pl.Expr) -> float:
        """People of these answers by the days from the first to the last; 0 without any."""
        rows = self.served.filter(answers & (pl.col("person") != NOBODY))
        if rows.is_empty():
            return 0.0
        first_us, last_us = rows.select(pl.col("time_us").min().alias("a"), pl.col("time_us").max()).row(0)
        return float(rows["person"].n_unique() / max(1.0, (last_us - first_us) / DAY_US))

    @cached_property
    def choices(self) -> pl.DataFrame:
        """The explored places."""
        return choices_left_to_chance(self.served, self.attributed)

    @cached_property
    def replayed(self) -> list[Replayed]:
        return [replay(self.home, name, self.choices, self.attributed.events) for name in self.releases]

    @cached_property
    def policies(self) -> list[PolicyInLog]:
        """None where no place was explored."""
        popular: dict[str, int] = {}
        if self.snapshot is not None:
            items = self.snapshot.items.to_list()
            popular = dict(zip(items, popularity_in(self.snapshot)[0].tolist(), strict=True))
        others = {name: picks for asked in self.replayed for name, picks in asked.policies().items()}
        return policies_in_log(self.choices, popular, others)


def read_log(
    home: Home,
    *,
    days: int | None = None,
    k: int = 10,
    conversions: tuple[str, ...] = CONVERSIONS,
    segment: str = "",
    releases: Sequence[str] = (),
) -> LoggedHome:
    """The answers of the last `days` (None: all that are kept), with feedback of any day.

    releases: to be asked what they would have put into the explored places (`replay`).

    Raises NotThere without a log.
    """
    if not home.impressions.exists():
        hint = "`slipstream serve` logs its answers there"
        raise NotThere(f"{home.impressions} is not there: nothing was served from this home", hint=hint)
    with SqliteImpressionStore(home.impressions) as store:
        served, feedback = store.served(), store.feedback()
    window_us = int(read_feedback_settings(home.root).window_hours * HOUR_US)
    attributed = attribute(served, feedback, window_us)
    if days is not None:
        served = served.filter(pl.col("time_us") >= time.time_ns() // 1000 - days * DAY_US)
    snapshot = Snapshot.open(home.snapshot) if (home.snapshot / "manifest.json").exists() else None
    about = snapshot, k, conversions, segment, tuple(dict.fromkeys(releases))
    return LoggedHome(home, served, attributed, feedback.height, *about)


def report_online(
    home: Home,
    *,
    by: str = "release",
    days: int | None = None,
    k: int = 10,
    conversions: tuple[str, ...] = CONVERSIONS,
    segment: str = "",
) -> OnlineReport:
    """Measure the answers of a home's log. segment: a column of the users' table, for `by="segment"`; empty:
    by how many events of the person the snapshot holds. Raises NotThere without a log.
    """
    return report_of(read_log(home, days=days, k=k, conversions=conversions, segment=segment), by)


def report_of(log: LoggedHome, by: str) -> OnlineReport:
    earned = log.earned(by)
    return OnlineReport(
        earned,
        by,
        log.feedback,
        log.attributed.unattributed,
        ratio=_sample_ratio(log.home, log.served) if by == "arm" else None,
        policies=log.policies,
        replayed=log.replayed,
        duels=duels(log.served, log.attributed),
        beside=offline_beside_online(log.home, earned, log.k) if by == "release" else [],
        arms=_arms(log, earned) if by == "arm" else [],
    )


def _arms(log: LoggedHome, earned: Sequence[Earned]) -> list[ArmReadout]:
    """As the running experiment wants it; without one, CTR of all the arms in the log."""
    running = read_experiment(log.home.root)
    named = [e for e in earned if e.group]
    if running is None:
        return read_out(named)
    own = {running.label(arm): place for place, arm in enumerate(running.arms)}
    arms = sorted((e for e in named if e.group in own), key=lambda e: own[e.group])
    per_day = log.new_people_per_day(pl.col("arm").is_in(list(own))) / max(1, len(running.arms))
    return read_out(
        arms,
        metric=running.metric,
        effect=running.effect,
        guardrails={str(name): part for name, part in running.guardrails.items()},
        new_people_per_day=per_day,
    )


def plan_lines(log: LoggedHome, effect: float, metric: str = "CTR") -> list[str]:
    """How large an experiment must be that finds this difference, by the people of the log."""
    groups = log.earned("release", log.served.with_columns(release=pl.lit("all")))
    per_day = log.new_people_per_day(pl.lit(True))
    if not groups or not groups[0].estimates[metric].variance > 0:
        return ["plan: the log holds too little to plan by"]
    made = plan_from(groups[0].estimates[metric], effect, new_people_per_day=per_day)
    days = "nobody comes" if made.days is None else f"{made.days:,} days"
    return [
        f"plan: a difference of {effect:g} in {metric} takes {made.users_per_arm:,} people in each of two "
        f"even arms: {days} at {per_day:,.1f} new people a day"
    ]


def _sample_ratio(home: Home, served: pl.DataFrame) -> SampleRatio | None:
    """Of the running experiment; who was answered by the live release instead counts for their arm."""
    running = read_experiment(home.root)
    if running is None:
        return None
    arm_of = {text: a for a in running.arms for text in (running.label(a), running.fallback_label(a))}
    people = served.filter(pl.col("arm").is_in(list(arm_of))).select(
        pl.col("arm").replace_strict(arm_of, return_dtype=pl.String), "person"
    )
    counts = people.unique().group_by("arm").len()
    return sample_ratio(running.split, {str(arm): int(count) for arm, count in counts.iter_rows()})
