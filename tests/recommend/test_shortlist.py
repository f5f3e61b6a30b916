"""Searching an index and scoring everything give the same slates."""

from __future__ import annotations

from pathlib import Path

import film_world
import numpy as np
import pytest
from test_memo import ITEMS, transformer

from slipstream.inference.item_index import ItemIndex, exact_scores
from slipstream.models.deep.transformer import Transformer
from slipstream.recommend.newcomers import AddedItems
from slipstream.recommend.pipeline import Pipeline, Request
from slipstream.recommend.rules import Rules
from slipstream.recommend.shortlist import Scored, Searched, varied


@pytest.mark.parametrize("seed", range(5))
def test_the_best_are_the_same_with_exclusions_and_ties(seed: int) -> None:
    random = np.random.default_rng(seed)
    vectors = random.integers(-2, 3, (300, 6)).astype(np.float32)  # many equal scores
    query = random.integers(-2, 3, (1, 6)).astype(np.float32)
    excluded = random.random(300) < 0.3
    scored, searched = Scored(exact_scores(query[0], vectors)), Searched(ItemIndex(vectors), query)
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
    column = next(iter(release.shelf.columns))
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
    for _ in range(2):  # without newcomers, then with one, which borrows from the scores of all items
        for request in requests:
            ours, theirs = fast.recommend(request).items, slow.recommend(request).items
            assert [item.item_id for item in ours] == [item.item_id for item in theirs]
            assert [item.score for item in ours] == pytest.approx([item.score for item in theirs], rel=1e-5)
        added.append([{"item_id": "new", "title": "New", column: "x"}])
    queries, rescored = fast.searched()
    assert 0 < queries < rescored
    assert slow.searched() == (0, 0)


def test_a_full_shelf_of_one_value_is_looked_through_to_the_end() -> None:
    class Shelf:
        def attributes(self, item: int) -> dict[str, tuple[str, ...]]:
            return {"maker": ("one",) if item < 200 else (f"m{item}",)}

    scores = -np.arange(300, dtype=np.float32)
    chosen = varied(Scored(scores), np.zeros(300, bool), 5, Shelf(), {"maker": 1}, 0)  # type: ignore[arg-type]
    assert [item for item, _ in chosen] == [0, 200, 201, 202, 203]
