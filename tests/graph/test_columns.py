"""Which values of a column connect rows, and which columns are left alone."""

from __future__ import annotations

from datetime import date

import polars as pl
import pytest

from slipstream.errors import BadInput
from slipstream.graph.columns import ColumnRule, column_values, find_separator

NAMES = ["Ada", "Bo", "Cy", "Di", "Ed"]


def values_of(series: pl.Series, rule: ColumnRule | None = None) -> set[tuple[int, str]]:
    return set(column_values(series, rule).cells.iter_rows())


def treatment(series: pl.Series) -> str:
    return column_values(series).report.treatment


def test_lists_are_split_and_a_value_counts_once_per_row() -> None:
    genres = pl.Series("genres", [["Drama", "Crime", "Drama"], [], None, [" Crime ", ""]])
    assert values_of(genres) == {(0, "Drama"), (0, "Crime"), (3, "Crime")}


def test_lists_written_as_text_are_split_only_if_their_parts_recur() -> None:
    casts = pl.Series("cast", [f"{a}, {b}" for a in NAMES for b in NAMES if a != b])
    assert treatment(casts) == "list"
    assert (0, "Ada") in values_of(casts)
    titles = pl.Series("title", [f"{word} Suspects Number{n}, The" for n, word in enumerate(NAMES * 8)])
    assert find_separator(titles) is None


def test_an_escaped_sign_is_no_separator() -> None:
    brands = pl.Series("brand", ["L&#39;Oreal", "Head &amp; Shoulders", "OPI"] * 5)
    assert find_separator(brands) is None
    assert (0, "L&#39;Oreal") in values_of(brands)


@pytest.mark.parametrize(
    ("years", "expected"),
    [
        (pl.Series("released", [1994, 1999, 2001, None]), {(0, "1990s"), (1, "1990s"), (2, "2000s")}),
        (pl.Series("born", [date(1969, 12, 31), date(1970, 1, 1), None]), {(0, "1960s"), (1, "1970s")}),
        (pl.Series("day", ["1989-05-05", "1995-01-01"]), {(0, "1980s"), (1, "1990s")}),
    ],
)
def test_years_and_dates_become_decades(years: pl.Series, expected: set[tuple[int, str]]) -> None:
    assert values_of(years) == expected


def test_numbers_are_bucketed_by_quantiles_and_every_number_has_one_bucket() -> None:
    prices = pl.Series("price", [float(i) + 0.5 for i in range(100)])
    values = column_values(prices)
    assert values.report.treatment == "buckets"
    assert values.report.values == 5
    sizes = values.cells["value"].value_counts()["count"]
    assert sizes.min() == sizes.max() == 20
    assert values.cells["row"].n_unique() == 100


def test_codes_stay_categories() -> None:
    assert values_of(pl.Series("age_code", [1, 18, 1, 25])) == {(0, "1"), (1, "18"), (2, "1"), (3, "25")}


@pytest.mark.parametrize(
    ("series", "why"),
    [
        (pl.Series("item_id", range(100)), "an id"),
        (pl.Series("sku", [f"B00{i}" for i in range(50)]), "like an id: all different"),
        (pl.Series("plot", [f"A long story about hero {i} and a dog" for i in range(50)]), "free text"),
        (pl.Series("url", [f"https://example.org/{i}" for i in range(20)]), "addresses"),
        (pl.Series("country", ["Italy"] * 20), "the same value"),
        (pl.Series("empty", [None, None], pl.String), "empty"),
        (pl.Series("nothing", [None, None]), "empty"),
    ],
)
def test_columns_that_connect_nothing_are_left_out_with_a_reason(series: pl.Series, why: str) -> None:
    values = column_values(series)
    assert values.cells.is_empty()
    assert values.report.treatment == "left out"
    assert why in values.report.why


def test_free_text_gives_words_when_asked() -> None:
    plots = pl.Series("plot", ["A dog and a CAT", "the dog"])
    assert (0, "cat") in values_of(plots, ColumnRule(treat="words"))


def test_markers_of_missing_values_are_no_values() -> None:
    assert values_of(pl.Series("director", ["N/A", "Ada", "", "Ada", "\\N"])) == {(1, "Ada"), (3, "Ada")}


def test_a_number_needs_two_buckets() -> None:
    with pytest.raises(BadInput, match="at least 2 buckets"):
        column_values(pl.Series("x", [1.5, 2.5]), ColumnRule(treat="buckets", buckets=1))
