"""What the home says (rules, a table without types, popularity alone) counts in what comes out."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

import slipstream
from slipstream.errors import NotThere
from slipstream.loop.bulk import recommend_all
from slipstream.loop.tables import read_table_of
from slipstream.loop.workspace import Workspace
from slipstream.recommend.rules import Rules, write_rules

PEOPLE, ITEMS = 12, 8
CATALOGUE = "sku;name;year;price;shelf_code;stock\n" + "".join(
    f"i{n};Item {n};{1990 + n};{n}.50;0{n};{'no' if n == 7 else 'yes'}\n" for n in range(ITEMS)
)


@pytest.fixture
def home(tmp_path: Path) -> Workspace:
    """Everybody viewed two items and bought the next; item 7 is the favourite of those who have it."""
    space = slipstream.open(tmp_path / "home")
    rows = [
        {"user_id": f"u{u}", "item_id": f"i{(u + step) % ITEMS}", "kind": kind, "time": 1e9 + 100 * step + u}
        for u in range(PEOPLE)
        for step, kind in enumerate(("view", "view", "purchase"))
    ]
    space.ingest(pl.DataFrame(rows))
    (tmp_path / "items.csv").write_text(CATALOGUE)
    space.catalogue(tmp_path / "items.csv")
    space.prepare()
    space.train("popularity")
    space.release("popularity")
    return space


def bulk(home: Workspace, folder: Path) -> dict[str, set[str]]:
    recommend_all(home.home, folder / "all.parquet", ITEMS)
    table = pl.read_parquet(folder / "all.parquet")
    return {str(user): set(part["item_id"]) for (user,), part in table.group_by("user_id")}


def test_lists_for_everybody_follow_the_rules_of_the_home(home: Workspace, tmp_path: Path) -> None:
    every = {f"i{n}" for n in range(ITEMS)}
    assert bulk(home, tmp_path)["u0"] == every - {"i0", "i1", "i2"}
    write_rules(home.home.root, Rules(blocked=("i5",), require={"stock": ("yes",)}))
    assert bulk(home, tmp_path)["u0"] == every - {"i0", "i1", "i2", "i5", "i7"}
    write_rules(home.home.root, Rules(touched_by=("purchase",)))
    assert bulk(home, tmp_path) == {
        f"u{u}": {item.item_id for item in home.recommend(f"u{u}", ITEMS).items} for u in range(PEOPLE)
    }
    write_rules(home.home.root, Rules(repeat=True))
    assert bulk(home, tmp_path)["u0"] == every


def test_popularity_as_the_model_says_so(home: Workspace) -> None:
    slate = home.recommend("u0", 3)
    assert slate.tier == "model"
    assert [reason.kind for item in slate.items for reason in item.reasons] == ["popularity"] * 3
    assert slate.items[0].reasons[0].text.startswith("popular with")


def test_numbers_in_a_table_without_types_are_numbers(home: Workspace, tmp_path: Path) -> None:
    table = read_table_of(home.home, "items")
    assert table is not None
    assert table.schema["year"] == pl.Int64
    assert table.schema["price"] == pl.Float64
    assert table.schema["shelf_code"] == pl.String  # 01 is a code
    (tmp_path / "more.csv").write_text("sku,name,price\ni9,Item 9,on request\n")
    home.catalogue(tmp_path / "more.csv")
    table = read_table_of(home.home, "items")
    assert table is not None
    assert table.filter(item_id="i9")["price"].to_list() == ["on request"]
    assert table.filter(item_id="i1")["price"].to_list() == ["1.5"]


def test_a_home_without_facts_says_what_would_make_a_graph(tmp_path: Path) -> None:
    space = slipstream.open(tmp_path)
    space.ingest(pl.DataFrame({"user_id": ["a", "b"], "item_id": ["x", "y"]}))
    space.prepare()
    from slipstream.loop.exporting import export_graph

    with pytest.raises(NotThere) as caught:
        export_graph(space.home, tmp_path / "out")
    assert "catalogue" in caught.value.hint


def test_every_model_that_needs_no_training_framework_takes_a_home_of_one_event(tmp_path: Path) -> None:
    space = slipstream.open(tmp_path)
    space.ingest(pl.DataFrame({"user_id": ["a"], "item_id": ["x"]}))
    space.prepare()
    for model in ("popularity", "recency_popularity", "item_neighbours", "ease", "ials", "path_reasoner"):
        space.train(model)
        space.release(model, name=model)
        assert [item.item_id for item in space.recommend("stranger").items] == ["x"]


def test_a_home_without_times_is_measured_on_a_random_tenth(tmp_path: Path) -> None:
    space = slipstream.open(tmp_path)
    pairs = [(f"u{u}", f"i{i}") for u in range(30) for i in range(20) if (u + i) % 2 == 0]
    space.ingest(pl.DataFrame(pairs, schema=["user_id", "item_id"], orient="row"))
    space.prepare()
    (trial,) = space.evaluate(["ease"]).trials
    assert trial.board == "split"
    assert 10 <= trial.targets <= 60  # a tenth of 300
    assert trial.metrics["NDCG@10"] > 0.7  # the even like the even
    assert space.evaluate(["ease"]).trials[0].targets_sha256 == trial.targets_sha256
