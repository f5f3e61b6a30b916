"""How vectors of entities and relations are learned from triples: the tail among all, in both directions.

Each triple (h, r, t) is asked twice: (h, r, ?) and, by the reciprocal relation, (t, r + R, ?). The loss is
the softmax cross-entropy over every candidate where they are few, over a shared sample of them where not,
plus the nuclear 3-norm (N3) of the vectors that took part; Adagrad. Source: Lacroix, Usunier, Obozinski 2018,
"Canonical tensor decomposition for knowledge base completion" (reciprocals, eq. 6-7; N3, section 4; the full
softmax, section 5). Differs: one loss for all four forms, where TransE and RotatE are published with margins
and drawn negatives; Ruffinelli et al. 2020 find the softmax at least as good for them.

Knows arrays only: not graphs, not the model that asks. The forms are those of inference/triple_embedding.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from slipstream.config import Progress, silent
from slipstream.errors import BadInput, Diverged
from slipstream.inference.triple_embedding import Form, TripleEmbedding
from slipstream.randomness import derive, generator
from slipstream.training.people import torch_threads

_SMALL = 1e-3  # deviation of the first vectors of the products (Lacroix et al., their program)
_LEAST_ROOT = 1e-10  # added to the root that Adagrad divides by
_SHORTEST = 1e-9  # under a square root, where its slope is without bound


@dataclass(frozen=True)
class TripleCourse:
    """What the training needs to know beside the triples."""

    form: Form = "complex"
    dim: int = 128  # even for complex and rotate
    epochs: int = 50
    batch: int = 256
    lr: float = 0.1
    n3: float = 0.01  # weight of the nuclear 3-norm; products only
    full_softmax: int = 5_000  # so many candidates are all compared; more are sampled
    negatives: int = 1_024  # shared by a batch, drawn evenly
    validate_every: int = 5  # epochs
    patience: int = 4  # validations without a better one before it stops


@dataclass
class TripleOutcome:
    """embedding: the best by validation, the last without one."""

    embedding: TripleEmbedding
    curve: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0


def run(
    triples: NDArray[np.integer],
    entities: int,
    relations: int,
    course: TripleCourse,
    *,
    ranges: NDArray[np.integer] | None = None,
    seed: int = 0,
    threads: int = 1,
    validate: Callable[[TripleEmbedding], float] | None = None,
    progress: Progress = silent,
) -> TripleOutcome:
    """Learn from triples [T, 3] (head, relation, tail).

    ranges: [2R, 2], the first and the end of the entities that may answer each relation and reciprocal;
    default all of them. Cost: 2T questions an epoch, each O(min(candidates, negatives) · D).
    Raises Diverged where the loss is not finite.
    """
    if not len(triples):
        raise BadInput("there is no triple to learn vectors from")
    if course.form in ("complex", "rotate") and course.dim % 2:
        raise BadInput(f"a {course.form} embedding needs an even dim, got {course.dim}")
    questions = _both_directions(np.asarray(triples, np.int64), relations)
    whole = np.tile(np.array([[0, entities]], np.int64), (2 * relations, 1))
    with torch_threads(threads):
        network = _Network(entities, relations, course, seed)
        allowed = whole if ranges is None else np.asarray(ranges, np.int64)
        return _Run(network, questions, allowed, course, seed, validate, progress).outcome()


def _both_directions(triples: NDArray[np.int64], relations: int) -> NDArray[np.int64]:
    """[2T, 3]: every triple, and every triple turned around."""
    head, relation, tail = triples.T
    turned = np.stack([tail, relation + relations, head], axis=1)
    return np.concatenate([triples, turned])


class _Network:
    """The vectors, and the loss of a batch of questions that share their candidates."""

    def __init__(self, entities: int, relations: int, course: TripleCourse, seed: int) -> None:
        self.course, self.entities = course, entities
        draw = torch.Generator().manual_seed(derive(seed, "triples"))
        distance = course.form in ("transe", "rotate")
        scale = 1.0 / math.sqrt(course.dim) if distance else _SMALL
        self.entity = (torch.randn(entities, course.dim, generator=draw) * scale).requires_grad_()
        width = course.dim // 2 if course.form == "rotate" else course.dim
        turn = math.pi if course.form == "rotate" else scale
        spread = torch.rand if course.form == "rotate" else torch.randn
        start = spread(2 * relations, width, generator=draw) * turn
        self.relation = start.requires_grad_()

    def embedding(self) -> TripleEmbedding:
        """A copy of the vectors."""
        entity, relation = (x.detach().numpy().copy() for x in (self.entity, self.relation))
        return TripleEmbedding(self.course.form, entity, relation)

    def loss(self, questions: NDArray[np.int64], start: int, stop: int, draw: np.random.Generator) -> Tensor:
        """Mean cross-entropy of the tails among entities start to stop, plus N3."""
        head, relation, tail = (torch.from_numpy(c) for c in np.ascontiguousarray(questions.T))
        sampled = stop - start > self.course.full_softmax
        sparse = sampled or 2 * (stop - start) < self.entities  # else most rows take part anyway
        heads = functional.embedding(head, self.entity, sparse=sparse)
        tails = functional.embedding(tail, self.entity, sparse=sparse)
        given = self.relation[relation]
        query = self._query(heads, given)
        if sampled:
            loss = self._among_sample(query, tails, tail, start, stop, draw)
        else:
            every = functional.embedding(torch.arange(start, stop), self.entity, sparse=sparse)
            loss = functional.cross_entropy(self._compare(query, every), tail - start)
        if self.course.n3 and self.course.form in ("complex", "distmult"):
            loss = loss + self.course.n3 * sum(self._cubes(x) for x in (heads, given, tails)) / len(head)
        return loss

    def _among_sample(
        self, query: Tensor, tails: Tensor, tail: Tensor, start: int, stop: int, draw: np.random.Generator
    ) -> Tensor:
        """The tail against evenly drawn candidates, which stand for all: log(candidates / drawn) is added."""
        drawn = torch.from_numpy(draw.integers(start, stop, self.course.negatives))
        others = self._compare(query, functional.embedding(drawn, self.entity, sparse=True))
        others = others + math.log((stop - start) / self.course.negatives)
        others = others.masked_fill(drawn[None, :] == tail[:, None], -1e9)
        own = self._score(query, tails)
        return functional.cross_entropy(torch.cat([own[:, None], others], 1), torch.zeros_like(tail))

    def _query(self, heads: Tensor, given: Tensor) -> Tensor:
        """As TripleEmbedding.asked."""
        if self.course.form == "distmult":
            return heads * given
        if self.course.form == "transe":
            return heads + given
        real, imaginary = heads.chunk(2, 1)
        if self.course.form == "rotate":
            turn_real, turn_imaginary = given.cos(), given.sin()
        else:
            turn_real, turn_imaginary = given.chunk(2, 1)
        return torch.cat(
            [real * turn_real - imaginary * turn_imaginary, real * turn_imaginary + imaginary * turn_real], 1
        )

    def _compare(self, query: Tensor, candidates: Tensor) -> Tensor:
        """[B, N], as TripleEmbedding.compare."""
        product = query @ candidates.T
        if self.course.form in ("complex", "distmult"):
            return product
        squares = (query**2).sum(1)[:, None] + (candidates**2).sum(1)[None, :] - 2 * product
        return -squares.clamp(min=_SHORTEST).sqrt()

    def _score(self, query: Tensor, tails: Tensor) -> Tensor:
        """[B], each query with its own tail."""
        if self.course.form in ("complex", "distmult"):
            return (query * tails).sum(1)
        return -((query - tails) ** 2).sum(1).clamp(min=_SHORTEST).sqrt()

    def _cubes(self, vectors: Tensor) -> Tensor:
        """The sum of the cubed moduli."""
        if self.course.form == "distmult":
            return vectors.abs().pow(3).sum()
        real, imaginary = vectors.chunk(2, 1)
        return (real**2 + imaginary**2).pow(1.5).sum()


class _Run:
    """The epochs: Adagrad, batches that share their candidates, the best vectors by validation."""

    def __init__(
        self,
        network: _Network,
        questions: NDArray[np.int64],
        ranges: NDArray[np.int64],
        course: TripleCourse,
        seed: int,
        validate: Callable[[TripleEmbedding], float] | None,
        progress: Progress,
    ) -> None:
        self.network, self.course, self.seed = network, course, seed
        self.validate, self.progress = validate, progress
        self.pools = _pools(questions, ranges)
        self.optimizer = _Adagrad([network.entity, network.relation], course.lr)
        self.result = TripleOutcome(network.embedding())

    def outcome(self) -> TripleOutcome:
        course, best, stale = self.course, -math.inf, 0
        started = time.process_time()
        for epoch in range(1, course.epochs + 1):
            row = {"epoch": float(epoch), "loss": self._epoch(epoch)}
            row["cpu_s"] = round(time.process_time() - started, 2)
            self.result.curve.append(row)
            last = epoch == course.epochs
            note = f"loss {row['loss']:.3f}"
            if self.validate is not None and (last or epoch % course.validate_every == 0):
                embedding = self.network.embedding()
                value = row["validation"] = self.validate(embedding)
                note += f", validation {value:.4f}"
                stale = 0 if value > best else stale + 1
                if value > best:
                    best, self.result.embedding, self.result.best_epoch = value, embedding, epoch
            self.progress(epoch, course.epochs, note)
            if stale >= course.patience:
                break
        if self.validate is None:
            self.result.embedding, self.result.best_epoch = self.network.embedding(), course.epochs
        return self.result

    def _epoch(self, epoch: int) -> float:
        """The mean loss of a question."""
        draw = generator(self.seed, "triples epoch", epoch)
        total, count = 0.0, 0
        for questions, start, stop in _batches(self.pools, self.course.batch, draw):
            loss = self.network.loss(questions, start, stop, draw)
            if not torch.isfinite(loss):
                raise Diverged(
                    f"the loss of the {self.course.form} embedding is not finite in epoch {epoch}",
                    hint="try a smaller lr",
                )
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += float(loss.detach()) * len(questions)
            count += len(questions)
        return total / count


class _Adagrad:
    """A step in each coordinate divided by the root of the sum of its squared gradients (Duchi et al. 2011).

    Touches only the rows that took part, where the gradient is sparse: a dense step over a large table would
    cost more than the batch.
    """

    def __init__(self, parameters: list[Tensor], lr: float) -> None:
        self.lr = lr
        self.parameters = [(p, torch.zeros_like(p)) for p in parameters]

    @torch.no_grad()
    def step(self) -> None:
        """Move, and forget the gradients."""
        for parameter, squares in self.parameters:
            gradient = parameter.grad
            if gradient is not None and gradient.is_sparse:
                gradient = gradient.coalesce()
                rows, values = gradient.indices()[0], gradient.values()
                total = squares[rows] + values**2
                squares[rows] = total
                parameter[rows] -= self.lr * values / (total.sqrt() + _LEAST_ROOT)
            elif gradient is not None:
                squares += gradient**2
                parameter -= self.lr * gradient / (squares.sqrt() + _LEAST_ROOT)
            parameter.grad = None


_Pool = tuple[NDArray[np.int64], int, int]


def _pools(questions: NDArray[np.int64], ranges: NDArray[np.int64]) -> list[_Pool]:
    """(questions, first candidate, end of the candidates), one for each distinct range."""
    distinct, pool_of = np.unique(ranges, axis=0, return_inverse=True)
    pool = pool_of.ravel()[questions[:, 1]]
    parts = [(questions[pool == n], int(a), int(b)) for n, (a, b) in enumerate(distinct)]
    return [part for part in parts if len(part[0])]


def _batches(pools: list[_Pool], size: int, draw: np.random.Generator) -> Iterator[_Pool]:
    """Every question once, in an order of chance; a batch has one pool."""
    batches = []
    for questions, start, stop in pools:
        order = draw.permutation(len(questions))
        batches += [(questions[order[a : a + size]], start, stop) for a in range(0, len(order), size)]
    for place in draw.permutation(len(batches)):
        yield batches[place]
