"""Gates: a member is believed where it knows something, by events of the person and of the item."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from slipstream.artifacts import open_artifact, writing
from slipstream.dataset.queries import Holdout, Queries, queries_of
from slipstream.dataset.snapshot import snapshot_of
from slipstream.errors import ConfigError
from slipstream.models.fusion import Fusion, FusionSettings
from slipstream.models.fusion_gates import Gate, history_steps, item_steps
from slipstream.models.fusion_weights import Bench, coordinate_search, gate_search
from slipstream.models.recommender import FitContext, FitReport, TrainingData, refit
from slipstream.models.registry import load_model, save_model
from slipstream.models.validation import validation_ndcg

ITEMS = 16


class Fixed:
    """Scores that were written down: one row per user."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows, self.settings, self.report = rows.astype(np.float32), FusionSettings(), FitReport()

    def score(self, queries: Any) -> np.ndarray:
        return self.rows[queries.user]


def asked(lengths: list[int], targets: np.ndarray) -> Holdout:
    """Histories of unknown items: nothing is excluded."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    queries = Queries(np.arange(len(lengths), dtype=np.int32), offsets, np.full(offsets[-1], -1, np.int32))
    return Holdout(queries, np.arange(len(lengths) + 1), targets.astype(np.int32))


def pointing(targets: np.ndarray, strength: float = 1.0) -> np.ndarray:
    rows = np.zeros((len(targets), ITEMS))
    rows[np.arange(len(targets)), targets] = strength
    return rows


def test_steps_by_hand() -> None:
    assert history_steps(np.array([0, 4, 5, 19, 20, 99, 100, 7_000])).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert item_steps(np.array([0, 1, 4, 5, 49, 50])).tolist() == [0, 1, 1, 2, 2, 3]


def test_a_gate_by_histories_believes_each_member_where_it_is_right() -> None:
    """One member is right for short histories and confidently wrong for long ones, the other vice versa."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, ITEMS, 60)
    short = np.arange(60) % 2 == 0
    wrong = (targets + 1 + rng.integers(0, ITEMS - 1, 60)) % ITEMS
    holdout = asked([3 if s else 30 for s in short], targets)
    one = pointing(np.where(short, targets, wrong))
    other = pointing(np.where(short, wrong, targets))
    bench = Bench.of([Fixed(one), Fixed(other)], holdout, ITEMS)
    weights, plain = coordinate_search(bench)
    gate, gated = gate_search(bench, np.maximum(weights, 1.0), bench.ndcg(np.maximum(weights, 1.0)))
    assert plain < 0.9
    assert gated == pytest.approx(1.0)
    assert gate.history[0, 0] / gate.history[1, 0] > 1 or gate.history[1, 2] / gate.history[0, 2] > 1
    assert (gate.history[:, [1, 3]] == 1).all()  # no history is of these lengths
    assert (gate.item == 1).all()


def test_a_gate_by_items_silences_a_member_that_guesses_about_rare_ones() -> None:
    """One member knows the new items' order, the other scatters noise over them and is right otherwise."""
    rng = np.random.default_rng(1)
    steps = item_steps(np.where(np.arange(ITEMS) < 4, 0, 60))
    targets = np.concatenate([rng.integers(0, 4, 30), rng.integers(4, ITEMS, 30)])
    knows_new = pointing(targets) * (targets < 4)[:, None]
    noisy = pointing(targets, 4.0) * (targets >= 4)[:, None]
    noisy[:, :4] += 6 * rng.random((60, 4))
    bench = Bench.of([Fixed(knows_new), Fixed(noisy)], asked([9] * 60, targets), ITEMS, steps)
    weights = np.ones(2)
    gate, gated = gate_search(bench, weights, bench.ndcg(weights))
    assert gated == pytest.approx(1.0)
    assert gate.item[1, 0] < 1
    assert bench.ndcg(weights, gate=gate) == gated


def world(people: int = 40, items: int = 16) -> TrainingData:
    rows = [(f"u{p:02}", f"i{(p * 5 + s) % items:02}") for p in range(people) for s in range(2 + p % 8)]
    train = snapshot_of(pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row"))
    target = [(p * 5 + 2 + p % 8) % items for p in range(people)]
    queries = queries_of(train, np.arange(people))
    return TrainingData(train, Holdout(queries, np.arange(people + 1), np.array(target, np.int32)))


GIVEN: dict[str, Any] = {
    "members": ("item_neighbours", "ease", "popularity"),
    "weights": (1.0, 0.5, 0.2),
    "history_gate": ((1.0, 2.0, 1.0, 1.0), (0.5, 1.0, 1.0, 1.0), (3.0, 0.0, 1.0, 1.0)),
    "item_gate": ((1.0, 1.0, 0.6, 1.0), (1.0, 1.0, 1.6, 1.0), (1.0, 3.0, 1.0, 1.0)),
}


def test_the_bench_agrees_with_the_gated_model_and_saving_changes_nothing(tmp_path: Path) -> None:
    data = world()
    model = Fusion.fit(data, FusionSettings(**GIVEN), FitContext())
    bench = Bench.of(list(model._members.values()), data.validation, 16, item_steps(data.train.item_counts))
    gate = Gate(np.array(GIVEN["history_gate"]), np.array(GIVEN["item_gate"]))
    expected = bench.ndcg(np.array(GIVEN["weights"]), gate=gate)
    assert expected != pytest.approx(bench.ndcg(np.array(GIVEN["weights"])))
    assert validation_ndcg(model.score, data.validation) == pytest.approx(expected)
    with writing(tmp_path / "m", "model") as writer:
        save_model("fusion", model, writer)
    loaded = load_model(open_artifact(tmp_path / "m", "model"))[1]
    for one in (loaded, refit(model, data, FitContext())):
        np.testing.assert_array_equal(
            model.score(data.validation.queries), one.score(data.validation.queries)
        )


def test_gates_of_one_change_nothing() -> None:
    data = world()
    plain = Fusion.fit(data, FusionSettings(members=GIVEN["members"], weights=GIVEN["weights"]), FitContext())
    ones = ((1.0,) * 4,) * 3
    settings = FusionSettings(**{**GIVEN, "history_gate": ones, "item_gate": ones})
    queries = data.validation.queries
    np.testing.assert_array_equal(
        Fusion.fit(data, settings, FitContext()).score(queries), plain.score(queries)
    )
    assert plain.settings.model_dump()["item_gate"] is None


def test_fitted_gates_are_never_behind_the_weights_alone_and_can_be_given_again() -> None:
    data = world()
    settings = FusionSettings(members=("ease", "item_neighbours", "popularity"), gates=True)
    model = Fusion.fit(data, settings, FitContext())
    notes = model.report.notes
    assert notes["validation_ndcg_gated"] >= notes["validation_ndcg"]
    assert validation_ndcg(model.score, data.validation) == pytest.approx(notes["validation_ndcg_gated"])
    again = Fusion.fit(data, model.settings, FitContext())
    np.testing.assert_array_equal(again.score(data.validation.queries), model.score(data.validation.queries))


@pytest.mark.parametrize("gate", [((1.0,) * 4,) * 2, ((1.0,) * 3,) * 3, ((1.0, 1.0, 1.0, -1.0),) * 3])
def test_gates_of_another_shape_are_refused(gate: tuple[tuple[float, ...], ...]) -> None:
    with pytest.raises(ConfigError, match=r"fusion\.item_gate must be 3 rows of 4 numbers from 0 up"):
        Fusion.fit(world(), FusionSettings(**{**GIVEN, "item_gate": gate}), FitContext())
