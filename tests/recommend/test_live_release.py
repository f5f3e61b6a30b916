"""Which release is live: promotions and rollbacks against a stack, two at once, kill -9 at any moment."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import film_world
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipstream.config import Home
from slipstream.errors import CorruptArtifact, NotThere, UsageError
from slipstream.recommend.live_release import (
    Promotion,
    current_release,
    list_releases,
    promote,
    promotions,
    rollback,
    succession,
)
from slipstream.recommend.release import CURRENT

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("live") / "releases"
    for name in NAMES:
        film_world.release(folder, name)
    return folder


def test_going_live_and_back_is_recorded_with_who_and_why(releases: Path) -> None:
    (releases / CURRENT).unlink(missing_ok=True)
    home = Home(releases.parent)
    with pytest.raises(NotThere, match="no live release"):
        rollback(releases)
    promote(releases, "a")
    with pytest.raises(NotThere, match="before a"):
        rollback(releases)
    promote(releases, "b", why="beats a")
    with pytest.raises(UsageError, match="b is live, not a"):
        rollback(releases, leaving="a")
    assert rollback(releases, leaving="b", why="b sells nothing") == "a"
    told = promotions(releases)
    assert [(p.name, p.back, p.why) for p in told] == [
        ("a", False, ""),
        ("b", False, "beats a"),
        ("a", True, "b sells nothing"),
    ]
    assert all("@" in p.by and p.time_us > 0 for p in told)
    assert [p.time_us for p in told] == sorted(p.time_us for p in told)
    listed = {r.name: (r.live, r.promoted.why if r.promoted else None) for r in list_releases(home)}
    assert listed == {"a": (True, "b sells nothing"), "b": (False, "beats a"), "c": (False, None)}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([*NAMES, "back"]), max_size=12))
def test_rollbacks_walk_down_a_stack(steps: list[str]) -> None:
    past: list[Promotion] = []
    stack: list[str] = []
    for step in steps:
        if step != "back":
            past.append(Promotion(0, step))
            if stack[-1:] != [step]:
                stack.append(step)
        elif len(stack) > 1:
            stack.pop()
            past.append(Promotion(0, stack[-1], back=True))
    assert succession(past) == stack


def test_a_rollback_passes_over_what_was_removed_and_stops_at_what_was_changed(tmp_path: Path) -> None:
    for name in NAMES:
        film_world.release(tmp_path, name)
        promote(tmp_path, name)
    (tmp_path / "b").rename(tmp_path / "gone")
    assert rollback(tmp_path) == "a"
    promote(tmp_path, "c")
    (tmp_path / "a" / "people.npy").write_bytes(b"x")
    with pytest.raises(CorruptArtifact, match="people"):
        rollback(tmp_path)
    assert promotions(tmp_path)[-1].name == "c"


def test_a_pointer_of_before_there_were_records_is_read_and_a_broken_one_is_mended(releases: Path) -> None:
    (releases / CURRENT).write_text("a\n")
    promote(releases, "b")
    assert rollback(releases) == "a"
    (releases / CURRENT).write_text('a\n{"name": 3')
    with pytest.raises(CorruptArtifact, match="CURRENT"):
        rollback(releases)
    promote(releases, "c")
    assert [p.name for p in promotions(releases)] == ["c"]


def test_promotions_at_once_are_all_recorded(releases: Path) -> None:
    (releases / CURRENT).unlink(missing_ok=True)
    threads = [threading.Thread(target=promote, args=(releases, name)) for name in NAMES * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = promotions(releases)
    assert sorted(p.name for p in told) == sorted(NAMES * 5)
    assert current_release(Home(releases.parent)).name == told[-1].name


PROMOTING = """
import sys
from pathlib import Path
from slipstream.recommend.live_release import promote, rollback

folder = Path(sys.argv[1])
print("ready", flush=True)
while True:
    promote(folder, "a")
    promote(folder, "b")
    rollback(folder)
"""


def test_kill_9_leaves_the_old_release_live_or_the_new(releases: Path) -> None:
    draw = random.Random(3)
    promote(releases, "c")
    for _ in range(5):
        before = len(promotions(releases))
        process = subprocess.Popen(
            [sys.executable, "-c", PROMOTING, str(releases)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        until = time.monotonic() + 30
        while len(promotions(releases)) == before and time.monotonic() < until:
            time.sleep(0.002)
        time.sleep(draw.uniform(0.0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        told = promotions(releases)  # reads every line
        assert len(told) > before
        assert current_release(Home(releases.parent)).name == told[-1].name
    promote(releases, "c")  # and nobody holds a lock
    assert current_release(Home(releases.parent)).name == "c"
