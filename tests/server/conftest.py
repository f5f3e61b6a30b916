from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import served_home

from slipstream.config import Home


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    made = Home(tmp_path_factory.mktemp("home"))
    served_home.fill(made)
    return made


@pytest.fixture(scope="session")
def api(home: Home) -> Iterator[httpx.Client]:
    """A client of a running server; the tests share both, with users of their own."""
    with served_home.serving(home) as server, httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


@pytest.fixture
def fresh_home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.root.mkdir()
    served_home.fill(made)
    return made
