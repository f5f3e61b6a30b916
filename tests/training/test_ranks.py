"""Two processes that train one model, started by the real launcher, against one process alone."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from slipstream.config import Launch, launch  # noqa: E402
from slipstream.errors import ConfigError, Unavailable  # noqa: E402
from slipstream.training.ranks import Ranks  # noqa: E402
from slipstream.training.transformer_course import Interactions, run  # noqa: E402
from slipstream.training.transformer_settings import TransformerSettings  # noqa: E402

SETTINGS = {
    "dim": 16, "attention_window": 8, "max_length": 20, "epochs": 4, "batch_tokens": 192, "shards": 3,
    "lr": 1e-2, "table_lr": 1e-2, "ema": 0.9, "patience": 0,
}  # fmt: skip


def world():
    random = np.random.default_rng(0)
    return Interactions(np.arange(41) * 9, random.integers(0, 15, 360).astype(np.int32), None, 15)


def train(checkpoint, progress=lambda done, total, note: None):
    """Validated by how large the table is: any number that depends on the weights will do."""
    return run(
        world(),
        TransformerSettings(**SETTINGS),
        seed=7,
        validate=lambda weights: float(np.abs(weights["item"]).sum()),
        progress=progress,
        checkpoint=checkpoint,
    )


TOGETHER = """
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_ranks import train
from slipstream.config import launch
notes = []
outcome = train(Path({folder!r}) / "checkpoint", lambda done, total, note: notes.append(note))
me = launch()
assert me.processes == 2 and bool(notes) == (me.rank == 0)
import numpy as np
np.savez(Path({folder!r}) / f"rank{{me.rank}}.npz", **outcome.weights)
(Path({folder!r}) / f"rank{{me.rank}}.json").write_text(json.dumps(outcome.curve))
"""


@pytest.mark.slow
def test_two_processes_give_the_bits_of_one_and_go_on_from_its_checkpoint(tmp_path):
    """Three shards over two processes; the first two epochs were done by one process, which was stopped."""

    def stop(done, total, note):
        if note.startswith("epoch 3/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "checkpoint", stop)
    alone = train(None)
    script = tmp_path / "together.py"
    script.write_text(TOGETHER.format(tests=str(Path(__file__).parent), folder=str(tmp_path)))
    options = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    command = [sys.executable, "-m", "torch.distributed.run", *options, str(script)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    for rank in range(2):
        with np.load(tmp_path / f"rank{rank}.npz") as found:
            assert set(found) == set(alone.weights)
            for name, weight in alone.weights.items():
                assert np.array_equal(found[name], weight), name
        curve = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert [row["loss"] for row in curve] == [row["loss"] for row in alone.curve]
        values = [row["validation_ndcg@10"] for row in alone.curve]
        assert [row["validation_ndcg@10"] for row in curve] == values


def test_shards_are_dealt_out_to_the_processes():
    assert [list(Ranks(Launch()).own(3))] == [[0, 1, 2]]
    places = [Ranks.__new__(Ranks) for _ in range(2)]
    for rank, place in enumerate(places):
        place.rank, place.count = rank, 2
    assert [list(place.own(5)) for place in places] == [[0, 2, 4], [1, 3]]


def test_more_processes_than_shards_and_strange_devices_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match="cpu or cuda"):
        run(world(), TransformerSettings(**SETTINGS), seed=0, device="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(Unavailable, match="CUDA"):
            run(world(), TransformerSettings(**SETTINGS), seed=0, device="cuda")
    for name, value in zip(("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"), "3535", strict=True):
        monkeypatch.setenv(name, value)
    assert launch() == Launch(3, 5, 3, 5)
    with pytest.raises(ConfigError, match="5 processes"):
        run(world(), TransformerSettings(**SETTINGS), seed=0)
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(ConfigError, match="whole numbers"):
        launch()
