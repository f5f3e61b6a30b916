"""Commands that decide what is live: releases, promote, rollback."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipstream.cli.console import out, print_json, print_table
from slipstream.cli.options import HomeOption, workspace

if TYPE_CHECKING:
    from slipstream.loop.journal import Record
    from slipstream.recommend.live_release import Listed

PANEL = "6 · stay good"
MOST_CYCLES = 10

WhyOption = Annotated[str, typer.Option(help="The reason, for the record.")]


def register(app: typer.Typer) -> None:
    for command in (releases, promote, rollback):
        app.command(rich_help_panel=PANEL)(command)


def releases(
    home: HomeOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print releases and cycles, whole records.")
    ] = False,
) -> None:
    """List the releases, the newest first: what each is, and when, by whom and why it went live.

    And the cycles: who ran them, on how much that was new, with which model, how they ended and why.
    """
    from slipstream.loop.journal import records
    from slipstream.recommend.live_release import list_releases

    place = workspace(home).home
    found, cycles = list_releases(place), records(place)
    if as_json:
        told = [asdict(record) for record in reversed(cycles)]
        print_json({"releases": [_listed_json(listed) for listed in found], "cycles": told})
        return
    columns = ["name", "", "model", "events", "MB", "went live", "by", "why"]
    print_table("releases", columns, [_row(listed) for listed in found])
    latest = [_cycle_row(record) for record in reversed(cycles[-MOST_CYCLES:])]
    if latest:
        print_table("the last cycles", ["name", "by", "model", "new events", "outcome", "why"], latest)


def _cycle_row(record: Record) -> list[str]:
    made = record.told("release") or {}
    model = str(made.get("model") or record.policy["model"] or "of the live release")
    new = (record.told("snapshot") or {}).get("new_events")
    events = "–" if new is None else f"{new:,}"
    return [record.name, record.by, model, events, record.outcome or "goes on", record.why]


def _row(listed: Listed) -> list[str]:
    from slipstream.events.times import time_text

    model, events = str(listed.meta.get("primary", "")), f"{listed.meta.get('events', 0):,}"
    row = [listed.name, "live" if listed.live else "", model, events, f"{listed.bytes / 1e6:.1f}"]
    went = listed.promoted
    if went is None:
        return [*row, "never", "", ""]
    return [*row, time_text(went.time_us)[:19] + ("Z (back)" if went.back else "Z"), went.by, went.why]


def _listed_json(listed: Listed) -> dict[str, Any]:
    return {
        "name": listed.name,
        "live": listed.live,
        "bytes": listed.bytes,
        "created_us": listed.created_us,
        "promoted": None if listed.promoted is None else asdict(listed.promoted),
        "about": dict(listed.meta),
    }


def promote(
    name: Annotated[str, typer.Argument(help="A name that `slipstream releases` lists.")],
    home: HomeOption = None,
    why: WhyOption = "",
) -> None:
    """Make a release the live one; running servers swap to it within a second."""
    from slipstream.recommend.live_release import promote as go_live

    go_live(workspace(home).home.releases, name, why=why)
    out.print(f"{name} is live")


def rollback(home: HomeOption = None, why: WhyOption = "") -> None:
    """Make the release live that was so before this one; running servers swap to it within a second."""
    from slipstream.recommend.live_release import rollback as go_back

    out.print(f"{go_back(workspace(home).home.releases, why=why)} is live again")
