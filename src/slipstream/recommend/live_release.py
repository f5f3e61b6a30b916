"""Which release is live: one small file that says so and how it came to be, replaced whole.

`releases/CURRENT` holds the name of the live release in its first line, and below it every promotion and
rollback as a line of JSON, the oldest first. Pointer and record are one file, so a process that is killed
leaves both old or both new, and the two cannot disagree.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slipstream.artifacts import MANIFEST, holding, open_artifact, recover, replace_text
from slipstream.config import Home, who
from slipstream.errors import CorruptArtifact, NotThere, UsageError
from slipstream.recommend.release import CURRENT, KIND, MADE_BY, check_name

MOST_PROMOTIONS = 1_000
"""Kept in the file; older ones are dropped. 200 bytes each."""


@dataclass(frozen=True)
class Promotion:
    """A release went live. back: by a rollback. by: who did it. why: in words, where somebody said so."""

    time_us: int
    name: str
    back: bool = False
    by: str = ""
    why: str = ""


def promote(releases: Path, name: str, *, why: str = "", replacing: str | None = None) -> None:
    """Make `releases/name` the live one. Raises NotThere, or CorruptArtifact if a byte was changed.

    replacing: only if this one is live now, else UsageError. Cost: one read of the release, then one file of
    some kilobytes.
    """
    check_name(name)
    open_artifact(releases / name, KIND, made_by=MADE_BY)
    with holding(releases / ".promoting", "promote", wait=True):
        try:
            past = promotions(releases)
        except CorruptArtifact:  # this is how it is mended
            past = []
        if replacing is not None and (not past or past[-1].name != replacing):
            hint = "see `slipstream releases`"
            raise UsageError(f"{past[-1].name if past else 'no release'} is live, not {replacing}", hint=hint)
        _go_live(releases, past, Promotion(_now_us(), name, by=who(), why=why))


def rollback(releases: Path, *, leaving: str | None = None, why: str = "") -> str:
    """Make the release live that was so before the live one, and give its name. One back, each time.

    A release that is no longer on the disk is passed over. leaving: go back only if this one is live.
    Raises NotThere where none is left to go back to, UsageError where another one is live, CorruptArtifact if
    a byte of the earlier one was changed.
    """
    with holding(releases / ".promoting", "rollback", wait=True):
        past = promotions(releases)
        line = succession(past)
        if not line:
            raise NotThere(f"{releases.parent} has no live release", hint=MADE_BY)
        if leaving is not None and line[-1] != leaving:
            raise UsageError(f"{line[-1]} is live, not {leaving}", hint="see `slipstream releases`")
        for name in reversed(line[:-1]):
            try:
                open_artifact(releases / name, KIND, made_by=MADE_BY)
            except NotThere:
                continue
            _go_live(releases, past, Promotion(_now_us(), name, back=True, by=who(), why=why))
            return name
    hint = "`slipstream releases` lists what there is, `slipstream promote NAME` takes any of them"
    raise NotThere(f"no release that was live before {line[-1]} is on the disk", hint=hint)


def succession(past: Sequence[Promotion]) -> list[str]:
    """The releases that a rollback walks back through, the live one last."""
    line: list[str] = []
    for promotion in past:
        if promotion.back and promotion.name in line:
            del line[len(line) - line[::-1].index(promotion.name) :]
        elif not line or line[-1] != promotion.name:
            line.append(promotion.name)
    return line


def _go_live(releases: Path, past: Sequence[Promotion], new: Promotion) -> None:
    kept = [*past, new][-MOST_PROMOTIONS:]
    lines = [new.name, *(json.dumps(asdict(promotion), ensure_ascii=False) for promotion in kept)]
    replace_text(releases / CURRENT, "\n".join(lines) + "\n")


def promotions(releases: Path) -> list[Promotion]:
    """Every promotion, the oldest first; [] where none was. A name without a record counts as one."""
    pointer = releases / CURRENT
    try:
        name, *lines = pointer.read_text().splitlines() or [""]
        check_name(name.strip())
        told = [Promotion(**json.loads(line)) for line in lines if line.strip()]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, UsageError) as error:  # ValueError: also what is not JSON or not text
        raise CorruptArtifact(f"{pointer} names no release", hint=_MEND) from error
    return told or [Promotion(pointer.stat().st_mtime_ns // 1000, name.strip())]


_MEND = "run `slipstream promote NAME`"


def current_release(home: Home) -> Path:
    """The folder of the live release. Raises NotThere where none was promoted."""
    pointer = home.releases / CURRENT
    try:
        name = (pointer.read_text().splitlines() or [""])[0].strip()
        check_name(name)
    except FileNotFoundError as error:
        raise NotThere(f"{home.root} has no live release", hint=MADE_BY) from error
    except (UnicodeDecodeError, UsageError) as error:
        raise CorruptArtifact(f"{pointer} names no release", hint=_MEND) from error
    return home.releases / name


@dataclass(frozen=True)
class Listed:
    """A release as its manifest tells it; its files were not checked. promoted: the last time, if ever."""

    name: str
    created_us: int
    bytes: int
    live: bool
    meta: Mapping[str, Any]
    promoted: Promotion | None = None


def list_releases(home: Home) -> list[Listed]:
    """All releases of a home, the newest first. One that cannot be read is left out: `open` says why."""
    try:
        live = current_release(home).name
        latest = {promotion.name: promotion for promotion in promotions(home.releases)}
    except (NotThere, CorruptArtifact):
        live, latest = "", {}
    found = []
    for manifest in home.releases.glob(f"*/{MANIFEST}"):
        recover(manifest.parent)
        try:
            content = json.loads(manifest.read_text())
            size = sum(int(entry["bytes"]) for entry in content["files"].values())
            meta = content["meta"]
            name = meta["name"]
            found.append(Listed(name, meta["created_us"], size, name == live, meta, latest.get(name)))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return sorted(found, key=lambda listed: (-listed.created_us, listed.name))


def _now_us() -> int:
    return time.time_ns() // 1000
