"""The embedding as a recommender: facts place items nobody touched, histories place people nobody knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

pytest.importorskip("torch")

from slipstream.artifacts import open_artifact, writing
from slipstream.dataset.queries import query_of
from slipstream.dataset.snapshot import Snapshot, snapshot_of
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.errors import ConfigError
from slipstream.graph.construction import build, catalogue_facts, user_facts
from slipstream.graph.linked_graph import LinkedGraph, join
from slipstream.inference.triple_embedding import FORMS
from slipstream.models.kg.kg_embedding import KgEmbedding, KgEmbeddingSettings
from slipstream.models.recommender import FitContext, TrainingData
from slipstream.models.registry import load_model, save_model

CLUBS, PER_CLUB, PEOPLE = 3, 6, 45
NEW, LOST = CLUBS * PER_CLUB, CLUBS * PER_CLUB + 1  # an item of club 1 that nobody touched; one of nothing
QUIET = PEOPLE  # a person who did nothing, of job 2
SETTINGS = KgEmbeddingSettings(dim=16, epochs=25, batch=64, n3=0.02)


def world() -> tuple[Snapshot, LinkedGraph]:
    """People of a job watch the films of one studio."""
    rng = np.random.default_rng(0)
    rows = []
    for person in range(PEOPLE):
        films = rng.permutation(PER_CLUB)[:4] + person % CLUBS * PER_CLUB
        rows += [(f"u{person:02}", f"i{film:02}", step) for step, film in enumerate(films)]
    ids = [f"i{n:02}" for n in range(CLUBS * PER_CLUB)]
    items = Vocabulary.of([*ids, "i_new", "i_lost"])
    users = Vocabulary.of([*(f"u{p:02}" for p in range(PEOPLE)), "u_quiet"])
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "time_us"], orient="row")
    studios = [f"studio {n // PER_CLUB}" for n in range(len(ids))]
    catalogue = pl.DataFrame({"item_id": [*ids, "i_new"], "studio": [*studios, "studio 1"]})
    jobs = pl.DataFrame(
        {"user_id": users.to_list(), "job": [f"job {p % CLUBS}" for p in range(PEOPLE)] + ["job 2"]}
    )
    graph = build([catalogue_facts(catalogue, "item_id"), user_facts(jobs)]).graph
    same = pl.DataFrame({"item_id": items.to_list(), "entity_id": items.to_list()})
    snapshot = snapshot_of(frame, users=users, items=items)
    return snapshot, join(graph, same, items, users)


@pytest.fixture(scope="module")
def data() -> TrainingData:
    snapshot, graph = world()
    return TrainingData(snapshot, graph=graph)


def fitted(data: TrainingData, **changes: object) -> KgEmbedding:
    return KgEmbedding.fit(data, SETTINGS.model_copy(update=changes), FitContext())


@pytest.fixture(scope="module")
def model(data: TrainingData) -> KgEmbedding:
    return fitted(data)


def best_club(scores: np.ndarray) -> int:
    return int(np.nanmean(scores[: CLUBS * PER_CLUB].reshape(CLUBS, PER_CLUB), axis=1).argmax())


@pytest.mark.parametrize("form", FORMS)
def test_every_form_finds_the_club_of_known_people_and_of_strangers(data: TrainingData, form: str) -> None:
    model = fitted(data, form=form)
    known = [best_club(model.score(query_of([], user=p))[0]) == p % CLUBS for p in range(PEOPLE)]
    strangers = [
        best_club(model.score(query_of([c * PER_CLUB, c * PER_CLUB + 3]))[0]) == c for c in range(CLUBS)
    ]
    assert np.mean(known) > 0.95
    assert all(strangers)


def test_an_item_that_nobody_touched_is_placed_by_its_facts(model: KgEmbedding) -> None:
    scores = np.stack([model.score(query_of([], user=p))[0] for p in range(PEOPLE)])
    of_club = np.array([scores[np.arange(PEOPLE) % CLUBS == c, NEW].mean() for c in range(CLUBS)])
    assert of_club.argmax() == 1


def test_a_person_who_did_nothing_is_placed_by_attributes(model: KgEmbedding) -> None:
    assert best_club(model.score(query_of([], user=QUIET))[0]) == 2


def test_nothing_is_said_of_an_item_or_a_person_without_an_edge(model: KgEmbedding) -> None:
    scores = model.score(query_of([0], user=3))[0]
    assert np.isnan(scores[LOST])
    assert np.isfinite(scores[:LOST]).all()
    assert np.isnan(model.score(query_of([]))).all()
    assert np.isnan(model.score(query_of([LOST]))).all()


def test_new_events_move_a_known_person(model: KgEmbedding) -> None:
    """Person 0 is of club 0; a history of club 1 alone, half of the vector, pulls towards club 1."""
    before = model.score(query_of([], user=0))[0]
    after = model.score(query_of([PER_CLUB, PER_CLUB + 1, PER_CLUB + 2], user=0))[0]
    gain = (after - before)[: CLUBS * PER_CLUB].reshape(CLUBS, PER_CLUB).mean(axis=1)
    assert gain.argmax() == 1


@pytest.mark.parametrize("form", FORMS)
def test_parts_of_events_are_what_the_score_loses_without_them(data: TrainingData, form: str) -> None:
    """The score is affine in the parts: the sum over the events, and a rest that no event changes."""
    model = fitted(data, form=form, epochs=2, half_life=0.0)
    items = np.array([2, 9, NEW], np.int32)
    rests = []
    for history in ([0, 7], [13, 4]):
        query = query_of(history, user=5)
        rests.append(model.score(query)[0][items] - model.contributions(query, items).sum(1))
    np.testing.assert_allclose(rests[0], rests[1], rtol=1e-3, atol=1e-4)


def test_a_graph_that_links_no_users_and_no_graph_at_all(data: TrainingData) -> None:
    graph = data.graph
    assert graph is not None
    same = pl.DataFrame({"item_id": graph.items.to_list(), "entity_id": graph.items.to_list()})
    only_items = TrainingData(data.train, graph=join(graph.graph, same, graph.items))
    assert best_club(fitted(only_items).score(query_of([], user=4))[0]) == 1
    alone = fitted(TrainingData(data.train))
    assert best_club(alone.score(query_of([], user=4))[0]) == 1
    assert np.isnan(alone.score(query_of([], user=4))[0][NEW])


def test_a_graph_of_another_snapshot_is_refused(data: TrainingData) -> None:
    other = snapshot_of(pl.DataFrame({"user_id": ["a"], "item_id": ["b"], "time_us": [1]}))
    with pytest.raises(ConfigError, match="another snapshot"):
        KgEmbedding.fit(TrainingData(other, graph=data.graph), SETTINGS, FitContext())


def test_it_is_served_without_torch(model: KgEmbedding, tmp_path: Path) -> None:
    with writing(tmp_path / "m", "model") as writer:
        save_model("kg_embedding", model, writer)
    _, loaded = load_model(open_artifact(tmp_path / "m", "model"))
    query = query_of([1, 8], user=2)
    np.testing.assert_array_equal(loaded.score(query), model.score(query))
