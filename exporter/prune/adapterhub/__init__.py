"""Fusions of the adapters library (AdapterHub)."""
