"""Attribute values, filters, and items that came after the release."""

from __future__ import annotations

import json
import os
from pathlib import Path

import film_world
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.artifacts import open_artifact, writing
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.recommend.catalogue import Catalogue, value_texts
from slipstream.recommend.newcomers import PRIOR, AddedItems, LiveShelf, Shelf

ITEMS = Vocabulary.of(film_world.FILMS["item_id"].to_list())


def shelf() -> Shelf:
    return Shelf(ITEMS, Catalogue.of(ITEMS, film_world.FILMS))


def test_a_cell_becomes_texts() -> None:
    assert value_texts("Drama|War", "|") == ("Drama", "War")
    assert value_texts("Drama|War") == ("Drama|War",)
    assert value_texts([1, True, None, "a", "a"]) == ("1", "true", "a")
    assert value_texts(float("nan")) == value_texts(None) == value_texts({}) == value_texts("x" * 500) == ()
    assert value_texts(1994) == value_texts(1994.0) == ("1994",)


def test_having_finds_the_items_with_a_value() -> None:
    mask = shelf().having("genre", ("sea", "crime"))
    assert np.flatnonzero(mask).tolist() == [2, 6]
    assert not shelf().having("genre", ("nothing",)).any()
    assert not shelf().having("no such column", ("sea",)).any()


@given(
    st.lists(
        st.dictionaries(st.sampled_from("abc"), st.sampled_from(["x", "y", "z"]), max_size=3), max_size=12
    )
)
def test_having_equals_a_loop_over_rows(rows: list[dict[str, str]]) -> None:
    ids = [f"i{n}" for n in range(len(rows))]
    frame = pl.DataFrame(
        [{"item_id": i, **row} for i, row in zip(ids, rows, strict=True)],
        schema={"item_id": pl.String, "a": pl.String, "b": pl.String, "c": pl.String},
    )
    catalogue = Catalogue.of(Vocabulary.of(ids), frame)
    for column in "abc":
        expected = [row.get(column) in ("x", "z") for row in rows]
        assert catalogue.having(column, ("x", "z")).tolist() == expected


def test_a_catalogue_survives_its_artifact(tmp_path: Path) -> None:
    frame = film_world.FILMS.with_columns(tags=pl.Series(["a|b", "b|c", "a|c", "a", "b", "c|a", "b|a", "c"]))
    before = Catalogue.of(ITEMS, frame)
    with writing(tmp_path / "c", "catalogue") as writer:
        before.write(writer)
    after = Catalogue.read(open_artifact(tmp_path / "c", "catalogue"))
    assert after.separators == {"tags": "|"}
    for item in range(len(ITEMS)):
        assert after.attributes(item) == before.attributes(item)
        assert after.titles[item] == before.titles[item]
    assert after.attributes(0)["tags"] == ("a", "b")


def test_a_new_item_borrows_the_mean_of_its_neighbours_drawn_to_the_catalogue() -> None:
    grown = shelf().with_rows([{"item_id": "new", "title": "New", "director": "Spielberg"}])
    scores = np.arange(8, dtype=np.float32)
    new = grown.newcomers[0]
    assert new.neighbours.tolist() == sorted(
        [2, 3], key=lambda i: -new.weights[new.neighbours.tolist().index(i)]
    )
    weights = dict(zip(new.neighbours.tolist(), new.weights.tolist(), strict=True))
    total = weights[2] * 2 + weights[3] * 3
    expected = (total + PRIOR * scores.mean()) / (weights[2] + weights[3] + PRIOR)
    assert grown.new_scores(scores)[0] == pytest.approx(expected, rel=1e-6)


def test_a_new_item_that_shares_nothing_gets_the_mean_and_one_without_any_scores_gets_none() -> None:
    grown = shelf().with_rows([{"item_id": "odd", "colour": "blue"}])
    assert grown.new_scores(np.arange(8, dtype=np.float32))[0] == pytest.approx(3.5)
    assert np.isnan(grown.new_scores(np.full(8, np.nan, np.float32))[0])


def test_neighbours_without_a_score_do_not_count() -> None:
    grown = shelf().with_rows([{"item_id": "new", "director": "Spielberg"}])
    scores = np.full(8, np.nan, np.float32)
    scores[[2, 0]] = [6.0, 2.0]
    weight = float(grown.newcomers[0].weights[grown.newcomers[0].neighbours.tolist().index(2)])
    expected = (weight * 6 + PRIOR * 4) / (weight + PRIOR)
    assert grown.new_scores(scores)[0] == pytest.approx(expected, rel=1e-6)


def test_a_row_for_a_known_item_replaces_its_values() -> None:
    before = shelf()
    after = before.with_rows([{"item_id": "f0", "genre": ["western"], "title": "Star (new)", "stock": False}])
    assert after.title(0) == "Star (new)"
    assert after.having("genre", ("western",))[0]
    assert not after.having("genre", ("space",))[0]
    assert after.having("stock", ("false",)).tolist() == [True] + [False] * 7
    assert "stock" in after.columns
    assert after.attributes(0)["director"] == ("Lucas",)  # a column that was not given stays
    assert before.having("genre", ("space",))[0]  # the old shelf is what it was


def test_the_log_is_followed_across_handles_and_half_a_line_is_not_read(tmp_path: Path) -> None:
    live = LiveShelf(shelf(), AddedItems(tmp_path))
    assert live.now().number("new") == -1
    other = AddedItems(tmp_path)  # another process
    other.append([{"item_id": "new", "title": "北京"}])
    assert live.now().title(live.now().number("new")) == "北京"
    with other.path.open("ab") as stream:
        stream.write(b'{"item_id": "torn", "ti')  # killed while it wrote
    assert live.now().number("torn") == -1
    other.append([{"item_id": "after"}])
    assert live.now().number("after") == 9
    assert live.now().number("torn") == -1
    assert [row["item_id"] for row in other.read()[0]] == ["new", "after"]


def test_a_replaced_log_is_read_from_its_start(tmp_path: Path) -> None:
    live = LiveShelf(shelf(), AddedItems(tmp_path))
    AddedItems(tmp_path).append([{"item_id": "first", "title": "a long title, a long title"}])
    assert live.now().number("first") == 8
    (tmp_path / "added.jsonl").write_text(json.dumps({"item_id": "second"}) + "\n")
    assert live.now().number("first") == -1
    assert live.now().number("second") == 8


def test_what_a_release_already_holds_is_not_laid_over_it_again(tmp_path: Path) -> None:
    log = AddedItems(tmp_path)
    log.append([{"item_id": "f0", "title": "Old name"}, {"item_id": "new", "title": "New"}])
    live = LiveShelf(shelf(), log, folded=log.size())
    assert live.now().title(0) == "Star"  # the release knows better, or a catalogue after the row
    assert live.now().title(live.now().number("new")) == "New"  # the release has no number for it
    log.append([{"item_id": "f0", "title": "Newest"}])
    assert live.now().title(0) == "Newest"


def test_a_refused_append_leaves_nothing_behind(tmp_path: Path) -> None:
    added = AddedItems(tmp_path)
    added.append([{"item_id": "good"}])
    with pytest.raises(ValueError, match="JSON"):
        added.append([{"item_id": "bad", "value": float("nan")}])
    assert [row["item_id"] for row in added.read()[0]] == ["good"]


def test_a_full_disk_is_an_error_and_leaves_nothing_behind() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    added = AddedItems(Path("/dev"))
    added.path = Path("/dev/full")
    with pytest.raises(OSError, match=r"[Nn]o space"):
        added.append([{"item_id": "x"}])
