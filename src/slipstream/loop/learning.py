"""Train a model for serving: on everything the home knows, chosen on each user's last event."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slipstream.artifacts import open_artifact, writing
from slipstream.cluster.threads import blas_threads
from slipstream.config import Home, launch, thread_count
from slipstream.dataset.snapshot import Snapshot
from slipstream.dataset.validation import hold_out_last
from slipstream.errors import NotThere, UnknownName
from slipstream.evaluation.stages import versions
from slipstream.evaluation.trial import settings_for
from slipstream.features.items import item_features
from slipstream.features.users import user_features
from slipstream.loop.knowledge import open_graph
from slipstream.loop.narrator import Narrator
from slipstream.loop.tables import read_table_of
from slipstream.models.recommender import (
    Continues,
    Earlier,
    FitContext,
    Recommender,
    TrainingData,
    refit,
    refits,
)
from slipstream.models.registry import load_model, model_names, model_type, save_model
from slipstream.models.validation import validation_ndcg
from slipstream.recommend.release import Release
from slipstream.recommend.rules import read_rules

KIND = "model"


@dataclass(frozen=True)
class Trained:
    """A model that was trained and kept."""

    model: str
    path: Path
    ndcg: float | None  # NDCG@10 on each user's last event, before the refit; None without a holdout
    cpu_s: float
    wall_s: float
    curve: list[dict[str, float]]
    settings: Mapping[str, Any]
    warm: bool = False  # it went on from an earlier model

    def lines(self) -> list[str]:
        value = "not measured" if self.ndcg is None else f"{self.ndcg:.4f}"
        return [f"{self.model}: validation NDCG@10 {value}, {self.cpu_s:.1f} CPU s, {self.wall_s:.1f} s"]


def training_data(home: Home, seed: int = 0, goal: str | None = None) -> tuple[Snapshot, TrainingData]:
    """(the whole snapshot, what a model trains on while its settings are chosen)."""
    snapshot = Snapshot.open(home.snapshot)
    # what was only looked at can still be bought
    repeat = goal is not None or read_rules(home.root).come_again
    train, validation = hold_out_last(snapshot, seed=seed, goal=goal, repeat=repeat)
    data = TrainingData(
        train,
        validation,
        item_features=item_features(read_table_of(home, "items"), snapshot.items),
        user_features=user_features(read_table_of(home, "users"), snapshot.users),
        graph=open_graph(home, snapshot),
        repeat=repeat,
    )
    return snapshot, data


def train(
    home: Home,
    name: str,
    overrides: Mapping[str, Any],
    seed: int,
    goal: str | None,
    device: str,
    narrator: Narrator,
    earlier: Release | None = None,
) -> Trained:
    """Choose on each user's last event; closed-form and count models are then fitted again on everything.

    earlier: a release whose model a training may go on from, where the model can (`Continues`).
    Trainings that keep checkpoints go on where a killed run stopped.
    """
    kind = model_type(name)
    wall, cpu = time.perf_counter(), time.process_time()
    snapshot, data = training_data(home, seed, goal)
    if goal is not None and goal not in snapshot.kinds:
        raise UnknownName("kind of event in the snapshot", goal, snapshot.kinds)
    settings = settings_for(kind.preset(data), name, overrides)
    checkpoint = home.models / f".{name}-{settings.fingerprint()}-{seed}.checkpoint"
    with narrator.progress(f"train {name}") as progress, blas_threads():
        context = FitContext(seed, thread_count(), progress, str(checkpoint), device)
        if earlier is not None and issubclass(kind, Continues):
            model = kind.fit_on(data, settings, context, _earlier(earlier, snapshot))
        else:
            model = kind.fit(data, settings, context)
        ndcg = None if data.validation is None else validation_ndcg(model.score, data.validation)
        if refits(model):
            whole = replace(data, train=snapshot, validation=None)
            model = refit(model, whole, context)
    cost = (time.process_time() - cpu, time.perf_counter() - wall)
    meta = {
        "validation_ndcg": ndcg,
        "cpu_s": cost[0],
        "wall_s": cost[1],
        "seed": seed,
        "goal": goal,
        "snapshot": snapshot_mark(home),
        "environment": environment(device),
    }
    if launch().rank == 0:
        with writing(home.models / name, KIND, meta) as writer:
            save_model(name, model, writer)
        shutil.rmtree(checkpoint, ignore_errors=True)
    dump = model.settings.model_dump(mode="json")
    warm = bool(model.report.notes.get("warm_start"))
    return Trained(name, home.models / name, ndcg, *cost, list(model.report.curve), dump, warm)


def _earlier(release: Release, snapshot: Snapshot) -> Earlier:
    return Earlier(
        release.primary,
        release.items.numbers(snapshot.items.series("item_id")),
        release.users.numbers(snapshot.users.series("user_id")),
    )


def environment(device: str) -> dict[str, Any]:
    """Where a model was trained: with it, the settings and the seed, the run can be repeated to the bit."""
    return {
        "versions": versions(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "threads": thread_count(),
        "processes": launch().processes,
        "device": device,
    }


def snapshot_mark(home: Home) -> str:
    """12 hex digits that change when the snapshot does: a model belongs to one snapshot."""
    artifact = open_artifact(home.snapshot, "snapshot", made_by="run `slipstream prepare` first")
    return str(artifact.files["item.npy"]["sha256"])[:6] + str(artifact.files["offsets.npy"]["sha256"])[:6]


def trained_models(home: Home) -> dict[str, Mapping[str, Any]]:
    """The models of the home by name, with what training told."""
    if not home.models.exists():
        return {}
    known = set(model_names())
    folders = sorted(p for p in home.models.iterdir() if p.is_dir() and p.name in known)
    return {p.name: open_artifact(p, KIND).meta for p in folders}


def trained_model(home: Home, name: str) -> Recommender:
    """A trained model of the home. Raises NotThere if it is not trained, or on an older snapshot."""
    path = home.models / name
    artifact = open_artifact(path, KIND, made_by=f"run `slipstream train {name}` first")
    if artifact.meta["snapshot"] != snapshot_mark(home):
        raise NotThere(
            f"{name} was trained on an older snapshot", hint=f"run `slipstream train {name}` again"
        )
    return load_model(artifact)[1]
