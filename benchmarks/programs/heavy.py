"""A worker over a large import."""

import table  # noqa: F401
from work import Idle


class Heavy(Idle):
    """Idle, but with much in memory."""
