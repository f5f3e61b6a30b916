"""A home folder as an object: every step of the loop is a method, and every command calls one of them.

    home = slipstream.open("shop-home")
    home.ingest("events.csv")            collect
    home.catalogue("items.csv")
    home.prepare()                       preprocess, features, graph
    home.train("transformer")            train
    home.evaluate(["transformer"])       evaluate
    home.release("transformer")          release
    home.recommend("u42")                recommend

Sources may be files or frames (Polars, pandas, Arrow). A step that changes the home holds its lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from slipstream.config import Home, home_folder, launch
from slipstream.dataset.cleaning import CleaningRules
from slipstream.events.event import DEFAULT_KIND
from slipstream.events.frames import to_polars
from slipstream.events.importers import ColumnChoice, IngestReport, read_table
from slipstream.events.sqlite import SqliteEventStore
from slipstream.events.tables import has_types
from slipstream.loop.home_lock import writing_home
from slipstream.loop.narrator import Narrator, Silent
from slipstream.loop.tables import Of, TableReport, add_rows
from slipstream.recommend.rules import Rules

if TYPE_CHECKING:
    from slipstream.evaluation.price import Price
    from slipstream.evaluation.suite import Suite
    from slipstream.graph.knowledge_graph import KnowledgeGraph
    from slipstream.loop.knowledge import TripleFile
    from slipstream.loop.learning import Trained
    from slipstream.loop.preparing import Prepared
    from slipstream.loop.releasing import Released
    from slipstream.recommend.pipeline import Pipeline
    from slipstream.recommend.release import PipelineSettings
    from slipstream.recommend.slate import Slate

Source = str | Path | Any
"""A file, or a Polars, pandas or Arrow frame."""


class Workspace:
    """Everything one can do with a home folder. Opening it reads and writes nothing."""

    def __init__(self, home: str | Path | None = None, *, narrator: Narrator | None = None) -> None:
        self.home: Home = home_folder(home)
        self.narrator: Narrator = narrator or Silent()

    # collect

    def ingest(
        self,
        source: Source,
        *,
        user: str | None = None,
        item: str | None = None,
        time: str | None = None,
        value: str | None = None,
        kind: str | None = None,
        default_kind: str = DEFAULT_KIND,
    ) -> IngestReport:
        """Append events; the same events again change nothing. Bad rows land in `rejects/`, counted.

        user … kind: names of columns, where the guess is wrong. default_kind: of rows without a kind.
        """
        from slipstream.events import importers

        columns = ColumnChoice(user, item, time, value, kind, default_kind=default_kind)
        self.home.root.mkdir(parents=True, exist_ok=True)
        with self.store() as store, self.narrator.progress("ingest") as progress:
            if isinstance(source, str | Path):
                return importers.ingest(
                    Path(source), store, columns, rejects=self.home.rejects, progress=progress
                )
            return importers.ingest_frame(
                source, store, columns, rejects=self.home.rejects, progress=progress
            )

    def catalogue(self, source: Source, *, of: Of = "items", id_column: str | None = None) -> TableReport:
        """Add attributes of items (or, with of="users", of people); a later row replaces an earlier one."""
        with writing_home(self.home, "catalogue"):
            untyped = isinstance(source, str | Path) and not has_types(Path(source))
            return add_rows(self.home, of, _frame(source), id_column, untyped=untyped)

    def add_triples(self, source: Source) -> TripleFile:
        """Add triples (head, relation, tail) to the knowledge graph. Counts from the next `prepare` on.

        A path may be a text table, Parquet, RecBole `.kg`, N-Triples or Turtle; a NetworkX graph counts too.
        """
        from slipstream.graph.knowledge_graph import KnowledgeGraph
        from slipstream.loop import knowledge

        if hasattr(source, "nodes") and hasattr(source, "edges"):
            source = KnowledgeGraph.from_networkx(source).triples()
        with writing_home(self.home, "graph"):
            if isinstance(source, str | Path):
                return knowledge.add_triple_file(self.home, Path(source))
            return knowledge.TripleFile(knowledge.add_triples(self.home, _frame(source)), {}, "")

    def add_people_edges(self, source: Source, relation: str = "friend") -> int:
        """Add edges between people: the first two columns are user ids."""
        from slipstream.loop import knowledge

        with writing_home(self.home, "graph"):
            return knowledge.add_people_edges(self.home, _frame(source), relation)

    def add_links(self, source: Source, *, by_hand: bool = False) -> int:
        """Add links (item_id, entity_id) between items and entities of the triples.

        by_hand: they win over all others, and one with an empty entity_id forbids every link of its item.
        """
        from slipstream.loop import knowledge

        with writing_home(self.home, "graph"):
            return knowledge.add_links(self.home, _frame(source), by_hand=by_hand)

    def add_entities(self, source: Source, *, id_column: str, kind: str) -> int:
        """Add another catalogue (films, books, …) that items are linked to by title and year."""
        from slipstream.loop import knowledge

        with writing_home(self.home, "graph"):
            return knowledge.add_entities(self.home, _frame(source), id_column, kind)

    # preprocess, features, graph

    def graph(self) -> KnowledgeGraph:
        """The knowledge graph that `prepare` built; `graph().to_networkx()` takes it out."""
        from slipstream.loop.knowledge import read_graph

        return read_graph(self.home)

    def prepare(self, rules: CleaningRules | None = None) -> Prepared:
        """Clean the events into a snapshot, and build features and graph."""
        from slipstream.loop.preparing import prepare

        with writing_home(self.home, "prepare"):
            return prepare(self.home, rules or CleaningRules(), self.narrator)

    # train, evaluate

    def train(
        self,
        model: str,
        *,
        overrides: Mapping[str, Any] | None = None,
        seed: int = 0,
        goal: str | None = None,
        device: str = "cpu",
    ) -> Trained:
        """Train a model of the registry on the snapshot and keep it in the home.

        Of several processes that `torchrun` started, the first one holds the lock and writes.
        """
        from slipstream.loop.learning import train

        first = launch().rank == 0
        with writing_home(self.home, f"train {model}") if first else nullcontext():
            return train(self.home, model, overrides or {}, seed, goal, device, self.narrator)

    def evaluate(
        self,
        models: Sequence[str],
        *,
        boards: Sequence[str] | None = None,
        overrides: Mapping[str, Any] | None = None,
        seed: int = 0,
        k: int = 10,
        goal: str | None = None,
        processes: int = 1,
        features_off: Sequence[str] = (),
    ) -> Suite:
        """Train the models on the past of each board and measure them on what followed, side by side.

        features_off: models that also run without item and user features, to see what those are worth.
        boards: `temporal` by default; where events have no time `loo`, where they have no order `split`.
        processes: boards at a time, each in a process of its own with one thread.
        """
        from slipstream.loop.measuring import Plan, boards_for, evaluate

        plan = Plan(tuple(models), dict(overrides or {}), seed, k, goal, tuple(features_off))
        return evaluate(self.home, plan, boards or boards_for(self.home), processes, self.narrator)

    # release, recommend

    def release(
        self,
        model: str | None = None,
        *,
        name: str | None = None,
        rules: Rules | None = None,
        pipeline: PipelineSettings | None = None,
        promote: bool = True,
        budget: str | None = None,
        approximate: bool = False,
    ) -> Released:
        """Put everything a server needs into one folder; by default the best trained model, and go live.

        pipeline: the language and the words of reasons, how many of each kind, and more. budget: such as
        "ndcg>=-0.5%,size<=20MB,p99<=2ms"; the smallest form of the model that keeps it is released, and
        OverBudget is raised where none does. approximate: search with an approximate index (extra
        `approximate`), for catalogues of tens of millions of items.
        """
        from slipstream.evaluation.budget import parse_budget
        from slipstream.loop.releasing import make_release

        limits = None if budget is None else parse_budget(budget)
        with writing_home(self.home, "release"):
            return make_release(
                self.home,
                model,
                name,
                rules,
                pipeline,
                promote,
                self.narrator,
                limits,
                approximate=approximate,
            )

    def price(self, model: str = "transformer") -> Price:
        """What each form of a trained model saves and costs, on the events that it was chosen on."""
        from slipstream.loop.pricing import price_home

        return price_home(self.home, model)

    def pipeline(self) -> Pipeline:
        """The live release, opened: the object that the server serves."""
        from slipstream.loop.releasing import open_pipeline

        return open_pipeline(self.home)

    def recommend(self, user_id: str | int, k: int = 10, *, explain: bool = True) -> Slate:
        """One slate from the live release. For many, keep `pipeline()` open. Ids are text; 7 is "7"."""
        from slipstream.recommend.pipeline import Request

        return self.pipeline().recommend(Request(user_id=str(user_id), k=k, explain=explain))

    def store(self) -> SqliteEventStore:
        """The event store of the home; use it in a `with` block."""
        return SqliteEventStore(self.home.events)

    def forget(self, user_id: str | int) -> int:
        """Remove a person's events, live state and attributes. Returns the events removed."""
        from slipstream.loop.forgetting import forget

        with writing_home(self.home, "forget"):
            return forget(self.home, str(user_id))


def _frame(source: Source) -> pl.DataFrame:
    if isinstance(source, str | Path):
        return read_table(Path(source))
    return to_polars(source).collect()
