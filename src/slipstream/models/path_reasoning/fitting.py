"""Fitting the path reasoner: which memories, which relations, which weights; and the graph that comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from slipstream.dataset.queries import Holdout, Queries
from slipstream.dataset.snapshot import Snapshot
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.graph.derived import NextSettings, SimilarSettings, next_edges, similar_edges
from slipstream.models.path_reasoning.attention import attention
from slipstream.models.path_reasoning.facts import NO_FACTS, facts_of, preferences, shared_facets
from slipstream.models.path_reasoning.features import Feature, Sources, fact_features, tensor
from slipstream.models.path_reasoning.learning import (
    Candidates,
    balanced,
    candidates_for,
    fit_weights,
    hidden_items,
    horizon_of,
    probe_of,
    query_budget,
    with_targets,
)
from slipstream.models.path_reasoning.legs import EdgeLeg, FacetLeg, rounded
from slipstream.models.path_reasoning.settings import PathReasonerSettings
from slipstream.models.path_reasoning.walkable import Walkable
from slipstream.models.recommender import FitContext, TrainingData
from slipstream.models.validation import sample_holdout, validation_ndcg

_SIMILAR_MEMORIES = (3.0, 8.0, 20.0, 0.0)
_RIDGE_STEPS = (0.0625, 0.25, 1.0, 4.0, 16.0)  # times the usual ridge
_NEXT_STEPS = ((1.0, 1.0), (2.0, 1.0), (4.0, 2.0), (8.0, 4.0), (6.0, 10.0))  # (past, future), by reach
_NEXT_POWERS = (1.0, 0.7, 0.5)
_NEXT_MEMORIES = (1.0, 1.5)  # beside the past that the edges were fitted with
_GRAPH_MEMORIES = (5.0, 20.0)  # tried beside 0, all alike
_DEGREE_EXPONENTS = (0.75, 0.5, 1.0)  # the first is the default
_CHOICE_QUERIES = 1_500
_COLD_QUERIES = 1_000
_FEWEST_BALANCED, _BALANCE_CELLS = 300, 40_000_000


@dataclass(frozen=True)
class _Learned:
    """Weights by feature, the loss, and what a good item typically scores."""

    weights: dict[Feature, float]
    shares: dict[str, float]
    loss: float
    level: float

    def of(self, feature: Feature) -> float:
        return self.weights.get(feature, 0.0)


def fit_reasoner(
    data: TrainingData, settings: PathReasonerSettings, context: FitContext
) -> tuple[Walkable, dict[str, float], dict[str, Any]]:
    """(the walkable graph, what was chosen by name of the setting, what to tell)."""
    return _Fit(data, settings, context).run()


class _Fit:
    """One fit. `probe` hides events inside the training data: weights are learned on it. `judge` is what
    choices are made by: validation if there is one (it is later than all training data), else the probe.
    """

    def __init__(self, data: TrainingData, settings: PathReasonerSettings, context: FitContext) -> None:
        self.train, self.settings, self.context = data.train, settings, context
        self.items = data.train.item_count
        self.facts = facts_of(data.graph, data.item_features, self.items) if settings.graph else NO_FACTS
        horizon = horizon_of(data.validation) if settings.horizon is None else settings.horizon
        probe = probe_of(data.train, horizon, settings.probe_users, context.seed)
        self.rest, self.holdout = probe.rest, with_targets(probe.holdout, settings.probe_users)
        self.ground, self.judge = self._judge(data)
        self.chosen: dict[str, float] = {"horizon": horizon}
        self.notes: dict[str, Any] = {"probe_queries": len(self.holdout), "judge_queries": len(self.judge)}
        self.drawn: dict[tuple[str, bool, float, float], sp.csr_matrix] = {}

    def _judge(self, data: TrainingData) -> tuple[Snapshot, Holdout]:
        """(the data that relations are drawn from, the questions) for choices."""
        validation = data.validation
        if validation is None or not len(validation.target):
            return self.rest, sample_holdout(self.holdout, _CHOICE_QUERIES, self.context.seed)
        if (
            self.train.item_counts[validation.target] == 0
        ).mean() > 0.5:  # cold items: behaviour says nothing
            return self.rest, sample_holdout(self.holdout, _CHOICE_QUERIES, self.context.seed)
        return self.train, sample_holdout(validation, _CHOICE_QUERIES, self.context.seed)

    def run(self) -> tuple[Walkable, dict[str, float], dict[str, Any]]:
        """Choose memories, learn weights on the probe, then draw everything from all of the data."""
        self._choose_similar()
        self._choose_next()
        cold = self._learn_cold()
        warm = self._learn_warm()
        return self._final(warm, cold, self._learn_newcomers()), self.chosen, self.notes

    # Derived relations

    def _similar(self, snapshot: Snapshot, ridge: float) -> sp.csr_matrix:
        key = ("similar_to", snapshot is self.train, ridge, 0.0)
        if key not in self.drawn:
            settings = SimilarSettings(ridge=ridge, keep=self.settings.edges_per_item)
            self.drawn[key] = similar_edges(snapshot, settings, self.context.progress)
        return self.drawn[key]

    def _next(self, snapshot: Snapshot, past: float, future: float) -> sp.csr_matrix:
        ridge, keep = self.settings.next_ridge, self.settings.edges_per_item
        key = ("next", snapshot is self.train, past, future)
        if key not in self.drawn:
            settings = NextSettings(past=past, future=future, ridge=ridge, keep=keep)
            self.drawn[key] = next_edges(snapshot, settings, self.context.progress)
        return self.drawn[key]

    def _derived(self, snapshot: Snapshot) -> dict[str, EdgeLeg]:
        """The chosen derived relations, drawn from a snapshot."""
        legs = {}
        if "similar_memory" in self.chosen:
            matrix = self._similar(snapshot, self.chosen["similar_ridge"])
            legs["similar_to"] = EdgeLeg("similar_to", matrix, self.chosen["similar_memory"])
        if "next_memory" in self.chosen:
            matrix = self._next(snapshot, self.chosen["next_past"], self.chosen["next_future"])
            damped = _damped(matrix, self.chosen["next_power"])
            legs["next"] = EdgeLeg("next", damped, self.chosen["next_memory"])
        return legs

    def _choose_similar(self) -> None:
        if not self.settings.similar or not self.rest.event_count:
            return
        given, memory = self.settings.similar_ridge, self.settings.similar_memory
        memories = (memory,) if memory is not None else _SIMILAR_MEMORIES if self.train.ordered else (0.0,)
        if given is not None and len(memories) == 1:
            self.chosen |= {"similar_ridge": given, "similar_memory": memories[0]}
            return
        usual = float(np.clip(8 * self.train.event_count / max(1, self.items), 100, 1000))
        ridges = [usual * step for step in _RIDGE_STEPS] if given is None else [given]
        best: dict[float, tuple[float, float]] = {}  # ridge: (quality, memory)

        def at(place: int) -> float:
            ridge = ridges[place]
            if ridge not in best:
                matrix = self._similar(self.ground, ridge)
                tries = [(self._quality(EdgeLeg("similar_to", matrix, m)), m) for m in memories]
                best[ridge] = max(tries, key=lambda found: found[0])
            return best[ridge][0]

        ridge = ridges[_climb(at, len(ridges))]
        self.notes["similar_to tried"] = {f"{r:g}": [round(q, 4), m] for r, (q, m) in sorted(best.items())}
        self.chosen |= {"similar_ridge": ridge, "similar_memory": best[ridge][1]}

    def _choose_next(self) -> None:
        if not self.settings.next or not self.train.ordered or not self.rest.event_count:
            return
        past, future = self.settings.next_past, self.settings.next_future
        if past is None or future is None:
            past, future = self._next_step()
        given, memory = self.settings.next_power, self.settings.next_memory
        powers = _NEXT_POWERS if given is None else (given,)
        memories = tuple(past * longer for longer in _NEXT_MEMORIES) if memory is None else (memory,)
        tries = [(p, m) for m in memories for p in powers]
        legs = []
        if len(tries) > 1:
            matrix = self._next(self.ground, past, future)
            legs = [EdgeLeg("next", _damped(matrix, power), memory) for power, memory in tries]
        power, memory = tries[self._best(legs)]
        self.chosen |= {"next_past": past, "next_future": future, "next_power": power, "next_memory": memory}

    def _next_step(self) -> tuple[float, float]:
        """The best (past, future): from the middle up or down for as long as it gets better."""
        quality: dict[int, float] = {}

        def at(place: int) -> float:
            if place not in quality:
                past, future = _NEXT_STEPS[place]
                matrix = self._next(self.ground, past, future)
                legs = [EdgeLeg("next", _damped(matrix, power), past) for power in _NEXT_POWERS[::2]]
                quality[place] = max(self._quality(leg) for leg in legs)
            return quality[place]

        place = _climb(at, len(_NEXT_STEPS))
        self.notes["next steps"] = {str(_NEXT_STEPS[p]): round(q, 4) for p, q in sorted(quality.items())}
        return _NEXT_STEPS[place]

    def _best(self, legs: Sequence[EdgeLeg]) -> int:
        """The leg that alone answers the judge best; the first of equals."""
        if not legs:
            return 0
        quality = [self._quality(leg) for leg in legs]
        self.notes[f"{legs[0].relation} tried"] = [round(q, 4) for q in quality]
        return int(np.argmax(quality))

    def _quality(self, leg: EdgeLeg) -> float:
        def score(queries: Queries) -> NDArray[np.float32]:
            return leg.sums(attention(queries, self.items, leg.memory)).astype(np.float32)

        return validation_ndcg(score, self.judge)

    # Weights

    def _sources(self, derived: dict[str, EdgeLeg], snapshot: Snapshot) -> Sources:
        people = self.facts.people if self.settings.people else None
        return Sources(
            items=self.items,
            derived=derived,
            facts=self.facts,
            facets=self._facets(),
            memory=self.chosen["graph_memory"],
            prefers=None if people is None else preferences(snapshot, people),
        )

    def _facets(self) -> FacetLeg | None:
        if self.facts.facets is None:
            return None
        facets = shared_facets(self.facts.facets, self.chosen["degree_exponent"])
        return facets.remembering(self.chosen["graph_memory"])

    def _learn_cold(self) -> _Learned | None:
        """Weights of facts for items without events: some items are hidden as a whole and asked for."""
        given, memory = self.settings.degree_exponent, self.settings.graph_memory
        self.chosen["graph_memory"] = memory or 0.0
        self.chosen["degree_exponent"] = _DEGREE_EXPONENTS[0] if given is None else given
        features = fact_features(self.facts)
        rest, holdout, hidden = hidden_items(self.train, _COLD_QUERIES, self.context.seed)
        if not features or not len(holdout.target):
            return None
        candidates = Candidates.of(hidden, self.items)
        best = self._fitted(features, self._sources({}, rest), holdout, candidates, rank=1)
        tries = [("degree_exponent", v) for v in _DEGREE_EXPONENTS[1:] if given is None]
        if memory is None and self.train.ordered:
            tries += [("graph_memory", v) for v in _GRAPH_MEMORIES]
        for name, value in tries:
            before = self.chosen[name]
            self.chosen[name] = value
            learned = self._fitted(features, self._sources({}, rest), holdout, candidates, rank=1)
            if learned.loss < best.loss:
                best = learned
            else:
                self.chosen[name] = before
        self.notes |= {"cold_loss": best.loss, "cold_shares": best.shares}
        return best

    def _learn_warm(self) -> _Learned:
        sources = self._sources(self._derived(self.rest), self.rest)
        candidates = candidates_for(self.holdout, self.train.item_counts, self.context.seed)
        learned = self._fitted(sources.item_features(), sources, self.holdout, candidates, rank=10)
        self.notes |= {"loss": learned.loss, "shares": learned.shares}
        return self._balance(learned)

    def _learn_newcomers(self) -> _Learned | None:
        """Weights of people's attributes, learned on people whose history is taken away."""
        sources = self._sources({}, self.rest)
        features = sources.people_features()
        if not features:
            return None
        queries = self.holdout.queries
        none = Queries(queries.user, np.zeros(len(queries) + 1, np.int64), np.zeros(0, np.int32))
        newcomers = replace(self.holdout, queries=none)
        candidates = candidates_for(newcomers, self.train.item_counts, self.context.seed)
        learned = self._fitted(features, sources, newcomers, candidates, rank=1)
        self.notes["newcomer shares"] = learned.shares
        return learned

    def _balance(self, learned: _Learned) -> _Learned:
        """The weights of whole groups of features, moved to where the judge's first ten are best."""
        groups: dict[str, list[Feature]] = {}
        for feature, weight in learned.weights.items():
            if weight:
                groups.setdefault(_group(feature), []).append(feature)
        if not groups or not len(self.judge):
            return learned
        sums = self._group_sums(learned, groups)
        given = [getattr(self.settings, f"{group}_factor") for group in groups]
        if len(groups) == 1 or None not in given:
            factors = np.array([1.0 if factor is None else factor for factor in given])
        else:
            some = with_targets(self.judge, sums.shape[1])
            sparing = np.array([group == "facts" for group in groups])
            factors, quality = balanced(sums, sparing, some, self.context.progress)
            self.notes["balance"] = quality
        by_group = dict(zip(groups, factors.tolist(), strict=True))
        self.chosen |= {f"{g}_factor": f for g, f in by_group.items()}
        weights = {f: w * by_group.get(_group(f), 1.0) for f, w in learned.weights.items()}
        return replace(learned, weights=weights, level=_level(np.tensordot(factors, sums, axes=1), 10))

    def _group_sums(self, learned: _Learned, groups: dict[str, list[Feature]]) -> NDArray[np.float32]:
        """[G, Q, I]: what each group scores for the first Q questions of the judge."""
        sources = self._sources(self._derived(self.ground), self.ground)
        wanted = max(_FEWEST_BALANCED, _BALANCE_CELLS // (len(groups) * max(1, self.items)))
        some = with_targets(self.judge, wanted)
        people, everything = self._attributes(some.queries), np.arange(self.items)
        sums = np.zeros((len(groups), len(some), self.items), np.float32)
        for number, features in enumerate(groups.values()):
            for feature in features:
                part = tensor(sources, [feature], some.queries, people, everything)[0]
                sums[number] += np.float32(learned.weights[feature]) * part
        return sums

    def _fitted(
        self, features: list[Feature], sources: Sources, holdout: Holdout, candidates: Candidates, rank: int
    ) -> _Learned:
        """rank: the place in the list whose typical score is the level."""
        holdout = with_targets(holdout, query_budget(len(features), len(candidates.items), len(holdout)))
        if not features or not len(holdout):
            return _Learned(dict.fromkeys(features, 1.0), {}, float("inf"), 1.0)
        self.context.progress(0, 1, "weighing paths")
        people = self._attributes(holdout.queries)
        parts = tensor(sources, features, holdout.queries, people, candidates.items)
        weights, loss, shares = fit_weights(parts, holdout, candidates)
        weights = np.where(shares < self.settings.least_share, 0.0, weights)
        scores = np.tensordot(weights.astype(np.float32), parts, axes=1)
        level = _level(scores, rank)
        told = {f.name: round(float(s), 4) for f, s in zip(features, shares, strict=True) if s > 0}
        return _Learned(dict(zip(features, weights.tolist(), strict=True)), told, loss, level)

    def _attributes(self, queries: Queries) -> sp.csr_matrix:
        """[Q, A] attributes of the askers; empty for people that nobody knows."""
        people = self.facts.people
        return attributes_of(queries, people) if people is not None else sp.csr_matrix((len(queries), 0))

    # The graph that comes out

    def _final(self, warm: _Learned, cold: _Learned | None, newcomers: _Learned | None) -> Walkable:
        edges = [
            leg.scaled(warm.of(Feature("derived", name)))
            for name, leg in self._derived(self.train).items()
            if warm.of(Feature("derived", name))
        ]
        lean = self._leaning(warm, cold)
        facets = self._facets()
        strength = _Strength(warm, cold, lean)
        for number, leg in enumerate(self.facts.straight):
            factor = strength.of_items(Feature("straight", leg.relation, (number,)))
            matrix = rounded(leg.matrix @ sp.diags(factor))
            edges.append(EdgeLeg(leg.relation, matrix, self.chosen["graph_memory"]))
        prefers = self._final_preferences(warm, newcomers)
        return Walkable(
            items=self.train.items,
            entities=Vocabulary.of(self.facts.entities),
            edges=tuple(EdgeLeg(e.relation, rounded(e.matrix), e.memory) for e in edges if e.matrix.nnz),
            facets=None if facets is None else _weighted(facets, strength, fact_features(self.facts)),
            preferences=prefers,
            people=self.facts.people if prefers is not None else sp.csr_matrix((0, 0)),
            people_relations=self.facts.people_relations,
            people_entities=self.facts.people_entities,
            event_kind=_usual_kind(self.train),
            newcomer_events=self.settings.cold_events,
        )

    def _leaning(self, warm: _Learned, cold: _Learned | None) -> NDArray[np.float64]:
        """[I]: how much of the cold weights each item gets, scaled to the level of warm scores."""
        half = self.settings.cold_events
        return np.asarray(self._scale(warm, cold) * half / (half + self.train.item_counts))

    def _scale(self, warm: _Learned, other: _Learned | None) -> float:
        """What brings another kind of score to its share of the warm level."""
        if other is None or not other.level > 0:
            return 0.0
        return self.settings.cold_level * (warm.level if warm.level > 0 else 1.0) / other.level

    def _final_preferences(self, warm: _Learned, newcomers: _Learned | None) -> EdgeLeg | None:
        if self.facts.people is None or newcomers is None:
            return None
        weights = np.array([newcomers.of(Feature("people", name)) for name in self.facts.people_relations])
        matrix = sp.diags(weights * self._scale(warm, newcomers)) @ preferences(self.train, self.facts.people)
        prefers = rounded(matrix)
        return EdgeLeg("prefers", prefers, 0.0) if prefers.nnz else None


def _climb(at: Callable[[int], float], places: int) -> int:
    """The place below `places` where `at` is best: from the middle up or down while it gets better."""
    place = places // 2
    best = at(place)
    for way in (-1, 1):
        while 0 <= place + way < places and at(place + way) > best:
            place += way
            best = at(place)
    return place


def _group(feature: Feature) -> str:
    """Features that are balanced together."""
    return feature.name.removesuffix("_to") if feature.kind == "derived" else "facts"


@dataclass(frozen=True)
class _Strength:
    """What the last hop into each item weighs: the warm weight, and the cold one as far as it leans on it."""

    warm: _Learned
    cold: _Learned | None
    lean: NDArray[np.float64]  # [I]

    def of_items(self, feature: Feature) -> NDArray[np.float64]:
        cold = 0.0 if self.cold is None else self.cold.of(feature)
        return self.warm.of(feature) + cold * self.lean


def _weighted(facets: FacetLeg, strength: _Strength, features: list[Feature]) -> FacetLeg | None:
    back = facets.back.copy()
    row = np.repeat(np.arange(back.shape[0]), np.diff(back.indptr))
    factor = np.zeros(len(back.data))
    for feature in features:
        if feature.kind == "facets":
            mine = np.isin(facets.facet_relation[row], feature.numbers)
            factor[mine] = strength.of_items(feature)[back.indices[mine]]
    back.data = back.data * factor
    back = rounded(back)
    if not back.nnz:
        return None
    weighted = facets.weighted(back)
    return FacetLeg(
        rounded(weighted.out),
        weighted.back,
        weighted.relations,
        weighted.facet_relation,
        weighted.facet_inverse,
        weighted.facet_entity,
        weighted.memory,
    )


def attributes_of(queries: Queries, people: sp.csr_matrix) -> sp.csr_matrix:
    """[Q, A]: 1 for each attribute of the person who asks; nothing for a person nobody knows."""
    known = (queries.user >= 0) & (queries.user < people.shape[0])
    if not people.shape[0]:
        return sp.csr_matrix((len(queries), people.shape[1]))
    rows = sp.csr_matrix(people[np.where(known, queries.user, 0)])
    return sp.csr_matrix(sp.diags(known.astype(np.float64)) @ rows)


def _level(scores: NDArray[np.floating], rank: int) -> float:
    """The mean score in place `rank` of the lists."""
    place = min(rank, scores.shape[1]) - 1
    return float(-np.partition(-scores, place, axis=1)[:, place].mean()) if scores.size else 0.0


def _damped(matrix: sp.csr_matrix, power: float) -> sp.csr_matrix:
    """Strengths to a power below 1: many weak signs then count more beside one strong sign."""
    return matrix if power == 1.0 else matrix.power(power)


def _usual_kind(train: Snapshot) -> str:
    if not train.event_count:
        return "click"
    return train.kinds[int(np.argmax(np.bincount(train.kind, minlength=len(train.kinds))))]
