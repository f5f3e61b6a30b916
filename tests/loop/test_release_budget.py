"""A release within a budget: the smallest form that keeps it goes live, and the release tells why."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import slipstream
from slipstream.artifacts import open_artifact, writing
from slipstream.cli import main
from slipstream.errors import BadInput, OverBudget, UsageError
from slipstream.loop.learning import KIND
from slipstream.loop.workspace import Workspace
from slipstream.models.registry import load_model, save_model
from slipstream.recommend.live_release import current_release, list_releases
from slipstream.recommend.release import Release

QUICK = {"dim": 16, "epochs": 3, "batch_tokens": 128, "shards": 1, "lr": 1e-2, "table_lr": 1e-2}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Everybody walks round a ring of 20 items: what follows is known to whoever saw the last one."""
    pytest.importorskip("torch")
    rows = [(f"u{u}", f"i{(u * 3 + n) % 20:02}", u * 1000 + n) for u in range(60) for n in range(10)]
    space = slipstream.open(tmp_path_factory.mktemp("budget") / "home")
    space.ingest(pl.DataFrame(rows, schema=["user_id", "item_id", "time"], orient="row"))
    space.prepare()
    space.train("transformer", overrides=QUICK)
    space.train("item_neighbours")
    return space


def test_the_form_that_was_chosen_is_what_is_served(home: Workspace) -> None:
    released = home.release("transformer", budget="ndcg>=-50%,size<=60%")
    release = Release.open(current_release(home.home))
    told = release.meta["compression"]
    sizes = {rung["name"]: rung["model_bytes"] for rung in told["rungs"]}
    assert sizes[told["rung"]] <= 0.6 * sizes["float32"]
    assert told["budget"] == "ndcg>=-50%,size<=60%"
    assert told["users"] == 60
    assert any(told["why"] in line for line in released.lines())
    packed = release.primary.packed
    assert sum(p.nbytes for p in packed.values()) == sizes[told["rung"]]
    whole = home.release("transformer", budget="ndcg>=0%,size<=200%", promote=False)
    science = {r.name: r.meta["science"] for r in list_releases(home.home)}
    other = Release.open(whole.path).meta["compression"]["rung"]
    assert (science[whole.name] == science[released.name]) is (other == told["rung"])
    assert [item.item_id for item in home.recommend("u0").items]


def test_a_budget_that_nothing_keeps_writes_nothing_and_shows_the_table(
    home: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [r.name for r in list_releases(home.home)]
    call = ["release", "transformer", "--home", str(home.home.root), "--budget", "size<=1kB"]
    assert main(call) == OverBudget.exit_code == 2
    said = capsys.readouterr()
    assert "over-budget" in said.err
    for name in ("float32", "int8_certified", "bf16", "int8", "int4"):
        assert name in said.out
    assert [r.name for r in list_releases(home.home)] == before


def test_the_price_of_a_home_is_measured_on_what_its_model_was_chosen_on(home: Workspace) -> None:
    if not list_releases(home.home):
        home.release("transformer")
    found = home.price()
    assert found.users == 60
    assert found.rungs[0].ndcg > 0.5
    (cache,) = (lever for lever in found.levers if lever.name == "slate cache")
    assert cache.on_us > 0
    assert cache.off_us > 0
    assert cache.bytes > 0


def test_models_and_tables_that_cannot_be_packed_are_refused(home: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="item_neighbours cannot be packed"):
        home.release("item_neighbours", budget="size<=1GB")
    with pytest.raises(UsageError, match="cannot bound"):
        home.release("nobody", budget="speed<=1ms")
    shutil.copytree(home.home.root, tmp_path / "spoilt")
    spoilt = slipstream.open(tmp_path / "spoilt")
    artifact = open_artifact(spoilt.home.models / "transformer", KIND)
    model = load_model(artifact)[1]
    model.encoder.weights["item"][3, 1] = np.nan
    with writing(artifact.path, KIND, dict(artifact.meta)) as writer:
        save_model("transformer", model, writer)
    with pytest.raises(BadInput, match="item cannot be packed"):
        spoilt.release("transformer", budget="size<=1GB")


def test_nobody_to_measure_on_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    space = slipstream.open(tmp_path)
    space.ingest(pl.DataFrame({"user_id": ["a", "a", "b", "b"], "item_id": ["x", "y", "y", "x"]}))
    space.prepare()
    space.train("transformer", overrides=QUICK | {"epochs": 1})
    with pytest.raises(BadInput, match="no user has three events"):
        space.release("transformer", budget="size<=1GB")
