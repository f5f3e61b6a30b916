"""RecBole, and hopwise, which is made from it: a general model on a typed file."""

import importlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from answering import Data, best, run

if not hasattr(torch, "_whole_load"):  # RecBole loads its own checkpoint, which torch refuses since 2.6
    torch._whole_load = torch.load
    torch.load = lambda *args, **more: torch._whole_load(*args, **{**more, "weights_only": False})


def fit(data: Data, settings: dict[str, Any]) -> Any:
    own = dict(settings)
    library, name = own.pop("library"), own.pop("model")
    config_of, data_of, utils = (
        importlib.import_module(f"{library}.{part}") for part in ("config", "data", "utils")
    )
    place = data.folder / "events"
    place.mkdir(exist_ok=True)
    frame = pd.DataFrame(
        {"user_id:token": data.user, "item_id:token": data.item, "timestamp:float": np.arange(len(data.user))}
    )
    frame.to_csv(place / "events.inter", sep="\t", index=False)
    config = config_of.Config(
        model=name,
        dataset="events",
        config_dict={
            **own, "data_path": str(data.folder), "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "eval_args": {"split": {"RS": [1.0, 0.0, 0.0]}, "order": "RO", "group_by": "user", "mode": "full"},
            "use_gpu": False, "seed": data.seed, "show_progress": False, "checkpoint_dir": str(data.folder),
        },
    )  # fmt: skip
    logging.disable(logging.CRITICAL)
    utils.init_seed(data.seed, True)
    dataset = data_of.create_dataset(config)
    training, _, _ = data_of.data_preparation(config, dataset)
    model = utils.get_model(name)(config, training.dataset)
    trainer = utils.get_trainer(config["MODEL_TYPE"], name)(config, model)
    trainer.fit(training, saved=False, show_progress=False)
    seen = np.zeros((data.users, data.items), bool)
    seen[data.user, data.item] = True
    return model.eval(), dataset, library, seen


def top(fitted: Any, users: np.ndarray, k: int) -> np.ndarray:
    model, dataset, library, seen = fitted
    interaction = importlib.import_module(f"{library}.data.interaction").Interaction
    inner = torch.tensor(dataset.token2id("user_id", [str(user) for user in users]))
    with torch.no_grad():
        scores = model.full_sort_predict(interaction({"user_id": inner})).view(len(users), -1).numpy()
    columns = np.array([int(token) for token in dataset.field2id_token["item_id"][1:]])
    whole = np.full(seen[users].shape, -np.inf, np.float32)
    whole[:, columns] = scores[:, 1:]
    whole[seen[users]] = -np.inf
    return best(whole, k)


def size(fitted: Any) -> int:
    """Of the saved weights."""
    place = Path("weights.pth").absolute()
    torch.save({"weights": fitted[0].state_dict(), "other": fitted[0].other_parameter()}, place)
    found = place.stat().st_size
    place.unlink()
    return found


if __name__ == "__main__":
    import json
    import sys

    run(fit, top, json.loads(Path(sys.argv[1]).read_text())["settings"]["library"], size)
