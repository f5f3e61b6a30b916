"""Trials: the public JSON, agreement with the independent scorer, every kind of data, and clear failures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from club_world import FIGURES, Follower, FollowerSettings, interactions, judged, write_folder

from slipstream.dataset.folder import read_folder
from slipstream.errors import BadInput, ConfigError, UnknownName
from slipstream.evaluation.arena import linked_graph, open_arenas
from slipstream.evaluation.result import Trial
from slipstream.evaluation.slates import evaluate_slates
from slipstream.evaluation.suite import suite
from slipstream.evaluation.trial import Run, run_trial, settings_for
from slipstream.models.recommender import FitContext
from slipstream.models.simple.popularity import Popularity

CONTRACT = {
    "model", "board", "seed", "metrics", "intervals", "validation", "refit", "users", "targets",
    "targets_sha256", "stages", "peak_rss_bytes", "threads", "config", "versions",
}  # fmt: skip


@pytest.fixture(scope="module")
def club(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "clubs"
    return write_folder(folder, interactions(), catalogue=True, people=True, graph=True)


def follow(folder: Path, board: str, *, without: tuple[str, ...] = (), **options: int) -> Trial:
    """A trial of the model of the world, which the registry does not hold."""
    (arena,) = open_arenas(folder, [board], without=without)
    run = Run(arena, "follower", Follower, options.get("k", 10), FitContext(), keep_model=True)
    return run.trial({})


def test_the_json_is_the_contract(club: Path) -> None:
    trial = run_trial(club, "popularity", "loo", seed=3, threads=1)
    report = json.loads(json.dumps(trial.to_json(), allow_nan=False))
    assert set(report) >= CONTRACT
    assert (report["model"], report["board"], report["seed"], report["threads"]) == (
        "popularity",
        "loo",
        3,
        1,
    )
    assert {f"{name}@10" for name in FIGURES} | {"Recall@20"} <= set(report["metrics"])
    assert {f"{name}@10" for name in FIGURES} <= set(report["validation"])
    for name, (low, high) in report["intervals"].items():
        assert low <= report["metrics"][name] <= high
    assert report["users"] == report["targets"] == 60
    assert len(report["targets_sha256"]) == 64
    assert {"read", "split", "fit", "answer"} <= set(report["stages"])
    assert all(set(cost) == {"cpu_s", "wall_s"} for cost in report["stages"].values())
    assert report["peak_rss_bytes"] > 10_000_000
    assert {"slipstream", "python", "numpy", "polars"} <= set(report["versions"])
    assert report["refit"] is False


@pytest.mark.parametrize("board", ["loo", "loo-t", "temporal", "split", "cold"])
def test_figures_agree_with_the_independent_scorer(club: Path, board: str, tmp_path: Path) -> None:
    trial = follow(club, board)
    file = tmp_path / "slates.parquet"
    trial.slates.write_parquet(file)
    foreign = evaluate_slates(club, board, file)
    for k in (10, 20) if board == "temporal" else (10,):
        expected = judged(club, board, file, k)
        assert expected["targets_sha256"] == trial.targets_sha256
        assert (expected["users"], expected["targets"]) == (trial.users, trial.targets)
        assert foreign.faults == expected["faults"]
        for name in FIGURES:
            assert trial.metrics[f"{name}@{k}"] == pytest.approx(expected[name], abs=1e-9)
            assert foreign.metrics[f"{name}@{k}"] == pytest.approx(expected[name], abs=1e-9)


def test_a_model_that_knows_the_world_hits_and_popularity_does_not(club: Path) -> None:
    assert follow(club, "loo").metrics["HR@10"] == 1
    assert follow(club, "loo").metrics["MRR@10"] > 0.9
    assert run_trial(club, "popularity", "loo").metrics["MRR@10"] < 0.4


def test_slates_hold_twenty_new_items_in_order(club: Path) -> None:
    trial = run_trial(club, "popularity", "loo", k=5)
    assert trial.slates.columns == ["user_id", "item_id", "rank", "score"]
    assert trial.slates.schema["user_id"] == trial.slates.schema["item_id"] == pl.String
    lists = trial.slates.group_by("user_id").agg("rank", "score", "item_id")
    assert lists.height == 60
    past = read_folder(club).interactions.group_by("user_id", maintain_order=True).agg("item_id")
    touched = {user: set(items[:-1]) for user, items in past.iter_rows()}
    for user, ranks, scores, items in lists.iter_rows():
        assert ranks == list(range(1, 21))
        assert scores == sorted(scores, reverse=True)
        assert not touched[user] & set(items)
    assert {"NDCG@5", "NDCG@10", "Recall@20"} <= set(trial.metrics)
    thirty = run_trial(club, "popularity", "cold", k=30)
    assert "Recall@30" in thirty.metrics


def test_only_candidates_are_recommended_on_cold(club: Path) -> None:
    trial = follow(club, "cold")
    (arena,) = open_arenas(club, ["cold"])
    assert arena.board.candidates is not None
    allowed = {
        i for i, good in zip(arena.board.past.items.to_list(), arena.board.candidates, strict=True) if good
    }
    assert set(trial.slates["item_id"]) <= allowed
    assert trial.refit is False  # what is hidden on cold stays hidden


def test_refitting_sees_validation_with_the_settings_chosen_before(club: Path) -> None:
    (arena,) = open_arenas(club, ["temporal"])
    trial = follow(club, "temporal")
    assert trial.refit is True
    assert trial.fitted is not None
    assert trial.fitted.report.notes["events"] == arena.board.past.event_count > arena.board.train.event_count
    assert trial.fitted.report.notes["validation"] is False
    assert trial.fitted.report.notes["chosen"] == trial.config["chosen"] == 0.25
    assert trial.notes["events"] == arena.board.train.event_count  # of the fit that chose
    assert "refit" in trial.stages
    strict = follow(club, "loo")
    assert strict.refit is False
    assert strict.fitted is not None
    assert strict.fitted.report.notes["events"] == open_arenas(club, ["loo"])[0].board.train.event_count


def test_what_a_model_may_see_can_be_left_out(club: Path) -> None:
    assert follow(club, "loo").notes["sides"] == [True, True, True]
    trial = follow(club, "loo", without=("graph", "items"))
    assert trial.notes["sides"] == [False, True, False]
    assert trial.name == "follower without graph and items"
    assert trial.to_json()["without"] == ["graph", "items"]
    with pytest.raises(UnknownName, match="grpah"):
        open_arenas(club, ["loo"], without=["grpah"])


def test_the_graph_is_joined_to_the_items_of_the_board(club: Path) -> None:
    (arena,) = open_arenas(club, ["loo"])
    graph = arena.data.graph
    assert graph is not None
    assert (graph.item_entity >= 0).all()
    assert graph.graph.name(int(graph.item_entity[0])) == f"entity of {arena.board.past.items[0]}"
    calls = []
    own = open_arenas(club, ["loo", "temporal"], graph=lambda snapshot: calls.append(snapshot))
    assert len(calls) == 1
    assert own[1].data.graph is None
    assert linked_graph(read_folder(club), arena.board.past) is not None


@pytest.mark.parametrize("facts", [True, False])
def test_edges_between_people_are_joined_with_the_people_of_the_board(tmp_path: Path, facts: bool) -> None:
    folder = write_folder(tmp_path / "club", interactions(), graph=facts)
    ids = sorted(set(interactions()["user_id"].to_list()))
    pl.DataFrame({"a": [ids[0], ids[1], "nobody"], "b": [ids[1], ids[2], ids[0]]}).write_parquet(
        folder / "trust.parquet"
    )
    (arena,) = open_arenas(folder, ["loo"])
    graph, users = arena.data.graph, arena.board.past.users
    assert graph is not None
    trusts = graph.edges.relation == graph.graph.relations.number("trusts")
    names = graph.node_names()
    told = zip(names.gather(graph.edges.head[trusts]), names.gather(graph.edges.tail[trusts]), strict=True)
    assert set(told) == {(ids[0], ids[1]), (ids[1], ids[2]), ("user:nobody", ids[0])}
    assert graph.user_count == len(users)
    assert bool((graph.item_entity >= 0).any()) == facts


@pytest.mark.parametrize("columns", [["split"], ["timestamp", "split"], []])
@pytest.mark.parametrize("sides", [True, False])
def test_data_without_times_order_or_validation_rows(tmp_path: Path, columns: list[str], sides: bool) -> None:
    rows = interactions().with_columns(pl.col("split").replace("valid", "train"))
    rows = rows.select("user_id", "item_id", *columns)
    folder = write_folder(tmp_path / "bare", rows, catalogue=sides, people=sides, graph=sides)
    board = "split" if columns else "cold"
    trial = run_trial(folder, "popularity", board)
    assert trial.validation  # of the drawn tenth of the pairs
    assert trial.users > 0
    assert trial.refit is (board == "split")
    if sides:
        return
    slates = tmp_path / "slates.parquet"
    trial.slates.write_parquet(slates)
    expected = judged(folder, board, slates, 10)
    assert trial.metrics["NDCG@10"] == pytest.approx(expected["NDCG"], abs=1e-9)
    assert trial.targets_sha256 == expected["targets_sha256"]


def test_a_model_that_cannot_run_says_why_and_where(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "plain", interactions().select("user_id", "item_id", "split"))
    with pytest.raises(BadInput, match="the follower needs an order") as caught:
        follow(folder, "split")
    assert caught.value.__notes__ == ["in a trial of follower on board split of plain"]
    with pytest.raises(BadInput, match="order"):
        run_trial(folder, "popularity", "loo")
    with pytest.raises(UnknownName, match="popularty"):
        run_trial(tmp_path / "nowhere", "popularty", "loo")
    with pytest.raises(UnknownName, match="board"):
        run_trial(folder, "popularity", "leave-one-out")


def test_overrides_may_stand_behind_the_name_of_the_model(club: Path) -> None:
    preset = FollowerSettings()
    assert settings_for(preset, "follower", {"decay": 0.1}) == FollowerSettings(decay=0.1)
    assert settings_for(preset, "follower", {"follower.decay": 0.1}) == FollowerSettings(decay=0.1)
    with pytest.raises(ConfigError, match=r"popularity\.decay is a setting of popularity"):
        settings_for(preset, "follower", {"popularity.decay": 0.1})
    with pytest.raises(ConfigError):
        settings_for(preset, "follower", {"decoy": 0.1})
    with pytest.raises(ConfigError):
        run_trial(club, "popularity", "loo", overrides={"epochs": 3})


def test_the_same_seed_gives_the_same_trial(club: Path) -> None:
    first, second = (run_trial(club, "popularity", "temporal", seed=5) for _ in range(2))
    assert first.slates.equals(second.slates)
    assert first.scores.intervals == second.scores.intervals


def test_ndcg_by_gap_covers_all_users(club: Path) -> None:
    trial = follow(club, "loo")
    parts = trial.scores.by_gap
    assert [part.name for part in parts] == ["tie", "< 1 min", "< 1 h", "longer"]
    assert sum(part.users for part in parts) == trial.users
    whole = sum(part.users * part.ndcg.mean for part in parts) / trial.users
    assert whole == pytest.approx(trial.metrics["NDCG@10"])
    assert trial.to_json()["breakdown"]["gap"][0]["slice"] == "tie"
    assert follow(club, "temporal").scores.by_gap == ()


def test_the_literature_variant_is_shown_on_split_only(club: Path) -> None:
    split = run_trial(club, "popularity", "split")
    assert split.metrics["LiteratureNDCG@10"] >= split.metrics["NDCG@10"]
    assert not any(name.startswith("Literature") for name in run_trial(club, "popularity", "loo").metrics)


def test_list_figures(club: Path) -> None:
    trial = run_trial(club, "popularity", "loo")
    items = trial.slates.filter(pl.col("rank") <= 10)["item_id"].n_unique()
    assert trial.metrics["Coverage@10"] == items / 40
    assert trial.metrics["Novelty@10"] > 0
    assert 0 <= trial.metrics["Gini@10"] <= 1


def test_repeats_may_be_allowed(club: Path) -> None:
    trial = run_trial(club, "popularity", "loo", repeat=True)
    best = trial.slates.filter(pl.col("rank") == 1)["item_id"]
    assert best.n_unique() == 1  # the most popular item for everybody, touched or not


def test_a_suite_shares_its_work_and_keeps_going(club: Path) -> None:
    folder = read_folder(club)  # in memory, as a home has it
    seen: list[tuple[int, int | None, str]] = []
    result = suite(
        folder,
        ["popularity", "item_neighbours"],
        ["loo", "temporal"],
        overrides={"item_neighbours.nonsense": 1},
        progress=lambda done, total, note: seen.append((done, total, note)),
    )
    assert [(t.model, t.board) for t in result.trials] == [("popularity", "loo"), ("popularity", "temporal")]
    assert [(f.model, f.board) for f in result.failures] == [
        ("item_neighbours", "loo"),
        ("item_neighbours", "temporal"),
    ]
    assert "nonsense" in result.failures[0].message
    assert seen[0] == (0, 4, "loo: popularity")
    assert any(note.startswith("temporal: popularity: answering") for _, _, note in seen)
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert seen[-1] == (4, 4, "done")
    assert result.trials[0].stages["read"] == result.trials[1].stages["read"]
    alone = run_trial(club, "popularity", "temporal")
    assert alone.metrics == result.trials[1].metrics
    with pytest.raises(BadInput):
        suite(
            write_folder(club.parent / "plain", interactions().select("user_id", "item_id")),
            ["popularity"],
            ["loo"],
        )


def test_a_model_without_an_answer_gets_a_row_of_zeros(club: Path) -> None:
    trial = run_trial(club, "popularity", "cold")  # it has never seen a cold item
    assert trial.scores.users_without_list == trial.users
    assert trial.metrics["NDCG@10"] == 0
    assert "Novelty@10" not in trial.metrics
    assert not any(math.isnan(v) for v in trial.metrics.values())
    json.dumps(trial.to_json(), allow_nan=False)


def test_values_per_user_stand_beside_their_ids(club: Path) -> None:
    trial = follow(club, "temporal")
    hits = trial.slates.join(
        pl.DataFrame({"user_id": trial.user_ids, "value": trial.scores.values["HR@20"]}), on="user_id"
    )
    (arena,) = open_arenas(club, ["temporal"])
    for place, user in enumerate(trial.user_ids):
        wanted = set(arena.board.past.items.texts(arena.board.test.targets(place)))
        mine = hits.filter(pl.col("user_id") == user)
        assert bool(wanted & set(mine["item_id"])) == bool(trial.scores.values["HR@20"][place])
    assert np.mean(trial.scores.values["NDCG@10"]) == pytest.approx(trial.metrics["NDCG@10"])


def test_popularity_is_one_that_may_be_refitted() -> None:
    assert Popularity.refits
