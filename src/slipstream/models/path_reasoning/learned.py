"""Weights that were learned, and how they become the gammas of the last hops."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from slipstream.models.path_reasoning.features import Feature
from slipstream.models.path_reasoning.legs import FacetLeg, rounded


@dataclass(frozen=True)
class Learned:
    """Weights by feature, the loss, and what a good item typically scores."""

    weights: dict[Feature, float]
    shares: dict[str, float]
    loss: float
    level: float

    def of(self, feature: Feature) -> float:
        return self.weights.get(feature, 0.0)


@dataclass(frozen=True)
class Strength:
    """What the last hop into each item weighs: the warm weight, and the cold one as far as it leans on it."""

    warm: Learned
    cold: Learned | None
    lean: NDArray[np.float64]  # [I]

    def of_items(self, feature: Feature) -> NDArray[np.float64]:
        return self.warm.of(feature) + self.of_cold(feature)

    def of_cold(self, feature: Feature) -> NDArray[np.float64]:
        return (0.0 if self.cold is None else self.cold.of(feature)) * self.lean


def weighted(
    facets: FacetLeg, cold: FacetLeg, strength: Strength, features: list[Feature]
) -> FacetLeg | None:
    """`facets` and `cold` are the same but for their degree exponents."""
    back = facets.back.copy()
    row = np.repeat(np.arange(back.shape[0]), np.diff(back.indptr))
    for feature in features:
        if feature.kind == "facets":
            mine = np.isin(facets.facet_relation[row], feature.numbers)
            item = back.indices[mine]
            warm = facets.back.data[mine] * strength.warm.of(feature)
            back.data[mine] = warm + cold.back.data[mine] * strength.of_cold(feature)[item]
    back = rounded(back)
    if not back.nnz:
        return None
    walked = facets.weighted(back)
    return replace(walked, out=rounded(walked.out))
