"""Retrieve, filter, rank, diversify, explain: from a request to a slate.

`rank` (ranking.py) is what trials call; `Pipeline` ranks with the same parts and adds rules and words, so
what is served is what was evaluated. A test compares the two.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slipstream.config import Home
from slipstream.dataset.queries import Queries
from slipstream.dataset.vocabulary import UNKNOWN
from slipstream.errors import UnknownName, UsageError
from slipstream.models.recommender import Searchable
from slipstream.recommend.live_users import BUDGET_BYTES, LiveUsers, UserState
from slipstream.recommend.memo import MOST_NAMED, named
from slipstream.recommend.newcomers import AddedItems, LiveShelf, Shelf
from slipstream.recommend.ranking import rank
from slipstream.recommend.release import Release
from slipstream.recommend.rules import Rules, read_rules
from slipstream.recommend.segments import Members
from slipstream.recommend.shortlist import Scored, Searched, Shortlist, varied, with_newcomers
from slipstream.recommend.slate import Reason, Slate, SlateItem, Tier

if TYPE_CHECKING:
    from slipstream.events.store import EventStore

MOST_ITEMS = 500

__all__ = ["MOST_ITEMS", "Pipeline", "Request", "never_shown", "rank"]


@dataclass(frozen=True)
class Request:
    """What is asked. Ids that nobody knows are ignored in `history`, `exclude` and `allow`.

    history: item ids, oldest first; given, it stands in place of what is stored about the user.
    allow: only these items (None: all). filters: {attribute: values}, an item needs one value of each.
    time_us: answer as of this moment, with the events up to it. context: an attribute by which people are
    segmented counts for a person without a history; else kept for models that use it.
    """

    user_id: str | None = None
    history: Sequence[str] | None = None
    k: int = 10
    explain: bool = False
    exclude: Collection[str] = ()
    allow: Collection[str] | None = None
    filters: Mapping[str, Sequence[str]] = field(default_factory=dict)
    time_us: int | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
    request_id: str = ""


class Pipeline:
    """One release answering for one home. Thread-safe if the store is."""

    def __init__(
        self,
        release: Release,
        store: EventStore | None = None,
        *,
        home: Home | None = None,
        added: AddedItems | None = None,
        rules: Rules | None = None,
        slate_cache: bool = True,
        budget_bytes: int = BUDGET_BYTES,
        idle_int8: bool = False,
    ) -> None:
        """store: where histories are read; without one they come in requests.

        home: whose rules and added items stand over those of the release. added, rules: the same, one by one.
        slate_cache: keep finished slates. budget_bytes: of what is kept of users, slates included.
        idle_int8: see `LiveUsers`.
        """
        if home is not None:
            added, rules = added or AddedItems(home.catalogue), rules or read_rules(home.root, release.rules)
        self.release = release
        self.rules = rules or release.rules
        self._shelf = LiveShelf(release.shelf, added, int(release.meta.get("added_bytes", 0)))
        self._users = LiveUsers(
            store,
            release.items,
            release.users,
            release.user_events,
            limit=release.settings.history_limit,
            minimum_value=release.settings.minimum_value,
            budget_bytes=budget_bytes,
            idle_int8=idle_int8,
        )
        self._slate_cache = slate_cache
        segments = release.segments
        self._segments = segments if segments is not None and segments.column == self.rules.segment else None
        self._members: Members | None = None
        self.by_segment = 0  # answers by the popularity of a segment
        if home is not None and self._segments is not None:
            self._members = Members(home.people, self._segments)

    def recommend(self, request: Request) -> Slate:
        """The slate: as of `time_us`, else as of now with every acknowledged event.

        Raises UsageError for a `k` outside 1 to 500 and UnknownName for a filter on no attribute.
        """
        if not 1 <= request.k <= MOST_ITEMS:
            raise UsageError(f"k must be between 1 and {MOST_ITEMS}, got {request.k}")
        shelf = self._shelf.now()
        user = self._user(request)
        memo = user.memo if self._slate_cache else None
        segment = self._segment(request.user_id, request.context, user)
        self.by_segment += segment >= 0
        key = None if memo is None else _key(request, segment)
        if memo is not None and key is not None:
            if (found := memo.slate(key, shelf)) is not None:
                return self._again(found, request)
            slate = self._fresh(request, user, shelf, segment)
            memo.keep(key, shelf, slate)
        else:
            slate = self._fresh(request, user, shelf, segment)
        self._users.settle(user)
        return slate

    def searched(self) -> tuple[int, int]:
        """How many queries the index has answered, and how many items were scored exactly for them."""
        index = self.release.index
        return (0, 0) if index is None else (index.searched, index.rescored)

    def recent_users(self, most: int) -> list[str]:
        """The users whose states were used last, the latest first."""
        return self._users.latest(most)

    def warm_up(self, user_ids: Iterable[str], seconds: float) -> int:
        """Answer each user once, so that the next answer finds their state; stops after `seconds`."""
        until, done = time.monotonic() + seconds, 0
        for user_id in user_ids:
            if time.monotonic() > until:
                break
            self.recommend(Request(user_id=user_id))
            done += 1
        return done

    def kept(self) -> tuple[int, int]:
        """How many users are kept between requests, and the bytes that they take."""
        return len(self._users), self._users.held_bytes

    def _again(self, slate: Slate, request: Request) -> Slate:
        """A finished slate, given once more. What strangers share stays what it is: popularity's answer."""
        tier: Tier = "popularity" if slate.tier == "popularity" else "cache"
        request_id = request.request_id or secrets.token_hex(16)
        return Slate(request_id, request.user_id, slate.items, tier, slate.release, self._age_s())

    def _segment(self, user_id: str | None, context: Mapping[str, Any], user: UserState) -> int:
        """The segment of a person of whom the model knows nothing; UNKNOWN (-1) for others and for none."""
        segments = self._segments
        if segments is None or user.number >= 0 or len(user.query().item):
            return UNKNOWN
        if segments.column in context:
            return segments.number(context[segments.column])
        return UNKNOWN if self._members is None or user_id is None else self._members.number(user_id)

    def _fresh(self, request: Request, user: UserState, shelf: Shelf, segment: int) -> Slate:
        shortlist, tier = self._shortlist(user, request.time_us, shelf, segment)
        excluded = self._excluded(request, user, shelf)
        chosen = self._choose(shortlist, excluded, request.k, shelf)
        reasons: list[tuple[Reason, ...]] = [()] * len(chosen)
        if request.explain:
            reasons = self.release.reasons(shelf).of(
                [item for item, _ in chosen],
                user,
                shelf,
                tier,
                now_us=request.time_us,
                paths=self.release.settings.paths_per_item,
                history=self.release.settings.history_per_item,
                segment=segment,
            )
        return self._slate(request.user_id, chosen, reasons, tier, shelf, request.request_id)

    def explain(self, user_id: str, item_id: str) -> tuple[Reason, ...]:
        """All reasons for one item, recommended or not. Raises UnknownName for the item."""
        shelf = self._shelf.now()
        item = _known(shelf, item_id)
        user = self._users.state(user_id)
        segment = self._segment(user_id, {}, user)
        _, tier = self._shortlist(user, None, shelf, segment)
        reasons = self.release.reasons(shelf)
        return reasons.of([item], user, shelf, tier, paths=5, history=3, segment=segment)[0]

    def similar(self, item_id: str, k: int) -> Slate:
        """Items like one item: by what the model knows of it, else by shared attributes."""
        if not 1 <= k <= MOST_ITEMS:
            raise UsageError(f"k must be between 1 and {MOST_ITEMS}, got {k}")
        shelf = self._shelf.now()
        item = _known(shelf, item_id)
        if (listed := self._listed(item, k, shelf)) is not None:
            return self._slate(None, listed, [()] * len(listed), "cache", shelf, "")
        scores = np.full(len(shelf.items), np.nan, np.float32)
        if item < len(shelf.items):
            scores = self.release.likeness.of(np.array([item], np.int32))[0]
        if np.isfinite(scores).any():
            extended = np.concatenate([scores, shelf.new_scores(scores)])
        else:
            extended = shelf.alike(item)
            extended[extended <= 0] = np.nan
        excluded = never_shown(shelf, self.rules)
        excluded[item] = True
        chosen = self._choose(Scored(extended), excluded, k, shelf, variety=False)
        return self._slate(None, chosen, [()] * len(chosen), "model", shelf, "")

    def _listed(self, item: int, k: int, shelf: Shelf) -> list[tuple[int, float]] | None:
        """The K most alike by the release's own lists; None where those cannot tell all of them."""
        lists = self.release.similar
        if lists is None or shelf.newcomers or item >= len(shelf.items):
            return None
        items, scores = lists[0][item], lists[1][item]
        there = items >= 0
        shown = there.copy()
        shown[there] = ~never_shown(shelf, self.rules)[items[there]]
        found = [(int(i), float(s)) for i, s in zip(items[shown][:k], scores[shown][:k], strict=True)]
        complete = len(found) == k or (there.any() and not there.all())
        return found if complete else None

    def _user(self, request: Request) -> UserState:
        if request.history is None and request.user_id is not None:
            state = self._users.state(request.user_id)
        else:
            state = self._users.given(request.user_id, request.history or ())
        return state if request.time_us is None else state.until(request.time_us)

    def _shortlist(
        self, user: UserState, now_us: int | None, shelf: Shelf, segment: int
    ) -> tuple[Shortlist, Tier]:
        """What the best items are chosen from, and who says so: popularity where nothing is known."""
        query = user.query(now_us)
        if user.number >= 0 or len(query.item):
            if self.release.searchable is not None and self.release.index is not None:
                vector = self._vector(self.release.searchable, user, query)
                if np.isfinite(vector).all():
                    return Searched(self.release.index, vector, shelf), "model"
            else:
                scores = self._primary_scores(user, query)
                if np.isfinite(scores).any():
                    return Scored(np.concatenate([scores, shelf.new_scores(scores)])), "model"
        if self._segments is not None and segment >= 0:
            scores = self._segments.scores(segment)
        else:
            scores = self.release.popularity.score(query)[0]
        return Scored(np.concatenate([scores, shelf.new_scores(scores)])), "popularity"

    def _vector(self, model: Searchable, user: UserState, query: Queries) -> NDArray[np.float32]:
        return model.query_vectors(query) if user.memo is None else user.memo.model.vector(model, query)

    def _primary_scores(self, user: UserState, query: Queries) -> NDArray[np.float32]:
        """[I]. A model that can be advanced goes on from where the last answer left it."""
        model = self.release.incremental
        if model is None or user.memo is None:
            scores: NDArray[np.float32] = self.release.primary.score(query)[0]
        else:
            scores = user.memo.model.score(model, query)[0]
        return scores

    def _excluded(self, request: Request, user: UserState, shelf: Shelf) -> NDArray[np.bool_]:
        excluded = never_shown(shelf, self.rules)
        if not self.rules.repeat:
            excluded[user.touched(shelf, self.rules)] = True
        if request.exclude:
            excluded[shelf.numbers(request.exclude)] = True
        if request.allow is not None:
            allowed = np.zeros(len(shelf), bool)
            allowed[shelf.numbers(request.allow)] = True
            excluded |= ~allowed
        for column, values in request.filters.items():
            if column not in shelf.columns:
                raise UnknownName("attribute", column, shelf.columns)
            excluded |= ~shelf.having(column, tuple(values))
        return excluded

    def _choose(
        self,
        shortlist: Shortlist,
        excluded: NDArray[np.bool_],
        k: int,
        shelf: Shelf,
        *,
        variety: bool = True,
    ) -> list[tuple[int, float]]:
        """(item, score) of the K best that are allowed, best first, with variety and places for newcomers."""
        caps = self.rules.variety if variety else {}
        if caps:
            chosen = varied(shortlist, excluded, k, shelf, caps, min(k, self.rules.minimum))
        else:
            chosen = shortlist.best(excluded, k)
        return with_newcomers(chosen, shortlist, excluded, k, len(shelf.items), self.rules.new_item_slots)

    def _slate(
        self,
        user_id: str | None,
        chosen: Sequence[tuple[int, float]],
        reasons: Sequence[tuple[Reason, ...]],
        tier: Tier,
        shelf: Shelf,
        request_id: str,
    ) -> Slate:
        items = tuple(
            SlateItem(*shelf.named(item), score, why)
            for (item, score), why in zip(chosen, reasons, strict=True)
        )
        return Slate(
            request_id or secrets.token_hex(16), user_id, items, tier, self.release.name, self._age_s()
        )

    def _age_s(self) -> float:
        return round(max(0.0, time.time() - self.release.created_us / 1e6), 3)


def never_shown(shelf: Shelf, rules: Rules) -> NDArray[np.bool_]:
    """[I + N], True where the rules forbid the item to anybody. A fresh array."""
    excluded = np.zeros(len(shelf), bool)
    if rules.blocked:
        excluded[shelf.numbers(rules.blocked)] = True
    for column, values in rules.require.items():
        excluded |= ~shelf.having(column, values)
    for column, values in rules.forbid.items():
        excluded |= shelf.having(column, values)
    return excluded


def _key(request: Request, segment: int) -> Hashable | None:
    """What an answer depends on beside the user and the shelf; None: not worth keeping."""
    if request.time_us is not None or request.context:
        return None
    if len(request.exclude) + len(request.allow or ()) > MOST_NAMED:
        return None
    filters = tuple(sorted((column, tuple(values)) for column, values in request.filters.items()))
    return request.k, request.explain, named(request.exclude), named(request.allow), filters, segment


def _known(shelf: Shelf, item_id: str) -> int:
    number = shelf.number(item_id)
    if number < 0:
        raise UnknownName("item", item_id, ())
    return number
