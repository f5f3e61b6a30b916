"""The promises of `models/recommender.py`, written once and run over every model of the registry.

A new model file is tested by being there: it is fitted on small worlds with its own preset, or with what
QUICK says where that is too slow. The arrays of the worlds are read-only, as those of a memory map are.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from slipstream.artifacts import open_artifact, writing
from slipstream.config import Settings, with_overrides
from slipstream.dataset.queries import Holdout, Queries, queries_of, query_of
from slipstream.dataset.snapshot import Snapshot, snapshot_of
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.errors import CorruptArtifact, DataError
from slipstream.models import simple
from slipstream.models.recommender import (
    Embeds,
    ExplainsByHistory,
    ExplainsByPaths,
    FitContext,
    Incremental,
    Recommender,
    TrainingData,
    refit,
    refits,
)
from slipstream.models.registry import load_model, model_names, model_type, save_model
from slipstream.models.validation import validation_ndcg

HOUR_US = 3_600_000_000

TRANSFORMER: dict[str, Any] = {
    "dim": 16,
    "layers": 1,
    "heads": 2,
    "attention_window": 8,
    "max_length": 16,
    "epochs": 40,
    "batch_tokens": 128,
    "shards": 1,
    "lr": 0.01,
    "table_lr": 0.01,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "patience": 0,
    "validate_every": 10,
    "precision": "float32",
}
QUICK: dict[str, dict[str, Any]] = {
    "bilinear": {"dim": 8, "epochs": 30, "users_per_batch": 8, "weight_decay": 0.0, "dropout": 0.0},
    "transformer": TRANSFORMER,
    "student": {**TRANSFORMER, "teacher": "item_neighbours", "top": 3},
    "neumf": {
        "dim": 8,
        "tower_dim": 8,
        "hidden": 8,
        "epochs": 25,
        "users_per_batch": 8,
        "weight_decay": 0.0,
        "dropout": 0.0,
        "negatives": 32,
        "patience": 25,
    },
    "kg_embedding": {"dim": 16, "batch": 128, "n3": 0.03, "epochs": 15},
    "ials": {"dim": 16, "iterations": 6},
    "fusion": {
        "members": ["item_neighbours", "ials", "popularity"],
        "member_settings": {"ials": {"dim": 16, "iterations": 6}},
    },
}
IMPERSONAL = {"popularity", "recency_popularity"}
"""Models that give everybody the same list, on purpose."""

ITEMS = 20
SPARE = 2  # items of the catalogue that nobody has touched


# The worlds


def read_only(snapshot: Snapshot) -> Snapshot:
    for name in ("offsets", "item", "value", "kind", "time_us"):
        array = getattr(snapshot, name)
        if array is not None:
            array.setflags(write=False)
    return snapshot


def snapshot_from(rows: list[tuple[str, str, int]], *, times: bool = True, ordered: bool = True) -> Snapshot:
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "time_us"], orient="row")
    items = Vocabulary.of([f"i{n:02}" for n in range(ITEMS + SPARE)])
    users = Vocabulary.of(sorted({user for user, _, _ in rows}))
    frame = frame if times else frame.drop("time_us")
    return read_only(snapshot_of(frame, users=users, items=items, ordered=ordered))


def held_out(snapshot: Snapshot, targets: np.ndarray) -> Holdout:
    """Every user is asked; one target each."""
    users = np.arange(snapshot.user_count)
    return Holdout(queries_of(snapshot, users), np.arange(len(users) + 1), targets.astype(np.int32))


@lru_cache
def clubs(times: bool = True, ordered: bool = False) -> TrainingData:
    """40 people in two clubs touch 9 of their club's 10 items: the missing one is the only good answer.

    A few items of the even club are everybody's first choice in number, so popularity alone is misled.
    """
    rows = []
    for person in range(40):
        side, missing = person % 2, (person // 2) % 10
        own = [n for n in range(side, ITEMS, 2) if n // 2 != missing]
        shift = person % len(own)
        for step, item in enumerate(own[shift:] + own[:shift]):
            rows.append((f"u{person:02}", f"i{item:02}", (person + 40 * step) * HOUR_US))
    train = snapshot_from(rows, times=times, ordered=ordered)
    targets = np.array([p % 2 + 2 * ((p // 2) % 10) for p in range(40)])
    return TrainingData(train, held_out(train, targets))


@lru_cache
def circle(times: bool = True) -> TrainingData:
    """60 people walk around the circle of items; whoever is at n goes on to n + 1."""
    rows, targets = [], []
    for person in range(60):
        start, length = (person * 7) % ITEMS, 6 + person % 5
        for step in range(length):
            rows.append((f"u{person:02}", f"i{(start + step) % ITEMS:02}", (person * 100 + step) * HOUR_US))
        targets.append((start + length) % ITEMS)
    train = snapshot_from(rows, times=times)
    return TrainingData(train, held_out(train, np.array(targets)))


ODD_WORLDS: dict[str, Callable[[], TrainingData]] = {
    "no validation": lambda: replace(clubs(), validation=None),
    "no validation, in order": lambda: replace(circle(), validation=None),
    "no times": lambda: circle(times=False),
    "no order": lambda: clubs(times=False),
    "an order without a clock": lambda: clubs(times=False, ordered=True),
    "one user": lambda: TrainingData(snapshot_from([("u", f"i{n:02}", n) for n in range(5)])),
    "one item": lambda: TrainingData(one_item_snapshot()),
    "one event": lambda: TrainingData(snapshot_from([("u", "i03", 5)])),
    "one event, no order": lambda: TrainingData(snapshot_from([("u", "i03", 5)], times=False, ordered=False)),
    "the same item again and again": lambda: TrainingData(
        snapshot_from([(f"u{p}", f"i{n % 2:02}", p + n) for p in range(6) for n in range(6)])
    ),
    "a user without events": lambda: TrainingData(quiet_user()),
    "an empty holdout": lambda: replace(clubs(), validation=nobody(clubs().train)),
}


def one_item_snapshot() -> Snapshot:
    rows = {"user_id": [f"u{p}" for p in range(5)], "item_id": ["i"] * 5, "time_us": list(range(5))}
    return read_only(snapshot_of(pl.DataFrame(rows)))


def quiet_user() -> Snapshot:
    train = clubs().train
    return read_only(train.keep(train.user != 3))


def nobody(train: Snapshot) -> Holdout:
    return Holdout(queries_of(train, np.zeros(0, np.int64)), np.zeros(1, np.int64), np.zeros(0, np.int32))


# Fitting


def settings_of(name: str, data: TrainingData) -> Settings:
    return with_overrides(model_type(name).preset(data), QUICK.get(name, {}))


def fitted(name: str, data: TrainingData, seed: int = 0) -> Recommender:
    return model_type(name).fit(data, settings_of(name, data), FitContext(seed=seed, threads=1))


@lru_cache
def on_clubs(name: str) -> Recommender:
    return fitted(name, clubs())


@lru_cache
def on_circle(name: str) -> Recommender:
    return fitted(name, circle())


def fingerprint(data: TrainingData) -> str:
    digest = hashlib.sha256()
    snapshot, holdout = data.train, data.validation
    arrays = [snapshot.offsets, snapshot.item, snapshot.value, snapshot.kind, snapshot.time_us]
    if holdout is not None:
        asked = holdout.queries
        arrays += [holdout.offsets, holdout.target, asked.user, asked.offsets, asked.item, asked.time_us]
    for array in arrays:
        digest.update(b"none" if array is None else array.tobytes())
    return digest.hexdigest()


def everyone(data: TrainingData) -> Queries:
    return queries_of(data.train, np.arange(data.train.user_count))


# The promises, each as a function, so that the one-file model below can be held to them too


def check_seed(name: str) -> None:
    for world, first in ((clubs(), on_clubs(name)), (circle(), on_circle(name))):
        again = fitted(name, world)
        np.testing.assert_array_equal(first.score(everyone(world)), again.score(everyone(world)))
        assert again.settings == first.settings


def check_save_and_load(name: str, folder: Path) -> None:
    model, queries = on_circle(name), everyone(circle())
    with writing(folder / name, "model") as writer:
        save_model(name, model, writer)
    loaded_name, loaded = load_model(open_artifact(folder / name, "model"))
    assert loaded_name == name
    assert loaded.settings == model.settings
    assert loaded.report == model.report
    np.testing.assert_array_equal(loaded.score(queries), model.score(queries))


def check_another_version(name: str, folder: Path) -> None:
    """Each JSON part replaced by one that says nothing this version knows: refused, or not needed."""
    model = on_circle(name)
    with writing(folder / name, "model") as writer:
        save_model(name, model, writer)
        parts = [part.relative_to(writer.path) for part in writer.path.rglob("*.json")]
    refused = 0
    for part in parts:
        if part.name == "manifest.json":
            continue
        with writing(folder / "other", "model") as writer:
            save_model(name, model, writer)
            writer.file(str(part)).write_text('{"from another version": 1}')
        try:
            load_model(open_artifact(folder / "other", "model"))
        except CorruptArtifact:
            refused += 1
    assert refused >= 2  # settings, training


def check_batch(name: str) -> None:
    for world, model in ((clubs(), on_clubs(name)), (circle(), on_circle(name))):
        queries = everyone(world)
        together = model.score(queries)
        alone = np.concatenate([model.score(part) for _, part in queries.batches(1)])
        np.testing.assert_allclose(alone, together, rtol=2e-4, atol=2e-5)


def check_strangers(name: str) -> None:
    for model, width in ((on_clubs(name), ITEMS + SPARE), (on_circle(name), ITEMS + SPARE)):
        for history in ([], [-1], [-1, -1], [2, -1, 4], [ITEMS + SPARE - 1], [3, 3, 3]):
            for user in (-1, 0):
                times, now = [n * HOUR_US for n in range(len(history))], len(history) * HOUR_US
                scores = model.score(query_of(history, user=user, times_us=times, now_us=now))
                assert scores.shape == (1, width)
                assert scores.dtype == np.float32
                assert not np.isinf(scores).any()
        assert model.score(query_of([1, 2])).shape == (1, width)  # a question without a clock
        assert model.score(everyone(clubs()).part(0, 0)).shape == (0, width)


def check_untouched(name: str) -> None:
    for world in (clubs(), circle()):
        before = fingerprint(world)
        queries = everyone(world)
        fitted(name, world).score(queries)
        assert fingerprint(world) == before


def check_finds(name: str) -> None:
    """The held-out item comes first, in the world of clubs or, for models of order, on the circle."""
    shares = []
    for world, model in ((clubs(), on_clubs(name)), (circle(), on_circle(name))):
        queries, target = everyone(world), world.validation.target
        scores = model.score(queries).copy()
        scores[queries.rows(), queries.item] = np.nan
        silent = np.isnan(scores).all(axis=1)
        best = np.where(np.isnan(scores), -np.inf, scores).argmax(axis=1)
        shares.append(float(((best == target) & ~silent).mean()))
    assert max(shares) >= 0.9, f"found in {shares[0]:.0%} of the clubs and {shares[1]:.0%} of the circle"


def check_beats_popularity(name: str) -> None:
    ours = [
        validation_ndcg(model.score, world.validation)
        for world, model in ((clubs(), on_clubs(name)), (circle(), on_circle(name)))
    ]
    floor = [
        validation_ndcg(model.score, world.validation)
        for world, model in ((clubs(), on_clubs("popularity")), (circle(), on_circle("popularity")))
    ]
    assert max(a - b for a, b in zip(ours, floor, strict=True)) > 0.2


def check_odd_world(name: str, world: str) -> None:
    data = ODD_WORLDS[world]()
    try:
        model = fitted(name, data)
    except DataError:  # it may say that there is nothing to learn from, where that is so
        assert np.diff(data.train.offsets).max() < 2
        return
    queries = everyone(data)
    scores = model.score(queries)
    assert scores.shape == (len(queries), data.train.item_count)
    assert not np.isinf(scores).any()
    assert model.score(query_of([0])).shape == (1, data.train.item_count)
    if world == "an empty holdout" or data.validation is None:
        return
    assert np.isfinite(scores).any()


def check_abilities(name: str) -> None:
    """Vectors give the scores; parts of a score belong to events that are known; paths are sorted."""
    for world, model in ((clubs(), on_clubs(name)), (circle(), on_circle(name))):
        queries = everyone(world).part(0, 5)
        scores = model.score(queries)
        if isinstance(model, Embeds):
            product = model.query_vectors(queries) @ model.item_vectors().T
            if hasattr(model, "item_bias"):
                product = product + model.item_bias()
            heard = np.isfinite(scores)
            np.testing.assert_allclose(product[heard], scores[heard], rtol=1e-3, atol=1e-4)
        query = query_of([0, -1, 2, 4], times_us=[0, 1, 2, 3])
        items = np.array([6, 1, ITEMS], np.int32)
        if isinstance(model, ExplainsByHistory):
            parts = model.contributions(query, items)
            assert parts.shape == (3, 4)
            assert np.isfinite(parts).all()
            assert (parts[:, 1] == 0).all()  # the unknown event carries nothing
            assert model.contributions(query_of([]), items).shape == (3, 0)
        if isinstance(model, Incremental):
            check_advancing(model, queries)
        if isinstance(model, ExplainsByPaths):
            paths = model.paths(query, 6, 5)
            assert paths == model.paths(query, 6, 5)
            together = model.paths_to(query, [6, ITEMS, 1, 6], 5)
            assert together == [paths, [], model.paths(query, 1, 5), paths]
            groups, none = model.path_groups(query, [6, ITEMS], 3)
            assert none == []
            assert [g.share for g in groups] == sorted((g.share for g in groups), reverse=True)
            assert bool(groups) == bool(paths)
            values = [path.score for path in paths]
            assert values == sorted(values, reverse=True)


def check_advancing(model: Incremental, queries: Queries) -> None:
    """A state started with a part of a history and advanced by the rest says what the whole history says."""
    for number in range(len(queries)):
        whole = queries.part(number, number + 1)
        for start in (0, len(whole.item) // 2, len(whole.item)):
            times = None if whole.time_us is None else whole.time_us[:start].tolist()
            state = model.start(query_of(whole.item[:start].tolist(), times_us=times))
            for place in range(start, len(whole.item)):
                time_us = None if whole.time_us is None else int(whole.time_us[place])
                model.advance(state, int(whole.item[place]), time_us)
            assert state.nbytes >= 0
            advanced, scores = model.score_from(state, whole), model.score(whole)
            np.testing.assert_allclose(advanced, scores, rtol=1e-3, atol=1e-4)


def check_refit(name: str) -> None:
    """Chosen settings choose nothing: without validation they give the same model again."""
    for world, model in ((clubs(), on_clubs(name)), (circle(), on_circle(name))):
        if not refits(model):
            continue
        again = refit(model, replace(world, validation=None), FitContext(threads=1))
        assert again.settings == model.settings
        np.testing.assert_array_equal(again.score(everyone(world)), model.score(everyone(world)))


# The suite

every_model = pytest.mark.parametrize("name", model_names())
personal_model = pytest.mark.parametrize("name", [n for n in model_names() if n not in IMPERSONAL])


@every_model
def test_same_seed_same_scores(name: str) -> None:
    check_seed(name)


@every_model
def test_save_and_load_change_nothing(name: str, tmp_path: Path) -> None:
    check_save_and_load(name, tmp_path)


@every_model
def test_a_model_of_another_version_is_refused(name: str, tmp_path: Path) -> None:
    check_another_version(name, tmp_path)


@every_model
def test_a_batch_equals_one_by_one(name: str) -> None:
    check_batch(name)


@every_model
def test_unknown_people_and_items_are_no_exception(name: str) -> None:
    check_strangers(name)


@every_model
def test_the_data_is_not_modified(name: str) -> None:
    check_untouched(name)


@every_model
def test_abilities_keep_their_word(name: str) -> None:
    check_abilities(name)


@every_model
def test_fitting_again_with_what_was_chosen_chooses_nothing(name: str) -> None:
    check_refit(name)


@personal_model
def test_it_finds_the_held_out_item(name: str) -> None:
    check_finds(name)


@personal_model
def test_it_beats_popularity(name: str) -> None:
    check_beats_popularity(name)


@every_model
@pytest.mark.parametrize("world", list(ODD_WORLDS))
def test_it_works_in_odd_worlds(name: str, world: str) -> None:
    check_odd_world(name, world)


def test_the_suite_knows_no_model_that_is_gone() -> None:
    assert set(QUICK) | IMPERSONAL <= set(model_names())


@pytest.mark.parametrize("name", sorted(IMPERSONAL))
def test_an_impersonal_model_says_the_same_to_everybody(name: str) -> None:
    scores = on_clubs(name).score(everyone(clubs()))
    assert (scores[:, :ITEMS] == scores[0, :ITEMS]).all()
    assert np.isnan(scores[:, ITEMS:]).all()  # nobody has touched them


# A new model is one file

ONE_FILE = '''
"""What stood beside the last thing you touched, in any history."""

from __future__ import annotations

import numpy as np

from slipstream.config import Settings
from slipstream.models.recommender import FitReport


class BesideSettings(Settings):
    reach: int = 1


class Beside:
    settings_type = BesideSettings
    refits = True

    def __init__(self, beside, settings):
        self.beside, self.settings, self.report = beside, settings, FitReport()

    @classmethod
    def preset(cls, data):
        return BesideSettings()

    @classmethod
    def fit(cls, data, settings, context):
        beside = np.zeros((data.train.item_count, data.train.item_count), np.float32)
        for user in range(data.train.user_count):
            history = data.train.history(user)
            np.add.at(beside, (history[: -settings.reach], history[settings.reach :]), 1.0)
        return cls(beside, settings)

    def score(self, queries):
        scores = np.full((len(queries), len(self.beside)), np.nan, np.float32)
        for query in range(len(queries)):
            known = queries.history(query)[queries.history(query) >= 0]
            if len(known):
                scores[query] = self.beside[known[-1]]
        return scores

    def save(self, writer):
        writer.array("beside", self.beside)

    @classmethod
    def load(cls, artifact, settings):
        return cls(artifact.array("beside"), settings)


MODEL = Beside
'''


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[str]:
    """A folder with one new file, on the search path of the family for as long as the test runs."""
    (tmp_path / "beside.py").write_text(ONE_FILE)
    simple.__path__.append(str(tmp_path))
    importlib.invalidate_caches()
    yield "beside"
    simple.__path__.remove(str(tmp_path))
    sys.modules.pop("slipstream.models.simple.beside", None)
    on_clubs.cache_clear()
    on_circle.cache_clear()


def test_a_model_is_added_with_one_file(beside: str, tmp_path: Path) -> None:
    assert beside in model_names()
    check_seed(beside)
    check_save_and_load(beside, tmp_path / "kept")
    check_batch(beside)
    check_strangers(beside)
    check_untouched(beside)
    check_abilities(beside)
    check_refit(beside)
    check_finds(beside)
    check_beats_popularity(beside)
    for world in ODD_WORLDS:
        check_odd_world(beside, world)


def test_the_suite_would_catch_a_broken_model(beside: str) -> None:
    """Could a broken model pass? One that forgets, one that breaks data, one that is like everybody."""
    kind = model_type(beside)
    honest = kind.score

    class Forgetful(kind):  # type: ignore[misc, valid-type]
        def score(self, queries: Queries) -> np.ndarray:
            return np.asarray(honest(self, queries)[:, ::-1])

    module = sys.modules[kind.__module__]
    module.MODEL = Forgetful  # type: ignore[attr-defined]
    with pytest.raises(AssertionError):
        check_finds(beside)

    class Vandal(kind):  # type: ignore[misc, valid-type]
        @classmethod
        def fit(cls, data: TrainingData, settings: Settings, context: FitContext) -> Recommender:
            np.sort(data.train.item)
            data.train.item.sort()
            return kind.fit(data, settings, context)

    module.MODEL = Vandal  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="read-only"):
        check_untouched(beside)
