"""The student: a small transformer that learns what came next, and what a large model would have answered.

    loss(token) = (1 - share) · −log p(next)  +  share · Σ over the teacher's top N  of  −w_j log p(j)

The teacher is any model of the registry, a fusion too, trained first and asked through the protocol (see
`soft_labels`). What comes out is a transformer like any other: it is searched, compressed, explained and
advanced event by event, and the teacher is gone. With share 0 there is no teacher: the same student alone.

With a checkpoint folder the teacher's training, its labels and the student's training are kept in it, each
under its own name, so that a second student of the same teacher does not pay for it again.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field

from slipstream.artifacts import open_artifact, writing
from slipstream.config import Settings, fingerprint_of, with_overrides
from slipstream.errors import ConfigError, CorruptArtifact, NotThere
from slipstream.models.deep.transformer import Transformer
from slipstream.models.recommender import Earlier, FitContext, TrainingData
from slipstream.models.registry import model_type
from slipstream.models.soft_labels import Asking, soft_labels
from slipstream.models.transformer_preset import preset_of
from slipstream.training.packing import SoftLabels
from slipstream.training.transformer_settings import TransformerSettings

NAME, KIND = "student", "soft-labels"


class StudentSettings(TransformerSettings):
    """Those of the transformer that is trained, and whose answers it learns."""

    teacher: str = Field(default="transformer", description="any model but a student")
    teacher_settings: dict[str, Any] = Field(
        default_factory=dict, description="overrides of the teacher's preset"
    )
    share: float = Field(default=0.5, ge=0, le=1, description="of the loss that is the teacher's answer")
    top: int = Field(default=50, ge=1, le=1000, description="items of an answer")
    label_temperature: float = Field(default=0.5, gt=0, le=100, description="higher: flatter labels")
    questions: int = Field(default=200_000, ge=1, description="the teacher is asked so many at most")
    loss: Literal["softmax", "softmax-reference"] = "softmax"


class Student(Transformer):
    """See the module."""

    settings_type = StudentSettings

    @classmethod
    def preset(cls, data: TrainingData) -> StudentSettings:
        """Half as wide and half as deep as the transformer would be: an eighth of its layers' arithmetic."""
        full = preset_of(data)
        smaller = {
            "dim": max(32, full.dim // 2),
            "layers": max(1, full.layers // 2),
            "heads": max(1, full.heads // 2),
            "loss": "softmax",
        }
        return StudentSettings.model_validate(full.model_dump() | smaller)

    @classmethod
    def fit(cls, data: TrainingData, settings: Settings, context: FitContext) -> Self:
        """The teacher's fit, a scoring of the questions by it, and a training of the student."""
        own = StudentSettings.model_validate(settings.model_dump())
        labels, notes = _lessons(data, own, context) if own.share else (None, {})
        model = cls.learned(data, own, _context_of(context, NAME), labels=labels)
        model.report.notes.update(notes)
        return model

    @classmethod
    def fit_on(cls, data: TrainingData, settings: Settings, context: FitContext, earlier: Earlier) -> Self:
        """`fit`: what a teacher says of new events is not known before it is trained on them."""
        return cls.fit(data, settings, context)


def _lessons(
    data: TrainingData, own: StudentSettings, context: FitContext
) -> tuple[SoftLabels, dict[str, Any]]:
    """The labels, from the checkpoint folder where they are there, and what to tell of them."""
    if own.teacher == NAME:
        raise ConfigError("the teacher of a student cannot be a student", hint="for example teacher=fusion")
    kind = model_type(own.teacher)
    settings = with_overrides(kind.preset(data), own.teacher_settings)
    asking = Asking(own.top, own.questions, own.label_temperature, own.share, _is_timed(data), data.repeat)
    kept = None if context.checkpoint is None else Path(context.checkpoint) / "labels"
    fingerprint = _fingerprint(data, own, settings, context.seed)
    found = None if kept is None else _read(kept, fingerprint, own.share)
    if found is not None:
        return found
    began = time.process_time()
    teacher = kind.fit(data, settings, _context_of(context, own.teacher))
    trained = time.process_time()
    labels = soft_labels(teacher, data.train, asking, context.seed, context.progress)
    notes = {
        "teacher": own.teacher,
        "teacher_cpu_s": round(trained - began, 3),
        "labels_cpu_s": round(time.process_time() - trained, 3),
        "answered": int((labels.row >= 0).sum()),
    }
    if kept is not None:
        with writing(kept, KIND, {"fingerprint": fingerprint, "notes": notes}) as writer:
            for name in ("row", "item", "weight"):
                writer.array(name, getattr(labels, name))
    return labels, notes


def _read(folder: Path, fingerprint: str, share: float) -> tuple[SoftLabels, dict[str, Any]] | None:
    """Labels of this very teacher, or None: broken ones and those of another are made anew."""
    try:
        kept = open_artifact(folder, KIND)
    except (NotThere, CorruptArtifact):
        return None
    if kept.meta["fingerprint"] != fingerprint:
        return None
    row, item, weight = (kept.array(name) for name in ("row", "item", "weight"))
    return SoftLabels(row, item, weight, share), dict(kept.meta["notes"])


def _fingerprint(data: TrainingData, own: StudentSettings, teacher: Settings, seed: int) -> str:
    """Of all that decides the labels; the validation rows decide where a teacher stops."""
    train, holdout = data.train, data.validation
    asked = {"top", "questions", "label_temperature", "teacher"}
    digest = hashlib.sha256(fingerprint_of(own.model_dump(mode="json", include=asked)).encode())
    digest.update(f"{teacher.fingerprint()} {seed} {_is_timed(data)} {data.repeat}".encode())
    arrays = [train.offsets, train.item, train.time_us]
    arrays += [] if holdout is None else [holdout.offsets, holdout.target, holdout.queries.item]
    for features in (data.item_features, data.user_features):
        arrays += [] if features is None else [features.matrix.indices, features.matrix.data]
    if data.graph is not None:
        edges = data.graph.graph
        arrays += [data.graph.item_entity, edges.offsets, edges.relation, edges.tail]
    for array in arrays:
        digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _is_timed(data: TrainingData) -> bool:
    return data.validation is not None and data.validation.queries.now_us is not None


def _context_of(context: FitContext, part: str) -> FitContext:
    """The same, with a checkpoint folder of the part's own; only the student is watched."""

    def progress(done: int, total: int | None, note: str) -> None:
        context.progress(done, total, f"{part}: {note}")

    folder = None if context.checkpoint is None else f"{context.checkpoint}/{part}"
    watch = {"watch": context.watch} if part == NAME else {}
    return FitContext(context.seed, context.threads, progress, folder, context.device, **watch)


MODEL = Student
