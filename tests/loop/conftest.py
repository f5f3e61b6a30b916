"""A home in which a cycle has something to do, made once and copied for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import cycle_world
import pytest

import slipstream
from slipstream.loop.workspace import Workspace


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With popularity live; copied for each test."""
    return cycle_world.home(tmp_path_factory.mktemp("cycle") / "home").home.root


@pytest.fixture
def space(made: Path, tmp_path: Path) -> Workspace:
    return slipstream.open(shutil.copytree(made, tmp_path / "home"))
