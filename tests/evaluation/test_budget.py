"""Budgets: what is read, what is refused, and which rung of a ladder with known figures is picked."""

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.errors import BadInput, OverBudget, UsageError
from slipstream.evaluation.budget import budget_table, choose, parse_budget
from slipstream.evaluation.intervals import Interval
from slipstream.evaluation.ladder import Priced


def rung(name: str, size: int, ndcg: float, *, p99_us: float = 100.0, exact: bool = False) -> Priced:
    delta = ndcg - 0.2
    return Priced(
        name=name, model_bytes=size, release_bytes=2 * size, bytes_per_item=1, resident_bytes=3 * size,
        open_ms=1, step_us=1, step_p99_us=1, scan_us=1, scan_p99_us=1, hr=ndcg,
        answer_p50_us=p99_us / 2, answer_p99_us=p99_us, users_per_s=1, ndcg=ndcg,
        ndcg_delta=Interval(delta, delta - 0.01, delta + 0.01), exact=exact, overlap=1, train_cpu_s=1,
        pareto=False,
    )  # fmt: skip


LADDER = (
    rung("float32", 100_000, 0.2, exact=True, p99_us=900),
    rung("int8_certified", 130_000, 0.2, exact=True),
    rung("bf16", 50_000, 0.2001),
    rung("int8", 27_000, 0.1995),
    rung("int4", 18_000, 0.19, p99_us=3_000),
)


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("size<=1GB", "int4"),
        ("ndcg>=-5.001%", "int4"),
        ("ndcg>=-1%", "int8"),
        ("ndcg>=-0.26%, p99<=2ms", "int8"),
        ("ndcg>=-0.2%", "bf16"),
        ("ndcg>=0%", "bf16"),
        ("p99 <= 200us", "int8"),
        ("p50<=.06ms,size<=130%", "int8"),
        ("size<=18kB", "int4"),
        ("memory<=60%", "int4"),
        ("memory<=81.0kB,ndcg>=-1%", "int8"),
    ],
)
def test_the_smallest_rung_that_keeps_every_limit_is_chosen(text: str, chosen: str) -> None:
    choice = choose(LADDER, parse_budget(text))
    assert choice.rung.name == chosen
    assert text in choice.why
    rows = {row[0]: row[-1] for row in budget_table(LADDER, parse_budget(text)).rows}
    assert rows[chosen] == "yes"
    assert rows["float32"] == "never served"


def test_why_names_what_the_smaller_ones_miss() -> None:
    assert "int4 has ndcg -5.00%, p99 3.00 ms" in choose(LADDER, parse_budget("ndcg>=-1%,p99<=1ms")).why


def test_what_is_lost_is_told_also_where_the_budget_does_not_ask() -> None:
    assert "NDCG@10 -5.00%" in choose(LADDER, parse_budget("size<=1GB")).why


def test_a_rung_that_loses_nothing_certainly_is_always_there_for_quality_alone() -> None:
    worse = (*LADDER[:2], *(replace(r, ndcg_delta=Interval(-0.1, -0.2, 0)) for r in LADDER[2:]))
    assert choose(worse, parse_budget("ndcg>=0%")).rung.name == "int8_certified"


def test_where_no_rung_fits_each_one_says_what_it_has() -> None:
    with pytest.raises(OverBudget, match="no rung keeps") as caught:
        choose(LADDER, parse_budget("ndcg>=-0.1%,size<=30kB"))
    for said in ("int8_certified has size 0.13 MB", "bf16 has size 50.0 kB", "int4 has ndcg -5.00%"):
        assert said in caught.value.message
    assert caught.value.exit_code == 2


def test_without_a_quality_to_lose_nothing_is_picked_by_quality() -> None:
    nothing = tuple(replace(r, ndcg=0.0, ndcg_delta=Interval(0, 0, 0)) for r in LADDER)
    with pytest.raises(BadInput, match="NDCG@10 of float32 is 0"):
        choose(nothing, parse_budget("ndcg>=-1%"))
    assert choose(nothing, parse_budget("size<=20kB")).rung.name == "int4"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no limit of a budget"),
        ("ndcg", "no limit of a budget"),
        ("ndcg>=-0.5%,", "no limit of a budget"),
        ("ndcg>=-0.5%;size<=1MB", "no limit of a budget"),
        ("ndcg>=nan%", "no limit of a budget"),
        ("size<=1e3kB", "no limit of a budget"),
        ("hr>=-1%", "cannot bound 'hr'"),
        ("ndcg>=-0.5", "ndcg is measured in %"),
        ("size<=20", "size is measured in"),
        ("p99<=2MB", "p99 is measured in"),
        ("size=20MB", "bounded from above, by <="),
        ("size<=30MB,size>=40MB", "bounded from above, by <="),
        ("ndcg<=-1%", "bounded from below, by >="),
        ("size<=20MB,size<=10MB", "bounds size twice"),
        ("ndcg>=1%", "contradicts itself"),
        ("ndcg>=-100%", "contradicts itself"),
        ("size<=-20MB", "contradicts itself"),
        ("p99<=0ms", "contradicts itself"),
        (f"size<={'9' * 400}MB", "at most 200 letters"),
    ],
)
def test_what_cannot_be_read_or_kept_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_budget(text)


@given(st.text(max_size=60))
def test_any_text_is_a_budget_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert parse_budget(text).limits


@given(
    sizes=st.lists(st.integers(1, 10**6), min_size=2, max_size=6),
    losses=st.lists(st.floats(-0.2, 0.05), min_size=6, max_size=6),
    most=st.integers(1, 10**6),
    least=st.integers(-50, 0),
)
def test_no_rung_that_fits_is_smaller_than_the_choice(
    sizes: list[int], losses: list[float], most: int, least: int
) -> None:
    rungs = [LADDER[0], *(rung(f"r{n}", size, 0.2 + losses[n]) for n, size in enumerate(sizes))]
    fits = [r for r in rungs[1:] if r.model_bytes <= most and r.ndcg_delta.mean / 0.2 >= least / 100]
    budget = parse_budget(f"size<={most}B,ndcg>={least}%")
    if not fits:
        with pytest.raises(OverBudget):
            choose(rungs, budget)
        return
    assert choose(rungs, budget).rung.model_bytes == min(r.model_bytes for r in fits)
