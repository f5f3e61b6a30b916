"""Commands that answer, and what the answers earned: release, recommend, serve, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slipstream.cli.console import err, out, print_json, print_table
from slipstream.cli.options import HomeOption, workspace

PANEL = "5 · recommend"


def register(app: typer.Typer) -> None:
    for command in (release, recommend, serve, report):
        app.command(rich_help_panel=PANEL)(command)


def release(
    model: Annotated[
        str | None, typer.Argument(help="A trained model. [default: the best on validation]")
    ] = None,
    home: HomeOption = None,
    name: Annotated[str | None, typer.Option(help="Name of the release. [default: the time]")] = None,
    promote: Annotated[bool, typer.Option(help="Make it the live one.")] = True,
    budget: Annotated[
        str | None,
        typer.Option(help='Release the smallest form that keeps this: "ndcg>=-0.5%,size<=20MB,p99<=2ms".'),
    ] = None,
    approximate: Annotated[
        bool, typer.Option(help="Search with an approximate index, for tens of millions of items.")
    ] = False,
) -> None:
    """Put everything a server needs into one checksummed folder, and go live with it."""
    space = workspace(home)
    released = space.release(model, name=name, promote=promote, budget=budget, approximate=approximate)
    for line in released.lines():
        out.print(line, markup=False)


def recommend(
    users: Annotated[list[str] | None, typer.Argument(help="User ids.")] = None,
    home: HomeOption = None,
    k: Annotated[int, typer.Option("-k", min=1, max=500, help="Items per user.")] = 10,
    explain: Annotated[bool, typer.Option(help="Say why.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of slates, as over HTTP.")] = False,
    all_users: Annotated[
        Path | None, typer.Option("--all-users", help="Write the lists of all users to this Parquet file.")
    ] = None,
) -> None:
    """Recommend for users from the live release, with reasons; or for all users into a file."""
    from slipstream.errors import UsageError
    from slipstream.loop.bulk import recommend_all
    from slipstream.loop.telling import tell_slate
    from slipstream.recommend.pipeline import Request
    from slipstream.recommend.slate import slate_json

    space = workspace(home)
    if all_users is not None:
        with space.narrator.progress("recommend") as progress:
            done = recommend_all(space.home, all_users, k, progress)
        for line in done.lines(all_users):
            err.print(line)
        return
    if not users:
        raise UsageError("name a user, or give --all-users FILE", hint="slipstream recommend 42")
    pipeline = space.pipeline()
    slates = [pipeline.recommend(Request(user_id=user, k=k, explain=explain)) for user in users]
    if as_json:
        print_json([slate_json(slate) for slate in slates])
        return
    for slate in slates:
        tell_slate(
            slate, space.narrator, f"{slate.user_id} (answered by {slate.tier}, release {slate.release})"
        )


def serve(
    home: HomeOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes that answer.")] = 1,
    insecure: Annotated[
        bool, typer.Option(help="Allow an address beyond this machine without API keys.")
    ] = False,
    slate_cache: Annotated[bool, typer.Option(help="Keep finished slates until they change.")] = True,
    memory_mb: Annotated[int, typer.Option(min=1, help="For what each process keeps of users.")] = 256,
    access_log: Annotated[bool, typer.Option(help="Log each request as a line of JSON.")] = False,
    rate: Annotated[
        float | None,
        typer.Option(help="Requests a second of each API key; more get 429. [default: no bound]"),
    ] = None,
    burst: Annotated[
        int | None, typer.Option(help="Requests of a key that may come at once. [default: a second's]")
    ] = None,
    idle_int8: Annotated[
        bool, typer.Option(help="Keep what the model knows of idle users in int8: more of them fit.")
    ] = False,
) -> None:
    """Serve the live release over HTTP: recommendations, events, explanations, and a page about the API."""
    from slipstream.errors import MissingExtra

    try:
        from slipstream.server.options import Options
        from slipstream.server.service import serve as run
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "the web server", "serve", "serving") from error

    def announce(address: str) -> None:
        out.print(f"serving on {address}  (API page: {address}/docs; stop with Ctrl-C)", markup=False)

    run(
        workspace(home).home,
        host=host,
        port=port,
        insecure=insecure,
        workers=workers,
        options=Options(slate_cache, memory_mb, access_log, rate, burst, idle_int8),
        announce=announce,
    )


def report(
    home: HomeOption = None,
    by: Annotated[str, typer.Option(help="release, arm, tier, segment or day.")] = "release",
    days: Annotated[
        int | None, typer.Option(min=1, help="Only the last so many days. [default: all]")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=500, help="Where metrics are cut.")] = 10,
    conversion: Annotated[
        list[str] | None, typer.Option(help="A kind of event that is a conversion. [default: purchase]")
    ] = None,
    segment: Annotated[
        str, typer.Option(help="Column of the users' table, with --by segment. [default: how active]")
    ] = "",
    effect: Annotated[
        float | None, typer.Option(min=1e-9, help="Plan an experiment that finds this difference in CTR.")
    ] = None,
    replay: Annotated[
        list[str] | None,
        typer.Option(help="A release: what it would have earned in the explored places. May be repeated."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with every group and pictures to this file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Clicks, conversions, revenue and the offline metrics on the answers that were served."""
    from slipstream.evaluation.online import CONVERSIONS
    from slipstream.evaluation.tables import plain_rows
    from slipstream.loop.online_page import write_online_page
    from slipstream.loop.reporting import plan_lines, read_log, report_of

    log = read_log(
        workspace(home).home,
        days=days,
        k=k,
        conversions=tuple(conversion or CONVERSIONS),
        segment=segment,
        releases=replay or (),
    )
    if html is not None:
        write_online_page(html, log)
    found = report_of(log, by)
    if as_json:
        print_json(found.json())
        return
    for table in found.tables():
        print_table(table.title, table.columns, plain_rows(table))
        out.print(table.note, style="dim", markup=False)
    plan = [] if effect is None else plan_lines(log, effect)
    for line in (*found.lines(), *plan):
        out.print(line, style="dim", markup=False)
