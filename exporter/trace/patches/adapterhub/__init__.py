"""Patches for models of the adapters library (AdapterHub)."""
