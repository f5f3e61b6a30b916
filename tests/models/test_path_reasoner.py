"""The path reasoner: scores are sums of the paths it shows, on worlds where the answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

from slipstream.artifacts import open_artifact, writing
from slipstream.dataset.queries import Holdout, Queries, queries_of, query_of
from slipstream.dataset.snapshot import Snapshot, snapshot_of
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.features.items import item_features
from slipstream.graph.construction import build, catalogue_facts, triple_facts, user_facts
from slipstream.graph.linked_graph import LinkedGraph, join
from slipstream.models.kg.path_reasoner import MODEL, VISITOR, PathReasoner
from slipstream.models.path_reasoning.attention import attention
from slipstream.models.path_reasoning.fitting import fit_reasoner
from slipstream.models.path_reasoning.learning import (
    Candidates,
    asked_for_new,
    fit_weights,
    hidden_items,
    horizon_of,
    ndcg_among,
    probe_of,
)
from slipstream.models.path_reasoning.settings import PathReasonerSettings
from slipstream.models.recommender import ExplainsByPaths, FitContext, TrainingData
from slipstream.models.registry import load_model, save_model

CLUBS, PER_CLUB, USERS = 4, 8, 120


def rows_of(seed: int = 0, length: int = 6) -> list[tuple[str, str, int, str]]:
    """People of four clubs walk round their club's films in order; now and then a film of another club."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(USERS):
        club, place = user % CLUBS, rng.integers(PER_CLUB)
        for step in range(length):
            film = (place + step) % PER_CLUB + club * PER_CLUB
            if rng.random() < 0.05:
                film = rng.integers(CLUBS * PER_CLUB)
            rows.append((f"u{user:03d}", f"i{film:02d}", step, "watch"))
    return rows


def world(rows: list[tuple[str, str, int, str]] | None = None, **kinds: bool) -> Snapshot:
    names = ["user_id", "item_id", "time_us", "kind"]
    frame = pl.DataFrame(rows if rows is not None else rows_of(), schema=names, orient="row")
    items = Vocabulary.of([f"i{i:02d}" for i in range(CLUBS * PER_CLUB)] + ["i_new", "i_lost"])
    return snapshot_of(frame, items=items, **kinds)


def catalogue() -> pl.DataFrame:
    ids = [f"i{i:02d}" for i in range(CLUBS * PER_CLUB)]
    clubs = [f"studio {i // PER_CLUB}" for i in range(len(ids))]
    return pl.DataFrame({"item_id": [*ids, "i_new"], "studio": [*clubs, "studio 1"]})


def users_table() -> pl.DataFrame:
    ids = [f"u{u:03d}" for u in range(USERS)]
    return pl.DataFrame({"user_id": ids, "job": [f"job {u % CLUBS}" for u in range(USERS)]})


def graph_of(train: Snapshot) -> LinkedGraph:
    sequel = pl.DataFrame({"head": ["i01"], "relation": ["sequel_of"], "tail": ["i00"]})
    facts = [catalogue_facts(catalogue(), "item_id"), user_facts(users_table()), triple_facts(sequel)]
    ids = train.items.series("item_id")
    return join(
        build(facts).graph, pl.DataFrame({"item_id": ids, "entity_id": ids}), train.items, train.users
    )


def fitted(
    train: Snapshot, *, graph: bool = True, context: FitContext | None = None, **choices: object
) -> PathReasoner:
    data = TrainingData(train, graph=graph_of(train) if graph else None)
    settings = PathReasoner.preset(data).model_copy(update=choices)
    return PathReasoner.fit(data, settings, context or FitContext(seed=1))


@pytest.fixture(scope="module")
def train() -> Snapshot:
    return world()


@pytest.fixture(scope="module")
def model(train: Snapshot) -> PathReasoner:
    return fitted(train)


@pytest.fixture(scope="module")
def everyone(train: Snapshot) -> Queries:
    return queries_of(train, np.arange(train.user_count))


def test_it_is_the_model_of_the_registry_and_explains(model: PathReasoner) -> None:
    assert MODEL is PathReasoner
    assert isinstance(model, ExplainsByPaths)


def test_what_comes_next_is_ranked_first(model: PathReasoner) -> None:
    scores = model.score(query_of([8, 9, 10]))[0]
    scores[[8, 9, 10]] = -1
    assert int(np.nanargmax(scores)) == 11


def test_scores_are_exactly_the_sums_of_the_paths(model: PathReasoner, everyone: Queries) -> None:
    scores = model.score(everyone)
    for user in range(0, USERS, 17):
        query = everyone.part(user, user + 1)
        for item in range(scores.shape[1]):
            paths = model.paths(query, item, 10_000)
            total = sum(p.score for p in paths)
            if np.isnan(scores[user, item]):
                assert paths == []
                continue
            assert total == pytest.approx(scores[user, item], rel=1e-6)
            assert sum(p.share for p in paths) == pytest.approx(1.0, rel=1e-9)


def test_paths_come_in_order_and_a_shorter_list_is_the_start_of_a_longer_one(
    model: PathReasoner, everyone: Queries
) -> None:
    query = everyone.part(3, 4)
    item = int(np.nanargmax(model.score(query)[0]))
    every = model.paths(query, item, 1_000)
    scores = [p.score for p in every]
    assert scores == sorted(scores, reverse=True)
    assert model.paths(query, item, 3) == every[:3]
    assert model.paths(query, item, 0) == []


def test_every_hop_is_an_event_or_an_exported_edge_and_every_path_is_simple(
    model: PathReasoner, train: Snapshot, everyone: Queries
) -> None:
    edges = set(model.exported_edges().iter_rows()) | set(graph_of(train).export().iter_rows())
    names = train.items.to_list()
    relations = set()
    for user in range(0, USERS, 13):
        query = everyone.part(user, user + 1)
        touched = {names[i] for i in query.item}
        for item in range(len(names)):
            for path in model.paths(query, item, 100):
                first, *rest = path.hops
                nodes = [first.head, *(h.tail for h in path.hops)]
                assert len(set(nodes)) == len(nodes)
                assert (nodes[0], nodes[-1]) == (VISITOR, names[item])
                assert all(a.tail == b.head for a, b in zip(path.hops, rest, strict=False))
                if first.relation == "watch":
                    assert first.tail in touched
                else:
                    assert (train.users[user], first.relation, first.tail) in edges
                assert all((h.head, h.relation, h.tail) in edges for h in rest)
                assert path.score == pytest.approx(np.prod([h.weight for h in path.hops]))
                relations |= {h.relation for h in path.hops}
    assert {"watch", "next", "studio", "is_studio_of"} <= relations


def test_what_a_cap_on_edges_costs_is_told(train: Snapshot, model: PathReasoner) -> None:
    told = {f"{name} strength beyond the cap" for name in ("similar_to", "next", "prefers")}
    assert {name: model.report.notes[name] for name in told} == dict.fromkeys(
        told, pytest.approx(0, abs=1e-3)
    )
    capped = fitted(train, edges_per_item=1)
    assert capped.report.notes["next strength beyond the cap"] > 0.1


def test_groups_of_paths_carry_more_and_name_where_they_start(
    model: PathReasoner, everyone: Queries, train: Snapshot
) -> None:
    names = train.items.to_list()
    query = everyone.part(3, 4)
    item = int(np.nanargmax(model.score(query)[0]))
    (groups,) = model.path_groups(query, [item], 3)
    every = model.paths(query, item, 1_000)
    assert sum(g.share for g in model.path_groups(query, [item], 100)[0]) == pytest.approx(1.0)
    touched = {names[i] for i in query.item}
    for group in groups:
        assert group.best in every
        assert group.share >= group.best.share
        assert set(group.starts) <= touched - {group.best.hops[0].tail}
    assert model.path_groups(query, [-1, item], 0) == [[], []]


def test_a_new_item_is_reached_over_its_facts_alone(model: PathReasoner) -> None:
    scores = model.score(query_of([8, 9]))[0]  # club 1, whose studio made the new film
    assert scores[32] > 0
    other = model.score(query_of([0, 1]))[0]
    assert np.isnan(other[32])
    assert np.isnan(scores[33])  # nothing is known of the last one
    (best, *_) = model.paths(query_of([8, 9]), 32, 5)
    assert [h.relation for h in best.hops] == ["watch", "studio", "is_studio_of"]
    assert best.hops[1].tail == "studio:studio 1"


def test_unknown_people_items_and_empty_histories_give_nan_never_an_error(model: PathReasoner) -> None:
    assert np.isnan(model.score(query_of([]))).all()
    assert np.isnan(model.score(query_of([-1, 99_999]))).all()
    known = model.score(query_of([4, 5]))
    np.testing.assert_array_equal(model.score(query_of([4, 5], user=-1)), known)
    np.testing.assert_array_equal(model.score(query_of([-1, 4, 5, 99_999], user=99_999)), known)
    assert model.paths(query_of([]), 3, 5) == []
    assert model.paths(query_of([4]), -1, 5) == []
    assert model.paths(query_of([4]), 99_999, 5) == []


def test_a_person_without_a_history_is_answered_from_attributes(train: Snapshot) -> None:
    model = fitted(train, similar=False, next=False)
    scores = model.score(Queries(np.array([5], np.int32), np.array([0, 0]), np.zeros(0, np.int32)))[0]
    assert int(np.nanargmax(scores)) // PER_CLUB == 5 % CLUBS
    (best, *_) = model.paths(query_of([], user=5), int(np.nanargmax(scores)), 3)
    assert [h.relation for h in best.hops] == ["job", "prefers"]


def test_a_batch_equals_one_by_one(model: PathReasoner, everyone: Queries) -> None:
    together = model.score(everyone)
    for user in range(0, USERS, 7):
        np.testing.assert_allclose(model.score(everyone.part(user, user + 1))[0], together[user], rtol=1e-6)


def test_the_same_seed_gives_the_same_scores(train: Snapshot, model: PathReasoner, everyone: Queries) -> None:
    np.testing.assert_array_equal(fitted(train).score(everyone), model.score(everyone))


def test_save_and_load_change_nothing(model: PathReasoner, everyone: Queries, tmp_path: Path) -> None:
    with writing(tmp_path / "model", "model") as writer:
        save_model("path_reasoner", model, writer)
    name, loaded = load_model(open_artifact(tmp_path / "model", "model"))
    assert name == "path_reasoner"
    assert isinstance(loaded, PathReasoner)
    np.testing.assert_array_equal(loaded.score(everyone), model.score(everyone))
    query = everyone.part(2, 3)
    item = int(np.nanargmax(model.score(query)[0]))
    assert loaded.paths(query, item, 9) == model.paths(query, item, 9)
    assert loaded.exported_edges().equals(model.exported_edges())
    assert loaded.settings == model.settings


def test_fitting_with_what_was_chosen_chooses_the_same(
    train: Snapshot, model: PathReasoner, everyone: Queries
) -> None:
    again = PathReasoner.fit(TrainingData(train, graph=graph_of(train)), model.settings, FitContext(seed=1))
    assert again.settings == model.settings
    np.testing.assert_array_equal(again.score(everyone), model.score(everyone))


def test_the_data_is_not_modified(train: Snapshot) -> None:
    before = [np.array(a) for a in (train.item, train.offsets, train.value)]
    fitted(train)
    for now, then in zip((train.item, train.offsets, train.value), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_it_works_on_behaviour_alone(train: Snapshot, everyone: Queries) -> None:
    model = fitted(train, graph=False)
    scores = model.score(everyone)
    scores[everyone.rows(), everyone.item] = np.nan
    own_club = np.nanargmax(scores, axis=1)
    assert np.mean(own_club // PER_CLUB == np.arange(USERS) % CLUBS) > 0.9


def test_it_works_without_an_order_or_times() -> None:
    train = world(ordered=False)
    model = fitted(train, graph=False)
    relations = set(model.exported_edges()["relation"])
    assert relations == {"similar_to"}
    scores = model.score(query_of([8, 9, 10]))[0]
    scores[[8, 9, 10]] = np.nan
    assert int(np.nanargmax(scores)) // PER_CLUB == 1


def test_without_a_graph_item_features_are_the_facts(train: Snapshot) -> None:
    features = item_features(catalogue(), train.items)
    model = PathReasoner.fit(
        TrainingData(train, item_features=features), PathReasoner.preset(TrainingData(train)), FitContext()
    )
    assert model.score(query_of([8, 9]))[0, 32] > 0
    assert ("i08", "studio", "studio:studio 1") in set(model.exported_edges().iter_rows())


@pytest.mark.parametrize(
    "rows", [[], [("u", "i00", 0, "watch")], [("u", "i00", 0, "watch"), ("u", "i01", 1, "watch")]]
)
def test_next_to_no_data_is_no_error(rows: list[tuple[str, str, int, str]]) -> None:
    names = {"user_id": pl.String, "item_id": pl.String, "time_us": pl.Int64, "kind": pl.String}
    frame = pl.DataFrame(rows, schema=names, orient="row")
    train = snapshot_of(frame, items=Vocabulary.of(["i00", "i01", "i02"]))
    model = PathReasoner.fit(TrainingData(train), PathReasoner.preset(TrainingData(train)), FitContext())
    assert model.score(query_of([0])).shape == (1, 3)


def test_shuffled_facts_explain_other_paths_and_do_not_help_new_items(
    train: Snapshot, model: PathReasoner
) -> None:
    rng = np.random.default_rng(0)
    table = catalogue()
    table = table.with_columns(pl.Series("studio", rng.permutation(table["studio"].to_list())))
    ids = train.items.series("item_id")
    graph = join(
        build([catalogue_facts(table, "item_id")]).graph,
        pl.DataFrame({"item_id": ids, "entity_id": ids}),
        train.items,
    )
    data = TrainingData(train, graph=graph)
    shuffled = PathReasoner.fit(data, PathReasoner.preset(data), FitContext(seed=1))
    query = query_of([8, 9])
    with_facts = np.nan_to_num(model.score(query)[0, 32])
    assert np.nan_to_num(shuffled.score(query)[0, 32]) < with_facts


# The parts


def test_attention_adds_up_and_forgets() -> None:
    queries = Queries(np.array([-1, -1], np.int32), np.array([0, 4, 5]), np.array([0, 1, -1, 2, 1], np.int32))
    weights = attention(queries, 3, 1.0).toarray()
    assert weights.sum(axis=1) == pytest.approx([1.0, 1.0])
    assert weights[0, 1] / weights[0, 2] == pytest.approx(np.exp(-1))  # the unknown event pushes nobody back
    assert attention(queries, 3, 0.0).toarray()[0] == pytest.approx([1 / 3] * 3)
    assert attention(query_of([0] + [1] * 50), 2, 1.0).toarray()[0, 0] == 0.0


def test_a_probe_hides_the_last_events_and_leaves_a_past(train: Snapshot) -> None:
    probe = probe_of(train, 0.0, 50, seed=3)
    assert len(probe.holdout) == 50
    assert probe.rest.event_count == train.event_count - 50
    for row, user in enumerate(probe.holdout.queries.user):
        np.testing.assert_array_equal(probe.holdout.queries.history(row), train.history(user)[:-1])
    half = probe_of(train, 0.5, 50, seed=3)
    assert train.event_count - half.rest.event_count == 50 * 3


def test_the_horizon_is_what_validation_hides(train: Snapshot, everyone: Queries) -> None:
    one = Holdout(everyone, np.arange(USERS + 1), np.zeros(USERS, np.int32))
    assert horizon_of(one) == 0.0
    assert horizon_of(None) == 0.0
    three = Holdout(everyone, 3 * np.arange(USERS + 1), np.zeros(3 * USERS, np.int32))
    assert horizon_of(three) == pytest.approx(3 / 9)


def test_weights_go_to_the_feature_that_finds_the_target() -> None:
    rng = np.random.default_rng(0)
    queries = Queries(np.full(40, -1, np.int32), np.zeros(41, np.int64), np.zeros(0, np.int32))
    target = rng.integers(0, 20, 40).astype(np.int32)
    good = np.zeros((40, 20), np.float32)
    good[np.arange(40), target] = 1.0
    noise = rng.random((40, 20)).astype(np.float32)
    holdout = Holdout(queries, np.arange(41), target)
    weights, _, shares = fit_weights(np.stack([good, noise]), holdout, Candidates.of(np.arange(20), 20))
    assert weights[0] > 0
    assert shares[0] > 0.9


def test_no_target_edge_is_walked_over_while_learning(train: Snapshot) -> None:
    probe = probe_of(train, 0.0, USERS, seed=0)
    pairs = sp.csr_matrix(probe.rest.matrix())
    for row, user in enumerate(probe.holdout.queries.user):
        for item in probe.holdout.targets(row):
            assert pairs[user, item] == 0


def test_folds_of_hidden_items_do_not_overlap_and_a_fold_too_many_is_empty(train: Snapshot) -> None:
    sets = [set(hidden_items(train, 50, seed=0, fold=fold)[2].tolist()) for fold in range(3)]
    assert all(sets)
    assert len(set.union(*sets)) == sum(map(len, sets))
    one = world([("u1", "i00", 1, "watch"), ("u1", "i00", 2, "watch")])
    _, holdout, hidden = hidden_items(one, 50, seed=0, fold=1)
    assert len(hidden) == len(holdout.target) == 0


def test_ranking_among_new_items_counts_only_them() -> None:
    scores = np.array([[0.2, 0.9, 0.5], [np.nan, 0.1, np.nan]], np.float32)
    holdout = Holdout(queries_with(2), np.array([0, 1, 2]), np.array([7, 4], np.int32))
    found = ndcg_among(scores, holdout, Candidates.of(np.array([2, 4, 7]), 9))
    assert found == pytest.approx((1 / np.log2(3) + 1.0) / 2)


def test_validation_that_asks_for_new_items_is_told_from_one_that_does_not(train: Snapshot) -> None:
    new, known = train.items.number("i_new"), train.items.number("i00")
    mixed = Holdout(queries_with(3), np.array([0, 2, 2, 3]), np.array([new, known, new], np.int32))
    found = asked_for_new(train, mixed)
    assert found is not None
    assert found[1].offsets.tolist() == [0, 1, 1, 2]
    assert found[1].target.tolist() == [new, new]
    assert found[2].tolist() == [new]
    usual = Holdout(queries_with(1), np.array([0, 3]), np.array([new, known, known], np.int32))
    assert asked_for_new(train, usual) is None
    assert asked_for_new(train, None) is None


def queries_with(count: int) -> Queries:
    """Askers without a past."""
    return Queries(np.full(count, -1, np.int32), np.zeros(count + 1, np.int64), np.zeros(0, np.int32))


def _clubs() -> TrainingData:
    """New films are asked for by the rare tag of their club; forty common tags of each mislead."""
    rng = np.random.default_rng(0)
    clubs, per = 10, 8
    names = [f"i{n:03d}" for n in range(clubs * per)] + [f"new{c}" for c in range(clubs)]
    rows = [
        (f"u{u:03d}", names[(u % clubs) * per + int(place)], step, "watch")
        for u in range(150)
        for step, place in enumerate(rng.permutation(per)[:5])
    ]
    tags = []
    for n, name in enumerate(names):
        club = n // per if n < clubs * per else n - clubs * per
        tags += [(name, "tag", f"of club {club}")]
        tags += [(name, "tag", f"common {t}") for t in rng.choice(60, 40, replace=False)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "time_us", "kind"], orient="row")
    train = snapshot_of(frame, items=Vocabulary.of(names))
    ids = train.items.series("item_id")
    facts = triple_facts(pl.DataFrame(tags, schema=["head", "relation", "tail"], orient="row"))
    graph = join(build([facts]).graph, pl.DataFrame({"item_id": ids, "entity_id": ids}), train.items)
    queries = queries_of(train, np.arange(150))
    target = np.array([train.items.number(f"new{u % clubs}") for u in range(150)], np.int32)
    asked = Holdout(queries, np.arange(151), target)
    return TrainingData(train, validation=asked, graph=graph)


def test_how_far_a_facts_degree_counts_is_chosen_by_the_lists_of_new_items() -> None:
    model = PathReasoner.fit(_clubs(), PathReasonerSettings(), FitContext(seed=1))
    tried = model.report.notes["cold tried"]
    assert model.settings.model_dump()["cold_degree_exponent"] == 1.0
    assert tried[2] == max(tried)
    assert tried[1] < tried[0]


def test_into_a_new_item_the_degree_counts_by_the_exponent_of_new_items() -> None:
    """Where facts of items with events count nothing, only the exponent of new items is left."""
    settings = PathReasonerSettings(
        degree_exponent=0.0, cold_degree_exponent=1.5, facts_factor=0.0, similar_factor=1.0, next_factor=1.0
    )
    data = _clubs()
    walkable, _, _ = fit_reasoner(data, settings, FitContext(seed=1))
    facets = walkable.facets
    assert facets is not None
    new = data.train.items.number("new3")
    into = facets.to_items[new]
    degree = np.diff(facets.back.indptr)[into.indices]
    assert len(np.unique(degree)) > 5
    law = into.data * degree**1.5
    np.testing.assert_allclose(law, law[0], rtol=1e-5)
