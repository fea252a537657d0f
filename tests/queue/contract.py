"""What every engine of the queue has to do, whatever keeps it.

Subclass :class:`QueueContract` in a test file and give it a ``queue`` fixture: an object
with the methods of :class:`kept.Kept`, and a keeper or server behind it.
"""

from __future__ import annotations

import time

import pytest
from keeper_harness import (
    DEADLINE,
    KeeperHarness,
    await_news,
    confirm,
    reconnect,
    settle,
    take,
    take_all,
    work_off,
)

from graced.queue import cancelling
from graced.queue.job import MAX_PAYLOAD, Discarded, Done, Postponed, Raised
from graced.queue.policy import Policy
from graced.queue.protocol import QueueError
from graced.queue.terms import Terms

SOON = 0.05  # seconds; who asks again and again would take longer
TRIES = 10  # as another program may have the machine meanwhile


class QueueContract:
    """The tests. One worker's end is in the hands of one worker."""

    def test_what_is_submitted_is_handed_out_in_order(self, queue: KeeperHarness) -> None:
        ids = queue.client().submit(['{"n": 1}', '"zwei"', "3"])
        jobs = work_off(queue.worker(1), 3)
        assert [job.id for job in jobs] == list(ids)
        assert [job.payload for job in jobs] == [{"n": 1}, "zwei", 3]
        assert [job.attempt for job in jobs] == [1, 1, 1]
        assert abs(jobs[0].submitted - time.time()) < 60

    def test_an_idle_worker_gets_a_new_job_at_once(self, queue: KeeperHarness) -> None:
        worker = queue.worker(1)
        worker.ask()
        assert worker.receive() is None
        client = queue.client()

        def latency() -> float:
            began = time.monotonic()
            client.submit(["1"])
            accepted = time.monotonic()
            job = take(worker)
            taken = time.monotonic()
            settle(worker, job)
            return taken - accepted - 3 * (accepted - began)  # that long the disk may take, too

        assert any(sorted(latency() for _ in range(20))[10] < SOON for _ in range(TRIES))

    def test_no_two_workers_have_the_same_job(self, queue: KeeperHarness) -> None:
        queue.client().submit(["1"] * 6)
        jobs = [take(queue.worker(n)) for n in range(1, 7)]
        assert len({job.id for job in jobs}) == 6

    def test_a_result_is_kept(self, queue: KeeperHarness) -> None:
        client = queue.client()
        [id] = client.submit(["1"])
        worker = queue.worker(1)
        settle(worker, take(worker), Done('{"exit":0}'))
        ended = client.wait(id)
        assert (ended["state"], ended["result"]) == ("done", '{"exit":0}')
        assert client.counts()["done"] == 1

    def test_what_raised_is_tried_again_and_then_dead(self, queue: KeeperHarness) -> None:
        client = queue.client()
        [id] = client.submit(["1"], Terms(0, 2))
        worker = queue.worker(1)
        for attempt in (1, 2):
            job = take(worker)
            assert (job.id, job.attempt) == (id, attempt)
            settle(worker, job, Raised('{"reason":"no"}'))
        ended = client.wait(id)
        assert (ended["state"], ended["attempts"]) == ("dead", 2)
        assert ended["evidence"] == '{"reason":"no"}'

    def test_a_delay_is_kept(self, queue: KeeperHarness) -> None:
        client = queue.client()
        client.submit(["1"], Terms(3600))
        [late] = client.submit(["2"], Terms(0.3))
        [early] = client.submit(["3"])
        worker = queue.worker(1)
        postponed = 0.0
        for _ in range(2):  # the early one comes first, unless 0.3 s have gone by
            job = take(worker)
            if job.id == late:
                assert time.time() >= job.submitted + 0.29
                postponed = time.time()
                settle(worker, job, Postponed("{}", 0.2))
            else:
                assert job.id == early
                settle(worker, job)
        again = take(worker)
        assert (again.id, again.attempt) == (late, 2)
        assert time.time() >= postponed + 0.19

    def test_a_job_can_be_given_up_at_once(self, queue: KeeperHarness) -> None:
        client = queue.client()
        [id] = client.submit(["1"])
        worker = queue.worker(1)
        settle(worker, take(worker), Discarded('{"reason":"useless"}'))
        assert client.wait(id)["state"] == "dead"

    @pytest.mark.parametrize("counts", [True, False])
    def test_the_job_of_a_dead_worker_goes_to_another(
        self, queue: KeeperHarness, counts: bool
    ) -> None:
        queue.client().submit(["1"])
        worker = queue.worker(1)
        job = take(worker)
        other = queue.worker(2)
        other.ask()
        queue.died(worker, 1, counts, signal=11)
        again = take(other)
        assert (again.id, again.attempt) == (job.id, 2 if counts else 1)

    def test_poison_is_dead_with_the_evidence(self, queue: KeeperHarness) -> None:
        client = queue.client()
        [id] = client.submit(["1"])
        for number in (1, 2, 3):
            worker = queue.worker(number)
            take(worker)
            queue.died(worker, number, True, signal=11, reason="killed by SIGSEGV")
        ended = client.wait(id)
        assert (ended["state"], ended["attempts"]) == ("dead", 3)
        assert "SIGSEGV" in ended["evidence"]

    def test_what_a_worker_settled_before_it_died_is_settled(self, queue: KeeperHarness) -> None:
        client = queue.client()
        [id] = client.submit(["1"])
        worker = queue.worker(1)
        worker.settle(take(worker), Done(), more=True)
        queue.died(worker, 1, True)
        assert client.wait(id)["state"] == "done"

    def test_who_leaves_gives_back_what_it_has_not_begun(self, queue: KeeperHarness) -> None:
        [id] = queue.client().submit(["1"])
        worker = queue.worker(1)
        take(worker)
        worker.leave()
        job = take(queue.worker(2))
        assert (job.id, job.attempt) == (id, 1)

    def test_a_repeated_settle_changes_nothing(self, queue: KeeperHarness) -> None:
        client = queue.client()
        [id] = client.submit(["1"])
        worker = queue.worker(1)
        job = take(worker)
        settle(worker, job, Raised("{}"))
        settle(worker, job, Raised("{}"))
        again = take(worker)
        assert (again.id, again.attempt) == (id, 2)
        settle(worker, job, Raised("{}"))
        assert queue.counts()["taken"] == 1, "that was about the first attempt"
        settle(worker, again)
        settle(worker, again, Raised("{}"))
        assert client.wait(id)["state"] == "done"

    def test_nothing_is_lost_or_doubled_when_the_queue_dies(self, queue: KeeperHarness) -> None:
        client = queue.client()
        ids = list(client.submit(["1"] * 300))
        workers = [queue.worker(n) for n in (1, 2)]
        done = []
        for _ in range(3):
            for worker in workers:
                done += work_off(worker, 20)
            held = [take(worker) for worker in workers]
            queue.restart()
            for worker, job in zip(workers, held, strict=True):
                worker.settle(job, Done(), more=True)
            done += held
        workers[1].leave()
        confirm(workers[1])
        while len(done) < len(ids):
            done += work_off(workers[0], 1)
        assert sorted(job.id for job in done) == ids
        assert {job.attempt for job in done} == {1}
        settle(workers[0], done[-1])
        assert queue.counts()["done"] == 300

    def test_what_is_in_hand_stays_there_when_the_queue_dies(self, queue: KeeperHarness) -> None:
        client = queue.client()
        [id] = client.submit(["1"])
        worker, other = queue.worker(1), queue.worker(2)
        job = take(worker)
        queue.restart()
        other.ask()
        for end in (worker, other):
            reconnect(end)
        quiet = time.monotonic() + 0.3
        while time.monotonic() < quiet:
            for end in (worker, other):
                assert end.receive() is None, "it is in the hands of the first"
                await_news(end, time.monotonic() + 0.05)
        settle(worker, job)
        assert queue.client().wait(id)["state"] == "done"

    def test_a_worker_has_as_many_jobs_at_once_as_it_wants(self, queue: KeeperHarness) -> None:
        ids = list(queue.client().submit(["1"] * 6))
        several = queue.worker(1)
        several.want(3)
        jobs = take_all(several, 3)
        assert [job.id for job in jobs] == ids[:3]
        several.settle(jobs[1], Done(), more=True)
        [fourth] = take_all(several, 1)
        assert fourth.id == ids[3]
        several.want(0)
        several.settle(jobs[0], Done(), more=False)
        several.put_back(fourth)
        confirm(several)
        again = take(queue.worker(2))
        assert (again.id, again.attempt) == (ids[3], 1)
        assert again.token > fourth.token
        queue.restart()
        reconnect(several)
        assert several.receive() is None  # what it wants is as before: nothing
        several.want(2)
        [fifth] = take_all(several, 1)
        assert fifth.id == ids[4]
        queue.died(several, 1, counts=True, reason="died")
        assert take(queue.worker(3)).id == ids[5]
        back = [queue.client().job(id) for id in (ids[2], ids[4])]
        assert [(job or {})["attempts"] for job in back] == [1, 1]

    def test_workers_that_want_several_share_what_there_is(self, queue: KeeperHarness) -> None:
        workers = [queue.worker(number) for number in (1, 2)]
        for worker in workers:
            worker.want(10)
            assert worker.receive() is None
        queue.client().submit(["1"] * 6)
        assert [len(take_all(worker, 3)) for worker in workers] == [3, 3]
        large = "x" * (MAX_PAYLOAD - 10)
        queue.client().submit([f'"{large}"'] * 7)
        assert sum(len(job.payload) for job in take_all(workers[0], 4)) == 4 * len(large)

    def test_who_has_several_is_told_which_one_is_cancelled(self, queue: KeeperHarness) -> None:
        client = queue.client()
        ids = client.submit(["1"] * 3)
        worker = queue.worker(1, cancels=True)
        worker.want(3)
        jobs = take_all(worker, 3)
        assert client.cancel([ids[1]]) == {}
        end = time.monotonic() + DEADLINE
        while not worker.cancelled:
            await_news(worker, end)
            assert worker.receive() is None
        assert worker.cancelled == [(ids[1], jobs[1].token)]
        worker.settle(jobs[1], Raised('{"reason":"cut"}'), more=False)
        worker.settle(jobs[0], Done(), more=False)
        confirm(worker)
        assert client.wait(ids[1])["state"] == "dead"
        assert client.wait(ids[0])["state"] == "done"
        assert client.counts()["taken"] == 1

    def test_who_does_not_let_go_of_a_cancelled_job_is_interrupted(
        self, queue: KeeperHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cancelling, "PATIENCE_S", 0.1)
        queue.restart()
        client = queue.client()
        [id] = client.submit(["1"])
        worker = queue.worker(1, cancels=True)
        worker.want(2)
        take_all(worker, 1)
        client.cancel([id])
        queue.until(lambda: ("cancel", 1, id) in queue.said)

    def test_a_payload_may_have_a_mebibyte(self, queue: KeeperHarness) -> None:
        client = queue.client()
        text = "x" * (MAX_PAYLOAD - 2)
        client.submit([f'"{text}"'])
        worker = queue.worker(1)
        job = take(worker)
        assert job.payload == text
        settle(worker, job, Done(f'"{text}"'))
        assert len(client.wait(job.id)["result"]) == MAX_PAYLOAD
        with pytest.raises(QueueError, match="at most 1048576 bytes"):
            client.submit([f'"{text}x"'])

    def test_a_stream_is_accepted_whole(self, queue: KeeperHarness) -> None:
        client = queue.client()
        ids = [id for some in client.stream(str(n) for n in range(1200)) for id in some]
        assert len(ids) == 1200
        assert client.counts()["waiting"] == 1200
        assert client.jobs("waiting", ids[-2], 1)[0]["payload"] == "1199"
        assert client.cancel(ids[-1:]) == client.drop(ids[-2:-1]) == {}
        assert client.wait(ids[-1])["state"] == "dead"
        jobs = work_off(queue.worker(1), 1198)
        assert [job.payload for job in jobs] == list(range(1198))

    def test_a_stream_without_an_end_is_not_accepted(self, queue: KeeperHarness) -> None:
        def broken():  # type: ignore[no-untyped-def]
            yield from (str(n) for n in range(1500))
            raise ValueError("line 1501 is no JSON")

        client = queue.client()
        with pytest.raises(ValueError, match="1501"):
            client.stream(broken())
        client.close()
        other = queue.client()
        [id] = other.submit(["42"])
        assert take(queue.worker(1)).id == id
        assert other.counts()["waiting"] == 0

    def test_a_stream_beyond_max_waiting_is_refused(self, queue: KeeperHarness) -> None:
        queue.keeper.apply(Policy(max_waiting=1500))
        client = queue.client()
        client.submit(["1"])
        full = "full: 1 jobs wait and max_waiting is 1500, too few for 2000 more; submit fewer"
        with pytest.raises(QueueError, match=full):
            client.stream(str(n) for n in range(2000))
        assert client.counts()["waiting"] == 1

    def test_jobs_are_listed(self, queue: KeeperHarness) -> None:
        client = queue.client()
        ids = client.submit(["1", "2", "3"])
        worker = queue.worker(1)
        take(worker)
        assert [j["id"] for j in client.jobs(None, 0, 10)] == list(ids)
        assert [j["id"] for j in client.jobs("taken", 0, 10)] == [ids[0]]
        assert [j["id"] for j in client.jobs("waiting", ids[1], 10)] == [ids[2]]
        assert [j["payload"] for j in client.jobs("waiting", 0, 1)] == ["2"]

    def test_of_long_texts_so_many_are_told_as_an_answer_has_room_for(
        self, queue: KeeperHarness
    ) -> None:
        client, long, many = queue.client(), "x" * 1_000_000, 10
        [tried] = client.submit(["1"], Terms(max_attempts=many))
        worker = queue.worker(1)
        for _ in range(many):
            settle(worker, take(worker), Raised(f'{{"reason":"{long}"}}'))
        job = client.job(tried)
        assert job is not None
        assert job["state"] == "dead"
        assert job["tries"][-1]["attempt"] == many
        ids = [tried, *(client.submit([f'"{long}"'])[0] for _ in range(many))]
        found: list[int] = []
        while page := client.jobs(None, found[-1] if found else 0, 500):
            found += [job["id"] for job in page]
        assert found == ids

    def test_jobs_are_retried_and_dropped(self, queue: KeeperHarness) -> None:
        client = queue.client()
        first, second, third = client.submit(["1", "2", "3"], Terms(0, 1))
        worker = queue.worker(1)
        settle(worker, take(worker), Raised("{}"))
        taken = take(worker)
        assert taken.id == second
        assert client.drop([second, third, 99]) == {
            second: "is being worked on",
            99: "no such job",
        }
        assert client.retry([first, second]) == {second: "is being worked on"}
        settle(worker, taken)
        again = take(worker)
        assert (again.id, again.attempt) == (first, 1)
        job = client.job(first)
        assert job is not None
        assert [t["token"] for t in job["tries"]] == [1], "what became of it before is told still"
        assert client.wait(third)["state"] == "gone"

    def test_of_due_jobs_the_higher_goes_first_and_of_equals_the_older(
        self, queue: KeeperHarness
    ) -> None:
        client = queue.client()
        usual = client.submit(["0"] * 3)
        [high] = client.submit(["1"], Terms(priority=100))
        [low] = client.submit(["2"], Terms(priority=-100))
        client.submit(["3"], Terms(3600, priority=50))
        worker = queue.worker(1)
        assert [job.id for job in work_off(worker, 2)] == [high, usual[0]]
        job = take(worker)  # more may be reserved for it
        [higher] = client.submit(["4"], Terms(priority=1))
        worker.settle(job, Done(), more=True)
        assert [job.id for job in [job, *work_off(worker, 3)]] == [usual[1], higher, usual[2], low]

    def test_of_open_jobs_only_one_has_a_unique_key(self, queue: KeeperHarness) -> None:
        client = queue.client()
        key = Terms(unique="a b/ä")
        [id] = client.submit(["1"], key)
        assert list(client.submit(["2"], key)) == [id], "it waits"
        assert list(client.submit(["2"], Terms(unique="a b"))) != [id]
        worker = queue.worker(1)
        job = take(worker)
        queue.restart()
        client = queue.client()
        assert list(client.submit(["2"], key)) == [id], "it is in hand"
        settle(worker, job, Discarded("{}"))
        [second] = client.submit(["3"], key)
        assert second != id
        assert client.retry([id]) == {id: f"job {second} with the same unique key is open"}
        assert client.drop([second]) == {}
        assert client.retry([id]) == {}
        assert list(client.submit(["2"], key)) == [id], "it waits again"

    def test_a_full_queue_has_room_for_a_job_that_is_there_already(
        self, queue: KeeperHarness
    ) -> None:
        queue.keeper.apply(Policy(max_waiting=1))
        client = queue.client()
        [id] = client.submit(["1"], Terms(unique="u"))
        assert list(client.submit(["2"], Terms(unique="u"))) == [id]
        with pytest.raises(QueueError, match="full"):
            client.submit(["2"], Terms(unique="v"))
        assert client.counts()["waiting"] == 1

    def test_a_token_grows_with_each_time_that_a_job_is_handed_out(
        self, queue: KeeperHarness
    ) -> None:
        queue.client().submit(["1"])
        tokens = []
        for number in range(1, 4):
            worker = queue.worker(number)
            job = take(worker)
            assert job.attempt == 1
            tokens.append(job.token)
            queue.died(worker, number, False)
            queue.restart()
        assert tokens == sorted(set(tokens))

    def test_a_waiting_job_that_is_cancelled_is_dead_without_an_attempt(
        self, queue: KeeperHarness
    ) -> None:
        client = queue.client()
        ids = client.submit(["1"] * 3)
        worker = queue.worker(1)
        settle(worker, take(worker))
        assert client.cancel([*ids, 99]) == {ids[0]: "is done", 99: "no such job"}
        assert client.cancel(ids[1:]) == {}, "twice is once"
        ended = client.wait(ids[1])
        assert (ended["state"], ended["attempts"]) == ("dead", 0)
        assert '"reason":"cancelled"' in ended["evidence"]
        assert queue.counts()["waiting"] == 0
        told = queue.tally.picture()["jobs"]
        assert told == {"submitted": 3, "done": 1, "failed": 0, "dead": 2}

    def test_a_paused_queue_hands_out_nothing_over_restarts(self, queue: KeeperHarness) -> None:
        client = queue.client()
        ids = client.submit(["1"] * 3)
        worker = queue.worker(1)
        job = take(worker)
        client.pause(True)
        assert client.counts()["paused"] is True
        settle(worker, job)
        worker.ask()
        queue.restart()
        reconnect(worker)
        client = queue.client()
        later = client.submit(["1"])
        quiet = time.monotonic() + 0.3
        while time.monotonic() < quiet:
            assert worker.receive() is None, "it is paused"
            await_news(worker, time.monotonic() + 0.05)
        client.pause(False)
        assert [job.id for job in work_off(worker, 3)] == [*ids[1:], *later]
        assert queue.counts()["paused"] is False

    def test_attempts_are_kept_one_by_one(self, queue: KeeperHarness) -> None:
        client = queue.client()
        [id] = client.submit(["1"], Terms(priority=3, unique="u"))
        assert client.job(id + 1) is None
        worker = queue.worker(1)
        settle(worker, take(worker), Raised('{"reason":"first"}'))
        take(worker)
        queue.died(worker, 1, True, reason="killed by SIGSEGV")
        other = queue.worker(2)
        settle(other, take(other), Done("7"))
        job = client.job(id)
        assert job is not None
        assert (job["state"], job["attempts"], job["result"]) == ("done", 3, "7")
        assert (job["priority"], job["unique"]) == (3, "u")
        tries = job["tries"]
        assert [t["attempt"] for t in tries] == [1, 2]
        assert [t["token"] for t in tries] == sorted({t["token"] for t in tries})
        assert tries[0]["evidence"] == '{"reason":"first"}'
        assert "SIGSEGV" in tries[1]["evidence"]
        assert all(t["counts"] and t["began"] <= t["ended"] <= job["ended"] for t in tries)

    def test_a_job_in_hand_is_cancelled_once_its_worker_is_gone(self, queue: KeeperHarness) -> None:
        client = queue.client()
        [id] = client.submit(["1"], Terms(unique="u"))
        worker = queue.worker(1)
        take(worker)
        assert client.cancel([id]) == {}
        queue.until(lambda: ("cancel", 1, id) in queue.said)
        queue.said.clear()
        queue.restart()
        queue.until(lambda: ("cancel", 1, id) in queue.said)  # who had not heard it hears it
        client = queue.client()
        job = client.job(id)
        assert job is not None
        assert (job["state"], job["cancelling"]) == ("taken", True)
        queue.died(worker, 1, True, reason="killed by SIGKILL")
        ended = client.wait(id)
        assert (ended["state"], ended["attempts"]) == ("dead", 0)
        assert '"reason":"cancelled"' in ended["evidence"]
        job = client.job(id)
        assert job is not None
        assert [t["counts"] for t in job["tries"]] == [False]
        told = queue.tally.picture()["jobs"]
        assert told == {"submitted": 1, "done": 0, "failed": 0, "dead": 1}
        assert list(client.submit(["2"], Terms(unique="u"))) != [id]

    @pytest.mark.parametrize("outcome", [Done("1"), Raised('{"reason":"no"}')])
    def test_what_ends_while_it_is_cancelled_stays_done_and_is_not_tried_again(
        self, queue: KeeperHarness, outcome: Done | Raised
    ) -> None:
        client = queue.client()
        [id, other] = client.submit(["1", "2"])
        worker = queue.worker(1)
        job = take(worker)
        assert client.cancel([id]) == {}
        worker.settle(job, outcome, more=True)
        ended = client.wait(id)
        done = isinstance(outcome, Done)
        assert (ended["state"], ended["attempts"]) == (("done", 1) if done else ("dead", 0))
        assert take(queue.worker(2)).id == other, "the first is about to be interrupted"

    def test_a_schedules_instants_have_one_job_each(self, queue: KeeperHarness) -> None:
        queue.watch(s="daily")
        [(since, last)] = queue.standings("s")
        assert abs(since - time.time()) < 60
        assert last is None
        for instant in (since + 10, since + 20, since + 10, since + 20):
            queue.submit("s", instant, '{"n": 1}')
        assert queue.kept() == [
            ("made", since + 10), ("made", since + 20),
            ("known", since + 10), ("known", since + 20),
        ]  # fmt: skip
        jobs = work_off(queue.worker(1), 2)
        assert [(job.payload, job.scheduled) for job in jobs] == [
            ({"n": 1}, since + 10), ({"n": 1}, since + 20),
        ]  # fmt: skip
        queue.restart()
        queue.submit("s", since + 20)
        assert queue.kept() == [("known", since + 20)]
        assert queue.standings("s") == [(since, since + 20)]

    def test_a_schedule_that_changes_starts_anew(self, queue: KeeperHarness) -> None:
        queue.watch(s="daily", t="hourly")
        [(since, _), _] = queue.standings("s", "t")
        queue.submit("s", since + 10)
        queue.kept()
        queue.watch(s="daily", t="every minute")
        assert queue.standings("s") == [(since, since + 10)]
        queue.watch(s="weekly")
        [(_, last)] = queue.standings("s")
        assert last is None
        queue.watch(s=("weekly", since - 50, False))
        assert queue.standings("s") == [(since - 50, None)]
        queue.submit("s", since + 10)
        queue.kept()
        queue.watch(s=("weekly", since - 90, False))
        assert queue.standings("s") == [(since - 90, since + 10)]
        queue.watch(s=("weekly", since - 90, True))
        assert queue.standings("s") == [(since - 90, None)]

    def test_a_schedule_that_overlaps_has_no_second_job(self, queue: KeeperHarness) -> None:
        queue.watch(s="daily")
        [(since, _)] = queue.standings("s")
        for instant in (since + 10, since + 20):
            queue.submit("s", instant, alone=True)
        assert queue.kept() == [("made", since + 10), ("overlaps", since + 20)]
        worker = queue.worker(1)
        job = take(worker)
        queue.submit("s", since + 30, alone=True)
        assert queue.kept() == [("overlaps", since + 30)]
        settle(worker, job)
        queue.submit("s", since + 20, alone=True)
        queue.submit("s", since + 40, alone=True)
        assert queue.kept() == [("known", since + 20), ("made", since + 40)]

    def test_only_the_daemon_submits_for_schedules(self, queue: KeeperHarness) -> None:
        with pytest.raises(QueueError, match="by the daemon alone"):
            queue.client().submit(["1"], Terms(schedule="s", scheduled=1.0))
