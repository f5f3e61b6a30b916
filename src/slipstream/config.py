"""Settings, the home folder, and the only place that reads the environment.

Settings are frozen and refuse unknown keys: a typing mistake must not train another model. What changes
the numbers (science) is hashed into a fingerprint; where and how it ran (machine) is not.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import pwd
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from slipstream.errors import ConfigError

Progress = Callable[[int, int | None, str], None]
"""Called as progress(done, total or None, note) by anything that may take over a second."""


def silent(done: int, total: int | None, note: str) -> None:
    """The progress that nobody watches."""


@dataclass(frozen=True)
class Range:
    """Values from low to high are worth trying; whole numbers where both ends are. log: by ratio."""

    low: float
    high: float
    log: bool = False
    needs_order: bool = False  # means nothing where the data has no order


@dataclass(frozen=True)
class OneOf:
    """These values are worth trying."""

    values: tuple[bool | int | float | str, ...]
    needs_order: bool = False


Space = Mapping[str, Range | OneOf]
"""What a search may change, by the name of the setting."""


class Settings(BaseModel):
    """Base of every configuration: frozen, typed, closed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    space: ClassVar[Space] = {}
    """What `slipstream tune` searches. How long to train and what to validate on are not in it: they are
    a matter of budget, and the preset's."""

    def fingerprint(self) -> str:
        """12 hex digits that change when a setting changes."""
        return fingerprint_of(self.model_dump(mode="json"))


def fingerprint_of(values: Mapping[str, Any]) -> str:
    """12 hex digits of settings in JSON form; the order of the keys is no matter."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


S = TypeVar("S", bound=Settings)


def with_overrides(settings: S, overrides: Mapping[str, Any]) -> S:
    """`settings` with some values replaced; keys may be dotted (`loss.temperature`)."""
    values = settings.model_dump()
    for key, value in overrides.items():
        *path, last = key.split(".")
        place = values
        for step in path:
            inner = place.get(step)
            if not isinstance(inner, dict):
                raise _unknown_key(settings, key)
            place = inner
        place[last] = value
    try:
        return type(settings).model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "settings"
        raise ConfigError(
            f"{type(settings).__name__}.{where}: {first['msg']}, got {first.get('input')!r}",
            hint="known settings: " + ", ".join(type(settings).model_fields),
        ) from error


def _unknown_key(settings: Settings, key: str) -> ConfigError:
    return ConfigError(
        f"{type(settings).__name__} has no setting {key!r}",
        hint="known settings: " + ", ".join(type(settings).model_fields),
    )


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """`["a.b=3", "name=x"]` as a mapping; values are JSON where they parse as JSON, else strings."""
    parsed: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"a setting must read key=value, got {text!r}", hint="for example --set epochs=20"
            )
        parsed[key.strip()] = _json_or_text(value.strip())
    return parsed


MOST_SETTINGS_BYTES = 1_000_000


def read_settings_file(path: Path) -> dict[str, Any]:
    """`{"ease": {"ridge": 300}}` as `{"ease.ridge": 300}`, the form of `parse_assignments`.

    Raises ConfigError where the file is not there, is larger than a megabyte, or is no such object.
    """
    form = 'settings are JSON by model, for example {"ease": {"ridge": 300}}'
    try:
        if path.stat().st_size > MOST_SETTINGS_BYTES:
            raise ConfigError(f"{path} is larger than {MOST_SETTINGS_BYTES:,} bytes", hint=form)
        by_model = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as settings: {error}", hint=form) from error
    if not isinstance(by_model, dict) or not all(isinstance(own, dict) for own in by_model.values()):
        raise ConfigError(f"{path} does not hold settings by model", hint=form)
    return {f"{model}.{key}": value for model, own in by_model.items() for key, value in own.items()}


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        if value.startswith("[") and value.endswith("]"):
            return [_json_or_text(part.strip()) for part in value[1:-1].split(",") if part.strip()]
        return value


@dataclass(frozen=True)
class Home:
    """The folder that holds everything of one deployment; it can be copied as a whole.

    work: where snapshot, graph, models and reports lie, if not in the root.
    """

    root: Path
    work: Path | None = None

    @property
    def made(self) -> Path:
        return self.work or self.root

    @property
    def events(self) -> Path:
        return self.root / "events.sqlite"

    @property
    def impressions(self) -> Path:
        return self.root / "impressions.sqlite"

    @property
    def rejects(self) -> Path:
        return self.root / "rejects"

    @property
    def catalogue(self) -> Path:
        return self.root / "catalogue"

    @property
    def people(self) -> Path:
        """The table of people, where there is one."""
        return self.catalogue / "users.parquet"

    @property
    def triples(self) -> Path:
        return self.root / "triples"

    @property
    def snapshot(self) -> Path:
        return self.made / "snapshot"

    @property
    def graph(self) -> Path:
        return self.made / "graph"

    @property
    def models(self) -> Path:
        return self.made / "models"

    @property
    def studies(self) -> Path:
        return self.root / "studies"

    @property
    def reports(self) -> Path:
        return self.made / "reports"

    @property
    def cycles(self) -> Path:
        return self.root / "cycles"

    @property
    def releases(self) -> Path:
        return self.root / "releases"


def home_folder(given: str | Path | None = None) -> Home:
    """The home folder: the argument, else SLIPSTREAM_HOME, else ./slipstream-home."""
    return Home(Path(given or os.environ.get("SLIPSTREAM_HOME") or "slipstream-home"))


def cache_folder() -> Path:
    """For downloads: SLIPSTREAM_CACHE, else XDG_CACHE_HOME/slipstream, else ~/.cache/slipstream."""
    if own := os.environ.get("SLIPSTREAM_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "slipstream"


def thread_count() -> int:
    """Threads for numeric work: SLIPSTREAM_THREADS, else the cores this process may use."""
    given = os.environ.get("SLIPSTREAM_THREADS")
    if not given:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    if not given.isdigit() or int(given) < 1:
        raise ConfigError(f"SLIPSTREAM_THREADS must be a whole number from 1 up, got {given!r}")
    return int(given)


def kernel_choice() -> str:
    """Which kernels are wanted: SLIPSTREAM_KERNELS, else `auto`. See `slipstream.kernels`."""
    return os.environ.get("SLIPSTREAM_KERNELS") or "auto"


@dataclass(frozen=True)
class Launch:
    """Which of the processes of one training this is, as `torchrun` tells; alone without it."""

    rank: int = 0
    processes: int = 1
    local_rank: int = 0
    local_processes: int = 1  # on this machine


def launch() -> Launch:
    """From the variables that `torchrun` sets."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    given = [os.environ.get(name, "") for name in names]
    if not all(given):
        return Launch()
    if not all(value.isdigit() for value in given):
        raise ConfigError(
            f"{', '.join(names)} must be whole numbers, got {given}", hint="start with torchrun"
        )
    return Launch(*map(int, given))


def who() -> str:
    """Who runs this process, for records: `user@machine`."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run under a number that has no name
        user = str(os.getuid())
    return f"{user}@{platform.node()}"


def secret(name: str) -> str | None:
    """A secret from the environment; secrets come from nowhere else."""
    return os.environ.get(name) or None
