"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slipstream.cli.console import Printing
from slipstream.loop.workspace import Workspace

HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home", help="The home folder. [default: ./slipstream-home, or SLIPSTREAM_HOME]", show_default=False
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting, e.g. --set transformer.epochs=20. May be repeated.",
    ),
]
SeedOption = Annotated[int, typer.Option(help="Seed of every random choice.", min=0)]
JsonFileOption = Annotated[
    Path | None, typer.Option("--json", help="Write the figures as JSON to this file.")
]


def workspace(home: Path | None) -> Workspace:
    return Workspace(home, narrator=Printing())
