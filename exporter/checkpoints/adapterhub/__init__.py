"""Checkpoints of the adapters library (AdapterHub)."""
