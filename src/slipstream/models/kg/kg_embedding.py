"""Vectors of people, items and entities, from one graph in which `interacts` is a relation like others.

An item is scored as the missing tail of (person, interacts, ?): the vector of the person, turned by the
relation, against the vector of the item (forms: inference/triple_embedding.py; learning:
training/triple_course.py). Facts of the graph and what people did shape the same vectors, so an item that
nobody has touched is placed by its facts, and a person who has done nothing by attributes.

Who is not in the graph, or has done more since, is read off the history: a linear map, fitted on the known
people by ridge regression, takes the weighted average of the vectors of the items in the history to the
vector of the person. A known person's vector is `own` times the learned one plus 1 - `own` times the one read
off the history; a stranger's is the latter alone. NaN for items and people that no edge touches.

Source: CFKG (Ai et al. 2018) scores items as tails of one purchase relation. Differs: ComplEx with reciprocal
relations and a full softmax (Lacroix et al. 2018); the history average. For TransE and RotatE the score is
q · e - ½‖e‖², which orders items as the distance does and is a product that can be indexed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from slipstream.artifacts import Artifact, ArtifactWriter
from slipstream.config import Settings
from slipstream.dataset.queries import Holdout, Queries, queries_of
from slipstream.dataset.snapshot import Snapshot
from slipstream.errors import ConfigError, MissingExtra
from slipstream.graph.linked_graph import LinkedGraph
from slipstream.inference.triple_embedding import Form, TripleEmbedding
from slipstream.models.history import Memory, event_weights, history_matrix
from slipstream.models.recommender import FitContext, FitReport, ScoreMatrix, TrainingData
from slipstream.models.validation import best_of, sample_holdout, validation_ndcg

HALF_LIVES, MIDDLE = (0.0, 2.0, 5.0, 10.0, 30.0), 5.0
"""Events; what is tried on validation, and what serves without one."""
OWN, HALF = (0.5, 1.0, 0.0), 0.5
_RIDGE = 0.01  # of the map from histories to people, in parts of the mean square of a coordinate
_MANY_EDGES = 200_000


class KgEmbeddingSettings(Settings):
    """The defaults suit a hundred thousand edges; `preset` follows the data."""

    form: Form = "complex"
    dim: int = Field(64, ge=2, le=1024)
    epochs: int = Field(30, ge=1)
    batch: int = Field(512, ge=1)
    lr: float = Field(0.1, gt=0)
    n3: float = Field(0.01, ge=0)
    full_softmax: int = Field(5_000, ge=1)
    """So many candidates are all compared; of more, `negatives` are drawn."""
    negatives: int = Field(1_024, ge=1)
    validate_every: int = Field(3, ge=1)
    patience: int = Field(3, ge=1)  # validations without a better one before it stops
    validation_users: int = Field(2_000, ge=1)
    own: float | None = Field(None, ge=0, le=1)
    """Share of the learned vector of a known person, the rest is the history's; None: by validation."""
    half_life: float | None = Field(None, ge=0)
    """Events after which an event of the history counts half; 0: no forgetting; None: by validation."""


@dataclass(frozen=True)
class Learned:
    """Nodes are items (0 .. I-1), users (I .. I+U-1), entities; `interacts` is the last relation.

    reading: [D + 1, D], from the average of a history (and 1) to a person, for the half-life of the settings.
    """

    embedding: TripleEmbedding
    known_items: NDArray[np.bool_]  # [I]
    known_users: NDArray[np.bool_]  # [U]
    reading: NDArray[np.float32]

    @property
    def interacts(self) -> int:
        return self.embedding.relation_count - 1

    @property
    def items(self) -> NDArray[np.float32]:
        """[I, D]"""
        return self.embedding.entity[: len(self.known_items)]

    @property
    def people(self) -> slice:
        """The rows of people among the entities."""
        return slice(len(self.known_items), len(self.known_items) + len(self.known_users))


class KgEmbedding:
    """See the top of the file."""

    settings_type: ClassVar[type[Settings]] = KgEmbeddingSettings

    def __init__(self, settings: KgEmbeddingSettings, learned: Learned) -> None:
        self.settings: Settings = settings
        self.report = FitReport()
        self._own = HALF if settings.own is None else settings.own
        self._memory = _memory(settings)
        self._learned = learned

    @classmethod
    def preset(cls, data: TrainingData) -> KgEmbeddingSettings:
        """Larger batches and fewer epochs where there are many edges; no forgetting without an order."""
        edges = data.train.event_count + (0 if data.graph is None else len(data.graph.edges.head))
        half_life = None if data.train.ordered else 0.0
        if edges <= _MANY_EDGES:
            return KgEmbeddingSettings(half_life=half_life)
        return KgEmbeddingSettings(epochs=12, batch=2_048, validate_every=2, half_life=half_life)

    @classmethod
    def fit(cls, data: TrainingData, settings: KgEmbeddingSettings, context: FitContext) -> KgEmbedding:
        """Cost: twice the edges an epoch, each against the items, the people or `negatives` of the nodes."""
        train = data.train
        if not train.event_count:
            raise ConfigError("an embedding of interactions needs at least one")
        if settings.half_life is None and not train.ordered:
            settings = settings.model_copy(update={"half_life": 0.0})
        try:
            from slipstream.training import triple_course
        except ImportError as error:
            raise MissingExtra("torch", "train", "learning vectors of a graph") from error

        triples, nodes, relations = _triples(train, data.graph)
        touched = np.zeros(nodes, bool)
        touched[triples[:, [0, 2]]] = True
        sample: Holdout | None = None
        if data.validation is not None:
            sample = sample_holdout(data.validation, settings.validation_users, context.seed)

        def made(embedding: TripleEmbedding, choice: KgEmbeddingSettings) -> KgEmbedding:
            return cls(choice, _learned(embedding, touched, train, _memory(choice)))

        outcome = triple_course.run(
            triples,
            nodes,
            relations,
            triple_course.TripleCourse(
                **settings.model_dump(exclude={"validation_users", "own", "half_life"})
            ),
            ranges=_ranges(train, nodes, relations),
            seed=context.seed,
            validate=None if sample is None else lambda e: _ndcg(made(e, settings), sample),
            progress=context.progress,
        )
        half_lives = HALF_LIVES if settings.half_life is None else (settings.half_life,)
        owns = OWN if settings.own is None else (settings.own,)
        if sample is None:
            half_lives, owns = (_memory(settings).half_life,), (owns[0],)
        choices = [{"own": own, "half_life": half_life} for own, half_life in product(owns, half_lives)]
        models = [made(outcome.embedding, settings.model_copy(update=choice)) for choice in choices]
        model, _ = best_of(models, lambda m: _ndcg(m, sample))
        model.report = FitReport(outcome.curve, {"best_epoch": outcome.best_epoch, "nodes": nodes})
        return model

    def query_vectors(self, queries: Queries) -> NDArray[np.float32]:
        """[Q, D]; NaN for a person whom no edge touches and whose history has no known item."""
        learned, embedding = self._learned, self._learned.embedding
        average, length = self._averages(queries)
        people = _with_one(average) @ learned.reading
        own = self._owns(queries)
        mine = embedding.entity[learned.people][queries.user[own]]
        share = np.where(length[own] > 0, self._own, 1.0)[:, None]
        people[own] = share * mine + (1 - share) * people[own]
        vectors = embedding.asked(people.astype(np.float32), np.full(len(queries), learned.interacts))
        vectors[~own & (length == 0)] = np.nan
        return vectors

    def _owns(self, queries: Queries) -> NDArray[np.bool_]:
        """[Q], whether the person has a learned vector."""
        known = self._learned.known_users
        inside = (queries.user >= 0) & (queries.user < len(known))
        inside[inside] = known[queries.user[inside]]
        return inside

    def _averages(self, queries: Queries) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """([Q, D] weighted average of the items' vectors, [Q] total weight)."""
        return _averages(queries, self._learned.items, self._learned.known_items, self._memory)

    def item_vectors(self) -> NDArray[np.float32]:
        """[I, D]; zeros for an item that no edge touches."""
        return self._item_vectors

    @cached_property
    def _item_vectors(self) -> NDArray[np.float32]:
        learned = self._learned
        return np.where(learned.known_items[:, None], learned.items, np.float32(0))

    def item_bias(self) -> NDArray[np.float32]:
        """[I]: 0, or -½‖e‖² for a form that compares by distance."""
        return self._item_bias

    @cached_property
    def _item_bias(self) -> NDArray[np.float32]:
        vectors = self._item_vectors
        half: NDArray[np.float32] = -0.5 * (vectors**2).sum(1)
        return half if self._learned.embedding.is_distance else np.zeros_like(half)

    def score(self, queries: Queries) -> ScoreMatrix:
        """[Q, I]. O(I · D) a query."""
        scores: ScoreMatrix = self.query_vectors(queries) @ self._item_vectors.T + self._item_bias
        scores[:, ~self._learned.known_items] = np.nan
        return scores

    def contributions(self, query: Queries, items: NDArray[np.int32]) -> NDArray[np.float32]:
        """[len(items), H]: the part of the score that each event brings through the average; exact."""
        learned, parts = self._learned, np.zeros((len(items), len(query.item)), np.float32)
        weights = event_weights(query, learned.known_items, self._memory)
        events = np.flatnonzero(weights)
        if not len(events):
            return parts
        share = 1 - self._own if self._owns(query)[0] else 1.0
        brought = learned.items[query.item[events]] @ learned.reading[:-1]
        brought = (brought * (share * weights[events] / weights.sum())[:, None]).astype(np.float32)
        if learned.embedding.form != "transe":  # whose relation only shifts
            brought = learned.embedding.asked(brought, np.full(len(events), learned.interacts))
        parts[:, events] = self._item_vectors[items] @ brought.T
        return parts

    def save(self, writer: ArtifactWriter) -> None:
        learned = self._learned
        learned.embedding.write_into(writer)
        for name in ("known_items", "known_users", "reading"):
            writer.array(name, getattr(learned, name))

    @classmethod
    def load(cls, artifact: Artifact, settings: KgEmbeddingSettings) -> Self:
        arrays = (artifact.array(name) for name in ("known_items", "known_users", "reading"))
        return cls(settings, Learned(TripleEmbedding.read(artifact), *arrays))


def _memory(settings: KgEmbeddingSettings) -> Memory:
    return Memory(MIDDLE if settings.half_life is None else settings.half_life)


def _ndcg(model: KgEmbedding, sample: Holdout | None) -> float:
    return 0.0 if sample is None else validation_ndcg(model.score, sample)


def _triples(train: Snapshot, graph: LinkedGraph | None) -> tuple[NDArray[np.int32], int, int]:
    """([T, 3] facts and distinct interactions in node numbers, nodes, relations with `interacts` last)."""
    people = train.item_count + train.user_count
    pairs = train.matrix().tocoo()
    user, item = pairs.row + train.item_count, pairs.col
    if graph is None:
        return np.stack([user, np.zeros_like(user), item], axis=1).astype(np.int32), people, 1
    if graph.item_count != train.item_count or graph.user_count not in (0, train.user_count):
        raise ConfigError("the graph was joined with another snapshot than the one to learn from")
    edges, shift = graph.edges, train.user_count - graph.user_count
    head, tail = (np.where(x < graph.item_count, x, x + shift) for x in (edges.head, edges.tail))
    interacts = len(graph.graph.relations)
    facts = np.stack([head, edges.relation.astype(np.int32), tail], axis=1)
    events = np.stack([user, np.full_like(user, interacts), item], axis=1)
    return np.concatenate([facts, events]).astype(np.int32), graph.node_count + shift, interacts + 1


def _ranges(train: Snapshot, nodes: int, relations: int) -> NDArray[np.int64]:
    """Which nodes may answer: items to what a person interacts with, people to who did, all to facts."""
    ranges = np.tile(np.array([[0, nodes]], np.int64), (2 * relations, 1))
    ranges[relations - 1] = 0, train.item_count
    ranges[-1] = train.item_count, train.item_count + train.user_count
    return ranges


def _learned(
    embedding: TripleEmbedding, touched: NDArray[np.bool_], train: Snapshot, memory: Memory
) -> Learned:
    """With the map from histories to people fitted: min Σ_u ‖[x_u, 1] M - e_u‖² + λ‖M‖²."""
    items, people = slice(0, train.item_count), slice(train.item_count, train.item_count + train.user_count)
    known = touched[items]
    average, length = _averages(
        queries_of(train, np.arange(train.user_count)), embedding.entity[items], known, memory
    )
    active = length > 0
    x = _with_one(average[active]).astype(np.float64)
    gram = x.T @ x
    ridge = _RIDGE * np.trace(gram[:-1, :-1]) / max(1, len(gram) - 1)
    gram[np.diag_indices(len(gram) - 1)] += ridge + 1e-12
    reading = np.linalg.solve(gram, x.T @ embedding.entity[people][active])
    return Learned(embedding, known, touched[people], reading.astype(np.float32))


def _averages(
    queries: Queries, items: NDArray[np.float32], known: NDArray[np.bool_], memory: Memory
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    history = history_matrix(queries, known, memory)
    length = np.asarray(history.sum(axis=1), np.float32).ravel()
    average: NDArray[np.float32] = (history @ items) / np.where(length > 0, length, 1.0)[:, None]
    return average, length


def _with_one(average: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([average, np.ones((len(average), 1), np.float32)], axis=1)


MODEL = KgEmbedding
