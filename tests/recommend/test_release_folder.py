"""A release: whole or not there, checked byte by byte, served without the training framework."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import film_world
import pytest

from slipstream.artifacts import MANIFEST
from slipstream.config import Home
from slipstream.errors import ConfigError, CorruptArtifact, NotThere, UsageError
from slipstream.recommend.live_release import current_release, list_releases, promote
from slipstream.recommend.pipeline import Pipeline, Request
from slipstream.recommend.release import CURRENT, Release, release_name
from slipstream.recommend.rules import Rules, read_rules, write_rules


def test_a_release_holds_all_that_is_served(tmp_path: Path) -> None:
    made = film_world.release(tmp_path, metrics={"NDCG@10": 0.2}, rules=Rules(repeat=True), created_us=5)
    opened = Release.open(tmp_path / "r1")
    assert opened.name == "r1"
    assert opened.created_us == 5
    assert opened.items.to_list() == film_world.FILMS["item_id"].to_list()
    assert opened.people.tolist() == [4, 3, 1, 1, 2, 1, 1, 0]
    assert opened.user_events.tolist() == [3, 3, 3, 3, 1]
    assert opened.metrics == {"NDCG@10": 0.2}
    assert opened.rules == Rules(repeat=True)
    assert opened.meta["price"]["p50_ms"] > 0
    assert 0 < opened.meta["price"]["bytes"] <= opened.size()
    assert len(opened.meta["science"]) == 12
    assert made.shelf.title(7) == "Up|Down"
    opened.warm()


def test_science_changes_with_a_setting_and_with_nothing_else(tmp_path: Path) -> None:
    first = film_world.release(tmp_path, "a", created_us=1)
    again = film_world.release(tmp_path, "b", created_us=2, rules=Rules(blocked=("f0",)))
    other = film_world.release(tmp_path, "c", settings=film_world.PipelineSettings(language="zh"))
    assert first.meta["science"] == again.meta["science"] != other.meta["science"]


def test_every_changed_byte_is_refused_by_name_and_the_one_in_service_goes_on(tmp_path: Path) -> None:
    served = Pipeline(film_world.release(tmp_path))
    before = [item.item_id for item in served.recommend(Request(history=["f0"])).items]
    film_world.release(tmp_path, "r2")
    files = sorted(p for p in (tmp_path / "r2").rglob("*") if p.is_file() and p.name != MANIFEST)
    assert len(files) > 15
    for file in files:
        good = file.read_bytes()
        if not good:
            continue
        file.write_bytes(bytes([good[0] ^ 1]) + good[1:])
        with pytest.raises(CorruptArtifact, match=file.name):
            Release.open(tmp_path / "r2")
        file.write_bytes(good)
    Release.open(tmp_path / "r2")
    assert [item.item_id for item in served.recommend(Request(history=["f0"])).items] == before


def test_only_a_good_release_is_promoted(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(NotThere, match="no live release"):
        current_release(home)
    film_world.release(home.releases, "r1", created_us=10)
    film_world.release(home.releases, "r2", created_us=20)
    promote(home.releases, "r1")
    assert current_release(home) == home.releases / "r1"
    assert [(listed.name, listed.live) for listed in list_releases(home)] == [("r2", False), ("r1", True)]
    (home.releases / "r2" / "people.npy").write_bytes(b"x")
    with pytest.raises(CorruptArtifact, match="people"):
        promote(home.releases, "r2")
    with pytest.raises(NotThere):
        promote(home.releases, "r3")
    assert current_release(home).name == "r1"


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", CURRENT, "x y", "a\n"])
def test_a_release_name_stays_inside_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="named with letters"):
        promote(tmp_path, name)


def test_names_sort_by_time() -> None:
    assert release_name(1_780_000_000_123_000) == "20260528T202640.123Z"
    assert release_name(1) < release_name(10**15) < release_name(1_780_000_000_123_000)


def test_a_broken_manifest_hides_only_its_own_release(tmp_path: Path) -> None:
    home = Home(tmp_path)
    film_world.release(home.releases, "good")
    film_world.release(home.releases, "bad")
    (home.releases / "bad" / MANIFEST).write_text("{")
    assert [listed.name for listed in list_releases(home)] == ["good"]


def test_rules_of_a_home_stand_over_those_of_the_release(tmp_path: Path) -> None:
    assert read_rules(tmp_path, Rules(repeat=True)) == Rules(repeat=True)
    write_rules(tmp_path, Rules(blocked=("f1",), variety={"genre": 2}))
    assert read_rules(tmp_path, Rules(repeat=True)) == Rules(blocked=("f1",), variety={"genre": 2})
    (tmp_path / "rules.json").write_text('{"repat": true}')
    with pytest.raises(ConfigError, match="repat"):
        read_rules(tmp_path)
    (tmp_path / "rules.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        read_rules(tmp_path)


def test_serving_a_release_loads_no_training_framework(tmp_path: Path) -> None:
    film_world.release(tmp_path)
    code = (
        "import json, sys; from pathlib import Path\n"
        "from slipstream.recommend.release import Release\n"
        "from slipstream.recommend.pipeline import Pipeline, Request\n"
        "release = Release.open(Path(sys.argv[1])); release.warm()\n"
        "slate = Pipeline(release).recommend(Request(history=['f0'], explain=True))\n"
        "unwanted = ('torch', 'pandas', 'pyarrow', 'networkx', 'starlette', 'uvicorn', 'typer')\n"
        "heavy = [m for m in unwanted if m in sys.modules]\n"
        "print(json.dumps([len(slate.items), heavy]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "r1")], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [6, []]


def test_a_release_killed_half_way_is_not_there(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(film_world.__file__).parent)!r})\n"
        "import film_world\n"
        "from slipstream.recommend import release\n"
        "from slipstream.recommend.catalogue import Catalogue\n"
        "Catalogue.write = lambda self, writer: os.kill(os.getpid(), signal.SIGKILL)\n"
        "film_world.release(Path(sys.argv[1]), 'r1')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, check=False)
    assert done.returncode == -9
    with pytest.raises(NotThere):
        Release.open(tmp_path / "r1")
    film_world.release(tmp_path, "r1")  # running it again finishes the work
    Release.open(tmp_path / "r1")
