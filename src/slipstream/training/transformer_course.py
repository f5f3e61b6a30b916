"""A whole training of the transformer, from interactions to the weights that inference reads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from slipstream.config import Progress, launch, silent, with_overrides
from slipstream.errors import ConfigError, Unavailable
from slipstream.inference.packed_weights import Packed
from slipstream.randomness import derive
from slipstream.training.fit import FitOutcome, FitPlan, Validate, Weights, fit
from slipstream.training.neighbourhood import neighbourhood
from slipstream.training.next_item import NextItemPlan, NextItemTask
from slipstream.training.packing import GAP_BINS, Histories, PackingPlan, SoftLabels, gap_bins
from slipstream.training.product_codes import product_codes
from slipstream.training.ranks import Ranks
from slipstream.training.transformer_network import (
    Codes,
    Neighbours,
    NetworkShape,
    SparseRows,
    TransformerNetwork,
    block_of,
)
from slipstream.training.transformer_settings import TransformerSettings


@dataclass(frozen=True)
class Interactions:
    """`item[offsets[u]:offsets[u+1]]` in order of time; ordered: False where that order means nothing."""

    offsets: NDArray[np.int64]  # [U + 1]
    item: NDArray[np.int32]  # [E]
    time_us: NDArray[np.int64] | None  # [E]
    items: int  # I, also those without events
    ordered: bool = True
    content: sp.csr_matrix | None = None  # [I, F]
    people: sp.csr_matrix | None = None  # [U, F]
    labels: SoftLabels | None = None  # of the events; all their items have an event


def run(
    interactions: Interactions,
    settings: TransformerSettings,
    *,
    seed: int,
    threads: int = 1,
    device: str = "cpu",
    validate: Validate | None = None,
    progress: Progress = silent,
    checkpoint: Path | None = None,
    start: Weights | None = None,
) -> FitOutcome:
    """Train; the outcome's weights cover all I items. Items without an event have only their content.

    start: weights to go on from, as an outcome has them, NaN in the item rows that are new; only for networks
    whose item table is learned as it is (no content, no neighbours).
    Started by `torchrun`, the processes share the shards of each batch and all get the same outcome.
    """
    ranks, device = _together(settings, device)
    numbers = np.flatnonzero(np.bincount(interactions.item, minlength=interactions.items))
    course = _Course(interactions, settings, seed, device, ranks, numbers, threads, progress)
    _check_memory(course.shape, settings, device)
    outcome = course.first(validate, checkpoint, start)
    if settings.code_epochs:
        outcome = course.on_codes(outcome, validate, checkpoint)
    return outcome


@dataclass(frozen=True)
class _Course:
    """What the trainings of one model share. numbers: the items that have an event."""

    interactions: Interactions
    settings: TransformerSettings
    seed: int
    device: str
    ranks: Ranks
    numbers: NDArray[np.int64]
    threads: int
    progress: Progress

    @cached_property
    def histories(self) -> Histories:
        return _histories(self.interactions, self.settings, self.numbers)

    @cached_property
    def shape(self) -> NetworkShape:
        return _shape(self.interactions, self.settings, len(self.numbers))

    def first(self, validate: Validate | None, checkpoint: Path | None, start: Weights | None) -> FitOutcome:
        """The table learned as it is, with content and neighbours."""
        content, numbers = _unit_rows(self.interactions.content), self.numbers
        known_content = None if content is None else SparseRows.of(content[numbers], self.device)
        neighbours = _neighbours(self.histories, len(numbers), self.settings, self.device)
        network = TransformerNetwork(self.shape, derive(self.seed, "network"), known_content, neighbours)
        if start is not None:
            network.start_from({**start, "item": start["item"][numbers]})

        def whole(weights: Weights) -> Weights:
            return _for_all_items(weights, network, numbers, content, self.interactions.items)

        settings = with_overrides(self.settings, {"code_epochs": 0})  # it is the training of the plain model
        return self._trained(network, settings, whole, validate, checkpoint, start)

    def on_codes(self, found: FitOutcome, validate: Validate | None, checkpoint: Path | None) -> FitOutcome:
        """`code_epochs` more from the outcome: each item keeps its product codes, their books are learned.

        Rows count by the root of their events. The table of the new outcome is what the books say in float16,
        and `codes` holds them. Petrov & Macdonald 2024 (RecJPQ). Differs: codes of a trained table.
        """
        table = found.weights["item"]
        if self.shape.cosine:
            table = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
        met = np.bincount(self.interactions.item, minlength=self.interactions.items)
        packed = product_codes(table, weight=np.sqrt(np.maximum(met, 1)), seed=derive(self.seed, "codes"))
        books = packed.scale
        assert books is not None  # noqa: S101 - codes have them
        shape = replace(self.shape, features=0)
        codes = Codes.of(packed, self.numbers, self.device)
        network = TransformerNetwork(shape, derive(self.seed, "network"), codes=codes)
        start = {**found.weights, "item": books.astype(np.float32).reshape(codes.books)}
        network.start_from(start)

        def learned() -> Packed:
            rows = network.item.detach().cpu().numpy().astype(np.float16)
            return replace(packed, scale=rows.reshape(books.shape))

        def whole(weights: Weights) -> Weights:
            return {**weights, "item": learned().unpack()}

        settings = with_overrides(self.settings, {"epochs": self.settings.code_epochs, "warmup": 0.0})
        beside = None if checkpoint is None else checkpoint.with_name(f"{checkpoint.name}-codes")
        outcome = self._trained(network, settings, whole, validate, beside, start)
        for row in outcome.curve:
            row["epoch"] += self.settings.epochs
            row["train_cpu_s"] += found.curve[-1]["train_cpu_s"] if found.curve else 0.0
        outcome.curve = found.curve + outcome.curve
        outcome.best_epoch += self.settings.epochs
        return replace(outcome, codes=learned())

    def _trained(
        self,
        network: TransformerNetwork,
        settings: TransformerSettings,
        whole: Callable[[Weights], Weights],
        validate: Validate | None,
        checkpoint: Path | None,
        start: Weights | None,
    ) -> FitOutcome:
        """whole: from the weights of the network to those of all items."""
        interactions, histories = self.interactions, self.histories
        plan = _plan(interactions, settings, self.device)
        outcome = fit(
            NextItemTask(network, histories, plan, self.seed, self.device, interactions.people),
            _course(settings, self.threads),
            validate=None if validate is None else lambda weights: validate(whole(weights)),
            progress=self.progress,
            checkpoint=checkpoint,
            fingerprint=_fingerprint(settings, self.seed, histories, start),
            ranks=self.ranks,
        )
        outcome.weights = whole(outcome.weights)
        return outcome


def _together(settings: TransformerSettings, device: str) -> tuple[Ranks, str]:
    """The processes of this training, and the device of this one."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise Unavailable("there is no CUDA device here", hint="leave --device out to train on the processor")
    if device != "cpu" and not device.startswith("cuda"):
        raise ConfigError(f"device must be cpu or cuda, got {device!r}")
    place = launch()
    if settings.shards < place.processes:
        raise ConfigError(
            f"{place.processes} processes share the shards of a batch, and shards is {settings.shards}",
            hint=f"--set shards={place.processes}, or start fewer processes",
        )
    if device == "cuda" and place.processes > 1:
        device = f"cuda:{place.local_rank}"
    return Ranks(place, device), device


def _histories(
    interactions: Interactions, settings: TransformerSettings, numbers: NDArray[np.int64]
) -> Histories:
    dense = np.zeros(interactions.items, np.int32)
    dense[numbers] = np.arange(len(numbers), dtype=np.int32)
    use_times = settings.times and interactions.ordered and interactions.time_us is not None
    gap = gap_bins(interactions.time_us, interactions.offsets) if use_times else None  # type: ignore[arg-type]
    labels = interactions.labels
    if labels is not None:
        labels = replace(labels, item=dense[labels.item])
    return Histories(interactions.offsets, dense[interactions.item], gap, labels)


def _neighbours(
    histories: Histories, items: int, settings: TransformerSettings, device: str
) -> Neighbours | None:
    if settings.neighbour_share == 0:
        return None
    near = neighbourhood(histories.offsets, histories.item, items, settings.neighbours)
    return Neighbours(SparseRows.of(near, device), settings.neighbour_share)


def _shape(interactions: Interactions, settings: TransformerSettings, known: int) -> NetworkShape:
    has_clock = settings.times and interactions.ordered and interactions.time_us is not None
    return NetworkShape(
        items=known,
        dim=settings.dim,
        layers=settings.layers,
        heads=settings.heads,
        window=settings.attention_window,
        ffn=settings.ffn,
        ffn_dim=settings.ffn_dim,
        residual=settings.residual,
        body=settings.body,
        gap_bins=GAP_BINS if has_clock else 0,
        relative_bias=interactions.ordered,
        cosine=settings.output == "cosine",
        query_time=settings.query_time and has_clock,
        features=0 if interactions.content is None else interactions.content.shape[1],
        user_features=0 if interactions.people is None else interactions.people.shape[1],
    )


def _plan(interactions: Interactions, settings: TransformerSettings, device: str) -> NextItemPlan:
    block = block_of(settings.attention_window)
    share = settings.batch_tokens // settings.shards
    packing = PackingPlan(
        window=settings.max_length,
        chunk=max(block, share // block * block),
        last=settings.recent,
        targets=settings.targets,
        target_decay=settings.target_decay,
        ordered=interactions.ordered,
        deletion=settings.deletion,
    )
    return NextItemPlan(
        packing=packing,
        shards=settings.shards,
        dropout=settings.dropout,
        attention_dropout=settings.attention_dropout,
        temperature=settings.temperature,
        loss=settings.loss,
        negatives=settings.negatives,
        calibration=settings.calibration,
        dtype=working_dtype(settings.precision, device),
    )


def working_dtype(precision: str, device: str = "cpu") -> torch.dtype:
    """bfloat16 where asked for, or where the device multiplies it natively; else float32."""
    if precision == "auto":
        native = torch.cuda.is_bf16_supported() if device.startswith("cuda") else _cpu_has_bfloat16()
        return torch.bfloat16 if native else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def _cpu_has_bfloat16() -> bool:
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name)()) for name in checks if hasattr(torch.cpu, name))


def _course(settings: TransformerSettings, threads: int) -> FitPlan:
    return FitPlan(
        epochs=settings.epochs,
        lr=settings.lr,
        table_lr=settings.table_lr,
        weight_decay=settings.weight_decay,
        clip=settings.clip,
        ema=settings.ema,
        warmup=settings.warmup,
        patience=settings.patience,
        validate_every=settings.validate_every,
        threads=threads,
    )


def _unit_rows(content: sp.csr_matrix | None) -> sp.csr_matrix | None:
    """Rows of length 1, so that an item with many attributes does not drown its own embedding."""
    if content is None:
        return None
    length = np.sqrt(np.asarray(content.multiply(content).sum(1)).ravel())
    scaled = sp.diags(1 / np.maximum(length, 1e-12)) @ content
    return scaled.tocsr().astype(np.float32)


def _for_all_items(
    weights: Weights,
    network: TransformerNetwork,
    numbers: NDArray[np.int64],
    content: sp.csr_matrix | None,
    items: int,
) -> Weights:
    """The item table with a row for every item of the vocabulary."""
    table = np.zeros((items, network.shape.dim), np.float32)
    if content is not None and network.feature is not None:
        table += content @ network.feature.detach().cpu().numpy()
    table[numbers] = weights["item"]
    return {**weights, "item": table}


def _check_memory(shape: NetworkShape, settings: TransformerSettings, device: str) -> None:
    """Refuse before the start what would be killed in the middle. An estimate, on the generous side."""
    table = shape.items * shape.dim
    gates = 2 * shape.dim if shape.residual == "gated" else 0
    wide = 5 * shape.dim if shape.body == "hstu" else 4 * shape.dim + 3 * shape.hidden
    body = shape.layers * shape.dim * (wide + gates)
    copies = 6 + 2 * bool(
        settings.ema
    )  # weights, best, gradient, two moments, one in flight; averages, aside
    state = 4 * copies * (table + body)
    per_token = shape.layers * (12 * shape.dim + 4 * shape.hidden + 8 * shape.heads * shape.window)
    needed = state + 4 * (per_token * settings.batch_tokens + table * settings.shards)
    needed *= 1 if device.startswith("cuda") else launch().local_processes
    free = torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else _free_bytes()
    if free is not None and needed > free:
        raise Unavailable(
            f"this transformer needs about {needed / 1e9:.1f} GB to train, {free / 1e9:.1f} GB are free",
            hint="set a smaller dim or batch_tokens",
        )


def _free_bytes() -> int | None:
    """Memory that can be had without swapping, where the system tells (Linux)."""
    try:
        with open("/proc/meminfo") as stream:
            for line in stream:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    names = getattr(os, "sysconf_names", {})
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_AVPHYS_PAGES" in names else None


def _fingerprint(
    settings: TransformerSettings, seed: int, histories: Histories, start: Weights | None = None
) -> str:
    """Of all that decides the run's numbers: a checkpoint with another one is another training."""
    digest = hashlib.sha256(f"{settings.fingerprint()} {seed}".encode())
    first = [] if start is None else [start[name] for name in sorted(start)]
    labels = histories.labels
    told = () if labels is None else (labels.row, labels.item, labels.weight)
    for array in (histories.offsets, histories.item, histories.gap, *told, *first):
        digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
