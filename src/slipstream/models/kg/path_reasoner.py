"""Reasoning over paths: an item's score is the exact sum of the paths that lead a person to it.

    person -click-> item of the history -similar_to-> item
    person -click-> item of the history -next-> item
    person -click-> item of the history -director-> someone -is_director_of-> item
    person -click-> item of the history -sequel-> item
    person -occupation-> student -prefers-> item
    person -friend-> someone -click-> item

s(p) is the product of the gammas of its hops. The first gamma is attention: an event counts
exp(-rank / memory), the events of a history add up to 1, and each metapath has a memory of its own. The
others are strengths of derived relations (graph/derived.py) or degree terms of facts, times a learned weight
of the relation (learning.py). An item with few events leans on facts: their weights are learned a second
time on items whose events are all hidden, and count k / (k + events of the item). In the same way a person
with few events leans on attributes, and on the people they are tied to. Those are walked over with all they
did, and never named.

Works without a graph (then on item features, or on behaviour alone), without an order, and for people it has
never met. NaN where no path leads. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.models.path_reasoning.attention import (
    Starts,
    attention,
    event_ranks,
    rows_of_askers,
    starts_of,
)
from slipstream.models.path_reasoning.compiled import CompiledLegs, compiled_legs
from slipstream.models.path_reasoning.fitting import fit_reasoner
from slipstream.models.path_reasoning.frontier import Frontier
from slipstream.models.path_reasoning.groups import Group, best_groups
from slipstream.models.path_reasoning.legs import EdgeLeg, FacetLeg
from slipstream.models.path_reasoning.search import Row, best_paths
from slipstream.models.path_reasoning.settings import PathReasonerSettings
from slipstream.models.path_reasoning.ties import Tie
from slipstream.models.path_reasoning.walkable import Walkable
from slipstream.models.recommender import (
    SOMEONE,
    FitContext,
    FitReport,
    Hop,
    PathGroup,
    PathReason,
    ScoreMatrix,
    TrainingData,
)

VISITOR = "visitor"
_BATCH = 512


@dataclass(frozen=True)
class _Start:
    """A leg, and whether it starts at attributes of a person or at those whom a tie leads to."""

    leg: EdgeLeg | FacetLeg
    people: bool = False
    tie: Tie | None = None


class _Names(dict[int, str]):
    """Names of items, each looked up once: a slate says the same ones again and again."""

    def __init__(self, items: Vocabulary) -> None:
        super().__init__()
        self.vocabulary = items

    def __missing__(self, number: int) -> str:
        name = self[number] = self.vocabulary[number]
        return name


class PathReasoner:
    """See the top of the file."""

    settings_type: ClassVar[type[Settings]] = PathReasonerSettings
    refits: ClassVar[bool] = True

    def __init__(self, settings: PathReasonerSettings, fitted: Walkable, report: FitReport) -> None:
        self.settings: Settings = settings
        self.report = report
        self._fitted = fitted
        self._items = fitted.items
        self._last: tuple[tuple[int, bytes], Frontier] | None = None

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
        found = [_Start(leg) for leg in fitted.edges]
        if fitted.facets is not None:
            found.append(_Start(fitted.facets))
        if fitted.preferences is not None:
            found.append(_Start(fitted.preferences, people=True))
        if fitted.touched is not None:
            found += [_Start(fitted.touched, tie=tie) for tie in fitted.ties]
        return found

    @cached_property
    def _compiled(self) -> CompiledLegs | None:
        return compiled_legs([start.leg for start in self._starts], len(self._items))

    def score(self, queries: Queries) -> ScoreMatrix:
        """[Q, I]: the sum over paths; NaN where there is none. O(events x edges per item) a query.

        One query is walked (frontier.py); many go side by side: in the kernel, or as sparse products.
        """
        result = np.empty((len(queries), len(self._items)), np.float32)
        for first, part in queries.batches(_BATCH):
            rows = slice(first, first + len(part))
            if len(part) > 1 and self._compiled is not None:
                result[rows] = self._compiled.scores([begin for _, begin in self._begin(part)])
                continue
            total = self._frontier(part).sums[None, :] if len(part) == 1 else self._sums(part)
            result[rows] = np.where(total > 0, total, np.nan)
        return result

    def _sums(self, queries: Queries) -> NDArray[np.float64]:
        total = np.zeros((len(queries), len(self._items)))
        for start, begin in self._begin(queries):
            total += start.leg.sums(begin)
        return total

    def _begin(self, queries: Queries) -> Iterator[tuple[_Start, sp.csr_matrix]]:
        """Each leg with the weights of its first hops, [Q, items or attributes]."""
        by_memory: dict[float, sp.csr_matrix] = {}
        for start in self._starts:
            memory = start.leg.memory
            if (own := self._own(start, queries)) is not None:
                yield start, own
                continue
            if memory not in by_memory:
                by_memory[memory] = attention(queries, len(self._items), memory)
            yield start, by_memory[memory]

    def _own(self, start: _Start, queries: Queries) -> sp.csr_matrix | None:
        """[Q, A or V]: first hops that are no events; attributes count k / (k + events). Else None."""
        if not start.people and start.tie is None:
            return None
        known, _ = event_ranks(queries, len(self._items))
        events = np.bincount(queries.rows(), known, minlength=len(queries))
        half = self._fitted.newcomer_events
        if start.tie is not None:
            return start.tie.starts(queries, events, half)
        return sp.csr_matrix(sp.diags(half / (half + events)) @ rows_of_askers(queries, self._fitted.people))

    def paths(self, query: Queries, item: int, limit: int) -> list[PathReason]:
        """`paths_to` of one item."""
        return self.paths_to(query, [item], limit)[0]

    def paths_to(self, query: Queries, items: Sequence[int], limit: int) -> list[list[PathReason]]:
        """The `limit` best paths of one query to each item, in descending score; shares of the item's score.

        Ties: by the order of the legs, then by start and entity. The head is `visitor`: the asker knows who.
        One search for all items, over what `score` has laid out if it was asked the same; see search.py.
        """
        known = self._known(items)
        if limit < 1 or not len(known):
            return [[] for _ in items]
        found = best_paths(self._frontier(query.part(0, 1)), known, limit)
        ends = np.searchsorted(found.place, np.arange(len(known) + 1)).tolist()
        names, rows = _Names(self._items), found.rows()
        reasons = {
            item: [self._reason(row, whole, item, names) for row in rows[begin : min(end, begin + limit)]]
            for item, whole, begin, end in zip(
                known.tolist(), found.total.tolist(), ends, ends[1:], strict=False
            )
        }
        return [list(reasons.get(int(item), ())) for item in items]

    def path_groups(self, query: Queries, items: Sequence[int], limit: int) -> list[list[PathGroup]]:
        """See `ExplainsByPaths`; groups.py says what a group is and which are shown."""
        known = self._known(items)
        if limit < 1 or not len(known):
            return [[] for _ in items]
        found = best_groups(self._frontier(query.part(0, 1)), known, limit)
        names = _Names(self._items)
        groups = {
            item: [self._group(group, item, names) for group in groups]
            for item, groups in zip(known.tolist(), found, strict=True)
        }
        return [list(groups.get(int(item), ())) for item in items]

    def _known(self, items: Sequence[int]) -> NDArray[np.int64]:
        return np.array(sorted({int(i) for i in items if 0 <= i < len(self._items)}), np.int64)

    def _group(self, group: Group, item: int, names: _Names) -> PathGroup:
        leg = group.rows[0][0]
        best = self._reason(group.rows[0], group.whole, item, names)
        if self._starts[leg].people:
            return PathGroup(best, (), best.share)  # each attribute of a person is a reason of its own
        if self._starts[leg].tie is not None:
            return PathGroup(best, (), group.share)  # others are not named
        return PathGroup(best, tuple(names[row[1]] for row in group.rows[1:]), group.share)

    def _frontier(self, query: Queries) -> Frontier:
        """What one asker can walk; kept, since the same one is usually scored and then explained."""
        key = (int(query.user[0]), query.item.tobytes())
        kept = self._last
        if kept is None or kept[0] != key:
            kept = self._last = (key, self._laid_out(query))
        return kept[1]

    def _laid_out(self, query: Queries) -> Frontier:
        by_memory: dict[float, Starts] = {}
        events = int(np.count_nonzero((query.item >= 0) & (query.item < len(self._items))))
        legs = []
        for start in self._starts:
            memory = start.leg.memory
            if start.tie is not None:
                starts = start.tie.starts_of(int(query.user[0]), events, self._fitted.newcomer_events)
            elif (own := self._own(start, query)) is not None:
                starts = Starts(own.indices.astype(np.int64), own.data)
            elif memory in by_memory:
                starts = by_memory[memory]
            else:
                starts = by_memory[memory] = starts_of(query.item, len(self._items), memory)
            legs.append((start.leg, starts))
        return Frontier(legs, len(self._items), self._compiled)

    def _reason(self, row: Row, whole: float, item: int, names: _Names) -> PathReason:
        """Names for one path that is shown. whole: the sum over all paths to the item."""
        leg, number, facet, _, first, second, third, score = row
        fitted, start, end = self._fitted, self._starts[leg], names[item]
        if start.people:
            relation = fitted.people_relations[number]
            middle = fitted.entities[int(fitted.people_entities[number])]
        elif start.tie is not None:
            relation, middle = start.tie.relation, SOMEONE
        else:
            relation, middle = fitted.event_kind, names[number]
        begin = Hop(VISITOR, relation, middle, first)
        if isinstance(start.leg, EdgeLeg):
            hops: tuple[Hop, ...] = (begin, Hop(middle, start.leg.relation, end, second))
        else:
            there, back = start.leg.hop_names(facet)
            entity = fitted.entities[int(start.leg.facet_entity[facet])]
            hops = (begin, Hop(middle, there, entity, second), Hop(entity, back, end, third))
        return PathReason(hops, score, score / whole)

    def exported_edges(self) -> pl.DataFrame:
        """head, relation, tail of every edge a path can walk, events and a person's own edges aside."""
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
