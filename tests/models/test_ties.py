"""People walk over those they are tied to: exactly, with nobody named, and not over what is hidden."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.artifacts import open_artifact, writing
from slipstream.dataset.queries import Holdout, Queries, queries_of, query_of
from slipstream.dataset.snapshot import Snapshot, snapshot_of
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.features.items import item_features
from slipstream.graph.construction import build, triple_facts, user_facts
from slipstream.graph.linked_graph import LinkedGraph, join
from slipstream.kernels import built
from slipstream.models.kg.path_reasoner import VISITOR, PathReasoner
from slipstream.models.path_reasoning.compiled import WALK
from slipstream.models.path_reasoning.facts import facts_of
from slipstream.models.path_reasoning.learning import balanced
from slipstream.models.path_reasoning.legs import EdgeLeg, rounded
from slipstream.models.path_reasoning.settings import PathReasonerSettings
from slipstream.models.path_reasoning.ties import Tie, only_known, ties_of, touched
from slipstream.models.path_reasoning.walkable import Walkable
from slipstream.models.recommender import (
    ANY_EVENT,
    SOMEONE,
    FitContext,
    FitReport,
    PathReason,
    TrainingData,
)
from slipstream.models.registry import load_model, save_model

PEOPLE, ITEMS, HALF = 4, 5, 2.0
KERNELS = ["numpy"] if built(WALK) is None else ["numpy", "auto"]
Edge = tuple[int, int]


# Exactness


def cells(rows: int, columns: int) -> st.SearchStrategy[set[Edge]]:
    return st.sets(st.tuples(st.integers(0, rows - 1), st.integers(0, columns - 1)), max_size=12)


def matrix_of(edges: set[Edge], rows: int, columns: int, seed: int) -> sp.csr_matrix:
    dense = np.zeros((rows, columns))
    for row, column in edges:
        dense[row, column] = np.random.default_rng([seed, row, column]).integers(1, 5) / 4
    return sp.csr_matrix(dense)


worlds = st.tuples(
    cells(PEOPLE, PEOPLE),
    cells(PEOPLE, PEOPLE),
    cells(PEOPLE, ITEMS),
    cells(ITEMS, ITEMS),
    st.sampled_from([0.0, 0.5, 3.0]),
    st.integers(0, 99),
)


def model_of(
    friends: set[Edge],
    trusts: set[Edge],
    acts: set[Edge],
    alike: set[Edge],
    newcomer: float,
    seed: int,
) -> PathReasoner:
    """A reasoner over `similar_to` and two relations between people, none of whom is tied to themselves."""
    ties = [
        Tie(name, matrix_of({e for e in edges if e[0] != e[1]}, PEOPLE, PEOPLE, seed), weight, newcomer)
        for name, edges, weight in (("friend", friends, 0.5), ("trusts", trusts, 2.0))
    ]
    kept, people = only_known(ties)
    acted = matrix_of(acts, PEOPLE, ITEMS, seed + 1)
    between = matrix_of({e for e in alike if e[0] != e[1]}, ITEMS, ITEMS, seed + 2)
    walkable = Walkable(
        items=Vocabulary.of([f"i{n}" for n in range(ITEMS)]),
        entities=Vocabulary.of(()),
        edges=(EdgeLeg("similar_to", between, 2.0),),
        facets=None,
        preferences=None,
        people=sp.csr_matrix((0, 0)),
        people_relations=(),
        people_entities=np.zeros(0, np.int32),
        event_kind="watch",
        newcomer_events=HALF,
        ties=kept,
        touched=EdgeLeg("watch", sp.csr_matrix(acted[people]), 0.0),
    )
    return PathReasoner(PathReasonerSettings(), walkable, FitReport())


def simple_paths(
    world: tuple[set[Edge], set[Edge], set[Edge], set[Edge], float, int], user: int, history: list[int]
) -> Iterator[tuple[str, float]]:
    """Every simple path of the two metapaths from `user` to an item, by depth first: (hops, score)."""
    friends, trusts, acts, alike, newcomer, seed = world
    edges: list[tuple[str, str, str, float]] = []
    for name, told, weight in (("friend", friends, 0.5), ("trusts", trusts, 2.0)):
        strength = matrix_of(told, PEOPLE, PEOPLE, seed).toarray()
        factor = weight + newcomer * HALF / (HALF + len(history))
        edges += [(name, f"p{a}", f"p{b}", factor * strength[a, b]) for a, b in told]
    strength = matrix_of(acts, PEOPLE, ITEMS, seed + 1).toarray()
    edges += [("did", f"p{a}", f"i{b}", strength[a, b]) for a, b in acts if a != user]
    strength = matrix_of(alike, ITEMS, ITEMS, seed + 2).toarray()
    edges += [("similar_to", f"i{a}", f"i{b}", strength[a, b]) for a, b in alike]
    total = sum(np.exp(-rank / 2.0) for rank in range(len(history)))
    own: dict[int, float] = {}
    for rank, item in enumerate(reversed(history)):
        own[item] = own.get(item, 0.0) + float(np.exp(-rank / 2.0)) / total
    edges += [("event", f"p{user}", f"i{item}", weight) for item, weight in own.items()]
    metapaths = {("friend", "did"), ("trusts", "did"), ("event", "similar_to")}

    def walk(nodes: list[str], names: list[str], score: float) -> Iterator[tuple[str, float]]:
        if tuple(names) in metapaths:
            yield " ".join([*names, nodes[-1]]), score
        for name, head, tail, weight in edges if len(names) < 2 else ():
            if head == nodes[-1] and tail not in nodes:
                yield from walk([*nodes, tail], [*names, name], score * weight)

    return walk([f"p{user}"], [], 1.0)


def beginning(path: PathReason) -> str:
    first = path.hops[0]
    assert (first.tail == SOMEONE) == (first.relation in ("friend", "trusts"))
    return "event" if first.relation == "watch" else first.relation


@pytest.mark.parametrize("choice", KERNELS)
@settings(max_examples=80, deadline=None)
@given(worlds, st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=4), min_size=PEOPLE, max_size=PEOPLE))
def test_scores_paths_and_groups_are_those_of_every_simple_path(
    choice: str,
    world: tuple[set[Edge], set[Edge], set[Edge], set[Edge], float, int],
    histories: list[list[int]],
) -> None:
    model = model_of(*world)
    if choice == "numpy":
        model.__dict__["_compiled"] = None
    offsets = np.cumsum([0, *map(len, histories)])
    items = np.array([i for history in histories for i in history], np.int32)
    everyone = Queries(np.arange(PEOPLE, dtype=np.int32), offsets, items)
    together = model.score(everyone)
    for user, history in enumerate(histories):
        every = list(simple_paths(world, user, history))
        alone = everyone.part(user, user + 1)
        np.testing.assert_allclose(model.score(alone)[0], together[user], rtol=1e-6)
        for item in range(ITEMS):
            mine = [(name, score) for name, score in every if name.endswith(f"i{item}")]
            whole = sum(score for _, score in mine)
            assert np.nan_to_num(together[user, item]) == pytest.approx(whole, rel=1e-6)
            paths = model.paths(alone, item, 1_000)
            assert [p.score for p in paths] == pytest.approx(sorted((s for _, s in mine), reverse=True))
            assert sorted(map(beginning, paths)) == sorted(name.split()[0] for name, _ in mine)
            groups = model.path_groups(alone, [item], 100)[0]
            by_kind = {g.best.hops[0].relation: g.share for g in groups}
            if mine:
                assert sum(g.share for g in groups) == pytest.approx(1.0)
            for name in ("friend", "trusts"):
                part = sum(score for told, score in mine if told.startswith(name))
                assert by_kind.get(name, 0.0) == pytest.approx(part / whole if mine else 0.0)


# Learning


def graph_of(train: Snapshot, edges: list[tuple[int, int]], relation: str = "friend") -> LinkedGraph:
    rows = [(f"user:u{a:03d}", relation, f"user:u{b:03d}", "user", "user") for a, b in edges]
    names = ["head", "relation", "tail", "head_type", "tail_type"]
    facts = triple_facts(pl.DataFrame(rows, schema=names, orient="row"))
    links = pl.DataFrame(schema={"item_id": pl.String, "entity_id": pl.String})
    return join(build([facts]).graph, links, train.items, train.users)


def both_ways(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [edge for a, b in pairs for edge in ((a, b), (b, a))]


def snapshot_of_items(
    histories: list[list[int]], items: int, kinds: tuple[str, ...] = ("watch",)
) -> Snapshot:
    rows = [
        (f"u{user:03d}", f"i{item:03d}", step, kinds[step % len(kinds)])
        for user, history in enumerate(histories)
        for step, item in enumerate(history)
    ]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "time_us", "kind"], orient="row")
    return snapshot_of(frame, items=Vocabulary.of([f"i{n:03d}" for n in range(items)]))


def circles(seed: int = 0) -> tuple[TrainingData, np.ndarray]:
    """Circles of six friends choose among their own ten films at random; somebody is new in each circle."""
    rng = np.random.default_rng(seed)
    count, size, films = 20, 6, 10
    circle = np.arange(count * size) % count
    histories = [
        (rng.permutation(films)[:5] + films * c).tolist() if user >= count else [int(films * c)]
        for user, c in enumerate(circle)
    ]
    train = snapshot_of_items(histories, count * films)
    pairs = [(a, b) for a in range(count * size) for b in range(a) if circle[a] == circle[b]]
    return TrainingData(train, graph=graph_of(train, both_ways(pairs))), circle


ALONE = PathReasonerSettings(similar=False, next=False)


@pytest.fixture(scope="module")
def friends() -> tuple[TrainingData, np.ndarray, PathReasoner]:
    data, circle = circles()
    return data, circle, PathReasoner.fit(data, ALONE, FitContext(seed=1))


def test_somebody_without_a_history_is_answered_by_what_friends_did(
    friends: tuple[TrainingData, np.ndarray, PathReasoner],
) -> None:
    data, circle, model = friends
    for user in (3, 47):
        stranger = query_of([], user=user)
        scores = model.score(stranger)[0]
        assert set(np.flatnonzero(~np.isnan(scores)) // 10) == {circle[user]}
        item = int(np.nanargmax(scores))
        paths = model.paths(stranger, item, 10)
        hops = [(hop.head, hop.relation, hop.tail) for hop in paths[0].hops]
        assert hops == [(VISITOR, "friend", SOMEONE), (SOMEONE, "watch", data.train.items[item])]
        (group,) = model.path_groups(stranger, [item], 3)[0]
        assert (group.share, group.starts) == (pytest.approx(1.0), ())
        assert len(paths) == sum(
            item in data.train.history(u) for u in np.flatnonzero(circle == circle[user])
        )
    assert np.isnan(model.score(query_of([], user=-1))).all()


def test_with_few_events_friends_count_more(friends: tuple[TrainingData, np.ndarray, PathReasoner]) -> None:
    model = friends[2]
    short, long = (model.score(query_of([100] * n, user=3)) for n in (1, 50))
    assert np.nansum(short) > np.nansum(long) > 0
    (tie,) = model._fitted.ties
    ratio = (tie.weight + tie.newcomer * 2 / 3) / (tie.weight + tie.newcomer * 2 / 52)
    np.testing.assert_allclose(short[~np.isnan(short)] / long[~np.isnan(long)], ratio, rtol=1e-5)


def test_no_id_of_a_person_is_kept_or_told(
    friends: tuple[TrainingData, np.ndarray, PathReasoner], tmp_path: Path
) -> None:
    data, _, model = friends
    with writing(tmp_path / "model", "model") as writer:
        save_model("path_reasoner", model, writer)
    _, loaded = load_model(open_artifact(tmp_path / "model", "model"))
    assert isinstance(loaded, PathReasoner)
    everyone = queries_of(data.train, np.arange(data.train.user_count))
    np.testing.assert_array_equal(loaded.score(everyone), model.score(everyone))
    item = int(np.nanargmax(model.score(everyone)[0]))
    assert loaded.paths(everyone.part(0, 1), item, 9) == model.paths(everyone.part(0, 1), item, 9) != []
    assert loaded.exported_edges().equals(model.exported_edges())
    written = b"".join(
        path.read_bytes() for path in sorted((tmp_path / "model").rglob("*")) if path.is_file()
    )
    assert not any(user.encode() in written for user in data.train.users)


def test_what_was_chosen_chooses_the_same(friends: tuple[TrainingData, np.ndarray, PathReasoner]) -> None:
    data, _, model = friends
    everyone = queries_of(data.train, np.arange(data.train.user_count))
    again = PathReasoner.fit(data, model.settings, FitContext(seed=1))  # type: ignore[arg-type]
    assert again.settings == model.settings
    np.testing.assert_array_equal(again.score(everyone), model.score(everyone))
    without = PathReasoner.fit(data, ALONE.model_copy(update={"ties": False}), FitContext(seed=1))
    assert np.isnan(without.score(query_of([], user=3))).all()


def test_a_friends_own_hidden_events_are_not_walked_over_while_learning() -> None:
    """Pairs of friends share their last film alone, which the probe hides from both: it teaches nothing."""
    rng = np.random.default_rng(0)
    pairs, films = 60, 40
    histories = [[*rng.permutation(films)[:5].tolist(), films + user // 2] for user in range(2 * pairs)]
    train = snapshot_of_items(histories, films + pairs)
    graph = graph_of(train, both_ways([(2 * n, 2 * n + 1) for n in range(pairs)]))
    model = PathReasoner.fit(TrainingData(train, graph=graph), ALONE, FitContext(seed=1))
    assert model.report.notes["probe_queries"] == 2 * pairs
    assert model._fitted.ties == ()
    hidden = [[*history[:-1]] for history in histories]
    kept, _ = touched(snapshot_of_items(hidden, films + pairs), np.arange(2 * pairs))
    assert kept[:, films:].nnz == 0


def test_ties_that_say_nothing_are_left_out() -> None:
    rng = np.random.default_rng(2)
    histories = [(rng.integers(10) + np.arange(6) % 10 + 10 * (u % 4)).tolist() for u in range(160)]
    train = snapshot_of_items(histories, 60)
    random = both_ways([(int(a), int(b)) for a, b in rng.integers(160, size=(300, 2)) if a != b])
    with_graph = TrainingData(train, graph=graph_of(train, random))
    model = PathReasoner.fit(with_graph, PathReasonerSettings(), FitContext(seed=1))
    plain = PathReasoner.fit(TrainingData(train), PathReasonerSettings(), FitContext(seed=1))
    everyone = queries_of(train, np.arange(160))
    assert all(tie.weight == 0 for tie in model._fitted.ties)
    tied, bare = model.score(everyone), plain.score(everyone)
    assert np.nanargmax(tied, axis=1).tolist() == np.nanargmax(bare, axis=1).tolist()


@pytest.mark.parametrize("worth", [True, False])
def test_a_group_that_must_earn_its_place_goes_unless_lists_get_better_by_it(worth: bool) -> None:
    queries = Queries(np.full(4, -1, np.int32), np.zeros(5, np.int64), np.zeros(0, np.int32))
    asked = Holdout(queries, np.arange(5), np.array([0, 1, 2, 3], np.int32))
    groups = np.tile(np.linspace(0.2, 0.1, 30, dtype=np.float32), (2, 4, 1))
    groups[1] = 0.001
    groups[0, [0, 1, 2], [0, 1, 2]] = 1.0
    groups[int(worth), 3, 29 if not worth else 3] = 1.0
    nobody, last = np.zeros(2, bool), np.array([False, True])
    kept, _ = balanced(groups, nobody, nobody, asked)
    earned, (_, quality) = balanced(groups, nobody, last, asked)
    assert kept[1] > 0
    assert (earned[1] > 0) == worth
    assert quality == pytest.approx(1.0 if worth else quality)


# The parts


def test_both_directions_of_trust_are_walked_a_friendship_once_and_nobody_is_tied_to_themselves() -> None:
    train = snapshot_of_items([[0], [1], [2]], 3)
    trusts = ties_of(graph_of(train, [(0, 1), (0, 2), (0, 1), (2, 1), (1, 1)], "trusts"))
    assert [tie.relation for tie in trusts] == ["trusts", "is_trusts_of"]
    np.testing.assert_array_equal(trusts[0].matrix.toarray(), [[0, 0.5, 0.5], [0, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(trusts[1].matrix.toarray(), [[0, 0, 0], [0.5, 0, 0.5], [1, 0, 0]])
    friends = ties_of(graph_of(train, both_ways([(0, 1), (1, 2)])))
    assert [tie.relation for tie in friends] == ["friend"]
    kept, people = only_known(ties_of(graph_of(train, [(0, 2)], "trusts"))[:1])
    assert people.tolist() == [2]
    np.testing.assert_array_equal(kept[0].matrix.toarray(), [[1], [0], [0]])


def test_a_cap_on_what_somebody_touched_keeps_the_newest_and_is_told() -> None:
    train = snapshot_of_items([[0, *range(1, 400)], [5, 5, 7]], 400)
    matrix, lost = touched(train, np.array([0, 1]))
    assert matrix[0].indices.tolist() == list(range(100, 400))
    assert lost == pytest.approx(100 / 403)
    assert matrix[0].data == pytest.approx(300**-0.5)
    assert matrix[1].toarray()[0, [5, 7]] == pytest.approx([2**-0.5] * 2)  # twice the same is one edge


def test_an_event_of_somebody_has_a_kind_only_where_all_events_have_it() -> None:
    data, _ = circles()
    histories = [data.train.history(user).tolist() for user in range(data.train.user_count)]
    mixed = snapshot_of_items(histories, 200, ("watch", "buy"))
    model = PathReasoner.fit(replace(data, train=mixed), ALONE, FitContext(seed=1))
    scores = model.score(query_of([], user=3))[0]
    (best, *_) = model.paths(query_of([], user=3), int(np.nanargmax(scores)), 1)
    assert [hop.relation for hop in best.hops] == ["friend", ANY_EVENT]


def test_people_are_no_attributes_and_columns_are_the_facts_where_the_graph_knows_only_people() -> None:
    train = snapshot_of_items([[n % 3] for n in range(40)], 3)
    away = [(a, 900) for a in range(30)]  # a person without events, whom thirty others follow
    people = user_facts(pl.DataFrame({"user_id": train.users.to_list(), "job": ["cook", "poet"] * 20}))
    rows = [
        (f"user:u{a:03d}", "friend", f"user:u{b:03d}", "user", "user") for a, b in [*away, (1, 2), (2, 1)]
    ]
    names = ["head", "relation", "tail", "head_type", "tail_type"]
    told = triple_facts(pl.DataFrame(rows, schema=names, orient="row"))
    links = pl.DataFrame(schema={"item_id": pl.String, "entity_id": pl.String})
    graph = join(build([people, told]).graph, links, train.items, train.users)
    columns = item_features(pl.DataFrame({"item_id": ["i000", "i001"], "genre": ["x", "x"]}), train.items)
    facts = facts_of(graph, columns, 3)
    assert facts.people_relations == ("job", "job")
    assert [facts.entities[n] for n in facts.people_entities] == ["job:cook", "job:poet"]
    assert facts.facets is not None
    assert [facts.entities[n] for n in facts.facets.facet_entity] == ["genre:x"]
    assert {tie.relation for tie in facts.ties} == {"friend", "is_friend_of"}


def test_gammas_are_kept_as_float32_holds_them() -> None:
    ties = ties_of(graph_of(snapshot_of_items([[0]] * 4, 1), [(0, 1), (0, 2), (0, 3)], "trusts"))
    for tie in ties:
        np.testing.assert_array_equal(tie.matrix.toarray(), rounded(tie.matrix).toarray())
