"""Training of the adapters and the fusion of the bundled example: `python -m training`."""
