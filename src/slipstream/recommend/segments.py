"""Popularity within a segment: for people without a history, where one thing is known of them.

    score(s, i) = (n_si + PRIOR p_i) / (n_s + PRIOR)

n_si of the n_s people of segment s had an event on item i, as had the part p_i of all people: the share of a
small segment is drawn to that of everybody (the mean of a beta posterior). The counts come with the release.
Who belongs where is read from the home's table of people as it is now: a new person is met at once, one who
was forgotten is in no segment.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from slipstream.artifacts import Artifact, ArtifactWriter
from slipstream.dataset.snapshot import Snapshot
from slipstream.dataset.vocabulary import UNKNOWN, Vocabulary
from slipstream.recommend.catalogue import value_texts

PART = "segments"
PRIOR = 100.0
"""People of everybody that each segment is mixed with. Chosen on validation (`benchmarks/segments.py`)."""
FEWEST = 5
"""Fewer people are no segment: what is popular with one person is that person's history."""


@dataclass(frozen=True)
class Segments:
    """column: of the table of people. values: its S values that are segments."""

    column: str
    values: Vocabulary
    counts: sp.csr_matrix  # [S, I] people of the segment with an event on the item
    people: NDArray[np.int32]  # [S] people of the segment with an event
    share: NDArray[np.float32]  # [I] p of everybody

    @classmethod
    def of(cls, snapshot: Snapshot, table: pl.DataFrame | None, column: str) -> Segments | None:
        """None where nobody of the snapshot has a value that at least FEWEST have. Cost: O(E)."""
        known = values_of(table, column)
        active = np.flatnonzero(np.diff(snapshot.offsets))
        texts = [known.get(user_id, "") for user_id in snapshot.users.texts(active)]
        found, places, sizes = np.unique(np.array(["", *texts]), return_inverse=True, return_counts=True)
        kept = np.flatnonzero((sizes >= FEWEST) & (found != ""))
        if not len(kept):
            return None
        touched = snapshot.matrix()[active] > 0
        belongs = sp.csr_matrix(kept[:, None] == places[None, 1:], dtype=np.int32)
        return cls(
            column=column,
            values=Vocabulary.of(found[kept].tolist()),
            counts=sp.csr_matrix(belongs @ touched, dtype=np.int32),
            people=sizes[kept].astype(np.int32),
            share=(np.asarray(touched.sum(axis=0)).ravel() / len(active)).astype(np.float32),
        )

    def number(self, value: object) -> int:
        """The segment of an attribute's value as JSON or a table has it; UNKNOWN (-1) where it is none."""
        texts = value_texts(value)
        return self.values.number(texts[0]) if len(texts) == 1 else UNKNOWN

    def scores(self, segment: int, prior: float = PRIOR) -> NDArray[np.float32]:
        """[I]; NaN for an item without events. Cost: one pass over the items."""
        row = self.counts[segment]
        scores = np.float32(prior) * self.share
        scores[row.indices] += row.data
        scores /= np.float32(self.people[segment] + prior)
        scores[self.share == 0] = np.nan
        return scores

    def touched(self, segment: int, item: int) -> int:
        """How many people of the segment had an event on the item."""
        row = self.counts[segment]
        return int(row.data[row.indices == item].sum())

    def write(self, writer: ArtifactWriter) -> None:
        writer.json("column", self.column)
        self.values.write(writer, "values")
        writer.array("people", self.people)
        writer.array("share", self.share)
        for name in ("data", "indices", "indptr"):
            writer.array(f"counts_{name}", getattr(self.counts, name))

    @classmethod
    def read(cls, artifact: Artifact) -> Segments:
        people, share = artifact.array("people"), artifact.array("share")
        data, indices, indptr = (artifact.array(f"counts_{name}") for name in ("data", "indices", "indptr"))
        return cls(
            column=artifact.json("column"),
            values=Vocabulary.read(artifact, "values"),
            counts=sp.csr_matrix((data, indices, indptr), shape=(len(people), len(share))),
            people=people,
            share=share,
        )


def values_of(table: pl.DataFrame | None, column: str) -> dict[str, str]:
    """{user id: value} of those whose cell holds exactly one value."""
    if table is None or not {"user_id", column} <= set(table.columns) or table[column].dtype.is_nested():
        return {}
    texts = {value: value_texts(value) for value in table[column].unique()}
    cells = zip(table["user_id"].cast(pl.String), table[column], strict=True)
    found = ((user_id, texts.get(value, ())) for user_id, value in cells if user_id)  # NaN is not found
    return {user_id: own[0] for user_id, own in found if len(own) == 1}


class Members:
    """Who belongs to which segment, by the table of people at `path`; read again when that has changed.

    A table that is not there or cannot be read holds nobody. Memory: about 100 bytes a person of a segment.
    """

    def __init__(self, path: Path, segments: Segments) -> None:
        self._path, self._segments = path, segments
        self._stamp: tuple[int, ...] = ()
        self._numbers: dict[str, int] = {}

    def number(self, user_id: str) -> int:
        """The person's segment, or UNKNOWN (-1). Cost: a look at the file, and its reading after a change."""
        try:
            about = self._path.stat()
        except OSError:
            return UNKNOWN
        stamp = (about.st_mtime_ns, about.st_size, about.st_ino)
        if stamp != self._stamp:
            self._numbers, self._stamp = self._read(), stamp
        return self._numbers.get(user_id, UNKNOWN)

    def _read(self) -> dict[str, int]:
        column = self._segments.column
        try:
            table = pl.read_parquet(self._path, columns=["user_id", column])
        except (OSError, pl.exceptions.PolarsError):
            return {}
        known = values_of(table, column)
        numbers = {value: self._segments.values.number(value) for value in set(known.values())}
        return {user_id: numbers[value] for user_id, value in known.items() if numbers[value] >= 0}
