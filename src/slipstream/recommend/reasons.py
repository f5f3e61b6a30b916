"""Why an item is there: paths, history items or popularity, each drawn from what really scored it.

A reason is never invented. Paths come from a model that sums over paths; history reasons from a model that
can split its score over the history; popularity is the reason only where popularity was the score. Where
nothing of this carries, there is no reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from slipstream.dataset.queries import Queries
from slipstream.dataset.vocabulary import UNKNOWN
from slipstream.models.recommender import ExplainsByHistory, ExplainsByPaths, ExplainsFromState, PathGroup
from slipstream.recommend.live_users import UserState
from slipstream.recommend.newcomers import Shelf
from slipstream.recommend.segments import Segments
from slipstream.recommend.slate import Reason, Tier
from slipstream.recommend.wording import Wording

ANYBODY = "anybody"
"""The head of a path for a person without an id, who sent only a history."""
SMALLEST_SHARE = 0.01
"""A history item that carries less than this is noise, not a reason."""
FEW = 32
"""Events that are looked at one by one for each item; of more, first those that carry anything are found."""
MOST_ALSO = 2
"""Items of the history that one reason names beside the first."""


@dataclass(frozen=True)
class Reasons:
    """The reasons of one release. by_paths may be the primary model or one that ships beside it.

    counted: the primary model is popularity itself.
    """

    by_paths: ExplainsByPaths | None
    by_history: ExplainsByHistory | None
    people: NDArray[np.int32]  # [I] distinct users of each item
    wording: Wording
    segments: Segments | None = None
    counted: bool = False

    @cached_property
    def _from_state(self) -> ExplainsFromState | None:
        model = self.by_history
        return model if isinstance(model, ExplainsFromState) else None

    def of(
        self,
        items: Sequence[int],
        user: UserState,
        shelf: Shelf,
        tier: Tier,
        *,
        now_us: int | None = None,
        paths: int = 2,
        history: int = 1,
        segment: int = UNKNOWN,
    ) -> list[tuple[Reason, ...]]:
        """The reasons of each item of `items` (shelf numbers): paths, else history items.

        paths, history: the most of each kind. segment: whose popularity it was. Cost: one path search for all
        items; one call for the contributions if some item has no path.
        """
        if tier == "popularity" or self.counted:
            return [self._popularity(item, segment) for item in items]
        query = user.query(now_us)
        walked = self._paths([item for item in items if item < len(shelf.items)], query, user, paths)
        found = [
            self._newcomer(item, user, shelf) if item >= len(shelf.items) else walked[item] for item in items
        ]
        bare = [row for row, item in enumerate(items) if not found[row] and item < len(shelf.items)]
        if bare:
            events, carried = self._contributions([items[row] for row in bare], query, user)
            for row, reasons in zip(bare, self._history(events, carried, user, history), strict=True):
                found[row] = reasons
        return found

    def _popularity(self, item: int, segment: int) -> tuple[Reason, ...]:
        if item >= len(self.people) or not (people := int(self.people[item])):
            return ()
        own = self.segments
        if own is not None and segment >= 0 and (alike := own.touched(segment, item)):
            who = f"{own.column}: {own.values[segment]}"
            return (Reason("popularity", self.wording.popularity(alike, who), 1.0),)
        return (Reason("popularity", self.wording.popularity(people), 1.0),)

    def _paths(
        self, items: Sequence[int], query: Queries, user: UserState, limit: int
    ) -> dict[int, tuple[Reason, ...]]:
        """The groups of paths that say most about each item, of different kinds first."""
        if self.by_paths is None or limit == 0 or not items:
            return dict.fromkeys(items, ())
        found = self.by_paths.path_groups(query, items, limit)
        return {
            item: tuple(self._path(g, user) for g in groups if g.best.hops and g.best.score > 0)
            for item, groups in zip(items, found, strict=True)
        }

    def _path(self, group: PathGroup, user: UserState) -> Reason:
        """The best path of a group as a reason, with the share of the group.

        The model knows no kinds of events: the first hop gets the event's own. Items of the history that the
        rest of the group starts from are named with it if the same was done with them.
        """
        first = group.best.hops[0]
        kind = user.kind_of(first.tail)
        first = replace(first, head=user.user_id or ANYBODY, relation=kind or first.relation)
        hops = (first, *group.best.hops[1:])
        also = [start for start in group.starts if user.kind_of(start) == kind]
        return Reason("path", self.wording.path(hops, also[:MOST_ALSO]), _share(group.share), hops)

    def _contributions(
        self, items: Sequence[int], query: Queries, user: UserState
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Events [E] of the query and what they carry, [len(items), E]: what is not there carries nothing.

        NaN or zeros where the model cannot split its score or does not know the item.
        """
        if self.by_history is None or not len(query.item):
            return np.zeros(0, np.int64), np.zeros((len(items), 0), np.float32)
        if max(items) >= len(self.people):
            known = [row for row, item in enumerate(items) if item < len(self.people)]
            if not known:
                return np.zeros(0, np.int64), np.zeros((len(items), 0), np.float32)
            events, of_known = self._contributions([items[row] for row in known], query, user)
            carried = np.zeros((len(items), len(events)), np.float32)
            carried[known] = of_known
            return events, carried
        numbers = np.array(items, np.int32)
        if user.memo is not None and self._from_state is not None:
            return user.memo.model.contributions(self._from_state, query, numbers)
        return np.arange(len(query.item)), self.by_history.contributions(query, numbers)

    def _history(
        self, events: NDArray[np.int64], carried: NDArray[np.float32], user: UserState, limit: int
    ) -> list[tuple[Reason, ...]]:
        """Of each row of `carried` [R, E] the history items that carry most.

        share: positive part of all positive parts; repeats of an item add up.
        """
        if len(events) > FEW:  # most carry nothing
            some = np.flatnonzero(((carried > 0) & (carried < np.inf)).any(axis=0))
            events, carried = events[some], carried[:, some]
        columns: dict[str, list[int]] = {}
        for place, item_id in enumerate(user.known_ids(events.tolist())):
            columns.setdefault(item_id, []).append(place)
        names, texts = list(columns), dict[int, str]()
        repeated = len(names) < len(events)

        def text_of(column: int) -> str:
            if (text := texts.get(column)) is None:
                kind = user.kind_of(names[column]) or "click"
                text = texts[column] = self.wording.history(names[column], kind)
            return text

        def reasons(row: list[float]) -> tuple[Reason, ...]:
            parts = [part if 0 < part < math.inf else 0.0 for part in row]
            if repeated:
                parts = [sum(parts[place] for place in places) for places in columns.values()]
            if not (total := sum(parts)):
                return ()
            least = SMALLEST_SHARE * total
            if limit == 1 and (largest := max(parts)) >= least:  # what is asked for most
                return (Reason("history", text_of(parts.index(largest)), min(1.0, largest / total)),)
            best = sorted(range(len(parts)), key=parts.__getitem__, reverse=True)[:limit]
            return tuple(
                Reason("history", text_of(column), min(1.0, parts[column] / total))
                for column in best
                if parts[column] >= least and parts[column] > 0
            )

        return [reasons(row) for row in carried.tolist()]

    def _newcomer(self, item: int, user: UserState, shelf: Shelf) -> tuple[Reason, ...]:
        """A new item scores by likeness, so its reason is the history item it shares most values with."""
        mine = _values(shelf, item)
        best: tuple[str, list[tuple[str, str]]] = ("", [])
        for item_id in dict.fromkeys(reversed(user.item_ids)):
            number = shelf.number(item_id)
            shared = [pair for pair in mine if pair in set(_values(shelf, number))] if number >= 0 else []
            if len(shared) > len(best[1]):
                best = (item_id, shared)
        item_id, shared = best
        if not shared:
            return ()
        values = [text for _, text in shared[:3]]
        text = self.wording.shared_values(item_id, user.kind_of(item_id) or "click", values)
        return (Reason("history", text, _share(len(shared) / len(mine))),)


def _values(shelf: Shelf, item: int) -> list[tuple[str, str]]:
    return [(column, text) for column, texts in shelf.attributes(item).items() for text in texts]


def _share(value: float) -> float:
    return min(1.0, max(0.0, float(value))) if np.isfinite(value) else 0.0
