"""What a candidate must do to go live: the policy of `slipstream cycle`, a TOML file.

Every part may be left out.

    model = "ease"            # default: the model that is live, with the settings it has
    trial_share = 0.2

    [settings]                # of the model, over its preset
    ridge = 300

    [ndcg]
    above = -0.002            # take a candidate that is no worse than this

    [guardrails]
    coverage = 0.9

The defaults are below, beside what they mean.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from slipstream.config import Settings
from slipstream.dataset.cleaning import CleaningRules
from slipstream.errors import ConfigError
from slipstream.evaluation.budget import parse_budget

MOST_POLICY_BYTES = 100_000


class DataMinimum(Settings):
    """Below these nothing is decided: the candidate is refused."""

    events: int = Field(default=1_000, ge=1)
    """New events since those the live release learned from."""
    users: int = Field(default=100, ge=2)
    """People with something new to find in the newest of them."""


class NdcgRule(Settings):
    """The low end of the 95 % paired interval of candidate − live must lie above `above`.

    0 asks for a candidate that is better beyond doubt; −0.002 for one that is not worse by more than that.
    """

    above: float = 0.0
    k: int = Field(default=10, ge=1, le=100)


class Guardrails(Settings):
    """What must not be paid for accuracy. Where nothing is live, those that compare are passed over."""

    coverage: float = Field(default=0.8, ge=0)
    """At least this part of the live release's coverage."""
    popularity_share: float = Field(default=1.25, ge=0)
    """At most so many times the live release's share of places for the most popular hundredth of items…"""
    popularity_floor: float = Field(default=0.05, ge=0, le=1)
    """…unless it is below this."""
    latency: float = Field(default=2.0, ge=0)
    """At most so many times the live release's median CPU time of an answer…"""
    latency_ms: float = Field(default=5.0, ge=0)
    """…unless it is below this."""
    size: float = Field(default=2.0, ge=0)
    """At most so many times the live release's bytes."""
    true_reasons: float = Field(default=1.0, ge=0, le=1)
    """At least this part of the reasons must be true hop by hop."""


class DriftLimits(Settings):
    """Signs that the new events, or the answers to them, are not what they were."""

    kinds: float = Field(default=0.25, ge=0)
    """Population stability index of the kinds of event; 0.25 is the usual alarm."""
    items: float = Field(default=0.25, ge=0)
    """The same of items by how popular they were, items nobody had met as a bucket of their own."""
    one_user: float = Field(default=0.2, ge=0, le=1)
    """The largest part of the new events that one person may have made."""
    overlap: float = Field(default=0.02, ge=0, le=1)
    """The least mean overlap of the candidate's and the live release's lists for the same people."""
    without_list: float = Field(default=0.01, ge=0, le=1)
    """The largest part of the people whom the candidate has nothing to say to."""


class Watch(Settings):
    """After going live: what people do with the answers, against the release before."""

    minutes: float = Field(default=30.0, ge=0)
    """How long. 0: not at all."""
    every_s: float = Field(default=10.0, gt=0)
    answers: int = Field(default=300, ge=2)
    """Answers of each release before a difference counts."""
    metric: Literal["CTR", "Conversion", "Revenue/1000"] = "CTR"
    control: float = Field(default=0.0, ge=0, le=0.9)
    """The part of the people who keep the earlier release meanwhile, so that both answer in the same hours;
    0: nobody, and the hours before are compared."""
    tolerance: float = Field(default=0.0, ge=0, lt=1)
    """Roll back when the metric has fallen by more than this part, beyond doubt (`always_valid`)."""
    before_hours: float = Field(default=24.0, gt=0)
    """How far back the earlier release's answers are taken from."""


class Policy(Settings):
    """The whole policy."""

    model: str = ""
    """Empty: the model of the live release."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Over the preset. Without any, the live release's model is trained with the settings that it has."""
    budget: str = ""
    """What the released form may take, as of `slipstream release --budget`; empty: as trained."""
    warm_start: bool = True
    """Go on from the live model, where it can: ials; the transformer without content, neighbours."""
    seed: int = Field(default=0, ge=0)
    cleaning: CleaningRules = CleaningRules()
    trial_share: float = Field(default=0.2, gt=0, lt=1)
    """The newest part of the new events: judged on, and learned from by the cycle after this one."""
    ask_about: Literal["all", "unprompted"] = "all"
    """Targets of the trial. unprompted: events that name no answer; clicks on recommendations favour the
    release that made them."""
    trial_events: int = Field(default=50_000, ge=1)
    """At most so many of them."""
    data: DataMinimum = DataMinimum()
    ndcg: NdcgRule = NdcgRule()
    guardrails: Guardrails = Guardrails()
    drift: DriftLimits = DriftLimits()
    watch: Watch = Watch()
    keep: int = Field(default=5, ge=2)
    """Releases of cycles that stay on the disk; the live one and the one before it always do."""


def read_policy(path: Path | None) -> Policy:
    """The policy of a file, or the defaults. Raises ConfigError that names the file and the key."""
    if path is None:
        return Policy()
    try:
        if path.stat().st_size > MOST_POLICY_BYTES:
            raise ConfigError(f"{path} is larger than {MOST_POLICY_BYTES:,} bytes")
        policy = Policy.model_validate(tomllib.loads(path.read_text()))
        if policy.budget:
            parse_budget(policy.budget)
        return policy
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint="give a TOML file") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "policy"
        known = ", ".join(Policy.model_fields)
        raise ConfigError(f"{path}: {where}: {first['msg']}", hint=f"parts of a policy: {known}") from error
    except ValueError as error:  # not TOML, not UTF-8
        raise ConfigError(f"{path} is not TOML: {error}", hint="an example: [ndcg] above = 0") from error
