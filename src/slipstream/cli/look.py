"""Commands for a first look: demo, doctor."""

from __future__ import annotations

from typing import Annotated

import typer

from slipstream.cli.console import out, print_table
from slipstream.cli.options import HomeOption, workspace


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="start here")(demo)
    app.command(rich_help_panel="start here")(doctor)


def demo(
    home: HomeOption = None,
    data: Annotated[str, typer.Option(help="ml-100k or ml-1m.")] = "ml-100k",
    budget: Annotated[
        str, typer.Option(help="full, or small for a quick look at less trained models.")
    ] = "full",
) -> None:
    """Run the whole loop on real films and ratings: about three minutes on two cores."""
    from slipstream.loop.demo import run_demo

    run_demo(workspace(home), data, budget)


def doctor(home: HomeOption = None) -> None:
    """Say what is installed and what the home holds; exit 4 if something is broken."""
    from slipstream.loop.doctor import examine

    findings = examine(workspace(home).home)
    print_table("", ["what", "state", "detail"], [[f.what, f.state, f.detail] for f in findings])
    if any(f.state == "broken" for f in findings):
        out.print("something is broken: see above")
        raise typer.Exit(4)
