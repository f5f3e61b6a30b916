"""The loop in one process: every reason is true of the data, and the graph export holds every hop."""

import random
from pathlib import Path

import polars as pl
import pytest

import slipstream
from slipstream.loop.exporting import export_graph
from slipstream.loop.workspace import Workspace
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


def test_a_forgotten_person_is_gone_from_the_home(tmp_path: Path) -> None:
    space = slipstream.open(tmp_path / "home")
    space.ingest(pl.DataFrame({"user_id": ["someone-secret", "b", "b"], "item_id": ["1", "1", "2"]}))
    space.catalogue(pl.DataFrame({"user_id": ["someone-secret", "b"], "age": [30, 40]}), of="users")
    space.prepare()
    space.train("popularity")
    assert space.forget("someone-secret") == 1
    left = [
        file
        for file in space.home.root.rglob("*")
        if file.is_file() and b"someone-secret" in file.read_bytes()
    ]
    assert left == []
