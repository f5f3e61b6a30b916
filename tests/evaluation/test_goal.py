"""Boards that ask only for one kind of event."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from club_world import interactions, write_folder

from slipstream.dataset.folder import read_folder
from slipstream.errors import BadInput
from slipstream.evaluation.arena import open_arenas
from slipstream.evaluation.trial import run_trial


@pytest.fixture(scope="module")
def club(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "clubs", interactions())


def test_only_the_goal_counts(club: Path) -> None:
    plain = read_folder(club)
    kind = (
        pl.when(pl.int_range(pl.len()) % 3 == 0)
        .then(pl.lit("purchase"))
        .otherwise(pl.lit("view"))
        .alias("kind")
    )
    folder = replace(plain, interactions=plain.interactions.with_columns(kind))
    (arena,) = open_arenas(folder, ["temporal"], goal="purchase")
    (whole,) = open_arenas(folder, ["temporal"])
    rows = folder.interactions
    future = rows[math.floor(rows.height * 0.9) :].filter(pl.col("kind") == "purchase")
    bought = set(future.select("user_id", "item_id").iter_rows())
    past = arena.board.past
    for q, user in enumerate(past.users.texts(arena.board.test.queries.user)):
        wanted = past.items.texts(arena.board.test.targets(q))
        assert wanted
        assert {(user, item) for item in wanted} <= bought
    assert 0 < arena.board.targets < whole.board.targets
    np.testing.assert_array_equal(
        arena.board.test.queries.history(0), past.history(arena.board.test.queries.user[0])
    )
    assert arena.board.targets_sha256 != whole.board.targets_sha256
    trial = run_trial(folder, "popularity", "temporal", goal="purchase")
    assert (trial.users, trial.targets) == (arena.board.users, arena.board.targets)
    assert trial.validation
    strict = run_trial(folder, "popularity", "loo", goal="purchase")
    assert 0 < strict.users < 60
    assert sum(part.users for part in strict.scores.by_gap) == strict.users
    with pytest.raises(BadInput, match=r"no event of .* has the kind 'sale'") as caught:
        open_arenas(folder, ["loo"], goal="sale")
    assert caught.value.hint == "known kinds: purchase, view"
    with pytest.raises(BadInput):
        open_arenas(club, ["loo"], goal="purchase")
    early = rows.with_columns(
        kind=pl.when(pl.int_range(pl.len()) < 5).then(pl.lit("purchase")).otherwise(pl.lit("view"))
    )
    with pytest.raises(BadInput, match="no event of the kind 'purchase' to test on"):
        open_arenas(replace(plain, interactions=early), ["loo"], goal="purchase")


def test_all_views_as_the_goal_change_nothing(club: Path) -> None:
    plain = read_folder(club)
    folder = replace(plain, interactions=plain.interactions.with_columns(pl.lit("view").alias("kind")))
    for name in ("loo-t", "temporal", "split", "cold"):
        (arena,) = open_arenas(folder, [name], goal="view")
        (whole,) = open_arenas(folder, [name])
        assert arena.board.targets_sha256 == whole.board.targets_sha256
        np.testing.assert_array_equal(arena.board.test.queries.item, whole.board.test.queries.item)
        np.testing.assert_array_equal(arena.board.test.target, whole.board.test.target)


def test_where_people_come_back_a_touched_item_is_a_target(tmp_path: Path) -> None:
    walks = {"u1": "abcabca", "u2": "bcdbcdb", "u3": "abcdabc"}
    rows = [(user, item) for step in range(7) for user, walk in walks.items() for item in walk[step]]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    folder = write_folder(tmp_path / "grocer", frame.with_row_index("timestamp", offset=1))
    (arena,) = open_arenas(folder, ["temporal"], repeat=True)
    board = arena.board
    asked = dict(zip(board.past.users.texts(board.test.queries.user), range(3), strict=False))
    assert {user: board.past.items.texts(board.test.targets(q)) for user, q in asked.items()} == {
        "u1": ["a"],
        "u2": ["b"],
        "u3": ["c"],
    }
    assert arena.data.repeat
    assert board.validation is not None
    assert arena.data.validation is not None
    assert arena.data.validation.repeat
    with pytest.raises(BadInput, match="nothing to test on"):
        open_arenas(folder, ["temporal"])


def test_looking_again_at_what_was_bought_is_no_purchase(tmp_path: Path) -> None:
    rows = [("u1", "a", "purchase"), ("u1", "b", "view"), ("u1", "c", "view"), ("u1", "a", "view")]
    rows += [("u2", "b", "view"), ("u2", "c", "view"), ("u2", "a", "purchase")]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "kind"], orient="row")
    folder = write_folder(tmp_path / "shop", frame.with_row_index("timestamp", offset=1))
    (arena,) = open_arenas(folder, ["loo"], goal="purchase")
    board = arena.board
    assert board.past.users.texts(board.test.queries.user) == ["u2"]
    assert board.past.items.texts(board.test.targets(0)) == ["a"]
    assert board.validation is None  # both had looked only
