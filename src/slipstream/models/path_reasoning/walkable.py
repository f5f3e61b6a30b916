"""What a fitted path reasoner walks over, and how it is kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from slipstream.artifacts import Artifact, ArtifactWriter
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.models.path_reasoning.legs import EdgeLeg, FacetLeg, read_matrix, write_matrix
from slipstream.models.path_reasoning.ties import Tie


@dataclass(frozen=True)
class Walkable:
    """Everything a fitted reasoner walks over; its gammas are exact in float32, so saving changes nothing."""

    items: Vocabulary
    entities: Vocabulary
    edges: tuple[EdgeLeg, ...]
    facets: FacetLeg | None
    preferences: EdgeLeg | None
    people: sp.csr_matrix  # [U, A]
    people_relations: tuple[str, ...]  # [A]
    people_entities: NDArray[np.int32]  # [A]
    event_kind: str
    newcomer_events: float  # events after which a person's attributes count half
    ties: tuple[Tie, ...] = ()  # [U, V] each
    touched: EdgeLeg | None = None  # [V, I]

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
        if self.touched is not None:
            self.touched.write(writer, "touched")
        ties = [tie.write(writer, f"tie{number}") for number, tie in enumerate(self.ties)]
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
                "newcomer_events": self.newcomer_events,
                "ties": ties,
                "touched": None if self.touched is None else self.touched.relation,
            },
        )

    @classmethod
    def read(cls, artifact: Artifact) -> Walkable:
        about = artifact.json("legs")
        facets, prefers, touched = about["facets"], about["preferences"], about.get("touched")
        return cls(
            items=Vocabulary.read(artifact, "items"),
            entities=Vocabulary.read(artifact, "entities"),
            edges=tuple(
                EdgeLeg.read(artifact, f"edge{n}", e["relation"], e["memory"])
                for n, e in enumerate(about["edges"])
            ),
            facets=None
            if facets is None
            else FacetLeg.read(artifact, "facets", tuple(facets["relations"]), facets["memory"]),
            preferences=None if prefers is None else EdgeLeg.read(artifact, "preferences", prefers, 0.0),
            people=sp.csr_matrix((0, 0)) if prefers is None else read_matrix(artifact, "people"),
            people_relations=tuple(about["people_relations"]),
            people_entities=np.zeros(0, np.int32) if prefers is None else artifact.array("people_entities"),
            event_kind=about["event_kind"],
            newcomer_events=about["newcomer_events"],
            ties=tuple(Tie.read(artifact, f"tie{n}", tie) for n, tie in enumerate(about.get("ties", ()))),
            touched=None if touched is None else EdgeLeg.read(artifact, "touched", touched, 0.0),
        )
