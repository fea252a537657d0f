"""Layers of YAML, variables and --set, read into typed settings."""
