import numpy as np
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

from slipstream.training.neighbourhood import neighbourhood
from slipstream.training.transformer_network import Neighbours, NetworkShape, SparseRows, TransformerNetwork

HISTORIES = st.lists(st.lists(st.integers(0, 7), min_size=0, max_size=14), min_size=1, max_size=6)


def packed(histories: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.concatenate([[0], np.cumsum([len(h) for h in histories])]).astype(np.int64)
    return offsets, np.array([item for h in histories for item in h], np.int32)


def reference(histories: list[list[int]], items: int) -> np.ndarray:
    """Every pair of every history, one by one."""
    counts = np.zeros((items, items))
    for history in histories:
        for at, one in enumerate(history):
            for distance, other in enumerate(history[at + 1 : at + 11], start=1):
                if one != other:
                    counts[one, other] += 1 / distance
                    counts[other, one] += 1 / distance
    counts = np.sqrt(counts)
    degree = np.maximum(counts.sum(1), 1e-12)
    return counts / np.sqrt(np.outer(degree, degree))


@given(HISTORIES)
def test_with_room_for_all_neighbours_it_is_the_normalised_count(histories: list[list[int]]) -> None:
    near = neighbourhood(*packed(histories), items=8, limit=8).toarray()
    whole = reference(histories, 8)
    degree = np.maximum(whole.sum(1), 1e-12)  # the rest is normalised again, as pairs may have gone
    np.testing.assert_allclose(near, whole / np.sqrt(np.outer(degree, degree)), atol=1e-6)


@given(HISTORIES, st.integers(1, 3))
def test_it_is_symmetric_without_self_and_keeps_everyones_nearest(
    histories: list[list[int]], limit: int
) -> None:
    near = neighbourhood(*packed(histories), items=8, limit=limit).toarray()
    np.testing.assert_allclose(near, near.T, atol=1e-7)
    assert (np.diag(near) == 0).all()
    whole = reference(histories, 8)
    for item in np.flatnonzero(whole.any(1)):
        assert near[item, int(whole[item].argmax())] > 0


def test_pairs_further_than_the_reach_are_none() -> None:
    history = [[0, *([1] * 10), 2]]
    near = neighbourhood(*packed(history), items=3, limit=3).toarray()
    assert near[0, 2] == 0
    assert near[0, 1] > 0


def test_smoothing_and_its_gradient_are_those_of_the_dense_product() -> None:
    random = np.random.default_rng(0)
    dense = sp.random(30, 30, 0.1, random_state=random, dtype=np.float32)
    lonely = np.arange(30) != 3
    near = sp.csr_matrix((dense + dense.T).toarray() * np.outer(lonely, lonely))
    table = torch.randn(30, 5, requires_grad=True)
    upstream = torch.randn(30, 5)
    smoothed = Neighbours(SparseRows.of(near, "cpu"), 1.5).smooth(table)
    expected = table + 1.5 * torch.from_numpy(near.toarray()) @ table
    torch.testing.assert_close(smoothed, expected)
    (own,) = torch.autograd.grad(smoothed, table, upstream)
    (reference_gradient,) = torch.autograd.grad(expected, table, upstream)
    torch.testing.assert_close(own, reference_gradient)


def test_inference_reads_the_smoothed_table() -> None:
    near = sp.csr_matrix(np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]], np.float32))
    network = TransformerNetwork(
        NetworkShape(items=3, dim=8, layers=1, heads=1, window=4),
        seed=0,
        neighbours=Neighbours(SparseRows.of(near, "cpu"), 2.0),
    )
    own = network.item.detach().numpy()
    np.testing.assert_allclose(network.weights()["item"], own + 2.0 * near @ own, rtol=1e-6)
