"""my-app: a daemon of workers."""

__version__ = "0.1.0"
