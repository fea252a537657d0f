"""A queue in the hands of a command or an application: where it is, and graced.Queue."""
