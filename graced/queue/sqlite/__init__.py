"""The embedded engine: a queue in one file, which one process writes."""
