"""Searching settings: on validation alone, never behind the preset, and the same after a kill."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from club_world import interactions, write_folder

from slipstream.config import OneOf, Range, parse_assignments, read_settings_file
from slipstream.errors import ConfigError, CorruptArtifact
from slipstream.evaluation.trial import run_trial
from slipstream.evaluation.tuning import Tuned, tune
from slipstream.models.registry import model_names, model_type

SEARCHED = ("bilinear", "neumf", "ease", "ials", "item_neighbours", "transformer", "student", "path_reasoner")


@pytest.fixture(scope="module")
def club(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "clubs", interactions())


@pytest.fixture(scope="module")
def unbroken(club: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    study = tmp_path_factory.mktemp("study") / "unbroken.sqlite"
    return tune(club, "item_neighbours", "loo", study, trials=12, seed=1, threads=1)


@pytest.mark.parametrize("name", SEARCHED)
def test_a_search_space_holds_valid_values_of_real_settings(name: str) -> None:
    kind = model_type(name).settings_type
    assert kind.space
    for setting, values in kind.space.items():
        ends = values.values if isinstance(values, OneOf) else (values.low, values.high)
        assert setting in kind.model_fields
        for end in ends:
            assert getattr(kind.model_validate({setting: end}), setting) == end
        assert not isinstance(values, Range) or values.low < values.high


def test_there_is_no_space_that_nobody_checks() -> None:
    assert {name for name in model_names() if model_type(name).settings_type.space} == set(SEARCHED)


def test_the_best_is_never_behind_the_preset_and_is_what_a_trial_says(unbroken: Tuned, club: Path) -> None:
    assert len(unbroken.tried) == 12
    assert unbroken.tried[0].settings == {}
    assert unbroken.ndcg == max(point.ndcg or 0 for point in unbroken.tried) >= unbroken.preset_ndcg
    assert len({str(point.settings) for point in unbroken.tried}) == 12
    preset = run_trial(club, "item_neighbours", "loo", seed=1)
    assert preset.validation["NDCG@10"] == unbroken.preset_ndcg
    best = unbroken.best(3)
    assert [point.ndcg for point in best] == sorted(
        (p.ndcg for p in best if p.ndcg is not None), reverse=True
    )
    again = run_trial(
        club, "item_neighbours", "loo", seed=1, overrides=parse_assignments(unbroken.assignments())
    )
    assert again.validation["NDCG@10"] == unbroken.ndcg


def test_the_search_knows_where_the_preset_stands(club: Path, tmp_path: Path) -> None:
    import optuna

    tune(club, "item_neighbours", "loo", tmp_path / "s.sqlite", trials=1, seed=1, threads=1)
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 's.sqlite'}")
    (point,) = optuna.load_study(study_name="slipstream", storage=storage).trials
    storage.remove_session()
    storage.engine.dispose()
    config = run_trial(club, "item_neighbours", "loo", seed=1).config  # with what the model itself chose
    assert {"window", "half_life", "count_power"} <= set(point.params)
    assert point.params == {name: config[name] for name in point.params}


def test_the_settings_file_is_what_the_assignments_say(unbroken: Tuned, tmp_path: Path) -> None:
    unbroken.write(tmp_path / "best.json")
    assert read_settings_file(tmp_path / "best.json") == parse_assignments(unbroken.assignments())


def test_what_happens_in_the_test_part_changes_nothing(unbroken: Tuned, tmp_path: Path) -> None:
    """The same past with other last events, of the same items, leads to the same search."""
    rows = interactions()
    last = pl.col("user_id").is_last_distinct()
    items = rows.filter(last)["item_id"].to_numpy()
    shuffled = np.roll(items, 7)
    assert (shuffled != items).mean() > 0.5
    changed = pl.concat(
        [rows.filter(~last), rows.filter(last).with_columns(pl.Series("item_id", shuffled))]
    ).sort("timestamp", maintain_order=True)
    other = write_folder(tmp_path / "clubs", changed)
    found = tune(other, "item_neighbours", "loo", tmp_path / "s.sqlite", trials=12, seed=1, threads=1)
    assert found.tried == unbroken.tried


def test_a_killed_search_ends_where_an_unbroken_one_does(unbroken: Tuned, club: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.sqlite"
    for least in (1, 4):
        command = [
            *(sys.executable, "-m", "slipstream", "tune", "item_neighbours", "--data", str(club)),
            *("--board", "loo", "--trials", "100", "--seed", "1", "--study", str(study)),
        ]
        process = subprocess.Popen(command, start_new_session=True)
        while _finished(study) < least:
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    had = _finished(study)
    found = tune(club, "item_neighbours", "loo", study, trials=12, seed=1, threads=1)
    assert found.tried[:12] == unbroken.tried
    if had <= 12:
        assert found.settings == unbroken.settings


def _finished(study: Path) -> int:
    if not study.exists():
        return 0
    with closing(sqlite3.connect(f"{study.as_uri()}?mode=ro", uri=True)) as database:
        try:
            query = "SELECT COUNT(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED')"
            count: int = database.execute(query).fetchone()[0]
        except sqlite3.OperationalError:  # the tables are just being made
            return 0
        return count


def test_trainings_that_fall_behind_are_stopped(club: Path, tmp_path: Path) -> None:
    fixed = {"bilinear.epochs": 8, "dim": 16}
    found = tune(club, "bilinear", "loo", tmp_path / "s.sqlite", trials=10, fixed=fixed, threads=1)
    stopped = [point for point in found.tried if point.ndcg is None]
    assert stopped
    assert {point.why for point in stopped} == {"behind the others"}
    assert len(found.best(100)) == 10 - len(stopped)
    assert all("dim" not in point.settings for point in found.tried)
    assert found.settings["dim"] == 16
    assert found.settings["epochs"] == 8
    rates = [point.settings["lr"] for point in stopped]
    assert np.median(rates) < found.settings.get("lr", 0.01)  # the slow learners, on eight epochs


def test_settings_that_cannot_run_are_passed_over(club: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        tune(club, "ease", "loo", tmp_path / "s.sqlite", fixed={"nonsense": 1})
    with pytest.raises(ConfigError, match="nothing to search"):
        tune(club, "popularity", "loo", tmp_path / "s.sqlite")
    assert not (tmp_path / "s.sqlite").exists()


def test_data_without_an_order_is_not_asked_for_memory(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "sets", interactions().select("user_id", "item_id", "split"))
    found = tune(folder, "item_neighbours", "split", tmp_path / "s.sqlite", trials=4, threads=1)
    assert {key for point in found.tried for key in point.settings} == {
        "count_power",
        "source_power",
        "target_power",
    }


def test_a_file_of_something_else_is_refused_and_left_alone(club: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.sqlite"
    tune(club, "ease", "loo", study, trials=1, threads=1)
    with pytest.raises(ConfigError, match="differs in: seed"):
        tune(club, "ease", "loo", study, trials=1, seed=2, threads=1)
    with pytest.raises(ConfigError, match="differs in: model, settings, space"):
        tune(club, "ials", "loo", study, trials=1, threads=1)
    garbage, other = tmp_path / "garbage", tmp_path / "events.sqlite"
    garbage.write_bytes(b"not a database, and long enough to look like one" * 100)
    with closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE events (id)")
    for file in (garbage, other):
        before = file.read_bytes()
        with pytest.raises(CorruptArtifact, match="cannot be read as a study"):
            tune(club, "ease", "loo", file, trials=1, threads=1)
        assert file.read_bytes() == before
