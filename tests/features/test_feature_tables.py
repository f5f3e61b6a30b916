"""Features of items, users and events: what is in them, and that none looks ahead."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.dataset.queries import query_of
from slipstream.dataset.snapshot import snapshot_of
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.features.events import event_features, event_lines, gap_bin
from slipstream.features.items import item_features
from slipstream.features.text import words
from slipstream.features.users import strongest, taste_profile, user_features

FILMS = pl.DataFrame(
    {
        "item_id": ["a", "b", "c", "d", "stranger"],
        "title": ["The Red Planet", "Red Dawn", "Blue Planet", "Solaris", "Red Red Red"],
        "genre": [["scifi"], ["war", "scifi"], ["documentary"], None, ["war"]],
        "country": ["US", "US", "UK", "UK", "US"],
        "year": [1990, 1984, 2001, None, 2020],
    }
)
ITEMS = Vocabulary.of(["d", "c", "b", "a", "e"])


def test_each_column_is_treated_by_what_it_holds() -> None:
    features = item_features(FILMS, ITEMS)
    assert features is not None
    treatment = {c.column: c.treatment for c in features.columns}
    assert treatment == {"title": "words", "genre": "list", "country": "categories", "year": "left out"}
    assert set(features.names) == {
        "title~red",
        "title~planet",
        "genre=scifi",
        "country=US",
        "country=UK",
    }


def test_rows_follow_the_vocabulary_and_have_unit_length() -> None:
    features = item_features(FILMS, ITEMS)
    assert features is not None
    dense = features.matrix.toarray()
    length = np.sqrt((dense**2).sum(axis=1))
    np.testing.assert_allclose(length, [1, 1, 1, 1, 0], atol=1e-6)  # "e" has no row in the catalogue
    red = features.names.index("title~red")
    assert (dense[:, red] > 0).tolist() == [False, False, True, True, False]


def test_numbers_are_cut_at_quantiles() -> None:
    frame = pl.DataFrame({"item_id": [str(i) for i in range(100)], "price": [float(i) for i in range(100)]})
    features = item_features(frame, Vocabulary.of(frame["item_id"]))
    assert features is not None
    assert len(features.names) == 5
    assert features.columns[0].treatment == "buckets"
    assert features.columns[0].coverage == 1.0


def test_no_table_gives_no_features() -> None:
    assert item_features(None, ITEMS) is None
    assert user_features(None, ITEMS) is None


def test_user_features_read_the_users_table() -> None:
    people = pl.DataFrame(
        {"user_id": ["x", "y", "z"], "job": ["nurse", "nurse", "cook"], "age": [20, 20, 60]}
    )
    features = user_features(people, Vocabulary.of(["z", "y", "x"]))
    assert features is not None
    assert set(features.names) == {"job=nurse", "age=20"}


def test_taste_profile_weighs_the_newest_most() -> None:
    features = item_features(FILMS, ITEMS)
    assert features is not None
    b, c = ITEMS.number("b"), ITEMS.number("c")
    profile = taste_profile(query_of([b, c]), features, half_life=1.0)
    assert strongest(profile[0], features.names, 1)[0][0] in {"country=UK", "title~planet"}
    assert taste_profile(query_of([]), features).nnz == 0
    assert taste_profile(query_of([-1]), features).nnz == 0


def test_words_fold_case_accents_and_split_scripts_without_spaces() -> None:
    assert words("The Café of ÉCLAIRS, 1995") == ["cafe", "eclairs", "1995"]
    assert words("星球大战") == ["星球", "球大", "大战"]


rows = st.lists(
    st.tuples(st.sampled_from("uvw"), st.sampled_from("abc"), st.integers(0, 5)), min_size=1, max_size=30
)


@given(rows)
def test_popularity_is_as_of_the_event(events: list[tuple[str, str, int]]) -> None:
    frame = pl.DataFrame(events, schema=["user_id", "item_id", "minute"], orient="row").with_columns(
        time_us=pl.col("minute") * 60_000_000
    )
    snapshot = snapshot_of(frame)
    found = event_features(snapshot)
    # An independent count: events in time order, ties by place in the snapshot.
    order = sorted(range(snapshot.event_count), key=lambda e: (int(snapshot.time_us[e]), e))  # type: ignore[index]
    seen: dict[int, int] = {}
    for e in order:
        assert found.popularity[e] == seen.get(int(snapshot.item[e]), 0)
        seen[int(snapshot.item[e])] = seen.get(int(snapshot.item[e]), 0) + 1


@given(rows)
def test_dropping_the_last_event_changes_no_earlier_feature(events: list[tuple[str, str, int]]) -> None:
    frame = pl.DataFrame(events, schema=["user_id", "item_id", "minute"], orient="row").with_columns(
        time_us=pl.col("minute") * 60_000_000
    )
    snapshot = snapshot_of(frame)
    last = int(np.lexsort((np.arange(snapshot.event_count), snapshot.time_us))[-1])
    mask = np.ones(snapshot.event_count, bool)
    mask[last] = False
    before, after = event_features(snapshot), event_features(snapshot.keep(mask))
    for name in ("popularity", "position", "gap_bin", "hour", "weekday"):
        np.testing.assert_array_equal(getattr(before, name)[mask], getattr(after, name))


def test_without_a_clock_there_are_no_time_features() -> None:
    frame = pl.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "a"]})
    found = event_features(snapshot_of(frame))
    assert found.hour is None
    assert found.popularity.tolist() == [0, 1]


@pytest.mark.parametrize(("minutes", "expected"), [(0, 0), (0.5, 1), (1, 2), (3, 3), (1e9, 15)])
def test_gap_bins_are_logarithmic(minutes: float, expected: int) -> None:
    assert gap_bin(np.array([int(minutes * 60e6)]))[0] == expected


def test_the_words_about_events_are_true_of_them() -> None:
    frame = pl.DataFrame(
        {"user_id": ["u", "u", "v"], "item_id": ["a", "a", "a"], "time_us": [0, 60_000_000, 3_600_000_000]}
    )
    said = event_lines(event_features(snapshot_of(frame)))
    assert said[0].startswith("popularity as of the event: 1 earlier events of the item at the median")
    assert "100% of the events follow the last" in said[1]
