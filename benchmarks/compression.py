"""What does each rung of compression save and cost, over several seeds or data sets?

    slipstream price --data FOLDER --board loo --seed 0 --json price-0.json    (and so on for other seeds)
    python benchmarks/compression.py price-*.json

Prints Markdown: one table per data set and board, means over the files of its seeds. Losses are relative to the
float32 model of the same seed; the interval is the widest of the seeds', each paired over the users of one model.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

COLUMNS = (
    "rung", "weights kB", "of float32", "bytes / item", "resident kB", "NDCG@10", "relative (each seed)",
    "widest interval", "overlap@10", "scan µs", "answer p50 / p99 µs", "users / s",
)  # fmt: skip


def main() -> None:
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for file in sys.argv[1:]:
        found = json.loads(Path(file).read_text())
        groups[found["model"], found["data"], found["board"]].append(found)
    for (model, data, board), prices in groups.items():
        seeds = ", ".join(str(price["seed"]) for price in prices)
        print(f"**{model} on {data}, board {board}: {prices[0]['users']:,} users, seeds {seeds}**\n")
        print("| " + " | ".join(COLUMNS) + " |")
        print("|" + "|".join(["---"] + ["---:"] * (len(COLUMNS) - 1)) + "|")
        for name in (rung["name"] for rung in prices[0]["rungs"]):
            print("| " + " | ".join(_row(name, prices)) + " |")
        print()


def _row(name: str, prices: list[dict[str, Any]]) -> tuple[str, ...]:
    rungs = [{rung["name"]: rung for rung in price["rungs"]} for price in prices]
    own, full = [of[name] for of in rungs], [of["float32"] for of in rungs]

    def mean(key: str) -> float:
        return sum(float(rung[key]) for rung in own) / len(own)

    relative = [rung["ndcg_delta"] / base["ndcg"] for rung, base in zip(own, full, strict=True)]
    low = min(rung["ndcg_delta_interval"][0] / base["ndcg"] for rung, base in zip(own, full, strict=True))
    high = max(rung["ndcg_delta_interval"][1] / base["ndcg"] for rung, base in zip(own, full, strict=True))
    exact = all(rung["exact"] for rung in own)
    return (
        name,
        f"{mean('model_bytes') / 1e3:,.0f}",
        f"{own[0]['model_bytes'] / full[0]['model_bytes']:.1%}",
        f"{mean('bytes_per_item'):,.1f}",
        f"{mean('resident_bytes') / 1e3:,.0f}",
        f"{mean('ndcg'):.4f}",
        "0, certified" if exact else ", ".join(f"{value:+.2%}" for value in relative),
        "–" if exact else f"[{low:+.1%}, {high:+.1%}]",
        f"{mean('overlap@10'):.3f}",
        f"{mean('scan_us'):,.0f}",
        f"{mean('answer_p50_us'):,.0f} / {mean('answer_p99_us'):,.0f}",
        f"{mean('users_per_s'):,.0f}",
    )


if __name__ == "__main__":
    main()
