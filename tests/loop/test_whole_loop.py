"""The loop in one process: every reason is true of the data, and the graph export holds every hop."""

import random
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import slipstream
from slipstream.artifacts import open_artifact
from slipstream.events.forgetting import forget_person, forgotten_since, made_without_them
from slipstream.loop.exporting import export_graph
from slipstream.loop.workspace import Workspace
from slipstream.recommend.live_release import list_releases
from slipstream.recommend.pipeline import Request

PEOPLE, FILMS = 80, 40


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """People follow two of five directors; another catalogue knows who wrote the films."""
    draw, rows = random.Random(2), []
    for person in range(PEOPLE):
        followed = draw.sample(range(5), 2)
        own = draw.sample([n for n in range(FILMS) if n % 5 in followed], 9)
        rows += [(f"p{person}", f"m{n}", "watch", 1_000_000 + 500 * step) for step, n in enumerate(own)]
    films = {
        "item_id": [f"m{n}" for n in range(FILMS)],
        "title": [f"The Number {n} Story" for n in range(FILMS)],
        "year": [1950 + n for n in range(FILMS)],
        "director": [f"Director {n % 5}" for n in range(FILMS)],
    }
    books = {
        "id": list(range(FILMS)),
        "title": [f"The Number {n} Story" for n in range(FILMS)],
        "year": [1950 + n for n in range(FILMS)],
        "writer": [[f"Writer {n % 7}", f"Writer {n % 3}"] for n in range(FILMS)],
    }
    space = slipstream.open(tmp_path_factory.mktemp("loop") / "home")
    space.ingest(pl.DataFrame(rows, schema=["user_id", "item_id", "kind", "time"], orient="row"))
    space.catalogue(pl.DataFrame(films))
    space.catalogue(
        pl.DataFrame({"user_id": [f"p{n}" for n in range(PEOPLE)], "town": ["Ulm", "Bern"] * (PEOPLE // 2)}),
        of="users",
    )
    space.add_entities(pl.DataFrame(books), id_column="id", kind="book")
    prepared = space.prepare()
    assert prepared.graph is not None
    assert prepared.graph.links is not None
    assert prepared.graph.links["linked"] == FILMS
    space.train("path_reasoner")
    space.train("item_neighbours")
    space.release("item_neighbours")
    return space


def test_a_trained_model_tells_how_it_was_made(home: Workspace) -> None:
    artifact = open_artifact(home.home.models / "item_neighbours", "model")
    told = artifact.meta
    assert re.fullmatch("[0-9a-f]{12}", told["fingerprint"])
    assert {"curve", "notes"} <= set(artifact.json("training"))
    assert told["environment"]["versions"]["numpy"] == np.__version__
    assert (told["environment"]["device"], told["environment"]["processes"], told["seed"]) == ("cpu", 1, 0)
    assert told["environment"]["threads"] >= 1


def test_every_hop_of_every_reason_is_an_edge_of_the_export_or_an_event(
    home: Workspace, tmp_path: Path
) -> None:
    export_graph(home.home, tmp_path)
    edges = set(pl.read_parquet(tmp_path / "kg.parquet").rows())
    with home.store() as store:
        events = {
            row for chunk in store.scan() for row in chunk.select("user_id", "kind", "item_id").iter_rows()
        }
    pipeline, paths = home.pipeline(), 0
    for person in range(0, PEOPLE, 4):
        slate = pipeline.recommend(Request(user_id=f"p{person}", k=10, explain=True))
        assert slate.tier == "model"
        for item in slate.items:
            assert (f"p{person}", "watch", item.item_id) not in events
            for reason in item.reasons:
                assert 0 < reason.share <= 1
                if reason.kind != "path":
                    assert reason.path == ()
                    continue
                paths += 1
                assert reason.path[0].head == f"p{person}"
                assert reason.path[-1].tail == item.item_id
                for before, after in zip(reason.path, reason.path[1:], strict=False):
                    assert before.tail == after.head
                for hop in reason.path:
                    step = (hop.head, hop.relation, hop.tail)
                    assert step in edges or step in events, step
                    assert hop.weight > 0
    assert paths > 100


def test_linked_facts_of_another_catalogue_are_facts_of_the_item(home: Workspace, tmp_path: Path) -> None:
    export_graph(home.home, tmp_path)
    edges = set(pl.read_parquet(tmp_path / "kg.parquet").rows())
    assert ("m0", "director", "director:Director 0") in edges
    assert ("m8", "writer", "writer:Writer 1") in edges
    assert ("writer:Writer 1", "is_writer_of", "m8") in edges
    assert not any(head.startswith("book:") for head, _, _ in edges)


def test_a_click_changes_the_next_answer(home: Workspace) -> None:
    pipeline = home.pipeline()
    before = pipeline.recommend(Request(user_id="p1", k=10))
    home.ingest(pl.DataFrame({"user_id": ["p1"], "item_id": [before.items[0].item_id], "time": [2_000_000]}))
    after = pipeline.recommend(Request(user_id="p1", k=10))
    assert before.items[0].item_id not in [item.item_id for item in after.items]


def test_a_model_of_an_older_snapshot_is_not_released(tmp_path: Path) -> None:
    space = slipstream.open(tmp_path / "home")
    rows = {"user_id": ["a", "a", "a", "b", "b", "b"], "item_id": ["1", "2", "3", "1", "2", "4"]}
    space.ingest(pl.DataFrame(rows))
    space.prepare()
    space.train("popularity")
    space.ingest(pl.DataFrame({"user_id": ["c"], "item_id": ["5"]}))
    space.prepare()
    with pytest.raises(slipstream.errors.NotThere, match="older snapshot"):
        space.release("popularity")


PERSON = "someone-secret"


def holding_the_person(folder: Path) -> list[str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return [file.relative_to(folder).as_posix() for file in files if PERSON.encode() in file.read_bytes()]


@pytest.fixture
def with_person(tmp_path: Path) -> Workspace:
    """A home where a person is in all that can hold one: events, attributes, rejects, two releases."""
    space = slipstream.open(tmp_path / "home")
    people = [PERSON] * 4 + ["b"] * 4 + ["c"] * 4
    space.ingest(pl.DataFrame({"user_id": people, "item_id": list("123412351236"), "time": range(12)}))
    bad = tmp_path / "bad.csv"
    bad.write_text(f"user_id,item_id,timestamp\n{PERSON},1,never\nb,1,100\n")
    space.ingest(bad)
    space.catalogue(pl.DataFrame({"user_id": [PERSON, "b"], "age": [30, 40]}), of="users")
    space.prepare()
    space.train("popularity")
    space.release("popularity", name="one")
    space.release("popularity", name="two")
    assert {held.partition("/")[0] for held in holding_the_person(space.home.root)} >= {
        "events.sqlite",
        "rejects",
        "snapshot",
        "releases",
    }
    return space


def test_a_forgotten_person_is_gone_from_the_home_and_from_the_next_release(with_person: Workspace) -> None:
    space = with_person
    assert space.forget(PERSON) == 4
    held = holding_the_person(space.home.root)
    assert held  # the live release cannot be changed; it answers them as a stranger
    assert all(name.startswith("releases/two/") for name in held)
    assert space.recommend(PERSON).tier == "popularity"
    assert PERSON not in pl.read_parquet(space.home.catalogue / "users.parquet")["user_id"]
    space.prepare()
    space.train("popularity")
    space.release("popularity", name="three")
    assert holding_the_person(space.home.root) == []
    assert [listed.name for listed in list_releases(space.home)] == ["three"]


def test_a_server_that_forgets_leaves_nothing_either(with_person: Workspace) -> None:
    """The way of DELETE /v1/users/{id}: nobody holds the home, so what was built is made anew later."""
    space = with_person
    with space.store() as store:
        assert forget_person(space.home, store, PERSON) == 4
        assert forget_person(space.home, store, PERSON) == 0
    held = holding_the_person(space.home.root)
    assert {name.partition("/")[0] for name in held} == {"snapshot", "graph", "releases"}
    with pytest.raises(slipstream.errors.NotThere, match="somebody was forgotten"):
        space.release("popularity")  # it would still hold them
    space.prepare()
    space.train("popularity")
    space.release("popularity", name="three")
    assert holding_the_person(space.home.root) == []


def test_forgetting_during_a_preparation_is_not_lost(with_person: Workspace) -> None:
    home = with_person.home
    mark = forgotten_since(home)
    with with_person.store() as store:
        forget_person(home, store, "b")  # after the preparation began to read
    made_without_them(home, mark)
    assert forgotten_since(home)
    made_without_them(home, forgotten_since(home))
    assert not forgotten_since(home)
