"""What a JobWorker does with its end of a queue, in this process and without a daemon."""

from __future__ import annotations

import json
from typing import NoReturn

import pytest

from graced.queue.job import Discard, Discarded, Job, Outcome, Postponed, Raised, Retry
from graced.workers.job_worker import JobWorker
from graced.workers.job_worker import outcome_of as result_of
from graced.workers.runtime import DRAIN, Runtime, WorkerInterrupt


class Drained(Runtime):
    """A runtime in which a drain is asked for right before the n-th look whether it was."""

    looks = 0
    last = 0

    @property
    def over(self) -> bool:
        self.looks += 1
        if self.looks > self.last:
            self.asked = DRAIN
        return super().over


class End:
    """An end of a queue that always has a job, and confirms what it is told at the next look."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.unsettled = 0
        self.is_cut_off = False

    def ask(self) -> None:
        self.told.append("ask")

    def receive(self) -> Job | None:
        self.unsettled = 0
        return Job(1, "payload", 1, 0.0) if self.told[-1] == "ask" else None

    def settle(self, _job: Job, _outcome: Outcome, *, more: bool) -> None:
        self.unsettled = 1
        self.told.append("settle")

    def leave(self) -> None:
        self.told.append("leave")

    def fileno(self) -> int:
        return -1

    def retry_in(self) -> float:
        return 0.0


class Works(JobWorker):
    def handle(self, job: Job) -> None:
        pass


@pytest.mark.parametrize("looks", range(1, 12))
def test_whenever_a_drain_comes_the_last_settle_is_seen_confirmed(looks: int) -> None:
    worker, end = Works(), End()
    detached = Runtime.detached()
    runtime = worker._graced = Drained(detached.context)
    runtime.last = looks
    worker._JobWorker__end = end  # type: ignore[attr-defined]
    try:
        worker.run()
    finally:
        runtime.wakeup.close()
        detached.wakeup.close()
    assert end.told[-1] == "leave"
    assert end.told.count("leave") == 1
    assert end.unsettled == 0


@pytest.fixture
def interrupted() -> JobWorker:
    worker = Works()
    worker._graced.raised = WorkerInterrupt()
    return worker


def outcome_of(worker: JobWorker, error: BaseException) -> Outcome:
    def handle(_: Job) -> None:
        raise error

    worker.handle = handle  # type: ignore[method-assign]
    return worker._outcome(Job(1, None, 1, 0.0))


def test_whatever_an_interrupt_has_become_settles_no_job(interrupted: JobWorker) -> None:
    raised = interrupted._graced.raised
    assert raised is not None
    cleaning = OSError("cannot clean up")
    cleaning.__context__ = raised
    for error in (raised, BaseExceptionGroup("of a task", [raised]), cleaning):
        with pytest.raises(type(error)):
            outcome_of(interrupted, error)


def test_what_a_job_says_of_itself_when_interrupted_holds(interrupted: JobWorker) -> None:
    retry = Retry(after=5)
    retry.__context__ = interrupted._graced.raised
    assert isinstance(outcome_of(interrupted, retry), Postponed)


class Sly(dict[str, int]):
    def items(self) -> NoReturn:
        raise ZeroDivisionError("sly")


def test_a_result_that_raises_while_it_is_read_fails_its_job_alone() -> None:
    outcome = result_of(Sly(a=1))
    assert isinstance(outcome, Raised)
    assert json.loads(outcome.evidence)["error"] == "ZeroDivisionError: sly"


def test_the_evidence_of_a_long_traceback_has_its_end() -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    error = ValueError("x" * 100_000 + " the end")
    error.__cause__ = Unprintable()
    outcome = outcome_of(Works(), error)
    assert isinstance(outcome, Raised)
    told = json.loads(outcome.evidence)
    assert told["traceback"].startswith("…")
    assert told["traceback"].endswith("x the end\n")
    assert told["reason"].startswith("ValueError: xxx")


def test_a_task_group_is_what_its_only_task_said() -> None:
    worker = Works()
    for said, outcome in ((Discard("no use"), Discarded), (Retry(after=5), Postponed)):
        group = ExceptionGroup("of tasks", [ExceptionGroup("of tasks", [said])])
        assert isinstance(outcome_of(worker, group), outcome)
    assert worker._graced.writer.record.errors == 0
    raised = outcome_of(worker, ExceptionGroup("of tasks", [ValueError("boom"), Discard("no use")]))
    assert isinstance(raised, Raised)
    reason = json.loads(raised.evidence)["reason"]
    assert reason == "ExceptionGroup: of tasks (2 sub-exceptions): ValueError: boom"
