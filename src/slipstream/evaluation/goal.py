"""A board that asks only for what the business wants: purchases of a shop, say, and not every view.

Histories stay whole; only the targets are narrowed to events of one kind.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipstream.dataset.folder import DataFolder
from slipstream.dataset.queries import Holdout, queries_of
from slipstream.dataset.snapshot import Snapshot
from slipstream.dataset.splits import Board
from slipstream.errors import BadInput


def with_goal(board: Board, folder: DataFolder, goal: str) -> Board:
    """The board with only the targets that have a future event of the kind `goal`; others drop out.

    Raises BadInput where the data has no such kind, or none of its events is left in the test.
    """
    rows = folder.interactions
    kinds = rows["kind"].drop_nulls().unique().sort().to_list() if "kind" in rows.columns else []
    if goal not in kinds:
        listed = ", ".join(kinds) or "none, the interactions have no column kind"
        raise BadInput(f"no event of {folder.path} has the kind {goal!r}", hint=f"known kinds: {listed}")
    wanted = rows.filter(pl.col("kind") == goal).select("user_id", "item_id").unique()
    pairs = _pairs_of(
        board.past, board.past.users.numbers(wanted["user_id"]), board.past.items.numbers(wanted["item_id"])
    )
    keep = _reached(board.test, board.past, goal, pairs)
    test = _narrowed(board.test, board.past, keep)
    if not len(test):
        raise BadInput(
            f"board {board.name!r} has no event of the kind {goal!r} to test on",
            hint="choose another board or goal, or collect more of these events",
        )
    asked = np.isin(board.test.queries.user, test.queries.user)
    validation = board.validation
    if validation is not None:
        validation = _narrowed(validation, board.train, _reached(validation, board.train, goal, pairs))
    return replace(
        board,
        test=test,
        validation=validation if validation is not None and len(validation) else None,
        targets_sha256=_hash(test, board.past),
        gap_us=None if board.gap_us is None else board.gap_us[asked],
    )


def _pairs_of(data: Snapshot, user: NDArray[np.int32], item: NDArray[np.int32]) -> NDArray[np.int64]:
    return user.astype(np.int64) * data.item_count + item


def _reached(holdout: Holdout, history: Snapshot, goal: str, pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[T], True for a target that reached the goal some time, but not yet in the history."""
    users = np.repeat(holdout.queries.user, np.diff(holdout.offsets))
    own = _pairs_of(history, users, holdout.target)
    before = np.zeros(0, np.int64)
    if goal in history.kinds:
        done = history.kind == history.kinds.index(goal)
        before = _pairs_of(history, history.user[done], history.item[done])
    return np.isin(own, pairs) & ~np.isin(own, before)


def _narrowed(holdout: Holdout, history: Snapshot, keep: NDArray[np.bool_]) -> Holdout:
    """The targets to keep, and the queries that have any."""
    left = np.add.reduceat(np.append(keep, False).astype(np.int64), holdout.offsets[:-1])
    asked = left > 0
    now = holdout.queries.now_us
    return Holdout(
        queries=queries_of(history, holdout.queries.user[asked], now_us=None if now is None else now[asked]),
        offsets=np.concatenate([[0], np.cumsum(left[asked])]).astype(np.int64),
        target=holdout.target[keep],
    )


def _hash(test: Holdout, data: Snapshot) -> str:
    """SHA-256 of the sorted lines "user<tab>item<newline>", as boards have it."""
    users = data.users.series("user_id").gather(np.repeat(test.queries.user, np.diff(test.offsets)))
    lines = pl.DataFrame([users, data.items.series("item_id").gather(test.target)]).select(
        line=pl.format("{}\t{}\n", "user_id", "item_id")
    )
    return hashlib.sha256("".join(lines["line"].sort()).encode()).hexdigest()
