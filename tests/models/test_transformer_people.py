"""What is known of a person, told to the transformer: two kinds of people walk a circle in two directions."""

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

pytest.importorskip("torch")

from slipstream.artifacts import open_artifact, writing
from slipstream.compression.quantization import RUNGS, compressed
from slipstream.dataset.queries import queries_of, query_of
from slipstream.dataset.snapshot import snapshot_of
from slipstream.features.users import UserFeatures
from slipstream.models.deep.transformer import Transformer
from slipstream.models.recommender import FitContext, TrainingData
from slipstream.models.registry import load_model, save_model
from slipstream.training.transformer_settings import TransformerSettings

USERS, CYCLE, FORWARD, BACKWARD = 480, 12, 0, 1
PERSON = (0, CYCLE)  # a user who goes forward, and one who goes backward


def settings(**more):
    base = {
        "dim": 16, "attention_window": 8, "max_length": 20, "epochs": 30, "batch_tokens": 128, "shards": 2,
        "dropout": 0.0, "attention_dropout": 0.0, "lr": 1e-2, "table_lr": 1e-2, "people": True,
    }  # fmt: skip
    return TransformerSettings(**{**base, **more})


@pytest.fixture(scope="module")
def data():
    """A kind goes forward, the other backward; two events only, so that the history never tells which."""
    kind = np.arange(USERS) // CYCLE % 2
    rows = [
        (f"u{u:04}", f"i{(u + (n if kind[u] == FORWARD else -n)) % CYCLE:02}", n * 1_000_000)
        for u in range(USERS)
        for n in range(2)
    ]
    snapshot = snapshot_of(pl.DataFrame(rows, schema=["user_id", "item_id", "time_us"], orient="row"))
    kind[-2:] = -1  # of the last two nothing is known
    known = np.flatnonzero(kind >= 0)
    matrix = sp.csr_matrix((np.ones(len(known), np.float32), (known, kind[known])), shape=(USERS, 2))
    return TrainingData(snapshot, user_features=UserFeatures(matrix, ("goes=forward", "goes=backward")))


@pytest.fixture(scope="module")
def model(data):
    return Transformer.fit(data, settings(), FitContext())


def answer(model, item, user):
    """The best item but the one just seen."""
    scores = model.score(query_of([item], user=user))[0]
    scores[item] = -np.inf
    return int(np.argmax(scores))


def test_the_person_decides_where_the_history_does_not(model):
    for item in range(CYCLE):
        assert answer(model, item, PERSON[FORWARD]) == (item + 1) % CYCLE
        assert answer(model, item, PERSON[BACKWARD]) == (item - 1) % CYCLE


def test_of_a_stranger_nothing_is_added(model):
    """Someone never met, and someone met of whom nothing is known, get the same scores."""
    stranger, unknown = (model.score(query_of([5], user=user))[0] for user in (-1, USERS - 1))
    assert np.array_equal(stranger, unknown)
    forward = model.score(query_of([5], user=PERSON[FORWARD]))[0]
    assert abs(stranger[6] - stranger[4]) < (forward[6] - forward[4]) / 2
    assert np.array_equal(stranger, model.score(query_of([5], user=10**6))[0])


def test_the_live_state_and_the_parts_of_the_history_know_the_person(model):
    query = query_of([5, 6], user=PERSON[BACKWARD], times_us=[0, 10**6])
    state = model.start(query_of([5], user=PERSON[BACKWARD], times_us=[0]))
    model.advance(state, 6, 10**6)
    assert np.allclose(model.score_from(state, query), model.score(query), atol=1e-5)
    parts = model.contributions(query, np.arange(CYCLE, dtype=np.int32))
    without = model.score(query_of([5], user=PERSON[BACKWARD], times_us=[0]))[0]
    assert np.allclose(parts[:, 1], model.score(query)[0] - without, atol=1e-4)


def test_saved_loaded_and_quantized_it_still_knows_the_person(model, data, tmp_path):
    queries = queries_of(data.train, np.arange(USERS))
    with writing(tmp_path / "m", "model") as writer:
        save_model("transformer", model, writer)
    _, loaded = load_model(open_artifact(tmp_path / "m", "model"))
    assert np.array_equal(loaded.score(queries), model.score(queries), equal_nan=True)
    small = compressed(model, RUNGS[2], data.train.item_counts)
    assert answer(small, 5, PERSON[BACKWARD]) == 4


def test_without_the_setting_or_the_table_it_is_the_model_it_was(data):
    off = Transformer.fit(data, settings(people=False, epochs=2), FitContext())
    bare = Transformer.fit(TrainingData(data.train), settings(epochs=2), FitContext())
    queries = queries_of(data.train, np.arange(USERS))
    assert np.array_equal(off.score(queries), bare.score(queries))
    assert "user_feature" not in off.weights()
