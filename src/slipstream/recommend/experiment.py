"""Who sees which arm: assignment by hash, and the experiment that a home runs (`experiment.json`).

    {"name": "variety", "salt": "2026-11",
     "arms": {"control": {"weight": 1},
              "fresh": {"weight": 1, "release": "20261125T040000.000Z"},
              "mixed": {"weight": 0.5, "rules": {"variety": {"director": 2}},
                        "explore": {"share": 0.1, "pool": 20}},
              "both": {"interleave": "20261125T040000.000Z"}}}

An arm without a release answers from the live one; `rules` stand over the home's. Removing the file ends the
experiment.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from slipstream.config import Settings
from slipstream.errors import ConfigError, UsageError
from slipstream.randomness import derive
from slipstream.recommend.exploration import Explore
from slipstream.recommend.rules import Rules

MOST_ARMS = 10
Metric = Literal["CTR", "Conversion", "Revenue/1000"]
MOST_BYTES = 1_000_000


@dataclass(frozen=True)
class Experiment:
    """Arms by name with their weights, which need not add up to 1. `salt` makes another split of the people.

    A user's arm is the one with the least −ln(u) ÷ weight, u a hash of (salt, name, arm, user) in (0, 1):
    weighted rendezvous hashing. So the arm depends on nothing else, two experiments split independently, and
    an arm that is removed in the middle moves only its own people.
    """

    name: str
    arms: Mapping[str, float]
    salt: str = ""

    def __post_init__(self) -> None:
        if not self.arms or not all(math.isfinite(w) and w > 0 for w in self.arms.values()):
            raise UsageError(f"experiment {self.name!r} needs arms with weights above 0, got {self.arms}")

    def arm_of(self, user_id: str) -> str:
        """The user's arm, the same everywhere and always; about 2 µs for each arm."""
        return min(self.arms, key=lambda arm: self._race(arm, user_id))

    def _race(self, arm: str, user_id: str) -> float:
        point = (derive(0, "experiment", self.salt, self.name, arm, user_id) + 0.5) / 2.0**63
        return -math.log(point) / self.arms[arm]

    def shares(self) -> dict[str, float]:
        """The part of the people that each arm should get; together 1."""
        total = sum(self.arms.values())
        return {arm: weight / total for arm, weight in self.arms.items()}


class Arm(Settings):
    """What the people of an arm get, apart from everybody."""

    weight: float = Field(default=1.0, gt=0, le=1e6)
    release: str = ""
    """Empty: the live one, whichever that is."""
    rules: dict[str, Any] = Field(default_factory=dict)
    """Over the rules of the home, e.g. {"new_item_slots": 3}."""
    explore: Explore | None = None
    interleave: str = ""
    """A release whose lists are drafted into those of the arm's own; see `recommend.interleaving`."""

    @field_validator("rules")
    @classmethod
    def _known_rules(cls, rules: dict[str, Any]) -> dict[str, Any]:
        Rules.model_validate(rules)
        return rules

    @model_validator(mode="after")
    def _one_game_of_chance(self) -> Arm:
        if self.explore is not None and self.interleave:
            raise ValueError("an arm explores or interleaves, not both")
        return self

    def rules_over(self, rules: Rules) -> Rules:
        return Rules.model_validate({**rules.model_dump(), **self.rules})


class RunningExperiment(Settings):
    """The experiment of a home."""

    name: str = Field(min_length=1, max_length=100)
    salt: str = ""
    metric: Metric = "CTR"
    """What it is about, in `slipstream report --by arm`."""
    effect: float | None = Field(default=None, gt=0)
    """The least difference of the metric that is worth finding; tells how many days are left."""
    guardrails: dict[Metric, Annotated[float, Field(ge=0, lt=1)]] = Field(default_factory=dict)
    """The part of the first arm's figure by which another may fall, e.g. {"Revenue/1000": 0.02}."""
    arms: dict[str, Arm] = Field(min_length=1, max_length=MOST_ARMS)

    @property
    def split(self) -> Experiment:
        return Experiment(self.name, {name: arm.weight for name, arm in self.arms.items()}, self.salt)

    def label(self, arm: str) -> str:
        """What impressions call an arm."""
        return f"{self.name}/{arm}"

    def fallback_label(self, arm: str) -> str:
        """What they call the live release's answers to people whose arm could not answer."""
        return f"{self.label(arm)} (live instead)"

    def releases(self) -> set[str]:
        """Those that arms name."""
        named = {name for arm in self.arms.values() for name in (arm.release, arm.interleave)}
        return named - {""}


EXPERIMENT_FILE = "experiment.json"


def read_experiment(home: Path) -> RunningExperiment | None:
    """The experiment in the home folder; None: there is none. Raises ConfigError by name."""
    path = home / EXPERIMENT_FILE
    example = 'an example: {"name": "n", "arms": {"control": {}, "other": {"release": "NAME"}}}'
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{path} is larger than {MOST_BYTES:,} bytes", hint=example)
        return RunningExperiment.model_validate(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "experiment"
        raise ConfigError(f"{path}: {where}: {first['msg']}", hint=example) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}", hint=example) from error
