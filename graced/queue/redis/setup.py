"""What `graced queue init` does to a Redis: it loads our function, or renews it."""

from __future__ import annotations

import os

from graced import program
from graced.queue.redis.address import check_url
from graced.queue.redis.connection import Connection
from graced.queue.redis.link import CALL_LIMIT, FUNCTION

FILE = os.path.join(os.path.dirname(__file__), "functions.lua")


def script(url: str) -> str:
    """Return what is to be run, as `redis-cli -x FUNCTION LOAD REPLACE` takes it."""
    check_url(url)
    with open(FILE, encoding="utf-8") as file:
        return file.read().replace("@LIBRARY@", FUNCTION).replace("@FUNCTION@", FUNCTION)


def make(url: str) -> str:
    """Load the function; return where it is, as people may see it. StorageError, ClientMissing."""
    found = check_url(url)
    connection = Connection(found, f"{program.name} queue init", CALL_LIMIT)
    try:
        connection.run("FUNCTION", "LOAD", "REPLACE", script(url))
    finally:
        connection.close()
    return f"{found.shown}, function {FUNCTION}"
