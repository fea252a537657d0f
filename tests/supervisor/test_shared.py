"""What a main process has in common with its children, and the zygotes that it forks ahead."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from graced.core.actions import StartZygote
from graced.log.logger import Log
from graced.settings import Pool, Settings
from graced.supervisor.shared import SharedResources, fork_ahead


def shared(folder: Path) -> SharedResources:
    return SharedResources(Settings(pools={}), Log(), f"{folder}/run", f"{folder}/state")


def test_a_worker_reads_where_its_queue_is(tmp_path: Path) -> None:
    made = shared(tmp_path)
    found = made.queue_address(Pool("mail"))
    assert found.daemon_id == made.daemon_id
    assert found.socket == f"{tmp_path}/run/queue-mail.sock"
    assert found.file == f"{tmp_path}/state/mail.db"


def test_a_queue_s_file_is_its_url_s(tmp_path: Path) -> None:
    made = shared(tmp_path)
    relative = made.queue_address(Pool("mail", queue="sqlite:///post.db"))
    assert relative.file == f"{tmp_path}/state/post.db"
    assert made.queue_address(Pool("mail", queue="sqlite:////var/post.db")).file == "/var/post.db"


def test_a_zygote_that_cannot_be_forked_ahead_is_left_for_later(tmp_path: Path) -> None:
    made = shared(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))  # no descriptor is left
    try:
        assert fork_ahead([StartZygote(1, Pool("mail"), 1)], made, None, 60) == {}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
