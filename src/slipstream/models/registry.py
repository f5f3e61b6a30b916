"""The file name is the name of the model; a model is imported only when it is asked for."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from slipstream.artifacts import Artifact, ArtifactWriter
from slipstream.errors import CorruptArtifact, UnknownName
from slipstream.models import deep, kg, simple
from slipstream.models.recommender import FitReport, Recommender

_FAMILIES: tuple[ModuleType, ...] = (simple, deep, kg)
_OF_OTHERS = ("fusion", "student")  # made with other models of the registry


def model_names() -> list[str]:
    """Every model, without importing any."""
    return sorted([name for family in _FAMILIES for name in _files(family)] + [*_OF_OTHERS])


def model_type(name: str) -> type[Recommender]:
    """The class of the model `name`. Raises UnknownName with the known ones."""
    if name in _OF_OTHERS:
        return _model_of(f"slipstream.models.{name}")
    for family in _FAMILIES:
        if name in _files(family):
            return _model_of(f"{family.__name__}.{name}")
    raise UnknownName("model", name, model_names())


def _files(family: ModuleType) -> list[str]:
    """The public modules of a family; a file that starts with `_` is a part of a model, not a model."""
    return [m.name for m in pkgutil.iter_modules(family.__path__) if not m.name.startswith("_")]


def _model_of(module: str) -> type[Recommender]:
    model: type[Recommender] = importlib.import_module(module).MODEL
    return model


def save_model(name: str, model: Recommender, writer: ArtifactWriter) -> None:
    """Write the model, its settings and what training told into an artifact."""
    writer.meta.update({"model": name, "fingerprint": model.settings.fingerprint()})
    writer.json("settings", model.settings.model_dump(mode="json"))
    writer.json("training", {"curve": model.report.curve, "notes": model.report.notes})
    model.save(writer)


def load_model(artifact: Artifact) -> tuple[str, Recommender]:
    """The name and the model in an artifact written by `save_model`.

    Raises CorruptArtifact where something that this version reads is not in it.
    """
    name: str = artifact.meta["model"]
    cls = model_type(name)
    try:
        settings: Any = cls.settings_type.model_validate(artifact.json("settings"))
        model = cls.load(artifact, settings)
        model.report = FitReport(**artifact.json("training"))
    except (KeyError, TypeError, ValidationError) as error:
        raise CorruptArtifact(
            f"{artifact.path} holds a {name} of another version of slipstream",
            hint=f"train it again: slipstream train {name}",
        ) from error
    return name, model
