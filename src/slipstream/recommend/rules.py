"""What may be shown at all: seen, repeat, blocked, stock, variety. Business rules, apart from any model.

Rules name outside ids and attribute values; the pipeline turns them into masks over items.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field, ValidationError

from slipstream.artifacts import replace_text
from slipstream.config import Settings
from slipstream.errors import ConfigError


class Rules(Settings):
    """The rules of a home. The defaults suit films and shops; groceries and music set `repeat`."""

    repeat: bool = False
    """May an item that the user touched be recommended again?"""
    touched_by: tuple[str, ...] | None = None
    """Kinds of event that count as touching (None: every kind). A shop may say ["purchase"]."""
    blocked: tuple[str, ...] = ()
    """Item ids that are never shown."""
    require: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """{attribute: values}: an item must have one of the values, e.g. {"in_stock": ["true"]}."""
    forbid: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """{attribute: values}: an item with one of the values is not shown."""
    variety: dict[str, int] = Field(default_factory=dict)
    """{attribute: n}: at most n items of a slate share a value of the attribute, e.g. {"director": 2}."""
    minimum: int = Field(default=0, ge=0, le=500)
    """A slate that variety leaves shorter than this is filled up with the best of the held-back items."""
    segment: str = ""
    """Column of the table of people, e.g. "country": who has no history gets what is popular with those who
    share its value. Counted when a release is made (see recommend/segments.py); "": nothing is."""
    new_item_slots: int = Field(default=1, ge=0, le=500)
    """Places at a slate's end kept for items added since the release (see recommend/newcomers.py)."""

    @property
    def come_again(self) -> bool:
        """Whether an item of a history can be on a slate: also where only some kinds of event touch."""
        return self.repeat or self.touched_by is not None

    def touches(self, kind: str) -> bool:
        return self.touched_by is None or kind in self.touched_by


RULES_FILE = "rules.json"


def read_rules(home: Path, otherwise: Rules | None = None) -> Rules:
    """The rules in the home folder, else `otherwise`, else the defaults. Raises ConfigError by name."""
    path = home / RULES_FILE
    try:
        return Rules.model_validate(json.loads(path.read_text()))
    except FileNotFoundError:
        return otherwise or Rules()
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not JSON: {error}", hint='an example: {"repeat": true}') from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "rules"
        raise ConfigError(
            f"{path}: {where}: {first['msg']}", hint="known rules: " + ", ".join(Rules.model_fields)
        ) from error


def write_rules(home: Path, rules: Rules) -> None:
    replace_text(home / RULES_FILE, rules.model_dump_json(indent=1))
