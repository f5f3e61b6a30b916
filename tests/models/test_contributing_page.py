"""CONTRIBUTING.md says that a model is one file: take its code out of the page and do exactly that."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from slipstream.artifacts import open_artifact, writing
from slipstream.dataset.queries import queries_of
from slipstream.dataset.snapshot import snapshot_of
from slipstream.models import simple
from slipstream.models.recommender import FitContext, TrainingData
from slipstream.models.registry import load_model, model_names, model_type, save_model

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"


@pytest.fixture
def one_file(tmp_path: Path) -> Iterator[str]:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "latest.py").write_text(code)
    simple.__path__.append(str(tmp_path))
    yield "latest"
    simple.__path__.remove(str(tmp_path))


def test_a_file_in_the_folder_is_a_model(one_file: str, tmp_path: Path) -> None:
    assert one_file in model_names()
    rows = {"user_id": ["u", "u", "v", "v"], "item_id": ["a", "b", "b", "c"], "time_us": [1, 2, 3, 4]}
    snapshot = snapshot_of(pl.DataFrame(rows))
    kind = model_type(one_file)
    data = TrainingData(snapshot)
    model = kind.fit(data, kind.preset(data), FitContext())
    scores = model.score(queries_of(snapshot, np.array([0, 1])))
    assert np.argsort(-scores[0]).tolist() == [2, 1, 0]
    with writing(tmp_path / "kept", "model") as writer:
        save_model(one_file, model, writer)
    name, again = load_model(open_artifact(tmp_path / "kept", "model"))
    assert name == one_file
    np.testing.assert_array_equal(again.score(queries_of(snapshot, np.array([0, 1]))), scores)
