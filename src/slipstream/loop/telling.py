"""What the steps found, told to a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from slipstream.evaluation.tables import boards_of, differences_table, gap_table, metrics_table, plain_rows
from slipstream.loop.narrator import Rows

if TYPE_CHECKING:
    from slipstream.evaluation.suite import Suite
    from slipstream.features.table import ColumnReport
    from slipstream.loop.narrator import Narrator
    from slipstream.loop.preparing import Prepared
    from slipstream.recommend.slate import Slate


def tell_prepared(prepared: Prepared, narrator: Narrator) -> None:
    """Cleaning, features and graph."""
    for line in prepared.cleaning.lines():
        narrator.line(line)
    narrator.line(f"snapshot: {prepared.users:,} users, {prepared.items:,} items, {prepared.events:,} events")
    tell_columns("item features", prepared.item_columns, narrator)
    tell_columns("user features", prepared.user_columns, narrator)
    if prepared.graph is not None:
        for line in prepared.graph.lines():
            narrator.line(f"graph: {line}")


def tell_columns(title: str, columns: Sequence[ColumnReport], narrator: Narrator) -> None:
    """One row per column: what became of it."""
    if columns:
        rows: Rows = [[c.column, c.treatment, c.features, f"{c.coverage:.0%}"] for c in columns]
        narrator.table(title, ["column", "used as", "features", "filled"], rows)


def tell_suite(found: Suite, narrator: Narrator, names: Sequence[str] | None = None) -> None:
    """Figures of every board with intervals, paired differences to popularity, and where known the gaps."""
    for group in boards_of(found.trials):
        table = metrics_table(group, names)
        narrator.table(table.title, table.columns, plain_rows(table))
        narrator.line(table.note)
        if len(group) > 1:
            paired = differences_table(group)
            narrator.table(paired.title, paired.columns, plain_rows(paired, joint=" "))
        gaps = gap_table(group)
        if gaps is not None:
            narrator.table(gaps.title, gaps.columns, plain_rows(gaps))
    for failure in found.failures:
        narrator.line(f"{failure.model} could not run on {failure.board}: {failure.message} ({failure.hint})")


def tell_slate(slate: Slate, narrator: Narrator, title: str) -> None:
    """Rank, title, score and the reasons of each item."""
    if not slate.items:
        narrator.line(f"{title}: nothing is left to recommend")
        return
    rows: Rows = [
        [rank, item.title or item.item_id, f"{item.score:.3f}", "\n".join(r.text for r in item.reasons)]
        for rank, item in enumerate(slate.items, 1)
    ]
    narrator.table(title, ["", "item", "score", "why"], rows)
