"""How long until a running server answers from another release, shows a new item, and knows a new person?

    python benchmarks/going_live.py [--model item_neighbours] [--repeats 10]

From the call of promote or rollback to the first answer of the other release; from sending a catalogue row to the
first list that holds the item; from sending a stranger's first event to the first answer by the model. Wall time
on the loopback, each repeated, the longest beside the median. A load of the machine lengthens all of them.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving_world import log, machine, make_home, release, serving
from slipstream.recommend.live_release import promote, rollback

LIMIT_S = 20.0


class Client:
    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        self._connection.request(method, path, None if body is None else json.dumps(body))
        answer = self._connection.getresponse()
        content = json.loads(answer.read())
        assert answer.status == 200, content
        return content

    def slate(self, user: str) -> Any:
        return self.call("GET", f"/v1/recommendations/{user}?k=10")


def until(holds: Callable[[], bool], start: float) -> float:
    while not holds():
        assert time.perf_counter() - start < LIMIT_S
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="item_neighbours")
    parser.add_argument("--items", type=int, default=3_706)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    print(machine())
    took: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="going-live-") as folder:
        sizes = {"users": options.users, "items": options.items, "length": 50}
        home = make_home(Path(folder) / "home", **sizes, model=options.model)
        rows = log(options.users, options.items, 50, seed=0)
        release(home, "second", rows, options.items, options.model)
        with serving(home) as server:
            client = Client(server.port)
            for n in range(options.repeats):
                for what, name in (("rollback", "first"), ("promote", "second")):
                    start = time.perf_counter()
                    if what == "promote":
                        promote(home.releases, name)
                    else:
                        rollback(home.releases)
                    gone = until(lambda name=name: client.slate("u1")["release"] == name, start)
                    took.setdefault(what, []).append(gone)
                item, user = f"new-{n}", f"stranger-{n}"
                start = time.perf_counter()
                client.call("POST", "/v1/items", {"item_id": item, "title": item, "genre": f"g{n}"})

                def shown(item: str = item) -> bool:
                    asked = {"history": ["i1"], "allow": [item]}
                    found = client.call("POST", "/v1/recommendations", asked)["items"]
                    return [row["item_id"] for row in found] == [item]

                took.setdefault("new item", []).append(until(shown, start))
                assert client.slate(user)["tier"] == "popularity"
                start = time.perf_counter()
                client.call("POST", "/v1/events", {"user_id": user, "item_id": f"i{n}"})
                known = until(lambda user=user: client.slate(user)["tier"] == "model", start)
                took.setdefault("new person", []).append(known)
    for what, seconds in took.items():
        print(f"{what:>10}: median {statistics.median(seconds):.3f} s, longest {max(seconds):.3f} s")


if __name__ == "__main__":
    main()
