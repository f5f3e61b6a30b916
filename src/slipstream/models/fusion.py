"""Fusion: models that err differently, asked together. Members are names of the registry.

    score(q)[i] = Σ over the members m of  w_m · z_m(q)[i],     z_m = (s_m(q)[i] − mean) / deviation

mean and deviation are over the finite scores of the items that q has not touched, so a member's scale does
not matter. Where a member has nothing to say it stands neither for nor against (z = 0); where no member has,
the score is NaN. The weights are not negative; they are found on validation NDCG@10 by two coordinate
searches, over the candidates that any member ranks high. With `gates` a member's weight also
depends on the events of the person and of the item (fusion_gates.py). A member that cannot be fitted (no
torch, no graph) or that gets weight 0 is left out, and the report says so.

Source: late fusion of standardised scores, as in the prototype of this project, where a sequence model, the
neighbours and EASE together beat each alone. Different here: any members, and all weights are fitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from slipstream.artifacts import Artifact, ArtifactWriter
from slipstream.config import Settings, with_overrides
from slipstream.dataset.queries import Queries
from slipstream.errors import ConfigError, SlipstreamError
from slipstream.models.fusion_gates import HISTORY_STEPS, ITEM_STEPS, Gate, history_steps, item_steps
from slipstream.models.fusion_weights import Bench, coordinate_search, gate_search, standardised
from slipstream.models.recommender import (
    AtRest,
    ExplainsByHistory,
    ExplainsByPaths,
    FitContext,
    FitReport,
    Incremental,
    ModelState,
    PathGroup,
    PathReason,
    Recommender,
    Rests,
    ScoreMatrix,
    TrainingData,
    refit,
    refits,
)
from slipstream.models.registry import load_model, model_type, save_model
from slipstream.models.validation import sample_holdout

NAME = "fusion"


class FusionSettings(Settings):
    members: tuple[str, ...] = ("item_neighbours", "ease")
    weights: tuple[float, ...] | None = None
    """One per member, none negative; None: fitted on validation, all 1 without one."""
    member_settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Overrides of the members' presets, by name."""
    gates: bool = False
    """Fit, after the weights, how much a member counts for short histories and rare items."""
    history_gate: tuple[tuple[float, ...], ...] | None = None
    item_gate: tuple[tuple[float, ...], ...] | None = None
    """One row per member, one factor per step of fusion_gates.py; None: fitted if `gates`, else all 1."""
    candidates: int = Field(200, ge=10)
    """Items per member among which the weights are fitted."""
    validation_users: int = Field(4_000, ge=1)


@dataclass(frozen=True)
class FusionState:
    """The states of members, by name."""

    parts: dict[str, ModelState]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts.values())

    def at_rest(self) -> FusionState:
        """With the parts at rest that can be."""
        return FusionState({n: p.at_rest() if isinstance(p, Rests) else p for n, p in self.parts.items()})

    def awake(self) -> FusionState:
        return FusionState({n: p.awake() if isinstance(p, AtRest) else p for n, p in self.parts.items()})


class Fusion:
    """A weighted sum of the members' standardised scores."""

    settings_type: ClassVar[type[Settings]] = FusionSettings

    def __init__(
        self,
        members: dict[str, Recommender],
        weights: NDArray[np.float64],
        settings: FusionSettings,
        report: FitReport,
        item_step: NDArray[np.int8] | None = None,
    ) -> None:
        self.settings: Settings = settings
        self.report = report
        self._own = settings
        self._members = members
        self._weights = weights  # [members]
        self._gate = _gate_of(settings, list(members))
        self._item_step = item_step  # [I], where there is a gate

    @property
    def refits(self) -> bool:
        """Whether `refit` would change anything."""
        return any(refits(member) for member in self._members.values())

    @classmethod
    def preset(cls, data: TrainingData) -> FusionSettings:
        """What the data allows; validation sorts out what is of no use."""
        if not data.train.ordered:
            return FusionSettings(members=("item_neighbours", "ease", "ials", "popularity"))
        clock = ("recency_popularity",) if data.train.time_us is not None else ()
        graph = ("path_reasoner",) if data.graph is not None else ()
        return FusionSettings(members=("transformer", "item_neighbours", "ease", "ials", *clock, *graph))

    @classmethod
    def fit(cls, data: TrainingData, settings: FusionSettings, context: FitContext) -> Self:
        """The sum of the members' fits, and one scoring of at most `validation_users` queries by each."""
        _check(settings)
        members, failed = _fitted(data, settings, context)
        notes: dict[str, Any] = {"left_out": failed} if failed else {}
        names, steps = list(members), item_steps(data.train.item_counts)
        gate = _gate_of(settings, names)
        if settings.weights is not None:
            given = dict(zip(settings.members, settings.weights, strict=True))
            weights = np.array([given[name] for name in names])
        elif data.validation is None or not len(data.validation) or len(members) == 1:
            weights = np.ones(len(members))
        else:
            sample = sample_holdout(data.validation, settings.validation_users, context.seed)
            bench = Bench.of(list(members.values()), sample, settings.candidates, steps)
            weights, value = coordinate_search(bench)
            alone = [bench.ndcg(row) for row in np.eye(len(members))]
            notes["validation_ndcg"] = value
            notes["validation_ndcg_alone"] = dict(zip(names, alone, strict=True))
            if settings.gates and gate is None:
                gate, gated = gate_search(bench, weights, value)
                notes["validation_ndcg_gated"] = gated
        notes["weights"] = dict(zip(names, map(float, weights), strict=True))
        notes["members"] = {name: member.report.notes for name, member in members.items()}
        return cls._of(members, weights, gate, settings, FitReport(notes=notes), steps)

    @classmethod
    def _of(
        cls,
        members: dict[str, Recommender],
        weights: NDArray[np.float64],
        gate: Gate | None,
        settings: FusionSettings,
        report: FitReport,
        item_step: NDArray[np.int8],
    ) -> Self:
        """Without the members of weight 0; the settings hold what was chosen, of the members too."""
        used = [name for name, weight in zip(members, weights, strict=True) if weight > 0]
        if not used:
            raise ConfigError("fusion.weights are all 0", hint="give at least one member a weight above 0")
        kept = {name: members[name] for name in used}
        closing = None if gate is None or gate.is_open else gate.members(weights > 0)
        chosen = settings.model_copy(
            update={
                "history_gate": None if closing is None else _rows(closing.history),
                "item_gate": None if closing is None else _rows(closing.item),
                "members": tuple(used),
                "weights": tuple(float(w) for w in weights if w > 0),
                "member_settings": {n: m.settings.model_dump(mode="json") for n, m in kept.items()},
            }
        )
        return cls(kept, weights[weights > 0], chosen, report, item_step)

    def refit(self, data: TrainingData, context: FitContext) -> Self:
        """The members that may be fitted again are; the others stay as they were trained."""
        members = {
            name: refit(member, data, _context_of(context, name)) if refits(member) else member
            for name, member in self._members.items()
        }
        steps = item_steps(data.train.item_counts)
        return type(self)(members, self._weights, self._own, self.report, steps)

    def score(self, queries: Queries) -> ScoreMatrix:
        """The sum of the members' costs."""
        return self._sum((member.score(queries) for member in self._members.values()), queries)

    def start(self, query: Queries) -> FusionState:
        """The states of the members that keep one."""
        parts = {name: m.start(query) for name, m in self._members.items() if isinstance(m, Incremental)}
        return FusionState(parts)

    def advance(self, state: FusionState, item: int, time_us: int | None) -> None:
        for name, part in state.parts.items():
            member = self._members[name]
            assert isinstance(member, Incremental)  # noqa: S101 - only such a member has a part
            member.advance(part, item, time_us)

    def score_from(self, state: FusionState, query: Queries) -> ScoreMatrix:
        """The members that keep no state are asked as always."""
        return self._sum((self._member_score(name, state, query) for name in self._members), query)

    def _member_score(self, name: str, state: FusionState, query: Queries) -> ScoreMatrix:
        member = self._members[name]
        if isinstance(member, Incremental):
            return member.score_from(state.parts[name], query)
        return member.score(query)

    def _sum(self, member_scores: Iterable[ScoreMatrix], queries: Queries) -> ScoreMatrix:
        total: ScoreMatrix | None = None
        silent: NDArray[np.bool_] | None = None
        histories = history_steps(np.diff(queries.offsets))
        for member, (guesses, weight) in enumerate(zip(member_scores, self._weights, strict=True)):
            scores = standardised(guesses, queries)
            nothing = np.isnan(scores)
            silent = nothing if silent is None else silent & nothing
            scores[nothing] = 0.0
            scores *= np.float32(weight)
            if self._gate is not None and self._item_step is not None:
                scores *= self._gate.of(member, histories, self._item_step)
            total = scores if total is None else total + scores
        assert total is not None and silent is not None  # noqa: S101, PT018 - there is always a member
        total[silent] = np.nan
        return total

    def contributions(self, query: Queries, items: NDArray[np.int32]) -> NDArray[np.float32]:
        """[len(items), H] of the strongest member that can tell, in its own scale; zeros if none can."""
        for member in self._strongest_first():
            if isinstance(member, ExplainsByHistory):
                return member.contributions(query, items)
        return np.zeros((len(items), len(query.item)), np.float32)

    def paths(self, query: Queries, item: int, limit: int) -> list[PathReason]:
        """`paths_to` of one item."""
        return self.paths_to(query, [item], limit)[0]

    def paths_to(self, query: Queries, items: Sequence[int], limit: int) -> list[list[PathReason]]:
        """The paths of the strongest member that has any; [] if none has."""
        member = self._by_paths()
        return [[] for _ in items] if member is None else member.paths_to(query, items, limit)

    def path_groups(self, query: Queries, items: Sequence[int], limit: int) -> list[list[PathGroup]]:
        member = self._by_paths()
        return [[] for _ in items] if member is None else member.path_groups(query, items, limit)

    def _by_paths(self) -> ExplainsByPaths | None:
        return next((m for m in self._strongest_first() if isinstance(m, ExplainsByPaths)), None)

    def _strongest_first(self) -> list[Recommender]:
        members = list(self._members.values())
        return [members[at] for at in np.argsort(-self._weights, kind="stable")]

    def save(self, writer: ArtifactWriter) -> None:
        for name, member in self._members.items():
            with writer.part(name, "model") as inner:
                save_model(name, member, inner)
        if self._gate is not None and self._item_step is not None:
            writer.array("item_step", self._item_step)

    @classmethod
    def load(cls, artifact: Artifact, settings: FusionSettings) -> Self:
        members = {name: load_model(artifact.part(name))[1] for name in settings.members}
        gated = settings.history_gate is not None or settings.item_gate is not None
        steps = np.array(artifact.array("item_step")) if gated else None
        return cls(members, np.asarray(settings.weights, np.float64), settings, FitReport(), steps)


def _gate_of(settings: FusionSettings, names: list[str]) -> Gate | None:
    """The gate that the settings give, its rows those of `names`; None where they give none."""
    if settings.history_gate is None and settings.item_gate is None:
        return None
    rows = [settings.members.index(name) for name in names]
    gate = Gate.open(len(settings.members))
    history = gate.history if settings.history_gate is None else np.array(settings.history_gate)
    item = gate.item if settings.item_gate is None else np.array(settings.item_gate)
    return Gate(history[rows], item[rows])


def _rows(factors: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in factors.tolist())


def _check(settings: FusionSettings) -> None:
    if not settings.members or len(set(settings.members)) != len(settings.members):
        raise ConfigError(
            f"fusion.members must be different names, at least one, got {list(settings.members)}",
            hint="for example --set fusion.members=[item_neighbours,ease]",
        )
    if NAME in settings.members:
        raise ConfigError("fusion cannot be a member of itself", hint="name its members instead")
    if settings.weights is not None and (
        len(settings.weights) != len(settings.members) or min(settings.weights) < 0
    ):
        raise ConfigError(
            f"fusion.weights must be {len(settings.members)} numbers from 0 up, got {list(settings.weights)}"
        )
    for name, given, steps in (
        ("history_gate", settings.history_gate, HISTORY_STEPS),
        ("item_gate", settings.item_gate, ITEM_STEPS),
    ):
        if given is None:
            continue
        fits = len(given) == len(settings.members) and all(len(row) == len(steps) + 1 for row in given)
        if not fits or min(map(min, given)) < 0:
            raise ConfigError(
                f"fusion.{name} must be {len(settings.members)} rows of {len(steps) + 1} numbers from 0 up"
            )
    if unknown := set(settings.member_settings) - set(settings.members):
        raise ConfigError(f"fusion.member_settings are for members only, got {sorted(unknown)}")


def _fitted(
    data: TrainingData, settings: FusionSettings, context: FitContext
) -> tuple[dict[str, Recommender], dict[str, str]]:
    """(members by name, why the others failed). A name or setting that does not exist raises."""
    kinds = {name: model_type(name) for name in settings.members}
    members: dict[str, Recommender] = {}
    failed: dict[str, str] = {}
    last: SlipstreamError | None = None
    for name, kind in kinds.items():
        own = with_overrides(kind.preset(data), settings.member_settings.get(name, {}))
        try:
            members[name] = kind.fit(data, own, _context_of(context, name))
        except SlipstreamError as error:
            failed[name], last = error.message, error
    if not members and last is not None:
        raise last
    return members, failed


def _context_of(context: FitContext, name: str) -> FitContext:
    """The same, with a checkpoint folder and a progress line of the member's own."""

    def progress(done: int, total: int | None, note: str) -> None:
        context.progress(done, total, f"{name}: {note}")

    folder = None if context.checkpoint is None else f"{context.checkpoint}/{name}"
    return FitContext(context.seed, context.threads, progress, folder, context.device)


MODEL = Fusion
