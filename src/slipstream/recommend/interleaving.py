"""Two releases in one slate: the sensitive comparison, because each person judges both at once.

An arm with `interleave` shows a team-draft mixture of its own list and that of a second release. The log
keeps whose pick each place is (`teams`), and `evaluation.experiments.preference` tells who is preferred.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from slipstream.randomness import derive
from slipstream.recommend.exploration import Drawn
from slipstream.recommend.slate import Slate

if TYPE_CHECKING:
    from slipstream.recommend.pipeline import Pipeline, Request


@dataclass(frozen=True)
class Interleaved:
    """One list of two rankings. from_first[k]: whether the first ranking's team owns place k."""

    items: list[str]
    from_first: list[bool]


def team_draft(
    first: Sequence[str], second: Sequence[str], k: int, random: np.random.Generator
) -> Interleaved:
    """Two rankings as one list of `k` items (Radlinski, Kurup and Joachims 2008, algorithm 2).

    The team with fewer items picks next, a coin decides between equals; a pick is the best item of one's
    ranking that is not in the list. A ranking that has no more leaves the rest to the other.
    """
    items: list[str] = []
    owned: list[bool] = []
    taken: set[str] = set()
    queues = [iter(dict.fromkeys(first)), iter(dict.fromkeys(second))]
    sizes = [0, 0]
    while len(items) < k:
        turn = int(random.integers(2)) if sizes[0] == sizes[1] else int(sizes[0] > sizes[1])
        pick = None
        for team in (turn, 1 - turn):
            pick = next((item for item in queues[team] if item not in taken), None)
            if pick is not None:
                break
        if pick is None:
            break
        items.append(pick)
        owned.append(team == 0)
        taken.add(pick)
        sizes[team] += 1
    return Interleaved(items, owned)


def interleaved(first: Pipeline, second: Pipeline, request: Request) -> tuple[Slate, Drawn]:
    """One slate of both pipelines' slates for one request, each item with the reasons of who picked it.

    The coins depend on the request id only. `release` of the slate is both names, joined by `+`, so that no
    figure of one release counts it. Costs a second answer.
    """
    request = replace(request, request_id=request.request_id or uuid.uuid4().hex)
    slates = first.recommend(request), second.recommend(request)
    rankings = [[item.item_id for item in slate.items] for slate in slates]
    random = np.random.default_rng(derive(0, "interleave", request.request_id))
    mixed = team_draft(rankings[0], rankings[1], request.k, random)
    own, other = ({item.item_id: item for item in slate.items} for slate in slates)
    items = tuple(
        (own if mine else other)[item] for item, mine in zip(mixed.items, mixed.from_first, strict=True)
    )
    both = f"{slates[0].release}+{slates[1].release}"
    teams = "".join("a" if mine else "b" for mine in mixed.from_first)
    return replace(slates[0], items=items, release=both), Drawn(teams=teams)
