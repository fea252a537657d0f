"""Idle workers under huey, one process each."""

import os

from huey import SqliteHuey
from say import say

huey = SqliteHuey(filename=os.environ["HOME"] + "/huey.db")


@huey.on_startup()
def ready() -> None:
    say(b"ready")
