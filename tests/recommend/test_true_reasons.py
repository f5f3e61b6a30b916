"""Reasons are looked up hop by hop, and one that is not true is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import film_world
import polars as pl
import pytest

from slipstream.evaluation.true_reasons import check_reasons, events_as_edges
from slipstream.events.event import EventBatch
from slipstream.events.sqlite import SqliteEventStore
from slipstream.models.recommender import ANY_EVENT, SOMEONE, Hop
from slipstream.recommend.pipeline import Pipeline, Request
from slipstream.recommend.slate import Slate

PEOPLE = ["ann", "bob", "cat", "dan"]


class Lying(Pipeline):
    """Says something else of one item."""

    def recommend(self, request):  # type: ignore[no-untyped-def]
        slate: Slate = super().recommend(request)
        first, *rest = slate.items
        reason = replace(first.reasons[0], **self.lie)  # type: ignore[attr-defined]
        return replace(slate, items=(replace(first, reasons=(reason,)), *rest))


def test_true_reasons_pass_and_every_lie_is_found(tmp_path: Path) -> None:
    data = film_world.snapshot()
    model = film_world.CoCounts.of(data)
    opened = film_world.with_model(film_world.release(tmp_path / "releases"), model)
    rows = [(user, item) for user, items in film_world.HISTORIES.items() for item in items]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").with_row_index("time_us")
    with SqliteEventStore(tmp_path / "events.sqlite") as store:
        store.append(
            EventBatch.of(frame.with_columns(pl.col("time_us").cast(pl.Int64), kind=pl.lit("watch")))
        )
        pipeline = Pipeline(opened, store)
        events = events_as_edges((user, "watch", item) for user, item in rows)
        alike = [
            (a, "similar_to", b)
            for x, a in enumerate(model.names)
            for y, b in enumerate(model.names)
            if model.together[x, y] > 0
        ]
        known = pl.concat([events, events_as_edges(alike)])
        good = check_reasons(pipeline, PEOPLE, 4, known)
        assert good.given == good.true > 5
        assert good.share == 1
        missing = known.filter(~((pl.col("head") == "f0") & (pl.col("tail") == "f4")))
        bad = check_reasons(pipeline, PEOPLE, 4, missing)
        assert 0 < bad.true < bad.given
        assert bad.example == "f0 –similar_to→ f4 is no edge"
        for lie, said in (({"share": 1.5}, "share of 1.5"), ({"path": ()}, "does not lead")):
            liar = Lying(opened, store)
            liar.lie = lie  # type: ignore[attr-defined]
            found = check_reasons(liar, ["ann"], 4, known)
            assert found.true == found.given - 1
            assert said in found.example
        tied = pl.concat([known, events_as_edges([("ann", "friend", "bob"), ("ann", "friend", "cat")])])
        (first, *_) = Pipeline(opened, store).recommend(Request(user_id="ann", k=4)).items
        assert first.item_id in film_world.HISTORIES["cat"]
        for friend, did, true in (
            ("friend", "watch", 1),
            ("friend", ANY_EVENT, 1),
            ("friend", "buy", 0),
            ("foe", "watch", 0),
        ):
            path = (Hop("ann", friend, SOMEONE, 1.0), Hop(SOMEONE, did, first.item_id, 1.0))
            liar = Lying(opened, store)
            liar.lie = {"path": path}  # type: ignore[attr-defined]
            found = check_reasons(liar, ["ann"], 4, tied)
            assert found.given - found.true == 1 - true
            assert true or found.example == f"ann –{friend}→ nobody –{did}→ {first.item_id}"
    nobody = check_reasons(Pipeline(film_world.release(tmp_path / "other")), [], 4, known)
    assert nobody.share is None
    assert nobody.given == pytest.approx(0)
