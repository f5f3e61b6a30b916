"""What the graph (or, without one, the item features) says, as legs of paths with unlearned gammas."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from slipstream.dataset.snapshot import Snapshot
from slipstream.features.items import ItemFeatures
from slipstream.graph.knowledge_graph import inverse_name
from slipstream.graph.linked_graph import PERSON, LinkedGraph
from slipstream.models.path_reasoning.legs import EdgeLeg, FacetLeg
from slipstream.models.path_reasoning.ties import Tie, ties_of

_FEWEST_PEOPLE = 20  # of an attribute before what they prefer means something
_MOST_PREFERRED = 100  # items kept per attribute


@dataclass(frozen=True)
class Facts:
    """facets: item - entity - item, back = 1 per edge; straight: relations from item to item, gamma 1.

    people: [U, A] 0/1, the attributes of users, with the relation of each; entities: outside names of all
    entities that facets and attributes name. ties: relations between people.
    """

    facets: FacetLeg | None
    straight: tuple[EdgeLeg, ...]
    people: sp.csr_matrix | None
    people_relations: tuple[str, ...]  # [A]
    people_entities: NDArray[np.int32]  # [A]
    entities: tuple[str, ...]
    ties: tuple[Tie, ...] = ()


NO_FACTS = Facts(None, (), None, (), np.zeros(0, np.int32), ())


def facts_of(graph: LinkedGraph | None, features: ItemFeatures | None, items: int) -> Facts:
    """The facts of the graph; where it has none about items those of the catalogue columns; else none."""
    told = NO_FACTS if graph is None or not len(graph.edges.head) else _graph_facts(graph)
    if told.facets is not None or told.straight or features is None or not features.matrix.nnz:
        return told
    columns = _feature_facts(features, items)
    people_entities = (told.people_entities + len(columns.entities)).astype(np.int32)
    entities = (*columns.entities, *told.entities)
    return replace(told, facets=columns.facets, people_entities=people_entities, entities=entities)


def _graph_facts(graph: LinkedGraph) -> Facts:
    edges, items = graph.edges, graph.item_count
    first_entity = items + graph.user_count
    symmetric = np.asarray(graph.graph.symmetric)
    relations = graph.graph.relations.to_list()
    head_item, tail_item = edges.head < items, edges.tail < items
    head_entity, tail_entity = edges.head >= first_entity, edges.tail >= first_entity
    out, into = head_item & tail_entity, head_entity & tail_item
    facets = _facets(
        item=np.concatenate([edges.head[out], edges.tail[into]]),
        entity=np.concatenate([edges.tail[out], edges.head[into]]) - first_entity,
        relation=np.concatenate([edges.relation[out], edges.relation[into]]).astype(np.int32),
        inverse=np.concatenate([np.zeros(out.sum(), bool), ~symmetric[edges.relation[into]]]),
        relations=relations,
        items=items,
    )
    between = head_item & tail_item
    straight: list[EdgeLeg] = []
    for relation in np.unique(edges.relation[between]):
        rows = between & (edges.relation == relation)
        cells = (np.ones(rows.sum()), (edges.head[rows], edges.tail[rows]))
        matrix = sp.csr_matrix(cells, shape=(items, items))
        straight.append(EdgeLeg(relations[relation], matrix, 0.0))
        if not symmetric[relation]:
            straight.append(EdgeLeg(inverse_name(relations[relation]), sp.csr_matrix(matrix.T), 0.0))
    names = graph.node_names()[first_entity:].to_list()
    nobody = np.array([not name.startswith(PERSON) for name in names], bool)  # no person tells of another
    user = (edges.head >= items) & (edges.head < first_entity) & tail_entity
    user[user] = nobody[edges.tail[user] - first_entity]
    people, people_relations, people_entities = _people(
        edges.head[user] - items, edges.relation[user], edges.tail[user] - first_entity, graph.user_count
    )
    return Facts(
        facets=facets,
        straight=tuple(straight),
        people=people,
        people_relations=tuple(relations[r] for r in people_relations),
        people_entities=people_entities,
        entities=tuple(names),
        ties=ties_of(graph),
    )


def _facets(
    item: NDArray[np.integer],
    entity: NDArray[np.integer],
    relation: NDArray[np.int32],
    inverse: NDArray[np.bool_],
    relations: list[str],
    items: int,
) -> FacetLeg | None:
    """Facets that at least two items share; the others lead nowhere."""
    if not len(item):
        return None
    key = (relation.astype(np.int64) * 2 + inverse) * (int(entity.max()) + 1) + entity
    _, first, facet, count = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
    number = np.cumsum(count > 1) - 1
    shared = count[facet] > 1
    cells = (np.ones(shared.sum()), (item[shared], number[facet[shared]]))
    matrix = sp.csr_matrix(cells, shape=(items, int((count > 1).sum())))
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    kept = first[count > 1]
    if not len(kept):
        return None
    return FacetLeg(
        out=matrix,
        back=sp.csr_matrix(matrix.T),
        relations=relations,
        facet_relation=relation[kept],
        facet_inverse=inverse[kept],
        facet_entity=entity[kept].astype(np.int32),
        memory=0.0,
    )


def _people(
    user: NDArray[np.integer], relation: NDArray[np.integer], entity: NDArray[np.integer], users: int
) -> tuple[sp.csr_matrix | None, NDArray[np.int64], NDArray[np.int32]]:
    """([U, A], relation [A], entity [A]) of attributes that enough people have."""
    if not len(user):
        return None, np.zeros(0, np.int64), np.zeros(0, np.int32)
    key = relation.astype(np.int64) * (int(entity.max()) + 1) + entity
    _, first, attribute, count = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
    kept = np.flatnonzero(count >= _FEWEST_PEOPLE)
    number = np.full(len(count), -1)
    number[kept] = np.arange(len(kept))
    used = number[attribute] >= 0
    if not len(kept):
        return None, np.zeros(0, np.int64), np.zeros(0, np.int32)
    cells = (np.ones(used.sum()), (user[used], number[attribute[used]]))
    matrix = sp.csr_matrix(cells, shape=(users, len(kept)))
    return matrix, relation[first[kept]].astype(np.int64), entity[first[kept]].astype(np.int32)


def _feature_facts(features: ItemFeatures, items: int) -> Facts:
    """Catalogue columns as relations; words of texts are no facts."""
    splits = [name.partition("=") for name in features.names]
    column = [before if equals and "~" not in before else "" for before, equals, _ in splits]
    relations = sorted(set(column) - {""})
    number = {name: i for i, name in enumerate(relations)}
    cells = features.matrix.tocoo()
    kind = np.array([number.get(c, -1) for c in column], np.int32)
    fact = kind[cells.col] >= 0
    facets = _facets(
        item=cells.row[fact],
        entity=cells.col[fact],
        relation=kind[cells.col[fact]],
        inverse=np.zeros(int(fact.sum()), bool),
        relations=relations,
        items=items,
    )
    names = tuple(f"{before}:{after}" if equals else before for before, equals, after in splits)
    return Facts(facets, (), None, (), np.zeros(0, np.int32), names)


def shared_facets(facets: FacetLeg, degree_exponent: float) -> FacetLeg:
    """Gammas before learning: out d_r(i)^-1/2, back d(f)^-exponent d_r(i)^-1/2.

    d_r(i): facets of the item under the relation (and direction); d(f): items that have the facet. An item
    with forty actors gives each a small part; an entity that half the items share says little.
    """
    group = facets.facet_relation * 2 + facets.facet_inverse
    items = np.repeat(np.arange(facets.out.shape[0]), np.diff(facets.out.indptr))
    groups = group[facets.out.indices]
    key = items * (int(group.max()) + 1) + groups
    counts = np.bincount(key)[key]
    out = facets.out.copy()
    out.data = 1.0 / np.sqrt(counts)
    back = sp.csr_matrix(out.T)
    degree = np.diff(back.indptr).astype(np.float64)
    back.data = back.data * np.repeat(degree**-degree_exponent, np.diff(back.indptr))
    return FacetLeg(
        out,
        back,
        facets.relations,
        facets.facet_relation,
        facets.facet_inverse,
        facets.facet_entity,
        facets.memory,
    )


def preferences(train: Snapshot, people: sp.csr_matrix) -> sp.csr_matrix:
    """[A, I]: the share of the events of an attribute's people that went to each item, the largest kept."""
    counts = sp.csr_matrix(people.T @ train.matrix()[: people.shape[0]]).astype(np.float64)
    total = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1.0)
    shares = sp.csr_matrix(sp.diags(1.0 / total) @ counts)
    return _largest(shares)


def _largest(matrix: sp.csr_matrix) -> sp.csr_matrix:
    matrix.sort_indices()
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((matrix.indices, -matrix.data, rows))
    rank = np.arange(len(order)) - np.repeat(matrix.indptr[:-1], np.diff(matrix.indptr))
    picked = np.sort(order[rank < _MOST_PREFERRED])
    return sp.csr_matrix((matrix.data[picked], (rows[picked], matrix.indices[picked])), shape=matrix.shape)
