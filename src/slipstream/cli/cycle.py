"""The command that keeps a home good: cycle."""

from __future__ import annotations

import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slipstream.cli.console import err, out, print_error, print_json
from slipstream.cli.going_live import PANEL
from slipstream.cli.options import HomeOption, workspace
from slipstream.errors import ConfigError, SlipstreamError

if TYPE_CHECKING:
    from slipstream.loop.policy import Policy
    from slipstream.loop.workspace import Workspace

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel=PANEL)(cycle)


def cycle(
    home: HomeOption = None,
    policy: Annotated[
        Path | None, typer.Option(help="TOML file: what a candidate must do to go live. [default: beat it]")
    ] = None,
    every: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Again and again, e.g. 30m, 1h or 1d; stop with Ctrl-C."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as one JSON object.")] = False,
) -> None:
    """Train on what is new, try it against the live release on what is newest, and let the better one live.

    A cycle that was killed goes on where it stopped. Exit code 0 also where the candidate was refused.
    """
    from slipstream.loop.policy import read_policy

    space, rules = workspace(home), read_policy(policy)
    if every is None:
        _once(space, rules, as_json=as_json)
        return
    pause = _seconds(every)
    while True:
        due = time.monotonic() + pause
        try:
            _once(space, rules, as_json=as_json)
        except SlipstreamError as error:  # told and recorded; the next turn may find it mended
            print_error(error)
        left = max(0.0, due - time.monotonic())
        err.print(f"next cycle in {left / 60:.0f} min", markup=False)
        time.sleep(left)


def _once(space: Workspace, policy: Policy, *, as_json: bool) -> None:
    from slipstream.loop.cycle import run_cycle
    from slipstream.loop.narrator import Silent

    record = run_cycle(space.home, policy, Silent() if as_json else space.narrator)
    if as_json:
        print_json(asdict(record))
        return
    out.print(f"record: {space.home.cycles / record.name / 'record.json'}", markup=False, soft_wrap=True)


def _seconds(text: str) -> float:
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text.strip())
    if found is None or not int(found[1]):
        raise ConfigError(f"--every takes a whole number and s, m, h or d, got {text!r}", hint="--every 1h")
    return int(found[1]) * SECONDS[found[2]]
