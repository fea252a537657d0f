"""The metrics: which there are, what they mean, and their values in what the daemon has told.

They are made from the answer to the request `metrics`, wherever that is read. How they are
written is in :mod:`.exposition`.
"""

from __future__ import annotations

from graced.host.histogram import BOUNDS_MS
from graced.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any, Literal

    JSON = Mapping[str, Any]
    Kind = Literal["counter", "gauge", "histogram", "info"]

MS_PER_S = 1000
JOB_STATES = ("waiting", "taken", "done", "dead")
WORKER_STATES = ("starting", "ready", "busy", "draining", "interrupted", "killed")


class Sample(Record):
    """One value; `suffix` goes after the name of its family."""

    labels: tuple[tuple[str, str], ...]
    value: float
    suffix: str = ""


class Family(Record):
    """All that has one name. That of a counter is without its `_total`."""

    name: str
    kind: Kind
    help: str
    samples: tuple[Sample, ...]


def families(answer: JSON) -> list[Family]:
    """Return all metrics of a daemon from its answer."""
    status, counts = answer["status"], answer["counts"]
    made = [*_daemon(status, counts), *_workers(status, counts), *_rounds(counts)]
    made.append(_schedules(status))
    made += [*_queues(status), *_jobs(counts.get("queues", {}))]
    return [family for family in made if family.samples]


def _daemon(status: JSON, counts: JSON) -> Iterator[Family]:
    version = (("version", str(status["version"])),)
    yield Family("graced_build", "info", "The version that runs.", (Sample(version, 1),))
    yield _gauge("graced_generation", "The generation in force.", [((), status["generation"])])
    yield _gauge("graced_uptime_seconds", "Seconds since the start.", [((), status["uptime"])])
    yield _gauge(
        "graced_ready", "1 if every pool has all its workers ready.", [((), int(status["ready"]))]
    )
    yield _counter(
        "graced_reloads",
        "Reloads that are over, by how they ended.",
        [((("result", result),), number) for result, number in counts["reloads"].items()],
    )


def _workers(status: JSON, counts: JSON) -> Iterator[Family]:
    pools, counted = status["pools"], counts["pools"]
    yield _gauge(
        "graced_workers",
        "Workers by what they are doing.",
        [
            ((("pool", name), ("state", state)), _in_state(pool, state))
            for name, pool in pools.items()
            for state in WORKER_STATES
        ],
    )
    targets = [((("pool", name),), pool["target"]) for name, pool in pools.items()]
    yield _gauge("graced_workers_target", "How many workers there shall be.", targets)
    yield _counter(
        "graced_worker_deaths",
        "Workers that died unasked, by what they died of, or the signal that killed them.",
        _by_label(counted, "deaths", "reason"),
    )
    yield _counter(
        "graced_worker_replacements",
        "Workers that were started for another, by why that one had to be replaced.",
        _by_label(counted, "replacements", "cause"),
    )
    yield _counter(
        "graced_worker_stops",
        "Workers that left as they were asked to, by the rung of the stop ladder that did it.",
        _by_label(counted, "stops", "rung"),
    )
    backoff = [
        ((("pool", name),), int(pool["backoff"] is not None)) for name, pool in pools.items()
    ]
    yield _gauge("graced_backoff", "1 while the pool is in back-off.", backoff)
    yield _gauge(
        "graced_worker_rss_bytes",
        "Resident memory of the worker in a slot; of both, while one replaces the other.",
        _resident(pools),
    )


def _rounds(counts: JSON) -> Iterator[Family]:
    pools = counts["pools"]
    yield _counter(
        "graced_rounds", "Rounds that ended, by how.", _by_label(pools, "rounds", "outcome")
    )
    busy = [((("pool", name),), pool["busy_seconds"]) for name, pool in pools.items()]
    yield _counter(
        "graced_busy_seconds", "Seconds that workers were busy, rounds in hand included.", busy
    )
    lengths = ((name, pool["round_seconds"]) for name, pool in pools.items())
    yield _histogram(
        "graced_round_seconds", "How long rounds took, without what they have waited.", lengths
    )


def _schedules(status: JSON) -> Family:
    schedules: JSON = status.get("schedules", {})
    return _gauge(
        "graced_schedule_late_seconds",
        "Seconds for which the earliest instant that is due has had no job; 0 if there is none.",
        [((("schedule", name),), told["late"]) for name, told in schedules.items()],
    )


def _queues(status: JSON) -> Iterator[Family]:
    queues = {n: pool["queue"] for n, pool in status["pools"].items() if pool.get("queue")}
    yield _gauge(
        "graced_queue_jobs",
        "Jobs in a queue, by state.",
        [
            ((("pool", name), ("state", state)), queue[state])
            for name, queue in queues.items()
            for state in JOB_STATES
            if queue.get(state) is not None
        ],
    )
    yield _gauge(
        "graced_queue_oldest_seconds",
        "How long the oldest job that is due has waited.",
        [((("pool", name),), queue.get("oldest", 0)) for name, queue in queues.items()],
    )
    yield _gauge(
        "graced_queue_trouble",
        "1 while a queue can't be used, or some workers can't reach it.",
        [((("pool", name),), int("trouble" in queue)) for name, queue in queues.items()],
    )
    leases = [
        ((("pool", name),), queue["lease_left"])
        for name, queue in queues.items()
        if queue.get("lease_left") is not None
    ]
    yield _gauge("graced_lease_left_seconds", "How long this host's lease still holds.", leases)


def _jobs(queues: JSON) -> Iterator[Family]:
    yield _counter(
        "graced_jobs",
        "Jobs submitted, done and dead, and attempts failed, on this host.",
        _by_label(queues, "jobs", "outcome"),
    )
    yield _histogram(
        "graced_job_wait_seconds",
        "How long jobs were due before they were handed out.",
        ((name, queue["wait_seconds"]) for name, queue in queues.items()),
    )
    yield _histogram(
        "graced_job_seconds",
        "How long jobs took, from hand-out to settle.",
        ((name, queue["job_seconds"]) for name, queue in queues.items()),
    )


def _in_state(pool: JSON, state: str) -> int:
    return sum(worker["state"] == state for worker in pool["workers"])


def _by_label(pools: JSON, key: str, label: str) -> Iterator[tuple[Labels, float]]:
    for name, pool in pools.items():
        for value, number in pool[key].items():
            yield (("pool", name), (label, value)), number


def _resident(pools: JSON) -> list[tuple[Labels, float]]:
    found: dict[Labels, float] = {}
    for name, pool in pools.items():
        for worker in pool["workers"]:
            labels = (("pool", name), ("slot", str(worker["slot"])))
            found[labels] = found.get(labels, 0) + (worker["rss"] or 0)
    return list(found.items())


# Kinds


def _gauge(name: str, what: str, values: Iterable[tuple[Labels, float]]) -> Family:
    return Family(name, "gauge", what, tuple(Sample(*each) for each in values))


def _counter(name: str, what: str, values: Iterable[tuple[Labels, float]]) -> Family:
    return Family(name, "counter", what, tuple(Sample(*each, "_total") for each in values))


def _histogram(name: str, what: str, of: Iterable[tuple[str, JSON]]) -> Family:
    samples: list[Sample] = []
    for pool, told in of:
        labels = (("pool", pool),)
        so_far = 0
        for bound, number in zip((*BOUNDS_MS, None), told["buckets"], strict=True):
            so_far += number
            le = "+Inf" if bound is None else repr(bound / MS_PER_S)
            samples.append(Sample((*labels, ("le", le)), so_far, "_bucket"))
        samples += (Sample(labels, told["sum"], "_sum"), Sample(labels, so_far, "_count"))
    return Family(name, "histogram", what, tuple(samples))


if TYPE_CHECKING:
    Labels = tuple[tuple[str, str], ...]
