"""What is served: one folder with everything a server needs, opened by memory map, swapped whole.

    items, users        vocabularies
    people, user_events counts per item and user
    catalogue/          titles and attribute values
    primary/ popularity/ path_reasoner/   models
    similar_items, similar_scores   the most alike of each item, where that was cheap to find
    labels/             what people read for graph entities
    approximate         an approximate index of the primary's item vectors, if one was asked for
    segments/           popularity by one attribute of people, if a rule asks for it
    settings, rules, metrics   JSON

The manifest's meta holds the name, the time, the fingerprint of the science settings and the price.
`live_release` says which one is live.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from slipstream.artifacts import Artifact, ArtifactWriter, open_artifact, writing
from slipstream.config import Settings
from slipstream.dataset.queries import queries_of, query_of
from slipstream.dataset.snapshot import Snapshot
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.errors import UsageError
from slipstream.graph.linked_graph import LinkedGraph
from slipstream.inference.approximate_index import ApproximateIndex
from slipstream.inference.item_index import ItemIndex
from slipstream.models.recommender import (
    Embeds,
    ExplainsByHistory,
    ExplainsByPaths,
    Incremental,
    Recommender,
    Searchable,
)
from slipstream.models.registry import load_model, save_model
from slipstream.recommend.catalogue import Catalogue
from slipstream.recommend.likeness import Likeness, Lists
from slipstream.recommend.live_users import NOBODY
from slipstream.recommend.newcomers import Shelf
from slipstream.recommend.ranking import rank
from slipstream.recommend.reasons import Reasons
from slipstream.recommend.rules import Rules
from slipstream.recommend.segments import PART, Segments
from slipstream.recommend.wording import Language, Wording

KIND = "release"
APPROXIMATE, MOST_MEASURED = "approximate", 500
CURRENT = "CURRENT"
MADE_BY = "run `slipstream release` first"


class PipelineSettings(Settings):
    """How a release answers, apart from its models and rules."""

    language: Language = "en"
    verbs: dict[str, str] = Field(default_factory=dict)
    """The home's words for event kinds in reasons, e.g. {"rating": "watched"}; they must be true of them."""
    paths_per_item: int = Field(default=2, ge=0, le=20)
    history_per_item: int = Field(default=1, ge=0, le=20)
    minimum_value: float | None = None
    """Events with a smaller value (a bad rating) count as touched and are no history for the model."""
    history_limit: int = Field(default=5_000, ge=1, le=100_000)
    """The latest so many events of a user are read; older ones are neither scored nor filtered."""


@dataclass(frozen=True)
class Named:
    """A model under its registry name."""

    name: str
    model: Recommender


class Release:
    """An opened release. Parts are loaded when first asked for; `warm` loads all."""

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        self.path = artifact.path
        self.name: str = artifact.meta["name"]
        self.created_us: int = artifact.meta["created_us"]
        self.meta = artifact.meta
        self._last_reasons: tuple[Shelf, Reasons] | None = None

    @classmethod
    def open(cls, path: Path) -> Release:
        """Open and check every byte. Raises NotThere, or CorruptArtifact with the name of a changed file."""
        return cls(open_artifact(path, KIND, made_by=MADE_BY))

    def size(self) -> int:
        """Bytes on disk."""
        return self._artifact.size()

    @cached_property
    def items(self) -> Vocabulary:
        return Vocabulary.read(self._artifact, "items")

    @cached_property
    def users(self) -> Vocabulary:
        return Vocabulary.read(self._artifact, "users")

    @cached_property
    def people(self) -> NDArray[np.int32]:
        """[I] distinct users of each item when the release was made."""
        return self._artifact.array("people")

    @cached_property
    def user_events(self) -> NDArray[np.int32]:
        """[U] events of each user when the release was made."""
        return self._artifact.array("user_events")

    @cached_property
    def catalogue(self) -> Catalogue:
        return Catalogue.read(self._artifact.part("catalogue"))

    @cached_property
    def shelf(self) -> Shelf:
        """The catalogue as released, without later items."""
        return Shelf(self.items, self.catalogue)

    @cached_property
    def primary(self) -> Recommender:
        return load_model(self._artifact.part("primary"))[1]

    @cached_property
    def incremental(self) -> Incremental | None:
        """The primary model, if it keeps a state of each user."""
        primary = self.primary
        return primary if isinstance(primary, Incremental) else None

    @cached_property
    def searchable(self) -> Searchable | None:
        """The primary model, if its best items can be found without scoring all."""
        primary = self.primary
        return primary if isinstance(primary, Searchable) else None

    @cached_property
    def index(self) -> ItemIndex | ApproximateIndex | None:
        """What finds the primary's best items, where it is searchable. Raises MissingExtra."""
        if self.searchable is None:
            return None
        exact = self.searchable.index()
        if not self._artifact.has(APPROXIMATE):
            return exact
        return ApproximateIndex.read(self._artifact.file(APPROXIMATE), exact)

    @cached_property
    def popularity(self) -> Recommender:
        return load_model(self._artifact.part("popularity"))[1]

    @cached_property
    def segments(self) -> Segments | None:
        return Segments.read(self._artifact.part(PART)) if self._artifact.has(f"{PART}/part.json") else None

    @cached_property
    def by_paths(self) -> ExplainsByPaths | None:
        """The model that explains by paths: the primary if it can, else one that ships beside it."""
        if isinstance(self.primary, ExplainsByPaths):
            return self.primary
        if not self._artifact.has("path_reasoner/part.json"):
            return None
        beside = load_model(self._artifact.part("path_reasoner"))[1]
        return beside if isinstance(beside, ExplainsByPaths) else None

    @cached_property
    def settings(self) -> PipelineSettings:
        return PipelineSettings.model_validate(self._artifact.json("settings"))

    @cached_property
    def rules(self) -> Rules:
        return Rules.model_validate(self._artifact.json("rules"))

    @cached_property
    def metrics(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._artifact.json("metrics")
        return found

    @cached_property
    def labels(self) -> Mapping[str, str]:
        """What people read for graph entities whose name is not it."""
        part = self._artifact.part("labels")
        names, labels = Vocabulary.read(part, "names"), Vocabulary.read(part, "labels")
        return dict(zip(names.to_list(), labels.to_list(), strict=True))

    def reasons(self, shelf: Shelf) -> Reasons:
        """The reasons of this release, with the titles of the shelf. Kept while the shelf is the same."""
        last = self._last_reasons
        if last is None or last[0] is not shelf:
            last = self._last_reasons = shelf, self._reasons(shelf)
        return last[1]

    def _reasons(self, shelf: Shelf) -> Reasons:
        primary = self.primary

        def title(name: str) -> str | None:
            number = shelf.number(name)
            return shelf.named(number)[1] if number >= 0 else None

        return Reasons(
            by_paths=self.by_paths,
            by_history=primary if isinstance(primary, ExplainsByHistory) else None,
            people=self.people,
            segments=self.segments,
            counted=type(primary) is type(self.popularity),
            wording=Wording(self.settings.language, self.settings.verbs, title, self.labels),
        )

    @cached_property
    def likeness(self) -> Likeness:
        """How like two items are to the primary model."""
        return Likeness(self.primary)

    @cached_property
    def similar(self) -> Lists | None:
        """The most alike of every item, if they were made with the release."""
        if not self._artifact.has("similar_items.npy"):
            return None
        return self._artifact.array("similar_items"), self._artifact.array("similar_scores")

    def warm(self) -> None:
        """Load every part and answer once, so that the first caller does not wait."""
        for vocabulary in (self.items, self.users):
            vocabulary.number("")  # builds the index
        self.reasons(self.shelf).of([], NOBODY, self.shelf, "popularity")
        self.shelf.having("", ())
        _ = self.index
        for model in (self.popularity, self.primary):
            model.score(query_of([0] if len(self.items) else []))


def write_release(
    folder: Path,
    name: str,
    *,
    snapshot: Snapshot,
    primary: Named,
    popularity: Named,
    path_reasoner: Named | None = None,
    items: pl.DataFrame | None = None,
    people: pl.DataFrame | None = None,
    graph: LinkedGraph | None = None,
    metrics: Mapping[str, Any] | None = None,
    rules: Rules | None = None,
    settings: PipelineSettings | None = None,
    created_us: int | None = None,
    forgotten: int = 0,
    added_bytes: int = 0,
    compression: Mapping[str, Any] | None = None,
    approximate: bool = False,
) -> Path:
    """Write the release `folder/name` and give its path. It is not live before `promote`.

    snapshot: what the models were trained on. items: catalogue rows with `item_id`.
    people: rows with `user_id`, for the segments of the rules. graph: its labels go in,
    its edges are the path reasoner's own. forgotten: how many people had been forgotten by then.
    added_bytes: of the log of added items, that are in `items`. compression: which form of `primary` this is
    and why; it has a `rung`. approximate: with an approximate index, whose recall goes into the meta. Appears
    all at once; its price (bytes, p50 of an answer in milliseconds) is measured on the written files before.
    """
    check_name(name)
    settings, rules = settings or PipelineSettings(), rules or Rules()
    meta = {
        "name": name,
        "created_us": created_us or time.time_ns() // 1000,
        "primary": primary.name,
        "science": _science(
            primary, popularity, path_reasoner, settings, rung=(compression or {}).get("rung")
        ),
        "users": len(snapshot.users),
        "items": len(snapshot.items),
        "events": snapshot.event_count,
        "through_us": _through_us(snapshot),
        "forgotten": forgotten,
        "added_bytes": added_bytes,
    } | ({} if compression is None else {"compression": compression})
    with writing(folder / name, KIND, meta) as writer:
        snapshot.items.write(writer, "items")
        snapshot.users.write(writer, "users")
        writer.array(
            "people", np.bincount(snapshot.matrix().indices, minlength=len(snapshot.items)).astype(np.int32)
        )
        writer.array("user_events", np.diff(snapshot.offsets).astype(np.int32))
        with writer.part("catalogue", "catalogue") as part:
            Catalogue.of(snapshot.items, items).write(part)
        with writer.part("labels", "labels") as part:
            _write_labels(part, graph)
        if rules.segment and (segments := Segments.of(snapshot, people, rules.segment)) is not None:
            with writer.part(PART, PART) as part:
                segments.write(part)
        for place, named in (
            ("primary", primary),
            ("popularity", popularity),
            ("path_reasoner", path_reasoner),
        ):
            if named is not None:
                with writer.part(place, "model") as part:
                    save_model(named.name, named.model, part)
        if (lists := Likeness(primary.model).lists(len(snapshot.items))) is not None:
            writer.array("similar_items", lists[0])
            writer.array("similar_scores", lists[1])
        if approximate:
            writer.meta[APPROXIMATE] = _write_approximate(writer.file(APPROXIMATE), primary, snapshot)
        writer.json("settings", settings.model_dump(mode="json"))
        writer.json("rules", rules.model_dump(mode="json"))
        writer.json("metrics", dict(metrics or {}))
        writer.meta["price"] = _price(writer, snapshot)
    return folder / name


def _write_approximate(path: Path, primary: Named, snapshot: Snapshot) -> dict[str, float]:
    """Build and write the index; its recall on a sample of people."""
    model = primary.model
    if not isinstance(model, Searchable) or not isinstance(model, Embeds):
        raise UsageError(f"{primary.name} has no item vectors to search: an approximate index is not for it")
    index = ApproximateIndex.of(model.index(), model.item_vectors())
    index.write(path)
    users = np.flatnonzero(np.diff(snapshot.offsets))
    picked = users[np.linspace(0, len(users) - 1, min(MOST_MEASURED, len(users))).astype(np.int64)]
    queries = model.query_vectors(queries_of(snapshot, picked))
    return {f"recall@{k}": round(index.recall(queries, k), 4) for k in (10, 100)}


def _through_us(snapshot: Snapshot) -> int | None:
    """The time of the last event that was learned from; None without a clock."""
    times = snapshot.time_us
    return None if times is None or not len(times) else int(times.max())


def _science(*parts: Named | PipelineSettings | None, rung: str | None) -> str:
    """12 hex digits that change when a setting of a model, its compression or the pipeline changes."""
    prints = [
        f"{part.name}:{part.model.settings.fingerprint()}" if isinstance(part, Named) else part.fingerprint()
        for part in parts
        if part is not None
    ]
    prints += [] if rung is None else [f"rung:{rung}"]
    return hashlib.sha256("\n".join(prints).encode()).hexdigest()[:12]


def _write_labels(writer: ArtifactWriter, graph: LinkedGraph | None) -> None:
    pairs: dict[str, str] = {}
    if graph is not None and graph.graph.labels is not None:
        first = graph.item_count + graph.user_count
        for node in range(first, graph.node_count):
            name, label = graph.node_name(node), graph.node_label(node)
            if name != label:
                pairs[name] = label
    Vocabulary.of(pairs).write(writer, "names")
    Vocabulary.of(pairs.values()).write(writer, "labels")


def _price(writer: ArtifactWriter, snapshot: Snapshot, answers: int = 50) -> dict[str, float]:
    """Bytes of the release and the median milliseconds of a top-10 answer without reasons, from its files."""
    files = {
        file.relative_to(writer.path).as_posix(): {"bytes": file.stat().st_size}
        for file in writer.path.rglob("*")
        if file.is_file()
    }
    release = Release(Artifact(writer.path, writer.kind, writer.meta, files))
    users = np.flatnonzero(np.diff(snapshot.offsets))
    picked = users[np.linspace(0, len(users) - 1, min(answers, len(users))).astype(np.int64)]
    queries = queries_of(snapshot, picked)
    times_ms = []
    for number in range(len(queries)):
        start = time.perf_counter()
        rank(release.primary, queries.part(number, number + 1), 10)
        times_ms.append((time.perf_counter() - start) * 1e3)
    return {
        "bytes": release.size(),
        "p50_ms": round(float(np.median(times_ms)), 4) if times_ms else 0.0,
    }


def release_name(created_us: int) -> str:
    """A name that sorts by time: `20261124T204217.123Z`."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(created_us // 1_000_000))
    return f"{stamp}.{created_us // 1000 % 1000:03d}Z"


def check_name(name: str) -> None:
    """Raises UsageError for a name that could lead out of the folder of releases."""
    if not name or name.startswith(".") or not set(name) <= _NAME_LETTERS or name == CURRENT:
        raise UsageError(f"a release is named with letters, digits, dots, dashes and _, got {name!r}")


_NAME_LETTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
