"""A typed multigraph as memory-mapped CSR arrays, and its join with a snapshot's items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.dataset.vocabulary import Vocabulary


@dataclass(frozen=True)
class KnowledgeGraph:
    """E entities, R relations, M edges sorted by (head, relation, tail); parallel edges are distinct."""

    entities: Vocabulary  # names, unique
    labels: Vocabulary | None  # what people read, one per entity (not unique); None: the names
    relations: Vocabulary
    offsets: NDArray[np.int64]  # [E + 1]
    relation: NDArray[np.uint16]  # [M]
    tail: NDArray[np.int32]  # [M]


@dataclass(frozen=True)
class LinkedGraph:
    """A graph and, for each item and user of a snapshot, its entity (-1: none)."""

    graph: KnowledgeGraph
    item_entity: NDArray[np.int32]  # [I]
    item_confidence: NDArray[np.float32]  # [I]
    user_entity: NDArray[np.int32] | None = None  # [U]
    report: Any = None
