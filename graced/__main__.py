"""`python -m graced`: the same as the command `graced`."""

from __future__ import annotations

import sys

from graced.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
