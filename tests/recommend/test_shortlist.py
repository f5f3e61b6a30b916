"""Searching an index and scoring everything give the same slates."""

from __future__ import annotations

from pathlib import Path

import film_world
import numpy as np
import polars as pl
import pytest
from test_memo import ITEMS, transformer

from slipstream.dataset.vocabulary import Vocabulary
from slipstream.inference.item_index import ItemIndex, exact_scores
from slipstream.models.deep.transformer import Transformer
from slipstream.recommend.catalogue import Catalogue
from slipstream.recommend.newcomers import AddedItems, Shelf
from slipstream.recommend.pipeline import Pipeline, Request
from slipstream.recommend.rules import Rules
from slipstream.recommend.shortlist import Scored, Searched, varied


@pytest.mark.parametrize("seed", range(5))
def test_the_best_are_the_same_with_exclusions_and_ties(seed: int) -> None:
    random = np.random.default_rng(seed)
    vectors = random.integers(-2, 3, (300, 6)).astype(np.float32)  # many equal scores
    query = random.integers(-2, 3, (1, 6)).astype(np.float32)
    excluded = random.random(300) < 0.3
    names = Vocabulary.of([f"i{i}" for i in range(300)])
    shelf = Shelf(names, Catalogue.of(names, pl.DataFrame({"item_id": names.to_list()})))
    scored = Scored(exact_scores(query[0], vectors))
    searched = Searched(ItemIndex(vectors), query, shelf)
    for k in (1, 10, 299, 1_000):
        assert searched.best(excluded, k) == scored.best(excluded, k)


class Unsearchable:
    """The transformer, but one that can only be asked for the scores of all items."""

    def __init__(self, model: Transformer) -> None:
        self.settings, self.report, self.score, self.save = (
            model.settings,
            model.report,
            model.score,
            model.save,
        )


def test_slates_are_the_same_with_rules_filters_and_newcomers(tmp_path: Path) -> None:
    model = transformer(3)
    release = film_world.release(tmp_path / "r")
    added = AddedItems(tmp_path)
    column = min(release.shelf.columns)
    rules = Rules(variety={column: 2}, blocked=(release.items[3],))
    other = film_world.with_model(film_world.release(tmp_path / "s"), Unsearchable(model))
    fast = Pipeline(film_world.with_model(release, model), rules=rules, added=added)
    slow = Pipeline(other, rules=rules, added=added)
    history = [release.items[n] for n in (0, 5, 2)]
    requests = [
        Request(history=history, k=k, exclude=[release.items[6]], allow=allow)
        for k in (1, 4, ITEMS)
        for allow in (None, [release.items[n] for n in range(0, ITEMS, 2)])
    ]
    value = next(values[0] for n in range(ITEMS) if (values := release.shelf.attributes(n).get(column)))
    for values in ((value,), ("nobody else's",), None):  # without newcomers, with one, with two
        for request in requests:
            ours, theirs = fast.recommend(request).items, slow.recommend(request).items
            assert [item.item_id for item in ours] == [item.item_id for item in theirs]
            assert [item.score for item in ours] == pytest.approx([item.score for item in theirs], rel=1e-5)
        if values is not None:
            added.append([{"item_id": f"new {values[0]}", "title": "New", column: values[0]}])
    assert "new nobody else's" in {item.item_id for item in fast.recommend(Request(history=history)).items}
    queries, rescored = fast.searched()
    assert 0 < queries < rescored
    assert slow.searched() == (0, 0)


def test_a_full_shelf_of_one_value_is_looked_through_to_the_end() -> None:
    class Makers:
        def attributes(self, item: int) -> dict[str, tuple[str, ...]]:
            return {"maker": ("one",) if item < 200 else (f"m{item}",)}

    scores = -np.arange(300, dtype=np.float32)
    chosen = varied(Scored(scores), np.zeros(300, bool), 5, Makers(), {"maker": 1}, 0)  # type: ignore[arg-type]
    assert [item for item, _ in chosen] == [0, 200, 201, 202, 203]
