"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from slipstream.cli.console import Printing
from slipstream.config import parse_assignments, read_settings_file
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
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        help="JSON file of settings by model, as `slipstream tune` writes it; --set comes after it."
    ),
]
WithoutOption = Annotated[
    list[str] | None, typer.Option(help="Leave out items, users (features) or graph; may be repeated.")
]
RepeatOption = Annotated[
    bool, typer.Option("--repeat", help="Items of the history may come back (groceries, music).")
]
DataOption = Annotated[Path, typer.Option(help="Folder with interactions.parquet (and items, users, kg).")]
BoardOption = Annotated[str, typer.Option(help="loo, loo-t, temporal, split or cold.")]
DeviceOption = Annotated[str, typer.Option(help="cpu or cuda.")]
SeedOption = Annotated[int, typer.Option(help="Seed of every random choice.", min=0)]
JsonFileOption = Annotated[
    Path | None, typer.Option("--json", help="Write the figures as JSON to this file.")
]


def chosen_settings(config: Path | None, assignments: list[str] | None) -> dict[str, Any]:
    """The settings of the file, then those given by hand."""
    return (read_settings_file(config) if config else {}) | parse_assignments(assignments or [])


def workspace(home: Path | None) -> Workspace:
    return Workspace(home, narrator=Printing())
