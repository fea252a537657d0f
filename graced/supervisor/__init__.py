"""The main process: its loop, and what it performs. What is to be done core/ decides."""
