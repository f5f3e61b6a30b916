"""Product codes that the transformer is trained on with."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

pytest.importorskip("torch")

from slipstream.artifacts import open_artifact, writing
from slipstream.compression.quantization import RUNGS, compressed
from slipstream.config import with_overrides
from slipstream.dataset.queries import Holdout, queries_of
from slipstream.dataset.snapshot import snapshot_of
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.errors import BadInput
from slipstream.inference.packed_weights import BOOKS, CENTROIDS, PARTS
from slipstream.models.deep.transformer import Transformer
from slipstream.models.recommender import FitContext, TrainingData
from slipstream.models.registry import load_model, save_model
from slipstream.models.validation import validation_ndcg
from slipstream.training.transformer_settings import TransformerSettings

ITEMS, PEOPLE, STEPS = 600, 600, 8
CODES = next(rung for rung in RUNGS if rung.items == "codes")


def walks(items=ITEMS, unseen=2):
    """Whoever is at an item goes on to one of two that were drawn for it; nobody touches the last items."""
    random = np.random.default_rng(7)
    follow = random.integers(items, size=(items, 2))
    rows, targets = [], []
    for u in range(PEOPLE):
        path = [u % items]
        for _ in range(STEPS):
            path.append(int(random.choice(follow[path[-1]])))
        rows += [(f"u{u:03}", f"i{i:03}", (u * 1000 + n) * 1_000_000) for n, i in enumerate(path[:-1])]
        targets.append(path[-1])
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "time_us"], orient="row")
    train = snapshot_of(frame, items=Vocabulary.of([f"i{n:03}" for n in range(items + unseen)]))
    queries = queries_of(train, np.arange(PEOPLE))
    return TrainingData(train, Holdout(queries, np.arange(PEOPLE + 1), np.array(targets, np.int32)))


SETTINGS = TransformerSettings(
    dim=128, layers=1, attention_window=4, max_length=8, epochs=8, batch_tokens=256, shards=1,
    dropout=0.0, attention_dropout=0.0, lr=1e-2, table_lr=1e-2, precision="float32",
)  # fmt: skip


@pytest.fixture(scope="module")
def world():
    return walks()


@pytest.fixture(scope="module")
def trained(world):
    return Transformer.fit(world, with_overrides(SETTINGS, {"code_epochs": 4}), FitContext(seed=1))


def test_the_table_is_codes_and_packing_it_as_such_loses_nothing(world, trained, tmp_path: Path):
    codes = trained.packed_weights()["item"].checked("item")
    assert codes.form == "codes"
    assert codes.nbytes == (ITEMS + 2) * BOOKS + BOOKS * CENTROIDS * 2 * SETTINGS.dim // PARTS
    packed = compressed(trained, CODES, world.train.item_counts)
    np.testing.assert_array_equal(packed.item_vectors(), trained.item_vectors())
    queries = world.validation.queries
    with writing(tmp_path / "m", "model") as writer:
        save_model("transformer", trained, writer)
    again = load_model(open_artifact(tmp_path / "m", "model"))[1]
    np.testing.assert_array_equal(again.score(queries), trained.score(queries))
    assert trained.known.sum() == ITEMS


def test_the_books_are_learned_and_the_model_is_as_good_with_them(world, trained):
    plain = Transformer.fit(world, SETTINGS, FitContext(seed=1))
    full, with_them = (validation_ndcg(model.score, world.validation) for model in (plain, trained))
    assert full > 0.7
    assert with_them > 0.97 * full
    losses = [row["loss"] for row in trained.report.curve[SETTINGS.epochs :]]
    assert losses[-1] < losses[0]
    found = compressed(plain, CODES, world.train.item_counts).packed_weights()["item"]
    assert (found.scale != trained.packed_weights()["item"].scale).any()


def test_a_course_on_codes_goes_on_from_its_checkpoint(world, tmp_path: Path):
    short = with_overrides(SETTINGS, {"epochs": 2})
    coded = with_overrides(short, {"code_epochs": 2})
    whole = Transformer.fit(world, coded, FitContext(seed=1))
    context = FitContext(seed=1, checkpoint=str(tmp_path / "ck"))
    Transformer.fit(world, short, context)  # its finished training is the first part of the other
    for _ in range(2):
        again = Transformer.fit(world, coded, context)
        np.testing.assert_array_equal(again.item_vectors(), whole.item_vectors())
        assert [row["epoch"] for row in again.report.curve] == [1, 2, 3, 4]


def test_a_catalogue_smaller_than_a_book_is_refused():
    world = walks(items=CENTROIDS - 6, unseen=5)
    settings = with_overrides(SETTINGS, {"epochs": 1, "code_epochs": 1})
    with pytest.raises(BadInput, match="255 items is smaller than a code book of 256"):
        Transformer.fit(world, settings, FitContext())
