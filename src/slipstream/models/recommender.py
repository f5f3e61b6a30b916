"""The protocol of every model: fit, score, save, load.

The promises (tests/models/test_contract.py runs them over every model of the registry): same seed, same
scores; save and load change nothing; a batch equals one by one; unknown users and items give NaN, never an
exception; the data is not modified; the held-out item is found on a world with a known answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from slipstream.artifacts import Artifact, ArtifactWriter
from slipstream.config import Progress, Settings, silent
from slipstream.dataset.queries import Holdout, Queries
from slipstream.dataset.snapshot import Snapshot
from slipstream.features.items import ItemFeatures
from slipstream.features.users import UserFeatures
from slipstream.graph.linked_graph import LinkedGraph
from slipstream.inference.item_index import ItemIndex
from slipstream.inference.packed_weights import Packed

ScoreMatrix = NDArray[np.float32]
"""[Q, I]; NaN where the model has nothing to say."""


@dataclass(frozen=True)
class TrainingData:
    """All a model may see. `train` holds every item of the catalogue in its vocabulary, also unseen ones.

    validation: queries whose histories are in `train`, with what followed; to choose by, never in a loss.
    repeat: whether items of a history may be recommended again (groceries, music); models are chosen by that.
    """

    train: Snapshot
    validation: Holdout | None = None
    item_features: ItemFeatures | None = None
    user_features: UserFeatures | None = None
    graph: LinkedGraph | None = None
    repeat: bool = False


def unwatched(value: float) -> None:
    """Nobody follows the validation curve."""


@dataclass(frozen=True)
class FitContext:
    """How a model is trained, apart from its settings: nothing here may change the science but the seed.

    watch: told every validation of a training that has several, as they come; may raise, to end it.
    """

    seed: int = 0
    threads: int = 1
    progress: Progress = silent
    checkpoint: str | None = None  # a folder for checkpoints of long trainings
    device: str = "cpu"
    watch: Callable[[float], None] = unwatched


@dataclass
class FitReport:
    """What training tells about itself: kept in the artifact and shown in the report."""

    curve: list[dict[str, float]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)


class Recommender(Protocol):
    """A model. One class per file, `MODEL` at the file's end names it.

    A setting of None means "choose on validation"; the fitted model's `settings` hold what was chosen, so
    fitting again with them chooses nothing. A closed-form or count model says `refits = True` (see `refits`).
    """

    settings_type: ClassVar[type[Settings]]
    settings: Settings
    report: FitReport

    @classmethod
    def preset(cls, data: TrainingData) -> Settings:
        """The settings that the data's size selects by itself: what we ship."""
        ...

    @classmethod
    def fit(cls, data: TrainingData, settings: Settings, context: FitContext) -> Self: ...

    def score(self, queries: Queries) -> ScoreMatrix:
        """Scores of all items for each query, [Q, I] float32, higher is better."""
        ...

    def save(self, writer: ArtifactWriter) -> None: ...

    @classmethod
    def load(cls, artifact: Artifact, settings: Settings) -> Self: ...


def refits(model: type[Recommender] | Recommender) -> bool:
    """May this model be fitted again on train + validation with its chosen settings (closed form, counts)?

    Models that stop early on validation may not: they would have nothing left to stop by. Ask the fitted
    model rather than its class: for some (fusion) it depends on the parts.
    """
    return getattr(model, "refits", False) is True


def refit(model: Recommender, data: TrainingData, context: FitContext) -> Recommender:
    """`model` fitted again on more data (no validation) with what it chose; only for one that `refits`.

    A model made of several has a `refit(data, context)` of its own, which leaves early-stopped parts alone.
    """
    own = getattr(model, "refit", None)
    if own is not None:
        again: Recommender = own(data, context)
        return again
    return type(model).fit(data, model.settings, context)


@dataclass(frozen=True)
class Earlier:
    """A model that was fitted on earlier data, and where in it today's ids are.

    items: [I] its number of each item of today's vocabulary, UNKNOWN (-1) for a new one. users: [U] likewise.
    """

    model: Recommender
    items: NDArray[np.int32]
    users: NDArray[np.int32]


@runtime_checkable
class Continues(Protocol):
    """Can go on from what it learned from earlier data, at a small part of the cost of a whole training.

    `report.notes["warm_start"]` says whether it did: with other settings than the earlier model has, or ones
    that do not allow it, it is fitted from the beginning.
    """

    @classmethod
    def fit_on(
        cls, data: TrainingData, settings: Settings, context: FitContext, earlier: Earlier
    ) -> Recommender: ...


@runtime_checkable
class Embeds(Protocol):
    """score(q)[i] = query_vectors(q) · item_vectors()[i] (+ item_bias()[i]): such a model can be indexed."""

    def item_vectors(self) -> NDArray[np.float32]:
        """[I, D]"""
        ...

    def query_vectors(self, queries: Queries) -> NDArray[np.float32]:
        """[Q, D]"""
        ...


class ModelState(Protocol):
    """What a model keeps of one user between requests."""

    @property
    def nbytes(self) -> int: ...


@runtime_checkable
class AtRest(ModelState, Protocol):
    """A state in fewer bytes, for the time that nobody asks."""

    def awake(self) -> ModelState: ...


@runtime_checkable
class Rests(ModelState, Protocol):
    """A state that can be kept in fewer bytes. It comes back rounded: answers may change a little."""

    def at_rest(self) -> AtRest: ...


@runtime_checkable
class Incremental(Protocol):
    """Keeps a state of each user that one event advances: the next answer need not read the history again.

    score_from(state, q) equals score(q), up to the order of sums, where `state` has seen exactly q's history:
    started with a part of it and advanced by the rest, event by event, in time.
    """

    def score(self, queries: Queries) -> ScoreMatrix: ...

    def start(self, query: Queries) -> ModelState:
        """The state after the history of one query."""
        ...

    def advance(self, state: Any, item: int, time_us: int | None) -> None:
        """Append one event to a state of `start`, in place."""
        ...

    def score_from(self, state: Any, query: Queries) -> ScoreMatrix:
        """[1, I]; `query` is the one whose history the state has seen."""
        ...


@runtime_checkable
class Searchable(Incremental, Protocol):
    """Its best items are found without scoring all of them: score(q)[0, i] = query_vectors(q) · vector i.

    A vector of NaN has no answer, and so have the items that the index leaves out: their score is NaN.
    """

    def index(self) -> ItemIndex:
        """The item vectors, ready to be searched; made at the first call."""
        ...

    def query_vectors(self, queries: Queries) -> NDArray[np.float32]:
        """[Q, D]"""
        ...

    def vector_from(self, state: Any, query: Queries) -> NDArray[np.float32]:
        """[1, D], the vector behind `score_from`."""
        ...


WeightRole = Literal["items", "rows", "linear"]
"""The item table; another table that is looked up by row; a matrix [in, out] that vectors meet."""


@runtime_checkable
class Compressible(Searchable, Embeds, Protocol):
    """Its weights can be packed in fewer bits; `save` and `load` keep the packed ones."""

    def weights(self) -> Mapping[str, NDArray[np.float32]]:
        """All that is learned, by name."""
        ...

    def packed_weights(self) -> Mapping[str, Packed]:
        """Those that came from fewer bits, by name; empty where none did."""
        ...

    def weight_roles(self) -> Mapping[str, WeightRole]:
        """Of the weights that are worth packing; the others are few."""
        ...

    def with_weights(self, packed: Mapping[str, Packed]) -> Self:
        """This model with other weights of the same names and shapes; its scores are those of `unpack`."""
        ...

    def resident_bytes(self) -> int:
        """Of the arrays that stay in memory while it answers, its index included, users' states not."""
        ...


SOMEONE = "someone"
"""The name of every other person in a path: no reason tells who somebody else is."""
ANY_EVENT = "touched"
"""The relation of an event of another person whose kind is not told."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One edge of a path, in names of the graph: `user:…`, `item:…` or an entity."""

    head: str
    relation: str
    tail: str
    weight: float


@dataclass(frozen=True, slots=True)
class PathReason:
    """A path from the user to the item and its score s(p) = Π γ; share = s(p) / Σ over the item's paths."""

    hops: tuple[Hop, ...]
    score: float
    share: float


@dataclass(frozen=True, slots=True)
class PathGroup:
    """Paths that differ only in the item of the history they start from.

    best: the best of them. starts: the items that the others start from, best first. share: of the item's
    score, all of the group's paths together.
    """

    best: PathReason
    starts: tuple[str, ...]
    share: float


@runtime_checkable
class ExplainsByPaths(Protocol):
    """The best paths behind a score."""

    def paths(self, query: Queries, item: int, limit: int) -> list[PathReason]:
        """Of one query; in descending s(p), ties by number; deterministic. [] if no path reaches the item."""
        ...

    def paths_to(self, query: Queries, items: Sequence[int], limit: int) -> list[list[PathReason]]:
        """`paths` of each of the items, in one search."""
        ...

    def path_groups(self, query: Queries, items: Sequence[int], limit: int) -> list[list[PathGroup]]:
        """The groups that say most about each of the items, in descending share; deterministic.

        That of each metapath comes before a second one of any. A wide entity says less than a rare one.
        """
        ...


@runtime_checkable
class ExplainsByHistory(Protocol):
    """Which items of the history carry the score."""

    def contributions(self, query: Queries, items: NDArray[np.int32]) -> NDArray[np.float32]:
        """[len(items), H]: the part of the score of each item that each history event carries."""
        ...


@runtime_checkable
class ExplainsFromState(ExplainsByHistory, Protocol):
    """One that can take the state of an `Incremental` model, which saves reading the history again."""

    def contributions_from(
        self, state: ModelState, query: Queries, items: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Events [E] of the query and their `contributions` [len(items), E]; those of the others are 0.

        `state` is that after the query's history.
        """
        ...


def unknown_item_nan(scores: ScoreMatrix, known: NDArray[np.bool_]) -> ScoreMatrix:
    """`scores` with NaN in the columns of items the model has never met."""
    scores[:, ~known] = np.nan
    return scores


Meta = Mapping[str, Any]
