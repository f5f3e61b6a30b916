"""One page that shows trials: figures with intervals, the baselines beside, learning curves, cost, settings.

The HTML holds everything in one file: no script, no font, no picture is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from slipstream.artifacts import replace_text
from slipstream.errors import UsageError
from slipstream.evaluation.pictures import curve_panels, intervals_svg
from slipstream.evaluation.result import Trial
from slipstream.evaluation.suite import Failure
from slipstream.evaluation.tables import (
    Cell,
    Table,
    all_metrics,
    boards_of,
    cost_table,
    differences_table,
    gap_table,
    markdown,
    metrics_table,
    plain,
    tables_of,
)

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1d21; --soft: #686b74; --line: #dfe1e6; --accent: #2457c5;
  --page: #fff; --band: #f6f7f9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e9ed; --soft: #9da1ac; --line: #34363d;
  --accent: #86aaf7; --page: #16171b; --band: #1e2025; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 2rem auto;
  max-width: 62rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; } h3 { font-size: 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th, td { text-align: right; padding: .3rem .8rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { font-weight: 600; border-bottom-color: var(--soft); }
td small { color: var(--soft); display: block; font-size: .78em; }
p.note { color: var(--soft); font-size: .85rem; margin: .2rem 0 1.2rem; }
pre { background: var(--band); padding: .8rem; overflow-x: auto; font-size: .82rem; }
svg { font: 11px system-ui, sans-serif; max-width: 100%; height: auto; } img { max-width: 100%; }
svg text { fill: var(--soft); } svg text.name { fill: var(--ink); font-weight: 600; }
.axis { stroke: var(--line); } .line { stroke: var(--accent); stroke-width: 1.8; fill: none; }
.bar { stroke: var(--accent); stroke-width: 3; stroke-linecap: round; opacity: .55; }
.dot { fill: var(--accent); } .curves { display: flex; flex-wrap: wrap; gap: 1rem; }
"""


def report_markdown(trials: Sequence[Trial], names: Sequence[str] | None = None) -> str:
    """All tables of all boards, for a docs page or a log."""
    return "\n".join(markdown(table) for table in tables_of(trials, names))


def write_report(
    path: str | Path,
    trials: Sequence[Trial],
    *,
    failures: Sequence[Failure] = (),
    title: str = "Trials",
) -> None:
    """Write the page, all at once. Raises UsageError when there is nothing to show."""
    if not trials and not failures:
        raise UsageError("a report needs at least one trial")
    replace_text(Path(path), report_html(trials, failures=failures, title=title))


def report_html(trials: Sequence[Trial], *, failures: Sequence[Failure] = (), title: str = "Trials") -> str:
    """The page as text."""
    body = [f"<h1>{escape(title)}</h1>"]
    for group in boards_of(trials):
        body += _board_section(group)
    if failures:
        body.append("<h2>Could not take part</h2><ul>")
        body += [
            f"<li><b>{escape(f.model)}</b> on {escape(f.board)}: {escape(f.message)} {escape(f.hint)}</li>"
            for f in failures
        ]
        body.append("</ul>")
    if trials:
        used = ", ".join(f"{name} {version}" for name, version in trials[-1].versions.items())
        body.append(f'<p class="note">{escape(used)}</p>')
    return page(title, body)


def page(title: str, body: Sequence[str]) -> str:
    """A whole page in the style of the house, around parts that are HTML."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n"
        f"<body>\n{chr(10).join(body)}\n</body></html>\n"
    )


def _board_section(group: Sequence[Trial]) -> list[str]:
    """Everything about one board."""
    reported = metrics_table(group)
    parts = [f"<h2>{escape(reported.title)}</h2>", html_table(reported)]
    shown = [(t.name, t.scores.intervals["NDCG@10"]) for t in group if "NDCG@10" in t.scores.intervals]
    if shown:
        parts.append(intervals_svg(shown, title="NDCG@10 with 95 % intervals"))
    others = [metrics_table(group, all_metrics(group[0].k))]
    others += [differences_table(group)] if len(group) > 1 else []
    gaps = gap_table(group)
    others += [gaps] if gaps else []
    others.append(cost_table(group))
    titles = ["All figures", *(table.title for table in others[1:])]
    for heading, table in zip(titles, others, strict=True):
        parts.append(f"<h3>{escape(heading[0].upper() + heading[1:])}</h3>{html_table(table)}")
    for trial in group:
        parts += _about(trial)
    return parts


def _about(trial: Trial) -> list[str]:
    """The learning curve and the settings of one trial."""
    panels = curve_panels(trial.curve)
    parts = []
    if panels:
        parts.append(f'<h3>How {escape(trial.name)} learned</h3><div class="curves">{"".join(panels)}</div>')
    settings = json.dumps({"seed": trial.seed, **trial.config}, indent=1, ensure_ascii=False)
    parts.append(
        f"<details><summary>Settings of {escape(trial.name)}</summary><pre>{escape(settings)}</pre></details>"
    )
    return parts


def html_table(table: Table) -> str:
    """A table and its note; the title is the caller's."""
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = "".join("<tr>" + "".join(map(_html_cell, row)) + "</tr>" for row in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{note}'
    )


def _html_cell(cell: Cell) -> str:
    number, *interval = map(escape, plain(cell, joint=" ").split(" ", 1))
    if not isinstance(cell, str) and cell.best:
        number = f"<b>{number}</b>"
    return f"<td>{number}{''.join(f'<small>{part}</small>' for part in interval)}</td>"
