"""A data folder: order of the rows, values, times, optional tables, and what is refused."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from slipstream.dataset.folder import read_folder
from slipstream.errors import BadInput, NotThere


def write(folder: Path, name: str = "interactions", /, **columns: list[object]) -> Path:
    folder.mkdir(exist_ok=True)
    pl.DataFrame(columns, strict=False).write_parquet(folder / f"{name}.parquet")
    return folder


def test_rows_come_by_time_then_seq_then_row_of_the_file(tmp_path: Path) -> None:
    write(
        tmp_path,
        user_id=["a", "a", "b", "a", "b"],
        item_id=["1", "2", "3", "4", "5"],
        timestamp=[5, 3, 3, 3, 1],
        seq=[0, 2, 1, 1, 0],
    )
    assert read_folder(tmp_path).interactions["item_id"].to_list() == ["5", "3", "4", "2", "1"]


def test_without_time_and_seq_the_file_order_stays_and_means_nothing(tmp_path: Path) -> None:
    folder = read_folder(write(tmp_path, user_id=["b", "a"], item_id=["2", "1"]))
    assert folder.interactions["user_id"].to_list() == ["b", "a"]
    assert (folder.has_time, folder.has_order) == (False, False)
    assert folder.interactions.columns == ["user_id", "item_id", "value"]
    assert folder.items is folder.users is folder.kg is folder.item_links is None


def test_seq_is_an_order_without_a_clock(tmp_path: Path) -> None:
    folder = read_folder(write(tmp_path, user_id=["a", "a"], item_id=["2", "1"], seq=[1, 0]))
    assert (folder.has_time, folder.has_order) == (False, True)
    assert folder.interactions["item_id"].to_list() == ["1", "2"]


def test_seconds_become_microseconds_whatever_their_type(tmp_path: Path) -> None:
    whole = read_folder(write(tmp_path / "i", user_id=["a"], item_id=["1"], timestamp=[978_300_760]))
    part = read_folder(write(tmp_path / "f", user_id=["a"], item_id=["1"], timestamp=[978_300_760.25]))
    assert whole.interactions["time_us"].to_list() == [978_300_760_000_000]
    assert part.interactions["time_us"].to_list() == [978_300_760_250_000]


def test_a_missing_time_sorts_first_and_takes_the_earliest_known_one(tmp_path: Path) -> None:
    folder = read_folder(write(tmp_path, user_id=["a", "a"], item_id=["1", "2"], timestamp=[7, None]))
    assert folder.interactions["item_id"].to_list() == ["2", "1"]
    assert folder.interactions["time_us"].to_list() == [7_000_000, 7_000_000]


def test_value_is_the_rating_else_the_weight_else_one(tmp_path: Path) -> None:
    rated = write(tmp_path / "r", user_id=["a", "b"], item_id=["1", "1"], rating=[4.5, None], weight=[9, 9])
    weighed = write(tmp_path / "w", user_id=["a"], item_id=["1"], weight=[9])
    assert read_folder(rated).interactions["value"].to_list() == [4.5, 1.0]
    assert read_folder(weighed).interactions["value"].to_list() == [9.0]
    assert read_folder(weighed).interactions.schema["value"] == pl.Float32


def test_whole_number_ids_become_text_and_rows_without_ids_are_counted(tmp_path: Path) -> None:
    folder = read_folder(write(tmp_path, user_id=[1, None, 3], item_id=[10, 20, None]))
    assert folder.interactions.rows() == [("1", "10", 1.0)]
    assert folder.dropped == 2


def test_repeated_rows_stay(tmp_path: Path) -> None:
    folder = read_folder(write(tmp_path, user_id=["a", "a"], item_id=["1", "1"], timestamp=[1, 1]))
    assert folder.interactions.height == 2


def test_catalogue_and_graph_are_read_and_another_graph_by_its_name(tmp_path: Path) -> None:
    write(tmp_path, user_id=["a"], item_id=["1"])
    write(tmp_path, "items", item_id=[1], title=["One"])
    write(tmp_path, "kg", head=["x"], relation=["r"], tail=["y"])
    write(tmp_path, "kg_mkr", head=["p"], relation=["q"], tail=["r"])
    write(tmp_path, "item_links_mkr", item_id=["1"], entity_id=["p"])
    folder, other = read_folder(tmp_path), read_folder(tmp_path, graph="mkr")
    assert folder.items is not None
    assert folder.items["item_id"].to_list() == ["1"]
    assert folder.kg is not None
    assert folder.kg["head"].to_list() == ["x"]
    assert folder.item_links is None
    assert other.item_links is not None
    with pytest.raises(NotThere, match="kg_none"):
        read_folder(tmp_path, graph="none")


def test_what_is_not_there_or_not_in_the_form_is_said_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(NotThere, match="no data folder") as nothing:
        read_folder(tmp_path / "nowhere")
    assert "interactions.parquet" in nothing.value.hint
    with pytest.raises(NotThere, match=r"no interactions\.parquet"):
        read_folder(tmp_path)
    with pytest.raises(BadInput, match=r"no column 'item_id'; it has: user_id, film"):
        read_folder(write(tmp_path / "c", user_id=["a"], film=["1"]))
    with pytest.raises(BadInput, match="no row with a user and an item"):
        read_folder(write(tmp_path / "e", user_id=[None], item_id=["1"]))
    with pytest.raises(BadInput, match="timestamp must be unix seconds"):
        read_folder(write(tmp_path / "t", user_id=["a"], item_id=["1"], timestamp=["yesterday"]))
    (tmp_path / "interactions.parquet").write_text("not parquet")
    with pytest.raises(BadInput, match="cannot be read as Parquet"):
        read_folder(tmp_path)


def test_edges_between_people_are_read_by_the_name_of_their_file(tmp_path: Path) -> None:
    folder = write(tmp_path, user_id=["1", "2"], item_id=["1", "2"])
    assert read_folder(folder).people_edges is None
    write(folder, "user_friends", user_id=[1, 2, None], friend_id=[2, 1, 3], since=[5, 5, 5])
    write(folder, "trust", truster=["2"], trustee=["7"])
    edges = read_folder(folder).people_edges
    assert edges is not None
    assert edges.rows() == [("1", "friend", "2"), ("2", "friend", "1"), ("2", "trusts", "7")]
    write(folder, "trust", truster=["2"])
    with pytest.raises(BadInput, match=r"trust\.parquet needs two columns of user ids"):
        read_folder(folder)
