"""The worker that graced runs in most benchmarks."""

from say import say

from graced import Worker


class Idle(Worker):
    """Completes one round, then waits for ever."""

    rounds = 0

    def setup(self) -> None:
        say(b"ready")

    def step(self) -> None:
        self.rounds += 1
        if self.rounds == 2:
            say(b"idle")
        if self.rounds > 1:
            self.wait(3600)

    def teardown(self) -> None:
        say(b"leaving")
