"""Paths that say the same thing, together: they differ only in the item of the history they start from.

A group is one entity seen through one relation ("directed by him"), or one relation straight to the item
("often followed by this"). Its score is the sum over its paths, so groups add up to the item's score as paths
do, and a few of them carry most of it where single paths are many and faint.

Which are shown is not a question of the score alone: "of the 1990s" is true of half of all items and says
little about this one. A path tells log(I / n), where n of the I items are reached by its last hop: the
information content of an entity (-log p, Resnik 1995) for facts, and the same count of a start's edges where
the hop comes straight from it. What a group says is the sum over its paths of score times that. Shares stay
parts of the score.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slipstream.models.path_reasoning.frontier import Floats, Frontier, Ints, added
from slipstream.models.path_reasoning.search import (
    STRAIGHT,
    Columns,
    Row,
    columns_sorted,
    facet_paths,
    pairs_to,
    straight_paths,
    straight_to,
)

NAMED_FROM, MOST_NAMED = 0.25, 4


@dataclass(frozen=True)
class Group:
    """rows: its best paths, at most MOST_NAMED, those that score at least NAMED_FROM of the best.

    share: of `whole`, the item's score, all of its paths together.
    """

    rows: tuple[Row, ...]
    share: float
    whole: float


def best_groups(frontier: Frontier, items: Ints, limit: int) -> list[list[Group]]:
    """The `limit` groups that say most about each of the items (ascending, distinct), in descending share.

    The group of each kind (what people do together; each relation of facts) that says most is chosen before
    a second one of any kind; where two say the same, that of the larger share, then by leg and facet. Cost:
    that of one search, and the paths of the groups that are shown.
    """
    result: list[list[Group]] = [[] for _ in items]
    for places, part in frontier.parts(items):
        if len(places):
            for place, groups in zip(places.tolist(), _groups_to(part, items[places], limit), strict=True):
                result[place] = groups
    return result


def _groups_to(frontier: Frontier, items: Ints, limit: int) -> list[list[Group]]:
    if frontier.compiled is None:
        return _groups(frontier, items, limit)
    paths, shown = frontier.compiled.groups(frontier.starts, items, limit, NAMED_FROM, MOST_NAMED)
    result: list[list[Group]] = [[] for _ in items]
    first = 0
    for place, count, share, whole in shown:
        rows = tuple(path[1:] for path in paths[first : first + count])
        result[place].append(Group(rows, share, whole))
        first += count
    return result


def _groups(frontier: Frontier, items: Ints, limit: int) -> list[list[Group]]:
    straight, facets = straight_to(frontier, items), frontier.facets
    legs = len(frontier.walks)
    by_leg = straight.place * legs + straight.leg
    together = added(by_leg, straight.score, len(items) * legs)
    used = np.flatnonzero(together)
    place, leg, total = used // max(1, legs), used % max(1, legs), together[used]
    says = added(by_leg, straight.score * straight.tells, len(items) * legs)[used]
    facet, kind = np.full(len(used), -1), np.full(len(used), STRAIGHT)
    if facets is not None:
        pairs = pairs_to(facets[1], items)
        place, total = np.concatenate([place, pairs.place]), np.concatenate([total, pairs.total])
        says = np.concatenate([says, pairs.total * pairs.tells])
        leg = np.concatenate([leg, np.full(len(pairs.place), facets[0])])
        facet, kind = np.concatenate([facet, pairs.facet]), np.concatenate([kind, pairs.kind])
    whole = added(place, total, len(items))
    chosen = _chosen(place, kind, says, total, leg, facet, len(items), limit)
    columns: list[Columns] = []
    lowest = np.full(len(items) * legs, np.inf)
    best = np.zeros(len(items) * legs)
    np.maximum.at(best, by_leg, straight.score)
    own = place[chosen] * legs + leg[chosen]  # of a facet's group: the leg of no walk here
    lowest[own] = NAMED_FROM * best[own]
    columns.append(straight_paths(frontier, straight, lowest[by_leg]))
    if facets is not None:
        lowest = np.full(len(pairs.place), np.inf)
        own = chosen[chosen >= len(used)] - len(used)
        lowest[own] = NAMED_FROM * pairs.best[own]
        columns.append(facet_paths(*facets, pairs, lowest, MOST_NAMED))
    found = columns_sorted(columns, whole)
    rows: dict[tuple[int, int, int], list[Row]] = {}
    for at, row in zip(found.place.tolist(), found.rows(), strict=True):
        rows.setdefault((at, row[0], row[2]), []).append(row)
    result: list[list[Group]] = [[] for _ in items]
    for number in chosen.tolist():
        at = int(place[number])
        paths = rows[at, int(leg[number]), int(facet[number])]
        result[at].append(
            Group(tuple(paths[:MOST_NAMED]), float(total[number] / whole[at]), float(whole[at]))
        )
    return result


def _chosen(
    place: Ints, kind: Ints, says: Floats, total: Floats, leg: Ints, facet: Ints, items: int, limit: int
) -> Ints:
    """Numbers of the groups to show, in descending total within each item."""
    order = np.lexsort((facet, leg, -total, -says, kind, place))
    key = place[order] * (int(kind.max(initial=0)) + 1) + kind[order]
    leads = np.zeros(len(order), bool)
    leads[order[np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))[: len(order)]]] = True
    order = np.lexsort((facet, leg, -total, -says, ~leads, place))
    rank = np.arange(len(order)) - np.searchsorted(place[order], np.arange(items))[place[order]]
    order = order[rank < limit]
    return order[np.lexsort((facet[order], leg[order], -total[order], place[order]))]
