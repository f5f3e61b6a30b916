"""Interactions at one moment, as memory-mapped columns sorted by (user, time, arrival).

A snapshot knows dense numbers only; outside ids live in its two vocabularies. It is immutable: arrays are
read-only, and a change means a new snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from slipstream.artifacts import Artifact, ArtifactWriter, open_artifact, writing
from slipstream.dataset.vocabulary import Vocabulary

KIND = "snapshot"


@dataclass(frozen=True)
class Snapshot:
    """`item[offsets[u]:offsets[u+1]]` is the history of user `u`, oldest first.

    time_us: integer microseconds since 1970 UTC, or None where the data has no clock.
    ordered: False where the order inside a history means nothing (then sequence features are off).
    Ties in time keep the order of arrival.
    """

    users: Vocabulary
    items: Vocabulary
    offsets: NDArray[np.int64]  # [U + 1]
    item: NDArray[np.int32]  # [E]
    value: NDArray[np.float32]  # [E]
    kind: NDArray[np.uint8]  # [E]
    kinds: tuple[str, ...]
    time_us: NDArray[np.int64] | None  # [E]
    ordered: bool = True

    @property
    def user_count(self) -> int:
        return len(self.offsets) - 1

    @property
    def item_count(self) -> int:
        return len(self.items)

    @property
    def event_count(self) -> int:
        return len(self.item)

    @cached_property
    def user(self) -> NDArray[np.int32]:
        """The user of each event, [E]."""
        return np.repeat(np.arange(self.user_count, dtype=np.int32), np.diff(self.offsets))

    @cached_property
    def item_counts(self) -> NDArray[np.int64]:
        """Events per item, [I]."""
        return np.bincount(self.item, minlength=self.item_count)

    def history(self, user: int) -> NDArray[np.int32]:
        return self.item[self.offsets[user] : self.offsets[user + 1]]

    def matrix(self) -> sp.csr_matrix:
        """Binary user-item matrix, [U, I] float32; repeated pairs count once."""
        ones = np.ones(self.event_count, np.float32)
        shape = (self.user_count, self.item_count)
        # a copy: summing duplicates sorts each row in place, which would reorder the histories themselves
        matrix = sp.csr_matrix((ones, self.item, self.offsets), shape=shape, copy=True)
        matrix.sum_duplicates()
        matrix.data[:] = 1.0
        return matrix

    def keep(self, mask: NDArray[np.bool_]) -> Snapshot:
        """The same users and items with only the events where `mask` is True. Cost O(E)."""
        counts = np.add.reduceat(np.append(mask, False).astype(np.int64), self.offsets[:-1])
        counts[np.diff(self.offsets) == 0] = 0
        offsets = np.zeros(self.user_count + 1, np.int64)
        np.cumsum(counts, out=offsets[1:])
        return replace(
            self,
            offsets=offsets,
            item=self.item[mask],
            value=self.value[mask],
            kind=self.kind[mask],
            time_us=None if self.time_us is None else self.time_us[mask],
        )

    def write(self, path: Path, meta: dict[str, Any] | None = None) -> None:
        with writing(path, KIND, meta) as writer:
            self.write_into(writer)

    def write_into(self, writer: ArtifactWriter) -> None:
        self.users.write(writer, "users")
        self.items.write(writer, "items")
        writer.array("offsets", self.offsets)
        writer.array("item", self.item)
        writer.array("value", self.value)
        writer.array("kind", self.kind)
        if self.time_us is not None:
            writer.array("time_us", self.time_us)
        writer.json("snapshot", {"kinds": list(self.kinds), "ordered": self.ordered})

    @classmethod
    def open(cls, path: Path) -> Snapshot:
        return cls.read(open_artifact(path, KIND, made_by="run `slipstream prepare` first"))

    @classmethod
    def read(cls, artifact: Artifact) -> Snapshot:
        about = artifact.json("snapshot")
        return cls(
            users=Vocabulary.read(artifact, "users"),
            items=Vocabulary.read(artifact, "items"),
            offsets=artifact.array("offsets"),
            item=artifact.array("item"),
            value=artifact.array("value"),
            kind=artifact.array("kind"),
            kinds=tuple(about["kinds"]),
            time_us=artifact.array("time_us") if artifact.has("time_us.npy") else None,
            ordered=about["ordered"],
        )


def snapshot_of(
    rows: pl.DataFrame,
    *,
    users: Vocabulary | None = None,
    items: Vocabulary | None = None,
    ordered: bool = True,
) -> Snapshot:
    """A snapshot from a frame in order of arrival: the slow, obvious reference, for data that fits in memory.

    Columns: user_id, item_id (String); optional time_us (Int64), value (Float32), kind (String).
    Without vocabularies, ids are numbered in sorted order, so the same rows give the same numbers.
    Rows of ids outside a given vocabulary are an error of the caller.
    """
    users = users or Vocabulary.of(rows["user_id"].unique().sort().to_list())
    items = items or Vocabulary.of(rows["item_id"].unique().sort().to_list())
    user = users.numbers(rows["user_id"])
    item = items.numbers(rows["item_id"])
    has_time = "time_us" in rows.columns
    time = rows["time_us"].to_numpy() if has_time else np.zeros(rows.height, np.int64)
    order = np.lexsort((time, user))  # stable: ties keep arrival
    offsets = np.zeros(len(users) + 1, np.int64)
    np.cumsum(np.bincount(user, minlength=len(users)), out=offsets[1:])
    value = rows["value"].to_numpy() if "value" in rows.columns else np.ones(rows.height)
    kind_text = rows["kind"] if "kind" in rows.columns else pl.repeat("click", rows.height, eager=True)
    kinds = sorted(kind_text.unique().to_list())
    kind = Vocabulary.of(kinds).numbers(kind_text).astype(np.uint8)
    return Snapshot(
        users=users,
        items=items,
        offsets=offsets,
        item=item[order],
        value=value[order].astype(np.float32),
        kind=kind[order],
        kinds=tuple(kinds),
        time_us=time[order].astype(np.int64) if has_time else None,
        ordered=ordered,
    )
