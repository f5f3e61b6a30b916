"""Cycles: the better release goes live, every other is refused with the reason, and all is on record."""

from __future__ import annotations

import re
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import cycle_world
import polars as pl
import pytest
from cycle_world import STEPS, answers, policy, run

import slipstream
from slipstream.artifacts import holding
from slipstream.errors import BadInput, Busy, NotThere, UsageError
from slipstream.evaluation.true_reasons import ReasonCheck
from slipstream.events.impressions import person_of
from slipstream.events.sqlite_impressions import Feedback, SqliteImpressionStore
from slipstream.loop import cycle_steps, journal
from slipstream.loop.policy import Policy, Watch
from slipstream.loop.watching import look
from slipstream.loop.workspace import Workspace
from slipstream.recommend.experiment import EXPERIMENT_FILE, read_experiment
from slipstream.recommend.live_release import current_release, list_releases, promote, promotions, rollback
from slipstream.recommend.release import Release


def live(space: Workspace) -> str:
    return current_release(space.home).name


def refused_by(record: journal.Record) -> list[str]:
    step = "trial" if record.told("trial") else "snapshot"
    return [check["name"] for check in (record.told(step) or {})["checks"] if not check["passed"]]


def test_a_better_model_goes_live_and_the_record_tells_who_what_and_why(space: Workspace) -> None:
    record = run(space, policy())
    assert (record.outcome, [step.step for step in record.steps]) == ("promoted", STEPS)
    assert live(space) == record.name
    assert record.against == "first"
    assert "@" in record.by
    assert record.policy["model"] == "item_neighbours"
    cut = record.told("snapshot") or {}
    assert (cut["new_events"], cut["trial_events"], cut["events"]) == (600, 120, 1080)
    assert re.fullmatch("[0-9a-f]{12}", cut["snapshot"])  # which data: the same events give the same mark
    found = record.told("trial") or {}
    assert found["difference"]["low"] > 0.1
    assert found["candidate"]["ndcg"] > 3 * found["live"]["ndcg"]
    assert found["users"] == cycle_world.PEOPLE
    assert refused_by(record) == []
    release = Release.open(current_release(space.home))
    assert release.meta["through_us"] == cut["cut_us"]  # the newest events are the next cycle's lesson
    assert promotions(space.home.releases)[-1].why == record.why
    assert journal.records(space.home)[-1] == record  # on the disk as it is here
    assert not journal.work_home(space.home, record).made.exists()
    assert (space.home.snapshot / "manifest.json").exists()  # what was made by hand is not touched
    assert rollback(space.home.releases) == "first"


def test_a_bad_model_is_refused_and_the_live_one_goes_on(space: Workspace) -> None:
    first = run(space, policy())
    space.ingest(cycle_world.events(0, 5, seed=9).with_columns(pl.col("time") + 20 * cycle_world.STEP_S))
    planted = run(space, policy("popularity"))
    assert planted.outcome == "refused"
    assert "ndcg" in refused_by(planted)
    assert first.name in planted.why
    assert live(space) == first.name
    assert [step.step for step in planted.steps] == STEPS[:5]
    assert {r.name: r.promoted is not None for r in list_releases(space.home)}[planted.name] is False


def test_without_new_events_nothing_is_trained_and_the_reason_is_told(space: Workspace) -> None:
    assert run(space, policy()).outcome == "promoted"
    empty = run(space, policy(data={"events": 121, "users": 30}))  # 120 were held back for the trial
    assert (empty.outcome, [step.step for step in empty.steps]) == ("refused", ["snapshot"])
    assert empty.why == "new events 120, at least 121"
    assert refused_by(empty) == ["events"]


def test_new_events_by_people_nobody_knows_leave_nobody_to_ask(space: Workspace) -> None:
    strangers = pl.DataFrame(
        {
            "user_id": [f"new{n}" for n in range(300)],
            "item_id": "m1",
            "time": [cycle_world.START_S + 10**7 + n for n in range(300)],
        }
    )
    space.ingest(strangers)
    record = run(space, policy(trial_events=200))
    assert record.outcome == "refused"
    assert refused_by(record) == ["users"]
    assert record.why == "people to ask 0, at least 30"


LIMITS: list[tuple[dict[str, object], str]] = [
    ({"ndcg": {"above": 0.9}}, "ndcg"),
    ({"guardrails": {"coverage": 50}}, "coverage"),
    ({"guardrails": {"size": 0.01}}, "size"),
    ({"guardrails": {"latency": 0, "latency_ms": 0}}, "latency"),
    ({"guardrails": {"popularity_share": 0, "popularity_floor": 0}}, "popularity"),
    ({"drift": {"overlap": 1}}, "overlap"),
    ({"drift": {"one_user": 0}}, "one_user"),
    ({"drift": {"items": 0}}, "items"),
    ({"data": {"events": 1, "users": 121}}, "users"),
    ({"data": {"events": 601}}, "events"),
]


@pytest.mark.parametrize(("over", "name"), LIMITS)
def test_each_limit_refuses_by_its_name(
    judged: tuple[journal.Record, Policy], over: dict[str, object], name: str
) -> None:
    """The evidence of one cycle under other policies: what is measured does not depend on the limits."""
    record, chosen = judged
    verdict = cycle_steps.judge(Policy.model_validate({**chosen.model_dump(), **over}), evidence[record.name])
    assert name in [check.name for check in verdict.checks if not check.passed]
    assert verdict.why


def test_what_no_honest_cycle_shows_is_refused_by_its_name_too(
    judged: tuple[journal.Record, Policy],
) -> None:
    """And no check of the gate is without a test here."""
    record, chosen = judged
    found = evidence[record.name]
    assert found.contest is not None
    assert found.drift is not None
    silent = replace(found.contest, candidate=replace(found.contest.candidate, without_list=0.02))
    planted = {
        "reasons": replace(found, reasons=ReasonCheck(100, 99, "p1 –saw→ m9 is no edge")),
        "kinds": replace(found, drift=replace(found.drift, kinds=0.3)),
        "without_list": replace(found, contest=silent),
        "users": replace(found, contest=None),
    }
    for name, seen in planted.items():
        verdict = cycle_steps.judge(chosen, seen)
        assert [check.name for check in verdict.checks if not check.passed] == [name]
    assert "p1 –saw→ m9 is no edge" in cycle_steps.judge(chosen, planted["reasons"]).why
    every = {check.name for check in cycle_steps.judge(chosen, found).checks}
    assert every == {name for _, name in LIMITS} | set(planted)


evidence: dict[str, cycle_steps.Evidence] = {}


@pytest.fixture(scope="module")
def judged(made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[journal.Record, Policy]:
    space = slipstream.open(shutil.copytree(made, tmp_path_factory.mktemp("judged") / "home"))
    chosen = policy()
    judge = cycle_steps.judge

    def listening(rules: Policy, found: cycle_steps.Evidence) -> object:
        evidence["last"] = found
        return judge(rules, found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cycle_steps, "judge", listening)
        record = run(space, chosen)
    evidence[record.name] = evidence.pop("last")
    return record, chosen


def test_the_first_release_has_nothing_to_beat_and_needs_a_model(tmp_path: Path) -> None:
    space = slipstream.open(tmp_path / "home")
    with pytest.raises(UsageError, match="names no model"):
        run(space, policy(""))
    with pytest.raises(NotThere, match="no events"):
        run(space, policy())
    space.ingest(cycle_world.events(0, 10))
    record = run(space, policy())
    assert record.outcome == "promoted"
    assert "nothing to beat" in record.why
    assert live(space) == record.name
    assert [r.outcome for r in journal.records(space.home)] == ["failed", "promoted"]


def test_events_without_times_are_told(tmp_path: Path) -> None:
    space = slipstream.open(tmp_path / "home")
    space.ingest(pl.DataFrame({"user_id": ["a", "b"], "item_id": ["1", "2"]}))
    with pytest.raises(BadInput, match="no times"):
        run(space, policy())


def test_two_cycles_at_once_are_refused(space: Workspace) -> None:
    with holding(space.home.root / ".cycle", "cycle"), pytest.raises(Busy, match="cycle"):
        run(space, policy())
    with holding(space.home.root / ".lock", "train by hand"), pytest.raises(Busy, match="by hand"):
        run(space, policy())
    record = journal.unfinished(space.home)  # what was busy goes on later
    assert record is not None
    assert [step.step for step in record.steps] == ["snapshot", "train"]
    assert run(space, policy("popularity")).name == record.name  # with the policy it began with
    assert live(space) == record.name


def test_what_goes_live_by_hand_in_between_is_not_replaced(space: Workspace) -> None:
    space.train("ease")
    space.release("ease", name="by-hand", promote=False)
    gate = cycle_steps.STEPS["gate"]

    def meanwhile(cycle: cycle_steps.Cycle) -> cycle_steps.Told:
        promote(space.home.releases, "by-hand")
        return gate(cycle)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cycle_steps.STEPS, "gate", meanwhile)
        record = run(space, policy())
    assert record.outcome == "refused"
    assert "by-hand is live, not first" in record.why
    assert live(space) == "by-hand"


def test_somebody_who_is_forgotten_meanwhile_is_in_nothing_that_goes_live(space: Workspace) -> None:
    train = cycle_steps.STEPS["train"]

    def meanwhile(cycle: cycle_steps.Cycle) -> cycle_steps.Told:
        told = train(cycle)
        if cycle.record.begun_again == 0:
            space.forget("p7")
        return told

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cycle_steps.STEPS, "train", meanwhile)
        record = run(space, policy())
    assert (record.outcome, record.begun_again) == ("promoted", 1)
    assert "p7" not in Release.open(current_release(space.home)).users
    with pytest.raises(NotThere):  # the mark still stands for what is made by hand
        space.release("popularity")


@pytest.mark.parametrize(("clicks", "outcome"), [(0.05, "rolled back"), (0.6, "promoted")])
def test_a_release_that_people_do_not_take_is_rolled_back(
    space: Workspace, clicks: float, outcome: str
) -> None:
    """Good on the newest events, bad (or good) with people."""
    now_us = time.time_ns() // 1000
    answers(space, "first", now_us - 3_600_000_000, clicks=0.5)
    watch = {"minutes": 0.05, "every_s": 0.05, "answers": 200}

    def serve_when_live() -> None:
        while live(space) == "first":
            time.sleep(0.02)
        answers(space, live(space), time.time_ns() // 1000, clicks=clicks)

    server = threading.Thread(target=serve_when_live)
    server.start()
    record = run(space, policy(watch=watch))
    server.join()
    assert record.outcome == outcome
    assert live(space) == ("first" if outcome == "rolled back" else record.name)
    if outcome == "rolled back":
        last = promotions(space.home.releases)[-1]
        assert last.back
        assert "CTR 0.005" in last.why


def test_a_clock_that_went_back_leaves_the_watch_without_an_opinion(space: Workspace) -> None:
    now_us = time.time_ns() // 1000
    answers(space, "first", now_us - 7_200_000_000, clicks=0.5)
    answers(space, "second", now_us - 3_600_000_000, clicks=0.0)  # stamped before its own promotion
    seen = look(space.home, Watch(answers=200), "second", "first", now_us)
    assert (seen.verdict, seen.answers) == ("too few", (0, 400))


@pytest.mark.parametrize("taken", [0.1, 0.5])
def test_a_control_arm_answers_in_the_same_hours(space: Workspace, taken: float) -> None:
    """Before the promotion people clicked less: only the control tells that the new release is worse."""
    answers(space, "first", time.time_ns() // 1000 - 3_600_000_000, clicks=0.05)

    def serve_when_live() -> None:
        while (running := read_experiment(space.home.root)) is None:
            time.sleep(0.02)
        now_us, new = time.time_ns() // 1000, live(space)
        assert running.arms["control"].release == "first"
        answers(space, new, now_us, clicks=taken, arm=running.label("new"))
        answers(space, "first", now_us, clicks=0.5, arm=running.label("control"))

    server = threading.Thread(target=serve_when_live)
    server.start()
    watch = {"minutes": 0.05, "every_s": 0.05, "answers": 200, "control": 0.3}
    record = run(space, policy(watch=watch))
    server.join()
    assert record.outcome == ("rolled back" if taken < 0.5 else "promoted")
    assert read_experiment(space.home.root) is None  # it ends with the watch
    if taken < 0.5:
        assert re.search(r"CTR 0\.010\d against 0\.0[45]\d+ of first", record.why)


@pytest.mark.parametrize("content", ['{"name": "own", "arms": {"a": {}, "b": {}}}', '{"name": "half'])
def test_an_experiment_of_the_home_is_left_alone_by_a_watch(space: Workspace, content: str) -> None:
    (space.home.root / EXPERIMENT_FILE).write_text(content)
    record = run(space, policy(watch={"minutes": 0.001, "control": 0.3}))
    assert record.outcome == "promoted"
    assert (space.home.root / EXPERIMENT_FILE).read_text() == content


def test_the_trial_may_leave_out_what_recommendations_led_to(space: Workspace) -> None:
    """Half of the people clicked on what they were shown: they are not asked."""
    with space.store() as store:
        rows = pl.concat(list(store.scan()))
    prompted = rows.filter(pl.col("user_id").str.slice(1).cast(pl.Int64) < 60)
    told = [
        Feedback(event, person_of(user), moment, "some answer", item, kind, None, "")
        for event, user, item, kind, moment in prompted.select(
            "event_id", "user_id", "item_id", "kind", "time_us"
        ).rows()
    ]
    with SqliteImpressionStore(space.home.impressions) as store:
        store.append([], told, now_us=time.time_ns() // 1000)
    for about, people in (("unprompted", 60), ("all", 120)):
        record = run(space, policy(ask_about=about, ndcg={"above": 1}))
        assert (record.told("trial") or {})["users"] == people


def test_a_transformer_goes_on_from_the_live_one(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    small = {"dim": 16, "layers": 1, "heads": 1, "epochs": 8, "batch_tokens": 128}
    space = cycle_world.home(tmp_path / "home", "transformer", overrides=small)
    for warm in (True, False):
        chosen = policy("", warm_start=warm, ndcg={"above": 1}, drift={"items": 9})
        told = (run(space, chosen).told("train") or {})["transformer"]
        assert told["warm_start"] is warm
        assert told["settings"]["dim"] == 16  # the live model's settings, not the preset's
    before = [listed.name for listed in list_releases(space.home)]
    small = run(space, policy("", budget="size<=1kB"))
    assert small.outcome == "refused"
    assert "size<=1kB" in small.why
    assert [step.step for step in small.steps] == STEPS[:3]
    assert [listed.name for listed in list_releases(space.home)] == before  # nothing was written
    packed = run(space, policy("", budget="ndcg>=-99%,size<=60%", ndcg={"above": 1}, drift={"items": 9}))
    chosen_form = Release.open(space.home.releases / packed.name).meta["compression"]
    assert chosen_form["budget"] == "ndcg>=-99%,size<=60%"  # what the gate judged is the small form
    assert (packed.told("release") or {})["bytes"] == Release.open(space.home.releases / packed.name).size()


def test_older_releases_of_cycles_go_and_those_made_by_hand_stay(space: Workspace) -> None:
    names = [run(space, policy(ndcg={"above": -2}, data={"events": 1, "users": 2}, keep=2)).name]
    for day in (20, 40, 60):
        more = cycle_world.events(0, 5, seed=day).with_columns(pl.col("time") + day * cycle_world.STEP_S)
        space.ingest(more)
        names.append(run(space, policy(ndcg={"above": -2}, data={"events": 1, "users": 2}, keep=2)).name)
    assert [r.name for r in list_releases(space.home)] == [names[3], names[2], "first"]
    (space.home.root / EXPERIMENT_FILE).write_text('{"name": "half')  # it may name any of them
    space.ingest(cycle_world.events(0, 5, seed=80).with_columns(pl.col("time") + 80 * cycle_world.STEP_S))
    run(space, policy(ndcg={"above": -2}, data={"events": 1, "users": 2}, keep=2))
    assert len(list_releases(space.home)) == 4
    assert len(journal.records(space.home)) == 5  # the records stay
