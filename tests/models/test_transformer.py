"""The transformer as a model of the registry: worlds with known answers, repeats, saves, faults."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

torch = pytest.importorskip("torch")

from slipstream.artifacts import open_artifact, writing  # noqa: E402
from slipstream.config import with_overrides  # noqa: E402
from slipstream.dataset.folder import read_folder  # noqa: E402
from slipstream.dataset.queries import Holdout, Queries, queries_of, query_of  # noqa: E402
from slipstream.dataset.snapshot import Snapshot, snapshot_of  # noqa: E402
from slipstream.dataset.splits import board  # noqa: E402
from slipstream.dataset.vocabulary import Vocabulary  # noqa: E402
from slipstream.errors import BadInput, ConfigError, Diverged, Unavailable  # noqa: E402
from slipstream.features.items import ItemFeatures  # noqa: E402
from slipstream.graph.construction import build, triple_facts  # noqa: E402
from slipstream.graph.linked_graph import join  # noqa: E402
from slipstream.models.deep.transformer import Transformer  # noqa: E402
from slipstream.models.recommender import (  # noqa: E402
    Continues,
    Earlier,
    Embeds,
    ExplainsByHistory,
    FitContext,
    TrainingData,
)
from slipstream.models.registry import load_model, save_model  # noqa: E402
from slipstream.models.validation import validation_ndcg  # noqa: E402
from slipstream.training.transformer_settings import TransformerSettings  # noqa: E402

CYCLE = 12


def cycles(users=40, length=9, *, times=True, ordered=True, extra=()):
    """Everyone walks the same circle of items, each from a place of their own."""
    rows = [
        (f"u{u:03}", f"i{(u + n) % CYCLE:02}", (u * 1000 + n) * 1_000_000)
        for u in range(users)
        for n in range(length)
    ]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "time_us"], orient="row")
    frame = frame if times else frame.drop("time_us")
    items = sorted({*frame["item_id"], *extra})
    return snapshot_of(frame, items=Vocabulary.of(items), ordered=ordered)


def tiny(**more):
    base = {
        "dim": 16, "attention_window": 8, "max_length": 20, "epochs": 10, "batch_tokens": 128, "shards": 1,
        "dropout": 0.1, "attention_dropout": 0.0, "lr": 1e-2, "table_lr": 1e-2,
    }  # fmt: skip
    return TransformerSettings(**{**base, **more})


def holdout_of(snapshot):
    """The next item of the circle for every user."""
    users = np.arange(snapshot.user_count)
    queries = queries_of(snapshot, users)
    target = (queries.item[queries.offsets[1:] - 1] + 1) % CYCLE
    return Holdout(queries, np.arange(len(users) + 1), target.astype(np.int32))


@pytest.fixture(scope="module")
def world():
    return TrainingData(cycles(extra=["i98"]))


@pytest.fixture(scope="module")
def model(world):
    return Transformer.fit(world, tiny(), FitContext(seed=3))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"output": "cosine"},
        {"ffn": "swiglu"},
        {"residual": "gated"},
        {"body": "hstu"},
        {"loss": "sampled", "negatives": 64},
        {"loss": "sampled", "negatives": 64, "output": "cosine", "targets": 2},
        {"loss": "gbce", "negatives": 8, "output": "cosine", "epochs": 25},
    ],
)
def test_the_next_item_of_a_circle_is_the_first_answer(world, changes):
    model = Transformer.fit(world, tiny(**changes), FitContext(seed=1))
    holdout = holdout_of(world.train)
    scores = model.score(holdout.queries)
    assert (np.nanargmax(scores, axis=1) == holdout.target).mean() > 0.95


def test_order_decides(model):
    forward, backward = model.score(query_of([3, 4, 5])), model.score(query_of([5, 4, 3]))
    assert np.nanargmax(forward) == 6
    assert not np.allclose(forward, backward, equal_nan=True)


def test_without_times_and_without_order():
    holdout = holdout_of(cycles())
    plain = Transformer.fit(TrainingData(cycles(times=False)), tiny(), FitContext())
    assert (np.nanargmax(plain.score(holdout.queries), 1) == holdout.target).mean() > 0.9
    unordered = Transformer.fit(TrainingData(cycles(length=4, ordered=False)), tiny(epochs=20), FitContext())
    a, b = unordered.score(query_of([1, 2, 3])), unordered.score(query_of([3, 1, 2]))
    assert np.isfinite(a[0, :CYCLE]).all()
    near = set(np.argsort(-np.nan_to_num(a[0], nan=-9))[:4].tolist())
    assert near & {0, 4}  # what lies beside the set on the circle
    assert set(np.argsort(-np.nan_to_num(b[0], nan=-9))[:6].tolist()) & {0, 4}


def test_unknown_things_are_nan_and_never_an_error(model):
    unseen = model.known.tolist().index(False)
    scores = model.score(query_of([3, -1, 4, unseen, 5]))
    assert np.isnan(scores[0, unseen])
    assert np.array_equal(scores, model.score(query_of([3, 4, 5])), equal_nan=True)
    assert np.isnan(model.score(query_of([]))).all()
    assert np.isnan(model.score(query_of([-1, unseen]))).all()


def test_a_batch_equals_one_by_one(model, world):
    queries = queries_of(world.train, np.arange(20))
    together = model.score(queries)
    for q in range(20):
        np.testing.assert_allclose(model.score(queries.part(q, q + 1))[0], together[q], rtol=1e-4, atol=1e-5)


def test_vectors_give_the_scores(model, world):
    assert isinstance(model, Embeds)
    queries = queries_of(world.train, np.arange(5))
    product = model.query_vectors(queries) @ model.item_vectors().T
    np.testing.assert_array_equal(product[:, model.known], model.score(queries)[:, model.known])


def test_the_latest_event_carries_the_score_of_the_next_item(model):
    assert isinstance(model, ExplainsByHistory)
    history = [0, 1, 2, 3, 4, 5]
    parts = model.contributions(query_of(history), np.array([6], np.int32))
    assert parts.shape == (1, 6)
    assert parts[0].argmax() == 5
    exact = model.score(query_of(history))[0, 6] - model.score(query_of(history[:-1]))[0, 6]
    assert parts[0, 5] == pytest.approx(exact, abs=1e-4)


def test_the_same_seed_gives_the_same_bits_with_one_thread_or_two(world):
    queries = queries_of(world.train, np.arange(30))
    fits = [
        Transformer.fit(world, tiny(epochs=2, shards=2), FitContext(seed=seed, threads=threads)).score(
            queries
        )
        for seed, threads in ((5, 1), (5, 1), (5, 2), (6, 1))
    ]
    assert np.array_equal(fits[0], fits[1], equal_nan=True)
    assert np.array_equal(fits[0], fits[2], equal_nan=True)
    assert not np.array_equal(fits[0], fits[3], equal_nan=True)


def test_saved_and_loaded_without_torch_it_scores_the_same(model, world, tmp_path):
    with writing(tmp_path / "m", "model") as writer:
        save_model("transformer", model, writer)
    name, loaded = load_model(open_artifact(tmp_path / "m", "model"))
    queries = queries_of(world.train, np.arange(30))
    assert name == "transformer"
    assert np.array_equal(model.score(queries), loaded.score(queries), equal_nan=True)
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path; from slipstream.artifacts import open_artifact\n"
        "from slipstream.models.registry import load_model; from slipstream.dataset.queries import query_of\n"
        f"name, model = load_model(open_artifact(Path({str(tmp_path / 'm')!r}), 'model'))\n"
        "print(int(__import__('numpy').nanargmax(model.score(query_of([3, 4, 5])))))"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "6"


def test_validation_keeps_the_best_weights_and_stops_early(world):
    data = TrainingData(world.train, holdout_of(world.train))
    notes = []
    model = Transformer.fit(
        data, tiny(epochs=60, patience=2), FitContext(progress=lambda done, total, note: notes.append(note))
    )
    values = [row["validation_ndcg@10"] for row in model.report.curve]
    assert len(values) < 60
    assert model.report.notes["best_epoch"] == 1 + int(np.argmax(values))
    assert "validation NDCG@10" in notes[-1]
    assert "events/s" in notes[-1]
    first = next(note for note in notes if note.startswith("epoch 1/60"))
    for part in ("loss ", "validation NDCG@10 ", "events/s", " s left"):
        assert part in first


def test_averaged_weights_are_what_is_validated_and_released(world):
    """After one epoch of one step from the same start: average = start + 9/11 of the way to the weights."""
    data = TrainingData(world.train, holdout_of(world.train))
    one_step = {"epochs": 1, "batch_tokens": 1024, "dropout": 0.0, "precision": "float32"}
    start, plain, averaged = (
        Transformer.fit(data, tiny(**one_step, **more), FitContext(seed=2))
        for more in ({"lr": 1e-30, "table_lr": 1e-30}, {}, {"ema": 0.99})
    )
    assert len({len(m.report.curve) for m in (start, plain, averaged)}) == 1
    for name, first in start.encoder.weights.items():
        way = plain.encoder.weights[name] - first
        np.testing.assert_allclose(averaged.encoder.weights[name], first + 9 / 11 * way, atol=1e-6)
    score = validation_ndcg(averaged.score, data.validation)
    assert averaged.report.curve[-1]["validation_ndcg@10"] == pytest.approx(score, abs=1e-6)
    assert np.abs(plain.encoder.item - start.encoder.item).max() > 1e-3


def test_a_diverging_run_stops_with_its_step_and_a_hint(world):
    settings = tiny(lr=1.0, table_lr=1.0, precision="float32", epochs=3)
    huge = with_overrides(settings, {"temperature": 1e-38 * 10, "output": "cosine"})
    with pytest.raises(Diverged, match="step 1 ") as caught:
        Transformer.fit(world, huge, FitContext())
    assert "lr" in caught.value.hint


def test_too_little_memory_is_said_before_the_start(world):
    with pytest.raises(Unavailable, match="GB"):
        Transformer.fit(
            world,
            tiny(dim=1024, layers=16, heads=32, batch_tokens=1 << 20, attention_window=1024),
            FitContext(),
        )


def test_nothing_to_learn_is_an_error():
    single = pl.DataFrame({"user_id": ["a", "b"], "item_id": ["x", "y"]})
    with pytest.raises(BadInput, match="two events"):
        Transformer.fit(TrainingData(snapshot_of(single)), tiny(), FitContext())


def test_features_give_an_item_without_events_a_vector():
    """The new item shares its only attribute with item 4: it is wanted most where item 4 comes next."""
    snapshot = cycles(extra=["i98"])
    unseen = snapshot.items.number("i98")
    rows = sp.lil_matrix((snapshot.item_count, CYCLE), dtype=np.float32)
    for item in range(CYCLE):
        rows[item, item] = 1
    rows[unseen, 4] = 1
    features = ItemFeatures(rows.tocsr(), tuple(f"a={n}" for n in range(CYCLE)))
    model = Transformer.fit(TrainingData(snapshot, item_features=features), tiny(content=True), FitContext())
    wanted = [model.score(query_of([(n - 2) % CYCLE, n - 1]))[0, unseen] for n in range(1, CYCLE + 1)]
    assert 1 + int(np.argmax(wanted)) == 4
    assert np.isfinite(model.score(query_of([1, 2, unseen]))).all()


def test_the_graph_gives_an_item_without_events_a_vector():
    """The same over an entity: only `graph_content` looks at it."""
    snapshot = cycles(extra=["i98"])
    unseen = snapshot.items.number("i98")
    names = [snapshot.items[item] for item in range(CYCLE)]
    rows = [(name, "by", f"maker {n}") for n, name in enumerate(names)] + [("i98", "by", "maker 4")]
    triples = triple_facts(pl.DataFrame(rows, schema=["head", "relation", "tail"], orient="row"))
    ids = snapshot.items.series("item_id")
    links = pl.DataFrame({"item_id": ids, "entity_id": ids})
    data = TrainingData(snapshot, graph=join(build([triples]).graph, links, snapshot.items))
    model = Transformer.fit(data, tiny(graph_content=True), FitContext())
    wanted = [model.score(query_of([(n - 2) % CYCLE, n - 1]))[0, unseen] for n in range(1, CYCLE + 1)]
    assert 1 + int(np.argmax(wanted)) == 4
    without = Transformer.fit(data, tiny(epochs=1), FitContext())
    assert np.isnan(without.score(query_of([1, 2]))[0, unseen])


TRAIN = """
import sys
sys.path.insert(0, {tests!r})
from test_transformer import cycles, tiny
from slipstream.models.deep.transformer import Transformer
from slipstream.models.recommender import FitContext, TrainingData
print("ready", flush=True)
def tell(done, total, note):
    if note.startswith("epoch 4/"):
        print("three epochs are saved", flush=True)
        sys.stdin.read()
context = FitContext(seed=9, checkpoint={folder!r}, progress=tell)
Transformer.fit(TrainingData(cycles()), tiny(epochs=6, ema=0.9), context)
"""


def test_a_killed_training_goes_on_as_if_nothing_had_happened(tmp_path):
    """With averaged weights: whatever a checkpoint can hold, it has to hold here."""
    data, settings = TrainingData(cycles()), tiny(epochs=6, ema=0.9)
    folder = tmp_path / "checkpoint"
    script = TRAIN.format(tests=str(Path(__file__).parent), folder=str(folder))
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        assert child.stdout.readline() == "three epochs are saved\n"
        os.kill(child.pid, signal.SIGKILL)
    assert open_artifact(folder, "training-checkpoint").json("about")["epoch"] == 3
    resumed = Transformer.fit(data, settings, FitContext(seed=9, checkpoint=str(folder)))
    whole = Transformer.fit(data, settings, FitContext(seed=9))
    queries = queries_of(data.train, np.arange(20))
    assert np.array_equal(resumed.score(queries), whole.score(queries), equal_nan=True)
    assert [row["loss"] for row in resumed.report.curve] == [row["loss"] for row in whole.report.curve]


def test_an_unfinished_checkpoint_of_another_training_is_refused(world, tmp_path):
    folder = tmp_path / "checkpoint"
    calls = []

    def stop(done, total, note):
        calls.append(note)
        if note.startswith("epoch 2/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Transformer.fit(world, tiny(), FitContext(checkpoint=str(folder), progress=stop))
    with pytest.raises(ConfigError, match="unfinished training"):
        Transformer.fit(world, tiny(dim=32), FitContext(checkpoint=str(folder)))
    first = Transformer.fit(world, tiny(), FitContext(checkpoint=str(folder)))
    assert len(first.report.curve) == 10
    Transformer.fit(
        world, tiny(dim=32, epochs=1), FitContext(checkpoint=str(folder))
    )  # a finished one is history


def shaped_like(users, items, events):
    """Only the counts of a data set."""
    names = Vocabulary.of(map(str, range(items)))
    offsets = np.linspace(0, events, users + 1).astype(np.int64)
    zeros = np.zeros(events, np.int32)
    snapshot = Snapshot(names, names, offsets, zeros, zeros, zeros, ("click",), None)
    return TrainingData(snapshot)


@pytest.mark.parametrize(
    ("users", "items", "events", "dim", "loss", "near"),
    [
        (50, 40, 500, 64, "softmax", 0),
        (943, 1682, 98_000, 64, "softmax", 0),
        (610, 9_724, 100_000, 64, "softmax", 2),
        (6040, 3706, 988_000, 128, "softmax", 0),
        (22_363, 12_101, 154_000, 256, "softmax", 2),
        (70_000, 25_000, 850_000, 128, "sampled", 0),
        (300_000, 200_000, 3_000_000, 128, "sampled", 0),
    ],
)
def test_the_preset_follows_the_shape_of_the_data_and_keeps_to_its_budget(
    users, items, events, dim, loss, near
):
    settings = Transformer.preset(shaped_like(users, items, events))
    assert (settings.dim, settings.loss, settings.neighbour_share) == (dim, loss, near)
    compared = settings.negatives if loss == "sampled" else items
    work = settings.epochs * events * 6 * dim * (12 * dim * settings.layers + compared)
    assert work < 1.6e14


def test_a_setting_that_is_younger_than_a_checkpoint_leaves_its_fingerprint_while_it_is_off():
    """The literal is older than the option: trainings that were begun before go on."""
    assert TransformerSettings().fingerprint() == "136a33bea909"
    assert with_overrides(TransformerSettings(), {"residual": "gated"}).fingerprint() != "136a33bea909"
    assert with_overrides(TransformerSettings(), {"dim": 32}).fingerprint() != "136a33bea909"


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="multiple of heads"):
        with_overrides(tiny(), {"heads": 3})


def test_the_time_of_the_request_decides_where_it_is_learned():
    """Who comes back at once goes on by one; who comes back after days goes on by two."""
    random = np.random.default_rng(0)
    rows = []
    for user in range(80):
        item, now = int(random.integers(CYCLE)), 0
        for _ in range(10):
            rows.append((f"u{user:03}", f"i{item:02}", now))
            late = random.random() < 0.5
            item = (item + (2 if late else 1)) % CYCLE
            now += 5 * 86_400_000_000 if late else 10_000_000
    snapshot = snapshot_of(pl.DataFrame(rows, schema=["user_id", "item_id", "time_us"], orient="row"))
    model = Transformer.fit(
        TrainingData(snapshot), tiny(query_time=True, epochs=20, dropout=0.0, batch_tokens=64), FitContext()
    )
    history, times = [1, 2, 3], [0, 10**7, 2 * 10**7]
    soon = query_of(history, times_us=times, now_us=3 * 10**7)
    late = query_of(history, times_us=times, now_us=6 * 86_400_000_000)
    assert np.nanargmax(model.score(soon)) == 4
    assert np.nanargmax(model.score(late)) == 5
    unknown = np.argsort(-model.score(query_of(history, times_us=times))[0])[:2]
    assert set(unknown.tolist()) == {4, 5}


def test_queries_are_not_changed(model):
    queries = query_of([3, -1, 4, 5], times_us=[1, 2, 3, 4])
    before = Queries(queries.user.copy(), queries.offsets.copy(), queries.item.copy(), queries.time_us.copy())
    model.score(queries)
    model.contributions(queries, np.array([1, 2], np.int32))
    assert np.array_equal(before.item, queries.item)
    assert np.array_equal(before.time_us, queries.time_us)


@pytest.mark.slow
def test_movielens_100k_is_learned_in_minutes():
    """Validation only: the test events are looked at once, for the report."""
    folder = (
        Path(os.environ.get("SLIPSTREAM_SHARED", Path(__file__).parents[3] / "shared")) / "data" / "ml-100k"
    )
    if not folder.exists():
        pytest.skip("ml-100k is not here: point SLIPSTREAM_SHARED at the folder that holds data/ml-100k")
    cut = board(read_folder(folder), "loo")
    data = TrainingData(cut.train, cut.validation)
    model = Transformer.fit(data, Transformer.preset(data), FitContext())
    assert max(row["validation_ndcg@10"] for row in model.report.curve if "validation_ndcg@10" in row) > 0.105
    assert model.report.curve[-1]["train_cpu_s"] < 180


def turned(snapshot):
    """The same events with items numbered the other way round, and one more item."""
    items = Vocabulary.of([*snapshot.items.to_list()[::-1], "i99"])
    rows = pl.DataFrame(
        {
            "user_id": snapshot.users.series("user_id").gather(snapshot.user),
            "item_id": snapshot.items.series("item_id").gather(snapshot.item),
            "time_us": snapshot.time_us,
        }
    )
    return snapshot_of(rows, items=items)


def test_a_warm_start_knows_what_was_learned_under_other_numbers(model, world):
    data = TrainingData(turned(world.train))
    items = world.train.items.numbers(data.train.items.series("item_id"))
    earlier = Earlier(model, items, np.arange(data.train.user_count, dtype=np.int32))
    assert issubclass(Transformer, Continues)
    queries = queries_of(data.train, np.arange(40))
    expected = np.array([int(i[1:]) for i in data.train.items.to_list()])
    last = expected[queries.item[queries.offsets[1:] - 1]]

    def right(fitted):
        return (expected[np.nanargmax(fitted.score(queries), axis=1)] == (last + 1) % CYCLE).mean()

    warm = Transformer.fit_on(data, model.settings, FitContext(seed=5), earlier)
    assert warm.report.notes["warm_start"] is True
    assert len(warm.report.curve) == 1  # one epoch instead of ten
    assert warm.settings == model.settings
    assert right(warm) > 0.95
    fresh = Transformer.fit(data, with_overrides(model.settings, {"epochs": 1}), FitContext(seed=5))
    assert right(fresh) < right(warm)
    for other in ({"dim": 24}, {"neighbour_share": 1.0}):  # cannot go on: a whole training
        whole = Transformer.fit_on(data, tiny(**other, epochs=1), FitContext(seed=5), earlier)
        assert "warm_start" not in whole.report.notes
