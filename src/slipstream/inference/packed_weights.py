"""Weights in few bits: how they lie in memory and in a file, and how NumPy reads them back.

`compression` makes them. A model's scores are those of the unpacked weights, whether a table is unpacked as a
whole or row by row where it is read (`item_rows`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from slipstream.artifacts import Artifact, ArtifactWriter
from slipstream.errors import CorruptArtifact

Form = Literal["float32", "bfloat16", "int8", "int4", "codes", "mixed"]
GROUP = 32  # numbers of a row that share a scale in int4
ZERO = 8  # what 0 is among the 16 codes of int4
PARTS, LEVELS, CENTROIDS = 4, 2, 256  # of product codes: parts of a row, books of a part, centroids of a book
BOOKS = PARTS * LEVELS  # bytes of a row
PACKING = "packing"
MIXED_PARTS = ("often", "rare")


@dataclass(frozen=True)
class Packed:
    """One array. Rows are those of the matrix, or its columns if `turned` (the channels of a linear layer).

    float32: codes as they are. bfloat16: uint16, the upper halves of float32. int8: int8 [R, C] and a float32
    scale per row [R]. int4: uint8 [R, G · 16], two codes a byte, the first in the low bits, and a float16
    scale per group of 32 [R, G], G = C / 32 rounded up. codes: uint8 [R, 8], each the number of a centroid in
    its book; `scale` holds the books, float16 [8, 256, C / 4 rounded up]; a row is four parts in a row, each
    the sum of the two centroids of its books. mixed: `codes` uint8 [R / 8 rounded up], bit r (the first in
    the low bits) set where row r is among the int8 rows of `parts[0]`, else it is among the int4 rows of
    `parts[1]`, both in the order of the rows.
    """

    form: Form
    codes: NDArray[Any]
    scale: NDArray[Any] | None = None
    columns: int = 0  # C, of int4 and codes only: their last part may be part empty
    turned: bool = False
    parts: tuple[Packed, Packed] | None = None  # of mixed only
    place: NDArray[np.int32] | None = None  # [R], of mixed only, and only where it is to be read: `places`

    @property
    def nbytes(self) -> int:
        """In a file."""
        return sum(array.nbytes for array in self.stored())

    def stored(self) -> list[NDArray[Any]]:
        """The arrays that a file holds."""
        own = [self.codes] if self.scale is None else [self.codes, self.scale]
        return own + [array for part in self.parts or () for array in part.stored()]

    @property
    def count(self) -> int:
        """Rows."""
        return len(self.codes) if self.parts is None else sum(part.count for part in self.parts)

    def places(self) -> NDArray[np.int32]:
        """[R], of mixed: p >= 0 is row p of the int8 rows, p < 0 row -1 - p of the int4 rows."""
        often = np.unpackbits(self.codes, count=self.count, bitorder="little").astype(bool)
        return np.where(often, np.cumsum(often) - 1, -np.cumsum(~often)).astype(np.int32)

    def to_read(self) -> Packed:
        """The same with scales in float32 and the places there: quicker by row, and what the kernels take."""
        scale = None if self.scale is None else self.scale.astype(np.float32, copy=False)
        if self.parts is None:
            return replace(self, scale=scale)
        often, rare = self.parts
        return replace(self, parts=(often.to_read(), rare.to_read()), place=self.places())

    def unpack(self) -> NDArray[np.float32]:
        """The array as float32: exactly code times scale, rounded to float32."""
        if self.form == "float32":
            return self.codes
        values = self.rows(slice(None))
        return np.ascontiguousarray(values.T if self.turned else values)

    def rows(self, index: slice | NDArray[np.integer]) -> NDArray[np.float32]:
        """Some rows as float32, [..., C] for an index [...]: those of `unpack`, bit for bit."""
        if self.parts is not None:
            return self._mixed_rows((self.places() if self.place is None else self.place)[index])
        codes = self.codes[index]
        if self.form == "float32":
            return codes
        if self.form == "bfloat16":
            return from_upper_half(codes)
        assert self.scale is not None  # noqa: S101 - `checked` at every door
        if self.form == "codes":
            centroids = self.scale[np.arange(BOOKS), codes].astype(np.float32)
            parts = centroids.reshape(*codes.shape[:-1], PARTS, LEVELS, self.scale.shape[2])
            total = parts[..., 0, :]
            for level in range(1, LEVELS):  # in this order, as the kernel adds them
                total = total + parts[..., level, :]
            wide = PARTS * self.scale.shape[2]
            return np.asarray(total.reshape(*codes.shape[:-1], wide)[..., : self.columns])
        scale = self.scale[index]
        if self.form == "int8":
            return np.asarray(codes * scale[..., None])
        both = np.stack([codes & 15, codes >> 4], axis=-1)
        groups = both.reshape(*scale.shape, GROUP).astype(np.float32) - ZERO
        groups *= scale.astype(np.float32)[..., None]
        return groups.reshape(*codes.shape[:-1], 2 * codes.shape[-1])[..., : self.columns]

    def _mixed_rows(self, place: NDArray[np.int32]) -> NDArray[np.float32]:
        assert self.parts is not None  # noqa: S101 - `checked` at every door
        often, rare = place >= 0, place < 0
        rows = np.empty((*place.shape, self.columns), np.float32)
        rows[often] = self.parts[0].rows(place[often])
        rows[rare] = self.parts[1].rows(-1 - place[rare])
        return rows

    def checked(self, name: str) -> Self:
        """Itself. Raises CorruptArtifact where the parts do not fit together."""
        if not self._fits():
            raise CorruptArtifact(f"the packed weights {name} do not fit their form {self.form}")
        return self

    def _fits(self) -> bool:
        codes, scale = self.codes, self.scale
        if self.form == "mixed" or self.parts is not None:
            return self._mixed_fits()
        if self.form in ("float32", "bfloat16"):
            return scale is None and codes.dtype == (np.float32 if self.form == "float32" else np.uint16)
        if scale is None or codes.ndim != 2 or not np.isfinite(scale).all():
            return False
        if self.form == "codes":
            books = (BOOKS, CENTROIDS, -(-self.columns // PARTS))
            kinds = codes.dtype == np.uint8 and scale.dtype == np.float16
            return kinds and self.columns > 0 and codes.shape[1] == BOOKS and scale.shape == books
        if not (scale >= 0).all():
            return False
        if self.form == "int8":
            return codes.dtype == np.int8 and scale.dtype == np.float32 and scale.shape == codes.shape[:1]
        groups = -(-self.columns // GROUP)
        return (
            codes.dtype == np.uint8
            and scale.dtype == np.float16
            and scale.shape == (len(codes), groups)
            and codes.shape[1] == groups * GROUP // 2
        )

    def _mixed_fits(self) -> bool:
        if (
            self.form != "mixed"
            or self.parts is None
            or self.scale is not None
            or self.codes.dtype != np.uint8
        ):
            return False
        often, rare = self.parts
        kinds = (often.form, rare.form) == ("int8", "int4") and often._fits() and rare._fits()
        wide = self.columns > 0 and often.codes.shape[1:] == (self.columns,) and rare.columns == self.columns
        whole = self.codes.shape == (-(-self.count // 8),)
        bits = int(np.unpackbits(self.codes).sum())  # none beyond the last row, or there would be too many
        last = np.unpackbits(self.codes, bitorder="little")[self.count :]
        return kinds and wide and whole and bits == often.count and not last.any()


def upper_half(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """bfloat16 nearest to each float32, ties to even."""
    bits = values.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> 16 & np.uint32(1))
    return (rounded >> 16).astype(np.uint16)


def from_upper_half(halves: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 as float32."""
    return (halves.astype(np.uint32) << 16).view(np.float32)


def total_bytes(weights: Mapping[str, Packed]) -> int:
    """Of all codes and scales; names and shapes are not counted."""
    return sum(packed.nbytes for packed in weights.values())


def write_packed(writer: ArtifactWriter, file: str, weights: Mapping[str, Packed]) -> None:
    weights = {n: packed for name, whole in weights.items() for n, packed in _with_parts(name, whole)}
    arrays = {f"{name}.codes": packed.codes for name, packed in weights.items()}
    arrays |= {f"{name}.scale": p.scale for name, p in weights.items() if p.scale is not None}
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, writer.file(file))
    forms = {n: {"form": p.form, "columns": p.columns, "turned": p.turned} for n, p in weights.items()}
    writer.json(PACKING, forms)


def _with_parts(name: str, packed: Packed) -> list[tuple[str, Packed]]:
    """What a file holds of it, by the names there."""
    return [
        (name, packed),
        *zip((f"{name}.{part}" for part in MIXED_PARTS), packed.parts or (), strict=False),
    ]


def read_packed(artifact: Artifact, file: str) -> dict[str, Packed] | None:
    """What `write_packed` wrote; None where the weights are not packed. Raises CorruptArtifact."""
    if not artifact.has(f"{PACKING}.json"):
        return None
    arrays, forms = load_file(artifact.file(file)), artifact.json(PACKING)

    def read(name: str) -> Packed:
        about = forms.get(name, {})
        form, codes, scale = about.get("form"), arrays.get(f"{name}.codes"), arrays.get(f"{name}.scale")
        if form not in get_args(Form) or codes is None:
            raise CorruptArtifact(f"{artifact.path}: weights {name} of form {form!r} cannot be read")
        packed = Packed(form, codes, scale, int(about["columns"]), bool(about["turned"]))
        if form != "mixed":
            return packed
        often, rare = (f"{name}.{part}" for part in MIXED_PARTS)
        parts.update((often, rare))
        return replace(packed, parts=(read(often), read(rare)))

    parts: set[str] = set()
    found = {name: read(name) for name in forms}
    return {name: packed.checked(name) for name, packed in found.items() if name not in parts}
