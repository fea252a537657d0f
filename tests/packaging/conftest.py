"""What tests of packages share: the machines of tests/systemd."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "systemd"))
