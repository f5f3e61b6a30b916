"""Search a model's settings: fit, look at validation, propose the next, keep all of it in a file.

The test part of the board is never answered here. The first of a study is the preset, so the best is never
behind what is shipped (on validation). Proposals come from a tree-structured Parzen estimator (Bergstra et
al. 2011) over what the model's settings declare as `space`; a training whose validations fall behind the
median of the others at the same place is stopped early. Proposal n depends on the seed and on the n - 1
finished ones alone, so a study that was killed and taken up again ends where an unbroken one does.

Here and not in `training`, as in the plan: it needs a board and the ranking that serves (decision 0006).
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipstream.artifacts import replace_text
from slipstream.cluster.threads import blas_threads
from slipstream.config import OneOf, Progress, Range, Settings, Space, silent, thread_count, with_overrides
from slipstream.dataset.folder import DataFolder
from slipstream.errors import BadInput, ConfigError, CorruptArtifact, MissingExtra, SlipstreamError
from slipstream.evaluation.arena import Arena, open_arenas
from slipstream.evaluation.stages import Stopwatch
from slipstream.evaluation.suite import inner
from slipstream.evaluation.trial import Run, settings_for
from slipstream.models.recommender import FitContext
from slipstream.models.registry import model_type
from slipstream.randomness import derive

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

METRIC = "NDCG@10"
STUDY = "slipstream"
RANDOM_FIRST = 8  # proposals drawn at random before the estimator has something to estimate
COMPARED_WITH = 4  # finished trainings before one can be stopped for being behind
GRACE = 2  # validations of a training before it can be stopped
_OWN_TABLES = {"studies", "version_info", "trials"}


@dataclass(frozen=True)
class Tried:
    """One point of the search."""

    settings: Mapping[str, Any]  # changed against the preset; empty: the preset
    ndcg: float | None  # on validation; None: stopped before the end
    why: str = ""  # it was stopped


@dataclass(frozen=True)
class Tuned:
    """A study so far. settings: the best ones found, with those that were fixed from outside."""

    model: str
    settings: Mapping[str, Any]
    ndcg: float
    preset_ndcg: float
    tried: tuple[Tried, ...]
    cpu_s: float  # of this call; what an earlier one spent is not in it

    def assignments(self) -> list[str]:
        """Each as `model.setting=value`, in the form that `--set` takes."""
        return [
            f"{self.model}.{key}={value if isinstance(value, str) else json.dumps(value)}"
            for key, value in self.settings.items()
        ]

    def write(self, path: Path) -> None:
        """A file that `read_settings_file` reads."""
        replace_text(path, json.dumps({self.model: dict(self.settings)}, indent=1) + "\n")

    def best(self, count: int) -> list[Tried]:
        """The best points of the study, in order."""
        done = [point for point in self.tried if point.ndcg is not None]
        return sorted(done, key=lambda point: -(point.ndcg or 0.0))[:count]


def tune(
    data: DataFolder | str | Path,
    model_name: str,
    board_name: str,
    study: Path,
    *,
    trials: int = 30,
    seed: int = 0,
    fixed: Mapping[str, Any] | None = None,
    threads: int | None = None,
    progress: Progress = silent,
    device: str = "cpu",
    without: Collection[str] = (),
) -> Tuned:
    """Go on with the study in the file `study` until it holds `trials` finished points, the preset included.

    fixed: settings that are given and not searched. One process a study at a time.
    Raises ConfigError where nothing is left to search or the study is of something else, CorruptArtifact
    where the file is no study, BadInput where the board has no validation part.
    """
    kind = model_type(model_name)
    (arena,) = open_arenas(data, [board_name], seed=seed, without=without)
    if arena.board.validation is None:
        raise BadInput(f"board {board_name} of {arena.data_name} has no validation part to choose on")
    preset = settings_for(kind.preset(arena.data), model_name, fixed or {})
    given = {key.removeprefix(f"{model_name}."): value for key, value in (fixed or {}).items()}
    space = _open(kind.settings_type.space, model_name, arena, given)
    begun = time.process_time()
    with _study(study, _mark(arena, model_name, preset, space, seed)) as kept, blas_threads():
        context = FitContext(seed, threads or thread_count(), progress, None, device)
        search = _Search(kept, Run(arena, model_name, kind, 10, context, keep_model=False), preset, space)
        search.go_on(trials)
        return search.result(given, time.process_time() - begun)


def _open(space: Space, model: str, arena: Arena, given: Mapping[str, Any]) -> Space:
    """What is left to search: what means something on this data and is not given."""
    ordered = arena.data.train.ordered
    found = {name: r for name, r in space.items() if name not in given and (ordered or not r.needs_order)}
    if not found:
        raise ConfigError(f"{model} has nothing to search here", hint="`slipstream models` lists the others")
    return found


def _mark(arena: Arena, model: str, preset: Settings, space: Space, seed: int) -> dict[str, Any]:
    """What a study belongs to; a point of another one would say nothing here."""
    holdout = arena.board.validation
    assert holdout is not None  # noqa: S101 - tune() has looked
    train = arena.board.train
    digest = sha256(
        b"".join(a.tobytes() for a in (train.offsets, train.item, holdout.offsets, holdout.target))
    )
    return {
        "model": model,
        "board": arena.board.name,
        "data": digest.hexdigest()[:16],
        "without": list(arena.without),
        "seed": seed,
        "settings": preset.model_dump(mode="json"),
        "space": {name: str(values) for name, values in space.items()},
    }


@contextmanager
def _study(path: Path, mark: dict[str, Any]) -> Iterator[Study]:
    """The study in the file, made where there is none."""
    try:
        import optuna
        from sqlalchemy.engine import URL
        from sqlalchemy.exc import DatabaseError
    except ModuleNotFoundError as error:
        raise MissingExtra("optuna", "tune", "searching settings") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_file(path)
    url = URL.create("sqlite", database=str(path)).render_as_string()
    try:
        storage = optuna.storages.RDBStorage(url)
    except DatabaseError as error:
        raise _no_study(path) from error
    try:
        pruner = optuna.pruners.MedianPruner(n_startup_trials=COMPARED_WITH, n_warmup_steps=GRACE)
        study = optuna.create_study(
            storage=storage, study_name=STUDY, direction="maximize", pruner=pruner, load_if_exists=True
        )
        before = study.user_attrs.get("belongs_to")
        if before is None:
            study.set_user_attr("belongs_to", mark)
        elif before != mark:
            other = ", ".join(key for key in mark if before.get(key) != mark[key])
            raise ConfigError(
                f"{path} holds a study that differs in: {other}",
                hint="go on with what it was started with, or name another file with --study",
            )
        yield study
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _check_file(path: Path) -> None:
    """Refuse a file that is something else, before a table is made in it."""
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    except sqlite3.Error as error:
        raise _no_study(path) from error
    if tables and not tables & _OWN_TABLES:
        raise _no_study(path)


def _no_study(path: Path) -> CorruptArtifact:
    return CorruptArtifact(
        f"{path} cannot be read as a study", hint="name another file with --study, or delete it"
    )


class _Search:
    """One point after the other, until there are enough."""

    def __init__(self, study: Study, run: Run, preset: Settings, space: Space) -> None:
        self.study, self.run, self.preset, self.space = study, run, preset, space
        self.distributions = {name: _distribution(values) for name, values in space.items()}

    def finished(self) -> list[FrozenTrial]:
        """Not those that a killed process left behind: they are made again."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if trial.state.name in _DONE]

    def go_on(self, trials: int) -> None:
        import optuna

        while (done := len(self.finished())) < trials:
            progress = inner(self.run.context.progress, done, trials, "validation")
            if not done:
                self._preset(progress)
                continue
            # a fresh stream for every proposal: a study that was taken up again must draw no number twice
            self.study.sampler = optuna.samplers.TPESampler(
                seed=derive(self.run.context.seed, "tuning", done) % 2**32,
                n_startup_trials=RANDOM_FIRST,
                multivariate=False,
                constant_liar=False,
            )
            self._one(self.study.ask(self.distributions), progress)

    def _preset(self, progress: Progress) -> None:
        """What is shipped, as the first point: it stands where its own choices put it."""
        from optuna.trial import create_trial

        curve: list[float] = []
        context = replace(self.run.context, watch=curve.append, progress=progress)
        model, figures = replace(self.run, context=context).fitted(self.preset, Stopwatch())
        chosen = {name: getattr(model.settings, name) for name in self.space}
        params = {name: value for name, value in chosen.items() if _inside(self.space[name], value)}
        self.study.add_trial(
            create_trial(
                params=params,
                distributions={name: self.distributions[name] for name in params},
                value=figures.get(METRIC, 0.0),
                user_attrs={"settings": {}},
                intermediate_values=dict(enumerate(curve, 1)),
            )
        )

    def _one(self, trial: Trial, progress: Progress) -> None:
        from optuna import TrialPruned
        from optuna.trial import TrialState

        chosen = {name: _short(value) for name, value in trial.params.items()}
        trial.set_user_attr("settings", chosen)
        try:
            value = self._validated(trial, chosen, progress)
        except TrialPruned:
            trial.set_user_attr("why", "behind the others")
            self.study.tell(trial, state=TrialState.PRUNED)
        except SlipstreamError as error:  # no settings for this data; the preset has shown that others are
            trial.set_user_attr("why", error.message)
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, value)

    def _validated(self, trial: Trial, chosen: Mapping[str, Any], progress: Progress) -> float:
        """Fit and look at validation. Raises TrialPruned where the curve falls behind."""
        from optuna import TrialPruned

        seen = 0

        def watch(value: float) -> None:
            nonlocal seen
            seen += 1
            trial.report(value, seen)
            if trial.should_prune():
                raise TrialPruned

        context = replace(self.run.context, watch=watch, progress=progress)
        settings = with_overrides(self.preset, chosen)
        _, figures = replace(self.run, context=context).fitted(settings, Stopwatch())
        return figures.get(METRIC, 0.0)

    def result(self, given: Mapping[str, Any], cpu_s: float) -> Tuned:
        points = tuple(
            Tried(
                trial.user_attrs.get("settings", {}),
                trial.value if trial.state.name == "COMPLETE" else None,
                trial.user_attrs.get("why", ""),
            )
            for trial in self.finished()
        )
        best = max((point for point in points if point.ndcg is not None), key=lambda point: point.ndcg or 0.0)
        settings = {**given, **best.settings}
        return Tuned(self.run.name, settings, best.ndcg or 0.0, points[0].ndcg or 0.0, points, cpu_s)


_DONE = ("COMPLETE", "PRUNED")


def _distribution(values: Range | OneOf) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, OneOf):
        return CategoricalDistribution(values.values)
    if isinstance(values.low, int) and isinstance(values.high, int):
        return IntDistribution(values.low, values.high, log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _inside(values: Range | OneOf, value: Any) -> bool:
    if isinstance(values, OneOf):
        return value in values.values
    return isinstance(value, int | float) and values.low <= value <= values.high


def _short(value: Any) -> Any:
    """Three digits: what a person can copy, and more than the figures can tell apart."""
    return float(f"{value:.3g}") if isinstance(value, float) else value
