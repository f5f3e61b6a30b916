"""Edges that are missing from a home's graph are suggested, and the guesses are measured."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")

from slipstream.cli.app import app
from slipstream.config import Home
from slipstream.errors import BadInput, NotThere
from slipstream.loop.knowledge import build_graph
from slipstream.loop.suggesting import suggest
from slipstream.loop.tables import add_rows

FILMS = 60


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Of three series, each has a studio, a writer and two directors; film 5 has no studio."""
    home = Home(tmp_path_factory.mktemp("suggest"))
    numbers = range(FILMS)
    studios = [None if n == 5 else f"studio {n % 3}" for n in numbers]
    films = pl.DataFrame(
        {
            "item_id": [f"f{n}" for n in numbers],
            "title": [f"Film {n}" for n in numbers],
            "director": [f"director {n % 6}" for n in numbers],
            "writer": [f"writer {n % 3}" for n in numbers],
            "studio": studios,
        }
    )
    add_rows(home, "items", films)
    build_graph(home)
    return home


def test_the_missing_studio_is_suggested(home: Home) -> None:
    found = suggest(home, relation="studio", limit=1)
    assert found.edges.select("head", "tail").row(0) == ("f5", "studio:studio 2")
    assert found.held_back == int(0.05 * (3 * FILMS - 1))
    assert found.measured["Hits@10"] > 0.5


def test_the_command_lists_them(home: Home) -> None:
    result = CliRunner().invoke(
        app, ["graph", "suggest", "--home", str(home.root), "--limit", "3", "--epochs", "4"]
    )
    assert result.exit_code == 0, result.output
    assert "likely missing edges" in result.output
    assert "8 edges held back" in result.output


def test_too_little_to_learn_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotThere):
        suggest(Home(tmp_path))
    add_rows(Home(tmp_path), "items", pl.DataFrame({"item_id": ["1", "2"], "side": ["a", "a"]}))
    build_graph(Home(tmp_path))
    with pytest.raises(BadInput, match="too few to learn from"):
        suggest(Home(tmp_path))
