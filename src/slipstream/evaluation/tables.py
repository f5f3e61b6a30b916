"""Trials as tables: plain rows that a terminal, a Markdown page and a web page can show alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slipstream.evaluation.comparison import Comparison, compare
from slipstream.evaluation.intervals import Interval
from slipstream.evaluation.metrics import ACCURACY, LITERATURE
from slipstream.evaluation.result import Trial

REPORTED = {
    "loo": ("HR@10", "NDCG@10", "MRR@10"),
    "loo-t": ("HR@10", "NDCG@10", "MRR@10"),
    "temporal": ("Recall@20", "Precision@10", "NDCG@10"),
    "split": ("NDCG@10", "LiteratureNDCG@10", "MRR@10", "Recall@10"),
    "cold": ("NDCG@10",),
}
"""What the protocol reports on each board."""

MORE_IS_BETTER = {*ACCURACY, *LITERATURE}
"""Only these are marked: a list of rarities is novel and covers much, and may be no good."""


@dataclass(frozen=True)
class Figure:
    """A number with its interval, where it has one. best: the highest of its column."""

    value: float
    interval: Interval | None = None
    best: bool = False
    digits: int = 4


Cell = str | Figure


@dataclass(frozen=True)
class Table:
    """The first column names the row; the others are figures or text."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def all_metrics(k: int = 10) -> tuple[str, ...]:
    """The seven of a full report."""
    names = ("Precision", "Recall", "NDCG", "MRR", "HR", "Coverage", "Novelty")
    return tuple(f"{name}@{k}" for name in names)


def boards_of(trials: Sequence[Trial]) -> list[list[Trial]]:
    """The trials of each board of each data set, in the order given."""
    keys = dict.fromkeys((t.data, t.board) for t in trials)
    return [[t for t in trials if (t.data, t.board) == key] for key in keys]


def metrics_table(trials: Sequence[Trial], names: Sequence[str] | None = None) -> Table:
    """One row per trial of one board, one column per metric (else those the protocol reports)."""
    names = names or REPORTED[trials[0].board]
    best = {name: max((t.metrics[name] for t in trials if name in t.metrics), default=0.0) for name in names}
    rows = tuple((t.name, *(_figure(t, name, best[name]) for name in names)) for t in trials)
    first = trials[0]
    touched = "may come back" if first.repeat else "removed"
    return Table(
        title=f"{first.data}, board {first.board}: {first.users:,} users, {first.targets:,} targets",
        columns=("model", *names),
        rows=rows,
        note=f"full ranking, touched items {touched}; 95 % intervals by bootstrap over users; "
        f"targets {first.targets_sha256[:16]}",
    )


def _figure(trial: Trial, name: str, best: float) -> Cell:
    if name not in trial.metrics:
        return "–"
    value = trial.metrics[name]
    judged = name.partition("@")[0] in MORE_IS_BETTER
    return Figure(value, trial.scores.intervals.get(name), best=judged and value > 0 and value == best)


def differences_table(
    trials: Sequence[Trial], *, metric: str = "NDCG@10", against: str | None = None
) -> Table:
    """Each trial of one board minus the baseline, with the paired interval."""
    rows = compare(trials, metric=metric, against=against)
    base = next(row.model for row in rows if row.difference is None)
    return Table(
        title=f"{metric} minus that of {base}, the same users",
        columns=("model", metric, "difference", "relative", "verdict"),
        rows=tuple(_difference_row(row, row.difference) for row in rows if row.difference is not None),
        note="open: the 95 % interval of the difference holds 0",
    )


def _difference_row(row: Comparison, difference: Interval) -> tuple[Cell, ...]:
    base = row.value.mean - difference.mean
    relative = f"{difference.mean / base:+.1%}" if base > 0 else "–"
    value = Figure(row.value.mean, row.value)
    return (row.model, value, Figure(difference.mean, difference), relative, row.verdict)


def gap_table(trials: Sequence[Trial]) -> Table | None:
    """NDCG@10 by the time since the user's last event, or None where no trial has it."""
    slices = next((t.scores.by_gap for t in trials if t.scores.by_gap), ())
    if not slices:
        return None
    rows: list[tuple[Cell, ...]] = []
    for trial in trials:
        own = {part.name: Figure(part.ndcg.mean, part.ndcg) for part in trial.scores.by_gap}
        rows.append((trial.name, *(own.get(part.name, "–") for part in slices)))
    return Table(
        title="NDCG@10 by the gap before the target",
        columns=("model", *(f"{part.name} ({part.users:,})" for part in slices)),
        rows=tuple(rows),
        note="the time since the user's last event, tie: the same moment; users in brackets",
    )


def cost_table(trials: Sequence[Trial]) -> Table:
    """What each trial of a board took: seconds, memory, and the figure it was chosen by."""
    rows: list[tuple[Cell, ...]] = []
    for t in trials:
        training = [c for name, c in t.stages.items() if name in ("fit", "refit")]
        answering = t.stages.get("answer")
        rows.append(
            (
                t.name,
                f"{sum(c.cpu_s for c in training):.2f}" if training else "–",
                f"{sum(c.wall_s for c in training):.2f}" if training else "–",
                f"{answering.cpu_s / t.users * 1e3:.2f}" if answering else "–",
                f"{t.cpu_s:.2f}",
                f"{t.peak_rss_bytes / 1e6:,.0f}",
                f"{t.validation['NDCG@10']:.4f}" if "NDCG@10" in t.validation else "–",
                "yes" if t.refit else "no",
            )
        )
    columns = (
        "model",
        "fit CPU s",
        "fit wall s",
        "answer CPU ms/user",
        "all CPU s",
        "peak MB",
        "validation NDCG@10",
        "refit",
    )
    note = f"threads {trials[0].threads}; peak memory is that of the whole process up to then"
    return Table("cost", columns, tuple(rows), note)


def plain(cell: Cell, *, joint: str = "\n") -> str:
    """A cell as text: the number, then its interval in brackets after `joint`.

    On a line of its own an interval loses the zeros before its points: seven of them fit a screen.
    """
    if isinstance(cell, str):
        return cell
    text = f"{cell.value:.{cell.digits}f}"
    if cell.interval is None:
        return text
    low, high = (f"{end:.{cell.digits}f}" for end in (cell.interval.low, cell.interval.high))
    if joint == "\n":
        low, high = (end.replace("0.", ".", 1) if abs(float(end)) < 1 else end for end in (low, high))
    return f"{text}{joint}[{low}, {high}]"


def plain_rows(table: Table, *, joint: str = "\n") -> list[list[str]]:
    """All rows as text, for a terminal: intervals on a second line of their cell."""
    return [[plain(cell, joint=joint) for cell in row] for row in table.rows]


def markdown(table: Table) -> str:
    """A Markdown table with its title and note; the best of a column is bold."""
    lines = [f"**{table.title}**", "", "| " + " | ".join(map(_escaped, table.columns)) + " |"]
    lines.append("|" + "|".join(["---"] + ["---:"] * (len(table.columns) - 1)) + "|")
    lines += ["| " + " | ".join(map(_markdown_cell, row)) + " |" for row in table.rows]
    return "\n".join(lines + (["", table.note] if table.note else [])) + "\n"


def _markdown_cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return _escaped(cell)
    number, *interval = plain(cell, joint=" ").split(" ", 1)
    return " ".join([f"**{number}**" if cell.best else number, *interval])


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def tables_of(trials: Sequence[Trial], names: Sequence[str] | None = None) -> list[Table]:
    """Every table of every board: figures, differences (from two trials up), gaps where known, cost."""
    tables = []
    for group in boards_of(trials):
        tables.append(metrics_table(group, names))
        if len(group) > 1:
            tables.append(differences_table(group))
        gaps = gap_table(group)
        tables += [gaps] if gaps else []
        tables.append(cost_table(group))
    return tables
