"""All decisions of the main process, without a process, a clock or a file of their own."""
