"""Fitting the path reasoner: which memories, which relations, which weights; and the graph that comes out."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from slipstream.dataset.queries import Holdout, Queries
from slipstream.dataset.snapshot import Snapshot
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.models.path_reasoning.attention import rows_of_askers
from slipstream.models.path_reasoning.choosing import Derivation
from slipstream.models.path_reasoning.facts import facts_of, preferences, shared_facets
from slipstream.models.path_reasoning.features import Feature, Sources, fact_features, tensor, tie_features
from slipstream.models.path_reasoning.learned import Learned, Strength, weighted
from slipstream.models.path_reasoning.learning import (
    WORTH_IT,
    Candidates,
    Hidden,
    asked_for_new,
    balanced,
    candidates_for,
    fit_weights,
    hidden_items,
    horizon_of,
    ndcg_among,
    probe_of,
    query_budget,
    with_targets,
)
from slipstream.models.path_reasoning.legs import EdgeLeg, FacetLeg, rounded
from slipstream.models.path_reasoning.settings import PathReasonerSettings
from slipstream.models.path_reasoning.ties import Tie, only_known, touched
from slipstream.models.path_reasoning.walkable import Walkable
from slipstream.models.recommender import ANY_EVENT, FitContext, TrainingData
from slipstream.models.validation import sample_holdout

_GRAPH_MEMORIES = (5.0, 20.0)  # tried beside 0, all alike
_DEGREE_EXPONENTS = (0.75, 0.5, 1.0)  # the first is the default
_WARM, _COLD = "degree_exponent", "cold_degree_exponent"
_CHOICE_QUERIES = 1_500
_COLD_QUERIES = 1_000
_FEWEST_BALANCED, _BALANCE_CELLS = 300, 40_000_000


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
        graph = data.graph if settings.graph else None
        features = data.item_features if settings.graph else None
        facts = facts_of(graph, features, self.items)
        self.facts = facts if settings.ties else replace(facts, ties=())
        self.ties, self.tied_to = only_known(self.facts.ties)
        horizon = horizon_of(data.validation) if settings.horizon is None else settings.horizon
        probe = probe_of(data.train, horizon, settings.probe_users, context.seed)
        self.rest, self.holdout = probe.rest, with_targets(probe.holdout, settings.probe_users)
        self.new = asked_for_new(data.train, data.validation)
        ground, judge = self._judge(data)
        self.derivation = Derivation(settings, ground, judge, context.progress)
        self.chosen: dict[str, float] = {"horizon": horizon}
        self.notes: dict[str, Any] = {"probe_queries": len(self.holdout), "judge_queries": len(judge)}

    def _judge(self, data: TrainingData) -> tuple[Snapshot, Holdout]:
        """(the data that relations are drawn from, the questions) for choices."""
        validation = data.validation
        if validation is not None and len(validation.target) and self.new is None:
            return self.train, sample_holdout(validation, _CHOICE_QUERIES, self.context.seed)
        return self.rest, sample_holdout(self.holdout, _CHOICE_QUERIES, self.context.seed)

    def run(self) -> tuple[Walkable, dict[str, float], dict[str, Any]]:
        """Choose memories, learn weights on the probe, then draw everything from all of the data."""
        self.derivation.choose_similar()
        self.derivation.choose_next()
        self.chosen |= self.derivation.chosen
        self.notes |= self.derivation.notes
        cold = self._learn_cold()
        warm = self._learn_warm()
        walkable = self._final(warm, cold, self._learn_newcomers())
        self.notes |= self.derivation.notes  # what the caps cost, of what came out
        return walkable, self.chosen, self.notes

    # Weights

    def _sources(self, derived: dict[str, EdgeLeg], snapshot: Snapshot, exponent: str = _WARM) -> Sources:
        """exponent: the name of the degree exponent that facets have."""
        people = self.facts.people if self.settings.people else None
        return Sources(
            items=self.items,
            derived=derived,
            facts=replace(self.facts, ties=self.ties),
            facets=self._facets(exponent),
            memory=self.chosen["graph_memory"],
            prefers=None if people is None else preferences(snapshot, people),
            touched=self._touched(snapshot) if self.ties else None,
        )

    def _touched(self, snapshot: Snapshot) -> sp.csr_matrix:
        matrix, lost = touched(snapshot, self.tied_to)
        self.notes["touched beyond the cap"] = round(lost, 4)
        return matrix

    def _facets(self, exponent: str) -> FacetLeg | None:
        if self.facts.facets is None:
            return None
        facets = shared_facets(self.facts.facets, self.chosen[exponent])
        return facets.remembering(self.chosen["graph_memory"])

    def _learn_cold(self) -> Learned | None:
        """Weights of facts for items without events: some items are hidden as a whole and asked for.

        The other gammas are chosen by the lists they give of new items: those that validation asks for if it
        does, else a second set of hidden ones. (The loss of the first set prefers another degree exponent.)
        """
        given, memory = self.settings.cold_degree_exponent, self.settings.graph_memory
        self.chosen["graph_memory"] = memory or 0.0
        self.chosen[_COLD] = _DEGREE_EXPONENTS[0] if given is None else given
        hidden = hidden_items(self.train, _COLD_QUERIES, self.context.seed)
        if not fact_features(self.facts) or not len(hidden[1].target):
            return None
        best = self._cold_weights(*hidden)
        tries = [(_COLD, v) for v in _DEGREE_EXPONENTS[1:] if given is None]
        if memory is None and self.train.ordered:
            tries += [("graph_memory", v) for v in _GRAPH_MEMORIES]
        others = self.new or hidden_items(self.train, _COLD_QUERIES, self.context.seed, fold=1)
        if tries and len(others[1].target):
            best = self._choose_cold(best, tries, hidden, others)
        self.notes |= {"cold_loss": best.loss, "cold_shares": best.shares}
        return best

    def _choose_cold(
        self, best: Learned, tries: list[tuple[str, float]], hidden: Hidden, others: Hidden
    ) -> Learned:
        """One setting after the other, for as long as the lists get better."""
        quality = self._cold_quality(best, *others)
        told = [round(quality, 4)]
        for name, value in tries:
            before = self.chosen[name]
            self.chosen[name] = value
            learned = self._cold_weights(*hidden)
            found = self._cold_quality(learned, *others)
            told.append(round(found, 4))
            if found > quality * WORTH_IT:
                best, quality = learned, found
            else:
                self.chosen[name] = before
        self.notes["cold tried"] = told
        return best

    def _cold_weights(self, rest: Snapshot, holdout: Holdout, hidden: NDArray[np.int64]) -> Learned:
        candidates = Candidates.of(hidden, self.items)
        return self._fitted(
            fact_features(self.facts), self._sources({}, rest, _COLD), holdout, candidates, rank=1
        )

    def _cold_quality(
        self, learned: Learned, rest: Snapshot, holdout: Holdout, hidden: NDArray[np.int64]
    ) -> float:
        """NDCG@10 of learned weights among hidden items."""
        some = with_targets(sample_holdout(holdout, _CHOICE_QUERIES, self.context.seed), _CHOICE_QUERIES)
        sources = self._sources({}, rest, _COLD)
        people = self._attributes(some.queries)
        scores = np.zeros((len(some), len(hidden)), np.float32)
        for feature, weight in learned.weights.items():
            if weight:
                part = tensor(sources, [feature], some.queries, people, hidden)[0]
                scores += np.float32(weight) * part
        scores[scores <= 0] = np.nan
        return ndcg_among(scores, some, Candidates.of(hidden, self.items))

    def _learn_warm(self) -> Learned:
        """Weights of all relations at once, with the degree exponent of the least loss."""
        given = self.settings.degree_exponent
        self.chosen[_WARM] = _DEGREE_EXPONENTS[0] if given is None else given
        sources = self._sources(self.derivation.legs(self.rest), self.rest)
        best = self._warm_weights(sources)
        for exponent in _DEGREE_EXPONENTS[1:] if given is None and self.facts.facets is not None else ():
            before, self.chosen[_WARM] = self.chosen[_WARM], exponent
            learned = self._warm_weights(replace(sources, facets=self._facets(_WARM)))
            if learned.loss < best.loss:
                best = learned
            else:
                self.chosen[_WARM] = before
        self.notes["shares"] = best.shares
        if math.isfinite(best.loss):  # nothing was weighed where nobody has a second event
            self.notes["loss"] = best.loss
        return self._balance(best)

    def _warm_weights(self, sources: Sources) -> Learned:
        candidates = candidates_for(self.holdout, self.train.item_counts, self.context.seed)
        return self._fitted(sources.item_features(), sources, self.holdout, candidates, rank=10)

    def _learn_newcomers(self) -> Learned | None:
        """Weights of attributes and ties of people, learned on people whose history is taken away."""
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

    def _balance(self, learned: Learned) -> Learned:
        """The weights of whole groups of features, moved to where the judge's first ten are best."""
        groups: dict[str, list[Feature]] = {}
        for feature, weight in learned.weights.items():
            if weight:
                groups.setdefault(_group(feature), []).append(feature)
        if not groups or not len(self.derivation.judge):
            return learned
        sums = self._group_sums(learned, groups)
        given = [getattr(self.settings, f"{group}_factor") for group in groups]
        if len(groups) == 1 or None not in given:
            factors = np.array([1.0 if factor is None else factor for factor in given])
        else:
            some = with_targets(self.derivation.judge, sums.shape[1])
            sparing, earning = (np.array([group == name for group in groups]) for name in ("facts", "ties"))
            factors, quality = balanced(sums, sparing, earning, some, self.context.progress)
            self.notes["balance"] = quality
        by_group = dict(zip(groups, factors.tolist(), strict=True))
        self.chosen |= {f"{g}_factor": f for g, f in by_group.items()}
        weights = {f: w * by_group.get(_group(f), 1.0) for f, w in learned.weights.items()}
        return replace(learned, weights=weights, level=_level(np.tensordot(factors, sums, axes=1), 10))

    def _group_sums(self, learned: Learned, groups: dict[str, list[Feature]]) -> NDArray[np.float32]:
        """[G, Q, I]: what each group scores for the first Q questions of the judge."""
        sources = self._sources(self.derivation.legs(self.derivation.ground), self.derivation.ground)
        wanted = max(_FEWEST_BALANCED, _BALANCE_CELLS // (len(groups) * max(1, self.items)))
        some = with_targets(self.derivation.judge, wanted)
        people, everything = self._attributes(some.queries), np.arange(self.items)
        sums = np.zeros((len(groups), len(some), self.items), np.float32)
        for number, features in enumerate(groups.values()):
            for feature in features:
                part = tensor(sources, [feature], some.queries, people, everything)[0]
                sums[number] += np.float32(learned.weights[feature]) * part
        return sums

    def _fitted(
        self, features: list[Feature], sources: Sources, holdout: Holdout, candidates: Candidates, rank: int
    ) -> Learned:
        """rank: the place in the list whose typical score is the level."""
        holdout = with_targets(holdout, query_budget(len(features), len(candidates.items), len(holdout)))
        if not features or not len(holdout):
            return Learned(dict.fromkeys(features, 1.0), {}, float("inf"), 1.0)
        self.context.progress(0, 1, "weighing paths")
        people = self._attributes(holdout.queries)
        parts = tensor(sources, features, holdout.queries, people, candidates.items)
        weights, loss, shares = fit_weights(parts, holdout, candidates)
        weights = np.where(shares < self.settings.least_share, 0.0, weights)
        scores = np.tensordot(weights.astype(np.float32), parts, axes=1)
        level = _level(scores, rank)
        told = {f.name: round(float(s), 4) for f, s in zip(features, shares, strict=True) if s > 0}
        return Learned(dict(zip(features, weights.tolist(), strict=True)), told, loss, level)

    def _attributes(self, queries: Queries) -> sp.csr_matrix:
        """[Q, A] attributes of the askers; empty for people that nobody knows."""
        people = self.facts.people
        return rows_of_askers(queries, people) if people is not None else sp.csr_matrix((len(queries), 0))

    # The graph that comes out

    def _final(self, warm: Learned, cold: Learned | None, newcomers: Learned | None) -> Walkable:
        edges = [
            leg.scaled(warm.of(Feature("derived", name)))
            for name, leg in self.derivation.legs(self.train).items()
            if warm.of(Feature("derived", name))
        ]
        lean = self._leaning(warm, cold)
        strength = Strength(warm, cold, lean)
        for number, leg in enumerate(self.facts.straight):
            factor = strength.of_items(Feature("straight", leg.relation, (number,)))
            matrix = rounded(leg.matrix @ sp.diags(factor))
            edges.append(EdgeLeg(leg.relation, matrix, self.chosen["graph_memory"]))
        prefers = self._final_preferences(warm, newcomers)
        ties = self._final_ties(warm, newcomers)
        return Walkable(
            items=self.train.items,
            entities=Vocabulary.of(self.facts.entities),
            edges=tuple(EdgeLeg(e.relation, rounded(e.matrix), e.memory) for e in edges if e.matrix.nnz),
            facets=self._final_facets(strength),
            preferences=prefers,
            people=self.facts.people if prefers is not None else sp.csr_matrix((0, 0)),
            people_relations=self.facts.people_relations,
            people_entities=self.facts.people_entities,
            event_kind=_usual_kind(self.train),
            newcomer_events=self.settings.cold_events,
            ties=ties,
            touched=EdgeLeg(_event_name(self.train), self._touched(self.train), 0.0) if ties else None,
        )

    def _final_ties(self, warm: Learned, newcomers: Learned | None) -> tuple[Tie, ...]:
        """Those that weigh anything."""
        scale, ties = self._scale(warm, newcomers), []
        for feature, tie in zip(tie_features(self.facts), self.ties, strict=True):
            newcomer = 0.0 if newcomers is None else newcomers.of(feature) * scale
            ties.append(replace(tie, weight=warm.of(feature), newcomer=newcomer))
        return tuple(tie for tie in ties if (tie.weight or tie.newcomer) and tie.matrix.nnz)

    def _final_facets(self, strength: Strength) -> FacetLeg | None:
        warm, cold = self._facets(_WARM), self._facets(_COLD)
        if warm is None or cold is None:
            return None
        return weighted(warm, cold, strength, fact_features(self.facts))

    def _leaning(self, warm: Learned, cold: Learned | None) -> NDArray[np.float64]:
        """[I]: how much of the cold weights each item gets, scaled to the level of warm scores."""
        half = self.settings.cold_events
        return np.asarray(self._scale(warm, cold) * half / (half + self.train.item_counts))

    def _scale(self, warm: Learned, other: Learned | None) -> float:
        """What brings another kind of score to its share of the warm level."""
        if other is None or not other.level > 0:
            return 0.0
        return self.settings.cold_level * (warm.level if warm.level > 0 else 1.0) / other.level

    def _final_preferences(self, warm: Learned, newcomers: Learned | None) -> EdgeLeg | None:
        if self.facts.people is None or newcomers is None:
            return None
        weights = np.array([newcomers.of(Feature("people", name)) for name in self.facts.people_relations])
        kept = preferences(self.train, self.facts.people)
        shares = np.asarray(kept.sum(axis=1)).ravel()
        if shares.any():
            self.notes["prefers strength beyond the cap"] = round(1 - float(shares[shares > 0].mean()), 4)
        prefers = rounded(sp.diags(weights * self._scale(warm, newcomers)) @ kept)
        return EdgeLeg("prefers", prefers, 0.0) if prefers.nnz else None


def _group(feature: Feature) -> str:
    """Features that are balanced together."""
    if feature.kind == "derived":
        return feature.name.removesuffix("_to")
    return "ties" if feature.kind == "ties" else "facts"


def _level(scores: NDArray[np.floating], rank: int) -> float:
    """The mean score in place `rank` of the lists."""
    place = min(rank, scores.shape[1]) - 1
    return float(-np.partition(-scores, place, axis=1)[:, place].mean()) if scores.size else 0.0


def _usual_kind(train: Snapshot) -> str:
    if not train.event_count:
        return "click"
    return train.kinds[int(np.argmax(np.bincount(train.kind, minlength=len(train.kinds))))]


def _event_name(train: Snapshot) -> str:
    """What another person did with an item: the kind of event if all are of one, else what holds for all."""
    used = np.flatnonzero(np.bincount(train.kind, minlength=len(train.kinds)))
    return train.kinds[int(used[0])] if len(used) == 1 else ANY_EVENT
