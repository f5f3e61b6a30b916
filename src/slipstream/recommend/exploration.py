"""One place of a slate given to chance, so that the log says what would have been taken instead.

The last place holds its own item, or with probability `share` one drawn evenly from it and the best items
that did not make the slate. How likely the shown item was (its propensity) is known exactly, which is what
the estimates of `evaluation.counterfactual` need. An ε-greedy policy over one place (Langford, Zhang 2007).
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pydantic import Field

from slipstream.config import Settings
from slipstream.randomness import derive
from slipstream.recommend.slate import Slate, SlateItem

if TYPE_CHECKING:
    from slipstream.recommend.pipeline import Pipeline, Request

MOST_POOL = 200


class Explore(Settings):
    """share: how often the last place is drawn. pool: from how many items, its own among them."""

    share: float = Field(gt=0, le=1)
    pool: int = Field(default=20, ge=2, le=MOST_POOL)


@dataclass(frozen=True, slots=True)
class Drawn:
    """What chance had to do with a slate, for the log; all empty where nothing was left to it.

    propensities: how likely each item was in its place. pool: what the last place was drawn from, its own
    item first. teams: of an interleaved slate, `a` or `b` for each place: whose pick it is.
    """

    propensities: tuple[float, ...] = ()
    pool: tuple[str, ...] = ()
    teams: str = ""


CERTAIN = Drawn()


def explored(pipeline: Pipeline, request: Request, explore: Explore) -> tuple[Slate, Drawn]:
    """The slate, the propensity of each of its items (1 but in the last place), and the pool of that place.

    The draw depends on the request id only. Costs a second ranking, and a third where reasons are wanted;
    they are kept like other slates. A slate shorter than asked, or of 500 items, leaves nothing to draw.
    """
    from slipstream.recommend.pipeline import MOST_ITEMS

    request = replace(request, request_id=request.request_id or uuid.uuid4().hex)
    plain = replace(request, explain=False)
    slate = pipeline.recommend(plain)
    wide = replace(plain, k=min(request.k + explore.pool, MOST_ITEMS))
    if len(slate.items) < request.k or wide.k == request.k:
        whole = pipeline.recommend(request) if request.explain else slate
        return whole, Drawn((1.0,) * len(whole.items))
    shown = {item.item_id for item in slate.items}
    others = [item for item in pipeline.recommend(wide).items if item.item_id not in shown]
    pool = [slate.items[-1], *others][: explore.pool]
    place, chance = _draw(request.request_id, len(pool), explore.share)
    items = (*slate.items[:-1], pool[place])
    if request.explain:
        items = _explained(pipeline, request, items)
    chances = (*(1.0,) * (len(items) - 1), chance)
    return replace(slate, items=items), Drawn(chances, tuple(item.item_id for item in pool))


def _draw(request_id: str, size: int, share: float) -> tuple[int, float]:
    """A place in the pool and its probability."""
    point = (derive(0, "explore", request_id) + 0.5) / 2.0**63
    place = min(int(point / share * size), size - 1) if point < share else 0
    return place, share / size + (1 - share if place == 0 else 0.0)


def _explained(pipeline: Pipeline, request: Request, items: tuple[SlateItem, ...]) -> tuple[SlateItem, ...]:
    """The same items in the same order, with their reasons."""
    asked = replace(request, allow=[item.item_id for item in items], k=len(items))
    with_reasons = {item.item_id: item for item in pipeline.recommend(asked).items}
    return tuple(with_reasons.get(item.item_id, item) for item in items)
