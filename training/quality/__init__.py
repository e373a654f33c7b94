"""Adapters of a 12-layer base model, trained in the ways that the AdapterDrop paper compares (arXiv 2010.11918, section 3)."""
