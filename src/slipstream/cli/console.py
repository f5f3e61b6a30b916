"""Printing: tables, progress bars, errors. Data goes to stdout, words about the work to stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from slipstream.config import Progress
from slipstream.errors import SlipstreamError
from slipstream.loop.narrator import Cell

WIDE = 130  # columns of a table that goes to a file or a pipe; other lines are not broken there

out = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE, soft_wrap=not sys.stdout.isatty())
err = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())

_QUIET_S = 0.5  # nothing is drawn for work that is over sooner


class Printing:
    """The narrator of the command line."""

    def heading(self, text: str) -> None:
        out.print()
        out.print(f"[bold]{escape(text)}[/bold]")

    def line(self, text: str) -> None:
        out.print(f"  {escape(text)}")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        print_table(title, columns, rows)

    @contextmanager
    def progress(self, what: str) -> Iterator[Progress]:
        with progress_bar(what) as report:
            yield report


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """A plain table; numbers to the right, four decimals for fractions."""
    if title:
        out.print(f"[italic]{escape(title)}[/italic]")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for n, column in enumerate(columns):
        numeric = all(isinstance(row[n], int | float) or row[n] is None for row in rows) and bool(rows)
        table.add_column(escape(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(_cell(value)) for value in row))
    if out.is_terminal:
        out.print(table, soft_wrap=False)
        return
    with out.capture() as printed:
        out.print(table, soft_wrap=False)
    for line in printed.get().splitlines():
        out.print(line.rstrip(), markup=False)  # a file keeps the blanks that a terminal does not show


def _cell(value: Cell) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else value


@contextmanager
def progress_bar(what: str) -> Iterator[Progress]:
    """A bar on stderr once the work has lasted half a second; it goes away when done."""
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    bar = RichProgress(*columns, console=err, transient=True, disable=not err.is_terminal)
    started, task = time.monotonic(), None

    def report(done: int, total: int | None, note: str) -> None:
        nonlocal task
        if task is None:
            if time.monotonic() - started < _QUIET_S:
                return
            bar.start()
            task = bar.add_task(escape(what), total=total, note="")
        bar.update(TaskID(task), completed=done, total=total, note=escape(note))

    try:
        yield report
    finally:
        bar.stop()


def print_error(error: SlipstreamError) -> None:
    err.print(f"[bold red]error[/bold red] ({error.code}): {escape(error.message)}")
    if error.hint:
        err.print(f"  {escape(error.hint)}")


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
