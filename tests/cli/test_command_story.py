"""The command line as a story: collect, prepare, train, evaluate, release, recommend, look at the answers."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

HEADER = "user_id,item_id,timestamp,rating\n"


def run(*arguments: str, home: Path, code: int = 0) -> str:
    command = [sys.executable, "-m", "slipstream", *arguments, "--home", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout if code == 0 else done.stderr


def log(path: Path, people: int = 60) -> Path:
    """Even people like even films, odd people odd ones."""
    draw, lines = random.Random(1), [HEADER]
    for person in range(people):
        films = draw.sample(range(person % 2, 30, 2), 8)
        lines += [
            f"u{person},f{film},{1_000_000 + 1000 * step + person},5\n" for step, film in enumerate(films)
        ]
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("story")
    log(folder / "events.csv")
    films = {"item_id": [f"f{n}" for n in range(30)], "title": [f"Film {n}" for n in range(30)]}
    pl.DataFrame({**films, "side": ["even", "odd"] * 15}).write_csv(folder / "films.csv")
    place = folder / "home"
    assert "480 stored" in run("ingest", str(folder / "events.csv"), home=place)
    assert "0 stored" in run("ingest", str(folder / "events.csv"), home=place)
    assert "30 new" in run("catalogue", str(folder / "films.csv"), home=place)
    assert "480 events in the snapshot" in run("prepare", home=place)
    assert "validation NDCG@10" in run("train", "item_neighbours", home=place)
    assert "live" in run("release", home=place)
    return place


def test_a_slate_is_json_as_over_http(home: Path) -> None:
    (slate,) = json.loads(run("recommend", "u2", "-k", "4", "--json", home=home))
    assert set(slate) == {"request_id", "user_id", "items", "tier", "release", "release_age_s"}
    assert slate["tier"] == "model"
    assert len(slate["items"]) == 4
    assert all(int(item["item_id"][1:]) % 2 == 0 for item in slate["items"])
    reason = slate["items"][0]["reasons"][0]
    assert set(reason) == {"kind", "text", "share", "path"}
    touched = {row[1] for row in _events(home) if row[0] == "u2"}
    assert not touched & {item["item_id"] for item in slate["items"]}


def test_a_stranger_gets_a_useful_slate(home: Path) -> None:
    (slate,) = json.loads(run("recommend", "nobody-知", "--json", home=home))
    assert slate["tier"] == "popularity"
    assert len(slate["items"]) == 10


def test_all_users_go_to_a_file(home: Path, tmp_path: Path) -> None:
    run("recommend", "--all-users", str(tmp_path / "all.parquet"), "-k", "5", home=home)
    table = pl.read_parquet(tmp_path / "all.parquet")
    assert table.columns == ["user_id", "item_id", "rank", "score"]
    assert table.height == 60 * 5
    assert table.filter(rank=1).height == 60


def test_evaluate_shows_models_side_by_side_with_intervals(home: Path) -> None:
    told = run("evaluate", "popularity", "item_neighbours", "--board", "loo", home=home)
    assert "item_neighbours" in told
    assert "< 1 h (60)" in told  # a thousand seconds before each target
    assert "[" in told
    assert (home / "reports" / "evaluation.html").read_text().startswith("<!doctype html>")


def test_events_and_graph_come_out(home: Path, tmp_path: Path) -> None:
    run("events", "export", str(tmp_path / "events.parquet"), home=home)
    events = pl.read_parquet(tmp_path / "events.parquet")
    assert events.columns == ["event_id", "user_id", "item_id", "kind", "value", "time_us"]
    assert events.height == 480
    run("graph", "export", str(tmp_path / "graph"), home=home)
    edges = pl.read_parquet(tmp_path / "graph" / "kg.parquet")
    assert edges.columns == ["head", "relation", "tail"]
    assert ("f0", "side", "side:even") in set(edges.rows())
    assert pl.read_parquet(tmp_path / "graph" / "item_links.parquet").columns == ["item_id", "entity_id"]


def test_doctor_and_lists(home: Path) -> None:
    assert "every byte as written" in run("doctor", home=home)
    assert "live" in run("releases", home=home)
    assert (
        "popularity"
        in subprocess.run(
            [sys.executable, "-m", "slipstream", "models"], capture_output=True, text=True, check=True
        ).stdout
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("train", "itemneighbours"), 2, "known: item_neighbours"),
        (("train", "popularity", "--set", "nonsense=1"), 2, "known settings"),
        (("ingest", "no-such-file.csv"), 3, "no-such-file.csv"),
        (("recommend",), 2, "--all-users"),
        (("serve", "--host", "0.0.0.0"), 2, "SLIPSTREAM_API_KEYS"),  # noqa: S104 - it must refuse
        (("promote", "no-such-release"), 3, "no-such-release"),
        (("report",), 3, "nothing was served from this home"),
        (("frobnicate",), 2, "No such command"),
    ],
)
def test_a_wrong_call_says_what_and_how(
    home: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    told = run(*arguments, home=home, code=code)
    assert words in " ".join(told.split())


def test_steps_in_the_wrong_order_say_which_comes_first(tmp_path: Path) -> None:
    assert "slipstream ingest" in run("prepare", home=tmp_path, code=3)
    assert "slipstream prepare" in run("train", "popularity", home=tmp_path, code=3)
    assert "slipstream release" in run("recommend", "u1", home=tmp_path, code=3)


def test_a_home_can_be_copied(home: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", str(home), str(tmp_path / "copy")], check=True)  # noqa: S607
    (slate,) = json.loads(run("recommend", "u2", "--json", home=tmp_path / "copy"))
    assert slate["tier"] == "model"


def test_killed_steps_are_finished_by_running_them_again(tmp_path: Path) -> None:
    place, draw = tmp_path / "home", random.Random(4)
    lines = [HEADER] + [f"u{draw.randrange(500)},f{draw.randrange(300)},{n},1\n" for n in range(60_000)]
    (tmp_path / "events.csv").write_text("".join(lines))
    for pause in (0.4, 0.9):
        _start_and_kill(("ingest", str(tmp_path / "events.csv")), place, pause)
    run("ingest", str(tmp_path / "events.csv"), home=place)
    assert len(_events(place)) == 60_000
    assert len(set(_events(place))) == len({tuple(line.strip().split(",")[:3]) for line in lines[1:]})
    for step in (("prepare",), ("train", "popularity"), ("release", "popularity")):
        for pause in (0.5, 1.0):
            _start_and_kill(step, place, pause)
        run(*step, home=place)
    (slate,) = json.loads(run("recommend", "u1", "--json", home=place))
    assert len(slate["items"]) == 10


def _start_and_kill(step: tuple[str, ...], home: Path, after_s: float) -> None:
    command = [sys.executable, "-m", "slipstream", *step, "--home", str(home)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    time.sleep(after_s)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _events(home: Path) -> list[tuple[str, str, int]]:
    from slipstream.events.sqlite import SqliteEventStore

    with SqliteEventStore(home / "events.sqlite") as store:
        return [row for chunk in store.scan() for row in chunk.select("user_id", "item_id", "time_us").rows()]
