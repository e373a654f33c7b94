"""The command lines: python -m exporter, and its commands."""
