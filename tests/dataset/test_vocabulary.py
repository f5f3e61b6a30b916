"""Vocabularies: round trips in any script, unknown ids, and the fast lookup equal to the slow one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.artifacts import open_artifact, writing
from slipstream.dataset.vocabulary import COLUMNAR_FROM, UNKNOWN, Vocabulary

# no surrogates: they are not text in UTF-8
IDS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), unique=True, max_size=30)


@given(ids=IDS)
def test_ids_come_back_as_they_went_in(ids: list[str]) -> None:
    for vocabulary in (Vocabulary.of(ids), Vocabulary.of(pl.Series("id", ids, pl.String))):
        assert vocabulary.to_list() == ids
        assert vocabulary.series().to_list() == ids
        assert len(vocabulary) == len(ids)
        assert [vocabulary[n] for n in range(len(ids))] == ids
        assert vocabulary.texts(np.arange(len(ids))) == ids
        assert vocabulary.numbers(ids).tolist() == list(range(len(ids)))
        assert all(vocabulary.number(text) == n and text in vocabulary for n, text in enumerate(ids))


def test_unknown_ids_are_minus_one_and_numbers_outside_are_an_error() -> None:
    vocabulary = Vocabulary.of(["a", "b"])
    assert vocabulary.number("c") == UNKNOWN
    assert vocabulary.numbers(["b", "c", ""]).tolist() == [1, UNKNOWN, UNKNOWN]
    assert "c" not in vocabulary
    for number in (-1, 2):
        with pytest.raises(IndexError, match="outside a vocabulary of 2"):
            vocabulary[number]


def test_the_columnar_lookup_equals_the_dict() -> None:
    random = np.random.default_rng(0)
    vocabulary = Vocabulary.of([f"item-{n}-é" for n in random.permutation(20_000)])
    asked = [f"item-{n}-é" for n in random.integers(0, 25_000, COLUMNAR_FROM + 1)]
    slow = [vocabulary.number(text) for text in asked]
    assert vocabulary.numbers(asked).tolist() == slow
    assert vocabulary.numbers(pl.Series(asked)).tolist() == slow
    assert vocabulary.numbers(asked).dtype == np.int32
    assert UNKNOWN in slow


def test_a_vocabulary_is_written_and_read(tmp_path: Path) -> None:
    ids = ["", "ü", "映画", "a\nb"]
    with writing(tmp_path / "v", "example") as writer:
        Vocabulary.of(ids).write(writer, "users")
        Vocabulary.of([]).write(writer, "none")
    artifact = open_artifact(tmp_path / "v", "example")
    assert Vocabulary.read(artifact, "users").to_list() == ids
    assert Vocabulary.read(artifact, "none").to_list() == []
