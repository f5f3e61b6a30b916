"""The parts of a score that get a weight of their own, and what each would score alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from slipstream.dataset.queries import Queries
from slipstream.models.path_reasoning.attention import attention, rows_of_askers
from slipstream.models.path_reasoning.facts import Facts
from slipstream.models.path_reasoning.legs import EdgeLeg, FacetLeg

_MOST_GROUPS = 40  # relations with a weight of their own; the rarer ones share one
_CHUNK = 256


@dataclass(frozen=True)
class Feature:
    """One weight. kind: derived | straight | facets | people | ties; numbers: relations or legs it covers."""

    kind: str
    name: str
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Sources:
    """Where features come from: derived legs by relation, facts, what attributes prefer [A, I], and what
    the people that others are tied to have touched [V, I]."""

    items: int
    derived: Mapping[str, EdgeLeg]
    facts: Facts
    facets: FacetLeg | None  # with degree terms
    memory: float  # of paths over facts
    prefers: sp.csr_matrix | None
    touched: sp.csr_matrix | None

    def item_features(self) -> list[Feature]:
        """What leads on from the items of a history, and from the people somebody is tied to."""
        derived = [Feature("derived", name) for name in self.derived]
        return [*derived, *fact_features(self.facts), *tie_features(self.facts)]

    def people_features(self) -> list[Feature]:
        """What leads on from a person of whom no event is known: attributes, and people they are tied to."""
        names = [] if self.prefers is None else dict.fromkeys(self.facts.people_relations)
        return [*(Feature("people", name) for name in names), *tie_features(self.facts)]


def tie_features(facts: Facts) -> list[Feature]:
    """One feature per relation between people and direction."""
    return [Feature("ties", tie.relation, (n,)) for n, tie in enumerate(facts.ties)]


def fact_features(facts: Facts) -> list[Feature]:
    """One feature per relation of facts, the rarest relations together."""
    features = [Feature("straight", leg.relation, (n,)) for n, leg in enumerate(facts.straight)]
    if facts.facets is None:
        return features
    names = facts.facets.relations
    uses = np.diff(facts.facets.back.indptr)
    sizes = np.bincount(facts.facets.facet_relation, uses, minlength=len(names))
    order = [int(r) for r in np.argsort(-sizes, kind="stable") if sizes[r]]
    features += [Feature("facets", names[r], (r,)) for r in order[:_MOST_GROUPS]]
    if order[_MOST_GROUPS:]:
        features.append(Feature("facets", "the rarer relations", tuple(order[_MOST_GROUPS:])))
    return features


def tensor(
    sources: Sources,
    features: list[Feature],
    queries: Queries,
    people: sp.csr_matrix,
    columns: NDArray[np.int64],
) -> NDArray[np.float32]:
    """[F, Q, C]: what each feature alone scores for the items `columns`.

    people: [Q, A], attributes of the askers. Walks back to the item they came from are in it; the loss leaves
    out items that were touched.
    """
    result = np.zeros((len(features), len(queries), len(columns)), np.float32)
    parts = [_part(sources, feature, columns) for feature in features]
    for first, some in queries.batches(_CHUNK):
        rows = slice(first, first + len(some))
        facts = attention(some, sources.items, sources.memory)
        for number, feature in enumerate(features):
            if feature.kind == "derived":
                start = attention(some, sources.items, sources.derived[feature.name].memory)
            elif feature.kind == "ties":
                start = rows_of_askers(some, sources.facts.ties[feature.numbers[0]].matrix)
            else:
                start = people[rows] if feature.kind == "people" else facts
            result[number, rows] = _walk(start, parts[number])
    return result


def _part(sources: Sources, feature: Feature, columns: NDArray[np.int64]) -> tuple[sp.csr_matrix, ...]:
    """The matrices to walk over, the last one transposed where there are two."""
    if feature.kind == "derived":
        return (sp.csr_matrix(sources.derived[feature.name].matrix[:, columns]),)
    if feature.kind == "straight":
        return (sp.csr_matrix(sources.facts.straight[feature.numbers[0]].matrix[:, columns]),)
    if feature.kind == "people" and sources.prefers is not None:
        mine = np.array([name == feature.name for name in sources.facts.people_relations], np.float64)
        return (sp.csr_matrix(sp.diags(mine) @ sources.prefers[:, columns]),)
    if feature.kind == "ties" and sources.touched is not None:
        return (sp.csr_matrix(sources.touched[:, columns]),)
    facets = sources.facets
    if facets is None:
        raise ValueError(f"feature {feature.name!r} has no facets")
    used = np.flatnonzero(np.isin(facets.facet_relation, feature.numbers))
    return sp.csr_matrix(facets.out[:, used]), sp.csr_matrix(facets.back[used][:, columns].T)


def _walk(start: sp.csr_matrix, matrices: tuple[sp.csr_matrix, ...]) -> NDArray[np.float64]:
    if len(matrices) == 1:
        return np.asarray((start @ matrices[0]).toarray())
    return np.asarray(matrices[1] @ (start @ matrices[0]).toarray().T).T
