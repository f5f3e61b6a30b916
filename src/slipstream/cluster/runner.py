"""Independent tasks over the cores of a machine: same results as one after the other, in the given order.

A task is a module-level function and its arguments, so that it can run in another process. The first failure
stops the rest and names its task.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any, Protocol

from slipstream.config import Progress, silent
from slipstream.errors import SlipstreamError, Unavailable

_LOOK_EVERY_S = 0.2


class TaskFailed(Unavailable):
    """The process of a task died; the message names the task."""

    code = "task-failed"


@dataclass(frozen=True)
class Task:
    """`function(**arguments)`, called `name` in messages."""

    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any] = field(default_factory=dict)


class Runner(Protocol):
    def run(self, tasks: Sequence[Task], progress: Progress = silent) -> list[Any]:
        """The results in the order of the tasks."""
        ...


class Sequential:
    """One after the other in this process: the reference."""

    def run(self, tasks: Sequence[Task], progress: Progress = silent) -> list[Any]:
        results = []
        for done, task in enumerate(tasks):
            progress(done, len(tasks), task.name)
            try:
                results.append(task.function(**task.arguments))
            except Exception as error:
                raise _named(task, error) from None
        progress(len(tasks), len(tasks), "")
        return results


class LocalProcesses:
    """At most `workers` tasks at a time, each in a fresh process of this machine.

    Processes are spawned, not forked: numeric libraries hold threads that a fork would break.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def run(self, tasks: Sequence[Task], progress: Progress = silent) -> list[Any]:
        if self.workers < 2 or len(tasks) < 2:
            return Sequential().run(tasks, progress)
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(self.workers, len(tasks)), mp_context=spawn) as pool:
            futures = [pool.submit(task.function, **task.arguments) for task in tasks]
            _watch(futures, tasks, progress)
            return _results(futures, tasks)


def _watch(futures: Sequence[Future[Any]], tasks: Sequence[Task], progress: Progress) -> None:
    started = time.monotonic()
    pending = set(futures)
    while pending:
        finished, pending = wait(pending, timeout=_LOOK_EVERY_S, return_when=FIRST_EXCEPTION)
        running = [t.name for t, f in zip(tasks, futures, strict=True) if not f.done()]
        progress(
            len(tasks) - len(pending), len(tasks), f"{', '.join(running)} {time.monotonic() - started:.0f} s"
        )
        if any(f.exception() for f in finished):
            for future in pending:
                future.cancel()
            return


def _results(futures: Sequence[Future[Any]], tasks: Sequence[Task]) -> list[Any]:
    for task, future in zip(tasks, futures, strict=True):
        error = None if future.cancelled() else future.exception()
        if error is not None:
            raise _named(task, error)
    return [future.result() for future in futures]


def _named(task: Task, error: BaseException) -> BaseException:
    """The error with the name of its task: in the message of our own, as a note on a bug's."""
    if isinstance(error, SlipstreamError):
        error.message = f"{task.name}: {error.message}"
        return error
    if isinstance(error, BrokenProcessPool):
        return TaskFailed(f"{task.name}: its process died", hint="was it killed, or out of memory?")
    error.add_note(f"in the task {task.name!r}")
    return error
