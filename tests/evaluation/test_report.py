"""Comparisons, tables and the page: what they say is what the trials say."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from club_world import Follower, interactions, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.errors import UsageError
from slipstream.evaluation.arena import open_arenas
from slipstream.evaluation.comparison import averaged, compare, paired_difference
from slipstream.evaluation.pictures import curve_panels, line_svg, ticks_between
from slipstream.evaluation.report import report_html, report_markdown, write_report
from slipstream.evaluation.result import Trial
from slipstream.evaluation.slates import evaluate_slates
from slipstream.evaluation.suite import Failure
from slipstream.evaluation.tables import (
    all_metrics,
    cost_table,
    differences_table,
    gap_table,
    metrics_table,
    plain_rows,
    tables_of,
)
from slipstream.evaluation.trial import Run, run_trial
from slipstream.models.recommender import FitContext


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> list[Trial]:
    folder = write_folder(tmp_path_factory.mktemp("data") / "clubs", interactions())
    found = []
    for board in ("loo", "temporal"):
        (arena,) = open_arenas(folder, [board])
        found.append(run_trial(folder, "popularity", board))
        found.append(Run(arena, "follower", Follower, 10, FitContext(), False).trial({}))
    return found


class Page(HTMLParser):
    """Collects text, and fails on tags that do not close."""

    VOID = ("meta", "line", "circle", "polyline")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


def test_compare_pairs_each_board_with_its_own_baseline(trials: list[Trial]) -> None:
    rows = compare(trials)
    assert [(r.model, r.board, r.verdict) for r in rows] == [
        ("popularity", "loo", ""),
        ("follower", "loo", "better"),
        ("popularity", "temporal", ""),
        ("follower", "temporal", "better"),
    ]
    difference = rows[1].difference
    assert difference is not None
    assert difference.mean == pytest.approx(trials[1].metrics["NDCG@10"] - trials[0].metrics["NDCG@10"])
    turned = compare(trials[:2], against="follower")
    assert turned[0].verdict == "worse"
    assert turned[1].difference is None


def test_a_trial_is_not_better_than_itself(trials: list[Trial]) -> None:
    same = [trials[1], replace(trials[1], label="again")]
    assert compare(same)[1].verdict == "open"


def test_wrong_comparisons_are_refused(trials: list[Trial]) -> None:
    with pytest.raises(UsageError, match="not asked for the same targets"):
        paired_difference(trials[0], trials[2])
    with pytest.raises(UsageError, match="no trial of ease on board loo"):
        compare(trials, against="ease")
    with pytest.raises(UsageError, match="no figure NDCG@7"):
        compare(trials, metric="NDCG@7")
    with pytest.raises(UsageError, match="not another seed"):
        averaged(trials[:2])
    with pytest.raises(UsageError, match="at least one"):
        averaged([])


def test_seeds_are_averaged_user_by_user(trials: list[Trial]) -> None:
    one = trials[1]
    values = {name: np.zeros_like(column) for name, column in one.scores.values.items()}
    none = replace(
        one, seed=1, scores=replace(one.scores, values=values, metrics=dict.fromkeys(one.metrics, 0.0))
    )
    both = averaged([one, none])
    assert both.metrics["NDCG@10"] == pytest.approx(one.metrics["NDCG@10"] / 2)
    assert both.metrics["Coverage@10"] == pytest.approx(one.metrics["Coverage@10"] / 2)
    assert both.name == "follower (2 seeds)"
    assert both.scores.intervals["NDCG@10"].low > 0
    assert compare([trials[0], both])[1].baseline == "popularity"


def test_tables_show_the_figures_of_the_trials(trials: list[Trial]) -> None:
    table = metrics_table(trials[:2])
    assert table.columns == ("model", "HR@10", "NDCG@10", "MRR@10")
    rows = plain_rows(table, joint=" ")
    assert rows[1][0] == "follower"
    assert rows[1][1] == "1.0000 [1.0000, 1.0000]"
    low, high = trials[0].scores.intervals["HR@10"].low, trials[0].scores.intervals["HR@10"].high
    assert rows[0][1] == f"{trials[0].metrics['HR@10']:.4f} [{low:.4f}, {high:.4f}]"
    assert len(metrics_table(trials[:2], all_metrics()).columns) == 8
    assert differences_table(trials[:2]).rows[0][-1] == "better"
    gaps = gap_table(trials[:2])
    assert gaps is not None
    assert gaps.columns[1].startswith("tie (")
    assert gap_table(trials[2:]) is None
    assert cost_table(trials[2:]).rows[0][-1] == "yes"  # popularity is refitted on temporal
    assert len(tables_of(trials)) == 4 + 3


def test_markdown_marks_the_best_and_breaks_no_table(trials: list[Trial]) -> None:
    odd = [replace(trials[0], label="a|b <i>"), trials[1]]
    text = report_markdown(odd)
    assert "**1.0000** [1.0000, 1.0000]" in text
    assert "a\\|b &lt;i>" in text
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) <= 1


def test_the_page_is_whole_and_needs_nothing_from_outside(trials: list[Trial], tmp_path: Path) -> None:
    failure = Failure("ease", "loo", "needs <more> users", "collect some")
    write_report(tmp_path / "report.html", trials, failures=[failure], title="Clubs & rings")
    html = (tmp_path / "report.html").read_text()
    page = read(html)
    assert "Clubs & rings" in page.text
    assert "needs <more> users" in page.text
    assert f"{trials[0].metrics['NDCG@10']:.4f}" in page.text
    assert trials[0].targets_sha256[:16] in page.text
    assert page.tags.count("svg") == 2 + 2 * 2  # figures of two boards; loss and NDCG of the follower on each
    assert "script" not in page.tags
    assert "http" not in html
    assert "better" in page.text


def test_names_cannot_break_the_page(trials: list[Trial]) -> None:
    page = read(report_html([replace(trials[1], label="<script>alert(1)</script>"), trials[0]]))
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text


def test_foreign_slates_stand_in_the_same_page(trials: list[Trial], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "clubs", interactions())
    peer = evaluate_slates(folder, "loo", trials[1].slates, name="a peer")
    page = read(report_html([trials[0], trials[1], peer]))
    assert "a peer" in page.text
    assert peer.metrics["NDCG@10"] == trials[1].metrics["NDCG@10"]


def test_an_empty_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one trial"):
        write_report(tmp_path / "report.html", [])
    assert not (tmp_path / "report.html").exists()


def test_curves_leave_out_what_is_no_measure() -> None:
    curve = [
        {"step": 1.0, "loss": 2.0, "wall_s": 3.0},
        {"step": 2.0, "loss": 1.0, "wall_s": 4.0, "ndcg": 0.1},
    ]
    panels = curve_panels(curve)
    assert len(panels) == 1  # one point of NDCG is no curve
    assert "loss: 1 at the end" in panels[0]
    assert "step 1" in panels[0]
    assert curve_panels([]) == []


def test_curves_tell_the_best_epoch_and_what_the_way_there_took() -> None:
    values = [0.1, 0.3, 0.2]
    curve = [
        {"epoch": n + 1.0, "loss": 3.0 - n, "train_cpu_s": 2.5 * (n + 1), "validation_ndcg@10": value}
        for n, value in enumerate(values)
    ]
    loss, ndcg = curve_panels(curve)
    assert "validation NDCG@10: best 0.3 at epoch 2" in ndcg
    assert "3 · 7.5 CPU s" in ndcg
    assert "3 · 7.5 CPU s" in loss
    (points,) = re.findall(r'points="([^"]*)"', ndcg)
    best = points.split()[1].split(",")
    assert f'cx="{best[0]}" cy="{best[1]}"' in ndcg  # the dot marks what is kept


def test_a_curve_may_begin_without_a_number() -> None:
    assert curve_panels([{"loss": float("nan")}, {"loss": 1.0}, {"loss": 2.0}]) != []


@settings(deadline=None)
@given(st.lists(st.floats(-1e5, 1e5), min_size=2, max_size=20))
def test_a_line_stays_inside_its_picture(ys: list[float]) -> None:
    svg = line_svg([(float(x), y) for x, y in enumerate(ys)], title="t", along="step")
    (points,) = re.findall(r'points="([^"]*)"', svg)
    for point in points.split():
        x, y = map(float, point.split(","))
        assert 0 <= x <= 320
        assert 0 <= y <= 160


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_and_hold_the_range(low: float, width: float) -> None:
    ticks = ticks_between(low, low + width)
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(ticks)
    assert ticks[0] <= low + 1e-9 * max(1, abs(low))
    assert ticks[-1] >= low + width - 1e-6 * max(1.0, abs(low), width)
