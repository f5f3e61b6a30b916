"""How often a key may call."""

from __future__ import annotations

import httpx
import pytest
import served_home
from hypothesis import given
from hypothesis import strategies as st

from slipstream.config import Home
from slipstream.errors import UsageError
from slipstream.server.allowance import Allowance
from slipstream.server.options import Options
from slipstream.server.service import serve
from slipstream.server.wire import Problem


def refused_for(allowance: Allowance, key: int, now: float) -> int:
    """0, or the seconds of Retry-After."""
    try:
        allowance.take(key, now)
    except Problem as problem:
        return int(problem.headers["retry-after"]) if problem.status == 429 else -1
    return 0


@given(
    rate=st.sampled_from([0.25, 1.0, 8.0]),
    burst=st.integers(1, 6),
    calls=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 24)), max_size=60),
)
def test_it_is_a_token_bucket_for_each_key(rate: float, burst: int, calls: list[tuple[int, int]]) -> None:
    """Against buckets filled step by step; times in eighths of a second, so that all numbers are exact."""
    allowance = Allowance.of(rate, burst, keys=2)
    assert allowance is not None
    tokens, eighths = [float(burst), float(burst)], 0
    for key, pause in calls:
        for _ in range(pause):
            tokens = [min(float(burst), held + rate / 8) for held in tokens]
        eighths += pause
        wait = refused_for(allowance, key, 1000 + eighths / 8)
        if tokens[key] >= 1:
            assert wait == 0
            tokens[key] -= 1
        else:  # after the wait one is let in, and the wait is the shortest in whole seconds
            assert tokens[key] + rate * wait >= 1 > tokens[key] + rate * (wait - 1)


def test_what_is_no_rate_is_refused(fresh_home: Home) -> None:
    assert Allowance.of(None, None, 3) is None
    for rate, burst in (
        (0.0, None),
        (-1.0, None),
        (float("nan"), None),
        (float("inf"), 1),
        (1.0, 0),
        (None, 5),
    ):
        with pytest.raises(UsageError):
            Allowance.of(rate, burst, 1)
    with pytest.raises(UsageError, match="rate"):
        serve(fresh_home, port=0, options=Options(rate=-1.0))


def test_a_key_that_asks_too_often_is_told_when_to_come_back(fresh_home: Home) -> None:
    """Two workers share the allowance; a token comes back after minutes, so that time plays no part."""
    with served_home.serving(
        fresh_home, keys="one:read two:read", workers=2, options="rate=0.005, burst=6"
    ) as server:

        def ask(key: str, path: str = "/v1/recommendations/u1") -> httpx.Response:
            return httpx.get(server.url + path, headers={"x-api-key": key})  # each on a connection of its own

        assert [ask("one").status_code for _ in range(6)] == [200] * 6
        late = [ask("one") for _ in range(6)]
        assert [answer.status_code for answer in late] == [429] * 6
        refusal = late[0]
        assert 1 <= int(refusal.headers["retry-after"]) <= 200
        assert refusal.headers["content-type"] == "application/problem+json"
        assert refusal.json()["code"] == "too-many-requests"
        assert refusal.json()["hint"]
        assert ask("two").status_code == 200
        assert ask("nobody").status_code == 401
        assert ask("", "/healthz").status_code == ask("", "/readyz").status_code == 200
