"""Workers that work, hang, and fail."""

import os
import signal
import time

from say import say
from work import Idle


class Rounds(Idle):
    """Works in rounds of so many seconds."""

    def step(self) -> None:
        say(b"begin")
        time.sleep(self.options["seconds"])
        say(b"end")


class Deaf(Idle):
    """Hangs with all signals blocked, but does one round before."""

    def step(self) -> None:
        self.rounds += 1
        if self.rounds > 1:
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            say(b"deaf")
            while True:
                time.sleep(3600)


class ExitsInStep(Idle):
    """Is ready, and gone."""

    def step(self) -> None:
        os._exit(1)


class RaisesInSetup(Idle):
    """Never becomes ready."""

    def setup(self) -> None:
        say(b"ready")
        raise RuntimeError("no database at db.example:5432")
