"""Commands that bring data in and out: ingest, catalogue, events, forget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from slipstream.cli.console import out, progress_bar
from slipstream.cli.options import HomeOption, workspace

PANEL = "1 · collect"
events = typer.Typer(help="Look at and export the stored events.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel=PANEL)(ingest)
    app.command(rich_help_panel=PANEL)(catalogue)
    app.add_typer(events, name="events", rich_help_panel=PANEL)
    app.command(rich_help_panel=PANEL)(forget)


def ingest(
    file: Annotated[Path, typer.Argument(help="CSV, TSV, JSON lines, Parquet or a RecBole .inter file.")],
    home: HomeOption = None,
    user: Annotated[str | None, typer.Option(help="Column of the user id.")] = None,
    item: Annotated[str | None, typer.Option(help="Column of the item id.")] = None,
    time: Annotated[str | None, typer.Option(help="Column of the time.")] = None,
    value: Annotated[str | None, typer.Option(help="Column of the value (rating, price, …).")] = None,
    kind: Annotated[str | None, typer.Option(help="Column of the kind of event (view, cart, …).")] = None,
    default_kind: Annotated[str, typer.Option(help="Kind of events that have none.")] = "click",
) -> None:
    """Append events to the home. Columns that are not named are guessed, and the guesses are printed.

    Bad rows never stop it: they land in HOME/rejects with the reason. The same file again changes nothing.
    """
    report = workspace(home).ingest(
        file, user=user, item=item, time=time, value=value, kind=kind, default_kind=default_kind
    )
    for line in report.lines():
        out.print(line)


def catalogue(
    file: Annotated[
        Path, typer.Argument(help="A table with one row per item: CSV, TSV, JSON lines or Parquet.")
    ],
    home: HomeOption = None,
    of: Annotated[
        Literal["items", "users"], typer.Option(help="Whose attributes the table holds.")
    ] = "items",
    id_column: Annotated[
        str | None, typer.Option("--id", help="Column of the id; guessed by default.")
    ] = None,
) -> None:
    """Add attributes of items (or of users): titles, genres, prices. They become features and graph."""
    report = workspace(home).catalogue(file, of=of, id_column=id_column)
    for line in report.lines():
        out.print(line)


@events.command("export")
def export_events(
    file: Annotated[Path, typer.Argument(help="The Parquet file to write.")], home: HomeOption = None
) -> None:
    """Write all events to a Parquet file: event_id, user_id, item_id, kind, value, time_us."""
    from slipstream.events.importers import export

    with workspace(home).store() as store, progress_bar("export") as progress:
        rows = export(store, file, progress=progress)
    out.print(f"{rows:,} events written to {file}")


@events.command("show")
def show_events(
    user: Annotated[str, typer.Argument(help="The user id.")],
    home: HomeOption = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 20,
) -> None:
    """Show the events of a user, the newest first."""
    import polars as pl

    from slipstream.cli.console import print_table
    from slipstream.events.times import time_text

    with workspace(home).store() as store:
        rows = store.history(user, limit=limit)
    times = [None if us is None else time_text(us) for us in rows["time_us"]]
    shown = rows.drop("time_us").with_columns(pl.Series("time", times, pl.String))
    print_table("", shown.columns, [list(row) for row in shown.iter_rows()])


def forget(user: Annotated[str, typer.Argument(help="The user id.")], home: HomeOption = None) -> None:
    """Forget a person: events, attributes and all that was built from them. Then prepare and train again."""
    removed = workspace(home).forget(user)
    out.print(f"{removed:,} events of {user} removed; snapshot and models too: run `slipstream prepare` next")
