"""Trains the adapters of the bundled example: `python -m training`."""
