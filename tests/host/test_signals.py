"""What signals find in a main process that is on its way out."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Objects of a module are destroyed after the interpreter has taken all handlers away.
LATE = """
import os, sys
from graced.host import signals

class Late:
    def __del__(self):
        os.kill(os.getpid(), {number})

signals.install()
late = Late()
signals.leave()
sys.exit(1)
"""


@pytest.mark.parametrize("number", [1, 2, 15])
def test_a_signal_at_the_very_end_changes_no_exit_status(number: int) -> None:
    code = LATE.format(number=number)
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == 1
