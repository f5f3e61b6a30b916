"""How many items are linked, how many rightly, and how fast?

    python benchmarks/linking.py --shared DATA_FOLDER [--films movies.db]

Two gold standards: (a) MovieLens-1M titles against the entity labels of a DBpedia graph (`ml-1m-kg`, 2,983 films
among 13,805 entities), (b) the same titles against a catalogue of 17,472 films (gold: IMDb ids of
`ml-latest-small`; --films, the SQLite file of the demo, or the catalogue in the cache if it is there).

Part of gold (a) is wrong: "Game, The" (1997) is linked to "Death Proof", "Total Recall" (1990) to the film of
2012. The last columns count a gold row only if some name of its entity can be some name of the item and the
years do not differ by more than one.
"""

from __future__ import annotations

import argparse
import os
import platform
import sqlite3
import sys
import time
from pathlib import Path

import polars as pl
import rapidfuzz

from slipstream.graph.candidates import candidates_of
from slipstream.graph.construction import build, triple_facts
from slipstream.graph.linking import Links, link
from slipstream.graph.matching import LinkSettings, likeness
from slipstream.graph.titles import parse_title

TAGS = frozenset((*LinkSettings().tags, *LinkSettings().other_tags))


def main() -> None:
    options = _options()
    print(f"command: python {' '.join(sys.argv)}")
    print(
        f"machine: {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; python"
        f" {platform.python_version()}, polars {pl.__version__}, rapidfuzz {rapidfuzz.__version__}; one thread"
    )
    print(
        f"{'candidates':32} {'linked':>7} {'precision':>9} {'recall':>7} {'items/s':>8} {'per CPU s':>9}   tenable gold"
    )
    _dbpedia(options.shared / "ml-1m-kg", options.repeats)
    if options.films:
        _films(options.shared, options.films, options.repeats)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--shared", type=Path, required=True, help="folder with ml-1m-kg, ml-1m, ml-latest-small"
    )
    parser.add_argument("--films", type=Path, help="movies.db of bokeh_sampledata 2026.1")
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def _dbpedia(folder: Path, repeats: int) -> None:
    labels = pl.read_parquet(folder / "entities.parquet").select(pl.col("entity_id").alias("id"), "label")
    graph = build(
        [triple_facts(pl.read_parquet(folder / "kg.parquet"), labels=labels.rename({"id": "name"}))]
    ).graph
    facts = candidates_of(graph).select("id", "facts")
    items = pl.read_parquet(folder / "items.parquet")
    gold = pl.read_parquet(folder / "item_links.parquet")
    _measure("(a) entity labels", items, labels, gold, repeats)
    _measure("(a) entity labels and facts", items, labels.join(facts, on="id", how="left"), gold, repeats)


def _films(shared: Path, films: Path, repeats: int) -> None:
    with sqlite3.connect(films) as connection:
        rows = connection.execute("select imdbID, Title, Year from omdb").fetchall()
    catalogue = pl.DataFrame(
        rows, schema={"id": pl.String, "label": pl.String, "year": pl.Int64}, orient="row"
    )
    items = pl.read_parquet(shared / "ml-1m" / "items.parquet")
    known = pl.read_parquet(shared / "ml-latest-small" / "items.parquet").filter(
        pl.col("imdb_id").is_not_null()
    )
    gold = known.select("item_id", (pl.lit("tt") + pl.col("imdb_id")).alias("entity_id"))
    gold = gold.join(items.select("item_id"), on="item_id", how="semi")
    gold = gold.join(catalogue.select(pl.col("id").alias("entity_id")).unique(), on="entity_id", how="semi")
    _measure("(b) film catalogue", items, catalogue, gold, repeats)


def _measure(
    name: str, items: pl.DataFrame, candidates: pl.DataFrame, gold: pl.DataFrame, repeats: int
) -> None:
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        links = link(items, candidates)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    precision, recall, linked = _score(links, gold)
    fair = _tenable(items, candidates, gold)
    _, fair_recall, _ = _score(links, fair)
    print(
        f"{name:32} {linked:7} {precision:9.4f} {recall:7.4f} {items.height / sorted(walls)[repeats // 2]:8.0f}"
        f" {items.height / sorted(cpus)[repeats // 2]:9.0f}   recall {fair_recall:.4f} of {fair.height} of {gold.height}"
    )


def _score(links: Links, gold: pl.DataFrame) -> tuple[float, float, int]:
    """(precision, recall, links of items with gold)."""
    both = links.links.join(gold.rename({"entity_id": "gold"}), on="item_id")
    right = int((both["entity_id"] == both["gold"]).sum())
    return right / max(1, both.height), right / max(1, gold.height), both.height


def _tenable(items: pl.DataFrame, candidates: pl.DataFrame, gold: pl.DataFrame) -> pl.DataFrame:
    """The rows of gold that title and year do not contradict."""
    labels = candidates.unique("id", keep="first").select(
        pl.col("id").alias("entity_id"), "label", *(["year"] if "year" in candidates.columns else [])
    )
    year = "release_year" if "release_year" in items.columns else "year"
    rows = gold.join(items.select("item_id", "title", pl.col(year).alias("item_year")), on="item_id")
    rows = rows.join(labels, on="entity_id")
    keep = [
        _can_be(r["title"], r["item_year"], r["label"], r.get("year")) for r in rows.iter_rows(named=True)
    ]
    return rows.filter(pl.Series(keep)).select("item_id", "entity_id")


def _can_be(title: str, year: int | None, label: str, label_year: int | None) -> bool:
    one, other = parse_title(title, TAGS), parse_title(label, TAGS)
    when = label_year or other.year
    if year and when and abs(year - when) > 1:
        return False
    near = rapidfuzz.fuzz.ratio(one.bare, other.bare) >= 85 and one.numbers == other.numbers
    return near or likeness(one, other)[0] > 0


if __name__ == "__main__":
    main()
