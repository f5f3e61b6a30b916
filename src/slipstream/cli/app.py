"""The commands in the order of the loop, and the one door where errors become exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from slipstream import __version__
from slipstream.cli import collect, cycle, going_live, graph, learn, look, serve
from slipstream.cli.console import err, print_error
from slipstream.errors import SlipstreamError, of_system

# typer keeps a click of its own since 0.20, and used the installed one before: ask it for the right class.
_WrongCall: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    name="slipstream",
    help="From a click log and a catalogue to real-time, explained recommendations.\n\n"
    "The loop: ingest, catalogue, graph → prepare → train → evaluate → release → recommend, serve.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

for module in (look, collect, graph, learn, serve, going_live, cycle):
    module.register(app)


def _version(shown: bool) -> None:
    if shown:
        typer.echo(f"slipstream {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and stop."
    ),
) -> None:
    """Options before any command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 2 usage, 3 data, 4 unavailable, 1 our bug."""
    try:
        code = app(args=None if arguments is None else list(arguments), standalone_mode=False)
        return code if isinstance(code, int) else 0
    except SlipstreamError as error:
        print_error(error)
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        err.print("stopped")
        return 130
    except _WrongCall as error:
        error.show()  # type: ignore[attr-defined]
        return 2
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away, as `head` does
        return 0
    except OSError as error:
        refused = of_system(error)
        print_error(refused)
        return refused.exit_code
