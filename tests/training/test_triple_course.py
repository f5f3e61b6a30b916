"""Vectors learned from triples: what is trained is what is served, and known worlds are found again."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from slipstream.errors import BadInput, Diverged  # noqa: E402
from slipstream.graph.link_prediction import filtered_ranks  # noqa: E402
from slipstream.inference.triple_embedding import FORMS  # noqa: E402
from slipstream.training.triple_course import TripleCourse, _Network, run  # noqa: E402

STEPS = 12


def wheel(closed: bool = True) -> np.ndarray:
    """12 entities in a ring or a row; relation n leads n + 1 places on: each edge follows from others."""
    edges = np.array([(e, n, e + n + 1) for e in range(STEPS) for n in range(4)])
    return edges % [STEPS, 4, STEPS] if closed else edges[edges[:, 2] < STEPS]


@pytest.mark.parametrize("form", FORMS)
def test_hidden_edges_are_found(form):
    """On a row for TransE, which cannot come back to where it was; else on a ring."""
    triples = wheel(closed=form != "transe")
    hidden = np.arange(len(triples)) % 9 == 0
    course = TripleCourse(form=form, dim=32, epochs=120, batch=32, n3=0.0)
    outcome = run(triples[~hidden], STEPS, 4, course, seed=1)
    found = filtered_ranks(outcome.embedding, triples[hidden], triples).summary()
    # DistMult cannot tell the directions of a ring apart (its product is symmetric), and says so
    assert found["MRR"] > (0.3 if form == "distmult" else 0.8), found
    assert outcome.curve[-1]["loss"] < outcome.curve[0]["loss"]


@pytest.mark.parametrize("form", FORMS)
def test_served_scores_are_the_trained_ones(form):
    network = _Network(7, 3, TripleCourse(form=form, dim=6), seed=3)
    head, relation = np.array([0, 4, 6]), np.array([0, 5, 2])
    trained = network._compare(
        network._query(network.entity[head], network.relation[relation]), network.entity
    )
    served = network.embedding().scores(head, relation)
    np.testing.assert_allclose(served, trained.detach().numpy(), rtol=1e-4, atol=1e-5)
    own = network._score(network._query(network.entity[head], network.relation[relation]), network.entity[:3])
    np.testing.assert_allclose(own.detach().numpy(), served[np.arange(3), np.arange(3)], rtol=1e-3, atol=1e-4)


def test_complex_scores_are_those_of_the_paper():
    """Re(sum h r conj(t)), with complex numbers of their own kind."""
    embedding = _Network(5, 2, TripleCourse(dim=8), seed=0).embedding()
    half = 4
    entity = embedding.entity[:, :half] + 1j * embedding.entity[:, half:]
    relation = embedding.relation[:, :half] + 1j * embedding.relation[:, half:]
    slow = np.real((entity[[1]] * relation[[3]]) @ entity.conj().T)
    np.testing.assert_allclose(embedding.scores(np.array([1]), np.array([3])), slow, rtol=1e-4, atol=1e-9)


def test_a_sample_of_all_candidates_has_the_loss_of_all():
    """Drawn often enough, the sampled softmax is the full one."""
    questions = np.array([(0, 0, 3), (2, 1, 5), (6, 3, 1)])
    full = _Network(8, 2, TripleCourse(dim=8, n3=0.0), seed=5)
    few = _Network(8, 2, TripleCourse(dim=8, n3=0.0, full_softmax=1, negatives=40_000), seed=5)
    with torch.no_grad():
        for network in (full, few):
            network.entity *= 1_000
            network.relation *= 1_000
    draw = np.random.default_rng(0)
    assert float(few.loss(questions, 0, 8, draw).detach()) == pytest.approx(
        float(full.loss(questions, 0, 8, draw).detach()), rel=0.02
    )


def test_answers_come_from_the_range_of_the_relation():
    """Entities outside a relation's range are never compared, so nothing pushes them away."""
    triples = np.array([(0, 0, 2), (1, 0, 3)])
    ranges = np.array([[2, 4], [0, 2]])
    course = TripleCourse(dim=4, epochs=3, batch=2, n3=0.0)
    before = run(triples, 6, 1, TripleCourse(dim=4, epochs=0, batch=2)).embedding
    after = run(triples, 6, 1, course, ranges=ranges).embedding
    np.testing.assert_array_equal(before.entity[4:], after.entity[4:])
    assert not np.array_equal(before.entity[:4], after.entity[:4])


def test_the_best_vectors_by_validation_are_kept_and_it_stops():
    values = iter([0.1, 0.3, 0.2, 0.2, 0.9])
    course = TripleCourse(dim=4, epochs=5, validate_every=1, patience=2)
    outcome = run(wheel(), STEPS, 4, course, validate=lambda e: next(values))
    assert outcome.best_epoch == 2
    assert len(outcome.curve) == 4


def test_same_seed_same_vectors_with_a_sample_too():
    course = TripleCourse(dim=8, epochs=2, full_softmax=1, negatives=5, batch=16)
    one, two, other = (run(wheel(), STEPS, 4, course, seed=s).embedding.entity for s in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


def test_what_cannot_be_learned_is_refused():
    with pytest.raises(BadInput, match="no triple"):
        run(np.zeros((0, 3), int), 3, 1, TripleCourse())
    with pytest.raises(BadInput, match="even dim"):
        run(wheel(), STEPS, 4, TripleCourse(dim=7))
    with pytest.raises(Diverged, match="complex embedding is not finite"):
        run(wheel(), STEPS, 4, TripleCourse(dim=4, lr=1e30, epochs=3))
