"""The price of each saving as tables: for the terminal, and as a page."""

from __future__ import annotations

from html import escape
from pathlib import Path

from slipstream.artifacts import replace_text
from slipstream.evaluation.intervals import Interval
from slipstream.evaluation.ladder import Priced
from slipstream.evaluation.levers import Lever, TrainingLever
from slipstream.evaluation.pictures import intervals_svg
from slipstream.evaluation.price import Price
from slipstream.evaluation.report import html_table, page
from slipstream.evaluation.tables import Table

SIZE_COLUMNS = ("rung", "model kB", "of float32", "release kB", "bytes / item", "resident kB")
QUALITY_COLUMNS = ("rung", "HR@10", "NDCG@10", "difference", "exact", "overlap@10", "front")
TIME_COLUMNS = ("rung", "open ms", "step µs", "scan µs", "answer µs", "users / s", "training s")
LEVER_COLUMNS = ("lever", "on µs", "off µs", "saves", "bytes", "for each", "overlap@10")
TRAINING_COLUMNS = ("lever", "on", "off", "CPU", "saves", "peak MB on", "off", "measuring s")


MOST_DRAWN = 0.1


def price_tables(found: Price) -> list[Table]:
    """The ladder by size, by quality and by time, and the levers."""
    full = found.rungs[0].model_bytes
    training = Table(
        "levers of training",
        TRAINING_COLUMNS,
        tuple(map(_training_row, found.training)),
        "CPU of one training. measuring: CPU seconds that it took to find out.",
    )
    return [
        Table(
            f"{found.of.model} on {found.of.data}, board {found.of.board}: {found.users:,} users",
            SIZE_COLUMNS,
            tuple(_size_row(rung, full) for rung in found.rungs),
            "release: the folder of model and vocabularies. resident: with search copy and float32 layers."
            + "".join(f" {name} is left out: {why}." for name, why in found.left_out.items()),
        ),
        Table(
            "what it costs",
            QUALITY_COLUMNS,
            tuple(map(_quality_row, found.rungs)),
            "difference: of NDCG@10 to float32 over the same users, with its 95 % interval. "
            "front: no rung is as small and as good.",
        ),
        Table("CPU time", TIME_COLUMNS, tuple(map(_time_row, found.rungs)), "µs: median / 99th of 100."),
        Table(
            "levers",
            LEVER_COLUMNS,
            tuple(map(_lever_row, found.levers)),
            "overlap@10: with the lists without it.",
        ),
        *([training] if found.training else []),
    ]


def _size_row(rung: Priced, full: int) -> tuple[str, ...]:
    sizes = rung.model_bytes, rung.release_bytes, rung.resident_bytes
    model, release, resident = (f"{size / 1e3:,.1f}" for size in sizes)
    share = f"{rung.model_bytes / full:.1%}"
    return (rung.name, model, share, release, f"{rung.bytes_per_item:,.1f}", resident)


def _quality_row(rung: Priced) -> tuple[str, ...]:
    delta = f"{rung.ndcg_delta.mean:+.4f} [{rung.ndcg_delta.low:+.4f}, {rung.ndcg_delta.high:+.4f}]"
    exact, front = "yes" if rung.exact else "no", "*" if rung.pareto else ""
    return (rung.name, f"{rung.hr:.4f}", f"{rung.ndcg:.4f}", delta, exact, f"{rung.overlap:.3f}", front)


def _time_row(rung: Priced) -> tuple[str, ...]:
    pairs = (
        (rung.step_us, rung.step_p99_us),
        (rung.scan_us, rung.scan_p99_us),
        (rung.answer_p50_us, rung.answer_p99_us),
    )
    times = (f"{median:,.0f} / {worst:,.0f}" for median, worst in pairs)
    return (rung.name, f"{rung.open_ms:,.1f}", *times, f"{rung.users_per_s:,.0f}", f"{rung.train_cpu_s:,.1f}")


def _lever_row(lever: Lever) -> tuple[str, ...]:
    saves = 1 - lever.on_us / lever.off_us if lever.off_us else 0.0
    sizes = f"{lever.on_us:,.0f}", f"{lever.off_us:,.0f}", f"{saves:+.0%}", f"{lever.bytes:,}"
    return (lever.name, *sizes, lever.bytes_of, f"{lever.overlap:.3f}")


def _training_row(lever: TrainingLever) -> tuple[str, ...]:
    saves = 1 - lever.on / lever.off if lever.off else 0.0
    peaks = ("" if peak is None else f"{peak:,.0f}" for peak in (lever.on_mb, lever.off_mb))
    spent = f"{lever.on:,.1f}", f"{lever.off:,.1f}", lever.unit, f"{saves:+.0%}"
    return (lever.name, *spent, *peaks, f"{lever.measuring_s:,.1f}")


def price_pictures(found: Price) -> list[str]:
    """What each rung loses, and its size; one that loses more than a tenth is only in the tables."""
    full = found.rungs[0]
    drawn = [rung for rung in found.rungs if full.ndcg > 0 and rung.ndcg >= (1 - MOST_DRAWN) * full.ndcg]
    if not drawn:
        return []
    losses = [(rung.name, _scaled(rung.ndcg_delta, 100 / full.ndcg)) for rung in drawn]
    sizes = [(rung.name, 100 * rung.model_bytes / full.model_bytes) for rung in drawn]
    return [
        intervals_svg(losses, title="NDCG@10 to float32, % of it, with the 95 % interval"),
        intervals_svg([(n, Interval(s, s, s)) for n, s in sizes], title="bytes of the model, % of float32's"),
    ]


def _scaled(interval: Interval, factor: float) -> Interval:
    return Interval(*(factor * value for value in (interval.mean, interval.low, interval.high)))


def write_price_page(path: Path, found: Price) -> None:
    """One HTML file that fetches nothing, all at once."""
    tables = price_tables(found)
    body = ["<h1>The price of each saving</h1>", *price_pictures(found)]
    body += [f"<h2>{escape(table.title)}</h2>{html_table(table)}" for table in tables]
    replace_text(path, page("The price of each saving", body))
