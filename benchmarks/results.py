"""What do all trials say together? Makes the tables of docs/results.md from trial JSON files.

    python benchmarks/results.py FOLDER [--write docs/results.md]

FOLDER holds files of `slipstream trial … --json FILE`, any names, any depth. Trials that differ in the seed
alone are one row: means over the seeds, and the mean of their 95 % intervals over users (averaging over seeds can
only narrow those). With --write the tables replace what stands between the two marks of the page.

Where the lists lie beside (`--slates` with the name of the JSON file, ending .parquet) and the data is found by
SLIPSTREAM_SHARED, differences have paired intervals over the same users.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from slipstream.artifacts import replace_text
from slipstream.dataset.folder import read_folder
from slipstream.evaluation.comparison import averaged, paired_difference
from slipstream.evaluation.intervals import Interval
from slipstream.evaluation.slates import evaluate_slates
from slipstream.evaluation.tables import REPORTED, Cell, Figure, Table, markdown

BEGIN, END = "<!-- begin: made by benchmarks/results.py -->", "<!-- end -->"
BOARDS = tuple(REPORTED)
SHARED = Path(os.environ.get("SLIPSTREAM_SHARED", Path(__file__).parents[2] / "shared"))


@dataclass(frozen=True)
class Row:
    """The trials of one model on one board that differ in the seed alone."""

    name: str
    files: tuple[Path, ...]
    trials: tuple[dict[str, Any], ...]

    def figure(self, metric: str) -> Cell:
        values = [t["metrics"][metric] for t in self.trials if metric in t["metrics"]]
        if len(values) < len(self.trials):
            return "–"
        bounds = [t["intervals"][metric] for t in self.trials if metric in t["intervals"]]
        mean = fmean(values)
        if len(bounds) < len(values):
            return Figure(mean)
        return Figure(mean, Interval(mean, fmean(b[0] for b in bounds), fmean(b[1] for b in bounds)))

    def mean(self, metric: str) -> float:
        return fmean(t["metrics"].get(metric, 0.0) for t in self.trials)

    def gaps(self) -> dict[str, tuple[int, Figure]]:
        """Users and NDCG@10 of each slice by the gap before the target."""
        found: dict[str, list[dict[str, Any]]] = {}
        for trial in self.trials:
            for part in trial.get("breakdown", {}).get("gap", []):
                found.setdefault(part["slice"], []).append(part)
        return {
            name: (parts[0]["users"], _slice_figure(parts))
            for name, parts in found.items()
            if len(parts) == len(self.trials)
        }

    def of_seeds(self, seeds: set[int]) -> Row:
        """Only the trials of these seeds."""
        kept = [(f, t) for f, t in zip(self.files, self.trials, strict=True) if t["seed"] in seeds]
        return Row(self.name, tuple(f for f, _ in kept), tuple(t for _, t in kept))

    @cached_property
    def lists(self) -> Any:
        """The averaged trial made from the lists beside the files, or None where one or the data is missing."""
        first = self.trials[0]
        folder = SHARED / "data" / first["data"]
        slates = [file.with_suffix(".parquet") for file in self.files]
        if not all(file.exists() for file in slates) or not (folder / "interactions.parquet").exists():
            return None
        data = read_folder(folder)
        made = [evaluate_slates(data, first["board"], file, k=first["k"], name=self.name) for file in slates]
        if any(m.targets_sha256 != t["targets_sha256"] for m, t in zip(made, self.trials, strict=True)):
            return None
        return averaged(made)


def _slice_figure(parts: Sequence[dict[str, Any]]) -> Figure:
    mean = fmean(p["NDCG@10"] for p in parts)
    low, high = (fmean(p["interval"][end] for p in parts) for end in (0, 1))
    return Figure(mean, Interval(mean, low, high))


def name_of(trial: dict[str, Any]) -> str:
    """The model, what it went without, and what was set by hand."""
    model = trial["model"]
    parts = [model, *(f"without {side}" for side in trial.get("without", []))]
    parts += ["with repeats"] * bool(trial.get("repeat"))
    for key, value in trial.get("set", {}).items():
        parts.append(f"{key.removeprefix(model + '.')}={_spelled(value)}")
    return " ".join(parts)


def _spelled(value: Any) -> str:
    return json.dumps(value).replace('"', "").replace(" ", "") if not isinstance(value, str) else value


def _set_by_hand(key: str, value: object) -> str:
    """As a shell takes it; only what has braces needs its quotes."""
    if isinstance(value, dict):
        return f"--set '{key}={json.dumps(value, separators=(',', ':'))}'"
    return f'--set "{key}={_spelled(value)}"'


def read_rows(folder: Path) -> dict[tuple[str, str], list[Row]]:
    """Rows by (data, board). Exits where two files are the same trial, or a group has two sets of targets."""
    groups: dict[tuple[str, str], dict[str, dict[int, tuple[Path, dict[str, Any]]]]] = {}
    for file in sorted(folder.rglob("*.json")):
        trial = json.loads(file.read_text())
        if not isinstance(trial, dict) or not {"model", "board", "data", "metrics", "seed"} <= set(trial):
            continue
        seeds = groups.setdefault((trial["data"], trial["board"]), {}).setdefault(name_of(trial), {})
        if trial["seed"] in seeds:
            sys.exit(f"{file} and {seeds[trial['seed']][0]} are the same trial: remove one")
        seeds[trial["seed"]] = (file, trial)
    for key, group in groups.items():
        hashes = {t["targets_sha256"] for seeds in group.values() for _, t in seeds.values()}
        if (
            len(hashes) > 1 and key[1] != "split"
        ):  # drawn validation rows do not change the test of split either
            sys.exit(f"trials of {key[0]}, board {key[1]}, have different targets: {sorted(hashes)}")
    return {
        key: [_row(name, seeds) for name, seeds in groups[key].items()] for key in sorted(groups, key=_rank)
    }


def _rank(key: tuple[str, str]) -> tuple[str, int]:
    return key[0], BOARDS.index(key[1]) if key[1] in BOARDS else len(BOARDS)


def _row(name: str, seeds: dict[int, tuple[Path, dict[str, Any]]]) -> Row:
    pairs = [seeds[seed] for seed in sorted(seeds)]
    return Row(name, tuple(file for file, _ in pairs), tuple(trial for _, trial in pairs))


def figures_table(rows: Sequence[Row]) -> Table:
    """Every model of one board: figures, spread over seeds, cost; the best of each column is marked."""
    first = rows[0].trials[0]
    names = REPORTED[first["board"]]
    columns = {name: [row.figure(name) for row in rows] for name in names}
    best = {
        n: max((c.value for c in cells if isinstance(c, Figure)), default=0.0) for n, cells in columns.items()
    }
    lines: list[tuple[Cell, ...]] = []
    for place, row in enumerate(rows):
        cells = [_marked(columns[name][place], best[name]) for name in names]
        lines.append((row.name, str(len(row.trials)), *cells, _spread(row), *_costs(row)))
    return Table(
        title=f"{first['data']}, board {first['board']}: {first['users']:,} users, {first['targets']:,} targets",
        columns=("model", "seeds", *names, "NDCG@10 by seed", "fit CPU s", "peak MB"),
        rows=tuple(lines),
        note=f"full ranking, touched items removed; means over seeds, 95 % intervals over users; "
        f"targets {first['targets_sha256'][:16]}",
    )


def _marked(cell: Cell, best: float) -> Cell:
    if isinstance(cell, str):
        return cell
    return Figure(cell.value, cell.interval, best=cell.value == best > 0)


def _spread(row: Row) -> str:
    values = [t["metrics"].get("NDCG@10", 0.0) for t in row.trials]
    return f"{min(values):.4f} to {max(values):.4f}" if len(values) > 1 else "–"


def _costs(row: Row) -> tuple[str, str]:
    """Mean CPU seconds of choosing, fitting and fitting again; the largest peak."""
    fit = fmean(
        sum(cost["cpu_s"] for stage, cost in t["stages"].items() if stage in ("fit", "refit"))
        for t in row.trials
    )
    peak = max(t["peak_rss_bytes"] for t in row.trials) / 1e6
    return f"{fit:,.1f}", f"{peak:,.0f}"


def gap_table(rows: Sequence[Row]) -> Table | None:
    """NDCG@10 by the gap before the target, where the board has one."""
    by_row = {row.name: row.gaps() for row in rows}
    slices: dict[str, int] = {}
    for gaps in by_row.values():
        slices |= {name: users for name, (users, _) in gaps.items()}
    if not slices:
        return None
    order = [name for name in ("tie", "< 1 min", "< 1 h", "longer") if name in slices]
    lines: list[tuple[Cell, ...]] = []
    for name, gaps in by_row.items():
        lines.append((name, *(gaps[part][1] if part in gaps else "–" for part in order)))
    columns = ("model", *(f"{name} ({slices[name]:,})" for name in order))
    return Table("NDCG@10 by the gap before the target", columns, tuple(lines), "users in brackets")


def features_table(rows: Sequence[Row]) -> Table | None:
    """What the sides of the data are worth: each model with all of them, and without some."""
    lines: list[tuple[Cell, ...]] = []
    for row in rows:
        first = row.trials[0]
        if not first.get("without"):
            continue
        whole = next((r for r in rows if r.name == name_of({**first, "without": []})), None)
        if whole is not None:
            lines.append(_difference(whole, row, " and ".join(first["without"])))
    if not lines:
        return None
    columns = ("model", "left out", "NDCG@10 with", "without", "worth")
    return Table("what item features, user features and the graph are worth", columns, tuple(lines), _PAIRED)


_PAIRED = (
    "of the seeds that both have; the interval of the difference is paired over users, and in its absence "
    "nothing is claimed"
)


def fusion_table(rows: Sequence[Row]) -> Table | None:
    """Each fusion beside its best member, and the weights that validation gave."""
    lines: list[tuple[Cell, ...]] = []
    for row in rows:
        config = row.trials[0]["config"]
        if row.trials[0]["model"] != "fusion" or not config.get("weights"):
            continue
        weights = ", ".join(f"{m} {w:g}" for m, w in zip(config["members"], config["weights"], strict=True))
        members = [r for r in rows if r.name in config["members"]]
        best = max(members, key=lambda r: r.mean("NDCG@10"), default=None)
        if best is None:
            lines.append((row.name, weights, "–", row.figure("NDCG@10"), "–"))
        else:
            _, _, fused, alone, worth = _difference(row, best, "")
            lines.append((row.name, weights, f"{best.name}: {_plain(alone)}", fused, worth))
    if not lines:
        return None
    columns = ("model", "members and weights (first seed)", "best member", "NDCG@10", "gain")
    return Table("fusion beside its best member", columns, tuple(lines), _PAIRED)


def _difference(a: Row, b: Row, what: str) -> tuple[Cell, ...]:
    """(name, what, NDCG of a, of b, a - b), of the seeds that both have, where there are any."""
    shared = {t["seed"] for t in a.trials} & {t["seed"] for t in b.trials}
    if shared:
        a, b = a.of_seeds(shared), b.of_seeds(shared)
    paired = a.lists is not None and b.lists is not None
    gap = paired_difference(a.lists, b.lists) if paired else None
    worth = Figure(a.mean("NDCG@10") - b.mean("NDCG@10"), gap)
    return (a.name, what, a.figure("NDCG@10"), b.figure("NDCG@10"), worth)


def _plain(cell: Cell) -> str:
    return cell if isinstance(cell, str) else f"{cell.value:.4f}"


def commands(rows: Sequence[Row]) -> str:
    """How each row was made."""
    lines = ["```"]
    for row in rows:
        t = row.trials[0]
        seeds = " ".join(str(trial["seed"]) for trial in row.trials)
        parts = ["slipstream trial", t["model"], "--data", t["data"], "--board", t["board"]]
        parts += [f"--without {side}" for side in t.get("without", [])]
        parts += ["--repeat"] * bool(t.get("repeat"))
        parts += [_set_by_hand(key, value) for key, value in t.get("set", {}).items()]
        lines.append(
            " ".join(parts) + (f" --seed {seeds}" if len(row.trials) == 1 else f"   # --seed {seeds}")
        )
    return "\n".join([*lines, "```", ""])


def page(groups: dict[tuple[str, str], list[Row]]) -> str:
    """All tables of all boards as Markdown."""
    parts: list[str] = []
    for (data, board), rows in groups.items():
        rows = sorted(rows, key=lambda row: -row.mean("NDCG@10"))
        parts.append(f"## {data}, `{board}`\n")
        tables: Iterable[Table | None] = (
            figures_table(rows),
            gap_table(rows),
            features_table(rows),
            fusion_table(rows),
        )
        parts += [markdown(table) for table in tables if table is not None]
        parts.append(commands(rows))
        versions = rows[0].trials[0]["versions"]
        threads = sorted({t["threads"] for row in rows for t in row.trials})
        used = ", ".join(f"{name} {version}" for name, version in versions.items())
        parts.append(f"{used}; threads {', '.join(map(str, threads))}\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", type=Path, help="put the tables between the marks of this page")
    options = parser.parse_args()
    groups = read_rows(options.folder)
    if not groups:
        sys.exit(f"there are no trial files in {options.folder}: make some with slipstream trial --json")
    made = page(groups)
    if options.write is None:
        print(made)
        return
    before, begin, rest = options.write.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{options.write} has no place for the tables: it needs the lines {BEGIN} and {END}")
    replace_text(options.write, f"{before}{BEGIN}\n\n{made}\n{END}{after}")


if __name__ == "__main__":
    main()
