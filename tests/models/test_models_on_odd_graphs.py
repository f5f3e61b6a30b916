"""A graph with everything odd at once: models learn from it, and what they say of it is true."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from slipstream.dataset.queries import queries_of, query_of
from slipstream.dataset.snapshot import Snapshot, snapshot_of
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.graph.construction import build
from slipstream.graph.knowledge_graph import KnowledgeGraph
from slipstream.graph.linked_graph import LinkedGraph, join
from slipstream.graph.triple_files import read_triples
from slipstream.models.kg.path_reasoner import PathReasoner
from slipstream.models.recommender import FitContext, TrainingData

FILMS, PEOPLE = 12, 40


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    """Classes in a circle, a hub, blank nodes, one-edge relations, broken lines, shared and missing links."""
    lines = ["<class0> <subclass_of> <class1> .", "<class1> <subclass_of> <class2> .",
             "<class2> <subclass_of> <class0> .", "<f0> <once> <a_thing> .", "this is no triple",
             "<unknown_film> <in> <the_world> .", "_:b0 <made> <f0> .", "_:b0 <made> <f1> ."]  # fmt: skip
    for film in range(FILMS):
        lines += [f"<f{film}> <in> <the_world> .", f"<f{film}> <is_a> <class{film % 3}> ."]
    lines += [f"<e{n}> <in> <the_world> ." for n in range(1_200)]
    path = tmp_path_factory.mktemp("odd") / "odd.nt"
    path.write_text("\n".join(lines) + "\n")
    done = build(read_triples(path))
    assert done.report.rejected == {"odd.nt": {"malformed N-Triples line": 1}}
    assert done.report.cycles == {"subclass_of": 3}
    assert done.report.hubs == {"the_world": 1_200 + FILMS + 1}
    return TrainingData(events(), graph=linked(done.graph))


def events() -> Snapshot:
    """Everybody watches the films of one class; film "new" and film "lost" have no event."""
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user:02d}", f"{3 * int(place) + user % 3}", step, "watch")
        for user in range(PEOPLE)
        for step, place in enumerate(rng.permutation(FILMS // 3))
    ]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "time_us", "kind"], orient="row")
    return snapshot_of(frame, items=Vocabulary.of([*map(str, range(FILMS)), "new", "lost"]))


def linked(graph: KnowledgeGraph) -> LinkedGraph:
    """Item `new` is the same entity as item 1; `lost` has none; two links name what does not exist."""
    rows = [(str(n), f"f{n}") for n in range(FILMS)]
    rows += [("new", "f1"), ("nowhere", "f2"), ("lost", "no such entity")]
    links = pl.DataFrame(rows, schema=["item_id", "entity_id"], orient="row")
    return join(graph, links, events().items)


def test_paths_over_an_odd_graph_are_edges_of_it_and_add_up(odd: TrainingData) -> None:
    model = PathReasoner.fit(odd, PathReasoner.preset(odd), FitContext(seed=0))
    items = odd.train.items
    assert odd.graph is not None
    edges = set(odd.graph.export().iter_rows()) | set(model.exported_edges().iter_rows())
    everyone = queries_of(odd.train, np.arange(PEOPLE))
    scores = model.score(everyone)
    assert np.isnan(scores[:, items.number("lost")]).all()  # nothing is known of it, nothing is said
    for user in range(0, PEOPLE, 7):
        for item in range(FILMS + 1):
            paths = model.paths(everyone.part(user, user + 1), item, 10_000)
            hops = [hop for path in paths for hop in path.hops[1:]]
            assert all((hop.head, hop.relation, hop.tail) in edges for hop in hops)
            total = sum(path.score for path in paths)
            assert total == pytest.approx(float(np.nan_to_num(scores[user, item])), rel=1e-5)


def test_an_item_of_a_shared_entity_is_reached_like_its_twin(odd: TrainingData) -> None:
    settings = PathReasoner.preset(odd).model_copy(update={"similar": False, "next": False})
    model = PathReasoner.fit(odd, settings, FitContext(seed=0))
    items = odd.train.items
    same, other = model.score(query_of([items.number("4")]))[0, [items.number("new"), items.number("2")]]
    assert same > np.nan_to_num(other)  # it is of the class of film 4, as film 1 is


def test_vectors_are_learned_from_an_odd_graph(odd: TrainingData) -> None:
    pytest.importorskip("torch")
    from slipstream.models.kg.kg_embedding import KgEmbedding

    settings = KgEmbedding.preset(odd).model_copy(update={"epochs": 2, "dim": 8})
    model = KgEmbedding.fit(odd, settings, FitContext(seed=0))
    scores = model.score(queries_of(odd.train, np.arange(PEOPLE)))
    assert np.isnan(scores[:, odd.train.items.number("lost")]).all()
    assert np.isfinite(scores[:, : odd.train.items.number("lost")]).all()
