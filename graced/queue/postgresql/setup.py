"""What `graced queue init` does to a PostgreSQL: it makes tables and functions, or renews them."""

from __future__ import annotations

import os

from graced.queue.postgresql.address import check_url
from graced.queue.postgresql.connection import check_version, client_library
from graced.queue.protocol import StorageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.queue.servers.url import ServerURL

FILE = os.path.join(os.path.dirname(__file__), "schema.sql")
LOCK = 0x67726364  # "grcd": two who make the tables at once wait for each other


def script(url: str) -> str:
    """Return all that is to be run, as psql understands it."""
    from graced.queue.postgresql.link import quoted

    schema = quoted(check_url(url).schema)
    with open(FILE, encoding="utf-8") as file:
        body = file.read()
    return (
        "BEGIN;\n"
        "SET LOCAL client_min_messages = warning;\n"
        f"SELECT pg_advisory_xact_lock({LOCK});\n"
        f"CREATE SCHEMA IF NOT EXISTS {schema};\n"
        f"SET LOCAL search_path = {schema}, pg_temp;\n\n"
        f"{body}\nCOMMIT;\n"
    )


def make(url: str) -> str:
    """Make the tables, or bring them up to date; return what they are in, as people may see it.

    Raises StorageError, ClientMissing.
    """
    psycopg = client_library()
    found: ServerURL = check_url(url)
    try:
        with psycopg.connect(found.library, autocommit=True) as connection:
            check_version(connection.info.server_version, found)
            connection.execute(script(url))
    except psycopg.Error as error:
        words = found.scrub(str(error).strip().splitlines()[0])
        raise StorageError(f"{found.shown}: {words}") from None
    return f"{found.shown}, schema {found.schema}"
