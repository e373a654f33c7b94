"""Live models of the adapters library (AdapterHub)."""
