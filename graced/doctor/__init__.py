"""Facts about how the daemon is run, and rules on what is wrong with them."""
