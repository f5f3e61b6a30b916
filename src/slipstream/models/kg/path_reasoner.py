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
from slipstream.models.path_reasoning.legs import EdgeLeg, FacetLeg, LegPaths
from slipstream.models.path_reasoning.settings import PathReasonerSettings
from slipstream.models.path_reasoning.walkable import Walkable
from slipstream.models.recommender import FitContext, FitReport, Hop, PathReason, ScoreMatrix, TrainingData

VISITOR = "visitor"
_BATCH = 512


@dataclass(frozen=True)
class _Start:
    """Where the paths of one leg start and how they are named."""

    leg: EdgeLeg | FacetLeg
    people: bool


class PathReasoner:
    """See the top of the file."""

    settings_type: ClassVar[type[Settings]] = PathReasonerSettings
    refits: ClassVar[bool] = True

    def __init__(self, settings: PathReasonerSettings, fitted: Walkable, report: FitReport) -> None:
        self.settings: Settings = settings
        self.report = report
        self._fitted = fitted
        self._items = fitted.items

    @classmethod
    def preset(cls, data: TrainingData) -> PathReasonerSettings:
        """Everything that matters is chosen inside the training data; see `fit`."""
        return PathReasonerSettings()

    @classmethod
    def fit(cls, data: TrainingData, settings: PathReasonerSettings, context: FitContext) -> Self:
        """Cost: a few I x I (or I small) solves, see graph/derived.py, and seconds of L-BFGS."""
        fitted, chosen, notes = fit_reasoner(data, settings, context)
        return cls(settings.model_copy(update=chosen), fitted, FitReport(notes=notes))

    @property
    def _starts(self) -> list[_Start]:
        fitted = self._fitted
        found = [_Start(leg, False) for leg in fitted.edges]
        if fitted.facets is not None:
            found.append(_Start(fitted.facets, False))
        if fitted.preferences is not None:
            found.append(_Start(fitted.preferences, True))
        return found

    def score(self, queries: Queries) -> ScoreMatrix:
        """[Q, I]: the sum over paths; NaN where there is none. O(events x edges per item) a query."""
        result = np.empty((len(queries), len(self._items)), np.float32)
        for first, part in queries.batches(_BATCH):
            total = np.zeros((len(part), len(self._items)))
            for start in self._starts:
                total += start.leg.sums(self._begin(part, start))
            total[total <= 0] = np.nan
            result[first : first + len(part)] = total
        return result

    def _begin(self, queries: Queries, start: _Start) -> sp.csr_matrix:
        if not start.people:
            return attention(queries, len(self._items), start.leg.memory)
        known, _ = event_ranks(queries, len(self._items))
        events = np.bincount(queries.rows(), known, minlength=len(queries))
        half = self._fitted.newcomer_events
        return sp.csr_matrix(sp.diags(half / (half + events)) @ attributes_of(queries, self._fitted.people))

    def paths(self, query: Queries, item: int, limit: int) -> list[PathReason]:
        """The `limit` best paths of one query to an item, in descending score; shares of the item's score.

        Ties: by the order of the legs, then by start and entity. The head is `visitor`: the asker knows who.
        """
        if not 0 <= item < len(self._items):
            return []
        found = [(start, *self._to(query, start, item)) for start in self._starts]
        scores = np.concatenate([weights * p.gammas.prod(axis=1) for _, weights, p in found] or [np.zeros(0)])
        legs = np.repeat(np.arange(len(found)), [len(weights) for _, weights, _ in found])
        total = float(scores.sum())
        row = np.concatenate([np.arange(len(weights)) for _, weights, _ in found] or [np.zeros(0, np.int64)])
        best = np.lexsort((row, legs, -scores))[: max(0, limit)]
        reasons = []
        for place in best:
            if scores[place] <= 0:
                break
            start, weights, found_paths = found[legs[place]]
            hops = self._hops(start, found_paths, weights, int(row[place]), item)
            score = float(scores[place])
            reasons.append(PathReason(hops, score, score / total))
        return reasons

    def _to(self, query: Queries, start: _Start, item: int) -> tuple[NDArray[np.float64], LegPaths]:
        """(the gamma of the first hop [P], the rest of each path [P]), in the order (start, via)."""
        begin = self._begin(query.part(0, 1), start)
        numbers = begin.indices.astype(np.int64)
        found = start.leg.paths(numbers, item)
        order = np.lexsort((found.via, found.start))
        found = LegPaths(found.start[order], found.via[order], found.gammas[order])
        return begin.data[np.searchsorted(numbers, found.start)], found

    def _hops(
        self, start: _Start, found: LegPaths, weights: NDArray[np.float64], row: int, item: int
    ) -> tuple[Hop, ...]:
        fitted, number, via = self._fitted, int(found.start[row]), int(found.via[row])
        gammas, end = found.gammas[row], self._items[item]
        if start.people:
            relation, middle = (
                fitted.people_relations[number],
                fitted.entities[int(fitted.people_entities[number])],
            )
        else:
            relation, middle = fitted.event_kind, self._items[number]
        first = Hop(VISITOR, relation, middle, float(weights[row]))
        if isinstance(start.leg, EdgeLeg):
            return (first, Hop(middle, start.leg.relation, end, float(gammas[0])))
        there, back = start.leg.hop_names(via)
        entity = fitted.entities[int(start.leg.facet_entity[via])]
        return (
            first,
            Hop(middle, there, entity, float(gammas[0])),
            Hop(entity, back, end, float(gammas[1])),
        )

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


def _edge_columns(leg: EdgeLeg, heads: pl.Series, tails: pl.Series) -> dict[str, pl.Series]:
    rows = np.repeat(np.arange(leg.matrix.shape[0]), np.diff(leg.matrix.indptr))
    relation = pl.repeat(leg.relation, len(rows), dtype=pl.String, eager=True)
    return {"head": heads.gather(rows), "relation": relation, "tail": tails.gather(leg.matrix.indices)}


MODEL = PathReasoner
