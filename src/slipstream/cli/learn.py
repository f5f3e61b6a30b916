"""Commands that learn and measure: prepare, models, train, evaluate, trial, tune, price."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipstream.artifacts import replace_text
from slipstream.cli.console import out, print_table, progress_bar
from slipstream.cli.options import (
    BoardOption,
    ConfigOption,
    DataOption,
    DeviceOption,
    HomeOption,
    JsonFileOption,
    RepeatOption,
    SeedOption,
    SetOption,
    WithoutOption,
    chosen_settings,
    workspace,
)
from slipstream.config import home_folder, launch, parse_assignments

if TYPE_CHECKING:
    from slipstream.evaluation.tuning import Tuned

GoalOption = Annotated[
    str | None,
    typer.Option(help="Kind of event that counts as success, e.g. purchase. [default: every kind]"),
]

CheckpointOption = Annotated[Path | None, typer.Option(help="Folder for checkpoints of a long training.")]


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="2 · prepare")(prepare)
    app.command(rich_help_panel="3 · train")(models)
    app.command(rich_help_panel="3 · train")(train)
    app.command(rich_help_panel="4 · evaluate")(evaluate)
    app.command(rich_help_panel="4 · evaluate")(trial)
    app.command(rich_help_panel="4 · evaluate")(tune)
    app.command(rich_help_panel="4 · evaluate")(price)


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
    home: HomeOption = None,
) -> None:
    """List the models, or the settings of one with their defaults. They are the same in every home."""
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
    config: ConfigOption = None,
    settings: SetOption = None,
    seed: SeedOption = 0,
    goal: GoalOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Train a model on the snapshot and keep it in the home. A killed training goes on where it stopped."""
    space = workspace(home)
    overrides = chosen_settings(config, settings)
    trained = space.train(model, overrides=overrides, seed=seed, goal=goal, device=device)
    for line in trained.lines() if launch().rank == 0 else ():
        out.print(line)


def evaluate(
    models: Annotated[
        list[str] | None, typer.Argument(help="Models to compare. [default: the trained ones]")
    ] = None,
    home: HomeOption = None,
    board: Annotated[
        list[str] | None,
        typer.Option(
            help="temporal, loo, loo-t, split or cold; may be repeated. [default: temporal, with times]"
        ),
    ] = None,
    config: ConfigOption = None,
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
        boards=board,
        overrides=chosen_settings(config, settings),
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
    data: DataOption,
    board: BoardOption,
    k: Annotated[int, typer.Option(min=1, max=500, help="Cut of the reported metrics.")] = 10,
    seed: SeedOption = 0,
    slates: Annotated[Path | None, typer.Option(help="Write the lists to this Parquet file.")] = None,
    json_file: JsonFileOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    without: WithoutOption = None,
    device: DeviceOption = "cpu",
    checkpoint: CheckpointOption = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a page with tables and the curve to this file.")
    ] = None,
    repeat: RepeatOption = False,
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
            overrides=chosen_settings(config, settings),
            progress=progress,
            checkpoint=None if checkpoint is None else str(checkpoint),
            device=device,
            without=without or (),
            repeat=repeat,
        )
    if launch().rank:  # of several processes that train together, the first one writes and tells
        return
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


def tune(
    model: Annotated[str, typer.Argument(help="A name that `slipstream models` lists.")],
    data: DataOption,
    board: BoardOption,
    trials: Annotated[
        int, typer.Option(min=1, help="Points of the study, the preset and earlier ones included.")
    ] = 30,
    study: Annotated[
        Path | None, typer.Option(help="File of the study; one that exists goes on. [default: in the home]")
    ] = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Write the best settings here. [default: beside the study]")
    ] = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    seed: SeedOption = 0,
    without: WithoutOption = None,
    device: DeviceOption = "cpu",
    home: HomeOption = None,
) -> None:
    """Search a model's settings on validation; the test part is not looked at. A killed search goes on.

    Settings given by --set or --config stay as they are; the others of the model's search space are tried.
    """
    from slipstream.evaluation.tuning import tune as search

    place = study or home_folder(home).studies / f"{model}-{data.name}-{board}.sqlite"
    with progress_bar(f"{model} on {board}") as progress:
        found = search(
            data,
            model,
            board,
            place,
            trials=trials,
            seed=seed,
            fixed=chosen_settings(config, settings),
            progress=progress,
            device=device,
            without=without or (),
        )
    written = out_file or place.with_suffix(".json")
    found.write(written)
    _tell_tuned(found)
    out.print(
        f"with all of them: slipstream trial {model} --data {data} --board {board} --config {written}",
        markup=False,
        soft_wrap=True,
    )


def _tell_tuned(found: Tuned) -> None:
    rows = [[f"{point.ndcg:.4f}", _spelled(point.settings)] for point in found.best(5)]
    print_table("best on validation", ["NDCG@10", "settings"], rows)
    stopped = sum(point.ndcg is None for point in found.tried)
    out.print(
        f"{len(found.tried)} tried, {stopped} of them stopped early, {found.cpu_s:.0f} CPU s now; "
        f"preset {found.preset_ndcg:.4f}, best {found.ndcg:.4f} (the best of many is flattered by chance)"
    )
    for assignment in found.assignments():
        out.print(f"  --set {assignment}", markup=False, soft_wrap=True)


def _spelled(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items()) or "the preset"


def price(
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with interactions.parquet. [default: the home's trained model]"),
    ] = None,
    board: Annotated[str, typer.Option(help="With --data: loo, loo-t, temporal, split or cold.")] = "loo",
    model: Annotated[str, typer.Option(help="A model whose weights can be packed.")] = "transformer",
    seed: SeedOption = 0,
    json_file: JsonFileOption = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with the tables to this file.")] = None,
    training: Annotated[
        Path | None,
        typer.Option(help="What benchmarks/train_ingredients.py --json wrote: adds the levers of training."),
    ] = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    device: DeviceOption = "cpu",
    checkpoint: CheckpointOption = None,
    home: HomeOption = None,
) -> None:
    """What each saving costs: a model in fewer and fewer bits, with bytes, times and NDCG@10 side by side.

    With --data the model is fitted once, on the past of that folder's board; else it is the home's own.
    """
    from slipstream.evaluation.levers import read_training
    from slipstream.evaluation.price import price as measure
    from slipstream.evaluation.price_tables import price_tables, write_price_page
    from slipstream.evaluation.tables import plain_rows

    measured_before = () if training is None else read_training(training)
    if data is None:
        found = workspace(home).price(model)
    else:
        with progress_bar(f"{model} on {board}") as progress:
            found = measure(
                data,
                model,
                board,
                seed=seed,
                overrides=chosen_settings(config, settings),
                progress=progress,
                checkpoint=None if checkpoint is None else str(checkpoint),
                device=device,
            )
    found = replace(found, training=(*measured_before, *found.training))
    if json_file is not None:
        replace_text(json_file, json.dumps(found.to_json(), indent=1, allow_nan=False))
    if html is not None:
        write_price_page(html, found)
    for table in price_tables(found):
        print_table(table.title, table.columns, plain_rows(table, joint=" "))
        if table.note:
            out.print(table.note, style="dim", markup=False)
