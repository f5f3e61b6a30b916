"""The contract of a runner, over every runner."""

import os

import pytest

from slipstream.cluster.runner import LocalProcesses, Runner, Sequential, Task, TaskFailed
from slipstream.errors import BadInput, SlipstreamError


def square(number: int) -> int:
    return number * number


def fail_with(message: str) -> None:
    raise ValueError(message)


def fail_politely() -> None:
    raise BadInput("the file is empty", hint="give another")


def die() -> None:
    os._exit(9)


RUNNERS = [Sequential(), LocalProcesses(2)]


@pytest.mark.parametrize("runner", RUNNERS, ids=["sequential", "processes"])
def test_results_come_in_the_order_of_the_tasks(runner: Runner) -> None:
    seen: list[int] = []
    tasks = [Task(f"square {n}", square, {"number": n}) for n in (3, 1, 2)]
    assert runner.run(tasks, lambda done, total, note: seen.append(done)) == [9, 1, 4]
    assert seen == sorted(seen)
    assert runner.run([]) == []


@pytest.mark.parametrize("runner", RUNNERS, ids=["sequential", "processes"])
def test_the_first_failure_names_its_task(runner: Runner) -> None:
    tasks = [Task("good", square, {"number": 2}), Task("the bad one", fail_with, {"message": "broken"})]
    with pytest.raises(ValueError, match="broken") as caught:
        runner.run(tasks)
    assert "the bad one" in " ".join(caught.value.__notes__)


@pytest.mark.parametrize("runner", RUNNERS, ids=["sequential", "processes"])
def test_our_own_errors_keep_their_kind_and_hint(runner: Runner) -> None:
    with pytest.raises(BadInput, match="polite: the file is empty") as caught:
        runner.run([Task("polite", fail_politely), Task("good", square, {"number": 1})])
    assert isinstance(caught.value, SlipstreamError)
    assert caught.value.hint == "give another"


def test_a_process_that_dies_is_told_by_name() -> None:
    with pytest.raises(TaskFailed, match="its process died"):
        LocalProcesses(2).run([Task("mortal", die), Task("other", die)])
