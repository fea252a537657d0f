"""The example with OpenTelemetry's own SDK: one trace from who submits to who handles."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_harness import ROOT, Daemon

pytest.importorskip("opentelemetry.sdk")

WORKER = """
import json
import sys

sys.path.insert(0, {examples!r})
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

provider = TracerProvider()
spans = open({spans!r}, "a")
exporter = ConsoleSpanExporter(out=spans, formatter=lambda span: span.to_json(None) + "\\n")
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
from traced import Traced, submit
"""


def test_a_job_belongs_to_the_trace_that_submitted_it(daemon: Daemon) -> None:
    handled, submitted = daemon.home / "handled", daemon.home / "submitted"
    examples = str(ROOT / "examples")
    daemon.module("with_sdk", WORKER.format(examples=examples, spans=str(handled)))
    pool = {"worker": "with_sdk:Traced", "path": [str(daemon.home)]}
    daemon.configure({"traced": pool}).start().ready()
    script = daemon.home / "ask.py"
    script.write_text(
        WORKER.format(examples=examples, spans=str(submitted))
        + "from graced import Queue\n"
        + f"with Queue.open({str(daemon.config)!r}, pool='traced') as queue:\n"
        + f"    number = submit(queue, {str(script)!r})\n"
        + "    print(queue.wait(number, timeout=60))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        env=daemon.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == f"{script.stat().st_size}\n", done.stderr
    asked, answer = span(submitted), daemon.until(lambda: span(handled))
    assert asked["context"]["trace_id"] == answer["context"]["trace_id"]
    assert answer["parent_id"] == asked["context"]["span_id"]
    assert asked["attributes"]["messaging.message.id"] == 1
    assert answer["attributes"] == {"messaging.message.id": 1, "graced.attempt": 1}


def span(file: Path) -> dict[str, dict[str, object]]:
    """Return the span that is written in a file, or nothing."""
    text = file.read_text() if file.exists() else ""
    return dict(json.loads(text)) if text.endswith("\n") else {}
