"""The report of a home's answers as one page that fetches nothing: figures by group and day, and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import polars as pl

from slipstream.artifacts import replace_text
from slipstream.evaluation.charts import COLOURS, dots_chart, lines_chart
from slipstream.evaluation.intervals import Interval
from slipstream.evaluation.online import GROUPS, Earned, online_table
from slipstream.evaluation.readout import readout_table
from slipstream.evaluation.report import html_table, page
from slipstream.evaluation.tables import Table
from slipstream.loop.reporting import LoggedHome, report_of

CHARTED = ("CTR", "Conversion")


def write_online_page(path: Path, log: LoggedHome) -> None:
    """All groups, all at once. Raises MissingExtra without the plotting library."""
    replace_text(path, online_page(log))


def online_page(log: LoggedHome) -> str:
    """The page as text."""
    title = "What the answers earned"
    whole = report_of(log, "release")
    body = [f"<h1>{title}</h1>", *(f"<p>{escape(line)}</p>" for line in whole.lines())]
    if not whole.earned:
        return page(title, [*body, "<p>No answers were logged in this time.</p>"])
    body += ["<h2>Day by day</h2>", *_days(log)]
    arms = report_of(log, "arm")
    for by in GROUPS:
        earned = {"release": whole.earned, "arm": arms.earned}.get(by) or log.earned(by)
        body += _group(by, earned)
        if by == "arm":
            body += [html_table(readout_table(arms.arms))] if arms.arms else []
            body += [f"<p>{escape(line)}</p>" for line in arms.lines()[1:]]
    for table in whole.tables()[1:]:
        body += _section(table)
    if whole.policies:
        rows = [(f"{p.arm}: {p.policy}", p.value.snips.interval()) for p in whole.policies]
        body.append(dots_chart(rows, title="events per explored place under each policy, SNIPS"))
    return page(title, body)


def _days(log: LoggedHome) -> list[str]:
    """A line for each of the releases with the most answers."""
    most = log.served["release"].value_counts(sort=True)["release"].to_list()[: len(COLOURS)]
    by_day = {name: log.earned("day", log.served.filter(pl.col("release") == name)) for name in sorted(most)}
    return [
        lines_chart(
            {name: [(e.group, _seen(e, figure)) for e in days] for name, days in by_day.items()},
            title=f"{figure} by day and release, with 95 % intervals over people",
        )
        for figure in CHARTED
    ]


def _group(by: str, earned: Sequence[Earned]) -> list[str]:
    table = online_table(earned, by)
    parts = [f"<h2>By {by}</h2>", html_table(table)]
    if by != "day" and len(earned) > 1:
        rows = [(e.group or "–", _seen(e, "CTR")) for e in earned]
        parts.append(dots_chart(rows, title=f"CTR by {by}, with 95 % intervals over people"))
    return parts


def _seen(group: Earned, figure: str) -> Interval:
    return group.estimates[figure].interval()


def _section(table: Table) -> list[str]:
    title = table.title[0].upper() + table.title[1:]
    return [f"<h2>{escape(title)}</h2>", html_table(table)]
