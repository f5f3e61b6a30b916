"""The settings of the path reasoner."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from slipstream.config import OneOf, Range, Settings, Space


class PathReasonerSettings(Settings):
    """None is chosen while fitting; the fitted model's settings say what was chosen."""

    space: ClassVar[Space] = {
        "similar_ridge": Range(30.0, 3_000.0, log=True),
        "similar_memory": Range(1.0, 100.0, log=True, needs_order=True),
        "next_memory": Range(0.5, 20.0, log=True, needs_order=True),
        "next_power": Range(0.3, 1.0, needs_order=True),
        "graph_memory": Range(1.0, 100.0, log=True, needs_order=True),
        "degree_exponent": Range(0.0, 1.5),
        "cold_degree_exponent": Range(0.0, 1.5),
        "edges_per_item": OneOf((75, 150, 300)),
    }

    similar: bool = True
    next: bool = True
    """Needs an order."""
    graph: bool = True
    people: bool = True
    ties: bool = True
    """Walk from a person over others they are tied to (friends, trust)."""
    similar_ridge: float | None = Field(None, gt=0)
    similar_memory: float | None = Field(None, ge=0)
    """Events of the history after which one counts 1/e; 0: all alike."""
    next_past: float | None = Field(None, gt=0)
    next_future: float | None = Field(None, gt=0)
    next_power: float | None = Field(None, gt=0, le=1)
    """Strengths of `next` edges are raised to it: below 1, many weak signs count more beside a strong one."""
    next_memory: float | None = Field(None, gt=0)
    next_ridge: float = Field(100.0, gt=0)
    graph_memory: float | None = Field(None, ge=0)
    degree_exponent: float | None = Field(None, ge=0, le=2)
    """How much less an entity of many items tells."""
    cold_degree_exponent: float | None = Field(None, ge=0, le=2)
    """The same, of what facts say about items with few events or none."""
    similar_factor: float | None = Field(None, ge=0)
    next_factor: float | None = Field(None, ge=0)
    facts_factor: float | None = Field(None, ge=0)
    ties_factor: float | None = Field(None, ge=0)
    """What the learned weights of a whole group are multiplied with."""
    edges_per_item: int = Field(150, ge=1, le=2_000)
    """Derived edges that leave an item."""
    horizon: float | None = Field(None, ge=0, le=0.5)
    """Share of a history that the probe hides; 0: the last event. None: as much as validation hides."""
    probe_users: int = Field(2_000, ge=1)
    cold_level: float = Field(0.3, ge=0)
    """What facts alone may score, beside a typical score in the tenth place."""
    cold_events: float = Field(2.0, gt=0)
    """Events after which an item leans on facts half as much as one without any."""
    least_share: float = Field(0.003, ge=0, lt=1)
    """A relation that carries less of the targets' scores is left out."""
