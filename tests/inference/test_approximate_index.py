"""The approximate index: true scores, nothing that is forbidden, and no more missing than it says."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from slipstream.errors import MissingExtra, UsageError
from slipstream.inference.approximate_index import ApproximateIndex
from slipstream.inference.item_index import ItemIndex

ITEMS, DIM = 5_000, 16


def vectors(seed: int = 0) -> tuple[np.ndarray, np.ndarray, ItemIndex]:
    """Items, queries and their exact index; a tenth of the items is never an answer, one is not finite."""
    random = np.random.default_rng(seed)
    items = random.standard_normal((ITEMS, DIM)).astype(np.float32)
    known = random.random(ITEMS) < 0.9
    items[7] = np.nan
    return items, random.standard_normal((40, DIM)).astype(np.float32), ItemIndex(items, known=known)


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    items, _, exact = vectors()
    with pytest.raises(MissingExtra) as caught:
        ApproximateIndex.of(exact, items)
    assert caught.value.hint == "pip install 'slipstream[approximate]'"
    with pytest.raises(MissingExtra):
        ApproximateIndex.read(Path("nowhere"), exact)


def test_it_finds_nearly_all_with_their_true_scores(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    items, queries, exact = vectors()
    made = ApproximateIndex.of(exact, items)
    made.write(tmp_path / "graph")
    index = ApproximateIndex.read(tmp_path / "graph", exact)
    assert index.recall(queries, 10) > 0.97
    found, scores = index.search(queries, 10)
    for n, query in enumerate(queries):
        np.testing.assert_array_equal(scores[n], exact.scores(query, found[n]))
        order = np.lexsort((found[n], -scores[n]))
        assert order.tolist() == list(range(10))
        assert exact.answers[found[n]].all()
    np.testing.assert_array_equal(made.search(queries, 10)[0], found)
    other = ItemIndex(items[:-1])
    with pytest.raises(UsageError, match="another table"):
        ApproximateIndex.read(tmp_path / "graph", other)
    with pytest.raises(UsageError, match="no item vector"):
        ApproximateIndex.of(ItemIndex(items, known=np.zeros(ITEMS, bool)), items)


def test_what_is_excluded_is_never_found_and_few_are_searched_exactly() -> None:
    pytest.importorskip("faiss")
    items, queries, exact = vectors(1)
    index = ApproximateIndex.of(exact, items)
    random = np.random.default_rng(2)
    for part in (0.3, 0.7):
        excluded = random.random((len(queries), ITEMS)) < part
        found, _ = index.search(queries, 10, excluded=excluded)
        assert not excluded[np.arange(len(queries))[:, None], found].any()
        truth = exact.search(queries, 10, excluded=excluded)[0]
        assert np.mean([len(set(a) & set(b)) for a, b in zip(truth, found, strict=True)]) > 9
    few = np.ones(ITEMS, bool)
    few[:60] = False
    for k in (10, 80):  # more than there are: padded
        for ours, theirs in zip(
            index.search(queries, k, excluded=few), exact.search(queries, k, excluded=few), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    queries[0, 0] = np.nan
    found, scores = index.search(queries, 3)
    assert found[0].tolist() == [-1] * 3
    assert np.isneginf(scores[0]).all()
