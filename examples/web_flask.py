"""A Flask application that leaves work to a queue: it answers at once, and tells later.

    $ curl -d path=/etc/hostname localhost:8000/checksums
    {"job": 1}
    $ curl localhost:8000/checksums/1
    {"result": {"bytes": 7, "sha256": "…"}, "state": "done"}

The daemon is that of `$GRACED_CONFIG`, its pool that of examples/checksums.py. To look at jobs the
application has to be a member of the daemon's group; to submit, of the pool's `submit_group`.
"""

from __future__ import annotations

from flask import Flask, request

from graced import NoSuchJob, Queue, QueueError

app = Flask(__name__)
queue = Queue.open(pool="checksums")  # connects when it is needed; threads and forks may share it


@app.post("/checksums")
def submit() -> tuple[dict[str, object], int]:
    number = queue.submit(request.form["path"], unique=request.headers.get("Idempotency-Key"))
    return {"job": number}, 202


@app.get("/checksums/<int:number>")
def look(number: int) -> dict[str, object]:
    job = queue.job(number)
    return {"state": job.state, "result": job.result}


@app.errorhandler(NoSuchJob)
def missing(error: NoSuchJob) -> tuple[dict[str, object], int]:
    return {"error": str(error)}, 404


@app.errorhandler(QueueError)  # full, its disk is full, no daemon, or the answer was lost
def unavailable(error: QueueError) -> tuple[dict[str, object], int]:
    return {"error": str(error)}, 503
