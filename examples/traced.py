"""Jobs that belong to the trace in which they were submitted: OpenTelemetry over the queue.

    pools:
      traced:
        worker: traced:Traced
        path: [examples]

Whoever submits puts the context of its span into the payload, as `traceparent` of W3C Trace Context
is put into a header; the worker makes its span a child of that one, wherever and whenever it runs.
"""

from __future__ import annotations

import os
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind

from graced import Job, JobWorker, Queue

TRACER = trace.get_tracer("traced")


def submit(queue: Queue, path: str) -> int:
    """Submit a job about a file from within a span; return its number."""
    with TRACER.start_as_current_span("submit", kind=SpanKind.PRODUCER) as span:
        payload: dict[str, Any] = {"path": path}
        propagate.inject(payload)  # traceparent, and tracestate if there is one
        number = queue.submit(payload)
        span.set_attribute("messaging.message.id", number)
        return number


class Traced(JobWorker):
    """Tells how large a file is, in a span of the trace that has asked for it."""

    def handle(self, job: Job) -> int:
        payload: dict[str, Any] = job.payload
        with TRACER.start_as_current_span(
            "handle", context=propagate.extract(payload), kind=SpanKind.CONSUMER
        ) as span:
            span.set_attribute("messaging.message.id", job.id)
            span.set_attribute("graced.attempt", job.attempt)
            return os.stat(payload["path"]).st_size
