"""Fitting the path reasoner: which memories, which relations, which weights; and what comes out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from slipstream.artifacts import Artifact, ArtifactWriter
from slipstream.dataset.queries import Holdout
from slipstream.dataset.snapshot import Snapshot
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.graph.derived import NextSettings, SimilarSettings, next_edges, similar_edges
from slipstream.models.kg._attention import attention
from slipstream.models.kg._facts import Facts, facts_of, one_relation, preferences, shared_facets
from slipstream.models.kg._learning import (
    Candidates,
    candidates_for,
    fit_weights,
    hit_quality,
    horizon_of,
    probe_of,
    query_budget,
    with_targets,
)
from slipstream.models.kg._legs import EdgeLeg, FacetLeg, read_matrix, rounded, write_matrix
from slipstream.models.recommender import FitContext, TrainingData
from slipstream.randomness import generator

_SIMILAR_MEMORIES = (1.5, 5.0, 15.0, 0.0)
_GRAPH_MEMORIES = (5.0, 20.0, 0.0)
_DEGREE_EXPONENTS = (0.5, 0.75, 1.0)
_NEXT_STEPS = ((1.5, 1.0), (4.0, 2.0), (8.0, 4.0), (8.0, 10.0))
_CHOICE_QUERIES = 1_000
_MOST_GROUPS = 40  # relations with a weight of their own; the others share one
_COLD_SHARE = 0.2
_COLD_CANDIDATES = 1_500


class ReasonerSettings(Protocol):
    """What `fit_reasoner` reads; PathReasonerSettings has it."""

    similar: bool
    next: bool
    graph: bool
    people: bool
    similar_ridge: float | None
    similar_memory: float | None
    next_past: float | None
    next_future: float | None
    next_ridge: float
    graph_memory: float | None
    degree_exponent: float | None
    edges_per_item: int
    horizon: float | None
    probe_users: int
    cold_level: float
    cold_events: float
    least_share: float


@dataclass(frozen=True)
class Fitted:
    """A fitted reasoner's walkable graph; gammas are exact in float32."""

    items: Vocabulary
    entities: Vocabulary
    edges: tuple[EdgeLeg, ...]
    facets: FacetLeg | None
    preferences: EdgeLeg | None
    people: sp.csr_matrix  # [U, A]
    people_relations: tuple[str, ...]  # [A]
    people_entities: NDArray[np.int32]  # [A]
    event_kind: str

    def write(self, writer: ArtifactWriter) -> None:
        self.items.write(writer, "items")
        self.entities.write(writer, "entities")
        for number, leg in enumerate(self.edges):
            leg.write(writer, f"edge{number}")
        if self.facets is not None:
            self.facets.write(writer, "facets")
        if self.preferences is not None:
            self.preferences.write(writer, "preferences")
            write_matrix(writer, "people", self.people)
            writer.array("people_entities", self.people_entities)
        writer.json(
            "legs",
            {
                "edges": [{"relation": leg.relation, "memory": leg.memory} for leg in self.edges],
                "facets": None
                if self.facets is None
                else {"relations": list(self.facets.relations), "memory": self.facets.memory},
                "preferences": None if self.preferences is None else self.preferences.relation,
                "people_relations": list(self.people_relations),
                "event_kind": self.event_kind,
            },
        )

    @classmethod
    def read(cls, artifact: Artifact) -> Fitted:
        about = artifact.json("legs")
        facets, prefers = about["facets"], about["preferences"]
        return cls(
            items=Vocabulary.read(artifact, "items"),
            entities=Vocabulary.read(artifact, "entities"),
            edges=tuple(
                EdgeLeg.read(artifact, f"edge{n}", e["relation"], e["memory"]) for n, e in enumerate(about["edges"])
            ),
            facets=None
            if facets is None
            else FacetLeg.read(artifact, "facets", tuple(facets["relations"]), facets["memory"]),
            preferences=None if prefers is None else EdgeLeg.read(artifact, "preferences", prefers, 0.0),
            people=sp.csr_matrix((0, 0)) if prefers is None else read_matrix(artifact, "people"),
            people_relations=tuple(about["people_relations"]),
            people_entities=np.zeros(0, np.int32) if prefers is None else artifact.array("people_entities"),
            event_kind=about["event_kind"],
        )


@dataclass(frozen=True)
class _Choices:
    """The settings with nothing left open."""

    similar_ridge: float
    similar_memory: float
    next_past: float
    next_future: float
    graph_memory: float
    degree_exponent: float
    horizon: float


def fit_reasoner(
    data: TrainingData, settings: ReasonerSettings, context: FitContext
) -> tuple[Fitted, dict[str, float], dict[str, Any]]:
    """(the model, what was chosen by name of the setting, what to tell)."""
    return _Fit(data, settings, context).run()


class _Fit:
    def __init__(self, data: TrainingData, settings: ReasonerSettings, context: FitContext) -> None:
        self.train, self.settings, self.context = data.train, settings, context
        self.items = data.train.item_count
        self.facts = facts_of(data.graph, data.item_features, self.items) if settings.graph else facts_of(None, None, 0)
        self.horizon = horizon_of(data.validation) if settings.horizon is None else settings.horizon
        self.probe = probe_of(data.train, self.horizon, settings.probe_users, context.seed)
        self.candidates = candidates_for(self.probe.holdout, self.train.item_counts, context.seed)
        self.notes: dict[str, Any] = {}

    def run(self) -> tuple[Fitted, dict[str, float], dict[str, Any]]:
        some = with_targets(self.probe.holdout, _CHOICE_QUERIES)
        similar, similar_memory = self._choose_similar(some)
        follow, next_settings = self._choose_next(some)
        facets, cold = self._choose_graph(some)
        weights = self._weights(similar, follow, facets)
        fitted = self._final(weights, cold, similar_memory, next_settings, facets)
        chosen = {
            "similar_ridge": self._similar_settings().ridge,
            "similar_memory": similar_memory,
            "next_past": next_settings.past,
            "next_future": next_settings.future,
            "horizon": self.horizon,
            **self._graph_chosen,
        }
        return fitted, chosen, self.notes
