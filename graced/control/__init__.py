"""The control socket, both ends: what commands ask of the main process."""
