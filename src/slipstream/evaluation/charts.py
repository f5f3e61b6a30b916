"""Pictures of numbers over days and of groups side by side, by matplotlib (extra `plot`), for a page.

Drawn without a screen and without a global state. Ink in a middle grey on nothing, so that a page may be
light or dark.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from slipstream.errors import MissingExtra
from slipstream.evaluation.intervals import Interval

INK = "#808590"
COLOURS = ("#2457c5", "#c5482a", "#2a8a57", "#8a4fb5", "#b58a1f", "#4f9fb5")
WIDTH_IN = 7.6

Points = Sequence[tuple[str, Interval]]


def lines_chart(series: Mapping[str, Points], *, title: str) -> str:
    """A line with a band for each name over the labels of all (days, in order); the first six names."""
    labels = sorted({label for points in series.values() for label, _ in points})
    at = {label: place for place, label in enumerate(labels)}
    figure, axes = _figure(2.9)
    for (name, points), colour in zip(series.items(), COLOURS, strict=False):
        shown = [(at[label], seen) for label, seen in points if math.isfinite(seen.mean)]
        x = [place for place, _ in shown]
        axes.plot(x, [seen.mean for _, seen in shown], color=colour, marker="o", markersize=3, label=name)
        lows, highs = zip(*[_ends(seen) for _, seen in shown], strict=True) if shown else ((), ())
        axes.fill_between(x, lows, highs, color=colour, alpha=0.15, linewidth=0)
    step = max(1, math.ceil(len(labels) / 8))
    axes.set_xticks(range(0, len(labels), step), labels[::step])
    if len(series) > 1:
        axes.legend(frameon=False, labelcolor=INK, fontsize=8)
    return _image(figure, axes, title)


def dots_chart(rows: Points, *, title: str) -> str:
    """Names down, values across: a dot for each mean and a bar for its interval."""
    figure, axes = _figure(0.9 + 0.3 * len(rows))
    for place, (_, seen) in enumerate(rows):
        if math.isfinite(seen.mean):
            axes.plot(_ends(seen), [place, place], color=COLOURS[0], linewidth=3, alpha=0.5)
            axes.plot([seen.mean], [place], color=COLOURS[0], marker="o")
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    return _image(figure, axes, title)


def _ends(seen: Interval) -> tuple[float, float]:
    """Where they are not known, the mean."""
    return (seen.low, seen.high) if math.isfinite(seen.low + seen.high) else (seen.mean, seen.mean)


def _figure(height_in: float) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtra("matplotlib", "plot", "a page with pictures") from error
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    axes = figure.add_subplot()
    axes.tick_params(colors=INK, labelsize=8)
    axes.grid(color=INK, alpha=0.2)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure, axes


def _image(figure: Any, axes: Any, title: str) -> str:
    """An <img> that holds its picture."""
    from matplotlib import rc_context

    axes.set_title(title, loc="left", fontsize=9, color=INK)
    axes.patch.set_alpha(0)
    figure.patch.set_alpha(0)
    drawn = io.BytesIO()
    with rc_context({"svg.hashsalt": title}):  # the same numbers give the same bytes
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    content = base64.b64encode(drawn.getvalue()).decode()
    return f'<img alt="{escape(title)}" src="data:image/svg+xml;base64,{content}">'
