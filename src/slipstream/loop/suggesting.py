"""Edges that the home's graph likely lacks, and how often such guesses are right on edges held back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from slipstream.artifacts import open_artifact
from slipstream.config import Home
from slipstream.errors import BadInput, MissingExtra
from slipstream.graph.knowledge_graph import KnowledgeGraph
from slipstream.graph.link_prediction import filtered_ranks
from slipstream.graph.suggestions import suggest_edges, triples_of
from slipstream.loop.knowledge import KIND
from slipstream.loop.narrator import Narrator, Silent
from slipstream.randomness import generator

_HELD_BACK = 0.05
_MOST_HELD_BACK = 2_000
_FEWEST_EDGES = 20
_ASKED_TO_STOP = 500  # edges held back that are ranked while it learns: ranking costs as much as an epoch
_MANY_EDGES = 100_000


@dataclass(frozen=True)
class Suggestions:
    """edges: as graph/suggestions.py gives them; measured: filtered ranks of the edges held back."""

    edges: pl.DataFrame
    measured: Mapping[str, float]
    held_back: int


def suggest(
    home: Home,
    *,
    relation: str | None = None,
    limit: int = 20,
    epochs: int = 20,
    seed: int = 0,
    narrator: Narrator | None = None,
) -> Suggestions:
    """Learn ComplEx vectors from the graph but for 5 % of its edges (at most 2,000), and guess.

    The edges held back tell when to stop (up to 500 of them) and how good the guesses are (so a little too
    good); they are known edges and never suggested. Cost: `epochs` passes over the edges, then see
    `suggest_edges`.
    """
    narrator = narrator or Silent()
    artifact = open_artifact(home.graph, KIND, made_by="run `slipstream prepare` first")
    graph = KnowledgeGraph.read(artifact.part("graph"))
    if graph.edge_count < _FEWEST_EDGES:
        raise BadInput(
            f"a graph of {graph.edge_count} edges has too few to learn from",
            hint="add triples or a catalogue",
        )
    try:
        from slipstream.training.triple_course import TripleCourse, run
    except ImportError as error:
        raise MissingExtra("torch", "train", "learning vectors of a graph") from error
    triples = triples_of(graph)
    draw = generator(seed, "held back edges")
    count = min(_MOST_HELD_BACK, max(1, int(_HELD_BACK * len(triples))))
    order = draw.permutation(len(triples))
    held, rest = triples[np.sort(order[:count])], triples[np.sort(order[count:])]
    batch = 1_024 if len(rest) < _MANY_EDGES else 4_096
    course = TripleCourse(dim=64, epochs=epochs, batch=batch, validate_every=2, patience=3)
    asked = held[:: max(1, count // _ASKED_TO_STOP)]
    with narrator.progress("learn vectors") as progress:
        outcome = run(
            rest,
            graph.entity_count,
            len(graph.relations),
            course,
            seed=seed,
            validate=lambda e: filtered_ranks(e, asked, triples).summary()["MRR"],
            progress=progress,
        )
    measured = filtered_ranks(outcome.embedding, held, rest).summary()
    with narrator.progress("ask") as progress:
        edges = suggest_edges(graph, outcome.embedding, relation=relation, limit=limit, progress=progress)
    return Suggestions(edges, measured, count)
