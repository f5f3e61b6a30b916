"""Every model has a page that says what it computes, where that comes from and where we differ."""

from pathlib import Path

import pytest

from slipstream.models.registry import model_names

PAGES = Path(__file__).parents[2] / "docs" / "concepts"
PAGE = {"path_reasoner": "paths", "recency_popularity": "popularity"}


@pytest.mark.parametrize("name", model_names())
def test_every_model_is_explained(name: str) -> None:
    text = (PAGES / f"{PAGE.get(name, name)}.md").read_text()
    assert name not in PAGE or f"`{name}`" in text
    assert len(text.splitlines()) <= 80, "a page, not a chapter"
    assert "Where we differ" in text or name == "path_reasoner"
