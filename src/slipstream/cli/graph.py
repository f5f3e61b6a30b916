"""Commands of the knowledge graph: add, links, report, suggest, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from slipstream.cli.console import Printing, out, print_table
from slipstream.cli.options import HomeOption, workspace

graph = typer.Typer(help="Add to the knowledge graph, look at it, take it out.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(graph, name="graph", rich_help_panel="1 · collect")


@graph.command()
def add(
    file: Annotated[Path, typer.Argument(help="TSV, CSV, Parquet, .kg, .nt or .ttl.")],
    home: HomeOption = None,
    of: Annotated[
        Literal["triples", "links", "corrections", "people", "entities"],
        typer.Option(
            help="triples: head, relation, tail, or N-Triples or Turtle. links: item_id, entity_id. "
            "people: edges between two user ids. "
            "corrections: links that win over all others; an empty entity_id forbids a link. "
            "entities: another catalogue, linked to items by title and year."
        ),
    ] = "triples",
    id_column: Annotated[str, typer.Option("--id", help="For entities: the column of their id.")] = "id",
    kind: Annotated[str, typer.Option(help="For entities: what they are, e.g. film.")] = "entity",
    relation: Annotated[str, typer.Option(help="For people: the name of the edges.")] = "friend",
) -> None:
    """Add triples, links or another catalogue; they count from the next `slipstream prepare` on."""
    space = workspace(home)
    if of == "triples":
        added = space.add_triples(file)
        rows = added.triples
        if added.rejected:
            out.print(f"{sum(added.rejected.values()):,} lines are no triples; the first: {added.first}")
    elif of == "people":
        rows = space.add_people_edges(file, relation)
    elif of in ("links", "corrections"):
        rows = space.add_links(file, by_hand=of == "corrections")
    else:
        rows = space.add_entities(file, id_column=id_column, kind=kind)
    out.print(f"{rows:,} rows of {of} kept; run `slipstream prepare` to build the graph")


@graph.command()
def links(
    home: HomeOption = None,
    below: Annotated[
        float, typer.Option(min=0, max=1, help="Show links with less confidence than this.")
    ] = 0.95,
    limit: Annotated[int, typer.Option(min=1, help="At most so many of each.")] = 20,
) -> None:
    """List doubtful links, and items that could not be linked with the nearest candidates."""
    from slipstream.loop.knowledge import read_links

    found, unlinked = read_links(workspace(home).home)
    doubtful = found.filter(found["confidence"] < below).sort("confidence").head(limit)
    print_table("doubtful links", doubtful.columns, [list(row) for row in doubtful.iter_rows()])
    shown = unlinked.head(limit)
    rows = [[str(cell) if cell is not None else None for cell in row] for row in shown.iter_rows()]
    print_table(f"not linked ({unlinked.height:,} items)", shown.columns, rows)


@graph.command()
def report(home: HomeOption = None) -> None:
    """Show how the graph was built: what became of each column, what was merged, dropped, linked."""
    from slipstream.artifacts import open_artifact
    from slipstream.loop.knowledge import KIND, MADE_BY

    artifact = open_artifact(workspace(home).home.graph, KIND, made_by=MADE_BY)
    out.print(json.dumps(artifact.json("report"), indent=1, ensure_ascii=False), markup=False)


@graph.command()
def suggest(
    home: HomeOption = None,
    relation: Annotated[str | None, typer.Option(help="Only edges of this relation.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 20,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the edges.")] = 20,
    seed: Annotated[int, typer.Option(help="Of chance.")] = 0,
) -> None:
    """List edges that are likely missing, and how well such guesses find edges that were held back."""
    from slipstream.loop.suggesting import suggest as suggest_edges

    space = workspace(home)
    found = suggest_edges(
        space.home, relation=relation, limit=limit, epochs=epochs, seed=seed, narrator=Printing()
    )
    shown = found.edges.select("head_label", "relation", "tail_label", "confidence")
    print_table("likely missing edges", shown.columns, [list(row) for row in shown.iter_rows()])
    told = ", ".join(f"{name} {found.measured[name]:.3f}" for name in ("MRR", "Hits@1", "Hits@10"))
    out.print(f"of {found.held_back:,} edges held back, ranked among all entities: {told}")


@graph.command()
def export(
    folder: Annotated[Path, typer.Argument(help="The folder to write kg.parquet and item_links.parquet to.")],
    home: HomeOption = None,
    recbole: Annotated[
        bool, typer.Option("--recbole", help="Write RecBole's .kg and .link instead.")
    ] = False,
) -> None:
    """Write the graph with the relations learned from behaviour: every hop of every reason is in it."""
    from slipstream.loop.exporting import export_graph

    counts = export_graph(workspace(home).home, folder, recbole=recbole)
    out.print(f"{counts.edges:,} edges and {counts.links:,} links written to {folder}")
