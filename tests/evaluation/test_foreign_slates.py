"""Lists of others: scored like ours, their faults counted, unreadable ones refused."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from club_world import interactions, write_folder

from slipstream.dataset.folder import read_folder
from slipstream.errors import BadInput, SlipstreamError
from slipstream.evaluation.slates import evaluate_slates


@pytest.fixture(scope="module")
def club(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "clubs", interactions())


def test_foreign_slates_and_their_faults(club: Path) -> None:
    rows = read_folder(club).interactions
    last = rows.group_by("user_id", maintain_order=True).agg(pl.col("item_id"))
    users = last["user_id"].to_list()
    perfect = {user: [items[-1]] for user, items in last.iter_rows()}
    perfect[users[0]] = ["no such item", last["item_id"][0][0], perfect[users[0]][0], perfect[users[0]][0]]
    del perfect[users[1]]
    table = [(u, i, place) for u, items in perfect.items() for place, i in enumerate(items)]
    frame = pl.DataFrame(
        [*table, ("a stranger", "club0-00", 0)], schema=["user_id", "item_id", "rank"], orient="row"
    )
    trial = evaluate_slates(club, "loo", frame.sample(fraction=1.0, shuffle=True, seed=1), name="oracle")
    assert trial.faults == {"seen": 1, "repeats": 1, "unknown": 1, "users_without_list": 1}
    assert trial.scores.users_without_list == 1  # the others have short lists
    assert trial.metrics["HR@10"] == pytest.approx(59 / 60)
    assert trial.metrics["MRR@10"] == pytest.approx((58 + 1 / 3) / 60)
    assert trial.to_json()["faults"]["seen"] == 1
    assert trial.name == "oracle"


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pl.DataFrame({"user_id": ["u"], "item_id": ["i"]}), "no column 'rank'; they have: user_id, item_id"),
        (pl.DataFrame({"user_id": ["u"], "item_id": ["i"], "rank": ["one"]}), "must hold numbers"),
        (pl.DataFrame({"user_id": ["u"], "item_id": [None], "rank": [1]}), "rows without a user"),
    ],
)
def test_slates_that_cannot_be_read(club: Path, frame: pl.DataFrame, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        evaluate_slates(club, "loo", frame)


def test_slates_that_are_not_there_or_broken(club: Path, tmp_path: Path) -> None:
    with pytest.raises(SlipstreamError, match="no slates at"):
        evaluate_slates(club, "loo", tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(BadInput, match="cannot be read as Parquet"):
        evaluate_slates(club, "loo", tmp_path / "text.parquet")
