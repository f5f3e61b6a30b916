"""What is kept of a user between requests: finished slates and model states. Never stale, never too much."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import film_world
import numpy as np
import polars as pl
import pytest

from slipstream.config import Home
from slipstream.dataset.queries import Queries
from slipstream.events.event import EventBatch
from slipstream.events.sqlite import SqliteEventStore
from slipstream.inference.encoder import Encoder
from slipstream.models.deep.transformer import Transformer
from slipstream.recommend.memo import MOST_SLATES, ModelMemory
from slipstream.recommend.newcomers import AddedItems
from slipstream.recommend.pipeline import Pipeline, Request
from slipstream.recommend.slate import Slate
from slipstream.training.transformer_settings import TransformerSettings

ITEMS = len(film_world.FILMS)


def transformer(seed: int = 0, window: int = 4) -> Transformer:
    """An untrained network: its scores mean nothing, but they hang on every event and every gap."""
    draw = np.random.default_rng(seed)
    dim, heads, layers, inner = 16, 2, 2, 32

    def weights(*shape: int) -> np.ndarray:
        return draw.normal(0, 0.3, shape).astype(np.float32)

    made = {"item": weights(ITEMS, dim), "gap": weights(20, dim)}
    for norm in ("input_norm", "final_norm"):
        made |= {f"{norm}_weight": 1 + weights(dim), f"{norm}_bias": weights(dim)}
    for n in range(layers):
        shapes = {
            "norm1_weight": (dim,),
            "norm1_bias": (dim,),
            "qkv_weight": (dim, 3 * dim),
            "qkv_bias": (3 * dim,),
            "relative_bias": (heads, window),
            "out_weight": (dim, dim),
            "out_bias": (dim,),
            "norm2_weight": (dim,),
            "norm2_bias": (dim,),
            "ffn_in_weight": (dim, inner),
            "ffn_in_bias": (inner,),
            "ffn_out_weight": (inner, dim),
            "ffn_out_bias": (dim,),
        }
        made |= {f"layer.{n}.{name}": weights(*shape) for name, shape in shapes.items()}
    known = np.ones(ITEMS, bool)
    known[7] = False
    return Transformer(TransformerSettings(), Encoder(made), known)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteEventStore]:
    with SqliteEventStore(tmp_path / "events.sqlite") as opened:
        yield opened


def append(store: SqliteEventStore, user: str, *events: tuple[str, int]) -> None:
    frame = pl.DataFrame(events, schema=["item_id", "time_s"], orient="row")
    columns = (pl.lit(user).alias("user_id"), pl.lit("watch").alias("kind"), pl.col("time_s") * 1_000_000)
    store.append(EventBatch.of(frame.with_columns(columns).rename({"time_s": "time_us"})))


def shown(slate: Slate) -> list[tuple[str, float]]:
    return [(item.item_id, item.score) for item in slate.items]


class Counted(Transformer):
    """Counts the whole histories that it reads and the single events that it is given."""

    starts = steps = scored = 0

    def start(self, query: Queries):  # type: ignore[no-untyped-def]
        self.starts += 1
        return super().start(query)

    def advance(self, state, item, time_us):  # type: ignore[no-untyped-def]
        self.steps += 1
        super().advance(state, item, time_us)

    def score(self, queries: Queries):  # type: ignore[no-untyped-def]
        self.scored += 1
        return super().score(queries)


def test_a_kept_state_answers_as_the_whole_history_does(store: SqliteEventStore, tmp_path: Path) -> None:
    """Scripts of events in time, late events, several at once, forgettings, evictions."""
    model = transformer()
    release = film_world.with_model(film_world.release(tmp_path / "r"), model)
    kept = Pipeline(release, store, budget_bytes=12_000)  # a few people; the others are read anew
    draw = np.random.default_rng(1)
    with SqliteEventStore(tmp_path / "events.sqlite") as other:
        for step in range(120):
            user = f"p{draw.integers(5)}"
            what = draw.random()
            if what < 0.03:
                other.forget(user)
            else:
                late = draw.random() < 0.1
                start = int(draw.integers(step * 60 + 1)) if late else step * 60
                items = draw.integers(ITEMS, size=draw.integers(1, 4))
                append(
                    store if what < 0.5 else other, user, *((f"f{i}", start + n) for n, i in enumerate(items))
                )
            asked = user if draw.random() < 0.7 else f"p{draw.integers(5)}"
            request = Request(user_id=asked, k=ITEMS)
            expected = Pipeline(release, store, slate_cache=False).recommend(request)
            for answer in (kept.recommend(request), kept.recommend(request)):
                assert [i for i, _ in shown(answer)] == [i for i, _ in shown(expected)]
                assert [s for _, s in shown(answer)] == pytest.approx(
                    [s for _, s in shown(expected)], rel=1e-4, abs=1e-5
                )
            assert answer.tier == ("cache" if expected.tier == "model" else "popularity")


def test_a_new_event_is_one_step_and_a_late_one_a_new_start(store: SqliteEventStore, tmp_path: Path) -> None:
    model = transformer()
    counted = Counted(model.settings, model.encoder, model.known)  # type: ignore[arg-type]
    pipeline = Pipeline(film_world.with_model(film_world.release(tmp_path / "r"), counted), store)
    append(store, "zoe", ("f0", 100), ("f1", 101), ("f2", 102))
    pipeline.recommend(Request(user_id="zoe"))
    assert (counted.starts, counted.steps) == (1, 0)
    for n in range(4):
        append(store, "zoe", (f"f{3 + n % 2}", 200 + n))
        pipeline.recommend(Request(user_id="zoe"))
        pipeline.recommend(Request(user_id="zoe", k=3))  # another slate of the same state: no step
    assert (counted.starts, counted.steps) == (1, 4)
    append(store, "zoe", ("f6", 150))
    pipeline.recommend(Request(user_id="zoe"))
    assert (counted.starts, counted.steps, counted.scored) == (2, 4, 0)


def test_a_state_that_another_thread_advanced_further_is_not_turned_back() -> None:
    model = transformer()
    memory = ModelMemory()

    def query(length: int) -> Queries:
        item = np.arange(length, dtype=np.int32) % 5
        return Queries(np.array([-1], np.int32), np.array([0, length]), item, np.arange(length) * 10**7)

    for length in (3, 6, 4, 6, 90, 91):  # 4 comes late; 90 is too far to step
        np.testing.assert_allclose(
            memory.score(model, query(length)), model.score(query(length)), rtol=1e-4, atol=1e-5
        )


def test_a_slate_is_from_the_cache_until_anything_it_depends_on_changes(
    store: SqliteEventStore, tmp_path: Path
) -> None:
    home = Home(tmp_path)
    release = film_world.release(tmp_path / "r")
    pipeline = Pipeline(release, store, home=home)
    append(store, "zoe", ("f0", 1))

    def tier(user: str = "zoe", **more: object) -> str:
        request = Request(user_id=user, **more)  # type: ignore[arg-type]
        slate = pipeline.recommend(request)
        assert slate.user_id == user
        fresh = Pipeline(release, store, home=home, slate_cache=False).recommend(request)
        assert shown(slate) == shown(fresh)
        assert [i.reasons for i in slate.items] == [i.reasons for i in fresh.items]
        return slate.tier

    assert tier() == "model"
    assert tier() == "cache"
    first, second = (pipeline.recommend(Request(user_id="zoe")) for _ in range(2))
    assert first.request_id != second.request_id
    for change in (
        {"k": 3},
        {"explain": True},
        {"exclude": ("f1",)},
        {"allow": ("f1", "f2")},
        {"filters": {"genre": ("space",)}},
    ):
        assert tier(**change) != "cache"
        assert tier(**change) == "cache"
    assert tier(exclude=("f1",)) == "cache"
    assert tier(time_us=5) != "cache"
    assert tier(time_us=5) != "cache"  # as of a moment: never kept
    append(store, "zoe", ("f1", 2))
    assert tier() != "cache"
    append(store, "amy", ("f1", 3))
    assert tier() == "cache"  # somebody else's event changes nothing
    AddedItems(home.catalogue).append([{"item_id": "new", "genre": ["space"]}])
    assert tier() != "cache"
    store.forget("zoe")
    assert tier() != "cache"
    assert tier("stranger") == "popularity"
    for n in range(2 * MOST_SLATES):
        assert tier("another", k=n + 1, explain=True) != "cache"


def test_what_is_kept_stays_within_its_budget(store: SqliteEventStore, tmp_path: Path) -> None:
    release = film_world.with_model(film_world.release(tmp_path / "r"), transformer())
    pipeline = Pipeline(release, store, budget_bytes=60_000)
    users = pipeline._users
    for n in range(25):
        append(store, f"p{n}", (f"f{n % 8}", n), (f"f{(n + 1) % 8}", n))
        pipeline.recommend(Request(user_id=f"p{n}", k=5))
        assert users.held_bytes <= 60_000
        assert users.held_bytes == sum(s.nbytes for s in users._kept.values())
    assert 5 <= len(users) < 25


def test_a_new_release_knows_the_latest_users_before_it_answers(
    store: SqliteEventStore, tmp_path: Path
) -> None:
    model = transformer()
    counted = Counted(model.settings, model.encoder, model.known)  # type: ignore[arg-type]
    release = film_world.with_model(film_world.release(tmp_path / "r"), counted)
    old, new = Pipeline(release, store), Pipeline(release, store)
    for user in ("ann", "bob", "zoe"):
        append(store, user, ("f0", 100), ("f1", 101))
        old.recommend(Request(user_id=user))
    assert old.recent_users(2) == ["zoe", "bob"]
    assert new.warm_up(old.recent_users(2), seconds=60) == 2
    assert new.warm_up(["ann"], seconds=-1) == 0
    append(store, "bob", ("f2", 102))
    before = counted.starts
    assert new.recommend(Request(user_id="zoe")).tier == "cache"
    assert new.recommend(Request(user_id="bob")).tier == "model"
    assert counted.starts == before  # bob's event was a step
    assert new.recommend(Request(user_id="ann")).tier == "model"
    assert counted.starts == before + 1


def test_idle_states_in_int8_keep_more_users_in_the_same_bytes_and_answer_nearly_the_same(
    store: SqliteEventStore, tmp_path: Path
) -> None:
    release = film_world.with_model(film_world.release(tmp_path / "r"), transformer(window=32))
    plain, resting = (
        Pipeline(release, store, budget_bytes=120_000, idle_int8=idle) for idle in (False, True)
    )
    users, draw, furthest = resting._users, np.random.default_rng(2), 0.0
    for step in range(120):
        asked = Request(user_id=f"p{draw.integers(20)}", k=ITEMS, explain=True)
        append(store, asked.user_id or "", (f"f{draw.integers(ITEMS)}", step))
        expected = dict(shown(Pipeline(release, store, slate_cache=False).recommend(asked)))
        found = dict(shown(resting.recommend(asked)))
        plain.recommend(asked)
        assert found.keys() == expected.keys()
        furthest = max([furthest, *(abs(found[item] - expected[item]) for item in found)])
        assert users.held_bytes == sum(s.nbytes for s in users._kept.values()) <= 120_000
        assert users._awake is not None
        assert users._awake_bytes == sum(users._kept[u].nbytes for u in users._awake)
    assert 0 < furthest < 0.03  # the scores are about 1
    assert len(users) > len(plain._users)


def test_a_state_rests_once_and_not_while_somebody_is_at_it() -> None:
    memory, model = ModelMemory(), transformer()
    query = Queries(
        np.array([0], np.int32), np.array([0, 3]), np.array([1, 2, 3], np.int32), np.array([1, 2, 3])
    )
    memory.rest()  # there is nothing yet
    exact = memory.vector(model, query)
    full = memory.nbytes
    with memory._lock:
        memory.rest()
    assert memory.nbytes == full
    memory.rest()
    memory.rest()
    assert memory.nbytes < 0.3 * full
    np.testing.assert_array_equal(memory.vector(model, query), exact)  # the latest vector is kept as it is
    assert memory.nbytes == full
