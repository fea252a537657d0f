"""Jobs: what an engine has to be, the keeper before it, and the ends of workers and clients."""
