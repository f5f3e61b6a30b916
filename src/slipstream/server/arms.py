"""The arms of the running experiment: which pipeline answers whom, and what the log calls it.

An arm whose release is not there, or was changed, is answered by the live release: under a label of its own,
so that its people are neither lost nor mixed with those who got the arm, and counted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from slipstream.artifacts import MANIFEST
from slipstream.config import Home
from slipstream.errors import SlipstreamError
from slipstream.recommend.experiment import Arm, Experiment, RunningExperiment
from slipstream.recommend.exploration import CERTAIN, Drawn, Explore, explored
from slipstream.recommend.interleaving import interleaved
from slipstream.recommend.pipeline import Pipeline, Request
from slipstream.recommend.release import Release, check_name
from slipstream.recommend.rules import Rules, read_rules
from slipstream.recommend.slate import Slate

log = logging.getLogger("slipstream.server")

OpenPipeline = Callable[[Release, Rules], Pipeline]


@dataclass(frozen=True)
class ServedArm:
    """label: for the log; empty outside an experiment. fell_back: the live release answers in its place.

    against: another pipeline, with whose lists its own are interleaved.
    """

    label: str
    pipeline: Pipeline
    explore: Explore | None = None
    fell_back: bool = False
    against: Pipeline | None = None

    def recommend(self, request: Request) -> tuple[Slate, Drawn]:
        """The slate, and what of it was left to chance."""
        if self.against is not None:
            return interleaved(self.pipeline, self.against, request)
        if self.explore is None:
            return self.pipeline.recommend(request), CERTAIN
        return explored(self.pipeline, request, self.explore)


@dataclass(frozen=True)
class Arms:
    """live: for everybody outside the experiment, and for requests without a user."""

    live: ServedArm
    split: Experiment | None = None
    served: Mapping[str, ServedArm] | None = None

    def of(self, user_id: str | None) -> ServedArm:
        if self.split is None or self.served is None or user_id is None:
            return self.live
        return self.served[self.split.arm_of(user_id)]


def open_arms(home: Home, live: Pipeline, running: RunningExperiment | None, make: OpenPipeline) -> Arms:
    """make: a pipeline of a release under rules; called once for each pair of them that the arms need."""
    everybody = ServedArm("", live)
    if running is None:
        return Arms(everybody)
    releases = {live.release.name: live.release}
    opened: dict[tuple[str, str], Pipeline] = {(live.release.name, live.rules.model_dump_json()): live}

    def pipeline_of(wanted: str, arm: Arm) -> Pipeline:
        if wanted not in releases:
            check_name(wanted)
            releases[wanted] = Release.open(home.releases / wanted)
        rules = arm.rules_over(read_rules(home.root, releases[wanted].rules))
        key = wanted, rules.model_dump_json()
        if key not in opened:
            opened[key] = make(releases[wanted], rules)
        return opened[key]

    served = {}
    for name, arm in running.arms.items():
        try:
            own = pipeline_of(arm.release or live.release.name, arm)
            other = pipeline_of(arm.interleave, arm) if arm.interleave else None
            served[name] = ServedArm(running.label(name), own, arm.explore, against=other)
        except (SlipstreamError, OSError) as error:
            log.error("arm %s is answered by the live release: %s", name, error)
            served[name] = ServedArm(running.fallback_label(name), live, fell_back=True)
    return Arms(everybody, running.split, served)


def stamps_of(paths: Iterable[Path]) -> tuple[int, ...]:
    """Numbers that change when one of the files is replaced, comes or goes."""
    stamps: list[int] = []
    for path in paths:
        try:
            stat = path.stat()
            stamps += [stat.st_mtime_ns, stat.st_ino, stat.st_size]
        except FileNotFoundError:
            stamps += [0, 0, 0]
    return tuple(stamps)


def arm_stamps(home: Home, running: RunningExperiment | None) -> tuple[int, ...]:
    """What changes when the release of an arm goes away or comes back."""
    names = sorted(running.releases()) if running is not None else []
    return stamps_of(home.releases / name / MANIFEST for name in names)
