"""Commands that learn and measure: prepare, models, train, evaluate, trial."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from slipstream.artifacts import replace_text
from slipstream.cli.console import out, print_table, progress_bar
from slipstream.cli.options import HomeOption, JsonFileOption, SeedOption, SetOption, workspace
from slipstream.config import parse_assignments

GoalOption = Annotated[
    str | None,
    typer.Option(help="Kind of event that counts as success, e.g. purchase. [default: every kind]"),
]


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="2 · prepare")(prepare)
    app.command(rich_help_panel="3 · train")(models)
    app.command(rich_help_panel="3 · train")(train)
    app.command(rich_help_panel="4 · evaluate")(evaluate)
    app.command(rich_help_panel="4 · evaluate")(trial)


def prepare(
    home: HomeOption = None,
    min_user_events: Annotated[int, typer.Option(min=1, help="Drop users with fewer events.")] = 1,
    min_item_events: Annotated[int, typer.Option(min=1, help="Drop items with fewer events.")] = 1,
    settings: SetOption = None,
) -> None:
    """Clean the events into a snapshot, and build features and knowledge graph, with a report of each."""
    from slipstream.config import with_overrides
    from slipstream.dataset.cleaning import CleaningRules
    from slipstream.loop.telling import tell_prepared

    rules = CleaningRules(min_user_events=min_user_events, min_item_events=min_item_events)
    space = workspace(home)
    tell_prepared(space.prepare(with_overrides(rules, parse_assignments(settings or []))), space.narrator)


def models(
    name: Annotated[str | None, typer.Argument(help="Show the settings of this model.")] = None,
) -> None:
    """List the models, or the settings of one with their defaults."""
    from slipstream.models.registry import model_names, model_type

    if name is None:
        rows = [[n, _first_line(model_type(n).__doc__)] for n in model_names()]
        print_table("models", ["name", "what it is"], rows)
        return
    kind = model_type(name)
    fields = kind.settings_type.model_fields
    out.print(_first_line(kind.__doc__), markup=False)
    rows = [
        [key, str(f.annotation).replace("<class '", "").replace("'>", ""), str(f.default)]
        for key, f in fields.items()
    ]
    print_table(
        f"settings of {name} (defaults; the preset follows the data's size)",
        ["setting", "type", "default"],
        rows,
    )


def _first_line(text: str | None) -> str:
    return (text or "").strip().splitlines()[0] if text and text.strip() else ""


def train(
    model: Annotated[str, typer.Argument(help="A name that `slipstream models` lists.")],
    home: HomeOption = None,
    settings: SetOption = None,
    seed: SeedOption = 0,
    goal: GoalOption = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Train a model on the snapshot and keep it in the home. A killed training goes on where it stopped."""
    space = workspace(home)
    trained = space.train(
        model, overrides=parse_assignments(settings or []), seed=seed, goal=goal, device=device
    )
    for line in trained.lines():
        out.print(line)


def evaluate(
    models: Annotated[
        list[str] | None, typer.Argument(help="Models to compare. [default: the trained ones]")
    ] = None,
    home: HomeOption = None,
    board: Annotated[list[str] | None, typer.Option(help="temporal, loo or loo-t; may be repeated.")] = None,
    settings: SetOption = None,
    seed: SeedOption = 0,
    k: Annotated[int, typer.Option(min=1, max=500)] = 10,
    goal: GoalOption = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a page with tables and pictures to this file.")
    ] = None,
) -> None:
    """Train models on the past of the home's events and measure them on what followed, side by side."""
    from slipstream.evaluation.report import write_report
    from slipstream.loop.learning import trained_models
    from slipstream.loop.telling import tell_suite

    space = workspace(home)
    chosen = models or ["popularity", *(n for n in trained_models(space.home) if n != "popularity")]
    found = space.evaluate(
        chosen,
        boards=board or ["temporal"],
        overrides=parse_assignments(settings or []),
        seed=seed,
        k=k,
        goal=goal,
    )
    tell_suite(found, space.narrator)
    page = report or space.home.reports / "evaluation.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    write_report(page, found.trials, failures=found.failures, title="Evaluation")
    out.print(f"report with intervals, costs and curves: {page}")


def trial(
    model: Annotated[str, typer.Argument(help="A name that `slipstream models` lists.")],
    data: Annotated[Path, typer.Option(help="Folder with interactions.parquet (and items, users, kg).")],
    board: Annotated[str, typer.Option(help="loo, loo-t, temporal, split or cold.")],
    k: Annotated[int, typer.Option(min=1, max=500, help="Cut of the reported metrics.")] = 10,
    seed: SeedOption = 0,
    slates: Annotated[Path | None, typer.Option(help="Write the lists to this Parquet file.")] = None,
    json_file: JsonFileOption = None,
    settings: SetOption = None,
    without: Annotated[
        list[str] | None, typer.Option(help="Leave out items, users (features) or graph; may be repeated.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints of a long training.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a page with tables and the curve to this file.")
    ] = None,
    home: HomeOption = None,
) -> None:
    """Fit a model on the past of a data folder's board, answer, and score against what followed.

    Without --set it is the preset that the data's size selects: what we ship and quote.
    """
    from slipstream.evaluation.trial import run_trial

    with progress_bar(f"{model} on {board}") as progress:
        result = run_trial(
            data,
            model,
            board,
            k=k,
            seed=seed,
            overrides=parse_assignments(settings or []),
            progress=progress,
            checkpoint=None if checkpoint is None else str(checkpoint),
            device=device,
            without=without or (),
        )
    if slates is not None:
        slates.parent.mkdir(parents=True, exist_ok=True)
        result.slates.write_parquet(slates)
    if json_file is not None:
        replace_text(json_file, json.dumps(result.to_json(), indent=1, allow_nan=False))
    if report is not None:
        from slipstream.evaluation.report import write_report

        write_report(report, [result], title=f"{model} on {board} of {data.name}")
    _tell_trial(result)


def _tell_trial(result: Any) -> None:
    from slipstream.evaluation.tables import plain_rows, tables_of

    for table in tables_of([result]):
        print_table(table.title, table.columns, plain_rows(table, joint=" "))
        if table.note:
            out.print(table.note, style="dim", markup=False)
