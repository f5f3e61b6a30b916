"""What a teacher is worth to a small model: teacher, student, and the same student alone, on one board.

    python benchmarks/distillation.py --data ../shared/data/amazon-beauty --board loo --seed 0 --checkpoint CK \\
        --set dim=160 --set heads=2

Differences are paired over the users of the test part, as a share of the other's NDCG@10; settings are chosen by the
`validation` column. A step is one event more in a user's state and the vector that is searched with: CPU µs of one
thread, the models in turn, medians over 200 users. With CK, trainings that are there are not done again; `CPU s` is
what this run spent in the fit (the student's own training is in its curve).
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slipstream.config import parse_assignments
from slipstream.evaluation.comparison import paired_difference
from slipstream.evaluation.ladder import micros, timed
from slipstream.evaluation.result import Trial
from slipstream.evaluation.tables import Table, markdown
from slipstream.evaluation.trial import run_trial
from slipstream.models.recommender import Embeds, Searchable

METRIC = "NDCG@10"


@dataclass
class Run:
    name: str
    trial: Trial
    step_us: float = float("nan")

    @property
    def model(self) -> Any:
        return self.trial.fitted


def main() -> None:
    options = _options()
    given = parse_assignments(options.set)
    place = options.checkpoint
    teacher = str(given.get("teacher", "transformer"))

    def run(name: str, model: str, part: str | None, settings: dict[str, Any]) -> Run:
        folder = None if place is None else str(place if part is None else place / part)
        return Run(
            name,
            run_trial(
                options.data, model, options.board, seed=options.seed, overrides=settings, checkpoint=folder,
                threads=1, keep_model=True,
            ),
        )  # fmt: skip

    runs = [
        run(f"teacher: {teacher}", teacher, teacher, dict(given.get("teacher_settings", {}))),
        run("student", "student", None, given),
        run("the same alone", "student", "alone", given | {"share": 0}),
    ]
    _time_steps([r for r in runs if isinstance(r.model, Searchable)], runs[0].trial, options)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, 1 thread, NumPy {np.__version__}, seed {options.seed}"
    )
    print(markdown(_table(runs)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--board", default="loo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--set", action="append", default=[], help="a setting of the student, key=value")
    return parser.parse_args()


def _time_steps(runs: list[Run], first: Trial, options: argparse.Namespace) -> None:
    from slipstream.evaluation.arena import open_arenas

    (arena,) = open_arenas(options.data, [options.board], seed=options.seed)
    spent: dict[str, list[int]] = {run.name: [] for run in runs}
    for query in timed(arena.board.test.queries):
        item = int(query.item[-1])
        time_us = None if query.time_us is None else int(query.time_us[-1])
        for run in runs:
            state = run.model.start(query)
            began = time.process_time_ns()
            run.model.advance(state, item, time_us)
            run.model.vector_from(state, query)
            spent[run.name].append(time.process_time_ns() - began)
    for run in runs:
        run.step_us = micros(spent[run.name][1:])


def _table(runs: list[Run]) -> Table:
    teacher, _, alone = runs
    rows = []
    for run in runs:
        weights = run.model.weights() if isinstance(run.model, Embeds) else {}
        share = f"{run.step_us / teacher.step_us:.0%}"
        rows.append(
            (
                run.name,
                f"{sum(w.nbytes for w in weights.values()) / 1e3:,.0f}",
                f"{run.step_us:,.0f}",
                share if np.isfinite(teacher.step_us) else "–",
                f"{run.trial.validation[METRIC]:.4f}",
                f"{run.trial.scores.metrics[METRIC]:.4f}",
                _against(run, teacher),
                _against(run, alone),
                f"{run.trial.stages['fit'].cpu_s:,.0f}",
            )
        )
    columns = ("model", "weights kB", "step µs", "of the teacher", "validation", METRIC, "against the teacher",
               "against alone", "CPU s")  # fmt: skip
    return Table("distillation", columns, tuple(rows), f"{len(runs[0].trial.user_ids):,} users")


def _against(run: Run, other: Run) -> str:
    if run is other:
        return "–"
    difference, base = paired_difference(run.trial, other.trial), other.trial.scores.metrics[METRIC]
    return f"{difference.mean / base:+.1%} [{difference.low / base:+.1%}, {difference.high / base:+.1%}]"


if __name__ == "__main__":
    main()
