"""Lists as a table, and a foreign table of lists as a trial: peers are measured by the same functions as we.

A slates table has `user_id`, `item_id` (strings), `rank` (1 = best) and, if it likes, `score`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipstream.dataset.folder import DataFolder, read_folder
from slipstream.dataset.queries import Queries
from slipstream.dataset.snapshot import Snapshot
from slipstream.dataset.splits import Board, board
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.errors import BadInput, NotThere
from slipstream.evaluation.metrics import ItemLists, repeated
from slipstream.evaluation.result import Trial
from slipstream.evaluation.scores import ROWS, score_lists
from slipstream.evaluation.stages import Stopwatch, peak_rss_bytes, versions

COLUMNS = ("user_id", "item_id", "rank")
FORM_HINT = "slates have the columns user_id, item_id and rank (1 = best), one row per recommended item"


def slates_frame(
    snapshot: Snapshot, users: NDArray[np.int32], items: ItemLists, scores: NDArray[np.float32]
) -> pl.DataFrame:
    """user_id, item_id, rank, score of the lists [Q, K]; places without an answer have no row."""
    query, place = np.nonzero(items >= 0)
    return pl.DataFrame(
        [
            snapshot.users.series("user_id").gather(users[query]),
            snapshot.items.series("item_id").gather(items[query, place]),
            pl.Series("rank", place + 1, pl.Int32),
            pl.Series("score", scores[query, place], pl.Float32),
        ]
    )


def evaluate_slates(
    data: DataFolder | str | Path,
    board_name: str,
    slates: pl.DataFrame | str | Path,
    *,
    k: int = 10,
    seed: int = 0,
    name: str = "slates",
) -> Trial:
    """Score foreign lists on a board of `data`. A user without a list scores 0; other users are ignored.

    `faults` counts, within the first k places: items the user has already touched, repeats (a repeated item
    counts as a hit once), items that the board does not allow, and users without a list.
    Raises BadInput where the table is not as above.
    """
    stopwatch = Stopwatch()
    with stopwatch.stage("read"):
        folder = data if isinstance(data, DataFolder) else read_folder(data)
        table = slates if isinstance(slates, pl.DataFrame) else _read(Path(slates))
        rows = _ranked(table)
    with stopwatch.stage("split"):
        cut = board(folder, board_name, seed=seed)
    with stopwatch.stage("measure"):
        lists = _lists(rows, cut, max(k, ROWS))
        scores = score_lists(cut, np.where(lists >= 0, lists, -1).astype(np.int32), k=k)
    return Trial(
        model=name,
        board=board_name,
        data=folder.name,
        seed=seed,
        k=k,
        scores=scores,
        validation={},
        refit=False,
        users=cut.users,
        targets=cut.targets,
        targets_sha256=cut.targets_sha256,
        user_ids=cut.past.users.series("user_id").gather(cut.test.queries.user),
        slates=rows,
        stages=stopwatch.costs,
        peak_rss_bytes=peak_rss_bytes(),
        threads=1,
        config={},
        versions=versions(),
        faults=_faults(lists[:, :k], cut),
    )


def _read(file: Path) -> pl.DataFrame:
    if not file.exists():
        raise NotThere(f"there are no slates at {file}", hint=FORM_HINT)
    try:
        return pl.read_parquet(file)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadInput(f"{file} cannot be read as Parquet: {error}", hint=FORM_HINT) from error


def _ranked(table: pl.DataFrame) -> pl.DataFrame:
    """The rows in the order of their lists, ids as text."""
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        listed = ", ".join(table.columns) or "none"
        raise BadInput(f"the slates have no column {missing[0]!r}; they have: {listed}", hint=FORM_HINT)
    if not table.schema["rank"].is_numeric():
        raise BadInput(f"the column rank must hold numbers, it holds {table.schema['rank']}", hint=FORM_HINT)
    if table.select(pl.any_horizontal(pl.col(COLUMNS).is_null().any())).item():
        raise BadInput("the slates have rows without a user, an item or a rank", hint=FORM_HINT)
    text = table.with_columns(pl.col("user_id", "item_id").cast(pl.String))
    return text.sort("user_id", "rank", maintain_order=True)


_OUTSIDE = -2
"""Stands in a list where the data does not know the item: a miss that takes up its place."""


def _lists(rows: pl.DataFrame, cut: Board, width: int) -> ItemLists:
    """The lists of the board's users, [Q, width]; -1 after a list's end, _OUTSIDE for an unknown item."""
    users, items = cut.past.users, cut.past.items
    query_of_user = np.full(len(users) + 1, -1, np.int64)  # the last one is for unknown users
    query_of_user[cut.test.queries.user] = np.arange(len(cut.test))
    query = query_of_user[users.numbers(rows["user_id"])]
    place = rows.select(pl.int_range(pl.len()).over("user_id")).to_series().to_numpy()
    item = _numbers(items, rows["item_id"])
    keep = (query >= 0) & (place < width)
    lists = np.full((len(cut.test), width), -1, np.int32)
    lists[query[keep], place[keep]] = item[keep]
    return lists


def _numbers(items: Vocabulary, ids: pl.Series) -> NDArray[np.int32]:
    numbers = items.numbers(ids)
    return np.where(numbers < 0, _OUTSIDE, numbers).astype(np.int32)


def _faults(lists: ItemLists, cut: Board) -> dict[str, int]:
    queries: Queries = cut.test.queries
    known = np.maximum(lists, 0).astype(np.int64)
    width = cut.past.item_count
    keys = np.arange(len(lists), dtype=np.int64)[:, None] * width + known
    seen = np.isin(keys, queries.rows() * width + queries.item) & (lists >= 0)
    outside = lists == _OUTSIDE
    if cut.candidates is not None:
        outside |= (lists >= 0) & ~cut.candidates[known]
    return {
        "seen": int(seen.sum()),
        "repeats": int(repeated(lists).sum()),
        "unknown": int(outside.sum()),
        "users_without_list": int((lists == -1).all(axis=1).sum()),
    }
