"""The number models choose by: against a slow form, and the fair sample."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.dataset.queries import Holdout, Queries, queries_of
from slipstream.dataset.snapshot import snapshot_of
from slipstream.models.validation import best_of, sample_holdout, validation_ndcg


def holdout(histories: list[list[int]], targets: list[list[int]], repeat: bool) -> Holdout:
    def ragged(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        offsets = np.concatenate([[0], np.cumsum([len(x) for x in lists])]).astype(np.int64)
        return offsets, np.array([i for x in lists for i in x], np.int32)

    offsets, item = ragged(histories)
    ends, target = ragged(targets)
    return Holdout(Queries(np.arange(len(histories), dtype=np.int32), offsets, item), ends, target, repeat)


def slow_ndcg(scores: np.ndarray, asked: Holdout, k: int) -> float:
    values = []
    for q, row in enumerate(scores):
        wanted = set(asked.targets(q).tolist())
        seen = set() if asked.repeat else set(asked.queries.history(q).tolist())
        if not wanted:
            continue
        ranked = [i for i in range(len(row)) if i not in seen and not np.isnan(row[i])]
        ranked.sort(key=lambda i: (-row[i], i))
        gain = sum(1 / math.log2(r + 2) for r, i in enumerate(ranked[:k]) if i in wanted)
        values.append(gain / sum(1 / math.log2(r + 2) for r in range(min(k, len(wanted)))))
    return float(np.mean(values)) if values else 0.0


@given(st.data())
def test_it_equals_the_slow_form(data: st.DataObject) -> None:
    items = data.draw(st.integers(1, 8))
    ids = st.integers(0, items - 1)
    people = data.draw(st.integers(1, 5))
    histories = data.draw(
        st.lists(st.lists(st.integers(-1, items - 1), max_size=5), min_size=people, max_size=people)
    )
    single = data.draw(st.booleans())
    size = {"min_size": 1, "max_size": 1} if single else {"max_size": 3}
    targets = data.draw(st.lists(st.lists(ids, unique=True, **size), min_size=people, max_size=people))
    asked = holdout(histories, targets, data.draw(st.booleans()))
    value = st.sampled_from([0.0, 0.5, 1.0, np.nan])
    scores = np.array(
        data.draw(
            st.lists(st.lists(value, min_size=items, max_size=items), min_size=people, max_size=people)
        ),
        np.float32,
    )
    got = validation_ndcg(lambda part: scores[part.user], asked, k=3, batch=2)
    assert got == pytest.approx(slow_ndcg(scores, asked, 3))


def test_a_sample_keeps_histories_and_targets_together() -> None:
    rows = {
        "user_id": [f"u{p:02}" for p in range(50) for _ in range(3)],
        "item_id": [f"i{p % 7}" for p in range(150)],
    }
    train = snapshot_of(pl.DataFrame(rows | {"time_us": list(range(150))}))
    queries = queries_of(train, np.arange(50), now_us=np.arange(50))
    whole = Holdout(queries, np.arange(0, 101, 2), np.arange(100, dtype=np.int32), repeat=True)
    part = sample_holdout(whole, 20, seed=1)
    assert len(part) == 20
    assert part.repeat
    assert (np.diff(part.queries.user) > 0).all()
    for place, user in enumerate(part.queries.user):
        assert part.queries.history(place).tolist() == queries.history(user).tolist()
        assert part.targets(place).tolist() == [2 * user, 2 * user + 1]
        assert part.queries.now_us[place] == user
    times = part.queries.time_us[part.queries.offsets[3] : part.queries.offsets[4]]
    assert times.tolist() == [3 * part.queries.user[3] + n for n in range(3)]
    assert sample_holdout(whole, 50, seed=1) is whole


def test_a_tie_keeps_the_earlier_choice() -> None:
    assert best_of(["plain", "fancy", "worse"], {"plain": 1.0, "fancy": 1.0, "worse": 0.5}.__getitem__) == (
        "plain",
        1.0,
    )
