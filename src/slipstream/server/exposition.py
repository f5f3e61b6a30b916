"""Counters and latency histograms in the text format of Prometheus (exposition format 0.0.4).

Small on purpose: fixed label names, fixed buckets, one lock.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass
class Counter:
    name: str
    help: str
    labels: tuple[str, ...] = ()
    values: dict[tuple[str, ...], float] = field(default_factory=dict)

    def add(self, *labels: str, by: float = 1) -> None:
        self.values[labels] = self.values.get(labels, 0) + by

    def lines(self) -> list[str]:
        head = [f"# HELP {self.name} {self.help}", f"# TYPE {self.name} counter"]
        values = self.values or ({} if self.labels else {(): 0})
        return head + [f"{self.name}{_labels(self.labels, at)} {v:g}" for at, v in sorted(values.items())]


@dataclass
class Histogram:
    """Seconds, in BUCKETS_S."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    counts: dict[tuple[str, ...], list[int]] = field(default_factory=dict)
    sums: dict[tuple[str, ...], float] = field(default_factory=dict)

    def observe(self, seconds: float, *labels: str) -> None:
        counts = self.counts.setdefault(labels, [0] * (len(BUCKETS_S) + 1))
        counts[bisect.bisect_left(BUCKETS_S, seconds)] += 1
        self.sums[labels] = self.sums.get(labels, 0.0) + seconds

    def lines(self) -> list[str]:
        out = [f"# HELP {self.name} {self.help}", f"# TYPE {self.name} histogram"]
        for at, counts in sorted(self.counts.items()):
            total = 0
            for bound, count in zip((*BUCKETS_S, None), counts, strict=True):
                total += count
                edge = "+Inf" if bound is None else f"{bound:g}"
                out.append(f"{self.name}_bucket{_labels((*self.labels, 'le'), (*at, edge))} {total}")
            out.append(f"{self.name}_sum{_labels(self.labels, at)} {self.sums[at]:.6f}")
            out.append(f"{self.name}_count{_labels(self.labels, at)} {total}")
        return out


@dataclass
class Gauge:
    """A value that is asked for when it is read."""

    name: str
    help: str
    read: Callable[[], float]

    def lines(self) -> list[str]:
        kind = [f"# HELP {self.name} {self.help}", f"# TYPE {self.name} gauge"]
        return [*kind, f"{self.name} {self.read():g}"]


class Metrics:
    """What the server counts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests = Counter("slipstream_requests_total", "Requests answered.", ("route", "status"))
        self.latency = Histogram("slipstream_request_seconds", "Time to answer, by route.", ("route",))
        self.answers = Histogram("slipstream_answer_seconds", "Time to make a slate, by tier.", ("tier",))
        self.events = Counter("slipstream_events_total", "Events received, by outcome.", ("outcome",))
        self.swaps = Counter("slipstream_release_swaps_total", "Releases taken into service.")
        self.refused = Counter("slipstream_release_refused_total", "Releases that could not be opened.")
        self.fallbacks = Counter("slipstream_arm_fallbacks_total", "Answers of the live release for an arm.")
        self.gauges: list[Gauge] = []

    def request(self, route: str, status: int, seconds: float) -> None:
        with self._lock:
            self.requests.add(route, str(status))
            self.latency.observe(seconds, route)

    def answer(self, tier: str, seconds: float) -> None:
        with self._lock:
            self.answers.observe(seconds, tier)

    def stored(self, stored: int, repeated: int, rejected: int) -> None:
        with self._lock:
            for outcome, count in (("stored", stored), ("repeated", repeated), ("rejected", rejected)):
                if count:
                    self.events.add(outcome, by=count)

    def count(self, counter: Counter) -> None:
        with self._lock:
            counter.add()

    def text(self) -> str:
        with self._lock:
            parts: Sequence[Counter | Histogram | Gauge] = (
                self.requests,
                self.latency,
                self.answers,
                self.events,
                self.swaps,
                self.refused,
                self.fallbacks,
                *self.gauges,
            )
            return "\n".join(line for part in parts for line in part.lines()) + "\n"


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    if not names:
        return ""
    pairs = (f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))
    return "{" + ",".join(pairs) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
