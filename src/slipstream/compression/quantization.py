"""Fewer bits per weight, after training: bfloat16, int8 by row, int4 in groups of 32, or both by popularity.

int8: w ≈ s · v, v whole in [-127, 127], s = max |w| / 127 of the row; a row is an item, or an output channel
of a linear layer. int4: v in [-7, 7] and a float16 scale for every 32 numbers of a row. bfloat16: rounded to
the nearest, ties to even. So |w - s · v| ≤ s / 2, and a little more where s was rounded (bounds: the tests).

Source: symmetric round-to-nearest quantisation by channel (Krishnamoorthi 2018, section 3), in groups for 4
bits (Guan et al. 2019 for embedding tables), more bits for what is used more (Yang et al. 2020, "Mixed-
precision embedding using a cache"). Differs: weights only; sums stay float32, so activations lose nothing,
and the compressed model's scores are exactly those of its unpacked weights.
Popular is a fixed share of the items, no cache.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipstream.errors import BadInput
from slipstream.inference.item_index import quantised
from slipstream.inference.packed_weights import CENTROIDS, GROUP, ZERO, Form, Packed, upper_half
from slipstream.models.recommender import Compressible, WeightRole
from slipstream.training.product_codes import product_codes

LARGEST = {"float32": 3.4e38, "bfloat16": 3.38e38, "int8": 1e15, "int4": 7 * 65_000.0, "codes": 6e4}
"""Of a weight: its scale, or itself, must be a finite number of the form. Beyond 1e15 nothing has a score."""


@dataclass(frozen=True)
class Rung:
    """How the item table and the rest of the matrices are packed; vectors and biases stay float32."""

    name: str
    items: Form
    body: Form


RUNGS = (
    Rung("float32", "float32", "float32"),
    Rung("bf16", "bfloat16", "bfloat16"),
    Rung("int8", "int8", "int8"),
    Rung("mixed", "mixed", "int8"),
    Rung("int4", "int4", "int8"),
    Rung("mixed_all", "mixed", "int4"),
    Rung("int4_all", "int4", "int4"),
    Rung("codes", "codes", "int8"),
)
"""From the largest to the smallest, where about half of a model is its item table."""

POPULAR = 0.5
"""Share of the items, those of most events, whose rows `mixed` keeps in int8; the others have four bits."""


def left_out(model: Compressible) -> dict[str, str]:
    """The rungs that this model is too small for, and why."""
    items = len(model.item_vectors())
    why = f"{items:,} items are fewer than the {CENTROIDS} of a code book"
    return {rung.name: why for rung in RUNGS if rung.items == "codes" and items < CENTROIDS}


def compressed(model: Compressible, rung: Rung, events: NDArray[np.integer]) -> Compressible:
    """The same model with its weights packed. Raises BadInput where a weight has no place in the form."""
    return model.with_weights(packed_for(model, rung, events))


def packed_for(model: Compressible, rung: Rung, events: NDArray[np.integer]) -> dict[str, Packed]:
    """The model's weights in the forms of a rung; what is in its form already is taken as it is.

    So codes that a model was trained on with are its codes, and no second clustering of what they say.
    events: [I], how often each item was met; only the order counts.
    """
    found = packed_weights(model.weights(), model.weight_roles(), rung, popular(events))
    own = model.packed_weights()
    return {n: own[n] if n in own and own[n].form == packed.form else packed for n, packed in found.items()}


def packed_weights(
    weights: Mapping[str, NDArray[np.float32]],
    roles: Mapping[str, WeightRole],
    rung: Rung,
    often: NDArray[np.bool_],
) -> dict[str, Packed]:
    """roles: of the weights to pack; those without one stay float32. often: [I], see `mixed`."""
    found = {}
    for name, values in weights.items():
        role = roles.get(name)
        form: Form = "float32" if role is None else rung.items if role == "items" else rung.body
        try:
            mix = form == "mixed"
            found[name] = mixed(values, often) if mix else pack(values, form, turned=role == "linear")
        except BadInput as error:
            raise BadInput(f"{name} cannot be packed as {form}: {error.message}", hint=error.hint) from error
    return found


def popular(events: NDArray[np.integer]) -> NDArray[np.bool_]:
    """[I], the `POPULAR` share of most events, rounded up; of equals the lower number."""
    chosen = np.zeros(len(events), bool)
    chosen[np.argsort(-events.astype(np.int64), kind="stable")[: math.ceil(POPULAR * len(events))]] = True
    return chosen


def mixed(values: NDArray[np.float32], often: NDArray[np.bool_]) -> Packed:
    """Rows [R, C] in int8 where `often` [R], else in int4; either may be none or all."""
    parts = pack(values[often], "int8"), pack(values[~often], "int4")
    return Packed("mixed", np.packbits(often, bitorder="little"), columns=values.shape[1], parts=parts)


def pack(values: NDArray[np.float32], form: Form, *, turned: bool = False) -> Packed:
    """form: any but `mixed`. turned: the columns of `values` [R, C] get scales of their own, not its rows."""
    values = np.ascontiguousarray(values, np.float32)
    if not (np.abs(values) <= LARGEST[form]).all():  # NaN compares as False
        raise BadInput(
            f"it holds a number that is not finite or larger than {LARGEST[form]:.3g}",
            hint="train again, with a smaller rate or clipping",
        )
    if form == "float32":
        return Packed(form, values)
    if form == "codes":
        return product_codes(values)
    if form == "bfloat16":
        return Packed(form, upper_half(values))
    rows = (values.T if turned else values).astype(np.float64)
    if form == "int8":
        v, scale = quantised(rows)
        return Packed(form, v.astype(np.int8), scale, turned=turned)
    count, columns = rows.shape
    groups = -(-columns // GROUP)
    padded = np.zeros((count, groups * GROUP))
    padded[:, :columns] = rows
    v, scale = quantised(padded.reshape(-1, GROUP), 7, np.float16)
    codes = (v + ZERO).astype(np.uint8).reshape(count, groups * GROUP)
    pairs = codes[:, 0::2] | codes[:, 1::2] << 4
    return Packed(form, pairs, scale.reshape(count, groups), columns, turned)
