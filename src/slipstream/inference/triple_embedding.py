"""Vectors of entities and relations, and what four forms say of a triple (head, relation, tail). NumPy only.

Every form is a query vector and a comparison with all entities at once: q(h, r), then q · e or -|q - e|. Each
relation r has a reciprocal r + R of its own, so that a missing head is asked for like a missing tail: the
score of (?, r, t) is the score of (t, r + R, ?).

| form | q(h, r) | compared | source |
|---|---|---|---|
| complex | h ∘ r, complex | Re⟨q, conj(e)⟩ | Trouillon et al. 2016, eq. 9 |
| distmult | h ∘ r | q · e | Yang et al. 2015 |
| transe | h + r | -‖q - e‖₂ | Bordes et al. 2013, eq. 1 |
| rotate | h ∘ exp(iθ_r) | -‖q - e‖₂ | Sun et al. 2019, eq. 2 |

Complex numbers are kept as halves of a vector: the real parts, then the imaginary ones. Differs: reciprocal
relations for all four (Lacroix et al. 2018), where TransE and RotatE are published without; RotatE with the
length of the whole difference, where its authors' program adds up those of the coordinates: so it is a matrix
product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from slipstream.artifacts import Artifact, ArtifactWriter
from slipstream.errors import CorruptArtifact

Form = Literal["complex", "distmult", "transe", "rotate"]
FORMS: tuple[Form, ...] = get_args(Form)
WEIGHTS = "triples.safetensors"


@dataclass(frozen=True)
class TripleEmbedding:
    """entity: [E, D]; relation: [2R, D] ([2R, D / 2] phases for rotate), reciprocals in the second half."""

    form: Form
    entity: NDArray[np.float32]
    relation: NDArray[np.float32]

    @property
    def relation_count(self) -> int:
        """R, reciprocals not counted."""
        return len(self.relation) // 2

    @property
    def is_distance(self) -> bool:
        return self.form in ("transe", "rotate")

    def queries(self, head: NDArray[np.integer], relation: NDArray[np.integer]) -> NDArray[np.float32]:
        """[B, D]: what an entity must resemble to be the tail."""
        return self.asked(self.entity[head], relation)

    def asked(self, heads: NDArray[np.float32], relation: NDArray[np.integer]) -> NDArray[np.float32]:
        """[B, D]: the same for heads given as vectors [B, D]; affine in them, linear but for transe."""
        given = self.relation[relation]
        result: NDArray[np.float32]
        if self.form in ("distmult", "transe"):
            result = heads * given if self.form == "distmult" else heads + given
            return result
        half = heads.shape[1] // 2
        real, imaginary = heads[:, :half], heads[:, half:]
        if self.form == "rotate":
            turn_real, turn_imaginary = np.cos(given), np.sin(given)
        else:
            turn_real, turn_imaginary = given[:, :half], given[:, half:]
        return np.concatenate(
            [real * turn_real - imaginary * turn_imaginary, real * turn_imaginary + imaginary * turn_real],
            axis=1,
        )

    def compare(
        self, queries: NDArray[np.float32], start: int = 0, stop: int | None = None
    ) -> NDArray[np.float32]:
        """[B, stop - start]: the score of each entity from start to stop. O(B · E · D)."""
        entities = self.entity[start:stop]
        product = queries @ entities.T
        if not self.is_distance:
            return product
        squares: NDArray[np.float32] = (
            (queries**2).sum(1)[:, None] + (entities**2).sum(1)[None, :] - 2 * product
        )
        distance: NDArray[np.float32] = np.sqrt(np.maximum(squares, 0))
        return -distance

    def scores(self, head: NDArray[np.integer], relation: NDArray[np.integer]) -> NDArray[np.float32]:
        """[B, E]: the score of every entity as the tail."""
        return self.compare(self.queries(head, relation))

    def write_into(self, writer: ArtifactWriter) -> None:
        save_file({"entity": self.entity, "relation": self.relation}, writer.file(WEIGHTS))
        writer.json("triples", {"form": self.form})

    @classmethod
    def read(cls, artifact: Artifact) -> TripleEmbedding:
        form = artifact.json("triples")["form"]
        if form not in FORMS:
            raise CorruptArtifact(f"{artifact.path}: there is no form of embedding named {form!r}")
        weights = load_file(artifact.file(WEIGHTS))
        return cls(form, weights["entity"], weights["relation"])
