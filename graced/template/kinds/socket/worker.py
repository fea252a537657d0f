"""Tells the time to whoever connects, as RFC 867 has it."""

import socket
from datetime import UTC, datetime
from typing import Any

from graced import SocketWorker


class Daytime(SocketWorker):
    """All workers of the pool wait at the same sockets; one of them gets the connection."""

    def handle(self, connection: socket.socket, address: Any) -> None:
        """Serve one connection, which is closed afterwards. A stop waits for it."""
        connection.settimeout(10)  # for a client that takes nothing
        connection.sendall(f"{datetime.now(UTC):%A, %B %d, %Y %H:%M:%S}-UTC\r\n".encode())
        self.log.info("told %s the time", address)
