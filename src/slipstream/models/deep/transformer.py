"""The causal transformer over a person's events: what comes next, given everything before.

A pre-norm transformer (Vaswani et al. 2017; SASRec, Kang & McAuley 2018) with three differences that let the
state of a user be advanced by one event exactly, in constant time: attention is banded (width W in every
layer), positions are ages i - j through a learned bias per head, and the only clock it sees is the gap from
the event before. It is trained on packed histories with the full softmax over all items.

score(q)[i] = h(history of q) · v_i with h from `inference/encoder.py`: serving needs numpy, not torch. Items
without a training event have no vector and score NaN, unless `content` gives them one from their features.
A history of unknown items only scores NaN. Data without an order is learned as sets: histories are shuffled
anew every epoch, with neither ages nor gaps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from slipstream.artifacts import Artifact, ArtifactWriter
from slipstream.config import Settings
from slipstream.dataset.queries import Holdout, Queries
from slipstream.errors import ConfigError, CorruptArtifact
from slipstream.inference.compiled_encoder import encoder_of
from slipstream.inference.encoder import Encoder, EncoderState, gap_bin
from slipstream.inference.item_index import ItemIndex
from slipstream.inference.item_rows import ItemRows, rows_of
from slipstream.inference.packed_weights import Packed, read_packed, write_packed
from slipstream.models.recommender import (
    Earlier,
    FitContext,
    FitReport,
    ScoreMatrix,
    TrainingData,
    WeightRole,
)
from slipstream.models.transformer_data import interactions_of
from slipstream.models.transformer_preset import preset_of
from slipstream.models.validation import sample_holdout, validation_ndcg
from slipstream.training.packing import SoftLabels
from slipstream.training.transformer_settings import TransformerSettings

WEIGHTS = "encoder.safetensors"
LINEARS = frozenset(
    f"{name}_weight"
    for name in ("qkv", "qkvu", "out", "ffn_in", "ffn_out", "gate1", "gate2", "in")  # `in`: request head
)
PERSON = "request.person"  # [F, 2 D], among the weights
ROWS = ("gap", "request.time", PERSON)
PEOPLE = ("data", "indices", "indptr")  # of the users' features, a sparse matrix
EXPLAINED = 10  # latest events whose part in a score is measured


class Transformer:
    """See the module."""

    settings_type: ClassVar[type[Settings]] = TransformerSettings

    def __init__(
        self,
        settings: TransformerSettings,
        encoder: Encoder,
        known: NDArray[np.bool_],
        people: sp.csr_matrix | None = None,
    ) -> None:
        """known [I]: items that have a vector. people [U, F]: the features of the users of the vocabulary."""
        self.settings: Settings = settings
        self._own = settings
        self.report = FitReport()
        self.encoder = encoder
        self.known, self.people = known, people
        self.packed: Mapping[str, Packed] | None = None  # where the weights came from fewer bits
        self._output = self._output_table()

    def _output_table(self) -> NDArray[np.float32] | ItemRows:
        """What query vectors are multiplied with, [I, D]."""
        encoder, table = self.encoder, self.encoder.item
        if isinstance(table, ItemRows):
            return table.with_unit_length(1 / self._own.temperature) if encoder.cosine else table
        if encoder.cosine:
            lengths = np.linalg.norm(table, axis=1, keepdims=True)
            table = table / np.maximum(lengths, 1e-12) / table.dtype.type(self._own.temperature)
        return np.ascontiguousarray(table)

    @classmethod
    def preset(cls, data: TrainingData) -> TransformerSettings:
        """See `transformer_preset`."""
        return preset_of(data)

    @classmethod
    def fit(cls, data: TrainingData, settings: Settings, context: FitContext) -> Self:
        return cls.learned(data, _own(settings), context)

    @classmethod
    def learned(
        cls,
        data: TrainingData,
        own: TransformerSettings,
        context: FitContext,
        *,
        start: dict[str, NDArray[Any]] | None = None,
        labels: SoftLabels | None = None,
    ) -> Self:
        """`fit`; start: weights to go on from. labels: of the events of `data.train`, to learn as well."""
        encoder, known, people, report, codes = _fit(data, own, context, start, labels)
        model = cls(own, encoder, known, people)
        model.report = report
        if codes is None:
            return model
        return model.with_weights(
            {n: Packed("float32", w) for n, w in encoder.weights.items()} | {"item": codes}
        )

    @classmethod
    def fit_on(cls, data: TrainingData, settings: Settings, context: FitContext, earlier: Earlier) -> Self:
        """Start at the earlier weights, new items at fresh rows; a brief course (`continued`)."""
        own = _own(settings)
        if not isinstance(earlier.model, cls) or not own.continues(earlier.model._own):
            return cls.fit(data, settings, context)
        model = cls.learned(data, own.continued(), context, start=_start(earlier))
        model.settings, model._own = own, own
        model.report.notes["warm_start"] = True
        return model

    def query_vectors(self, queries: Queries) -> NDArray[np.float32]:
        """[Q, D]; NaN where the history holds no known item."""
        offsets, item, time_us = self._known_histories(queries)
        vectors = self.encoder.query(
            self.encoder.encode(offsets, item, time_us),
            self._wait(queries, offsets, time_us),
            self._person(queries.user),
        )
        vectors[np.diff(offsets) == 0] = np.nan
        return vectors

    def _person(self, users: NDArray[np.int32]) -> NDArray[np.float32] | None:
        """What the request head is told of each user, [Q, 2 D]; zero for a user of whom nothing is known."""
        if self.people is None:
            return None
        met = (users >= 0) & (users < self.people.shape[0])
        added: NDArray[np.float32] = self.people[np.where(met, users, 0)] @ self.encoder.weights[PERSON]
        added[~met] = 0
        return added

    def _wait(
        self, queries: Queries, offsets: NDArray[np.int64], time_us: NDArray[np.int64] | None
    ) -> NDArray[np.int64] | None:
        """The bin of the time from the latest event to the request, [Q]."""
        if queries.now_us is None or time_us is None or self.encoder.gap is None:
            return None
        waits = np.zeros(len(queries), np.int64)
        for q in np.flatnonzero(np.diff(offsets)):
            gap_us = int(queries.now_us[q] - time_us[offsets[q + 1] - 1])
            waits[q] = gap_bin(gap_us, len(self.encoder.gap))
        return waits

    def item_vectors(self) -> NDArray[np.float32]:
        """[I, D]; rows of items without a vector are zero. Packed ones are unpacked at each call."""
        return self._output[:]

    def score(self, queries: Queries) -> ScoreMatrix:
        return self._scores(self.query_vectors(queries))

    def _scores(self, vectors: NDArray[np.float32]) -> ScoreMatrix:
        output = self._output
        scores = output.products(vectors) if isinstance(output, ItemRows) else vectors @ output.T
        scores[:, ~self.known] = np.nan
        return scores

    def start(self, query: Queries) -> EncoderState:
        """The rings of keys and values after one history. Cost: one encoding."""
        _, item, time_us = self._known_histories(query)
        return self.encoder.prefill(item, time_us)

    def advance(self, state: EncoderState, item: int, time_us: int | None) -> None:
        """One event of an item that has a vector; others leave no trace, as in `score`."""
        if item >= 0 and self.known[item]:
            self.encoder.advance(state, item, time_us)

    def score_from(self, state: EncoderState, query: Queries) -> ScoreMatrix:
        """Cost: one product with the item table."""
        return self._scores(self.vector_from(state, query))

    def vector_from(self, state: EncoderState, query: Queries) -> NDArray[np.float32]:
        """[1, D]; NaN before the first event. Cost: the request head."""
        if state.vector is None:
            return np.full((1, self.encoder.dim), np.nan, np.float32)
        wait = None
        if query.now_us is not None and state.last_us is not None and self.encoder.gap is not None:
            wait = np.array([gap_bin(int(query.now_us[0]) - state.last_us, len(self.encoder.gap))])
        return self.encoder.query(state.vector[None], wait, self._person(query.user))

    def index(self) -> ItemIndex:
        return self._index

    @cached_property
    def _index(self) -> ItemIndex:
        return ItemIndex(self._output, known=self.known)

    def _known_histories(
        self, queries: Queries
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64] | None]:
        """Histories without the events of items that have no vector."""
        keep = queries.item >= 0
        keep[keep] = self.known[queries.item[keep]]
        if keep.all():
            return queries.offsets, queries.item, queries.time_us
        counted = np.concatenate([[0], np.cumsum(keep)])
        time_us = None if queries.time_us is None else queries.time_us[keep]
        return counted[queries.offsets], queries.item[keep], time_us

    def contributions(self, query: Queries, items: NDArray[np.int32]) -> NDArray[np.float32]:
        """[len(items), H]: how much of each score is lost when an event had not been there (leave one out).

        Exact: score(history) - score(history without the event), for the latest EXPLAINED events; the parts
        of older events are 0. Events interact, so the parts need not add up to the score. Cost: about two
        encodings of the history, whatever the number of items.
        """
        found = np.zeros((len(items), len(query.item)), np.float32)
        without, parts = self._parts(query, items, None)
        found[:, without] = parts
        return found

    def contributions_from(
        self, state: EncoderState, query: Queries, items: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The same, of the events that are measured. Cost: one encoding of EXPLAINED² / 2 events, however
        long the history; with the kernel EXPLAINED steps for each event since the state was last asked."""
        return self._parts(query, items, state)

    def _parts(
        self, query: Queries, items: NDArray[np.int32], state: EncoderState | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The latest EXPLAINED usable events [E] and their parts [len(items), E]."""
        item, time_us, events = query.item, query.time_us, len(query.item)
        without = np.arange(max(0, events - EXPLAINED), events)
        if state is None or state.count != events:  # else all of them are in the state
            usable = (item >= 0) & self.known[np.maximum(item, 0)]
            item, time_us = item[usable], None if time_us is None else time_us[usable]
            without = np.flatnonzero(usable)[-EXPLAINED:]
        if len(item) < 2:
            return without[:0], np.zeros((len(items), 0), np.float32)
        if state is None:
            vectors = self.encoder.leave_out(item, time_us, len(without))
        else:
            vectors = self.encoder.leave_out_of(state, item, time_us, len(without))
        wait = self._wait_of_variants(query, time_us, len(without))
        vectors = self.encoder.query(vectors, wait, self._person(query.user))
        parts = self._output[items] @ (vectors[0] - vectors[1:]).T
        parts[~self.known[items]] = 0
        return without, parts

    def _wait_of_variants(
        self, query: Queries, time_us: NDArray[np.int64] | None, variants: int
    ) -> NDArray[np.int64] | None:
        """`_wait` of the whole history and of the variants; the last one ends an event earlier."""
        if query.now_us is None or time_us is None or self.encoder.gap is None:
            return None
        last_us = np.full(variants + 1, time_us[-1])
        last_us[-1] = time_us[-2]
        return np.array([gap_bin(int(query.now_us[0] - t), len(self.encoder.gap)) for t in last_us])

    def weights(self) -> Mapping[str, NDArray[np.float32]]:
        if self.packed is not None:
            return {name: packed.unpack() for name, packed in self.packed.items()}
        return self.encoder.weights

    def packed_weights(self) -> Mapping[str, Packed]:
        return self.packed or {}

    def weight_roles(self) -> Mapping[str, WeightRole]:
        roles: dict[str, WeightRole] = {"item": "items"}
        roles |= dict.fromkeys(ROWS, "rows")
        names = list(self.encoder.weights if self.packed is None else self.packed)
        roles |= {name: "linear" for name in names if name.rpartition(".")[2] in LINEARS}
        return {name: role for name, role in roles.items() if name in names}

    def with_weights(self, packed: Mapping[str, Packed]) -> Self:
        own = _own(self.settings)
        model = type(self)(own, _packed_encoder(packed, own), self.known, self.people)
        model.report, model.packed = self.report, packed
        return model

    def resident_bytes(self) -> int:
        arrays = list(self.encoder.weights.values())
        for packed in () if self.packed is None else self.packed.values():  # kept for `save`
            arrays += packed.stored()
        tables = [a for a in (*arrays, self._output) if isinstance(a, ItemRows)]
        arrays += [a for table in tables for a in table.arrays()]
        plain = (a for a in (*arrays, self._output) if not isinstance(a, ItemRows))
        distinct = {int(a.__array_interface__["data"][0]): int(a.nbytes) for a in plain}
        return sum(distinct.values()) + self.encoder.kernel_bytes + self.index().nbytes

    def save(self, writer: ArtifactWriter) -> None:
        writer.array("known", self.known)
        if self.people is not None:
            for part in PEOPLE:
                writer.array(f"people_{part}", getattr(self.people, part))
        if self.packed is not None:
            write_packed(writer, WEIGHTS, self.packed)
            return
        arrays = {name: np.ascontiguousarray(w) for name, w in self.encoder.weights.items()}
        save_file(arrays, writer.file(WEIGHTS))

    @classmethod
    def load(cls, artifact: Artifact, settings: Settings) -> Self:
        own = _own(settings)
        packed = read_packed(artifact, WEIGHTS)
        if packed is None:
            encoder = _encoder(load_file(artifact.file(WEIGHTS)), own)
        else:
            encoder = _packed_encoder(packed, own)
        model = cls(own, encoder, artifact.array("known"), _people(artifact, encoder))
        model.packed = packed
        return model


def _people(artifact: Artifact, encoder: Encoder) -> sp.csr_matrix | None:
    if PERSON not in encoder.weights:
        return None
    data, indices, indptr = (artifact.array(f"people_{part}") for part in PEOPLE)
    return sp.csr_matrix((data, indices, indptr), shape=(len(indptr) - 1, len(encoder.weights[PERSON])))


def _start(earlier: Earlier) -> dict[str, NDArray[Any]]:
    """The earlier weights with the item rows in today's numbers, NaN for those it has no vector of."""
    model: Any = earlier.model
    weights = dict(model.weights())
    there = (earlier.items >= 0) & model.known[np.maximum(earlier.items, 0)]
    rows = np.full((len(earlier.items), weights["item"].shape[1]), np.nan, np.float32)
    rows[there] = weights["item"][earlier.items[there]]
    return {**weights, "item": rows}


def _encoder(weights: Mapping[str, NDArray[Any]], settings: TransformerSettings) -> Encoder:
    return encoder_of(weights, ffn=settings.ffn, cosine=settings.output == "cosine")


def _packed_encoder(packed: Mapping[str, Packed], settings: TransformerSettings) -> Encoder:
    """The item table stays packed; the layers are unpacked once, for the kernel where there is one."""
    if "item" not in packed:
        raise CorruptArtifact("encoder weights are incomplete: there is no item table")
    weights = {name: rows_of(p) if name == "item" else p.unpack() for name, p in packed.items()}
    lean = any(p.form != "float32" for p in packed.values())
    return encoder_of(weights, ffn=settings.ffn, cosine=settings.output == "cosine", lean=lean)


def _own(settings: Settings) -> TransformerSettings:
    if not isinstance(settings, TransformerSettings):
        raise ConfigError(f"the transformer needs TransformerSettings, got {type(settings).__name__}")
    return settings


def _fit(
    data: TrainingData,
    settings: TransformerSettings,
    context: FitContext,
    start: dict[str, NDArray[Any]] | None,
    labels: SoftLabels | None,
) -> tuple[Encoder, NDArray[np.bool_], sp.csr_matrix | None, FitReport, Packed | None]:
    """Training sees the items that have events, numbered anew; it gives vectors to the others if it can.

    Last: the codes of the item table, where it was learned as such.
    """
    interactions = interactions_of(data, settings, labels)
    from slipstream.training.transformer_course import run  # torch is there

    known = data.train.item_counts > 0
    if interactions.content is not None:
        known |= np.diff(interactions.content.indptr) > 0
    people = interactions.people
    outcome = run(
        interactions,
        settings,
        seed=context.seed,
        threads=context.threads,
        device=context.device,
        validate=_validation(data.validation, settings, known, people, context),
        progress=context.progress,
        checkpoint=None if context.checkpoint is None else Path(context.checkpoint),
        start=start,
    )
    encoder = _encoder(outcome.weights, settings)
    notes = {"best_epoch": outcome.best_epoch, "stopped": outcome.stopped}
    return encoder, known, people, FitReport(curve=outcome.curve, notes=notes), outcome.codes


def _validation(
    holdout: Holdout | None,
    settings: TransformerSettings,
    known: NDArray[np.bool_],
    people: sp.csr_matrix | None,
    context: FitContext,
) -> Callable[[dict[str, NDArray[Any]]], float] | None:
    """NDCG@10 of given weights on (a seeded sample of) the holdout, through the very code that serves."""
    if holdout is None or len(holdout) == 0:
        return None
    sample = sample_holdout(holdout, settings.validation_users, context.seed)

    def validate(weights: dict[str, NDArray[Any]]) -> float:
        encoder = _encoder(weights, settings)
        value = validation_ndcg(Transformer(settings, encoder, known, people).score, sample)
        context.watch(value)
        return value

    return validate


MODEL = Transformer
