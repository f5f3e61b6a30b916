"""Take the graph out: every edge a reason can name, with outside names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import polars as pl

from slipstream.config import Home
from slipstream.dataset.snapshot import Snapshot
from slipstream.errors import NotThere
from slipstream.graph.interchange import write_recbole
from slipstream.loop.knowledge import MADE_BY, open_graph
from slipstream.loop.tables import write_parquet
from slipstream.recommend.live_release import current_release
from slipstream.recommend.release import Release


@runtime_checkable
class ExportsEdges(Protocol):
    """A model with relations of its own (`similar_to`, `next`)."""

    def exported_edges(self) -> pl.DataFrame:
        """head, relation, tail of every edge that its paths can use."""
        ...


@dataclass(frozen=True)
class Exported:
    edges: int
    links: int


def export_graph(home: Home, folder: Path, *, recbole: bool = False) -> Exported:
    """Write kg.parquet (head, relation, tail) and item_links.parquet (item_id, entity_id) to `folder`.

    recbole: write the same as RecBole's atomic files instead, FOLDER.kg and FOLDER.link in `folder`.

    The edges are those of the live release's path model where there is one, so that each hop of each reason
    is among them, and those of the home's graph. Relations run both ways (`director`, `is_director_of`).
    """
    release = _live_release(home)
    snapshot = Snapshot.open(home.snapshot) if home.snapshot.exists() else None
    edges = known_edges(home, snapshot, release)
    if not edges.height:
        raise NotThere(f"there is no graph in {home.root}", hint=MADE_BY)
    items: list[str] = []
    for holder in (release, snapshot):
        items = items or ([] if holder is None else holder.items.to_list())
    ends = pl.concat([edges["head"], edges["tail"]]).unique()
    links = pl.DataFrame({"item_id": pl.Series(items, dtype=pl.String)}).filter(
        pl.col("item_id").is_in(ends.implode())
    )
    links = links.with_columns(entity_id="item_id")
    if recbole:
        write_recbole(folder, folder.resolve().name, edges, links)
    else:
        write_parquet(edges, folder / "kg.parquet")
        write_parquet(links, folder / "item_links.parquet")
    return Exported(edges.height, links.height)


def known_edges(home: Home, snapshot: Snapshot | None, release: Release | None) -> pl.DataFrame:
    """head, relation, tail of every edge that a reason of the release may name, with outside names."""
    none = pl.DataFrame(schema=dict.fromkeys(("head", "relation", "tail"), pl.String))
    parts = [none]
    reasoner: object = None if release is None else release.by_paths
    if isinstance(reasoner, ExportsEdges):
        parts.append(reasoner.exported_edges().select(none.columns))
    linked = None if snapshot is None else open_graph(home, snapshot)
    if linked is not None:
        parts.append(linked.export().select(none.columns))
    return pl.concat(parts).unique(maintain_order=True)


def _live_release(home: Home) -> Release | None:
    try:
        return Release.open(current_release(home))
    except NotThere:
        return None
