"""The answer: a slate of items with their reasons, and its JSON, as the public contract has it.

Knows nothing of models or releases; outside ids only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from slipstream.models.recommender import Hop

Tier = Literal["model", "cache", "popularity"]
ReasonKind = Literal["path", "history", "popularity"]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an item is there. share: the part of the item's score that this reason carries, in [0, 1].

    path: hops from the user to the item for kind `path`, else empty.
    """

    kind: ReasonKind
    text: str
    share: float
    path: tuple[Hop, ...] = ()


@dataclass(frozen=True, slots=True)
class SlateItem:
    item_id: str
    title: str
    score: float
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class Slate:
    """The answer to one request, best item first.

    tier: who answered: the model, a cache, or popularity because nothing is known of the user.
    """

    request_id: str
    user_id: str | None
    items: tuple[SlateItem, ...]
    tier: Tier
    release: str
    release_age_s: float


def slate_json(slate: Slate) -> dict[str, Any]:
    """The slate as plain JSON values; shape fixed by the public contract."""
    return {
        "request_id": slate.request_id,
        "user_id": slate.user_id,
        "items": [
            {
                "item_id": item.item_id,
                "title": item.title,
                "score": item.score,
                "reasons": [reason_json(reason) for reason in item.reasons],
            }
            for item in slate.items
        ],
        "tier": slate.tier,
        "release": slate.release,
        "release_age_s": slate.release_age_s,
    }


def reason_json(reason: Reason) -> dict[str, Any]:
    hops = [
        {"head": hop.head, "relation": hop.relation, "tail": hop.tail, "weight": hop.weight}
        for hop in reason.path
    ]
    return {"kind": reason.kind, "text": reason.text, "share": reason.share, "path": hops}
