"""The gate: what a policy says to what was measured. Decides and explains; measures nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from slipstream.evaluation.contest import Contest
from slipstream.evaluation.drift import InputDrift
from slipstream.evaluation.true_reasons import ReasonCheck
from slipstream.loop.policy import Policy


@dataclass(frozen=True)
class Evidence:
    """What the trial of a candidate found. drift: None where nothing was live."""

    new_events: int
    contest: Contest | None  # None: nobody to ask
    drift: InputDrift | None
    reasons: ReasonCheck | None


@dataclass(frozen=True)
class Check:
    """One line of the verdict. value, limit: None where there was nothing to compare; then it is passed."""

    name: str
    passed: bool
    value: float | None
    limit: float | None
    why: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Verdict:
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def why(self) -> str:
        """The reasons against, or what speaks for it."""
        against = [check.why for check in self.checks if not check.passed]
        if against:
            return "; ".join(against)
        return next((check.why for check in self.checks if check.name == "ndcg"), "")


def judge(policy: Policy, evidence: Evidence) -> Verdict:
    """All checks, also after the first that fails: who is refused should learn everything at once."""
    checks = [enough_events(policy, evidence.new_events)]
    found = evidence.contest
    users = 0 if found is None else found.users
    checks.append(_least("users", "people to ask", users, policy.data.users))
    if found is None:
        return Verdict(tuple(checks))
    checks += [_ndcg(policy, found), *_guardrails(policy, found), *_answers(policy, found)]
    if evidence.reasons is not None:
        checks.append(_reasons(policy, evidence.reasons))
    if evidence.drift is not None:
        checks += _drift(policy, evidence.drift)
    return Verdict(tuple(checks))


def enough_events(policy: Policy, new_events: int) -> Check:
    return _least("events", "new events", new_events, policy.data.events)


def _ndcg(policy: Policy, found: Contest) -> Check:
    above, name = policy.ndcg.above, f"NDCG@{policy.ndcg.k}"
    if found.live is None or found.difference is None:
        value = found.candidate.ndcg
        why = f"nothing is live: {name} {value.mean:.4f} has nothing to beat"
        return Check("ndcg", True, None, None, why)
    low, high = found.difference.low, found.difference.high
    numbers = (
        f"{name} {found.candidate.ndcg.mean:.4f} against {found.live.ndcg.mean:.4f} of {found.live.name}, "
        f"difference {found.difference.mean:+.4f} [{low:+.4f}, {high:+.4f}]"
    )
    if low > above:
        return Check("ndcg", True, low, above, numbers)
    return Check("ndcg", False, low, above, f"{numbers}: its low end must lie above {above:+.4f}")


def _guardrails(policy: Policy, found: Contest) -> list[Check]:
    rails, own, live = policy.guardrails, found.candidate, found.live
    if live is None:
        return []
    latency = max(rails.latency * live.p50_ms, rails.latency_ms)
    popular = max(rails.popularity_share * live.popularity_share, rails.popularity_floor)
    return [
        _least("coverage", "coverage", own.coverage, rails.coverage * live.coverage),
        _most("popularity", "share of the most popular items", own.popularity_share, popular),
        _most("latency", "median milliseconds of an answer", own.p50_ms, latency),
        _most("size", "bytes", own.bytes, rails.size * live.bytes),
    ]


def _answers(policy: Policy, found: Contest) -> list[Check]:
    limits = policy.drift
    silent = found.candidate.without_list
    checks = [_most("without_list", "share of people without an answer", silent, limits.without_list)]
    if found.overlap is not None:
        name = "overlap of the lists with those of the live release"
        checks.append(_least("overlap", name, found.overlap, limits.overlap))
    return checks


def _reasons(policy: Policy, found: ReasonCheck) -> Check:
    if found.share is None:
        return Check("reasons", True, None, policy.guardrails.true_reasons, "it gives no reasons")
    check = _least("reasons", "share of true reasons", found.share, policy.guardrails.true_reasons)
    if check.passed:
        return check
    return Check("reasons", False, check.value, check.limit, f"{check.why} ({found.example})")


def _drift(policy: Policy, found: InputDrift) -> Sequence[Check]:
    limits = policy.drift
    return (
        _most("kinds", "drift of the kinds of event", found.kinds, limits.kinds),
        _most("items", "drift of the items", found.items, limits.items),
        _most("one_user", "share of the new events by one person", found.one_user, limits.one_user),
    )


def _least(name: str, what: str, value: float, limit: float) -> Check:
    passed = value >= limit
    return Check(name, passed, value, limit, f"{what} {_n(value)}, at least {_n(limit)}")


def _most(name: str, what: str, value: float, limit: float) -> Check:
    if math.isnan(value):
        return Check(name, True, None, limit, f"{what}: nothing to compare")
    return Check(name, value <= limit, value, limit, f"{what} {_n(value)}, at most {_n(limit)}")


def _n(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.3g}"
