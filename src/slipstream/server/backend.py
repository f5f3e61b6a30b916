"""What the server does, without HTTP: the live pipeline, the event store, and the queues before them.

Short answers are made on the event loop, long ones and writes in threads of their own, all behind bounded
queues (admission.py), so that an overloaded server refuses at once. A newly promoted release is opened beside
the live one and swapped in; one that cannot be opened is reported and the live one goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from slipstream.config import Home
from slipstream.errors import SlipstreamError
from slipstream.events.event import EventBatch
from slipstream.events.forgetting import forget_person
from slipstream.events.impressions import read_feedback_settings
from slipstream.events.sqlite import SqliteEventStore
from slipstream.events.sqlite_impressions import Feedback, SqliteImpressionStore
from slipstream.recommend.experiment import EXPERIMENT_FILE, RunningExperiment, read_experiment
from slipstream.recommend.live_release import current_release
from slipstream.recommend.newcomers import AddedItems
from slipstream.recommend.pipeline import Pipeline, Request
from slipstream.recommend.release import CURRENT, Release
from slipstream.recommend.rules import RULES_FILE, Rules
from slipstream.recommend.slate import Reason, Slate
from slipstream.server.admission import Gate, Line
from slipstream.server.arms import Arms, ServedArm, arm_stamps, open_arms, stamps_of
from slipstream.server.exposition import Gauge, Metrics
from slipstream.server.group_commit import GroupCommit, Stored
from slipstream.server.impression_log import ImpressionLog
from slipstream.server.options import Options
from slipstream.server.wire import Problem

log = logging.getLogger("slipstream.server")

ANSWER_THREADS = 2
MOST_WARMED, WARM_SECONDS = 2_000, 0.4
"""Users whose states are made before a release is swapped in, and the time that this may take."""
LOOK_SECONDS = 0.1
"""How often the pointer to the live release is looked at; looking is two stats. Together with warming it is
half of the second in which a promoted release goes live; the other half is for opening it."""


def _not_ready(detail: str) -> Problem:
    return Problem(503, "not-ready", detail, "look at /readyz", headers={"retry-after": "1"})


class Backend:
    """One home, served. `start` and `stop` belong to the event loop; the rest may be called from threads."""

    def __init__(self, home: Home, metrics: Metrics, options: Options | None = None) -> None:
        self.home, self.metrics, self.options = home, metrics, options or Options()
        self.line = Line()
        self.answers = Gate("answers", ANSWER_THREADS)
        self.writes = Gate("writes", 1)
        self.parsing = Gate("parsing", 1)
        self._added = AddedItems(home.catalogue)
        self._store: SqliteEventStore | None = None
        self._commits: GroupCommit | None = None
        self._impressions: ImpressionLog | None = None
        self._pipeline: Pipeline | None = None
        self._arms: Arms | None = None
        self._experiment: RunningExperiment | None = None
        self._stamp: tuple[int, ...] = ()
        self._watch: asyncio.Task[None] | None = None
        metrics.gauges += [
            Gauge("slipstream_line_length", "Short answers waiting.", lambda: self.line.inside),
            Gauge("slipstream_answers_inside", "Long answers being made.", lambda: self.answers.inside),
            Gauge("slipstream_writes_waiting", "Writes waiting.", self._writes_waiting),
            Gauge("slipstream_impressions_waiting", "Answers still to be logged.", self._to_log),
            Gauge("slipstream_impressions_dropped", "Answers that were not logged.", self._not_logged),
            Gauge("slipstream_release_age_seconds", "Age of the live release.", self._release_age_s),
            Gauge("slipstream_users_kept", "Users kept in memory.", lambda: self._kept()[0]),
            Gauge("slipstream_users_kept_bytes", "What they take.", lambda: self._kept()[1]),
            Gauge("slipstream_segment_answers", "Answers by a segment's popularity.", self._by_segment),
            Gauge("slipstream_searched", "Queries the item index answered.", lambda: self._searched()[0]),
            Gauge("slipstream_rescored", "Items scored exactly for them.", lambda: self._searched()[1]),
        ]

    @property
    def ready(self) -> bool:
        return self._pipeline is not None

    @property
    def pipeline(self) -> Pipeline:
        """The live pipeline. Raises Problem 503 while the server is not warm."""
        if self._pipeline is None:
            hint = "look at /readyz"
            raise Problem(
                503, "not-ready", "no release is in service yet", hint, headers={"retry-after": "1"}
            )
        return self._pipeline

    @property
    def store(self) -> SqliteEventStore:
        if self._store is None:
            raise _not_ready("the event store is not open")
        return self._store

    async def start(self) -> None:
        """Open the store and the live release. Raises NotThere without one, CorruptArtifact if changed."""
        self._store = SqliteEventStore(self.home.events)
        self._commits = GroupCommit(self._store)
        settings = read_feedback_settings(self.home.root)
        impressions = SqliteImpressionStore(self.home.impressions)
        self._impressions = ImpressionLog(impressions, settings, crowded=self.line.standing)
        own = self._own_stamps()
        self._experiment = read_experiment(self.home.root)
        self._stamp = own + arm_stamps(self.home, self._experiment)
        self._arms = await asyncio.to_thread(self._open)
        self._pipeline = self._arms.live.pipeline
        self._watch = asyncio.create_task(self._follow())
        self._impressions.start()

    async def stop(self) -> None:
        """Finish what was begun, then close."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        if self._commits is not None:
            await self._commits.finish()
        await asyncio.to_thread(self.answers.close)
        await asyncio.to_thread(self.writes.close)
        await asyncio.to_thread(self.parsing.close)
        if self._impressions is not None:
            await self._impressions.finish()
        if self._store is not None:
            self._store.close()

    def _open(self) -> Arms:
        """The live pipeline and those of the experiment's arms, ready to answer."""
        pipeline = self._opened(Release.open(current_release(self.home)))
        if self._pipeline is not None:  # a first answer costs ten times a later one
            pipeline.warm_up(self._pipeline.recent_users(MOST_WARMED), WARM_SECONDS)
        return open_arms(self.home, pipeline, self._experiment, self._opened)

    def _opened(self, release: Release, rules: Rules | None = None) -> Pipeline:
        release.warm()
        sharing = 1 if self._experiment is None else 1 + len(self._experiment.arms)
        return Pipeline(
            release,
            self._store,
            home=self.home,
            rules=rules,
            slate_cache=self.options.slate_cache,
            budget_bytes=(self.options.memory_mb << 20) // sharing,
            idle_int8=self.options.idle_int8,
        )

    def _look_at_experiment(self) -> None:
        """One that cannot be read changes nothing: the former one goes on, and releases still go live."""
        try:
            self._experiment = read_experiment(self.home.root)
        except (SlipstreamError, OSError) as error:
            self.metrics.count(self.metrics.refused)
            log.error("the experiment was refused, the former one goes on: %s", error)

    def _own_stamps(self) -> tuple[int, ...]:
        """What changes when another release is promoted, or rules or experiment are rewritten."""
        root = self.home.root
        return stamps_of((self.home.releases / CURRENT, root / RULES_FILE, root / EXPERIMENT_FILE))

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            own = self._own_stamps()  # before anything is read: a change during it is seen by the next look
            if own + arm_stamps(self.home, self._experiment) == self._stamp:
                continue
            self._look_at_experiment()
            self._stamp = own + arm_stamps(self.home, self._experiment)
            try:
                self._arms = await asyncio.to_thread(self._open)
                self._pipeline = self._arms.live.pipeline
                self.metrics.count(self.metrics.swaps)
                log.info("release %s is in service", self._pipeline.release.name)
            except (SlipstreamError, OSError) as error:
                self.metrics.count(self.metrics.refused)
                log.error("the new release was refused, the old one goes on: %s", error)
            if self._own_stamps() + arm_stamps(self.home, self._experiment) != self._stamp:
                self._stamp = ()  # what was opened may be of before or after the change: look again

    def _writes_waiting(self) -> float:
        return 0 if self._commits is None else self._commits.waiting

    def _to_log(self) -> float:
        return 0 if self._impressions is None else self._impressions.waiting

    def _not_logged(self) -> float:
        return 0 if self._impressions is None else self._impressions.dropped

    def _searched(self) -> tuple[int, int]:
        return (0, 0) if self._pipeline is None else self._pipeline.searched()

    def _by_segment(self) -> int:
        return 0 if self._pipeline is None else self._pipeline.by_segment

    def _kept(self) -> tuple[int, int]:
        return (0, 0) if self._pipeline is None else self._pipeline.kept()

    def _release_age_s(self) -> float:
        pipeline = self._pipeline
        return 0.0 if pipeline is None else time.time() - pipeline.release.created_us / 1e6

    def recommend(self, request: Request) -> Slate:
        started = time.perf_counter()
        arm = self._arm_of(request.user_id)
        slate, drawn = arm.recommend(request)
        self.metrics.answer(slate.tier, time.perf_counter() - started)
        if arm.fell_back:
            self.metrics.count(self.metrics.fallbacks)
        if self._impressions is not None:
            self._impressions.note(slate, arm.label, drawn)
        return slate

    def _arm_of(self, user_id: str | None) -> ServedArm:
        return ServedArm("", self.pipeline) if self._arms is None else self._arms.of(user_id)

    def similar(self, item_id: str, k: int) -> Slate:
        return self.pipeline.similar(item_id, k)

    def explain(self, user_id: str, item_id: str) -> tuple[Reason, ...]:
        return self._arm_of(user_id).pipeline.explain(user_id, item_id)

    async def append(self, batch: EventBatch, feedback: Sequence[Feedback] = ()) -> Stored:
        """Store events and what they say about answers; both are on the disk when this returns.

        Events are all or nothing. If it fails between the two, the caller's repeat brings the feedback again.
        """
        if self._commits is None or self._impressions is None:
            raise _not_ready("the event store is not open")
        stored = await self._commits.append(batch)
        if feedback:
            await self._impressions.attach(feedback)
        return stored

    def events_of(self, user_id: str, limit: int) -> list[dict[str, Any]]:
        """The user's events, newest first."""
        return self.store.history(user_id, limit=limit).to_dicts()

    def forget(self, user_id: str) -> int:
        """Remove a person; how many events were removed. What workers keep goes with their next look."""
        return forget_person(self.home, self.store, user_id)

    def add_items(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._added.append(rows)
