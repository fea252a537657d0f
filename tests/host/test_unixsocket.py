"""Names of Unix sockets that are given away, in folders whose owner plays tricks."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from graced.host import unixsocket


def test_a_name_has_its_mode_from_the_start(tmp_path: Path) -> None:
    """No chmod(2), which follows links, comes after it."""
    old = os.umask(0)
    with socket.socket(socket.AF_UNIX) as sock:
        unixsocket.bind(sock, str(tmp_path / "s"), 0o620)
    os.umask(old)
    assert stat.S_IMODE(os.stat(tmp_path / "s").st_mode) == 0o620
