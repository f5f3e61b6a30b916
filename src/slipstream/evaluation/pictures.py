"""Small pictures as inline SVG, written by hand: learning curves, and figures with their intervals.

Colours come from the page's style (`.line`, `.bar`, `.axis`), so they follow light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from slipstream.evaluation.intervals import Interval

WIDTH, HEIGHT = 320, 160
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 24, 26
PANELS = 4
_ALONG = ("step", "epoch", "round", "iteration")
_NOT_DRAWN = ("seconds", "_s", "events", "rate")
_SPENT = "train_cpu_s"

Curve = Sequence[Mapping[str, float]]


def curve_panels(curve: Curve) -> list[str]:
    """One picture per measured quantity of a learning curve (loss, validation NDCG, ...), the first four."""
    if len(curve) < 2:
        return []
    along = next((key for key in _ALONG if all(key in point for point in curve)), None)
    names = dict.fromkeys(key for point in curve for key in point)
    drawn = [n for n in names if n not in _ALONG and not n.endswith(_NOT_DRAWN)]
    panels = []
    for name in drawn:
        points = [
            (point[along] if along else float(place), point[name])
            for place, point in enumerate(curve)
            if name in point and math.isfinite(point[name])
        ]
        if len(points) > 1:
            title = name.replace("_", " ").replace("ndcg", "NDCG")
            spent = curve[-1].get(_SPENT)
            panels.append(line_svg(points, title=title, along=along or "evaluation", cpu_s=spent))
    return panels[:PANELS]


def line_svg(
    points: Sequence[tuple[float, float]], *, title: str, along: str, cpu_s: float | None = None
) -> str:
    """A line through (x, y), with its ends and its last value (of NDCG: its best) readable.

    cpu_s: what the way along x took; an epoch costs what any other does, so one scale serves for both.
    """
    xs, ys = [x for x, _ in points], [y for _, y in points]
    ticks = ticks_between(min(ys), max(ys))
    low, high = min(ticks[0], *ys), max(ticks[-1], *ys)
    across = _scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    up = _scale(low, high, HEIGHT - BOTTOM, TOP)
    path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)
    marks = "".join(
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(t):.1f}" y2="{up(t):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{up(t) + 3:.1f}" text-anchor="end">{_number(t)}</text>'
        for t in ticks
    )
    last_x, last_y = points[-1]
    told = f"{_number(last_y)} at the end"
    dot_x, dot_y = last_x, last_y
    if "ndcg" in title.lower():  # the best is what is kept
        dot_x, dot_y = max(points, key=lambda point: point[1])
        told = f"best {_number(dot_y)} at {along} {_number(dot_x)}"
    took = "" if cpu_s is None else f" · {_number(cpu_s)} CPU s"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{escape(title)} from {_number(ys[0])} to {_number(last_y)}">'
        f'<text class="name" x="{LEFT}" y="14">{escape(title)}: {told}</text>{marks}'
        f'<polyline class="line" points="{path}"/>'
        f'<circle class="dot" cx="{across(dot_x):.1f}" cy="{up(dot_y):.1f}" r="3"/>'
        f'<text x="{LEFT}" y="{HEIGHT - 8}">{escape(along)} {_number(min(xs))}</text>'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{_number(max(xs))}{took}</text></svg>'
    )


def intervals_svg(rows: Sequence[tuple[str, Interval]], *, title: str) -> str:
    """Names down, values across: a dot for each mean and a bar for its interval."""
    row_height, name_width = 26, max(120, 20 + 7 * max(len(name) for name, _ in rows))
    width = name_width + 450
    height = TOP + row_height * len(rows) + BOTTOM
    ticks = ticks_between(min(0.0, *(i.low for _, i in rows)), max(i.high for _, i in rows))
    low, high = ticks[0], max(ticks[-1], *(i.high for _, i in rows))
    across = _scale(low, high, name_width, width - 60)
    parts = [
        f'<line class="axis" x1="{across(t):.1f}" x2="{across(t):.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>'
        f'<text x="{across(t):.1f}" y="{height - 10}" text-anchor="middle">{_number(t)}</text>'
        for t in ticks
    ]
    for place, (name, interval) in enumerate(rows):
        y = TOP + row_height * (place + 0.5)
        parts.append(
            f'<text x="{name_width - 10}" y="{y + 4}" text-anchor="end">{escape(name)}</text>'
            f'<line class="bar" x1="{across(interval.low):.1f}" x2="{across(interval.high):.1f}" y1="{y}" '
            f'y2="{y}"/><circle class="dot" cx="{across(interval.mean):.1f}" cy="{y}" r="4"/>'
            f'<text x="{width - 4}" y="{y + 4}" text-anchor="end">{_number(interval.mean)}</text>'
        )
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(title)}"><text class="name" x="{name_width}" y="14">{escape(title)}</text>'
        f"{''.join(parts)}</svg>"
    )


def ticks_between(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that lie around or inside [low, high]."""
    if high - low < 1e-9 * max(1.0, abs(low), abs(high)):  # flat, as far as a picture can tell
        high = low + max(1e-6, 0.1 * abs(low))
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(n * step, 12) for n in range(first, last + 1)]


class _scale:  # noqa: N801 - read as a function
    """A linear map from [low, high] to [start, stop]."""

    def __init__(self, low: float, high: float, start: float, stop: float) -> None:
        self._low, self._start = low, start
        self._slope = (stop - start) / (high - low) if high > low else 0.0

    def __call__(self, value: float) -> float:
        return self._start + (value - self._low) * self._slope


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e6 else f"{value:.2e}"
