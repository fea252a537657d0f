"""The log: its levels, its formats, and the sinks that its lines go to."""
