"""Reasoning over paths: an item's score is the exact sum of the paths that lead a person to it.

    person -click-> item of the history -similar_to-> item
    person -click-> item of the history -next-> item
    person -click-> item of the history -director-> someone -is_director_of-> item
    person -click-> item of the history -sequel-> item
    person -occupation-> student -prefers-> item

s(p) is the product of the gammas of its hops. The first gamma is attention: an event counts
exp(-rank / memory), the events of a history add up to 1, and each metapath has a memory of its own. The
others are strengths of derived relations (graph/derived.py) or degree terms of facts, times a learned weight
of the relation (_learning.py). An item with few events leans on facts: their weights are learned a second
time on items whose events are all hidden, and count k / (k + events of the item). In the same way a person
with few events leans on attributes.

Works without a graph (then on item features, or on behaviour alone), without an order, and for people it has
never met. NaN where no path leads. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from slipstream.artifacts import Artifact, ArtifactWriter
from slipstream.config import Settings
from slipstream.dataset.queries import Queries
from slipstream.models.path_reasoning.attention import attention, event_ranks
from slipstream.models.path_reasoning.fitting import attributes_of, fit_reasoner
from slipstream.models.path_reasoning.legs import EdgeLeg, FacetLeg, Leg, LegPaths, Walks
from slipstream.models.path_reasoning.settings import PathReasonerSettings
from slipstream.models.path_reasoning.walkable import Walkable
from slipstream.models.recommender import FitContext, FitReport, Hop, PathReason, ScoreMatrix, TrainingData

VISITOR = "visitor"
_BATCH = 512


@dataclass(frozen=True)
class _Start:
    """A leg, the name of its only hop if it has one, and whether it starts at attributes of a person."""

    leg: Leg
    relation: str = ""
    people: bool = False


class PathReasoner:
    """See the top of the file."""

    settings_type: ClassVar[type[Settings]] = PathReasonerSettings
    refits: ClassVar[bool] = True

    def __init__(self, settings: PathReasonerSettings, fitted: Walkable, report: FitReport) -> None:
        self.settings: Settings = settings
        self.report = report
        self._fitted = fitted
        self._items = fitted.items
        self._last: tuple[tuple[int, bytes], list[tuple[_Start, Walks]]] | None = None

    @classmethod
    def preset(cls, data: TrainingData) -> PathReasonerSettings:
        """Everything that matters is chosen inside the training data; see `fit`."""
        return PathReasonerSettings()

    @classmethod
    def fit(cls, data: TrainingData, settings: PathReasonerSettings, context: FitContext) -> Self:
        """Cost: a few I x I (or I small) solves, see graph/derived.py, and seconds of L-BFGS."""
        fitted, chosen, notes = fit_reasoner(data, settings, context)
        return cls(settings.model_copy(update=chosen), fitted, FitReport(notes=notes))

    @cached_property
    def _starts(self) -> list[_Start]:
        fitted = self._fitted
        found = [_Start(leg, leg.relation) for leg in fitted.edges]
        if fitted.facets is not None:
            found.append(_Start(fitted.facets))
        if fitted.preferences is not None:
            found.append(_Start(fitted.preferences, fitted.preferences.relation, people=True))
        return found

    def score(self, queries: Queries) -> ScoreMatrix:
        """[Q, I]: the sum over paths; NaN where there is none. O(events x edges per item) a query."""
        result = np.empty((len(queries), len(self._items)), np.float32)
        for first, part in queries.batches(_BATCH):
            total = np.zeros((len(part), len(self._items)))
            for start, begin in self._begin(part):
                total += start.leg.sums(begin)
            total[total <= 0] = np.nan
            result[first : first + len(part)] = total
        return result

    def _begin(self, queries: Queries) -> Iterator[tuple[_Start, sp.csr_matrix]]:
        """Each leg with the weights of its first hops, [Q, items or attributes]."""
        by_memory: dict[float, sp.csr_matrix] = {}
        for start in self._starts:
            memory = start.leg.memory
            if start.people:
                yield start, self._attributes(queries)
                continue
            if memory not in by_memory:
                by_memory[memory] = attention(queries, len(self._items), memory)
            yield start, by_memory[memory]

    def _attributes(self, queries: Queries) -> sp.csr_matrix:
        """[Q, A]: a person's attributes count k / (k + events)."""
        known, _ = event_ranks(queries, len(self._items))
        events = np.bincount(queries.rows(), known, minlength=len(queries))
        half = self._fitted.newcomer_events
        return sp.csr_matrix(sp.diags(half / (half + events)) @ attributes_of(queries, self._fitted.people))

    def paths(self, query: Queries, item: int, limit: int) -> list[PathReason]:
        """The `limit` best paths of one query to an item, in descending score; shares of the item's score.

        Ties: by the order of the legs, then by start and entity. The head is `visitor`: the asker knows who.
        What can be walked is laid out once per query, so asking for the next item of the same one is cheap.
        """
        if not 0 <= item < len(self._items) or limit < 1:
            return []
        found = [(start, walks.to(item)) for start, walks in self._walks(query.part(0, 1))]
        scores = np.concatenate([np.zeros(0), *(f.score for _, f in found)])
        ends = np.cumsum([0, *(len(f.score) for _, f in found)])
        total, reasons = float(scores.sum()), []
        for place in _best(scores, limit):
            leg = int(np.searchsorted(ends, place, side="right")) - 1
            start, paths = found[leg]
            hops = self._hops(start, paths, int(place - ends[leg]), item)
            reasons.append(PathReason(hops, float(scores[place]), float(scores[place]) / total))
        return reasons

    def _walks(self, query: Queries) -> list[tuple[_Start, Walks]]:
        key = (int(query.user[0]), query.item.tobytes())
        kept = self._last
        if kept is None or kept[0] != key:
            kept = self._last = (key, [(s, s.leg.walks(begin)) for s, begin in self._begin(query)])
        return kept[1]

    def _hops(self, start: _Start, found: LegPaths, row: int, item: int) -> tuple[Hop, ...]:
        fitted, number, end = self._fitted, int(found.start[row]), self._items[item]
        if start.people:
            relation = fitted.people_relations[number]
            middle = fitted.entities[int(fitted.people_entities[number])]
        else:
            relation, middle = fitted.event_kind, self._items[number]
        first = Hop(VISITOR, relation, middle, float(found.first[row]))
        gammas = [float(gamma[row]) for gamma in found.gammas]
        if found.via is None or not isinstance(start.leg, FacetLeg):
            return (first, Hop(middle, start.relation, end, gammas[0]))
        facet = int(found.via[row])
        there, back = start.leg.hop_names(facet)
        entity = fitted.entities[int(start.leg.facet_entity[facet])]
        return (first, Hop(middle, there, entity, gammas[0]), Hop(entity, back, end, gammas[1]))

    def exported_edges(self) -> pl.DataFrame:
        """head, relation, tail of every edge a path can walk, events and people's own attributes aside."""
        frames = [
            pl.DataFrame(rows, schema={"head": pl.String, "relation": pl.String, "tail": pl.String})
            for rows in self._edge_columns()
        ]
        empty = pl.DataFrame(schema={"head": pl.String, "relation": pl.String, "tail": pl.String})
        return pl.concat([empty, *frames]).unique(maintain_order=True)

    def _edge_columns(self) -> Iterator[dict[str, pl.Series]]:
        fitted, items = self._fitted, self._items.series()
        entities = pl.Series("id", fitted.entities.to_list(), pl.String)
        for leg in fitted.edges:
            yield _edge_columns(leg, items, items)
        if fitted.preferences is not None:
            yield _edge_columns(fitted.preferences, entities.gather(fitted.people_entities), items)
        if fitted.facets is None:
            return
        facets = fitted.facets
        there, back = zip(*map(facets.hop_names, range(facets.facet_count)), strict=True)
        facet_names = entities.gather(facets.facet_entity)
        for matrix, names, out in ((facets.out, there, True), (sp.csr_matrix(facets.back.T), back, False)):
            rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
            ends = (items.gather(rows), facet_names.gather(matrix.indices))
            relation = pl.Series("relation", names, pl.String).gather(matrix.indices)
            head, tail = ends if out else ends[::-1]
            yield {"head": head, "relation": relation, "tail": tail}

    def save(self, writer: ArtifactWriter) -> None:
        self._fitted.write(writer)

    @classmethod
    def load(cls, artifact: Artifact, settings: PathReasonerSettings) -> Self:
        return cls(settings, Walkable.read(artifact), FitReport())


def _best(scores: NDArray[np.float64], limit: int) -> NDArray[np.int64]:
    """Places of the `limit` largest scores above 0, ties by place."""
    places = np.flatnonzero(scores > 0)
    if len(places) > limit:
        edge = -np.partition(-scores[places], limit - 1)[limit - 1]
        places = places[scores[places] >= edge]
    return places[np.argsort(-scores[places], kind="stable")][:limit]


def _edge_columns(leg: EdgeLeg, heads: pl.Series, tails: pl.Series) -> dict[str, pl.Series]:
    rows = np.repeat(np.arange(leg.matrix.shape[0]), np.diff(leg.matrix.indptr))
    relation = pl.repeat(leg.relation, len(rows), dtype=pl.String, eager=True)
    return {"head": heads.gather(rows), "relation": relation, "tail": tails.gather(leg.matrix.indices)}


MODEL = PathReasoner
