"""A budget for a release: what quality, size and time must be, and the smallest rung that keeps all of it.

    ndcg>=-0.5%,size<=20MB,p99<=2ms

`ndcg` is the change of NDCG@10 relative to float32, as measured; `size` the bytes of the weights and `memory`
what stays resident, in bytes or in percent of float32's; `p50` and `p99` the CPU time of an answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slipstream.errors import BadInput, OverBudget, UsageError
from slipstream.evaluation.ladder import FLOAT32, Priced
from slipstream.evaluation.tables import Table

MOST_LETTERS = 200
EXAMPLE = 'for example "ndcg>=-0.5%,size<=20MB,p99<=2ms"'
BYTES = {"B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
MICROS = {"us": 1, "µs": 1, "ms": 1e3, "s": 1e6}
SHARE = {"%": 0.01}
UNITS = {"ndcg": SHARE, "size": BYTES | SHARE, "memory": BYTES | SHARE, "p50": MICROS, "p99": MICROS}
_LIMIT = re.compile(r"([A-Za-z0-9_]+)\s*([<>=]+)\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*([A-Za-zµ%]*)")


@dataclass(frozen=True)
class Limit:
    """value: a share where the unit was %, else bytes or µs; a lower bound for `ndcg`, else an upper one."""

    name: str
    value: float
    relative: bool
    text: str

    def missed(self, rung: Priced, full: Priced) -> str:
        """What the rung has instead, in words; empty where the limit is kept. full: the float32 rung."""
        if self.name == "ndcg":
            change = relative_change(rung, full)
            return "" if change >= self.value else f"ndcg {change:+.2%}"
        have, shown = _HAVE[self.name]
        value = have(rung)
        if value <= self.value * (have(full) if self.relative else 1):
            return ""
        return f"{self.name} {value / have(full):.1%}" if self.relative else f"{self.name} {shown(value)}"


@dataclass(frozen=True)
class Budget:
    text: str
    limits: tuple[Limit, ...]

    def missed(self, rung: Priced, full: Priced) -> list[str]:
        return [words for limit in self.limits if (words := limit.missed(rung, full))]


@dataclass(frozen=True)
class Choice:
    """The rung that was chosen, and why in one sentence."""

    rung: Priced
    why: str


def relative_change(rung: Priced, full: Priced) -> float:
    """Of NDCG@10 to float32. Raises BadInput where float32 finds nothing: no loss can be told then."""
    if not full.ndcg > 0:
        raise BadInput(
            "NDCG@10 of float32 is 0 on the held-out events: what a rung loses cannot be measured",
            hint="train for longer, or leave ndcg out of the budget",
        )
    return rung.ndcg_delta.mean / full.ndcg


def parse_budget(text: str) -> Budget:
    """Raises UsageError for what cannot be read, and for a budget that nothing could keep."""
    if len(text) > MOST_LETTERS:
        raise UsageError(f"a budget has at most {MOST_LETTERS} letters, this one {len(text)}", hint=EXAMPLE)
    limits = tuple(_limit(part.strip()) for part in text.split(","))
    names = [limit.name for limit in limits]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"the budget bounds {name} twice", hint="keep the stricter of the two")
    return Budget(text, limits)


def _limit(part: str) -> Limit:
    found = _LIMIT.fullmatch(part)
    if found is None:
        raise UsageError(f"{part!r} is no limit of a budget: name, <= or >=, number, unit", hint=EXAMPLE)
    name, sign, number, unit = found.groups()
    if name not in UNITS:
        raise UsageError(f"a budget cannot bound {name!r}", hint=f"known: {', '.join(UNITS)}")
    if sign != (">=" if name == "ndcg" else "<="):
        way = "below, by >=" if name == "ndcg" else "above, by <="
        raise UsageError(f"{part!r}: {name} is bounded from {way}", hint=EXAMPLE)
    if unit not in UNITS[name]:
        raise UsageError(f"{part!r}: {name} is measured in {', '.join(UNITS[name])}", hint=EXAMPLE)
    value = float(number) * UNITS[name][unit]
    if name == "ndcg" and not -1 < value <= 0:
        raise UsageError(
            f"{part!r} contradicts itself: compression is there to lose little, between -100% and 0%",
            hint="ndcg>=0% takes only rungs that lose nothing",
        )
    if name != "ndcg" and not 0 < value < float("inf"):
        raise UsageError(f"{part!r} contradicts itself: nothing has a {name} of 0 or less", hint=EXAMPLE)
    return Limit(name, value, unit == "%", part)


def choose(rungs: Sequence[Priced], budget: Budget) -> Choice:
    """The rung of fewest bytes that keeps every limit; of equal ones the more exact.

    float32 searched without its int8 copy is not among them: it is never what is served. Raises OverBudget.
    """
    full, served = rungs[0], [rung for rung in rungs if rung.name != FLOAT32]
    missed = {rung.name: budget.missed(rung, full) for rung in served}
    fitting = [rung for rung in served if not missed[rung.name]]
    if not fitting:
        told = "; ".join(f"{name} has {', '.join(words)}" for name, words in missed.items())
        raise OverBudget(
            f"no rung keeps {budget.text}: {told}",
            hint="widen the budget, or train a smaller model (dim, layers)",
        )
    best = min(fitting, key=lambda rung: (rung.model_bytes, not rung.exact, -rung.ndcg))
    smaller = [rung.name for rung in served if rung.model_bytes < best.model_bytes]
    change = f", NDCG@10 {relative_change(best, full):+.2%}" if full.ndcg > 0 else ""
    why = f"the smallest of {len(fitting)} of {len(served)} rungs that keep {budget.text}{change}"
    told = "; ".join(f"{name} has {', '.join(missed[name])}" for name in smaller)
    return Choice(best, f"{why} ({told})" if told else why)


def budget_table(rungs: Sequence[Priced], budget: Budget) -> Table:
    """Every rung with what it has of what can be bounded, and what it misses."""
    full = rungs[0]
    rows = tuple(
        (
            rung.name,
            f"{rung.ndcg:.4f}",
            f"{rung.ndcg_delta.mean:+.4f} [{rung.ndcg_delta.low:+.4f}, {rung.ndcg_delta.high:+.4f}]",
            *(shown(have(rung)) for have, shown in _HAVE.values()),
            "never served" if rung.name == FLOAT32 else ", ".join(budget.missed(rung, full)) or "yes",
        )
        for rung in rungs
    )
    return Table(
        f"budget {budget.text}",
        ("rung", "NDCG@10", "difference", *_HAVE, "keeps the budget"),
        rows,
        "NDCG@10 on each user's last event, with the paired 95 % interval; p50, p99: CPU of an answer.",
    )


def _size(value: float) -> str:
    return f"{value / 1e6:,.2f} MB" if value >= 1e5 else f"{value / 1e3:,.1f} kB"


def _time(value: float) -> str:
    return f"{value / 1e3:,.2f} ms" if value >= 100 else f"{value:,.0f} µs"


_HAVE: dict[str, tuple[Callable[[Priced], float], Callable[[float], str]]] = {
    "size": (lambda rung: rung.model_bytes, _size),
    "memory": (lambda rung: rung.resident_bytes, _size),
    "p50": (lambda rung: rung.answer_p50_us, _time),
    "p99": (lambda rung: rung.answer_p99_us, _time),
}
