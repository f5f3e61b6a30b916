"""A trial: a model learns from the past of a board, answers its questions, and is scored on what followed.

The model comes from the registry, the settings from its preset (what we ship) and the overrides, the ranking
from `recommend.ranking.rank`: the function that serves. Choosing happens on train → validation; closed-form
and count models are then fitted again on train + validation where the board allows it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.cluster.threads import blas_threads
from slipstream.config import Progress, Settings, silent, thread_count, with_overrides
from slipstream.dataset.folder import DataFolder
from slipstream.dataset.queries import Queries
from slipstream.errors import ConfigError
from slipstream.evaluation.arena import Arena, GraphMaker, open_arenas
from slipstream.evaluation.result import Trial
from slipstream.evaluation.scores import ROWS, means_of, score_lists
from slipstream.evaluation.slates import slates_frame
from slipstream.evaluation.stages import Stopwatch, peak_rss_bytes, versions
from slipstream.models.recommender import FitContext, Recommender, refit, refits
from slipstream.models.registry import model_names, model_type
from slipstream.recommend.ranking import rank

SCORE_CELLS = 8_000_000
"""Scores held at a time while answering: 32 MB, and about four times that with their mask and order."""


def run_trial(
    data: DataFolder | str | Path,
    model_name: str,
    board_name: str,
    *,
    k: int = 10,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
    threads: int | None = None,
    progress: Progress = silent,
    checkpoint: str | None = None,
    device: str = "cpu",
    without: Collection[str] = (),
    graph: GraphMaker | None = None,
    goal: str | None = None,
    repeat: bool = False,
    keep_model: bool = False,
) -> Trial:
    """Fit `model_name` on the past of a board of `data` and score its answers.

    overrides: settings by name, plain (`epochs`) or behind the model's name (`transformer.epochs`). without:
    any of "items", "users", "graph", to see what they are worth. graph: makes the knowledge graph, else the
    folder's own is used. goal: only events of this kind are targets. repeat: items of the history may come
    back, and are targets. threads: None for all that we may use.
    Errors of the data, the board and the model come out as they are, with a note of where they happened.
    """
    kind = model_type(model_name)  # a wrong name should not wait for the reading
    (arena,) = open_arenas(
        data, [board_name], seed=seed, without=without, graph=graph, goal=goal, repeat=repeat
    )
    context = FitContext(seed, threads or thread_count(), progress, checkpoint, device)
    return Run(arena, model_name, kind, k, context, keep_model).trial(overrides or {})


def settings_for(preset: Settings, model_name: str, overrides: Mapping[str, Any]) -> Settings:
    """The preset with the overrides; a key may stand behind the name of the model.

    Raises ConfigError for a setting that does not exist, and for one behind the name of another model.
    """
    own = {}
    for key, value in overrides.items():
        head, dot, rest = key.partition(".")
        if dot and head == model_name:
            own[rest] = value
        elif dot and head not in type(preset).model_fields and head in model_names():
            raise ConfigError(
                f"{key} is a setting of {head}, this is {model_name}", hint=f"drop it or run {head}"
            )
        else:
            own[key] = value
    return with_overrides(preset, own)


@dataclass(frozen=True)
class Run:
    """One model in one arena."""

    arena: Arena
    name: str
    kind: type[Recommender]
    k: int
    context: FitContext
    keep_model: bool

    def trial(self, overrides: Mapping[str, Any]) -> Trial:
        try:
            with blas_threads():
                return self._trial(overrides)
        except Exception as error:
            error.add_note(
                f"in a trial of {self.name} on board {self.arena.board.name} of {self.arena.data_name}"
            )
            raise

    def _trial(self, overrides: Mapping[str, Any]) -> Trial:
        stopwatch, board = self.arena.stopwatch.copy(), self.arena.board
        with stopwatch.stage("fit"):
            settings = settings_for(self.kind.preset(self.arena.data), self.name, overrides)
        model, validation = self.fitted(settings, stopwatch)
        curve, notes = list(model.report.curve), dict(model.report.notes)
        again = board.refit and refits(model) and board.past.event_count > board.train.event_count
        if again:
            with stopwatch.stage("refit"):
                model = refit(model, self.arena.past(), self.context)
        with stopwatch.stage("answer"):
            queries, candidates = board.test.queries, board.candidates
            items, strength = self._answer(model, queries, candidates, max(self.k, ROWS))
            slates = slates_frame(board.past, queries.user, items, strength)
        with stopwatch.stage("measure"):
            scores = score_lists(board, items, k=self.k)
        return Trial(
            model=self.name,
            board=board.name,
            data=self.arena.data_name,
            seed=self.context.seed,
            k=self.k,
            scores=scores,
            validation=validation,
            refit=again,
            users=board.users,
            targets=board.targets,
            targets_sha256=board.targets_sha256,
            user_ids=board.past.users.series("user_id").gather(queries.user),
            slates=slates,
            stages=stopwatch.costs,
            peak_rss_bytes=peak_rss_bytes(),
            threads=self.context.threads,
            config=model.settings.model_dump(mode="json"),
            versions=versions(),
            without=self.arena.without,
            repeat=self.arena.data.repeat,
            overrides=dict(overrides),
            curve=curve,
            notes=notes,
            fitted=model if self.keep_model else None,
        )

    def fitted(self, settings: Settings, stopwatch: Stopwatch) -> tuple[Recommender, dict[str, float]]:
        """The model with these settings and its figures on validation: all that choosing may look at."""
        with stopwatch.stage("fit"):
            model = self.kind.fit(self.arena.data, settings, self.context)
        return model, self._validate(model, stopwatch)

    def _validate(self, model: Recommender, stopwatch: Stopwatch) -> dict[str, float]:
        """The figures that the settings were, or could have been, chosen by."""
        board = self.arena.board
        if board.validation is None:
            return {}
        with stopwatch.stage("validate"):
            queries, candidates = board.validation.queries, board.validation_candidates
            items, _ = self._answer(model, queries, candidates, max(self.k, ROWS))
            return means_of(items, board.validation, self.k)

    def _answer(
        self, model: Recommender, queries: Queries, candidates: NDArray[np.bool_] | None, rows: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The lists of all queries, [Q, rows], with bounded memory."""
        item_count = max(self.arena.board.past.item_count, 1)
        batch = min(1024, max(16, SCORE_CELLS // item_count))
        lists, strengths = [], []
        for start, part in queries.batches(batch):
            self.context.progress(start, len(queries), "answering")
            items, scores = rank(
                model, part, rows, repeat=self.arena.data.repeat, candidates=candidates, batch=batch
            )
            lists.append(items)
            strengths.append(scores)
        self.context.progress(len(queries), len(queries), "answering")
        return np.concatenate(lists), np.concatenate(strengths)
