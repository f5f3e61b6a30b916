"""The labels that a teacher gives, and what a student makes of them."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from slipstream.config import with_overrides
from slipstream.dataset.queries import query_of
from slipstream.dataset.snapshot import snapshot_of
from slipstream.errors import ConfigError, UnknownName
from slipstream.models.recommender import FitContext, TrainingData
from slipstream.models.registry import model_type
from slipstream.models.soft_labels import Asking, soft_labels
from slipstream.models.student import Student

ITEMS = 12


def walks(people=40, *, ordered=True):
    """Everybody walks around a circle of items, one or two places at a time."""
    random = np.random.default_rng(5)
    rows = []
    for person in range(people):
        place = person
        for step in range(4 + person % 5):
            rows.append((f"u{person:02}", f"i{place % ITEMS:02}", person + 100 * step))
            place += int(random.integers(1, 3))
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "time_us"], orient="row")
    return snapshot_of(frame if ordered else frame.drop("time_us"), ordered=ordered)


def neighbours(train):
    kind = model_type("item_neighbours")
    data = TrainingData(train)
    return kind.fit(data, kind.preset(data), FitContext())


def settings_of(train, **changes):
    quick = {
        "dim": 16, "layers": 1, "heads": 2, "attention_window": 8, "max_length": 16, "epochs": 30,
        "batch_tokens": 128, "shards": 1, "lr": 0.01, "table_lr": 0.01, "dropout": 0.0,
        "attention_dropout": 0.0, "precision": "float32", "teacher": "item_neighbours", "top": 4,
    }  # fmt: skip
    return with_overrides(Student.preset(TrainingData(train)), quick | changes)


@pytest.mark.parametrize("ordered", [True, False])
def test_labels_are_the_teachers_best_unseen_items_after_every_event(ordered):
    train = walks(ordered=ordered)
    teacher = neighbours(train)
    labels = soft_labels(teacher, train, Asking(top=3, most=10_000, temperature=0.5, share=0.5), 0)
    asked = 0
    for user in range(train.user_count):
        start, end = train.offsets[user], train.offsets[user + 1]
        for event in range(start, end):
            row = labels.row[event]
            if ordered and event == end - 1:
                assert row == -1  # what came next is not known, so nothing is learned there
                continue
            until = event + 1 if ordered else end
            history = train.item[start:until].tolist()
            times = train.time_us[start:until].tolist() if ordered else None
            scores = teacher.score(query_of(history, user=user, times_us=times))[0]
            scores[history] = np.nan
            expected = [i for i in np.argsort(-scores, kind="stable") if np.isfinite(scores[i])][:3]
            if not expected:
                assert row == -1
                continue
            there = labels.weight[row] > 0
            assert labels.item[row][there].tolist() == expected
            weights = labels.weight[row][there]
            assert abs(weights.sum() - 1) < 1e-5
            ratio = (scores[expected[0]] - scores[expected]).astype(np.float64)
            if len(expected) > 2 and ratio[1] > 1e-3:  # log weights fall in proportion to the scores
                np.testing.assert_allclose(
                    np.log(weights[0] / weights[2]) / np.log(weights[0] / weights[1]),
                    ratio[2] / ratio[1],
                    rtol=1e-3,
                )
            asked += 1
    assert asked > 100


def test_a_sample_of_questions_is_as_large_as_it_may_be_and_seeded():
    train = walks()
    asking = Asking(top=3, most=25, temperature=0.5, share=0.5)
    first, again, other = (soft_labels(neighbours(train), train, asking, seed) for seed in (0, 0, 1))
    assert (first.row >= 0).sum() == 25
    np.testing.assert_array_equal(first.row, again.row)
    assert (first.row != other.row).any()


def test_a_student_of_nothing_but_its_teacher_answers_like_it():
    """Asked what it was taught: its first places are the teacher's, far more than alone."""
    train = walks()
    labels = soft_labels(neighbours(train), train, Asking(top=1, most=10_000, temperature=0.5, share=1.0), 0)
    agreed = {}
    for share in (0.0, 1.0):
        student = Student.fit(
            TrainingData(train), settings_of(train, share=share, top=1, epochs=80), FitContext()
        )
        same = []
        for event in np.flatnonzero(labels.row >= 0)[::3]:
            start = train.offsets[np.searchsorted(train.offsets, event, side="right") - 1]
            history, times = train.item[start : event + 1], train.time_us[start : event + 1]
            scores = student.score(query_of(history.tolist(), times_us=times.tolist()))[0]
            scores[history] = -np.inf
            same.append(scores.argmax() == labels.item[labels.row[event], 0])
        agreed[share] = np.mean(same)
    assert agreed[1.0] > 0.9
    assert agreed[1.0] > agreed[0.0] + 0.2


def test_without_a_share_it_is_the_transformer_alone():
    train = walks()
    settings = settings_of(train, share=0.0, epochs=2)
    student = Student.fit(TrainingData(train), settings, FitContext())
    kind = model_type("transformer")
    own = {name: getattr(settings, name) for name in kind.settings_type.model_fields}
    alone = kind.fit(TrainingData(train), kind.settings_type(**own), FitContext())
    query = query_of([1, 2], times_us=[0, 100])
    np.testing.assert_array_equal(student.score(query), alone.score(query))


def test_a_second_student_finds_the_labels_of_the_first(tmp_path: Path):
    train, lines = walks(), []

    def told(done, total, note):
        lines.append(note)

    def student(**changes):
        lines.clear()
        settings = settings_of(train, epochs=2, **changes)
        context = FitContext(progress=told, checkpoint=str(tmp_path))
        model = Student.fit(TrainingData(train), settings, context)
        return model.score(query_of([1, 2], times_us=[0, 100])), "asking the teacher" in lines

    first, asked = student()
    assert asked
    again, asked = student()
    assert not asked
    np.testing.assert_array_equal(first, again)
    assert student(top=2)[1], "other labels are other questions"
    weights = tmp_path / "labels" / "weight.npy"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    asked = student(top=2)[1]
    assert asked, "labels with a changed byte are made anew"


@pytest.mark.parametrize(("teacher", "error"), [("student", ConfigError), ("nobody", UnknownName)])
def test_a_teacher_must_be_another_model_that_exists(teacher, error):
    train = walks()
    with pytest.raises(error):
        Student.fit(TrainingData(train), settings_of(train, teacher=teacher), FitContext())
