"""How well do the embeddings tell hidden edges, at what cost, and does another program measure the same?

    python benchmarks/embeddings.py [--sets kinships umls] [--forms complex distmult transe rotate]
        [--seed 0] [--peer] [--shared DATA_FOLDER]

Kinships (104 entities, 25 relations) and UMLS (135, 46) are taken out of the package pykeen 1.11.1, which pip
brings; wn18rr and fb15k-237 are folders of DATA_FOLDER. Filtered ranks in both directions, ties at their mean,
entities that training never saw kept. The settings below were chosen on validation, filtered by training and
validation edges only; the vectors of the last epoch are tested, once.

--peer installs pykeen in an environment of its own (about 170 MB beside our torch), hands it the same vectors,
and lets its own models and its own evaluator rank the same edges.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

VERSION = "1.11.1"
PARTS = ("train", "valid", "test")
HASHES = {
    "kinships/train.txt": "738612111a6acf0e39662bde24c7e72a4d1edf20931beea077da367dda689731",
    "kinships/valid.txt": "c56f8630a583178b1e569f11a64aa535ae1ce0b0912d8b1e24716be2b37f04da",
    "kinships/test.txt": "05e5733265761d55be9c05bfaff5a8d0808df46f9c1e9d66cc3f2fe114e43d88",
    "umls/train.txt": "873ef4925516b83e7f6f8cc02b4be51d848828710a7f65a956f0ac4a9e452f35",
    "umls/valid.txt": "025c98f8a4891e2a6582ec5b40ee0d904031edad9c52554522f4b7904820c98e",
    "umls/test.txt": "a7eb529a3d2810fcc96341ccc97c625a5e202f8389673aa6bd317eeebbb79014",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "kinships": {"dim": 256, "epochs": 50, "batch": 256, "n3": 0.01},
    "umls": {"dim": 256, "epochs": 50, "batch": 256, "n3": 0.005},
    "wn18rr": {"dim": 256, "epochs": 60, "batch": 2_000, "n3": 0.05, "negatives": 1_000},
    "fb15k-237": {"dim": 128, "epochs": 12, "batch": 2_000, "n3": 0.03, "negatives": 1_000},
}


@dataclass(frozen=True)
class Triples:
    """Each part [N, 3] in numbers."""

    parts: dict[str, np.ndarray]
    entities: int
    relations: int


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "--as-peer":
        _as_peer(Path(sys.argv[2]), sys.argv[3])
        return
    options = _options()
    print("command: python", " ".join(sys.argv))
    print(
        f"machine: {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; python"
        f" {platform.python_version()}, numpy {np.__version__}, torch {version('torch')}; one thread, seed {options.seed}"
    )
    print(
        f"{'set':10} {'form':9} {'who ranks':9} {'MRR':>7} {'Hits@1':>7} {'Hits@3':>7} {'Hits@10':>8} {'train s':>8} {'wall':>6} {'rank s':>7}"
    )
    for name in options.sets:
        triples = _read(name, options.shared)
        for form in options.forms:
            _one(name, triples, form, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=list(SETTINGS), default=["kinships", "umls"])
    parser.add_argument("--forms", nargs="+", default=["complex", "distmult", "transe", "rotate"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--peer", action="store_true", help="let pykeen rank the same vectors")
    parser.add_argument("--shared", type=Path, help="folder with wn18rr and fb15k-237")
    return parser.parse_args()


def _one(name: str, triples: Triples, form: str, options: argparse.Namespace) -> None:
    from slipstream.graph.link_prediction import filtered_ranks
    from slipstream.training.triple_course import TripleCourse, run

    settings = SETTINGS[name] | ({"epochs": options.epochs} if options.epochs else {})
    parts = triples.parts
    cpu, wall = time.process_time(), time.perf_counter()
    outcome = run(
        parts["train"],
        triples.entities,
        triples.relations,
        TripleCourse(form=form, **settings),
        seed=options.seed,
    )
    cost = time.process_time() - cpu, time.perf_counter() - wall
    cpu = time.process_time()
    ranks = filtered_ranks(outcome.embedding, parts["test"], np.concatenate([parts["train"], parts["valid"]]))
    _show(
        name, form, "ours", ranks.summary(), f"{cost[0]:8.1f} {cost[1]:6.1f} {time.process_time() - cpu:7.2f}"
    )
    if not options.peer:
        return
    with tempfile.TemporaryDirectory() as folder:
        arrays = {"entity": outcome.embedding.entity, "relation": outcome.embedding.relation}
        np.savez(Path(folder) / "all.npz", **parts, **arrays)
        told = subprocess.check_output(
            [_environment(), __file__, "--as-peer", folder, form], env=os.environ | {"PYSTOW_HOME": folder}
        )
    theirs = json.loads(told.splitlines()[-1])
    _show(name, form, "pykeen", theirs, f"{'':8} {'':6} {theirs['cpu_s']:7.2f}")


def _show(name: str, form: str, who: str, found: dict[str, float], cost: str) -> None:
    print(
        f"{name:10} {form:9} {who:9} {found['MRR']:7.4f} {found['Hits@1']:7.4f} {found['Hits@3']:7.4f} {found['Hits@10']:8.4f} {cost}",
        flush=True,
    )


def _read(name: str, shared: Path | None) -> Triples:
    rows = {part: _rows(name, part, shared) for part in PARTS}
    every = [row for part in PARTS for row in rows[part]]
    entities = {e: n for n, e in enumerate(sorted({x for h, _, t in every for x in (h, t)}))}
    relations = {r: n for n, r in enumerate(sorted({r for _, r, _ in every}))}
    parts = {
        part: np.array([(entities[h], relations[r], entities[t]) for h, r, t in rows[part]], np.int64)
        for part in PARTS
    }
    return Triples(parts, len(entities), len(relations))


def _rows(name: str, part: str, shared: Path | None) -> list[tuple[str, ...]]:
    if f"{name}/{part}.txt" in HASHES:
        text = _unpacked(f"{name}/{part}.txt").read_text()
        return [tuple(line.split()) for line in text.splitlines() if line.strip()]
    if shared is None or not (shared / name).is_dir():
        raise SystemExit(f"{name} is not here: give the folder that holds it by --shared")
    import polars as pl

    return list(
        pl.read_parquet(shared / name / f"{part}.parquet").select("head", "relation", "tail").iter_rows()
    )


def _cache() -> Path:
    from slipstream.config import cache_folder

    return cache_folder() / f"pykeen-{VERSION}"


def _unpacked(member: str) -> Path:
    """One file of the wheel, checked against its hash; fetched once."""
    place = _cache() / member
    if not place.exists():
        with tempfile.TemporaryDirectory() as folder:
            pip = [
                sys.executable,
                "-m",
                "pip",
                "-q",
                "download",
                "--no-deps",
                "-d",
                folder,
                f"pykeen=={VERSION}",
            ]
            subprocess.run(pip, check=True)
            with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
                for wanted in HASHES:
                    (_cache() / wanted).parent.mkdir(parents=True, exist_ok=True)
                    (_cache() / wanted).write_bytes(wheel.read(f"pykeen/datasets/{wanted}"))
    if hashlib.sha256(place.read_bytes()).hexdigest() != HASHES[member]:
        raise SystemExit(f"{place} is not the file of pykeen {VERSION}")
    return place


def _environment() -> str:
    """The Python of an environment that holds pykeen and looks for torch in ours; made once."""
    folder = _cache() / "environment"
    python = folder / "bin" / "python"
    done = folder / "done"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "beside.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        subprocess.run([str(python), "-m", "pip", "-q", "install", f"pykeen=={VERSION}"], check=True)
        done.touch()
    return str(python)


def _as_peer(folder: Path, form: str) -> None:
    """Runs in the other environment: pykeen's model with our vectors, ranked by pykeen."""
    import torch
    from pykeen.evaluation import RankBasedEvaluator
    from pykeen.models import ComplEx, DistMult, RotatE, TransE
    from pykeen.triples import TriplesFactory

    torch.set_num_threads(1)
    arrays = np.load(folder / "all.npz")
    entity, relation = torch.from_numpy(arrays["entity"]), torch.from_numpy(arrays["relation"])
    count = len(relation) // 2
    parts = {part: torch.from_numpy(arrays[part]) for part in PARTS}
    names = {"entity_to_id": {f"{n:06}": n for n in range(len(entity))}}
    factory = TriplesFactory(
        parts["train"],
        relation_to_id={f"{n:04}": n for n in range(count)},
        create_inverse_triples=True,
        **names,
    )
    kind = {"complex": ComplEx, "distmult": DistMult, "transe": TransE, "rotate": RotatE}[form]
    halves = form in ("complex", "rotate")
    extra = {"scoring_fct_norm": 2} if form == "transe" else {}
    width = entity.shape[1] // 2 if halves else entity.shape[1]
    model = kind(triples_factory=factory, embedding_dim=width, random_seed=0, **extra)
    if form == "rotate":
        relation = torch.cat([relation.cos(), relation.sin()], 1)
    # theirs are numbered r, its inverse, the next r, ...
    relation = torch.stack([relation[:count], relation[count:]], 1).reshape(2 * count, -1)
    with torch.no_grad():
        for representation, vectors in (
            (model.entity_representations[0], entity),
            (model.relation_representations[0], relation),
        ):
            if halves:
                vectors = torch.stack(vectors.chunk(2, 1), 2)
            own = representation._embeddings.weight
            own.copy_(vectors.reshape(own.shape))
    before = time.process_time()
    result = RankBasedEvaluator(filtered=True).evaluate(
        model,
        parts["test"],
        additional_filter_triples=[parts["train"], parts["valid"]],
        batch_size=256,
        use_tqdm=False,
    )
    told = {"MRR": result.get_metric("both.realistic.inverse_harmonic_mean_rank")}
    told |= {f"Hits@{k}": result.get_metric(f"both.realistic.hits_at_{k}") for k in (1, 3, 10)}
    print(json.dumps(told | {"cpu_s": time.process_time() - before}))


if __name__ == "__main__":
    main()
