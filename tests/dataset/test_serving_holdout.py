"""What a served model is chosen on: each user's last event, or last purchase."""

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from slipstream.dataset.snapshot import Snapshot, snapshot_of
from slipstream.dataset.validation import hold_out_last

rows = st.lists(
    st.tuples(st.sampled_from("uvwx"), st.sampled_from("abcdef"), st.sampled_from(["view", "purchase"])),
    min_size=1,
    max_size=40,
)


def snapshot(events: list[tuple[str, str, str]], *, ordered: bool = True) -> Snapshot:
    frame = pl.DataFrame(events, schema=["user_id", "item_id", "kind"], orient="row")
    if ordered:
        frame = frame.with_columns(time_us=pl.int_range(pl.len()))
    return snapshot_of(frame, ordered=ordered)


@given(rows, st.booleans())
def test_the_last_event_of_users_with_three_is_held_out(
    events: list[tuple[str, str, str]], repeat: bool
) -> None:
    whole = snapshot(events)
    train, holdout = hold_out_last(whole, repeat=repeat)
    asked = (
        {} if holdout is None else {int(u): holdout.targets(q) for q, u in enumerate(holdout.queries.user)}
    )
    for user in range(whole.user_count):
        history = whole.history(user)
        if len(history) >= 3 and (repeat or history[-1] not in history[:-1]):
            assert asked[user].tolist() == [history[-1]]
            assert train.history(user).tolist() == history[:-1].tolist()
        else:
            assert user not in asked
            assert train.history(user).tolist() == history.tolist()


@given(rows)
def test_with_a_goal_only_such_events_are_targets_and_nothing_later_is_known(
    events: list[tuple[str, str, str]],
) -> None:
    whole = snapshot(events)
    train, holdout = hold_out_last(whole, goal="purchase", repeat=True)
    bought = whole.kinds.index("purchase") if "purchase" in whole.kinds else -1
    asked = (
        {}
        if holdout is None
        else {int(u): int(holdout.targets(q)[0]) for q, u in enumerate(holdout.queries.user)}
    )
    for user in range(whole.user_count):
        a, b = whole.offsets[user], whole.offsets[user + 1]
        places = np.flatnonzero(whole.kind[a:b] == bought)
        if user in asked:
            assert asked[user] == whole.item[a + places[-1]]
            assert train.history(user).tolist() == whole.item[a : a + places[-1]].tolist()
        else:
            assert b - a < 3 or not len(places) or places[-1] == 0


def test_without_an_order_one_event_is_drawn_by_the_seed() -> None:
    whole = snapshot([("u", c, "view") for c in "abcdef"], ordered=False)
    train, holdout = hold_out_last(whole, seed=1)
    assert holdout is not None
    assert train.event_count == 5
    assert holdout.target[0] not in train.item
    again = hold_out_last(whole, seed=1)[1]
    assert again is not None
    assert again.target.tolist() == holdout.target.tolist()


def test_of_many_users_a_sample_is_asked_and_the_others_keep_everything() -> None:
    whole = snapshot([(f"u{n}", c, "view") for n in range(30) for c in "abc"])
    train, holdout = hold_out_last(whole, most_users=10)
    assert holdout is not None
    assert len(holdout) == 10
    assert train.event_count == 90 - 10
