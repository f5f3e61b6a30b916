"""Are the reasons that a pipeline gives true, hop by hop?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import polars as pl

from slipstream.models.recommender import ANY_EVENT, SOMEONE
from slipstream.recommend.pipeline import Pipeline, Request
from slipstream.recommend.slate import Reason

EDGE = ("head", "relation", "tail")


@dataclass(frozen=True)
class ReasonCheck:
    """Of `given` reasons `true` ones hold. example: a hop or a fault of one that does not."""

    given: int
    true: int
    example: str = ""

    @property
    def share(self) -> float | None:
        """None where no reason was given."""
        return self.true / self.given if self.given else None


def check_reasons(pipeline: Pipeline, user_ids: Sequence[str], k: int, known: pl.DataFrame) -> ReasonCheck:
    """Ask for the slates of some people, with reasons, and look every hop up.

    known: head, relation, tail of every edge that may be named: those of the graph, and the people's events
    with the kind as relation. A reason holds if its share lies in (0, 1] and, where it is a path, the path
    leads from the person to the item and each of its hops is known. Over somebody who is not named it
    holds if there is anybody of whom both hops are known. O(hops) and a few joins.
    """
    reasons: list[str] = []  # the fault of each, or ""
    hops: list[tuple[int, str, str, str]] = []
    someone: list[tuple[int, str, str, str, str, str]] = []
    for user_id in user_ids:
        slate = pipeline.recommend(Request(user_id=user_id, k=k, explain=True))
        for item in slate.items:
            for reason in item.reasons:
                rows = [(len(reasons), hop.head, hop.relation, hop.tail) for hop in reason.path]
                over = [n for n, row in enumerate(rows[:-1]) if row[3] == SOMEONE]
                someone += [(*rows[n], *rows[n + 1][2:]) for n in over]
                hops += [row for row in rows if SOMEONE not in (row[1], row[3])]
                reasons.append(_fault(reason, user_id, item.item_id))
    frame = pl.DataFrame(hops, schema={"reason": pl.Int64, **dict.fromkeys(EDGE, pl.String)}, orient="row")
    unknown = frame.join(known.select(EDGE), on=EDGE, how="anti", maintain_order="left")
    for place, head, relation, tail in unknown.iter_rows():
        reasons[place] = reasons[place] or f"{head} –{relation}→ {tail} is no edge"
    for place, head, relation, _, did, tail in _of_nobody(someone, known).iter_rows():
        reasons[place] = reasons[place] or f"{head} –{relation}→ nobody –{did}→ {tail}"
    faults = [fault for fault in reasons if fault]
    return ReasonCheck(len(reasons), len(reasons) - len(faults), faults[0] if faults else "")


def _of_nobody(walks: list[tuple[int, str, str, str, str, str]], known: pl.DataFrame) -> pl.DataFrame:
    """The walks over one person, who is not named, that nobody fits."""
    names = ("head", "relation", "someone", "did", "tail")
    frame = pl.DataFrame(walks, schema={"reason": pl.Int64, **dict.fromkeys(names, pl.String)}, orient="row")
    tied = frame.join(known.select("head", "relation", person="tail"), on=["head", "relation"])
    done = tied.join(known.select("tail", person="head", known="relation"), on=["person", "tail"])
    true = done.filter((pl.col("known") == pl.col("did")) | (pl.col("did") == ANY_EVENT))
    return frame.join(true, on=["reason", "head"], how="anti", maintain_order="left")


def _fault(reason: Reason, user_id: str, item_id: str) -> str:
    if not 0 < reason.share <= 1:
        return f"a share of {reason.share}"
    if reason.kind != "path":
        return ""
    ends = [(hop.head, hop.tail) for hop in reason.path]
    if not ends or ends[0][0] != user_id or ends[-1][1] != item_id:
        return f"a path that does not lead from {user_id} to {item_id}"
    if any(before[1] != after[0] for before, after in pairwise(ends)):
        return f"a broken path from {user_id} to {item_id}"
    return ""


def events_as_edges(rows: Iterable[tuple[str, str, str]]) -> pl.DataFrame:
    """(user, kind, item) of events in the form of `known`."""
    return pl.DataFrame(list(rows), schema=dict.fromkeys(EDGE, pl.String), orient="row")
