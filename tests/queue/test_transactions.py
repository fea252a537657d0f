"""Jobs that belong to a transaction of their user's, in PostgreSQL: with it, or not at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from postgresql_server import PostgreSQL

from graced import Queue

ROOT = Path(__file__).parents[2]
DJANGO = """
import json, os
from contextlib import suppress
import django
from django.conf import settings
from django.db import connection, transaction
from graced import Queue

url, schema = os.environ["URL"], os.environ["SCHEMA"]
settings.configure(DATABASES={"default": {
    "ENGINE": "django.db.backends.postgresql", "NAME": "postgres",
    "HOST": "127.0.0.1", "PORT": os.environ["PORT"], "USER": "graced",
}})
django.setup()
queue = Queue.open(url, pool="jobs")

class View(Exception): pass

def submit(name):
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {schema}.submit('jobs', %s)", [json.dumps(name)])
    transaction.on_commit(lambda: queue.submit(f"{name}, after the commit"))

with suppress(View), transaction.atomic():
    submit("rolled back")
    raise View
with transaction.atomic():
    submit("committed")
    with suppress(View), transaction.atomic():
        submit("rolled back to a savepoint")
        raise View
queue.close()
connection.close()
"""


def payloads(url: str) -> list[object]:
    with Queue.open(url, pool="jobs") as queue:
        return [job.payload for job in queue.jobs()]


def test_psql_submits_with_its_transaction(postgresql_server: PostgreSQL) -> None:
    if shutil.which("psql") is None:
        pytest.skip("no psql is installed")
    url = postgresql_server.made()
    schema = url.partition("schema=")[2]

    def script(name: str, end: str) -> str:
        return f"BEGIN; SELECT {schema}.submit('jobs', '\"{name}\"'); {end};\n"

    words = ["psql", "-XqAt", "-h", "127.0.0.1", "-p", str(postgresql_server.port)]
    result = subprocess.run(
        [*words, "-U", "graced", "-v", "ON_ERROR_STOP=1", "postgres"],
        input=script("rolled back", "ROLLBACK") + script("committed", "COMMIT"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    first, second = map(int, result.stdout.split())
    assert first < second
    assert payloads(url) == ["committed"]


def test_django_submits_with_its_transaction(postgresql_server: PostgreSQL) -> None:
    django = pytest.importorskip("django")
    pytest.importorskip("psycopg", minversion="3.1.8")  # Django refuses older ones
    if django.VERSION < (4, 2):
        pytest.skip("this Django has no backend for psycopg 3")
    url = postgresql_server.made()
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "URL": url,
        "SCHEMA": url.partition("schema=")[2],
        "PORT": str(postgresql_server.port),
    }
    line = [sys.executable, "-c", DJANGO]
    result = subprocess.run(
        line, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert payloads(url) == ["committed", "committed, after the commit"]
