"""The numbering hash table, the packed sort and the k-core against plain Python."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.dataset.numbering import Numbering
from slipstream.dataset.ordering import (
    find_repeats,
    gather,
    grouped_order,
    k_core,
    order_by_user,
    time_order,
    user_blocks,
)
from slipstream.errors import BadInput

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
WHOLE = st.one_of(st.integers(-3, 3), st.integers(-(2**63) + 1, 2**63 - 1))


def plain_numbers(ids: list[object]) -> list[int]:
    found: dict[object, int] = {}
    return [found.setdefault(i, len(found)) for i in ids]


@given(batches=st.lists(st.lists(TEXTS, max_size=20), max_size=5))
def test_texts_are_numbered_by_first_appearance(batches: list[list[str]]) -> None:
    numbering = Numbering()
    got = [n for batch in batches for n in numbering.numbers(pl.Series("id", batch, pl.String)).tolist()]
    flat = [text for batch in batches for text in batch]
    assert got == plain_numbers(flat)  # type: ignore[arg-type]
    assert numbering.ids().to_list() == list(dict.fromkeys(flat))
    assert len(numbering) == len(set(flat))


@given(batches=st.lists(st.lists(WHOLE, max_size=20), max_size=5))
def test_whole_numbers_are_numbered_by_first_appearance(batches: list[list[int]]) -> None:
    numbering = Numbering()
    got = [n for batch in batches for n in numbering.numbers(pl.Series("id", batch, pl.Int64)).tolist()]
    flat = [number for batch in batches for number in batch]
    assert got == plain_numbers(flat)  # type: ignore[arg-type]
    assert numbering.ids().to_list() == [str(number) for number in dict.fromkeys(flat)]


@pytest.mark.parametrize("textual", [True, False])
def test_the_table_grows_and_old_numbers_stay(textual: bool) -> None:
    random = np.random.default_rng(3)
    numbering, seen = Numbering(), {}
    for size in (10, 3_000, 200_000, 50):
        ids = random.integers(-100_000, 100_000, size)
        column = pl.Series("id", ids).cast(pl.String) if textual else pl.Series("id", ids)
        for i, n in zip(ids.tolist(), numbering.numbers(column).tolist(), strict=True):
            assert seen.setdefault(i, n) == n
    assert sorted(seen.values()) == list(range(len(numbering)))
    assert {int(text): n for n, text in enumerate(numbering.ids())} == seen
    texts, numbers = numbering.in_text_order()
    assert texts.to_list() == sorted(numbering.ids())
    assert numbering.ids().gather(numbers).to_list() == texts.to_list()


def test_ids_of_two_natures_and_the_one_reserved_number_are_refused() -> None:
    numbering = Numbering()
    numbering.numbers(pl.Series("user", ["a"]))
    with pytest.raises(BadInput, match="'user' are partly text and partly whole numbers"):
        numbering.numbers(pl.Series("user", [1]))
    with pytest.raises(BadInput, match="-9223372036854775808 in 'id' cannot be used"):
        Numbering().numbers(pl.Series("id", [-(2**63)]))


@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2**62)), max_size=60),
    huge=st.booleans(),
)
def test_packed_order_is_the_stable_order(rows: list[tuple[int, int, int]], huge: bool) -> None:
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    fields = tuple(columns if huge else columns[:2])
    order, starts = grouped_order(*fields)
    keys = list(zip(*(field.tolist() for field in fields), strict=True))
    assert order.tolist() == sorted(range(len(keys)), key=lambda n: keys[n])
    ordered = [keys[n] for n in order]
    assert starts.tolist() == [n == 0 or ordered[n] != ordered[n - 1] for n in range(len(ordered))]


@given(user=st.lists(st.integers(0, 4), max_size=60), extra=st.integers(0, 2))
def test_the_sort_by_user_is_stable_and_blocks_cover_all_users(user: list[int], extra: int) -> None:
    users = 5 + extra  # some users have no event
    offsets, order = order_by_user(np.array(user, np.int32), users)
    assert order.tolist() == sorted(range(len(user)), key=lambda n: user[n])
    assert np.diff(offsets).tolist() == [user.count(u) for u in range(users)]
    assert gather(np.arange(len(user)) * 3, order, step=7).tolist() == (order * 3).tolist()
    blocks = list(user_blocks(offsets, events=10))
    assert [b[0] for b in blocks] + [users] == [0] + [b[1] for b in blocks]
    assert all(offsets[b] - offsets[a] <= 10 or b == a + 1 for a, b in blocks)


@pytest.mark.parametrize("second", [1, 1_000_000])
def test_times_in_order_are_left_alone_and_others_sorted_with_ties_as_they_came(second: int) -> None:
    user = np.array([0, 0, 1, 1, 1])
    assert time_order(user, np.array([1, 2, 0, 0, 5]) * second) is None
    order = time_order(user, np.array([3, 2, 7, 7, -9]) * second)
    assert order is not None
    assert order.tolist() == [1, 0, 4, 2, 3]


def test_without_a_clock_nothing_is_an_exact_repeat() -> None:
    user, item = np.array([0, 0, 0]), np.array([4, 4, 5])
    assert find_repeats(user, item, None, None, exact=True, keep="all").stays.all()
    newest = find_repeats(user, item, None, None, exact=True, keep="last")
    assert (newest.stays.tolist(), newest.exact, newest.superseded) == ([False, True, True], 0, 1)


def plain_core(pairs: list[tuple[int, int]], least: tuple[int, int]) -> list[bool]:
    stays = [True] * len(pairs)
    while True:
        users = Counter(p[0] for p, s in zip(pairs, stays, strict=True) if s)
        items = Counter(p[1] for p, s in zip(pairs, stays, strict=True) if s)
        left = [
            s and users[p[0]] >= least[0] and items[p[1]] >= least[1]
            for p, s in zip(pairs, stays, strict=True)
        ]
        if left == stays:
            return stays
        stays = left


@given(
    pairs=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=80).map(sorted),
    least=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
@settings(max_examples=200)
def test_the_core_is_the_fixed_point(pairs: list[tuple[int, int]], least: tuple[int, int]) -> None:
    user, item = np.array(pairs, np.int32).reshape(-1, 2).T
    offsets = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=13))])
    core = k_core(offsets, item, 13, min_user_events=least[0], min_item_events=least[1])
    assert core.stays.tolist() == plain_core(pairs, least)
    assert core.user_events.tolist() == np.bincount(user[core.stays], minlength=13).tolist()
    assert core.item_events.tolist() == np.bincount(item[core.stays], minlength=13).tolist()


def test_a_core_that_falls_one_by_one() -> None:
    """A chain: each user has two items, each item two users but for the first, so all of it must go."""
    links = 50
    item = np.repeat(np.arange(links + 1), 2)[1:-1].astype(np.int32)
    offsets = np.arange(0, 2 * links + 1, 2)
    core = k_core(offsets, item, links + 1, min_user_events=2, min_item_events=2)
    assert not core.stays.any()
    assert core.rounds >= links // 2
