"""A goal: only purchases are targets, and looking at a thing does not make it known."""

from pathlib import Path

import polars as pl
import pytest

from slipstream.dataset.folder import read_folder
from slipstream.dataset.splits import board
from slipstream.errors import BadInput


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    rows = [(f"u{u}", f"i{n}", "view", 10 * u + n) for u in range(3) for n in range(6)]
    rows += [
        ("u0", "i0", "purchase", 1_000),
        ("u1", "i1", "purchase", 1_001),
        ("u1", "i1", "purchase", 1_002),
    ]
    rows += [("u2", "i5", "view", 1_003)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "kind", "timestamp"], orient="row")
    frame.write_parquet(tmp_path / "interactions.parquet")
    return tmp_path


def test_only_events_of_the_goal_are_asked_for(shop: Path) -> None:
    cut = board(read_folder(shop), "loo", goal="purchase")
    asked = [cut.past.users[int(u)] for u in cut.test.queries.user]
    assert asked == ["u0", "u1"]
    assert [cut.past.items[int(i)] for i in cut.test.target] == ["i0", "i1"]


def test_a_viewed_item_can_still_be_bought_but_a_bought_one_is_known(shop: Path) -> None:
    cut = board(read_folder(shop), "temporal", goal="purchase")
    assert [cut.past.users[int(u)] for u in cut.test.queries.user] == ["u1"]  # the last 2 of 22 events
    with pytest.raises(BadInput, match="nothing to test on"):
        board(read_folder(shop), "temporal")  # without the goal a viewed item is known already


def test_a_kind_that_nobody_has_is_refused(shop: Path) -> None:
    with pytest.raises(BadInput, match="has the kind 'refund'"):
        board(read_folder(shop), "loo", goal="refund")
